package verify

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

// TestImports holds the package to its imports. It must not look at streams as the workers do: neither consumer nor publish.
func TestImports(t *testing.T) {
	deps.Outside(t,
		"github.com/nats-io/nats.go", "github.com/nats-io/nats.go/jetstream",
		"github.com/recourse-dev/recourse", "github.com/recourse-dev/recourse/internal/broker", "github.com/recourse-dev/recourse/internal/decide",
		"github.com/recourse-dev/recourse/internal/pipeline", "github.com/recourse-dev/recourse/internal/retry",
	)
}
