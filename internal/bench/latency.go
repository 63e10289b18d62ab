package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// arrivals notes when records arrive at whoever reads the journal, as an orchestrator does.
type arrivals struct {
	mu   sync.Mutex
	seen map[string]time.Time // by subject prefix: the first with what is looked for
	stop func()
}

// follow reads the journal from now on. Of each execution it notes the first record that wanted lets pass.
func (b *bench) follow(ctx context.Context, wanted func(jetstream.Msg) bool) (*arrivals, error) {
	last, err := b.lastSequence(ctx)
	if err != nil {
		return nil, err
	}
	consumer, err := b.js.OrderedConsumer(ctx, recourse.StreamJournal, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: last + 1,
	})
	if err != nil {
		return nil, err
	}
	a := &arrivals{seen: make(map[string]time.Time)}
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		now := time.Now()
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
	a.stop = consuming.Stop
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

// latency measures from a failure being stored to its record being delivered, at a rate that nobody is busy with. Stored is when its
// publisher was told so; both clocks are this process's. Each pipeline was used before.
func (b *bench) latency(ctx context.Context) error {
	if b.Rate == 0 || b.Light == 0 {
		return nil
	}
	b.result.Latency = &Latency{Rate: b.Rate}
	for range b.Rounds {
		for _, k := range []kind{theBare, theWorker} {
			took, err := b.lightly(ctx, k)
			if err != nil {
				return err
			}
			q := quantiles(took)
			if k == theBare {
				b.result.Latency.Bare = append(b.result.Latency.Bare, q)
			} else {
				b.result.Latency.Worker = append(b.result.Latency.Worker, q)
			}
			b.say("latency at %d/s, %s: p50 %v, p99 %v, p99.9 %v", b.Rate, k, q.P50, q.P99, q.P999)
		}
	}
	return nil
}

func (b *bench) lightly(ctx context.Context, k kind) (took []time.Duration, err error) {
	p, err := b.start(ctx, k)
	if err != nil {
		return nil, err
	}
	defer func() { _, stopped := p.stop(); err = errors.Join(err, stopped) }()
	// A pipeline is compiled when it is first needed: the first failure of each is not what is measured here.
	if err := publish(ctx, b.nc, b.load.each(b.run())); err != nil {
		return nil, err
	}
	if err := b.settled(ctx); err != nil {
		return nil, err
	}
	arrived, err := b.follow(ctx, func(jetstream.Msg) bool { return true })
	if err != nil {
		return nil, err
	}
	defer arrived.stop()
	n := b.Rate * int(b.Light/time.Second)
	failures := b.load.first(b.run(), n)
	name := b.run()
	for i, f := range failures {
		f.Execution = fmt.Sprintf("%s-%d", name, i) // one each
	}
	stored := make(map[string]time.Time, n)
	tick := time.NewTicker(time.Second / time.Duration(b.Rate))
	defer tick.Stop()
	for _, f := range failures {
		body, err := recourse.Encode(f)
		if err != nil {
			return nil, err
		}
		<-tick.C
		if _, err := b.js.Publish(ctx, f.Prefix()+"."+string(recourse.FamilyFailure)+"."+delegate, body); err != nil {
			return nil, err
		}
		stored[f.Prefix()] = time.Now()
	}
	if err := arrived.wait(ctx, n, time.Minute); err != nil {
		return nil, err
	}
	arrived.mu.Lock()
	defer arrived.mu.Unlock()
	for prefix, at := range stored {
		took = append(took, max(arrived.seen[prefix].Sub(at), 0)) // a record may be there before the publisher hears of its failure
	}
	return took, nil
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
