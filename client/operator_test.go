package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

func operator(t *testing.T, nc *nats.Conn) *Operator {
	t.Helper()
	o, err := NewOperator(nc, "ann")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func answer() recourse.Answer {
	return recourse.Answer{Ref: ref, Intervention: 1, Action: recourse.Retry, Why: "the registry is back; token=abcdefgh"}
}

// decide appends what decided gives for each answer that arrives in the inbox. The test may have seen a record, and be over, before its
// append returns here; so its end waits for that.
func (w *worker) decide(nc *nats.Conn, decided func(a *recourse.Answer) *recourse.Record) {
	w.t.Helper()
	var busy sync.Mutex
	sub, err := nc.Subscribe(recourse.Filter(recourse.FamilyIntervention), func(msg *nats.Msg) {
		busy.Lock()
		defer busy.Unlock()
		a, err := recourse.DecodeAnswer(msg.Data)
		if err != nil {
			w.t.Error(err)
			return
		}
		r := decided(a)
		if r == nil {
			return
		}
		r.Ref = a.Ref
		r.Input = recourse.Input{Key: "intervention/" + a.ID, Answer: &recourse.AnswerInput{
			Intervention: a.Intervention, Action: a.Action, Who: a.Who, Why: a.Why,
		}}
		w.append(r)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = sub.Unsubscribe()
		busy.Lock()
	})
}

func accepted(recourse.Ref) *recourse.Record {
	r := retry(ref)
	r.Reason = recourse.HumanDecision
	return r
}

func TestAnswer(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	w.append(retry(ref))
	w.decide(nc, func(a *recourse.Answer) *recourse.Record {
		w.append(retry(a.Ref)) // others come in between
		return accepted(a.Ref)
	})
	ctx, _ := spanContext(t.Context())
	record, err := operator(t, nc).Answer(ctx, answer())
	if err != nil {
		t.Fatal(err)
	}
	if record.Reason != recourse.HumanDecision || record.Version != 3 {
		t.Errorf("record %+v", record)
	}
	msg := inbox(t, js, 1)
	got, err := recourse.DecodeAnswer(msg.Data)
	if err != nil || got.ID == "" || got.At.IsZero() || strings.Contains(got.Why, "abcdefgh") || record.Input.Key != "intervention/"+got.ID {
		t.Errorf("answer %+v, %v", got, err)
	}
	if msg.Subject != ref.Subject(recourse.FamilyIntervention, "ann") || HeaderCarrier(msg.Header).Get("traceparent") == "" {
		t.Errorf("%s %v", msg.Subject, msg.Header)
	}
	noConsumers(t, js)
}

func noConsumers(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	stream, err := js.Stream(t.Context(), recourse.StreamJournal)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}

func TestAnswerRefused(t *testing.T) {
	nc := newBroker(t).connect()
	w := newWorker(t, provision(t, nc))
	w.decide(nc, func(*recourse.Answer) *recourse.Record {
		return &recourse.Record{Decision: recourse.Decision{
			Reason: recourse.AnswerRefused, Detail: "answered by bob with Abort", Kind: recourse.KindRefused,
		}}
	})
	_, err := operator(t, nc).Answer(t.Context(), answer()) // of an execution without any record
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("got %v", err)
	}
	if refused.Reason != recourse.AnswerRefused || refused.Detail != "answered by bob with Abort" || refused.Record.Version != 1 ||
		err.Error() != "answer refused: AnswerRefused: answered by bob with Abort" {
		t.Errorf("got %+v: %v", refused, err)
	}
}

