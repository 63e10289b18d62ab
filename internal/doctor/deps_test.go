package doctor

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

// TestImports holds the package to its imports.
func TestImports(t *testing.T) {
	deps.Outside(t,
		"github.com/nats-io/nats.go",
		"github.com/nats-io/nats.go/jetstream",
		"github.com/recourse-dev/recourse",
		"github.com/recourse-dev/recourse/client",
		"github.com/recourse-dev/recourse/internal/broker",
		"github.com/recourse-dev/recourse/internal/peers",
	)
}
