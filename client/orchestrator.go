package client

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// The defaults and bounds of an orchestrator.
const (
	DefaultConcurrency = 16               // commands handled side by side
	DefaultRetryDelay  = time.Second      // before a command is handled again; doubles with each try
	MaxRetryDelay      = time.Minute      // the longest such delay
	AckWait            = 30 * time.Second // after which the broker gives the commands of an orchestrator that vanished to another
	Remembered         = 1 << 16          // executions of which the newest handled version is kept in memory

	pendingPerHandler = 8               // commands the broker hands out ahead, for each that is handled
	ephemeralExpiry   = 5 * time.Minute // after which the broker removes a consumer without a durable name
)

// ErrHandling says that the orchestrator handles commands already.
var ErrHandling = errors.New("commands are being handled already")

// OrchestratorConfig says which commands an orchestrator handles, and how.
type OrchestratorConfig struct {
	// Account, Org, Project and Pipeline choose the executions; an empty one stands for all.
	Account, Org, Project, Pipeline string
	// Durable is the name under which the broker remembers which commands were handled, over restarts: letters, digits, '_' and
	// '-'. A new name begins with the oldest command in the journal. Empty: commands stored before Handle began are not seen, and
	// nothing is remembered after it returns.
	Durable string
	// Principal is in whose name Finished and Aborted report; see NewDelegate.
	Principal string
	// Concurrency is how many commands are handled side by side, each of another execution; 0 stands for DefaultConcurrency.
	Concurrency int
	// RetryDelay is the wait before a command whose handler returned an error is handled again. It doubles with each try, up to
	// MaxRetryDelay. 0 stands for DefaultRetryDelay.
	RetryDelay time.Duration
	// OnError is called with each error of the handler, with a command that cannot be read and with the loss of the consumer, all
	// of which are retried. Calls may be concurrent. It may be nil.
	OnError func(error)
}

// Orchestrator handles the commands of workers and reports the end of executions. It is safe for concurrent use, but one
// [Orchestrator.Handle] runs at a time.
type Orchestrator struct {
	cfg     OrchestratorConfig
	sender  *sender
	filter  string
	handled *memory // used by the one Handle that runs
	running atomic.Bool
	ackWait time.Duration // of a consumer that Handle creates
}

// NewOrchestrator returns an orchestrator on a connection; see [NewDelegate].
func NewOrchestrator(nc *nats.Conn, cfg OrchestratorConfig) (*Orchestrator, error) {
	s, err := newSender(nc, cfg.Principal)
	if err != nil {
		return nil, err
	}
	ref := recourse.Ref{Account: cfg.Account, Org: cfg.Org, Project: cfg.Project, Pipeline: cfg.Pipeline}
	for _, id := range []string{cfg.Account, cfg.Org, cfg.Project, cfg.Pipeline} {
		if id == "" {
			continue
		}
		if err := recourse.ValidateID(id); err != nil {
			return nil, err
		}
	}
	switch {
	case cfg.Concurrency < 0:
		return nil, fmt.Errorf("concurrency: want 0 or more, got %d", cfg.Concurrency)
	case cfg.RetryDelay < 0:
		return nil, fmt.Errorf("retry delay: want 0 or more, got %s", cfg.RetryDelay)
	case cfg.Durable != "" && cfg.Durable != recourse.Token(cfg.Durable):
		return nil, fmt.Errorf("durable name %q: want letters, digits, '_' and '-', up to %d", cfg.Durable, recourse.MaxTokenLength)
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	if cfg.RetryDelay == 0 {
		cfg.RetryDelay = DefaultRetryDelay
	}
	if cfg.OnError == nil {
		cfg.OnError = func(error) {}
	}
	return &Orchestrator{
		cfg: cfg, sender: s, filter: filterSubject(ref, recourse.FamilyCommand, ">"), handled: newMemory(Remembered), ackWait: AckWait,
	}, nil
}

// Finished reports that an execution ended, however, so that nothing of it fires any more (R11); why is for people and may be
// empty. It is stored as [Delegate.Report] stores a failure, and a repeat is as harmless.
func (o *Orchestrator) Finished(ctx context.Context, ref recourse.Ref, why string) error {
	return o.ended(ctx, ref, recourse.Finished, why)
}

// Aborted reports that somebody aborted an execution; see [Orchestrator.Finished].
func (o *Orchestrator) Aborted(ctx context.Context, ref recourse.Ref, why string) error {
	return o.ended(ctx, ref, recourse.Aborted, why)
}

func (o *Orchestrator) ended(ctx context.Context, ref recourse.Ref, what recourse.LifecycleEvent, why string) error {
	l := recourse.Lifecycle{Schema: recourse.Schema, Ref: ref, Event: what, Why: why, At: o.sender.now().UTC()}
	l.Clean()
	if err := l.Validate(); err != nil {
		return err
	}
	_, err := o.sender.send(ctx, ref, event{id: l.Key(), family: recourse.FamilyLifecycle, at: l.At}, &l)
	return err
}

// Handle calls handle with each command, until ctx ends, and then returns nil. It returns an error where it cannot begin, and
// where the connection was closed.
//
// Order: commands of one execution come one at a time in the order of their versions; those of many executions side by side, up
// to Concurrency. A command whose handler returns an error is handled again after RetryDelay, and the later ones of its
// execution wait for it. ctx of the handler carries the trace of the command and ends with ctx.
//
// Once: a version that was handled, or is lower than one that was, is acknowledged and left out. What was handled is remembered
// in memory, for the [Remembered] executions that were handled last, and kept from one Handle to the next of the same
// Orchestrator. Over a restart the durable consumer goes on after what was acknowledged. A command may come again after a
// crash between its end and its acknowledgement, so handlers must do nothing twice for the same execution and version.
//
// Hold: after a start, and whenever the connection was lost, the broker may have given out commands that did not arrive. They
// come again, but later than newer ones, which would make them stale. So nothing new is begun until all that the broker counts
// as given out has arrived: at once after a clean stop, up to [AckWait] after a crash.
//
// One Handle per durable name should run at a time. More of them share the commands, but then the order within an execution is
// kept by each of them only, and each start waits as if there had been a crash.
//
// When ctx ends, Handle pulls nothing more, waits for the handlers that run, gives the rest back to the broker and flushes.
func (o *Orchestrator) Handle(ctx context.Context, handle func(ctx context.Context, command *recourse.Record) error) error {
	if !o.running.CompareAndSwap(false, true) {
		return ErrHandling
	}
	defer o.running.Store(false)
	binding, err := o.bind(ctx, 0)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return newRun(o, handle, binding, cancel).loop(ctx)
}

// binding is a consumer of the commands.
type binding struct {
	jetstream.Consumer
	ackWait time.Duration
	// next is where a consumer that replaces this one begins, as long as nothing was delivered.
	next uint64
	// given is how many commands were given out and not acknowledged when it was bound.
	given int
}

// bind finds the durable consumer or creates one. from is the stream sequence to begin with where one is created, 0 for the
// configured beginning.
func (o *Orchestrator) bind(ctx context.Context, from uint64) (binding, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	b, err := o.find(ctx)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		b, err = o.create(ctx, from)
	}
	if err != nil {
		err = noAnswer(o.sender.nc, err)
		return binding{}, fmt.Errorf("consume %s of %s: %w%s", o.filter, recourse.StreamJournal, err, hint(err))
	}
	return b, nil
}