func TestAnswerUndecided(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	o := operator(t, nc)
	a := answer()
	a.ID = "a1"
	_, err := o.Answer(soon(t, 300*time.Millisecond), a)
	if !errors.Is(err, ErrUndecided) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"a1"`) {
		t.Fatalf("got %v", err)
	}
	noConsumers(t, js)
	// Now it is decided; asking again with the ID finds it, although the decision is older than the second answer.
	first := accepted(ref)
	first.Input = recourse.Input{Key: "intervention/a1", Answer: &recourse.AnswerInput{Intervention: 1, Action: recourse.Retry}}
	w.append(first)
	w.append(retry(ref))
	record, err := o.Answer(soon(t, patience), a)
	if err != nil || record.Version != 1 {
		t.Errorf("got %+v, %v", record, err)
	}
	// Another answer under the same ID is not decided by that: it conflicts.
	w.decide(nc, func(*recourse.Answer) *recourse.Record {
		return &recourse.Record{Decision: recourse.Decision{Reason: recourse.Conflicting, Kind: recourse.KindConflicting}}
	})
	a.Action = recourse.Abort
	var refused *RefusedError
	if _, err := o.Answer(soon(t, patience), a); !errors.As(err, &refused) || refused.Reason != recourse.Conflicting {
		t.Errorf("got %v", err)
	}
}

func TestAnswerErrors(t *testing.T) {
	t.Run("invalid", func(t *testing.T) {
		nc := newBroker(t).connect()
		js := provision(t, nc)
		for _, change := range []func(*recourse.Answer){
			func(a *recourse.Answer) { a.Why = "" },
			func(a *recourse.Answer) { a.Action = 0 },
			func(a *recourse.Answer) { a.Intervention = 0 },
			func(a *recourse.Answer) { a.Execution = "" },
			func(a *recourse.Answer) { a.ID = "\n" },
		} {
			a := answer()
			change(&a)
			if _, err := operator(t, nc).Answer(t.Context(), a); err == nil || errors.Is(err, ErrUndecided) {
				t.Errorf("%+v: %v", a, err)
			}
		}
		stream, _ := js.Stream(t.Context(), recourse.StreamInbox)
		if n := stream.CachedInfo().State.Msgs; n != 0 {
			t.Errorf("%d answers are stored", n)
		}
	})
	t.Run("no journal", func(t *testing.T) {
		nc := newBroker(t).connect()
		_, err := operator(t, nc).Answer(t.Context(), answer())
		if !errors.Is(err, jetstream.ErrStreamNotFound) || !strings.Contains(err.Error(), "provision") {
			t.Errorf("got %v", err)
		}
		if _, err := operator(t, nc).Open(t.Context(), recourse.Ref{}); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("denied", func(t *testing.T) {
		b := newBroker(t, func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "admin", Password: "admin-pw"},
				{Username: "ann", Password: "ann-pw", Permissions: &server.Permissions{Publish: &server.SubjectPermission{
					Allow: []string{"$JS.API.STREAM.INFO.*", "$JS.API.DIRECT.GET.>", "recourse.*.*.*.*.*.intervention.ann"},
				}}},
			}
		})
		provision(t, b.connect(nats.UserInfo("admin", "admin-pw")))
		nc := b.connect(nats.UserInfo("ann", "ann-pw"))
		if _, err := operator(t, nc).Answer(soon(t, patience), answer()); !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "CONSUMER.CREATE") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAnswerOutlivesTheServer(t *testing.T) {
	b := newBroker(t)
	nc := b.connect()
	w := newWorker(t, provision(t, nc))
	arrived := make(chan *recourse.Answer, 10)
	w.decide(nc, func(a *recourse.Answer) *recourse.Record { arrived <- a; return nil })
	type result struct {
		record *recourse.Record
		err    error
	}
	done := make(chan result, 1)
	go func() {
		record, err := operator(t, nc).Answer(soon(t, patience), answer())
		done <- result{record, err}
	}()
	a := receive(t, "the answer", arrived)
	b.stop()
	eventually(t, "the connection is lost", func() bool { return nc.Status() == nats.RECONNECTING })
	b.start()
	eventually(t, "the stream is back", func() bool { _, err := w.js.Stream(t.Context(), recourse.StreamJournal); return err == nil })
	r := accepted(ref)
	r.Input = recourse.Input{Key: "intervention/" + a.ID, Answer: &recourse.AnswerInput{Intervention: 1, Action: recourse.Retry}}
	w.append(r)
	if got := receive(t, "the decision", done); got.err != nil || got.record.Version != 1 {
		t.Errorf("got %+v, %v", got.record, got.err)
	}
}

// pause opens an intervention.
func pause(ref recourse.Ref, node string, deadline time.Time) *recourse.Record {
	allowed := recourse.ActionsOf(recourse.Retry, recourse.Abort)
	return &recourse.Record{
		Ref: ref,
		Input: recourse.Input{Failure: &recourse.FailureInput{
			Errors: recourse.ErrorTypesOf(recourse.Verification), Message: node + " failed",
		}},
		Decision: recourse.Decision{
			Node: recourse.Node{Path: node}, Attempt: 2, Action: recourse.ManualIntervention, Reason: recourse.StrategyMatched,
			Command: recourse.Command{Verb: recourse.VerbPause, Scope: node},
			Wait: recourse.Wait{
				Kind: recourse.WaitIntervention, Node: recourse.Node{Path: node}, Attempt: 2, DueAt: deadline, Allowed: allowed,
				OnTimeout: recourse.MarkAsFailure, Level: recourse.LevelStage, Strategy: "stages[0]",
			},
		},
	}
}

func TestOpen(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	o := operator(t, nc)
	deadline := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	if open, err := o.Open(t.Context(), recourse.Ref{}); err != nil || len(open) != 0 {
		t.Fatalf("of an empty journal: %v, %v", open, err)
	}
	// with appends a record that has its state, or names base instead.
	with := func(r *recourse.Record, base uint64, waits ...recourse.Wait) uint64 {
		t.Helper()
		r.Wait.Version = 0
		if r.Wait.Kind != 0 {
			r.Wait.Version = w.versions[r.Ref] + 1
		}
		if r.StateBase = base; base == 0 {
			r.State = &recourse.State{Waits: waits}
		}
		return w.append(r)
	}
	wait := func(node string, version uint64, due time.Time) recourse.Wait {
		x := pause(ref, node, due).Wait
		x.Version = version
		return x
	}
	// One open intervention, in the state of the newest record.
	simple := execution("simple")
	with(pause(simple, "prod/a", deadline.Add(time.Hour)), 0, wait("prod/a", 1, deadline.Add(time.Hour)))
	// Answered.
	closed := execution("closed")
	with(pause(closed, "prod/a", deadline), 0, wait("prod/a", 1, deadline))
	with(retry(closed), 0)
	// A state that three records are folded onto: of three interventions one is answered, one is cancelled, one is left, and one
	// is opened. The wait of a retry is not an intervention.
	folded := execution("folded")
	with(pause(folded, "prod/a", deadline), 0, wait("prod/a", 1, deadline))
	with(pause(folded, "prod/b", deadline), 0, wait("prod/a", 1, deadline), wait("prod/b", 2, deadline))
	base := with(pause(folded, "prod/c", deadline), 0, wait("prod/a", 1, deadline), wait("prod/b", 2, deadline), wait("prod/c", 3, deadline))
	answered := retry(folded)
	answered.Ends = 1
	with(answered, base)
	rollback := retry(folded)
	rollback.Cancelled = []uint64{2}
	with(rollback, base)
	with(pause(folded, "prod/d", deadline.Add(-time.Hour)), base)
	scheduled := &recourse.Record{Ref: folded, Decision: recourse.Decision{Reason: recourse.StrategyMatched, Kind: recourse.KindRetryScheduled,
		Wait: recourse.Wait{Kind: recourse.WaitRetry, Node: recourse.Node{Path: "prod/e"}, DueAt: deadline}}}
	with(scheduled, base)
	// Never paused.
	with(retry(execution("retried")), 0)

	open, err := o.Open(t.Context(), recourse.Ref{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range open {
		got = append(got, fmt.Sprintf("%s/%d %s %s", i.Execution, i.ID, i.Path, i.Message))
	}
	want := []string{"folded/6 prod/d prod/d failed", "folded/3 prod/c prod/c failed", "simple/1 prod/a prod/a failed"}
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	one := open[2]
	if one.Ref != simple || one.Attempt != 2 || !one.Deadline.Equal(deadline.Add(time.Hour)) || one.OnTimeout != recourse.MarkAsFailure ||
		one.Allowed != recourse.ActionsOf(recourse.Retry, recourse.Abort) || one.Level != recourse.LevelStage || one.Strategy != "stages[0]" ||
		one.Errors != recourse.ErrorTypesOf(recourse.Verification) || !one.OpenedAt.Equal(time.Date(2026, 3, 1, 12, 0, 1, 0, time.UTC)) {
		t.Errorf("got %+v", one)
	}
	for filter, want := range map[recourse.Ref]int{
		{Account: "acme"}: 3, {Account: "other"}: 0, {Execution: "folded"}: 2, simple: 1, closed: 0, {Pipeline: "dep"}: 0,
	} {
		if open, err := o.Open(t.Context(), filter); err != nil || len(open) != want {
			t.Errorf("%+v: %d, %v; want %d", filter, len(open), err, want)
		}
	}
	noConsumers(t, js)

	// A chain that does not lead to its base is an error, not an endless walk.
	broken := execution("broken")
	with(pause(broken, "prod/a", deadline), 0, wait("prod/a", 1, deadline))
	for _, wrong := range []uint64{1, 1 << 40} {
		with(retry(broken), wrong)
		if wrong > 1 {
			if _, err := o.Open(t.Context(), broken); err == nil || !strings.Contains(err.Error(), "state base") {
				t.Errorf("base %d: %v", wrong, err)
			}
		}
	}
}

func TestOpenMany(t *testing.T) {
	const executions = 400
	nc := newBroker(t).connect()
	w := newWorker(t, provision(t, nc))
	deadline := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	for i := range executions {
		r := pause(execution(fmt.Sprintf("e%03d", i)), "prod/a", deadline)
		r.Wait.Version = 1
		r.State = &recourse.State{Waits: []recourse.Wait{r.Wait}}
		w.append(r)
	}
	began := time.Now()
	open, err := operator(t, nc).Open(t.Context(), recourse.Ref{})
	if err != nil || len(open) != executions {
		t.Fatalf("%d, %v", len(open), err)
	}
	t.Logf("%d open interventions in %s", executions, time.Since(began))
	if !slices.IsSortedFunc(open, func(a, b OpenIntervention) int { return strings.Compare(a.Execution, b.Execution) }) {
		t.Error("equal deadlines are not in the order of the executions")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := operator(t, nc).Open(ctx, recourse.Ref{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
