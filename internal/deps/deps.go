// Package deps holds a package to the imports it may have. Each package calls it in a test of its own, from its own directory, so that a
// change of its files runs the test again; it is not for the program itself.
package deps

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/recourse-dev/recourse"

// Module fails the test where the package in the working directory imports a package of this module that is not allowed, or where one that
// is allowed is not imported. Tests may import what they need.
func Module(t *testing.T, allowed ...string) {
	t.Helper()
	check(t, allowed, func(path string) bool { return path == module || strings.HasPrefix(path, module+"/") })
}

// Outside is [Module] for all packages outside the standard library.
func Outside(t *testing.T, allowed ...string) {
	t.Helper()
	check(t, allowed, func(path string) bool {
		first, _, _ := strings.Cut(path, "/")
		return strings.Contains(first, ".")
	})
}

func check(t *testing.T, allowed []string, counts func(path string) bool) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !counts(path) {
				continue
			}
			used[path] = true
			if !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s, which is not among the allowed imports of this package", file, path)
			}
		}
	}
	for _, path := range allowed {
		if !used[path] {
			t.Errorf("%s is allowed, but nothing imports it", path)
		}
	}
}