func (o *Orchestrator) find(ctx context.Context) (binding, error) {
	if o.cfg.Durable == "" {
		return binding{}, jetstream.ErrConsumerNotFound
	}
	consumer, err := o.sender.js.Consumer(ctx, recourse.StreamJournal, o.cfg.Durable)
	if err != nil {
		return binding{}, err
	}
	info := consumer.CachedInfo()
	cfg := info.Config
	// What is different there is not changed here: somebody set it up, or another orchestrator uses the name.
	switch {
	case cfg.FilterSubject != o.filter:
		return binding{}, fmt.Errorf("consumer %q has the filter %q: choose another durable name or remove it", o.cfg.Durable, cfg.FilterSubject)
	case cfg.AckPolicy != jetstream.AckExplicitPolicy:
		return binding{}, fmt.Errorf("consumer %q has the ack policy %s: set it up with explicit", o.cfg.Durable, cfg.AckPolicy)
	case cfg.MaxDeliver > 0:
		return binding{}, fmt.Errorf("consumer %q drops a command after %d deliveries: set it up without max deliver", o.cfg.Durable, cfg.MaxDeliver)
	case len(cfg.BackOff) > 0:
		return binding{}, fmt.Errorf("consumer %q has a backoff list, which overrides its ack wait: set it up without", o.cfg.Durable)
	}
	return binding{consumer, cfg.AckWait, info.AckFloor.Stream + 1, info.NumAckPending}, nil
}

func (o *Orchestrator) create(ctx context.Context, from uint64) (binding, error) {
	cfg := jetstream.ConsumerConfig{
		Durable: o.cfg.Durable, FilterSubject: o.filter, AckPolicy: jetstream.AckExplicitPolicy, AckWait: o.ackWait, MaxDeliver: -1,
		MaxAckPending: o.cfg.Concurrency * pendingPerHandler,
	}
	if o.cfg.Durable == "" {
		cfg.InactiveThreshold = ephemeralExpiry
		if from == 0 {
			stream, err := o.sender.js.Stream(ctx, recourse.StreamJournal)
			if err != nil {
				return binding{}, err
			}
			from = stream.CachedInfo().State.LastSeq + 1
		}
	}
	if from > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	}
	consumer, err := o.sender.js.CreateConsumer(ctx, recourse.StreamJournal, cfg)
	if err != nil {
		return binding{}, err
	}
	return binding{consumer, o.ackWait, max(from, 1), 0}, nil
}
