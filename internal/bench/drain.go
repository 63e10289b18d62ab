package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
)

// start starts a process of a kind.
func (b *bench) start(ctx context.Context, k kind) (*process, error) {
	return start(ctx, "bench", string(k), "--server", b.url, "--batches", b.batches(), "--size", strconv.Itoa(b.shape.Size),
		"--fresh", strconv.FormatFloat(b.shape.Fresh, 'f', 4, 64), "--since", strconv.FormatUint(b.since, 10))
}

// batches is the setting that a worker is told: it does not look at the streams here, so it cannot know by itself.
func (b *bench) batches() string {
	switch {
	case b.Batches != "auto":
		return b.Batches
	case b.Server == "" && b.Sync == broker.SyncAlways:
		return "on"
	}
	return "off"
}

// drained is one handling of failures that were there before.
type drained struct {
	n         int
	perSecond float64
	took      time.Duration // from the first record to the last, as far as it can be seen
	usage     usage
	server    time.Duration // processor time of the server
	// serverKnown says that the server was started here, so that its processor time can be seen.
	serverKnown bool
	conflicts   uint64    // appends that were decided again; of workers
	waves       []drained // one after another, where there are any
}

// per10k is processor seconds for 10,000 failures.
func (d drained) per10k(cpu time.Duration) float64 { return cpu.Seconds() * 10_000 / float64(d.n) }

// conflictShare is how many appends were decided again, for each failure.
func (d drained) conflictShare() float64 { return float64(d.conflicts) / float64(d.n) }

// drain starts processes for what is in the inbox, and stops them when all is recorded and acknowledged.
func (b *bench) drain(ctx context.Context, k kind, n, processes int) (drained, error) {
	before, err := b.lastSequence(ctx)
	if err != nil {
		return drained{}, err
	}
	return b.handled(ctx, k, processes, func([]*process) (drained, error) {
		if err := b.settled(ctx); err != nil {
			return drained{}, err
		}
		return b.rate(ctx, before, n)
	})
}

// drainWaves has processes handle waves of failures, each of them once the one before is recorded and acknowledged. Deliveries are held
// while a wave is published, so that what is measured is a backlog, and the time in between does not count.
func (b *bench) drainWaves(ctx context.Context, k kind, waves [][]*recourse.Failure, processes int) (drained, error) {
	return b.handled(ctx, k, processes, func(running []*process) (all drained, err error) {
		for _, wave := range waves {
			if _, err := b.inbox.PauseConsumer(ctx, broker.ConsumerInbox, time.Now().Add(time.Hour)); err != nil {
				return all, err
			}
			last := len(wave) - 1
			if err := publish(ctx, b.nc, wave[:last]); err != nil {
				return all, err
			}
			before, err := b.lastSequence(ctx)
			if err != nil {
				return all, err
			}
			if _, err := b.inbox.ResumeConsumer(ctx, broker.ConsumerInbox); err != nil {
				return all, err
			}
			workers, server := timeOf(running...), timeOf(b.server)
			// A consumer may sleep on after that until a message is stored (seen with nats-server 2.15.2).
			if err := publish(ctx, b.nc, wave[last:]); err != nil {
				return all, err
			}
			if err := b.settled(ctx); err != nil {
				return all, err
			}
			d, err := b.rate(ctx, before, len(wave))
			if err != nil {
				return all, err
			}
			d.usage.cpu, d.server = timeOf(running...)-workers, timeOf(b.server)-server
			all.n, all.took, all.waves = all.n+d.n, all.took+d.took, append(all.waves, d)
		}
		all.perSecond = float64(all.n-len(waves)) / all.took.Seconds()
		return all, nil
	})
}

// handled starts processes, has them do something, stops them, and adds what they took.
func (b *bench) handled(ctx context.Context, k kind, processes int, do func([]*process) (drained, error)) (d drained, err error) {
	var running []*process
	var used usage
	var conflicts uint64
	server := timeOf(b.server)
	defer func() {
		for _, p := range running {
			again, unread := p.conflicts(ctx)
			u, stopped := p.stop()
			conflicts += again
			used.cpu += u.cpu
			used.rss = max(used.rss, u.rss)
			err = errors.Join(err, unread, stopped)
		}
		d.usage, d.conflicts = used, conflicts
		d.server, d.serverKnown = timeOf(b.server)-server, b.server != nil && seesProcessorTime
	}()
	for range processes {
		p, err := b.start(ctx, k)
		if err != nil {
			return d, err
		}
		running = append(running, p)
	}
	return do(running)
}

// rate looks at the records after a sequence, of which there must be n.
func (b *bench) rate(ctx context.Context, before uint64, n int) (d drained, err error) {
	last, err := b.lastSequence(ctx)
	if err != nil {
		return d, err
	}
	if got := int(last - before); got != n {
		return d, fmt.Errorf("%d failures made %d records", n, got)
	}
	first, err := b.journal.GetMsg(ctx, before+1)
	if err != nil {
		return d, err
	}
	final, err := b.journal.GetMsg(ctx, last)
	if err != nil {
		return d, err
	}
	d.n, d.took = n, final.Time.Sub(first.Time)
	d.perSecond = float64(n-1) / d.took.Seconds()
	return d, nil
}

func (b *bench) lastSequence(ctx context.Context) (uint64, error) {
	info, err := b.journal.Info(ctx)
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}

// look is how often the broker is asked how far things are.
const look = 100 * time.Millisecond

// settled waits until nothing in the inbox is undecided.
func (b *bench) settled(ctx context.Context) error {
	consumer, err := b.inbox.Consumer(ctx, broker.ConsumerInbox)
	if err != nil {
		return err
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	var moved uint64
	since := time.Now()
	for {
		info, err := consumer.Info(ctx)
		switch {
		case err != nil:
			return err
		case info.NumPending == 0 && info.NumAckPending == 0:
			return nil
		case info.AckFloor.Stream != moved:
			moved, since = info.AckFloor.Stream, time.Now()
		case time.Since(since) > time.Minute:
			return fmt.Errorf("nothing was handled for a minute, %d failures are left", info.NumPending+uint64(info.NumAckPending))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
