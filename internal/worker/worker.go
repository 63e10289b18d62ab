// Package worker ties the parts of a worker: connection or embedded server, streams, pipelines, journal, timers, consumer and sweeper.
// It starts them in that order and stops them in the reverse: stop pulling, finish what is in hand, flush, drain, and last the embedded
// server.
package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/consumer"
	"github.com/recourse-dev/recourse/internal/peers"
	"github.com/recourse-dev/recourse/internal/publish"
	"github.com/recourse-dev/recourse/internal/registry"
	"github.com/recourse-dev/recourse/internal/retry/timer"
	"github.com/recourse-dev/recourse/internal/telemetry"
	"go.uber.org/zap"
)

// Config is what a worker is told.
type Config struct {
	// Connection is how to reach the server. Where it names none, a server is embedded.
	Connection client.Settings
	// Embedded sets up the embedded server; used only without a connection.
	Embedded broker.EmbeddedConfig
	// Provision says whether streams are created, verified or taken for granted; zero means created.
	Provision broker.Mode
	// Streams are the settings of the streams that are created.
	Streams broker.ProvisionConfig
	// MonitorURL is the server's monitoring endpoint, "" for none; it tells the sync mode.
	MonitorURL string
	// Semantics is how the published reference and the engine are told apart where they disagree.
	Semantics recourse.Semantics
	// StopWithin bounds the finishing of what is in hand on a stop; 0 means 20s.
	StopWithin time.Duration
	// AdminListen is host:port of the admin endpoints (health, metrics), or a port alone on 127.0.0.1; "" for none.
	AdminListen string
	// Pprof adds Go's profiles to the admin endpoints.
	Pprof bool
	// DelayedRetry is how traces hang together across waits. What is exported at all the OTEL_* variables say.
	DelayedRetry telemetry.DelayedRetry
	// Alone has the worker handle whatever it receives, where it would hand inputs to the worker that handles their execution.
	Alone bool
	// Batches is whether records of many executions are appended in one atomic batch; zero means auto.
	Batches Batches
	// Consumer, Journal and Sweeper set up the parts; zero values mean their defaults.
	Consumer consumer.Config
	Journal  publish.Config
	Sweeper  timer.SweeperConfig
	// Log is the worker's log; nil means none.
	Log *zap.Logger
	// Ready is called once the worker handles inputs, with the URL of its server; nil means nobody wants to know.
	Ready func(url string)
}

// flushWithin bounds the wait for the last acknowledgements to leave.
const flushWithin = 5 * time.Second

// ErrConnectionClosed ends a worker whose connection was closed for good: it could not be opened again, or the server forbids it.
var ErrConnectionClosed = errors.New("the connection to the NATS server was closed")

// StartError says that the worker did not come to work: no server, missing streams, a setting that does not fit.
type StartError struct{ Err error }

// Error returns what was in the way.
func (e *StartError) Error() string { return e.Err.Error() }

// Unwrap returns what was in the way.
func (e *StartError) Unwrap() error { return e.Err }

// Run works until ctx ends, which is no error, or until something ends it that does not mend itself. A *[StartError] says that it
// did not come to work.
func Run(ctx context.Context, cfg Config) (err error) {
	defer paceCollections()()
	w := &worker{cfg: cfg}
	if w.cfg.Log == nil {
		w.cfg.Log = zap.NewNop()
	}
	if w.cfg.StopWithin == 0 {
		w.cfg.StopWithin = 20 * time.Second
	}
	if w.cfg.Provision == 0 {
		w.cfg.Provision = broker.ModeCreate
	}
	// What stops is bounded as a whole, from the moment the stop begins.
	stopping, stopped := context.WithCancel(context.Background())
	defer stopped()
	defer func() {
		err = errors.Join(err, w.stop(stopping))
		_ = w.cfg.Log.Sync() // writes what was held back; a terminal says that it cannot be synced
	}()
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	context.AfterFunc(ctx, func() { time.AfterFunc(w.cfg.StopWithin, stopped) })

	if err := w.start(ctx, cancel); err != nil {
		if asked.Err() != nil {
			return nil // stopped before it came to work, as it was asked to
		}
		return &StartError{err}
	}
	return w.work(ctx, stopping, cancel)
}

