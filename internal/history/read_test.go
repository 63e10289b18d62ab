package history

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/broker/brokertest"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/publish"
)

// bench is a server with a journal.
type bench struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	journal *publish.Journal
}

func newBench(t *testing.T) *bench {
	t.Helper()
	server := brokertest.Start(t)
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	b := &bench{}
	if b.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), b.js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	if b.journal, err = publish.NewJournal(nc, publish.Config{}); err != nil {
		t.Fatal(err)
	}
	if b.stream, err = b.js.Stream(t.Context(), recourse.StreamJournal); err != nil {
		t.Fatal(err)
	}
	return b
}

// grow appends records to an execution, each the failure of another node.
func (b *bench) grow(t *testing.T, ref recourse.Ref, n int) {
	t.Helper()
	head := new(decide.Head)
	for i := range n {
		rec := new(recourse.Record)
		in := &decide.Input{Ref: ref, Node: recourse.Node{Path: fmt.Sprintf("s/n%d", i)}, Attempt: 1, Input: recourse.Input{
			Key: fmt.Sprintf("failure/s/n%d/1", i), Sequence: uint64(i + 1), Digest: "d", Principal: "ci", Failure: &recourse.FailureInput{}}}
		if result, _ := decide.Decide(rec, decide.Pipeline{}, head, in, epoch.Add(time.Duration(i)*time.Second)); result != decide.Decided {
			t.Fatal(result)
		}
		body, err := decide.Seal(rec, head)
		if err != nil {
			t.Fatal(err)
		}
		sequence, err := b.journal.Append(t.Context(), ref.Prefix(), rec, body, nats.Header{"traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}})
		if err != nil {
			t.Fatal(err)
		}
		head.Appended(rec, sequence)
	}
}

func TestFindAndRead(t *testing.T) {
	b := newBench(t)
	named := func(pipeline, execution string) recourse.Ref {
		return recourse.Ref{Account: "acme", Org: "shop", Project: "web", Pipeline: pipeline, Execution: execution}
	}
	long := strings.Repeat("x", 200)
	for _, ref := range []recourse.Ref{
		named("deploy", "ex42"), named("deploy", "ex43"), named("build", "ex43"), named("deploy", "a/b"), named("a", "b"), named("deploy", "ex4"),
		named("deploy", "*.>"), named("deploy", "ü \u202E<b>"), named("deploy", long), named("deploy", "other-1"), named("deploy", "ex42.and more"),
	} {
		b.grow(t, ref, 1+len(ref.Execution)%4)
	}
	for _, test := range []struct {
		filter recourse.Ref
		name   string
		want   recourse.Ref // none: not found
		meant  string       // where several are
	}{
		{name: "ex42", want: named("deploy", "ex42")},
		{name: "ex4", want: named("deploy", "ex4")}, // an id comes before the beginning of one
		{name: "deploy/ex43", want: named("deploy", "ex43")},
		{name: "acme/shop/web/build/ex43", want: named("build", "ex43")},
		{name: "shop/web/build/ex43", want: named("build", "ex43")},
		{name: "ex43", meant: "acme/shop/web/build/ex43 acme/shop/web/deploy/ex43"},
		{name: "ex43", filter: recourse.Ref{Pipeline: "build"}, want: named("build", "ex43")},
		{name: "oth", want: named("deploy", "other-1")},
		{name: "deploy/oth", want: named("deploy", "other-1")},
		{name: "build/oth"},
		{name: "e", meant: "acme/shop/web/build/ex43 acme/shop/web/deploy/ex4 acme/shop/web/deploy/ex42 acme/shop/web/deploy/ex42.and more acme/shop/web/deploy/ex43"},
		{name: "a/b", want: named("deploy", "a/b")}, // an id with a slash comes before ids joined by one
		{name: "a/b", filter: recourse.Ref{Pipeline: "a"}, want: named("a", "b")},
		{name: "*.>", want: named("deploy", "*.>")},
		{name: "ü \u202E<b>", want: named("deploy", "ü \u202E<b>")},
		{name: long, want: named("deploy", long)},
		{name: "*", want: named("deploy", "*.>")}, // its beginning, no wildcard
		{name: ">"}, {name: "ex42.>"}, {name: "unknown"}, {name: "/"}, {name: "other/shop/web/deploy/ex42"}, {name: strings.Repeat("y", 5000)},
	} {
		prefix, err := Find(t.Context(), b.stream, test.filter, test.name)
		var ambiguous *AmbiguousError
		switch {
		case test.meant != "":
			var meant []string
			if errors.As(err, &ambiguous) {
				for _, ref := range ambiguous.Meant {
					meant = append(meant, ref.String())
				}
			}
			if got := strings.Join(meant, " "); got != test.meant {
				t.Errorf("%q: %q, %v, want %q", test.name, got, err, test.meant)
			}
			continue
		case test.want == recourse.Ref{}:
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%q: %s, %v, want none", test.name, prefix, err)
			}
			continue
		case err != nil || prefix != test.want.Prefix():
			t.Errorf("%q: %s, %v, want %s", test.name, prefix, err, test.want.Prefix())
			continue
		}
		chain, err := Read(t.Context(), b.stream, prefix)
		if err != nil || len(chain) != 1+len(test.want.Execution)%4 {
			t.Fatalf("%q: %d records, %v", test.name, len(chain), err)
		}
		for i, msg := range chain {
			if msg.Version != uint64(i+1) || msg.Ref != test.want || msg.Trace != "0af7651916cd43dd8448eb211c80319c" {
				t.Errorf("%q: record %d is %+v", test.name, i, msg)
			}
		}
	}
}

func TestAmbiguousIsBounded(t *testing.T) {
	b := newBench(t)
	for i := range 13 {
		b.grow(t, recourse.Ref{Account: "acme", Org: "shop", Project: "web", Pipeline: fmt.Sprintf("p%d", i), Execution: "ex"}, 1)
	}
	_, err := Find(t.Context(), b.stream, recourse.Ref{}, "ex")
	var ambiguous *AmbiguousError
	if !errors.As(err, &ambiguous) || len(ambiguous.Meant) != 10 || ambiguous.More != 3 || !strings.Contains(err.Error(), "and 3 more") {
		t.Errorf("%v", err)
	}
}

// TestReadGaps: a chain whose beginning is gone is told from there on; one that is broken is not told.
func TestReadGaps(t *testing.T) {
	b := newBench(t)
	b.grow(t, ref, 4)
	kept, err := b.js.Stream(t.Context(), recourse.StreamJournal)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), b.stream, "recourse.a.b.c.d.none"); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("no record: %v", err)
	}
	// Retention takes the first two.
	cfg := kept.CachedInfo().Config
	cfg.MaxMsgs, cfg.Discard = 2, jetstream.DiscardOld
	if _, err := b.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	chain, err := Read(t.Context(), b.stream, ref.Prefix())
	if err != nil || len(chain) != 2 || chain[0].Version != 3 {
		t.Fatalf("%d records, %v", len(chain), err)
	}
	if timeline := Of(chain, epoch); timeline.Missing != 2 {
		t.Errorf("%d are missing", timeline.Missing)
	}
	cfg.MaxMsgs = -1
	if _, err := b.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	other := ref
	other.Execution = "broken"
	rec := *chain[1].Record
	rec.Ref, rec.Version, rec.Previous = other, 9, chain[1].Sequence
	body, err := recourse.Encode(&rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.Publish(t.Context(), rec.Subject(), body); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), b.stream, other.Prefix()); err == nil || !strings.Contains(err.Error(), "predecessor") {
		t.Errorf("a chain that leads into another: %v", err)
	}
	if _, err := b.js.Publish(t.Context(), rec.Subject(), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), b.stream, other.Prefix()); err == nil || !strings.Contains(err.Error(), "sequence 6") {
		t.Errorf("a record that cannot be read: %v", err)
	}
}
