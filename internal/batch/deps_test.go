package batch

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

// TestImports holds the package to its imports. It publishes what others make.
func TestImports(t *testing.T) {
	deps.Module(t, "github.com/recourse-dev/recourse/internal/puback")
}
