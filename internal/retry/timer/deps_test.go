package timer

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

// TestImports holds the package to its imports. It knows waits, not what they are for.
func TestImports(t *testing.T) {
	deps.Module(t,
		"github.com/recourse-dev/recourse",
		"github.com/recourse-dev/recourse/internal/puback",
	)
}
