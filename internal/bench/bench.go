package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
)

// Config says what is measured. Zero values stand for the defaults, except that a part with 0 of its load is left out.
type Config struct {
	// Server is the URL of a server whose streams are there and which nobody else uses; "" starts one.
	Server string
	// Sync is when the server that is started writes to disk.
	Sync broker.SyncMode
	// Failures of each round, Rounds of each kind.
	Failures, Rounds int
	// Pipelines that are registered.
	Pipelines int
	// Rate of failures per second at which latency is measured, Light is for how long.
	Rate  int
	Light time.Duration
	// Waits that are pending at once and come due over Spread; then half as many come due within one second.
	Waits  int
	Spread time.Duration
	// Backlog that is drained after a restart.
	Backlog int
	// Prefill is messages in the journal before anything is measured.
	Prefill int
	// Seed of the load.
	Seed uint64
	// Progress is told what goes on, for people.
	Progress io.Writer
}

// bench is a run.
type bench struct {
	Config
	nc      *nats.Conn
	js      jetstream.JetStream
	url     string
	load    *load
	size    int    // bytes of a record
	since   uint64 // sequence in the journal from which the bare loop knows the chains; 0 is none
	runs    int    // names executions
	result  *Report
	journal jetstream.Stream
	inbox   jetstream.Stream
}

// Run measures. What was measured before an error is in the report all the same.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	b := &bench{Config: cfg, url: cfg.Server, result: &Report{Machine: machine(), Failures: cfg.Failures, Pipelines: cfg.Pipelines, Seed: cfg.Seed}}
	if b.url == "" {
		dir, err := os.MkdirTemp("", "recourse-bench-")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		server, err := start(ctx, "bench", "server", "--dir", dir, "--sync", cfg.Sync.String())
		if err != nil {
			return nil, err
		}
		defer func() { _, stopped := server.stop(); err = errors.Join(err, stopped) }()
		b.url = server.url
	}
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	defer b.nc.Close()
	for _, part := range []func(context.Context) error{b.prefill, b.throughput, b.following, b.latency, b.waits, b.recovery, b.starts} {
		if err := part(ctx); err != nil {
			return b.result, err
		}
	}
	return b.result, nil
}

func (b *bench) connect(ctx context.Context) (err error) {
	if b.nc, err = nats.Connect(b.url, nats.Name("recourse-bench")); err != nil {
		return err
	}
	if b.js, err = jetstream.New(b.nc); err != nil {
		return err
	}
	if b.Server == "" {
		if _, err := broker.Provision(ctx, b.js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
			return err
		}
	}
	if b.journal, err = b.js.Stream(ctx, recourse.StreamJournal); err != nil {
		return err
	}
	if b.inbox, err = b.js.Stream(ctx, recourse.StreamInbox); err != nil {
		return err
	}
	durability, err := broker.InspectDurability(ctx, b.nc, b.js, "")
	if err != nil {
		return err
	}
	b.result.Server, b.result.Durability = "nats-server "+b.nc.ConnectedServerVersion(), durability.String()
	if b.Server == "" {
		b.result.Durability = "sync " + b.Sync.String()
	}
	b.say("registering %d pipelines of %d to %d steps", b.Pipelines, fewestSteps, mostSteps)
	b.load, err = newLoad(ctx, b.js, b.Seed, b.Pipelines)
	return err
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.Progress, format+"\n", args...)
}

// run names the executions of the next part.
func (b *bench) run() string {
	b.runs++
	return fmt.Sprintf("run%d-%d", b.Seed, b.runs)
}

// kind is what handles the failures.
type kind string

const (
	theBare   kind = "bare"
	theWorker kind = "worker"
)

// start starts a process of a kind.
func (b *bench) start(ctx context.Context, k kind) (*process, error) {
	return start(ctx, "bench", string(k), "--server", b.url, "--size", strconv.Itoa(b.size), "--since", strconv.FormatUint(b.since, 10))
}

// drained is one handling of failures that were there before.
type drained struct {
	perSecond float64
	took      time.Duration // from the first record to the last acknowledgement, as far as it can be seen
	usage     usage
}

// drain starts a process for what is in the inbox, and stops it when all is recorded and acknowledged.
func (b *bench) drain(ctx context.Context, k kind, n, processes int) (d drained, err error) {
	before, err := b.lastSequence(ctx)
	if err != nil {
		return d, err
	}
	var running []*process
	defer func() {
		for _, p := range running {
			u, stopped := p.stop()
			d.usage.cpu += u.cpu
			d.usage.rss = max(d.usage.rss, u.rss)
			err = errors.Join(err, stopped)
		}
	}()
	for range processes {
		p, err := b.start(ctx, k)
		if err != nil {
			return d, err
		}
		running = append(running, p)
	}
	if err := b.settled(ctx); err != nil {
		return d, err
	}
	return b.rate(ctx, before, n)
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
	d.took = final.Time.Sub(first.Time)
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

// machine says what this runs on.
func machine() string {
	return fmt.Sprintf("%s/%s, %d cores, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}
