package consumer_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/recourse-dev/recourse/internal/consumer"
	"github.com/recourse-dev/recourse/internal/telemetry"
)

// others handle each second execution, and hand over messages of their own.
type others struct {
	*feed
	mu      sync.Mutex
	theirs  map[string]bool // subjects
	claimed []string        // prefixes
	handed  []string        // subjects
}

func (o *others) Claim(prefix string, _ bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claimed = append(o.claimed, prefix)
}

func (o *others) HandOver(msg jetstream.Msg, prefix string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.theirs[msg.Subject()] {
		return false
	}
	o.handed = append(o.handed, msg.Subject())
	return true
}

// TestHandOver: what belongs to another worker is done with here, but for what that one handed over, and what was delivered before.
func TestHandOver(t *testing.T) {
	const n = 40
	own, theirs, again := feedOf(t, n), feedOf(t, n), feedOf(t, n)
	for _, m := range again.messages {
		m.delivered = 2
	}
	peers := &others{feed: theirs, theirs: map[string]bool{}}
	for i, m := range own.messages { // the same executions in all three
		peers.theirs[m.subject] = i%2 == 0
	}
	var journal instant
	c := consumer.New(&journal, &journal, &journal, telemetry.New(zap.NewNop()), consumer.Config{Peers: peers})
	if err := c.Run(t.Context(), t.Context(), own, again); err != nil {
		t.Fatal(err)
	}
	slices.Sort(peers.handed)
	if len(peers.handed) != n/2 || len(slices.Compact(peers.handed)) != n/2 {
		t.Errorf("%d handed over, want %d, each once: %q", len(peers.handed), n/2, peers.handed)
	}
	if own.settled.Load() != n/2 || theirs.settled.Load() != n || again.settled.Load() != n || journal.appended.Load() != n/2+n+n {
		t.Errorf("settled %d of its own, %d of others, %d delivered before, with %d records", own.settled.Load(), theirs.settled.Load(), again.settled.Load(), journal.appended.Load())
	}
	if len(peers.claimed) != 3*n {
		t.Errorf("%d claims, want %d", len(peers.claimed), 3*n)
	}
}
