package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/recourse-dev/recourse"
)

// handling is one Handle in the background.
type handling struct {
	t     *testing.T
	stop  context.CancelFunc
	ended chan error
}

func start(t *testing.T, o *Orchestrator, handle func(context.Context, *recourse.Record) error) *handling {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	h := &handling{t, cancel, make(chan error, 1)}
	go func() { h.ended <- o.Handle(ctx, handle) }()
	t.Cleanup(cancel)
	return h
}

// end stops it and waits.
func (h *handling) end() {
	h.t.Helper()
	h.stop()
	if err := receive(h.t, "Handle returns", h.ended); err != nil {
		h.t.Errorf("Handle: %v", err)
	}
}

// diary collects what was handled.
type diary struct {
	mu   sync.Mutex
	list []string
}

func (l *diary) add(r *recourse.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, fmt.Sprintf("%s/%d", r.Execution, r.Version))
}

func (l *diary) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

func (l *diary) handle(_ context.Context, r *recourse.Record) error {
	l.add(r)
	return nil
}

func (l *diary) want(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d commands are handled", len(want)), func() bool { return len(l.all()) >= len(want) })
	if got := l.all(); !slices.Equal(got, want) {
		t.Errorf("handled %q, want %q", got, want)
	}
}

func orchestrator(t *testing.T, nc *nats.Conn, cfg OrchestratorConfig) *Orchestrator {
	t.Helper()
	if cfg.Principal == "" {
		cfg.Principal = "ci"
	}
	o, err := NewOrchestrator(nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// acked waits until the broker counts nothing of a durable consumer as given out or waiting.
func acked(t *testing.T, js jetstream.JetStream, durable string) {
	t.Helper()
	eventually(t, "all is acknowledged", func() bool {
		c, err := js.Consumer(t.Context(), recourse.StreamJournal, durable)
		return err == nil && c.CachedInfo().NumAckPending == 0 && c.CachedInfo().NumPending == 0
	})
}

func TestHandle(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	ctx, span := spanContext(t.Context())
	header := nats.Header{}
	injectTrace(ctx, header)
	w.appendWith(retry(ref), nats.Header{"Traceparent": header["traceparent"]})
	w.append(&recourse.Record{Ref: ref, Decision: recourse.Decision{Reason: recourse.Stale, Kind: recourse.KindStale}})
	other := ref
	other.Account = "another"
	w.append(retry(other))

	got := make(chan trace.SpanContext, 1)
	var handled diary
	h := start(t, orchestrator(t, nc, OrchestratorConfig{Account: "acme", Durable: "d"}), func(ctx context.Context, r *recourse.Record) error {
		if r.Command.Attempt != 2 || r.Node.Path != "prod/rollout" {
			t.Errorf("record %+v", r)
		}
		if r.Version == 1 {
			got <- trace.SpanContextFromContext(ctx)
		}
		handled.add(r)
		return nil
	})
	if sc := receive(t, "the command", got); sc.TraceID() != span.TraceID() || !sc.IsRemote() {
		t.Errorf("trace %v, want %v", sc, span)
	}
	w.append(retry(ref))
	handled.want(t, "ex42/1", "ex42/3")
	acked(t, js, "d")
	h.end()
}

func TestHandleBeginsWhereItEnded(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	w.append(retry(ref))
	var first, second diary
	h := start(t, orchestrator(t, nc, OrchestratorConfig{Durable: "d"}), first.handle)
	first.want(t, "ex42/1")
	h.end()
	w.append(retry(ref))
	h = start(t, orchestrator(t, nc, OrchestratorConfig{Durable: "d"}), second.handle)
	second.want(t, "ex42/2")
	h.end()
}

func TestHandleEphemeral(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	w.append(retry(execution("old")))
	stream, _ := js.Stream(t.Context(), recourse.StreamJournal)
	consumers := func() int {
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.State.Consumers
	}
	var handled diary
	h := start(t, orchestrator(t, nc, OrchestratorConfig{}), handled.handle)
	eventually(t, "the consumer is there", func() bool { return consumers() == 1 })
	w.append(retry(execution("new")))
	handled.want(t, "new/1")
	h.end()
	if n := consumers(); n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}

func TestHandleOrderAndConcurrency(t *testing.T) {
	const executions, versions, limit = 12, 4, 3
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	for range versions {
		for e := range executions {
			w.append(retry(execution(fmt.Sprint("e", e))))
		}
	}
	var (
		mu            sync.Mutex
		busy, most    int
		newest        = make(map[string]uint64)
		inside, total = make(map[string]bool), 0
	)
	meet := make(chan struct{})
	h := start(t, orchestrator(t, nc, OrchestratorConfig{Durable: "d", Concurrency: limit}), func(ctx context.Context, r *recourse.Record) error {
		mu.Lock()
		busy++
		most = max(most, busy)
		if inside[r.Execution] {
			t.Errorf("two commands of %s at once", r.Execution)
		}
		inside[r.Execution] = true
		if r.Version != newest[r.Execution]+1 {
			t.Errorf("%s: version %d after %d", r.Execution, r.Version, newest[r.Execution])
		}
		newest[r.Execution] = r.Version
		mu.Unlock()
		receive(t, "the release", meet)
		mu.Lock()
		defer mu.Unlock()
		busy--
		inside[r.Execution] = false
		total++
		return nil
	})
	eventually(t, "the broker has given out all it may, and as many are handled as may be", func() bool {
		c, err := js.Consumer(t.Context(), recourse.StreamJournal, "d")
		mu.Lock()
		defer mu.Unlock()
		return err == nil && c.CachedInfo().NumAckPending == limit*pendingPerHandler && busy >= limit
	})
	close(meet)
	eventually(t, "all are handled", func() bool { mu.Lock(); defer mu.Unlock(); return total == executions*versions })
	if most != limit {
		t.Errorf("%d handlers ran at once, want %d", most, limit)
	}
	h.end()
}

func TestHandleErrorHoldsItsExecutionOnly(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	w.append(retry(execution("bad")))
	w.append(retry(execution("bad")))
	w.append(retry(execution("good")))
	var (
		handled diary
		tries   int
		errs    = make(chan error, 10)
		cured   = make(chan struct{})
		failed  = make(chan struct{}, 100)
	)
	o := orchestrator(t, nc, OrchestratorConfig{Durable: "d", Concurrency: 1, RetryDelay: 5 * time.Millisecond, OnError: func(err error) {
		select {
		case errs <- err:
		default:
		}
	}})
	h := start(t, o, func(_ context.Context, r *recourse.Record) error {
		if r.Execution == "bad" && r.Version == 1 {
			tries++
			select {
			case <-cured:
			default:
				failed <- struct{}{}
				return errTest
			}
		}
		handled.add(r)
		return nil
	})
	receive(t, "the first failure", failed)
	receive(t, "the second failure", failed)
	eventually(t, "the other execution goes on", func() bool { return slices.Contains(handled.all(), "good/1") })
	if slices.Contains(handled.all(), "bad/2") {
		t.Error("a later command overtook the one that fails")
	}
	close(cured)
	handled.want(t, "good/1", "bad/1", "bad/2")
	err := receive(t, "the error is reported", errs)
	if !errors.Is(err, errTest) || !strings.Contains(err.Error(), "retry of acme/default/shop/deploy/bad, version 1") {
		t.Errorf("got %v", err)
	}
	acked(t, js, "d")
	h.end()
	if tries < 3 {
		t.Errorf("%d tries", tries)
	}
}

func TestHandleLeavesOutWhatIsKnown(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	w.append(retry(ref))
	w.append(retry(ref))
	var handled diary
	o := orchestrator(t, nc, OrchestratorConfig{Durable: "d"})
	h := start(t, o, handled.handle)
	handled.want(t, "ex42/1", "ex42/2")
	// The same record again, an older one, and one that is new.
	for _, version := range []uint64{2, 1} {
		w.versions[ref] = version - 1
		w.append(retry(ref))
	}
	w.versions[ref] = 2
	w.append(retry(ref))
	handled.want(t, "ex42/1", "ex42/2", "ex42/3")
	acked(t, js, "d")
	h.end()

	// Another consumer brings all of them again; the orchestrator remembers.
	if err := js.DeleteConsumer(t.Context(), recourse.StreamJournal, "d"); err != nil {
		t.Fatal(err)
	}
	w.append(retry(execution("end")))
	h = start(t, o, handled.handle)
	handled.want(t, "ex42/1", "ex42/2", "ex42/3", "end/1")
	acked(t, js, "d")
	h.end()
}

func TestHandleKeepsWhatItWorksOn(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	o := orchestrator(t, nc, OrchestratorConfig{Durable: "d", Concurrency: 1})
	o.ackWait = 200 * time.Millisecond
	var handled diary
	begun, release := make(chan struct{}, 10), make(chan struct{})
	h := start(t, o, func(_ context.Context, r *recourse.Record) error {
		begun <- struct{}{}
		receive(t, "the release", release)
		handled.add(r)
		return nil
	})
	w.append(retry(ref))
	w.append(retry(ref))
	receive(t, "the handler begins", begun)
	consumer, err := js.Consumer(t.Context(), recourse.StreamJournal, "d")
	if err != nil {
		t.Fatal(err)
	}
	// Five times AckWait: both the command that is handled and the one behind it would have come again.
	until := time.Now().Add(5 * o.ackWait)
	eventually(t, "the time is over", func() bool {
		info, err := consumer.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.NumRedelivered > 0 {
			t.Fatalf("%d commands came again", info.NumRedelivered)
		}
		return time.Now().After(until)
	})
	close(release)
	handled.want(t, "ex42/1", "ex42/2")
	acked(t, js, "d")
	h.end()
}

func TestHandleGivesBackWhatItDidNotHandle(t *testing.T) {
	nc := newBroker(t).connect()
	w := newWorker(t, provision(t, nc))
	for range 5 {
		w.append(retry(ref))
	}
	begun := make(chan struct{}, 1)
	h := start(t, orchestrator(t, nc, OrchestratorConfig{Durable: "d"}), func(ctx context.Context, _ *recourse.Record) error {
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	receive(t, "the handler begins", begun)
	h.end()
	// At once, not after AckWait; and in order.
	var handled diary
	began := time.Now()
	h = start(t, orchestrator(t, nc, OrchestratorConfig{Durable: "d"}), handled.handle)
	handled.want(t, "ex42/1", "ex42/2", "ex42/3", "ex42/4", "ex42/5")
	if took := time.Since(began); took > AckWait/2 {
		t.Errorf("took %s", took)
	}
	h.end()
}

// After a crash the broker gives out new commands before those that were under way. Handled in that order, the older ones would
// be stale and lost.
func TestHandleAfterACrash(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	w.append(retry(ref))
	w.append(retry(ref))
	o := orchestrator(t, nc, OrchestratorConfig{Durable: "d"})
	o.ackWait = 300 * time.Millisecond
	b, err := o.bind(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := b.Fetch(2)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // taken, and never acknowledged: that is the crash
		if receive(t, "a command", batch.Messages()) == nil {
			t.Fatal("no command", batch.Error())
		}
	}
	w.append(retry(ref))
	w.append(retry(execution("other")))
	var handled diary
	h := start(t, o, handled.handle)
	eventually(t, "all are handled", func() bool { return len(handled.all()) == 4 })
	var mine []string
	for _, entry := range handled.all() {
		if strings.HasPrefix(entry, "ex42") {
			mine = append(mine, entry)
		}
	}
	if want := []string{"ex42/1", "ex42/2", "ex42/3"}; !slices.Equal(mine, want) {
		t.Errorf("handled %q, want %q", mine, want)
	}
	acked(t, js, "d")
	h.end()
}

func TestHandleOutlivesTheServer(t *testing.T) {
	for _, durable := range []string{"d", ""} {
		t.Run("durable="+durable, func(t *testing.T) {
			b := newBroker(t)
			nc := b.connect()
			js := provision(t, nc)
			w := newWorker(t, js)
			var handled diary
			h := start(t, orchestrator(t, nc, OrchestratorConfig{Durable: durable, OnError: func(err error) { t.Log(err) }}), handled.handle)
			stream, _ := js.Stream(t.Context(), recourse.StreamJournal)
			eventually(t, "the consumer is there", func() bool {
				info, err := stream.Info(t.Context())
				return err == nil && info.State.Consumers == 1
			})
			w.append(retry(ref))
			handled.want(t, "ex42/1")
			b.stop()
			eventually(t, "the connection is lost", func() bool { return nc.Status() == nats.RECONNECTING })
			b.start()
			eventually(t, "the connection is back", func() bool { return nc.Status() == nats.CONNECTED })
			eventually(t, "the stream is back", func() bool { _, err := js.Stream(t.Context(), recourse.StreamJournal); return err == nil })
			w.append(retry(ref))
			handled.want(t, "ex42/1", "ex42/2")
			h.end()
		})
	}
}

func TestHandleReplacesItsConsumer(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	w.append(retry(execution("old")))
	var handled diary
	lost := make(chan error, 10)
	h := start(t, orchestrator(t, nc, OrchestratorConfig{Durable: "d", OnError: func(err error) { lost <- err }}), handled.handle)
	handled.want(t, "old/1")
	acked(t, js, "d")
	if err := js.DeleteConsumer(t.Context(), recourse.StreamJournal, "d"); err != nil {
		t.Fatal(err)
	}
	w.append(retry(execution("new")))
	if err := receive(t, "the loss is reported", lost); !errors.Is(err, errConsumerLost) {
		t.Errorf("got %v", err)
	}
	handled.want(t, "old/1", "new/1")
	// It did not begin at the beginning of the journal.
	if c, err := js.Consumer(t.Context(), recourse.StreamJournal, "d"); err != nil || c.CachedInfo().Config.OptStartSeq != 2 {
		t.Errorf("consumer %+v, %v", c.CachedInfo().Config, err)
	}
	h.end()
}

func TestHandleParksWhatItCannotRead(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	future := retry(ref)
	body, _ := recourse.Encode(future)
	body = []byte(strings.Replace(string(body), `"schema":0`, `"schema":99`, 1))
	if _, err := js.Publish(t.Context(), future.Subject(), body); err != nil {
		t.Fatal(err)
	}
	elsewhere := retry(execution("elsewhere"))
	elsewhere.Schema, elsewhere.Version = recourse.Schema, 1
	misplaced, _ := recourse.Encode(elsewhere)
	if _, err := js.Publish(t.Context(), retry(execution("here")).Subject(), misplaced); err != nil {
		t.Fatal(err)
	}
	w.append(retry(ref))
	w.append(retry(execution("fine")))
	var handled diary
	errs := make(chan error, 100)
	o := orchestrator(t, nc, OrchestratorConfig{Durable: "d", OnError: func(err error) { errs <- err }})
	h := start(t, o, handled.handle)
	handled.want(t, "fine/1")
	reasons := make(map[string]bool)
	for len(reasons) < 2 {
		err := receive(t, "both are reported", errs)
		var decode *recourse.DecodeError
		if errors.As(err, &decode) {
			reasons[string(decode.Reason)] = true
		} else if strings.Contains(err.Error(), "elsewhere") {
			reasons["misplaced"] = true
		}
	}
	if !reasons[string(recourse.ReasonFutureSchema)] || !reasons["misplaced"] {
		t.Errorf("reasons %v", reasons)
	}
	h.end()
	c, err := js.Consumer(t.Context(), recourse.StreamJournal, "d")
	if err != nil || c.CachedInfo().AckFloor.Stream != 0 {
		t.Errorf("a command that could not be read is acknowledged: %+v, %v", c.CachedInfo(), err)
	}
}

func TestHandleErrors(t *testing.T) {
	t.Run("no journal", func(t *testing.T) {
		nc := newBroker(t).connect()
		for _, durable := range []string{"", "d"} {
			err := orchestrator(t, nc, OrchestratorConfig{Durable: durable}).Handle(t.Context(), nil)
			if !errors.Is(err, jetstream.ErrStreamNotFound) || !strings.Contains(err.Error(), "provision") {
				t.Errorf("%q: %v", durable, err)
			}
		}
	})
	t.Run("twice", func(t *testing.T) {
		nc := newBroker(t).connect()
		w := newWorker(t, provision(t, nc))
		w.append(retry(ref))
		var handled diary
		o := orchestrator(t, nc, OrchestratorConfig{Durable: "d"})
		h := start(t, o, handled.handle)
		handled.want(t, "ex42/1")
		if err := o.Handle(t.Context(), handled.handle); !errors.Is(err, ErrHandling) {
			t.Errorf("got %v", err)
		}
		h.end()
	})
	t.Run("unsuitable consumer", func(t *testing.T) {
		nc := newBroker(t).connect()
		js := provision(t, nc)
		o := orchestrator(t, nc, OrchestratorConfig{Account: "acme", Durable: "d"})
		for says, cfg := range map[string]jetstream.ConsumerConfig{
			"filter":      {FilterSubject: recourse.Filter(recourse.FamilyCommand)},
			"ack policy":  {FilterSubject: o.filter, AckPolicy: jetstream.AckNonePolicy},
			"max deliver": {FilterSubject: o.filter, MaxDeliver: 3},
			"backoff":     {FilterSubject: o.filter, BackOff: []time.Duration{time.Second}, MaxDeliver: -1},
		} {
			cfg.Durable = "d"
			if _, err := js.CreateConsumer(t.Context(), recourse.StreamJournal, cfg); err != nil {
				t.Fatal(err)
			}
			if err := o.Handle(t.Context(), nil); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: got %v", says, err)
			}
			if err := js.DeleteConsumer(t.Context(), recourse.StreamJournal, "d"); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("closed", func(t *testing.T) {
		nc := newBroker(t).connect()
		w := newWorker(t, provision(t, nc))
		w.append(retry(ref))
		own := newBrokerConn(t, nc)
		var handled diary
		h := start(t, orchestrator(t, own, OrchestratorConfig{Durable: "d"}), handled.handle)
		handled.want(t, "ex42/1")
		own.Close()
		if err := receive(t, "Handle returns", h.ended); !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("denied", func(t *testing.T) {
		b := newBroker(t, func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "admin", Password: "admin-pw"},
				{Username: "ci", Password: "ci-pw", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"nothing"}}}},
			}
		})
		provision(t, b.connect(nats.UserInfo("admin", "admin-pw")))
		nc := b.connect(nats.UserInfo("ci", "ci-pw"))
		err := orchestrator(t, nc, OrchestratorConfig{Durable: "d"}).Handle(t.Context(), nil)
		if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "CONSUMER.INFO") {
			t.Errorf("got %v", err)
		}
	})
}

// newBrokerConn makes another connection to the server of nc.
func newBrokerConn(t *testing.T, nc *nats.Conn) *nats.Conn {
	t.Helper()
	own, err := Connect(t.Context(), Settings{Server: nc.ConnectedUrl()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	return own
}

func TestNewOrchestrator(t *testing.T) {
	nc := newBroker(t).connect()
	for says, cfg := range map[string]OrchestratorConfig{
		"principal":    {},
		"concurrency":  {Principal: "ci", Concurrency: -1},
		"retry delay":  {Principal: "ci", RetryDelay: -1},
		"durable name": {Principal: "ci", Durable: "a.b"},
		"control":      {Principal: "ci", Account: "a\x00"},
	} {
		if _, err := NewOrchestrator(nc, cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", says, err)
		}
	}
	for want, cfg := range map[string]OrchestratorConfig{
		"recourse.*.*.*.*.*.command.>":         {},
		"recourse.acme.*.*.*.*.command.>":      {Account: "acme"},
		"recourse.a=2Eb.o.p=2A.pl.*.command.>": {Account: "a.b", Org: "o", Project: "p*", Pipeline: "pl"},
		"recourse.*.*.*.deploy.*.command.>":    {Pipeline: "deploy"},
	} {
		if got := orchestrator(t, nc, cfg).filter; got != want {
			t.Errorf("%+v: %q, want %q", cfg, got, want)
		}
	}
}

func TestLifecycle(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	o := orchestrator(t, nc, OrchestratorConfig{})
	if err := o.Finished(t.Context(), ref, "token=abcdefgh done"); err != nil {
		t.Fatal(err)
	}
	if err := o.Aborted(t.Context(), ref, ""); err != nil {
		t.Fatal(err)
	}
	for i, want := range []recourse.LifecycleEvent{recourse.Finished, recourse.Aborted} {
		msg := inbox(t, js, uint64(i+1))
		l, err := recourse.DecodeLifecycle(msg.Data)
		if err != nil || l.Event != want || l.Ref != ref || l.At.IsZero() || strings.Contains(l.Why, "abcdefgh") {
			t.Errorf("%+v, %v", l, err)
		}
		if msg.Subject != ref.Subject(recourse.FamilyLifecycle, "ci") || HeaderCarrier(msg.Header).Get("ce-id") != l.Key() {
			t.Errorf("%s %v", msg.Subject, msg.Header)
		}
	}
	if err := o.Finished(t.Context(), recourse.Ref{}, ""); err == nil {
		t.Error("stored without ids")
	}
}

func TestMemory(t *testing.T) {
	m := newMemory(2)
	m.put("a", 3)
	m.put("a", 2)
	m.put("b", 1)
	m.put("a", 1) // a was used last, and version 1 was left out
	m.put("c", 1)
	if m.get("a") != 3 || m.get("b") != 0 || m.get("c") != 1 {
		t.Errorf("a %d, b %d, c %d", m.get("a"), m.get("b"), m.get("c"))
	}
	if len(m.index) != 2 || m.order.Len() != 2 {
		t.Errorf("%d, %d entries", len(m.index), m.order.Len())
	}
}

// A delivery that is lost with the connection comes again only after AckWait. What is delivered meanwhile must wait for it.
func TestHandleAfterALostDelivery(t *testing.T) {
	b := newBroker(t)
	direct := b.connect()
	js := provision(t, direct)
	w := newWorker(t, js)
	p := newProxy(t, b.srv.Addr().String())
	nc, err := Connect(t.Context(), Settings{Server: p.listener.Addr().String()}, nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.IgnoreDiscoveredServers())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	o := orchestrator(t, nc, OrchestratorConfig{Durable: "d"})
	o.ackWait = time.Second
	var handled diary
	h := start(t, o, handled.handle)
	w.append(retry(ref))
	handled.want(t, "ex42/1")
	acked(t, js, "d")

	p.mute.Store(true)
	w.append(retry(ref))
	eventually(t, "the broker has given the command out", func() bool {
		c, err := js.Consumer(t.Context(), recourse.StreamJournal, "d")
		return err == nil && c.CachedInfo().NumAckPending == 1
	})
	p.cut()
	p.mute.Store(false)
	eventually(t, "the connection is back", func() bool { return nc.Status() == nats.CONNECTED && nc.Stats().Reconnects > 0 })
	w.append(retry(ref))
	handled.want(t, "ex42/1", "ex42/2", "ex42/3")
	acked(t, js, "d")
	h.end()
}

// proxy stands between a client and the server and can swallow what the server says.
type proxy struct {
	listener net.Listener
	mute     atomic.Bool
	mu       sync.Mutex
	open     []net.Conn
}

func newProxy(t *testing.T, server string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.mu.Lock()
			p.open = append(p.open, client, upstream)
			p.mu.Unlock()
			group.Go(func() { _, _ = io.Copy(upstream, client); _ = upstream.Close() })
			group.Go(func() {
				_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
					if p.mute.Load() {
						return len(b), nil
					}
					return client.Write(b)
				}), upstream)
				_ = client.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.cut()
		group.Wait()
	})
	return p
}

