package publish

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// TestBatchRace: journals of several workers append to the same executions in batches, each of them every node. Chains do not fork, each
// node is there once, and each writer learns the sequence of its own records.
func TestBatchRace(t *testing.T) {
	const writers, nodes, chains = 3, 4, 80
	server, _, js, reader := provisioned(t, Config{})
	var all sync.WaitGroup
	var mu sync.Mutex
	mine := map[uint64]string{} // prefix by sequence, as the writers were told
	for range writers {
		nc, err := nats.Connect(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		journal, err := NewJournal(nc, Config{Batch: true})
		if err != nil {
			t.Fatal(err)
		}
		for n := range chains {
			r := ref
			r.Execution = fmt.Sprintf("ex%d", n)
			all.Go(func() {
				for node := range nodes {
					sequence, err := insist(t, journal, r, fmt.Sprintf("s/n%d", node))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if sequence != 0 {
						mine[sequence] = r.Prefix()
					}
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	stream, err := js.Stream(t.Context(), recourse.StreamJournal)
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().State.LastSeq; got != nodes*chains {
		t.Fatalf("%d records, want %d", got, nodes*chains)
	}
	last, seen, batched := map[string]uint64{}, map[string]bool{}, 0
	for sequence := uint64(1); sequence <= nodes*chains; sequence++ {
		rec, err := reader.Record(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		prefix := rec.Ref.Prefix()
		if rec.Previous != last[prefix] {
			t.Errorf("%s forks at %d: its predecessor is %d, the one before is %d", prefix, sequence, rec.Previous, last[prefix])
		}
		last[prefix] = sequence
		key := prefix + " " + rec.Input.Key
		if seen[key] || mine[sequence] != prefix {
			t.Errorf("%s at %d: there before (%v), its writer was told of %s", key, sequence, seen[key], mine[sequence])
		}
		seen[key] = true
		msg, err := stream.GetMsg(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		if msg.Header.Get("Nats-Batch-Id") != "" {
			batched++
		}
	}
	if batched == 0 {
		t.Error("nothing was stored in a batch")
	}
	t.Logf("%d of %d records in batches", batched, nodes*chains)
}

// insist appends the failure of a node until it is there, and returns its sequence, 0 where somebody else appended it.
func insist(t *testing.T, j *Journal, r recourse.Ref, node string) (uint64, error) {
	for {
		head, err := j.Load(t.Context(), r.Prefix())
		if err != nil {
			return 0, err
		}
		rec, body := decideOn(t, r, head, node, 1)
		if rec == nil {
			return 0, nil
		}
		sequence, err := j.Append(t.Context(), r.Prefix(), rec, body, nats.Header{})
		if err == nil || !errors.Is(err, decide.ErrConflict) && !errors.Is(err, decide.ErrUnknownOutcome) {
			return sequence, err
		}
	}
}
