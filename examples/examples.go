// Package examples has pipelines that exercise every action at every level where it is allowed. README.md says which is where.
package examples

import "embed"

// Files are the pipelines, by file name.
//
//go:embed *.yaml
var Files embed.FS
