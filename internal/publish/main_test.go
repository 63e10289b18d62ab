package publish

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/decide"
)

func TestMain(m *testing.M) {
	// The embedded server looks at the machine once in a while for as long as the process lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/pse.periodic"))
}

// patience is how long a test waits for what must happen; it is not what it takes.
const patience = time.Minute

var ref = recourse.Ref{Account: "acme", Org: "default", Project: "shop", Pipeline: "deploy", Execution: "ex42"}

// provisioned returns a connection to a server with the streams, and a journal on it.
func provisioned(t *testing.T, cfg Config) (*broker.Embedded, *nats.Conn, jetstream.JetStream, *Journal) {
	t.Helper()
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Sync: broker.SyncInterval})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, server) })
	nc, err := nats.Connect(server.URL(), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
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
	journal, err := NewJournal(nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return server, nc, js, journal
}

func stop(t *testing.T, server *broker.Embedded) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// decided returns the record of a failure on a head, and its body. The head is changed.
func decided(t *testing.T, head *decide.Head, node string, attempt int) (*recourse.Record, []byte) {
	t.Helper()
	rec, body := decideOn(t, ref, head, node, attempt)
	if rec == nil {
		t.Fatal("decided before")
	}
	return rec, body
}

// decideOn returns nil where the failure is in the chain already.
func decideOn(t *testing.T, ref recourse.Ref, head *decide.Head, node string, attempt int) (*recourse.Record, []byte) {
	t.Helper()
	rec := new(recourse.Record)
	f := recourse.Failure{Ref: ref, Node: recourse.Node{Path: node}, Attempt: attempt}
	in := &decide.Input{Ref: ref, Node: f.Node, Attempt: attempt, Input: recourse.Input{Key: f.Key(), Digest: f.Digest(), Sequence: 1, Failure: &recourse.FailureInput{}}}
	if result, _ := decide.Decide(rec, decide.Pipeline{}, head, in, time.Now()); result != decide.Decided {
		return nil, nil
	}
	body, err := decide.Seal(rec, head)
	if err != nil {
		t.Fatal(err)
	}
	return rec, body
}

// grow appends failures of so many nodes to a chain and returns where it stands.
func grow(t *testing.T, j *Journal, nodes []string) *decide.Head {
	t.Helper()
	head := new(decide.Head)
	for _, node := range nodes {
		rec, body := decided(t, head, node, 1)
		sequence, err := j.Append(t.Context(), ref.Prefix(), rec, body, nats.Header{})
		if err != nil {
			t.Fatal(err)
		}
		head.Appended(rec, sequence)
	}
	return head
}