// worker is one run.
type worker struct {
	cfg      Config
	stops    []func(context.Context) error // run last in, first out
	tell     *telemetry.Telemetry
	embedded *broker.Embedded

	readiness readiness
	nc        *nats.Conn
	js        jetstream.JetStream
	consumer  *consumer.Consumer
	sweeper   *timer.Sweeper
	sources   []consumer.Source
	durables  []jetstream.Consumer        // behind the sources, in their order
	peers     atomic.Pointer[peers.Peers] // nil where it does not speak with others
	journal   *publish.Journal
	observed  *telemetry.Interventions // nil where nobody counts them
}

func (w *worker) start(ctx context.Context, fail context.CancelCauseFunc) error {
	var err error
	w.tell, err = telemetry.Start(ctx, telemetry.Config{Log: w.cfg.Log, Prometheus: w.cfg.AdminListen != "", DelayedRetry: w.cfg.DelayedRetry})
	if err != nil {
		return err
	}
	w.cfg.Log = w.tell.Log
	w.stops = append(w.stops, func(ctx context.Context) error {
		w.tell.Shutdown(context.WithoutCancel(ctx)) // a bound of its own: what was decided last is what one wants to know
		return nil
	})
	if err := w.serveAdmin(); err != nil {
		return err
	}
	if err := w.connect(ctx, fail); err != nil {
		return err
	}
	report, err := broker.Provision(ctx, w.js, w.cfg.Provision, w.cfg.Streams)
	if err != nil {
		return err
	}
	if err := w.announce(ctx, report); err != nil {
		return err
	}
	if err := w.build(ctx); err != nil {
		return err
	}
	return w.observe()
}

// connect opens the connection, to an embedded server where no other is named.
func (w *worker) connect(ctx context.Context, fail context.CancelCauseFunc) (err error) {
	options := []nats.Option{
		nats.ClosedHandler(func(*nats.Conn) { fail(ErrConnectionClosed) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { w.log("nats").Warn("disconnected", zap.Error(err)) }),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			w.log("nats").Info("connected again", zap.String("url", nc.ConnectedUrlRedacted()))
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if isProbe(err) { // readiness asks what is permitted, and says it itself
				return
			}
			w.log("nats").Warn("NATS", zap.Error(err))
			if p := w.peers.Load(); p != nil && peers.Denied(err) {
				p.Alone()
			}
		}),
	}
	if !w.cfg.Connection.Configured() {
		if w.embedded, err = broker.StartEmbedded(w.cfg.Embedded); err != nil {
			return err
		}
		w.stops = append(w.stops, w.embedded.Shutdown)
		options = append(options, w.embedded.InProcess())
		w.cfg.Connection.Server = w.embedded.URL()
	}
	if w.nc, err = client.Connect(ctx, w.cfg.Connection, options...); err != nil {
		return err
	}
	w.stops = append(w.stops, func(context.Context) error {
		w.nc.SetClosedHandler(nil) // from here on a closed connection is what is wanted
		w.nc.SetDisconnectErrHandler(nil)
		var err error
		if w.nc.IsConnected() { // else there is nobody to flush to; what was not acknowledged comes again
			err = w.nc.FlushTimeout(flushWithin)
		}
		w.nc.Close()
		if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			return fmt.Errorf("flush: %w", err)
		}
		return nil
	})
	if w.js, err = jetstream.New(w.nc); err != nil {
		return err
	}
	w.readiness.asking.Store(&asking{nc: w.nc, js: w.js, provision: w.cfg.Provision, now: time.Now})
	return nil
}

// log is the log of a part.
func (w *worker) log(part string) *zap.Logger { return w.cfg.Log.Named(part) }

