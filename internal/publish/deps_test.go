package publish

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

// TestImports holds the package to its imports. What decides and what handles inputs meets this package in cmd/worker only.
func TestImports(t *testing.T) {
	deps.Module(t,
		"github.com/recourse-dev/recourse",
		"github.com/recourse-dev/recourse/internal/batch",
		"github.com/recourse-dev/recourse/internal/decide",
		"github.com/recourse-dev/recourse/internal/puback",
	)
}
