package telemetry

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

// TestImports holds the package to its imports: what it tells of, and the carrier of traces in headers.
func TestImports(t *testing.T) {
	deps.Module(t,
		"github.com/recourse-dev/recourse",
		"github.com/recourse-dev/recourse/client",
		"github.com/recourse-dev/recourse/internal/decide",
	)
}
