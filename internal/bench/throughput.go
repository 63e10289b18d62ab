package bench

import (
	"context"
	"fmt"
	"slices"
)

// measure publishes failures and has a process of a kind handle them.
func (b *bench) measure(ctx context.Context, k kind, processes int) (drained, error) {
	if err := publish(ctx, b.nc, b.load.first(b.run(), b.Failures)); err != nil {
		return drained{}, err
	}
	return b.drain(ctx, k, b.Failures, processes)
}

// prefill fills the journal with what the bare loop appends, and finds out the size of a record.
func (b *bench) prefill(ctx context.Context) error {
	if err := b.sizeOfRecord(ctx); err != nil {
		return err
	}
	const most = 100_000 // at once
	for left := b.Prefill; left > 0; left -= most {
		b.say("filling the journal: %d messages are missing", left)
		if err := publish(ctx, b.nc, b.load.first(b.run(), min(left, most))); err != nil {
			return err
		}
		if _, err := b.drain(ctx, theBare, min(left, most), 1); err != nil {
			return err
		}
	}
	return nil
}

// sizeOfRecord has a worker record some failures, and takes the mean of what it wrote.
func (b *bench) sizeOfRecord(ctx context.Context) error {
	const few = 2000
	before, err := b.journal.Info(ctx)
	if err != nil {
		return err
	}
	b.size = bodySize
	if err := publish(ctx, b.nc, b.load.first(b.run(), few)); err != nil {
		return err
	}
	if _, err := b.drain(ctx, theWorker, few, 1); err != nil {
		return err
	}
	after, err := b.journal.Info(ctx)
	if err != nil {
		return err
	}
	last, err := b.journal.GetMsg(ctx, after.State.LastSeq)
	if err != nil {
		return err
	}
	// What the server counts has subject and headers, which the bare loop adds too.
	around := 0
	for key, values := range last.Header {
		around += len(key) + len(values[0]) + 4
	}
	b.size = int(after.State.Bytes-before.State.Bytes)/few - around - len(last.Subject)
	b.result.RecordBytes = b.size
	return nil
}

// throughput measures first failures: the bare loop, one worker, two workers, in turns.
func (b *bench) throughput(ctx context.Context) error {
	if b.Failures == 0 {
		return nil
	}
	t := &Throughput{}
	b.result.First = t
	for round := range b.Rounds {
		bare, err := b.measure(ctx, theBare, 1)
		if err != nil {
			return err
		}
		one, err := b.measure(ctx, theWorker, 1)
		if err != nil {
			return err
		}
		two, err := b.measure(ctx, theWorker, 2)
		if err != nil {
			return err
		}
		t.add(bare, one, b.Failures)
		b.result.Two = append(b.result.Two, two.perSecond/one.perSecond)
		b.say("round %d: first failures: bare %.0f/s, worker %.0f/s (%.2f), two workers %.0f/s (%.2f of one)", round+1,
			bare.perSecond, one.perSecond, one.perSecond/bare.perSecond, two.perSecond, two.perSecond/one.perSecond)
	}
	return nil
}

// following measures second failures, with retries among them, of executions that another worker has handled before: nothing of them is
// in memory.
func (b *bench) following(ctx context.Context) error {
	if b.Failures == 0 {
		return nil
	}
	t := &Throughput{}
	b.result.Second = t
	n := b.Failures / 2
	for round := range b.Rounds {
		var seen [2]drained
		for i, k := range []kind{theBare, theWorker} {
			before, err := b.lastSequence(ctx)
			if err != nil {
				return err
			}
			first := b.load.first(b.run(), n)
			if err := publish(ctx, b.nc, first); err != nil {
				return err
			}
			if _, err := b.drain(ctx, k, n, 1); err != nil {
				return err
			}
			second := b.load.second(first)
			b.load.Shuffle(n, func(i, j int) { second[i], second[j] = second[j], second[i] })
			if err := publish(ctx, b.nc, second); err != nil {
				return err
			}
			b.since = before + 1 // what the bare loop may know of
			if seen[i], err = b.drain(ctx, k, n, 1); err != nil {
				return err
			}
			b.since = 0
		}
		t.add(seen[0], seen[1], n)
		b.say("round %d: second failures: bare %.0f/s, worker %.0f/s (%.2f)", round+1, seen[0].perSecond, seen[1].perSecond, seen[1].perSecond/seen[0].perSecond)
	}
	return nil
}

// add notes a round.
func (t *Throughput) add(bare, worker drained, n int) {
	t.Bare = append(t.Bare, bare.perSecond)
	t.Worker = append(t.Worker, worker.perSecond)
	t.Ratio = append(t.Ratio, worker.perSecond/bare.perSecond)
	per10k := func(d drained) float64 { return d.usage.cpu.Seconds() * 10_000 / float64(n) }
	t.BareCPU = append(t.BareCPU, per10k(bare))
	t.WorkerCPU = append(t.WorkerCPU, per10k(worker))
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
