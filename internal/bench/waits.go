package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// publishRate is how many failures per second are published while waits are set up; they come due half as long again after that, and
// setUpWithin later. Where a machine needs longer to record and arm them, nothing is measured.
const (
	publishRate = 2000
	setUpWithin = 3 * time.Second
)

// waits measures how late retries come: pending ones that come due one after another, then half as many that come due within a second.
func (b *bench) waits(ctx context.Context) error {
	if b.Waits == 0 {
		return nil
	}
	p, err := b.start(ctx, theWorker)
	if err != nil {
		return err
	}
	w := &Waits{Pending: b.Waits, Over: recourse.Duration(b.Spread)}
	b.result.Waits = w
	defer func() { _, _ = p.stop() }()
	if w.Spread, err = b.late(ctx, b.Waits, b.Spread); err != nil {
		return err
	}
	b.say("%d waits due over %v: late by p50 %v, p99 %v, at most %v", b.Waits, b.Spread, w.Spread.P50, w.Spread.P99, w.Spread.Max)
	if w.Burst, err = b.late(ctx, b.Waits/2, time.Second); err != nil {
		return err
	}
	b.say("%d waits due within 1s: late by p50 %v, p99 %v, at most %v", b.Waits/2, w.Burst.P50, w.Burst.P99, w.Burst.Max)
	return nil
}

// late has n retries come due evenly over a while, and returns by how much each command came later than its record says. All are
// pending before the first is due.
func (b *bench) late(ctx context.Context, n int, over time.Duration) (Quantiles, error) {
	arrived, err := b.follow(ctx, recourse.Filter(recourse.FamilyCommand), func(msg jetstream.Msg) bool { return msg.Headers().Get(recourse.HeaderEnds) != "" })
	if err != nil {
		return Quantiles{}, err
	}
	defer arrived.stop()
	failures := b.load.First(b.run(), n)
	name := b.run()
	first := time.Now().Add(time.Duration(n)*time.Second/publishRate*3/2 + setUpWithin)
	before, err := b.lastSequence(ctx)
	if err != nil {
		return Quantiles{}, err
	}
	const chunk = 500
	tick := time.NewTicker(chunk * time.Second / publishRate)
	defer tick.Stop()
	for i := 0; i < n; i += chunk {
		part := failures[i:min(i+chunk, n)]
		for j, f := range part {
			f.Execution = fmt.Sprintf("%s-%d", name, i+j)
			f.Errors = recourse.ErrorTypesOf(recourse.Timeout) // a retry at once, but for what it asks for itself
			f.RetryAfter = recourse.Duration(time.Until(first.Add(over * time.Duration(i+j) / time.Duration(n))))
		}
		if err := publish(ctx, b.nc, part); err != nil {
			return Quantiles{}, err
		}
		<-tick.C
	}
	if err := b.settled(ctx); err != nil {
		return Quantiles{}, err
	}
	if time.Now().After(first) {
		return Quantiles{}, errors.New("the waits came due while they were set up: this machine needs fewer of them")
	}
	if err := arrived.wait(ctx, n, time.Until(first)+time.Minute); err != nil {
		return Quantiles{}, err
	}
	due, err := b.dueAt(ctx, before+1, n)
	if err != nil {
		return Quantiles{}, err
	}
	late := make([]time.Duration, 0, n)
	arrived.mu.Lock()
	defer arrived.mu.Unlock()
	for prefix, at := range due {
		by := arrived.seen[prefix].Sub(at)
		if by < 0 {
			return Quantiles{}, fmt.Errorf("%s was retried %v before it was due", prefix, -by)
		}
		late = append(late, by)
	}
	return quantiles(late), nil
}

// dueAt reads from the journal when n waits come due.
func (b *bench) dueAt(ctx context.Context, from uint64, n int) (map[string]time.Time, error) {
	due := make(map[string]time.Time, n)
	err := records(ctx, b.js, from, true, func(msg jetstream.Msg, prefix string) (bool, error) {
		text := msg.Headers().Get(recourse.HeaderDueAt)
		if text == "" {
			return true, nil
		}
		at, err := time.Parse(time.RFC3339Nano, text)
		due[prefix] = at
		return len(due) < n, err
	})
	if err != nil {
		return nil, fmt.Errorf("%d of %d waits are in the journal: %w", len(due), n, err)
	}
	return due, nil
}
