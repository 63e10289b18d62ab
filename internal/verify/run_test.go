package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/broker/brokertest"
)

// bench is a server with the streams.
type bench struct {
	nc *nats.Conn
	js jetstream.JetStream
}

func newBench(t *testing.T) *bench {
	t.Helper()
	server := brokertest.Start(t)
	var err error
	b := &bench{}
	if b.nc, err = nats.Connect(server.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.nc.Close)
	if b.js, err = jetstream.New(b.nc); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), b.js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// store publishes what streams have, each message under the sequence it has there.
func (b *bench) store(t *testing.T, s *streams) {
	t.Helper()
	for _, messages := range [][]Message{s.Inbox, s.Journal, s.Rejected} {
		for _, m := range messages {
			ack, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
			if err != nil {
				t.Fatal(err)
			}
			if ack.Sequence != m.Sequence {
				t.Fatalf("%s is stored at %d, want %d", m.Subject, ack.Sequence, m.Sequence)
			}
		}
	}
}

// settle acknowledges so many messages of the inbox, as workers would. The client library's own reader stumbles over the hostile ones.
func (b *bench) settle(t *testing.T, n int) {
	t.Helper()
	arrived := make(chan *nats.Msg, n)
	inbox, err := b.nc.ChanSubscribe(b.nc.NewInbox(), arrived)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inbox.Unsubscribe() }()
	request := fmt.Sprintf(`{"batch":%d}`, n)
	if err := b.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+recourse.StreamInbox+"."+broker.ConsumerInbox, inbox.Subject, []byte(request)); err != nil {
		t.Fatal(err)
	}
	for range n {
		select {
		case msg := <-arrived:
			if _, err := b.nc.Request(msg.Reply, []byte("+ACK"), time.Minute); err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("the inbox has nothing to settle")
		}
	}
}

func (b *bench) run(t *testing.T, scope Scope) (Result, []Violation) {
	t.Helper()
	var found []Violation
	scope.Report = func(v Violation) { found = append(found, v) }
	result, err := Run(t.Context(), b.js, scope)
	if err != nil {
		t.Fatal(err)
	}
	return result, found
}

// live are streams whose clock is that of the test: what waits is not due, and the pipeline is not registered, so that nothing is said about
// decisions but their fold.
func live(t *testing.T, executions int) *streams {
	s := newStreams(t)
	s.now = time.Now().UTC()
	for i := range executions {
		name := fmt.Sprintf("ex%d", i)
		s.fail(name, "s/a", 1, recourse.Verification)
		s.answer(name, 1, recourse.Retry)
		s.fail(name, "s/a", 2, recourse.Verification)
		if i%2 == 0 {
			s.end(name, recourse.Finished)
		}
		if i%100 == 0 {
			s.reject(name, "{")
		}
	}
	return s
}

// TestRun: streams of a server, in several batches; sound, then broken; all of them, of an execution, and since a time.
func TestRun(t *testing.T) {
	b := newBench(t)
	const executions = 400
	s := live(t, executions)
	b.store(t, s)
	b.settle(t, len(s.Inbox))
	scope := Scope{Grace: time.Hour, Skew: time.Second}
	var told []uint64
	scope.Progress = func(done, of uint64) { told = append(told, done, of) }
	result, v := b.run(t, scope)
	if len(v) > 0 {
		t.Fatalf("violated:%s", Join(v, 5))
	}
	want := Counts{Inputs: len(s.Inbox), Records: len(s.Journal), Commands: 3 * executions, Rejected: 4, Executions: executions, Pending: executions / 2, Unfolded: len(s.Journal)}
	if result.Counts != want || result.Unscheduled != executions/2 || time.Since(result.At).Abs() > time.Hour {
		t.Errorf("%+v, want %+v", result, want)
	}
	if of := uint64(len(s.Inbox) + len(s.Journal) + len(s.Rejected)); len(told) != 4 || !slices.Equal(told, []uint64{1000, of, 2000, of}) {
		t.Errorf("progress %v", told)
	}
	scope.Progress = nil

	// What nobody has settled yet is in flight; what was settled without a record is lost.
	f := s.failure("new", "s/a", 1, recourse.Timeout)
	body, err := recourse.Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	if _, err := b.js.Publish(t.Context(), f.Subject(recourse.FamilyFailure, "ci"), body); err != nil {
		t.Fatal(err)
	}
	if result, v = b.run(t, scope); len(v) > 0 || result.Undecided != 1 {
		t.Errorf("%+v%s", result, Join(v, 5))
	}
	b.settle(t, 1)
	if _, v = b.run(t, scope); !slices.Equal(found(v), []string{"I1"}) || v[0].Sequence != uint64(len(s.Inbox)+1) || v[0].Stream != recourse.StreamInbox {
		t.Errorf("lost:%s", Join(v, 5))
	}
	if result, v = b.run(t, Scope{Grace: time.Hour, Since: since}); !slices.Equal(found(v), []string{"I1"}) || result.Records != 0 || result.Inputs != 1 {
		t.Errorf("%+v%s", result, Join(v, 5))
	}
	if result, v = b.run(t, Scope{Grace: time.Hour, Since: time.Now().Add(time.Hour)}); len(v) > 0 || result.Inputs != 0 {
		t.Errorf("%+v%s", result, Join(v, 5))
	}
	if result, v = b.run(t, Scope{Grace: time.Hour, Prefix: refOf("ex7").Prefix()}); len(v) > 0 || result.Records != 3 || result.Inputs != 3 || result.Executions != 1 {
		t.Errorf("%+v%s", result, Join(v, 5))
	}

	// A forged record is found, by whatever is asked for.
	rec, err := recourse.DecodeRecord(s.Journal[len(s.Journal)-1].Data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: rec.Subject(), Data: s.Journal[len(s.Journal)-1].Data}); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"", rec.Prefix(), "recourse.acme.*.*.deploy.*"} {
		if _, v = b.run(t, Scope{Grace: time.Hour, Prefix: prefix}); !slices.Contains(found(v), "I6") || !slices.Contains(found(v), "I1") {
			t.Errorf("%q:%s", prefix, Join(v, 5))
		}
	}
}