// cut closes the connections there are.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		_ = c.Close()
	}
	p.open = nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// message is a delivery without a broker.
type message struct {
	jetstream.Msg
	sequence uint64
}

func (m message) Subject() string { return retry(ref).Subject() }

func (m message) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: m.sequence}}, nil
}

func TestLaneOrder(t *testing.T) {
	nc := newBroker(t).connect()
	r := newRun(orchestrator(t, nc, OrchestratorConfig{}), nil, binding{next: 1}, nil)
	order := func() (sequences []uint64) {
		for _, c := range r.lanes[ref.Prefix()].queue {
			sequences = append(sequences, c.sequence)
		}
		return sequences
	}
	for _, sequence := range []uint64{5, 9, 7, 5, 3} {
		r.add(message{sequence: sequence})
	}
	if got := order(); !slices.Equal(got, []uint64{3, 5, 7, 9}) {
		t.Errorf("before the first one begins: %v", got)
	}
	r.lanes[ref.Prefix()].begun = true
	r.add(message{sequence: 2})
	if got := order(); !slices.Equal(got, []uint64{3, 2, 5, 7, 9}) {
		t.Errorf("what has begun stays in front: %v", got)
	}
	if len(r.ready) != 1 || len(r.given) != 5 || r.resume() != 2 {
		t.Errorf("%d ready, %d given, resume at %d", len(r.ready), len(r.given), r.resume())
	}
}
