package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/recourse-dev/recourse"
)

func TestMain(m *testing.M) {
	// The embedded server looks at the machine once in a while for as long as the process lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/pse.periodic"))
}

// patience is how long a test waits for what must happen; it is not what it takes.
const patience = time.Minute

// ref is the execution of most tests.
var ref = recourse.Ref{Account: "acme", Org: "default", Project: "shop", Pipeline: "deploy", Execution: "ex42"}

// broker is an embedded server that can be stopped and started again under the same address and with the same store.
type broker struct {
	t    *testing.T
	opts *server.Options
	srv  *server.Server
}

func newBroker(t *testing.T, change ...func(*server.Options)) *broker {
	t.Helper()
	b := &broker{t: t, opts: &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true}}
	for _, c := range change {
		c(b.opts)
	}
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *broker) start() {
	b.t.Helper()
	opts := b.opts.Clone()
	srv, err := server.NewServer(opts)
	if err != nil {
		b.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		b.t.Fatal("the server does not start")
	}
	b.srv = srv
	b.opts.Port = opts.Port
	if _, port, ok := cutLast(srv.Addr().String(), ':'); ok {
		b.opts.Port = atoi(port)
	}
}

func (b *broker) stop() {
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
}

func (b *broker) url() string { return b.srv.ClientURL() }

func cutLast(s string, sep byte) (string, string, bool) {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == sep {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func atoi(s string) (n int) {
	for _, c := range s {
		n = 10*n + int(c-'0')
	}
	return n
}

// connect connects with the package's own settings.
func (b *broker) connect(opts ...nats.Option) *nats.Conn {
	b.t.Helper()
	nc, err := Connect(b.t.Context(), Settings{Server: b.url(), Name: b.t.Name()}, append([]nats.Option{
		nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectJitter(0, 0), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, opts...)...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(nc.Close)
	return nc
}

// provision makes the streams and the bucket.
func provision(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	streams := map[string][]recourse.Family{
		recourse.StreamInbox:   {recourse.FamilyFailure, recourse.FamilyIntervention, recourse.FamilyLifecycle},
		recourse.StreamJournal: {recourse.FamilyCommand, recourse.FamilyDecision},
	}
	for name, families := range streams {
		cfg := jetstream.StreamConfig{
			Name: name, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, DenyDelete: true, DenyPurge: true,
			AllowDirect: true, MaxMsgSize: recourse.MaxSize,
		}
		for _, f := range families {
			cfg.Subjects = append(cfg.Subjects, recourse.Filter(f))
		}
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: recourse.BucketPipelines, History: 8}); err != nil {
		t.Fatal(err)
	}
	return js
}

// worker appends records by hand.
type worker struct {
	t        *testing.T
	js       jetstream.JetStream
	versions map[recourse.Ref]uint64
	previous map[recourse.Ref]uint64
}

func newWorker(t *testing.T, js jetstream.JetStream) *worker {
	return &worker{t, js, make(map[recourse.Ref]uint64), make(map[recourse.Ref]uint64)}
}

// append gives r its version and predecessor and returns its stream sequence.
func (w *worker) append(r *recourse.Record) uint64 {
	w.t.Helper()
	return w.appendWith(r, nil)
}

func (w *worker) appendWith(r *recourse.Record, header nats.Header) uint64 {
	w.t.Helper()
	w.versions[r.Ref]++
	r.Schema, r.Version, r.Previous = recourse.Schema, w.versions[r.Ref], w.previous[r.Ref]
	if r.At.IsZero() {
		r.At = time.Date(2026, 3, 1, 12, 0, int(r.Version), 0, time.UTC)
	}
	body, err := recourse.Encode(r)
	if err != nil {
		w.t.Fatal(err)
	}
	ack, err := w.js.PublishMsg(context.WithoutCancel(w.t.Context()), &nats.Msg{Subject: r.Subject(), Data: body, Header: header})
	if err != nil {
		w.t.Fatal(err)
	}
	w.previous[r.Ref] = ack.Sequence
	return ack.Sequence
}

// retry is a command that needs nothing else.
func retry(ref recourse.Ref) *recourse.Record {
	return &recourse.Record{Ref: ref, Decision: recourse.Decision{
		Node: recourse.Node{Path: "prod/rollout"}, Attempt: 1, Action: recourse.Retry, Reason: recourse.RetryDue,
		Command: recourse.Command{Verb: recourse.VerbRetry, Scope: "prod/rollout", Attempt: 2},
	}}
}

func execution(name string) recourse.Ref {
	r := ref
	r.Execution = name
	return r
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		case <-tick.C:
		}
	}
}

// receive takes one value from a channel.
func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("not within %s: %s", patience, what)
		panic("unreachable")
	}
}

func soon(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

var errTest = errors.New("test")
