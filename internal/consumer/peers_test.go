package consumer_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/consumer"
	"github.com/recourse-dev/recourse/internal/telemetry"
)

// others handle each second execution, and hand over messages of their own.
type others struct {
	*feed
	mu      sync.Mutex
	theirs  map[string]bool // subjects
	claimed []string        // prefixes
	begun   []string        // prefixes
	handed  []string        // subjects
	away    bool
}

// heardWithin is how long it takes until the others have heard something.
const heardWithin = 20 * time.Millisecond

func (o *others) HeardWithin() time.Duration {
	if o.away {
		return 0
	}
	return heardWithin
}

func (o *others) Begin(prefix string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.begun = append(o.begun, prefix)
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
	if len(peers.claimed) != 3*n || len(peers.begun) != n/2+n+n {
		t.Errorf("%d claimed, %d begun; want %d, and those that were not handed over", len(peers.claimed), len(peers.begun), 3*n)
	}
}

// held is a journal that stores nothing before it is told to.
type held struct {
	instant
	waiting atomic.Int64
	store   chan struct{}
}

func (h *held) Append(ctx context.Context, prefix string, rec *recourse.Record, body []byte, header nats.Header) (uint64, error) {
	h.waiting.Add(1)
	<-h.store
	return h.instant.Append(ctx, prefix, rec, body, header)
}

// TestBacklogSettles: of a backlog that comes to two workers, only some is begun before each has heard what the other one claims; and all
// at once where there is no other.
func TestBacklogSettles(t *testing.T) {
	for _, away := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const n = 1000
			own := feedOf(t, n)
			peers := &others{feed: &feed{}, theirs: map[string]bool{}, away: away}
			journal := &held{store: make(chan struct{})}
			c := consumer.New(journal, journal, journal, telemetry.New(zap.NewNop()), consumer.Config{Peers: peers})
			ended := make(chan error)
			go func() { ended <- c.Run(t.Context(), t.Context(), own) }()
			synctest.Wait()
			if begun := journal.waiting.Load(); away && begun < n/2 || !away && begun != 256 {
				t.Errorf("alone: %t, %d begun at once", away, begun)
			}
			peers.mu.Lock()
			for _, m := range own.messages {
				peers.theirs[m.subject] = true
			}
			peers.mu.Unlock()
			time.Sleep(heardWithin)
			synctest.Wait()
			close(journal.store)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			begun := int(journal.waiting.Load())
			if !away && begun != 256 || len(peers.handed) != n-begun || int(own.settled.Load()) != begun {
				t.Errorf("alone: %t, %d begun, %d handed over, %d settled", away, begun, len(peers.handed), own.settled.Load())
			}
		})
	}
}

// TestRedeliveredBacklog: what was delivered before stays here, so nothing is to be heard of others first.
func TestRedeliveredBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		own := feedOf(t, n)
		for _, m := range own.messages {
			m.delivered = 2
		}
		journal := &held{store: make(chan struct{})}
		c := consumer.New(journal, journal, journal, telemetry.New(zap.NewNop()), consumer.Config{Peers: &others{feed: &feed{}}})
		ended := make(chan error)
		go func() { ended <- c.Run(t.Context(), t.Context(), own) }()
		synctest.Wait()
		if begun := journal.waiting.Load(); begun < n/2 {
			t.Errorf("%d begun at once", begun)
		}
		close(journal.store)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
