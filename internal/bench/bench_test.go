package bench

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
)

// server returns a connection to a server with the streams.
func server(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Sync: broker.SyncInterval})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Shutdown(context.Background()) })
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// TestLoad: failures are as large as they should be, of every type, most of executions of their own, and the same for the same seed.
func TestLoad(t *testing.T) {
	_, js := server(t)
	l, err := newLoad(t.Context(), js, 7, 20)
	if err != nil {
		t.Fatal(err)
	}
	failures := l.first("run", 1000)
	executions, types, keys := map[string]int{}, map[recourse.ErrorTypes]int{}, map[string]bool{}
	for _, f := range failures {
		if err := f.Validate(); err != nil {
			t.Fatal(err)
		}
		body, err := recourse.Encode(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) < bodySize-50 || len(body) > bodySize+50 {
			t.Errorf("a body of %d bytes", len(body))
		}
		executions[f.Execution]++
		types[f.Errors]++
		keys[f.Prefix()+f.Key()] = true
	}
	if len(keys) != len(failures) || len(executions) < 650 || len(executions) > 850 || len(types) != 6 {
		t.Errorf("%d keys, %d executions, %d types", len(keys), len(executions), len(types))
	}
	for i, f := range l.second(failures) {
		if f.Attempt != 2 || f.Node != failures[i].Node || f.Execution != failures[i].Execution || failures[i].Attempt != 1 {
			t.Fatalf("%v after %v", f, failures[i])
		}
	}
	again, err := newLoad(t.Context(), js, 7, 20)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range again.first("run", 1000) {
		if f.Message != failures[i].Message || f.Ref != failures[i].Ref {
			t.Fatal("another load from the same seed")
		}
	}
}

// TestBare: one message for each failure, chained within an execution, also after another loop.
func TestBare(t *testing.T) {
	nc, js := server(t)
	l, err := newLoad(t.Context(), js, 7, 2)
	if err != nil {
		t.Fatal(err)
	}
	const n = 500
	first := l.first("run", n)
	for i, failures := range [][]*recourse.Failure{first, l.second(first)} {
		if err := publish(t.Context(), nc, failures); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Bare(ctx, nc, 1234, uint64(i), func() {}) }()
		b := &bench{js: js}
		if b.inbox, err = js.Stream(t.Context(), recourse.StreamInbox); err != nil {
			t.Fatal(err)
		}
		if b.journal, err = js.Stream(t.Context(), recourse.StreamJournal); err != nil {
			t.Fatal(err)
		}
		if err := b.settled(t.Context()); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		d, err := b.rate(t.Context(), uint64(i*n), n)
		if err != nil || d.perSecond <= 0 {
			t.Fatalf("%v, %v", d, err)
		}
		if _, err := b.rate(t.Context(), uint64(i*n), n+1); err == nil {
			t.Error("a missing record is not seen")
		}
		msg, err := b.journal.GetMsg(t.Context(), uint64(i*n+1))
		if err != nil || len(msg.Data) != 1234 {
			t.Fatalf("%v, %v", msg, err)
		}
	}
	// Without knowing the chains the expectation fails: the loop really asks for it.
	if err := publish(t.Context(), nc, l.second(first)[:1]); err != nil {
		t.Fatal(err)
	}
	if err := Bare(t.Context(), nc, 1, 0, func() {}); err == nil || !strings.Contains(err.Error(), "append") {
		t.Errorf("got %v", err)
	}
}

func TestNumbers(t *testing.T) {
	if least, middle, most := spread([]float64{3, 1, 2}); least != 1 || middle != 2 || most != 3 {
		t.Errorf("got %v, %v, %v", least, middle, most)
	}
	var d []time.Duration
	for i := range 1000 {
		d = append(d, time.Duration(1000-i))
	}
	if q := quantiles(d); q != (Quantiles{P50: 501, P99: 991, P999: 1000, Max: 1000}) {
		t.Errorf("got %+v", q)
	}
}
