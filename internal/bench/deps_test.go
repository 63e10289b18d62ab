package bench

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

// TestImports holds the package to its imports. The worker is a process of its own: nothing of it runs here.
func TestImports(t *testing.T) {
	deps.Module(t,
		"github.com/recourse-dev/recourse",
		"github.com/recourse-dev/recourse/client",
		"github.com/recourse-dev/recourse/internal/bench/workload",
		"github.com/recourse-dev/recourse/internal/broker",
	)
}
