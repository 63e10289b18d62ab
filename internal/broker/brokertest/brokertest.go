// Package brokertest starts servers for tests.
package brokertest

import (
	"context"
	"testing"
	"time"

	"github.com/recourse-dev/recourse/internal/broker"
)

// shutdownWithin is how long a server may take to end; it is not what it takes.
const shutdownWithin = time.Minute

// Start starts a server that syncs now and then, on a directory and a port of its own, and shuts it down when the test has ended.
func Start(t testing.TB) *broker.Embedded {
	t.Helper()
	return StartOn(t, t.TempDir(), broker.SyncInterval)
}

// StartOn is [Start] for a server on a given directory with a given mode.
func StartOn(t testing.TB, dir string, sync broker.SyncMode) *broker.Embedded {
	t.Helper()
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: dir, Listen: "127.0.0.1:0", Sync: sync})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownWithin)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return server
}
