package consumer

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

// TestImports holds the package to its imports. Journal, timers and pipelines come through interfaces.
func TestImports(t *testing.T) {
	deps.Module(t,
		"github.com/recourse-dev/recourse",
		"github.com/recourse-dev/recourse/internal/decide",
		"github.com/recourse-dev/recourse/internal/telemetry",
	)
}
