package bench

import (
	"context"
	"fmt"
	"slices"

	"github.com/recourse-dev/recourse"
)

// measure publishes failures and has processes of a kind handle them.
func (b *bench) measure(ctx context.Context, k kind, failures []*recourse.Failure, processes int) (drained, error) {
	if err := publish(ctx, b.nc, failures); err != nil {
		return drained{}, err
	}
	return b.drain(ctx, k, len(failures), processes)
}

// prefill fills the journal with what the bare loop appends, and finds out the size of a record.
func (b *bench) prefill(ctx context.Context) (err error) {
	if b.shape, err = b.shapeOf(ctx, nil, b.load.First(b.run(), few)); err != nil {
		return err
	}
	b.result.RecordBytes = b.shape.Size
	return b.fill(ctx, b.Prefill, b.load.First)
}

// fill has the bare loop append a number of messages, for failures that are made so many at once.
func (b *bench) fill(ctx context.Context, n int, failures func(run string, n int) []*recourse.Failure) error {
	const most = 100_000
	for left := n; left > 0; left -= most {
		b.say("filling the journal: %d messages are missing", left)
		if _, err := b.measure(ctx, theBare, failures(b.run(), min(left, most)), 1); err != nil {
			return err
		}
	}
	return nil
}

// throughput measures first failures: the bare loop, one worker, two workers, in turns.
func (b *bench) throughput(ctx context.Context) error {
	if b.Failures == 0 {
		return nil
	}
	t := &Throughput{Shape: b.shape}
	b.result.First = t
	for round := range b.Rounds {
		first := func() []*recourse.Failure { return b.load.First(b.run(), b.Failures) }
		bare, err := b.measure(ctx, theBare, first(), 1)
		if err != nil {
			return err
		}
		one, err := b.measure(ctx, theWorker, first(), 1)
		if err != nil {
			return err
		}
		two, err := b.measure(ctx, theWorker, first(), 2)
		if err != nil {
			return err
		}
		t.add(bare, one)
		b.result.Two = append(b.result.Two, two.perSecond/one.perSecond)
		b.result.TwoConflicts = append(b.result.TwoConflicts, two.conflictShare())
		b.say("round %d: first failures: bare %.0f/s, worker %.0f/s (%.2f), two workers %.0f/s (%.2f of one, %.1f %% conflicts)", round+1,
			bare.perSecond, one.perSecond, one.perSecond/bare.perSecond, two.perSecond, two.perSecond/one.perSecond, 100*two.conflictShare())
	}
	return nil
}

// following measures second failures, with retries among them, of executions that another worker has handled before: nothing of them is
// in memory.
func (b *bench) following(ctx context.Context) error {
	if b.Failures == 0 {
		return nil
	}
	first := b.load.First(b.run(), few)
	shape, err := b.shapeOf(ctx, first, b.load.second(first))
	if err != nil {
		return err
	}
	b.shape = shape
	t := &Throughput{Shape: shape}
	b.result.Second = t
	n := b.Failures / 2
	for round := range b.Rounds {
		var seen [2]drained
		for i, k := range []kind{theBare, theWorker} {
			before, err := b.lastSequence(ctx)
			if err != nil {
				return err
			}
			first := b.load.First(b.run(), n)
			if _, err := b.measure(ctx, k, first, 1); err != nil {
				return err
			}
			second := b.load.second(first)
			b.load.Shuffle(n, func(i, j int) { second[i], second[j] = second[j], second[i] })
			b.since = before + 1 // what the bare loop may know of
			if seen[i], err = b.measure(ctx, k, second, 1); err != nil {
				return err
			}
			b.since = 0
		}
		t.add(seen[0], seen[1])
		b.say("round %d: second failures: bare %.0f/s, worker %.0f/s (%.2f)", round+1, seen[0].perSecond, seen[1].perSecond, seen[1].perSecond/seen[0].perSecond)
	}
	return nil
}

// add notes a round.
func (t *Throughput) add(bare, worker drained) {
	t.Bare = append(t.Bare, bare.perSecond)
	t.Worker = append(t.Worker, worker.perSecond)
	t.Ratio = append(t.Ratio, worker.perSecond/bare.perSecond)
	t.BareCPU, t.WorkerCPU = append(t.BareCPU, bare.per10k(bare.usage.cpu)), append(t.WorkerCPU, worker.per10k(worker.usage.cpu))
	if bare.serverKnown {
		t.ServerBareCPU, t.ServerWorkerCPU = append(t.ServerBareCPU, bare.per10k(bare.server)), append(t.ServerWorkerCPU, worker.per10k(worker.server))
	}
	t.WorkerRSS = max(t.WorkerRSS, worker.usage.rss)
	t.BareRSS = max(t.BareRSS, bare.usage.rss)
}

// spread is the least, the middle and the most of some numbers.
func spread(numbers []float64) (least, middle, most float64) {
	sorted := slices.Sorted(slices.Values(numbers))
	if len(sorted) == 0 {
		return 0, 0, 0
	}
	return sorted[0], sorted[len(sorted)/2], sorted[len(sorted)-1]
}

func spreadText(numbers []float64, format string) string {
	least, middle, most := spread(numbers)
	return fmt.Sprintf(format+" ("+format+" to "+format+")", middle, least, most)
}
