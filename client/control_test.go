package client

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// withControls lets the inbox take controls.
func withControls(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	stream, err := js.Stream(t.Context(), recourse.StreamInbox)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.Subjects = append(cfg.Subjects, recourse.Filter(recourse.FamilyControl))
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

// decideControls appends what decided gives for each control that arrives in the inbox.
func (w *worker) decideControls(nc *nats.Conn, decided func(c *recourse.Control) *recourse.Record) {
	w.t.Helper()
	sub, err := nc.Subscribe(recourse.Filter(recourse.FamilyControl), func(msg *nats.Msg) {
		c, err := recourse.DecodeControl(msg.Data)
		if err != nil {
			w.t.Error(err)
			return
		}
		r := decided(c)
		r.Ref = c.Ref
		r.Input = recourse.Input{Key: "control/" + c.ID, Control: &recourse.ControlInput{Wait: c.Wait, Do: c.Do, For: c.For, Who: c.Who, Why: c.Why}}
		w.append(r)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = sub.Unsubscribe() })
}

// waiting is a record that waits for a retry, with the state it leaves.
func waiting(ref recourse.Ref, version uint64, kind string, due time.Time, also ...recourse.Wait) *recourse.Record {
	r := &recourse.Record{
		Ref:   ref,
		Input: recourse.Input{Failure: &recourse.FailureInput{Errors: recourse.ErrorTypesOf(recourse.Connectivity), Message: "no route"}},
		Decision: recourse.Decision{
			Node: recourse.Node{Path: "prod/g/a"}, Attempt: 1, Action: recourse.Retry, Reason: recourse.StrategyMatched, Kind: kind,
			Wait: recourse.Wait{
				Version: version, Kind: recourse.WaitRetry, Node: recourse.Node{Path: "prod/g/a"}, Attempt: 1, DueAt: due,
				Level: recourse.LevelStepGroup, Scope: "prod/g", Strategy: "stages[0]", Retry: 1, Of: 3, Then: recourse.Abort,
			},
		},
	}
	if kind == recourse.KindGroupRetryScheduled {
		r.Wait.Kind = recourse.WaitRetryGroup
	}
	r.State = &recourse.State{Waits: append(also, r.Wait)}
	return r
}

func TestRetries(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	w := newWorker(t, js)
	o := operator(t, nc)
	due := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	if pending, err := o.Retries(t.Context(), recourse.Ref{}); err != nil || len(pending) != 0 {
		t.Fatalf("of an empty journal: %v, %v", pending, err)
	}
	simple, group := execution("simple"), execution("group")
	w.append(waiting(simple, 1, recourse.KindRetryScheduled, due.Add(time.Hour)))
	w.append(waiting(group, 1, recourse.KindGroupRetryScheduled, due.Add(2*time.Hour)))

	// Postponed twice: the failure is behind the first record, who and why are of the last.
	moved := execution("moved")
	w.append(waiting(moved, 1, recourse.KindRetryScheduled, due))
	for version, why := range []string{2: "maintenance", 3: "still"} {
		if version < 2 {
			continue
		}
		again := waiting(moved, uint64(version), recourse.KindRetryPostponed, due.Add(time.Duration(version)*time.Minute))
		again.Input = recourse.Input{Control: &recourse.ControlInput{Wait: uint64(version - 1), Do: recourse.Postpone, Who: "bob", Why: why}}
		again.Ends = uint64(version - 1)
		w.append(again)
	}
	// Over: one ran, and one execution ended.
	ran, ended := execution("ran"), execution("ended")
	w.append(waiting(ran, 1, recourse.KindRetryScheduled, due))
	r := retry(ran)
	r.Ends, r.State = 1, &recourse.State{}
	w.append(r)
	w.append(waiting(ended, 1, recourse.KindRetryScheduled, due))
	w.append(&recourse.Record{Ref: ended, State: &recourse.State{}, Decision: recourse.Decision{Reason: recourse.LifecycleReported, Kind: recourse.KindClosed, Cancelled: []uint64{1}}})
	// An intervention is no retry.
	asked := pause(execution("asked"), "prod/a", due)
	asked.Wait.Version = 1
	asked.State = &recourse.State{Waits: []recourse.Wait{asked.Wait}}
	w.append(asked)

	pending, err := o.Retries(t.Context(), recourse.Ref{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range pending {
		got = append(got, fmt.Sprintf("%s/%d %s %q %s %s", p.Execution, p.ID, p.Group, p.Message, p.PostponedBy, p.PostponedWhy))
	}
	want := []string{`moved/3  "no route" bob still`, `simple/1  "no route"  `, `group/1 prod/g "no route"  `}
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	one := pending[1]
	if one.Ref != simple || one.Path != "prod/g/a" || one.Attempt != 1 || one.Retry != 1 || one.Of != 3 || one.Then != recourse.Abort ||
		!one.DueAt.Equal(due.Add(time.Hour)) || one.Errors != recourse.ErrorTypesOf(recourse.Connectivity) || one.Level != recourse.LevelStepGroup ||
		one.Strategy != "stages[0]" || !one.WaitsSince.Equal(time.Date(2026, 3, 1, 12, 0, 1, 0, time.UTC)) {
		t.Errorf("got %+v", one)
	}
	for filter, want := range map[recourse.Ref]int{{Account: "acme"}: 3, {Account: "other"}: 0, {Execution: "moved"}: 1, ran: 0} {
		if pending, err := o.Retries(t.Context(), filter); err != nil || len(pending) != want {
			t.Errorf("%+v: %d, %v; want %d", filter, len(pending), err, want)
		}
	}
	noConsumers(t, js)
}

// An intervention that a person brought about, by giving a retry up, still shows the failure behind it.
func TestOpenAfterAControl(t *testing.T) {
	nc := newBroker(t).connect()
	w := newWorker(t, provision(t, nc))
	due := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	w.append(waiting(ref, 1, recourse.KindRetryScheduled, due))
	w.append(retry(ref))
	asked := pause(ref, "prod/g/a", due)
	asked.Input, asked.Ends = recourse.Input{Control: &recourse.ControlInput{Wait: 1, Do: recourse.Cancel}}, 1
	asked.Wait.Version, asked.Wait.AnswerBy = 3, "ann"
	asked.State = &recourse.State{Waits: []recourse.Wait{asked.Wait}}
	w.append(asked)
	open, err := operator(t, nc).Open(t.Context(), ref)
	if err != nil || len(open) != 1 || open[0].Message != "no route" || open[0].ID != 3 || open[0].AnswerBy != "ann" {
		t.Errorf("%+v, %v", open, err)
	}
}

func control() recourse.Control {
	return recourse.Control{Ref: ref, Wait: 1, Do: recourse.RunNow, Why: "the registry is back; token=abcdefgh"}
}

func TestControl(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	withControls(t, js)
	w := newWorker(t, js)
	w.append(waiting(ref, 1, recourse.KindRetryScheduled, time.Now()))
	w.decideControls(nc, func(c *recourse.Control) *recourse.Record {
		w.append(retry(c.Ref)) // others come in between
		r := accepted(c.Ref)
		r.Ends = c.Wait
		return r
	})
	record, err := operator(t, nc).Control(soon(t, patience), control())
	if err != nil || record.Version != 3 || record.Ends != 1 {
		t.Fatalf("%+v, %v", record, err)
	}
	msg := inbox(t, js, 1)
	got, err := recourse.DecodeControl(msg.Data)
	if err != nil || got.ID == "" || got.At.IsZero() || strings.Contains(got.Why, "abcdefgh") || msg.Subject != ref.Subject(recourse.FamilyControl, "ann") {
		t.Errorf("%+v, %v on %s", got, err, msg.Subject)
	}
	for _, change := range []func(*recourse.Control){
		func(c *recourse.Control) { c.Why = "" }, func(c *recourse.Control) { c.Wait = 0 }, func(c *recourse.Control) { c.Do = recourse.Postpone },
	} {
		c := control()
		change(&c)
		if _, err := operator(t, nc).Control(t.Context(), c); err == nil || errors.Is(err, ErrUndecided) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	noConsumers(t, js)
}

// Who comes second to what no person did is told what it was, and when.
func TestControlRefused(t *testing.T) {
	at := time.Date(2026, 3, 1, 13, 14, 15, 167e6, time.UTC)
	for want, first := range map[string]func(r *recourse.Record){
		"retry 1 came due already, at 2026-03-01T13:14:15.167Z in record 3":                               func(r *recourse.Record) { r.Ends, r.Input.Due = 1, 1 },
		"retry 1 is superseded by Abort of record 3 at 2026-03-01T13:14:15.167Z (R11)":                    func(r *recourse.Record) { r.Action, r.Cancelled = recourse.Abort, []uint64{7, 1} },
		"retry 1 is superseded by the end of the execution of record 3 at 2026-03-01T13:14:15.167Z (R11)": func(r *recourse.Record) { r.Input.Lifecycle, r.Cancelled = recourse.Finished, []uint64{1} },
		"as the record has it": func(r *recourse.Record) { r.Ends, r.Input.Control = 1, &recourse.ControlInput{} },
	} {
		nc := newBroker(t).connect()
		js := provision(t, nc)
		withControls(t, js)
		w := newWorker(t, js)
		w.append(waiting(ref, 1, recourse.KindRetryScheduled, time.Now()))
		w.append(retry(ref))
		r := retry(ref)
		r.At = at
		first(r)
		w.append(r)
		w.decideControls(nc, func(*recourse.Control) *recourse.Record {
			return &recourse.Record{Decision: recourse.Decision{Reason: recourse.AnswerRefused, Kind: recourse.KindRefused, Detail: "as the record has it"}}
		})
		_, err := operator(t, nc).Control(soon(t, patience), control())
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Detail != want || err.Error() != "control refused: AnswerRefused: "+want || refused.Record.Version != 4 {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Of many answers each has its own outcome, in the order they were given.
func TestAnswerAll(t *testing.T) {
	nc := newBroker(t).connect()
	w := newWorker(t, provision(t, nc))
	w.decide(nc, func(a *recourse.Answer) *recourse.Record {
		if strings.HasSuffix(a.Execution, "7") {
			return &recourse.Record{Decision: recourse.Decision{Reason: recourse.AnswerRefused, Detail: "no " + a.Execution, Kind: recourse.KindRefused}}
		}
		r := accepted(a.Ref)
		r.Detail = a.Execution
		return r
	})
	answers := make([]recourse.Answer, 50)
	for i := range answers {
		answers[i] = answer()
		answers[i].Execution = fmt.Sprintf("e%d", i)
	}
	answers[3].Why = ""
	outcomes := operator(t, nc).AnswerAll(soon(t, patience), answers)
	for i, o := range outcomes {
		var refused *RefusedError
		switch {
		case i == 3:
			if o.Err == nil || o.Record != nil {
				t.Errorf("%d: %+v", i, o)
			}
		case i%10 == 7:
			if !errors.As(o.Err, &refused) || refused.Detail != "no "+answers[i].Execution {
				t.Errorf("%d: %+v", i, o)
			}
		case o.Err != nil || o.Record.Detail != answers[i].Execution:
			t.Errorf("%d: %+v", i, o)
		}
	}
	if len(outcomes) != len(answers) || len(operator(t, nc).ControlAll(t.Context(), nil)) != 0 {
		t.Errorf("%d outcomes", len(outcomes))
	}
}

// What the broker denies is known at once, not after the time-out of an answer that never comes.
func TestDeniedAtOnce(t *testing.T) {
	b := newBroker(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "admin-pw"},
			{Username: "ann", Password: "ann-pw", Permissions: &server.Permissions{Publish: &server.SubjectPermission{
				Allow: []string{"$JS.API.STREAM.INFO.*", "$JS.API.DIRECT.GET.>"},
			}}},
		}
	})
	provision(t, b.connect(nats.UserInfo("admin", "admin-pw")))
	o := operator(t, b.connect(nats.UserInfo("ann", "ann-pw")))
	for range 2 { // also where the connection has noted one before
		began := time.Now()
		_, err := o.Answer(soon(t, patience), answer())
		if !errors.Is(err, ErrDenied) || !strings.Contains(strings.ToLower(err.Error()), "intervention.ann") {
			t.Errorf("got %v", err)
		}
		if _, err := o.Retries(soon(t, patience), recourse.Ref{}); !errors.Is(err, ErrDenied) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > answerTimeout {
			t.Errorf("it took %s", took)
		}
	}
}