// TestRunRegistered: with the pipeline in the bucket, decisions are made again.
func TestRunRegistered(t *testing.T) {
	b := newBench(t)
	kv, err := b.js.KeyValue(t.Context(), recourse.BucketPipelines)
	if err != nil {
		t.Fatal(err)
	}
	ref := refOf("ex1")
	for range 7 { // the revision that decides is 7
		if _, err := kv.Put(t.Context(), ref.PipelineKey(), []byte(`{pipeline: {identifier: deploy, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [{step: {identifier: a, failureStrategies: [{onFailure: {errors: [AllErrors], action: {type: Ignore}}}]}}]}}}}]}}`)); err != nil {
			t.Fatal(err)
		}
	}
	s := newStreams(t)
	s.now = time.Now().UTC()
	s.fail("ex1", "s/a", 1, recourse.Unknown) // decided by another plan
	b.store(t, s)
	b.settle(t, 1)
	if _, v := b.run(t, Scope{Grace: time.Hour}); !slices.Equal(found(v), []string{"I5"}) || !strings.Contains(v[0].What, "IgnoreFailed") && !strings.Contains(v[0].What, "Ignore") {
		t.Errorf("%s", Join(v, 5))
	}
}

// TestRunHostile: stored messages that look like words from the server, and headers like the broker's own, are read like any other.
func TestRunHostile(t *testing.T) {
	b := newBench(t)
	subject := refOf("ex1").Subject(recourse.FamilyFailure, "ci")
	for _, header := range []nats.Header{
		{"Status": {"204"}}, {"Status": {"404"}, "Nats-Num-Pending": {"0"}}, {"Status": {"503"}}, {"Nats-Sequence": {"99"}, "Nats-Subject": {"x"}, "Nats-Time-Stamp": {"never"}}, nil,
	} {
		if _, err := b.nc.RequestMsg(&nats.Msg{Subject: subject, Header: header}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	result, v := b.run(t, Scope{Grace: time.Hour})
	if len(v) > 0 || result.Inputs != 5 || result.Undecided != 5 {
		t.Errorf("%+v%s", result, Join(v, 5))
	}
	b.settle(t, 5)
	if _, v = b.run(t, Scope{Grace: time.Hour}); len(v) != 5 || v[4].Sequence != 5 || v[3].Where != subject {
		t.Errorf("%s", Join(v, 10))
	}
}

func TestRunErrors(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, b.js, Scope{}); err == nil {
		t.Error("no error where the context has ended")
	}
	if result, v := b.run(t, Scope{}); len(v) > 0 || result.Counts != (Counts{}) || result.Unscheduled != 0 {
		t.Errorf("%+v of empty streams%s", result, Join(v, 5))
	}
	if err := b.js.DeleteStream(t.Context(), recourse.StreamRejected); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), b.js, Scope{}); err == nil || !strings.Contains(err.Error(), recourse.StreamRejected) {
		t.Errorf("a stream is missing: %v", err)
	}
}