// announce says what the worker is connected to, and whether what it acknowledges could be lost.
func (w *worker) announce(ctx context.Context, report *broker.Report) error {
	var durability broker.Durability
	var err error
	switch {
	case w.embedded != nil:
		durability, err = w.embedded.Durability(ctx, w.js)
	case w.cfg.Provision == broker.ModeOff:
		durability = broker.Durability{Unknown: "not looked at with provision off"}
	default:
		durability, err = broker.InspectDurability(ctx, w.nc, w.js, w.cfg.MonitorURL)
	}
	if err != nil {
		return err
	}
	where := "a server"
	if w.embedded != nil {
		where = "an embedded server"
	}
	w.cfg.Journal.Batch = w.cfg.Batches.pay(durability, w.nc.ConnectedServerVersion())
	w.cfg.Log.Info("connected to "+where,
		zap.String("url", w.nc.ConnectedUrlRedacted()), zap.String("server", w.nc.ConnectedServerName()),
		zap.String("version", w.nc.ConnectedServerVersion()), zap.Stringer("durability", durability), zap.Bool("batches", w.cfg.Journal.Batch),
		zap.Stringer("streams", report), zap.Stringer("semantics", w.cfg.Semantics))
	if warning := durability.Warning(); warning != "" {
		w.cfg.Log.Warn(warning)
	}
	return nil
}

func (w *worker) build(ctx context.Context) error {
	pipelines, err := registry.New(ctx, w.js, w.cfg.Semantics, w.log("pipelines"))
	if err != nil {
		return err
	}
	journal, err := publish.NewJournal(w.nc, w.cfg.Journal)
	if err != nil {
		return err
	}
	timers, err := timer.New(w.nc)
	if err != nil {
		return err
	}
	for _, source := range broker.Durables() {
		c, err := w.js.Consumer(ctx, source.Stream, source.Name)
		if err != nil {
			return fmt.Errorf("consumer %s of %s: %w; run once with --provision create", source.Name, source.Stream, err)
		}
		w.sources, w.durables = append(w.sources, consumer.Durable(w.nc, c)), append(w.durables, c)
	}
	w.cfg.Consumer.AckWait = broker.AckWait
	if !w.cfg.Alone {
		p := peers.New(w.nc)
		w.cfg.Consumer.Peers = p
		w.peers.Store(p)
	}
	w.consumer = consumer.New(journal, timers, pipelines, w.tell, w.cfg.Consumer)
	w.cfg.Sweeper.Log, w.cfg.Sweeper.Rearmed = w.log("sweeper"), w.tell.Rearmed
	w.journal = journal
	w.sweeper, err = timer.NewSweeper(w.nc, timers, consumer.Overdue(journal), w.cfg.Sweeper)
	return err
}

// work handles inputs until ctx ends or a part gives up.
func (w *worker) work(ctx, stopping context.Context, fail context.CancelCauseFunc) error {
	var sweeping sync.WaitGroup
	sweeping.Go(func() {
		// That a connection was closed is said by its handler.
		if err := w.sweeper.Run(ctx); err != nil && ctx.Err() == nil && !w.nc.IsClosed() {
			fail(err)
		}
	})
	if w.observed != nil {
		sweeping.Go(func() { w.observed.Run(ctx) })
	}
	defer sweeping.Wait()
	w.readiness.working.Store(true)
	defer w.readiness.stopping.Store(true)
	w.cfg.Log.Info("working")
	if w.cfg.Ready != nil {
		w.cfg.Ready(w.cfg.Connection.Server)
	}
	context.AfterFunc(ctx, func() {
		w.readiness.stopping.Store(true)
		w.cfg.Log.Info("stopping: finishing what is in hand", zap.Duration("within", w.cfg.StopWithin))
	})
	if err := w.consumer.Run(ctx, stopping, w.sources...); err != nil {
		fail(err)
	} else if ctx.Err() == nil {
		fail(ErrConnectionClosed) // nothing else ends a pull unasked; its handler may come later
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// stop stops what was started, last in, first out.
func (w *worker) stop(ctx context.Context) error {
	var errs []error
	for i := len(w.stops) - 1; i >= 0; i-- {
		errs = append(errs, w.stops[i](ctx))
	}
	return errors.Join(errs...)
}
