package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/bench/workload"
	"github.com/recourse-dev/recourse/internal/broker"
)

// Config says what is measured. Zero values stand for the defaults, except that a part with 0 of its load is left out.
type Config struct {
	// Server is the URL of a server whose streams are there and which nobody else uses; "" starts one.
	Server string
	// Sync is when the server that is started writes to disk.
	Sync broker.SyncMode
	// Batches is the setting of the workers: "on", "off", or "auto", which is on where the server that is started syncs always.
	Batches string
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
	// Flat is how many executions the journal has in the end when the cost of one failure is measured at more and more of them, and of
	// pipelines: a thousandth, a tenth and all of them, and pipelines up to a hundredth of them.
	Flat int
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
	shape   Shape  // of the records of the part that runs
	since   uint64 // sequence in the journal from which the bare loop knows the chains; 0 is none
	runs    int    // names executions
	result  *Report
	journal jetstream.Stream
	inbox   jetstream.Stream
	server  *process // nil where it was not started here

	executions int // that flat knows to be in the journal
}

// Run measures. What was measured before an error is in the report all the same.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	b := &bench{Config: cfg, url: cfg.Server, result: &Report{Machine: machine(), Versions: versions(), Failures: cfg.Failures, Pipelines: cfg.Pipelines, Seed: cfg.Seed}}
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
		b.url, b.server = server.url, server
	}
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	defer b.nc.Close()
	for _, part := range []func(context.Context) error{b.starts, b.prefill, b.flat, b.throughput, b.mixed, b.following, b.latency, b.waits, b.recovery, b.starts} {
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
	b.result.Versions.Server, b.result.Durability = b.nc.ConnectedServerVersion(), durability.String()
	if b.Server == "" {
		b.result.Durability = "one server, sync " + b.Sync.String()
	}
	b.say("registering %d pipelines of %d to %d steps", b.Pipelines, workload.FewestSteps, workload.MostSteps)
	b.load, err = newLoad(ctx, b.js, b.Seed, b.Pipelines, workload.FewestSteps, workload.MostSteps)
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
