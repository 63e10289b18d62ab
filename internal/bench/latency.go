package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/bench/workload"
)

// arrivals notes when records arrive at whoever reads the journal, as an orchestrator does.
type arrivals struct {
	mu   sync.Mutex
	seen map[string]time.Time // by subject prefix: the first with what is looked for
	stop func()
}

// follow handles records from now on as an orchestrator does: a pull consumer with a filter, which acknowledges each. Of each execution it
// notes when the first record arrived that wanted lets pass.
func (b *bench) follow(ctx context.Context, filter string, wanted func(jetstream.Msg) bool) (*arrivals, error) {
	consumer, err := b.journal.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: filter, DeliverPolicy: jetstream.DeliverNewPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		MaxAckPending: -1, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	a := &arrivals{seen: make(map[string]time.Time)}
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		now := time.Now()
		_ = msg.Ack() // a lost one comes again, and only the first time counts
		if !wanted(msg) {
			return
		}
		if subject, err := recourse.ParseSubject(msg.Subject()); err == nil {
			a.mu.Lock()
			if _, known := a.seen[subject.Prefix]; !known {
				a.seen[subject.Prefix] = now
			}
			a.mu.Unlock()
		}
	})
	if err != nil {
		return nil, err
	}
	a.stop = func() {
		consuming.Stop()
		_ = b.journal.DeleteConsumer(context.WithoutCancel(ctx), consumer.CachedInfo().Name) // else it goes after a minute
	}
	return a, nil
}

// wait waits until n executions have been seen, as long as there are more from time to time.
func (a *arrivals) wait(ctx context.Context, n int, patience time.Duration) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	before, since := 0, time.Now()
	for {
		a.mu.Lock()
		got := len(a.seen)
		a.mu.Unlock()
		switch {
		case got >= n:
			return nil
		case got > before:
			before, since = got, time.Now()
		case time.Since(since) > patience:
			return fmt.Errorf("%d of %d arrived, and no more for %v", got, n, patience)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// latency measures from a failure being stored to its command being delivered, at a rate that nobody is busy with.
//
// Stored is when its publisher reads the acknowledgement, which the server sends once the failure is stored, and with sync always on disk.
// Delivered is when the orchestrator's handler is called. Both are read off the clock of this process, which besides does nothing: the
// failures are encoded before, and come one at a time at equal distances. Each is the first of its execution and has a command for an
// answer at once. Each pipeline was used before.
func (b *bench) latency(ctx context.Context) error {
	if b.Rate == 0 || b.Light == 0 {
		return nil
	}
	l := &Latency{Rate: b.Rate}
	b.result.Latency = l
	for range b.Rounds {
		bare, err := b.lightly(ctx, theBare)
		if err != nil {
			return err
		}
		worker, err := b.lightly(ctx, theWorker)
		if err != nil {
			return err
		}
		l.Bare, l.Worker = append(l.Bare, bare), append(l.Worker, worker)
		l.Ratio = append(l.Ratio, float64(worker.P99)/float64(bare.P99))
		b.say("latency at %d/s: bare p50 %v, p99 %v, p99.9 %v; worker p50 %v, p99 %v, p99.9 %v (p99 %.2f)", b.Rate,
			bare.P50, bare.P99, bare.P999, worker.P50, worker.P99, worker.P999, l.Ratio[len(l.Ratio)-1])
	}
	return nil
}

func (b *bench) lightly(ctx context.Context, k kind) (q Quantiles, err error) {
	p, err := b.start(ctx, k)
	if err != nil {
		return q, err
	}
	defer func() { _, stopped := p.stop(); err = errors.Join(err, stopped) }()
	// A pipeline is compiled when it is first needed: the first failure of each is not what is measured here.
	if err := publish(ctx, b.nc, b.load.Each(b.run())); err != nil {
		return q, err
	}
	if err := b.settled(ctx); err != nil {
		return q, err
	}
	arrived, err := b.follow(ctx, recourse.Filter(recourse.FamilyCommand), func(jetstream.Msg) bool { return true })
	if err != nil {
		return q, err
	}
	defer arrived.stop()
	n := max(int(float64(b.Rate)*b.Light.Seconds()), 1)
	failures := b.load.commanded(b.run(), n)
	bodies := make([][]byte, n)
	for i, f := range failures {
		if bodies[i], err = recourse.Encode(f); err != nil {
			return q, err
		}
	}
	runtime.GC() // now, and not while it measures
	stored := make([]time.Time, n)
	tick := time.NewTicker(time.Second / time.Duration(b.Rate))
	defer tick.Stop()
	for i, f := range failures {
		<-tick.C // one that was missed is left out: no two come at once
		if _, err := b.js.Publish(ctx, f.Prefix()+"."+string(recourse.FamilyFailure)+"."+workload.Delegate, bodies[i]); err != nil {
			return q, err
		}
		stored[i] = time.Now()
	}
	if err := arrived.wait(ctx, n, time.Minute); err != nil {
		return q, err
	}
	arrived.mu.Lock()
	defer arrived.mu.Unlock()
	took := make([]time.Duration, n)
	for i, f := range failures {
		took[i] = max(arrived.seen[f.Prefix()].Sub(stored[i]), 0) // a record may be there before the publisher reads of its failure
	}
	return quantiles(took), nil
}

// Quantiles of some durations.
type Quantiles struct {
	P50  recourse.Duration `json:"p50"`
	P99  recourse.Duration `json:"p99"`
	P999 recourse.Duration `json:"p999"`
	Max  recourse.Duration `json:"max"`
}

// quantiles sorts d.
func quantiles(d []time.Duration) Quantiles {
	slices.Sort(d)
	at := func(per float64) recourse.Duration {
		return recourse.Duration(d[min(int(per*float64(len(d))), len(d)-1)])
	}
	return Quantiles{P50: at(0.5), P99: at(0.99), P999: at(0.999), Max: at(1)}
}
