package registry

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

// TestImports holds the package to its imports. It is where pipeline and bucket meet.
func TestImports(t *testing.T) {
	deps.Module(t,
		"github.com/recourse-dev/recourse",
		"github.com/recourse-dev/recourse/internal/decide",
		"github.com/recourse-dev/recourse/internal/pipeline",
	)
}
