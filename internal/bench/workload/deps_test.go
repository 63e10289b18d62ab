package workload

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

// TestImports: it makes data, and knows no engine.
func TestImports(t *testing.T) {
	deps.Module(t, "github.com/recourse-dev/recourse")
}
