package verify

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func refOf(execution string) recourse.Ref {
	return recourse.Ref{Account: "acme", Org: "shop", Project: "web", Pipeline: "deploy", Execution: execution}
}

// plan: s/a is retried twice on Timeout and asks on Verification, s/b aborts.
var plan = func() *decide.Plan {
	of := recourse.ErrorTypesOf
	return decide.NewPlan("deploy", recourse.Documented, []decide.PlanNode{
		{Node: recourse.Node{Path: "s"}, Level: recourse.LevelStage},
		{Node: recourse.Node{Path: "s/a"}, Level: recourse.LevelStep, Strategies: []decide.Strategy{
			{Path: "a[0]", Errors: of(recourse.Timeout), Do: decide.ActionSpec{Action: recourse.Retry, Retry: &retry.Policy{Count: 2, Intervals: []time.Duration{time.Minute}}}},
			{Path: "a[1]", Index: 1, Errors: of(recourse.Verification), Do: decide.ActionSpec{Action: recourse.ManualIntervention,
				Intervention: &decide.InterventionSpec{Timeout: time.Hour, Allowed: recourse.DefaultInterventionActions}}}}},
		{Node: recourse.Node{Path: "s/b"}, Level: recourse.LevelStep, Strategies: []decide.Strategy{
			{Path: "b[0]", Errors: of(recourse.AllErrors), Do: decide.ActionSpec{Action: recourse.Abort}}}},
	})
}()

// streams are filled by a worker that does everything right; the tests break them.
type streams struct {
	t     *testing.T
	heads map[recourse.Ref]*decide.Head
	now   time.Time
	History
}

func newStreams(t *testing.T) *streams {
	s := &streams{t: t, heads: map[recourse.Ref]*decide.Head{}, now: epoch}
	s.Plan = func(_ recourse.Ref, revision uint64, _ recourse.Semantics) *decide.Plan {
		if revision == 7 {
			return plan
		}
		return nil
	}
	s.Skew, s.Grace = time.Second, time.Minute
	return s
}

// put stores an input and returns its sequence.
func (s *streams) put(subject string, body any) uint64 {
	s.t.Helper()
	data, err := recourse.Encode(body)
	if err != nil {
		s.t.Fatal(err)
	}
	sequence := uint64(len(s.Inbox) + 1)
	s.Inbox = append(s.Inbox, Message{Sequence: sequence, Subject: subject, Data: data, Stored: s.now})
	return sequence
}

// decide records the decision on an input.
func (s *streams) decide(in *decide.Input) {
	s.t.Helper()
	head := s.heads[in.Ref]
	if head == nil {
		head = new(decide.Head)
		s.heads[in.Ref] = head
	}
	rec := new(recourse.Record)
	p := decide.Pipeline{Plan: plan, Revision: recourse.PipelineRevision{Revision: 7, Digest: "0123456789abcdef"}}
	if result, _ := decide.Decide(rec, p, head, in, s.now); result != decide.Decided {
		s.t.Fatalf("%s: %s", in.Key, result)
	}
	body, err := decide.Seal(rec, head)
	if err != nil {
		s.t.Fatal(err)
	}
	sequence := uint64(len(s.Journal) + 1)
	head.Appended(rec, sequence)
	s.Journal = append(s.Journal, s.message(sequence, rec, body))
}

func (s *streams) message(sequence uint64, rec *recourse.Record, body []byte) Message {
	return Message{Sequence: sequence, Subject: rec.Subject(), Data: body, Stored: s.now,
		Header: map[string][]string{recourse.HeaderVersion: {strconv.FormatUint(rec.Version, 10)}}}
}

func (s *streams) failure(execution, node string, attempt int, kind recourse.ErrorType) *recourse.Failure {
	return &recourse.Failure{Ref: refOf(execution), Node: recourse.Node{Path: node}, Attempt: attempt, Errors: recourse.ErrorTypesOf(kind), Message: "m"}
}

func (s *streams) fail(execution, node string, attempt int, kind recourse.ErrorType) {
	s.t.Helper()
	f := s.failure(execution, node, attempt, kind)
	sequence := s.put(f.Subject(recourse.FamilyFailure, "ci"), f)
	s.decide(&decide.Input{Ref: f.Ref, Node: f.Node, Attempt: attempt, Input: recourse.Input{Key: f.Key(), Sequence: sequence, Digest: f.Digest(), Principal: "ci",
		Failure: &recourse.FailureInput{Errors: f.Errors, Message: f.Message}}})
}

func (s *streams) due(execution string, version uint64) {
	s.t.Helper()
	s.decide(&decide.Input{Ref: refOf(execution), Input: recourse.Input{Key: fmt.Sprintf("due/%d", version), Due: version}})
}

func (s *streams) answer(execution string, intervention uint64, action recourse.Action) {
	s.t.Helper()
	a := &recourse.Answer{Ref: refOf(execution), Intervention: intervention, Action: action, Why: "because"}
	sequence := s.put(a.Subject(recourse.FamilyIntervention, "ann"), a)
	a.ID, a.Who = fmt.Sprintf("sequence-%d", sequence), "ann"
	s.decide(&decide.Input{Ref: a.Ref, Input: recourse.Input{Key: "intervention/" + a.ID, Sequence: sequence, Digest: a.Digest(), Principal: "ann",
		Answer: &recourse.AnswerInput{Intervention: intervention, Action: action, Who: "ann", Why: "because"}}})
}

func (s *streams) end(execution string, event recourse.LifecycleEvent) {
	s.t.Helper()
	l := &recourse.Lifecycle{Ref: refOf(execution), Event: event}
	sequence := s.put(l.Subject(recourse.FamilyLifecycle, "flow"), l)
	s.decide(&decide.Input{Ref: l.Ref, Input: recourse.Input{Key: l.Key(), Sequence: sequence, Principal: "flow", Lifecycle: event}})
}

// reject stores an input nobody can decide, and its rejection.
func (s *streams) reject(execution, body string) {
	subject := refOf(execution).Subject(recourse.FamilyFailure, "ci")
	sequence := uint64(len(s.Inbox) + 1)
	s.Inbox = append(s.Inbox, Message{Sequence: sequence, Subject: subject, Data: []byte(body), Stored: s.now})
	s.Rejected = append(s.Rejected, Message{Sequence: uint64(len(s.Rejected) + 1), Subject: refOf(execution).Subject(recourse.FamilyRejected, "bad-json"), Stored: s.now,
		Data: []byte(body), Header: map[string][]string{headerSequence: {strconv.FormatUint(sequence, 10)}, headerSubject: {subject}}})
}

func (s *streams) wait(d time.Duration) { s.now = s.now.Add(d) }

// edit changes the i-th record, and its encoding with it.
func (s *streams) edit(i int, change func(*recourse.Record)) {
	s.t.Helper()
	rec, err := recourse.DecodeRecord(s.Journal[i].Data)
	if err != nil {
		s.t.Fatal(err)
	}
	change(rec)
	if s.Journal[i].Data, err = recourse.Encode(rec); err != nil {
		s.t.Fatal(err)
	}
}

// sound fills the streams with three executions, interleaved: retries that fire, a question that is answered, an abort, an end, repeats, and
// inputs that nobody can decide. The records of ex1 stand at 1 (waits), 3 (fires 1), 5 (asks), 6 (answer: retry), 8 (waits), 9 (fires 8), 10 (end).
func sound(t *testing.T) *streams {
	s := newStreams(t)
	s.fail("ex1", "s/a", 1, recourse.Timeout) // 1
	s.fail("ex2", "s/a", 1, recourse.Timeout) // 2 waits
	s.reject("ex1", "{")
	s.wait(time.Minute)
	s.due("ex1", 1)                                // 3
	s.fail("ex2", "s/b", 1, recourse.Unknown)      // 4 aborts
	s.fail("ex1", "s/a", 2, recourse.Verification) // 5 asks
	repeat := s.failure("ex1", "s/a", 1, recourse.Timeout)
	s.put(repeat.Subject(recourse.FamilyFailure, "another"), repeat)
	s.answer("ex1", 3, recourse.Retry)        // 6
	s.fail("ex2", "s/a", 2, recourse.Timeout) // 7 superseded
	s.fail("ex1", "s/a", 3, recourse.Unknown) // 8: nothing applies
	s.fail("ex3", "s/a", 1, recourse.Timeout) // 9 waits
	s.end("ex1", recourse.Finished)           // 10
	s.reject("ex2", "[]")
	s.wait(30 * time.Second) // the wait of ex3 is not due yet
	s.Now = s.now
	return s
}

func found(violations []Violation) []string {
	seen := map[string]bool{}
	for _, v := range violations {
		seen[v.Invariant] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

func TestSound(t *testing.T) {
	if v := Check(sound(t).History); len(v) > 0 {
		t.Errorf("violated:%s", Join(v, 10))
	}
	if v := Check(History{}); len(v) > 0 {
		t.Errorf("nothing violates:%s", Join(v, 10))
	}
}

// broken are workers that are wrong, each in one way.
var broken = []struct {
	name  string
	do    func(s *streams)
	want  string // the invariants it violates
	about string // part of a violation
	at    uint64 // sequence of one of them
}{
	{"a forked chain", func(s *streams) {
		rec, _ := recourse.DecodeRecord(s.Journal[7].Data)
		fork := s.message(11, rec, s.Journal[7].Data)
		s.Journal = slices.Insert(s.Journal, 8, fork)
	}, "I1 I6", "the chain forks", 11},
	{"a record that is missing", func(s *streams) { s.Journal = slices.Delete(s.Journal, 2, 3) }, "I6", "version 3 and predecessor 3, want 2 and 1", 5},
	{"a first record that is missing", func(s *streams) { s.Journal = s.Journal[1:] }, "I6", "want 1 and 0", 3},
	{"a record that is missing at the end", func(s *streams) { s.Journal = s.Journal[:9] }, "I1", "lifecycle/finished has no record, and was settled", 11},
	{"a record under another verb", func(s *streams) { s.Journal[2].Subject = refOf("ex1").Subject(recourse.FamilyCommand, "abort") }, "I2", "want recourse.acme.shop.web.deploy.ex1.command.retry", 3},
	{"a command that is not the action's", func(s *streams) {
		s.edit(3, func(r *recourse.Record) { r.Command.Verb = recourse.VerbMarkFailure })
		s.Journal[3].Subject = refOf("ex2").Subject(recourse.FamilyCommand, "mark-failure")
	}, "I2 I5", "does Abort and commands mark-failure", 4},
	{"another version in the header", func(s *streams) { s.Journal[2].Header = map[string][]string{recourse.HeaderVersion: {"1"}} }, "I2", `says version "1"`, 3},
	{"a wait that fired early by the worker's clock", func(s *streams) {
		s.edit(2, func(r *recourse.Record) { r.At = r.At.Add(-time.Nanosecond) })
	}, "I3 I5", "fired at 2026-01-02 03:05:04.999999999", 3},
	{"a wait that fired early by the broker's clock", func(s *streams) { s.Journal[2].Stored = s.Journal[2].Stored.Add(-time.Second - 1) }, "I3", "fired at", 3},
	{"a wait that fired twice", func(s *streams) {
		rec, _ := recourse.DecodeRecord(s.Journal[2].Data)
		rec.Version, rec.Previous = 3, 3
		body, _ := recourse.Encode(rec)
		again := s.message(4, rec, body)
		s.Journal = slices.Insert(s.Journal, 3, again)
		s.Journal = s.Journal[:4]
		s.Inbox, s.Rejected = s.Inbox[:3], s.Rejected[:1]
	}, "I3 I5", "ends 1, which does not wait", 4},
	{"a wait that nothing ends", func(s *streams) { s.Now = s.Now.Add(time.Minute + 31*time.Second) }, "I9", "the wait of record 1 (retry) is overdue by 1m1s", 0},
	{"an end that leaves a wait", func(s *streams) {
		s.edit(3, func(r *recourse.Record) { r.Cancelled = nil })
	}, "I3 I5", "the waits of records [1] neither fired nor are cancelled", 4},
	{"a command after an abort", func(s *streams) {
		s.edit(6, func(r *recourse.Record) {
			r.Kind, r.Action, r.Command = "", recourse.MarkAsFailure, recourse.Command{Verb: recourse.VerbMarkFailure, Scope: "s/a"}
		})
		s.Journal[6].Subject = refOf("ex2").Subject(recourse.FamilyCommand, "mark-failure")
	}, "I4 I5", "follows the end", 7},
	{"a retry above its bound", func(s *streams) {
		for attempt := 2; attempt <= 3; attempt++ {
			s.fail("ex3", "s/a", attempt, recourse.Timeout)
		}
		s.edit(11, func(r *recourse.Record) {
			r.Kind, r.Action, r.Reason, r.Delay, r.Level, r.Strategy = recourse.KindRetryScheduled, recourse.Retry, recourse.StrategyMatched, recourse.Duration(time.Minute), recourse.LevelStep, "a[0]"
			r.Command = recourse.Command{}
			r.Wait = recourse.Wait{Version: r.Version, Kind: recourse.WaitRetry, Node: r.Node, Attempt: r.Attempt, DueAt: r.At.Add(time.Minute)}
		})
		s.Journal[11].Subject = refOf("ex3").Subject(recourse.FamilyDecision, recourse.KindRetryScheduled)
	}, "I5 I7", "is retry 3 of s/a, allowed are 2", 12},
	{"a wait above its bound", func(s *streams) {
		s.edit(8, func(r *recourse.Record) { r.Delay = recourse.Duration(time.Minute + 1) })
	}, "I5 I7", "at most 1m0s is allowed", 9},
	{"a wait that is due before it begins", func(s *streams) {
		s.edit(8, func(r *recourse.Record) { r.Wait.DueAt = r.At.Add(-1) })
	}, "I5 I7", "record 1 waits from", 9},
	{"a retry by a strategy that does not", func(s *streams) {
		s.edit(8, func(r *recourse.Record) { r.Strategy = "a[1]" })
	}, "I5 I7", `retries by "a[1]", which does not`, 9},
	{"another execution in the body", func(s *streams) { s.edit(8, func(r *recourse.Record) { r.Ref = refOf("ex4") }) }, "I8", "stands under another execution", 9},
	{"another principal", func(s *streams) {
		s.edit(8, func(r *recourse.Record) { r.Input.Principal = "root" })
	}, "I8", `cites "root", its input 10 is from "ci"`, 9},
	{"another reason", func(s *streams) { s.edit(7, func(r *recourse.Record) { r.Reason = recourse.StrategyMatched }) }, "I5", "folds to something else", 8},
	{"another state", func(s *streams) { s.edit(7, func(r *recourse.Record) { r.State.Failed = !r.State.Failed }) }, "I5", "folds to something else", 8},
	{"other blanks", func(s *streams) { s.Journal[7].Data = append(s.Journal[7].Data, ' ') }, "I5", "folds to something else", 8},
	{"a record that is none", func(s *streams) { s.Journal[9].Data = []byte(`{"schema":1}`) }, "I1 I5", "cannot be read", 10},
	{"a record under no subject", func(s *streams) { s.Journal[9].Subject = "recourse.x" }, "I1 I8", "in the journal", 10},
	{"a record of no input", func(s *streams) { s.Inbox = slices.Delete(s.Inbox, 8, 9) }, "I1", "names input 9 (failure/s/a/3), which is not in the inbox", 8},
	{"a record of input 0", func(s *streams) { s.edit(8, func(r *recourse.Record) { r.Input.Sequence = 0 }) }, "I1", "names input 0", 9},
	{"a wait's record that names an input", func(s *streams) { s.edit(2, func(r *recourse.Record) { r.Input.Sequence = 1 }) }, "I1", "is of a wait and names input 1", 3},
	{"a record of another input", func(s *streams) { s.edit(8, func(r *recourse.Record) { r.Input.Sequence = 6 }) }, "I1", "", 9},
	{"an input decided twice", func(s *streams) {
		f := s.failure("ex3", "s/a", 1, recourse.Timeout)
		sequence := s.put(f.Subject(recourse.FamilyFailure, "ci"), f)
		rec, _ := recourse.DecodeRecord(s.Journal[8].Data)
		rec.Version, rec.Previous, rec.Input.Sequence, rec.Wait = 2, 9, sequence, recourse.Wait{}
		body, _ := recourse.Encode(rec)
		s.Journal = append(s.Journal, s.message(11, rec, body))
	}, "I1 I5", "", 11},
	{"an input that was settled and not decided", func(s *streams) {
		f := s.failure("ex9", "s/a", 1, recourse.Timeout)
		s.put(f.Subject(recourse.FamilyFailure, "ci"), f)
	}, "I1", "input failure/s/a/1 has no record, and was settled", 13},
	{"an input that was neither decided nor rejected", func(s *streams) { s.Rejected = s.Rejected[:1] }, "I1", "has no rejection, and was settled", 12},
	{"an input that was rejected twice", func(s *streams) { s.Rejected = append(s.Rejected, s.Rejected[0]) }, "I1", "or is its second", 1},
	{"a rejection of something else", func(s *streams) { s.Rejected[1].Data = []byte("{}") }, "I1", "is not what came", 2},
	{"a rejection of another subject", func(s *streams) { s.Rejected[1].Header[headerSubject] = []string{"recourse.a.b.c.d.e.failure.ci"} }, "I1", "is not what came", 2},
	{"a rejection without a sequence", func(s *streams) { s.Rejected[1].Header = nil }, "I1", "a rejection without a sequence", 2},
	{"a decidable input that was rejected", func(s *streams) {
		f := s.failure("ex9", "s/a", 1, recourse.Timeout)
		sequence := s.put(f.Subject(recourse.FamilyFailure, "ci"), f)
		s.Rejected = append(s.Rejected, Message{Sequence: 3, Subject: "recourse.acme.shop.web.deploy.ex9.rejected.bad-json", Stored: s.now, Data: s.Inbox[sequence-1].Data,
			Header: map[string][]string{headerSequence: {strconv.FormatUint(sequence, 10)}, headerSubject: {s.Inbox[sequence-1].Subject}}})
	}, "I1", "can be decided and was rejected", 3},
	{"a body of another execution that was decided", func(s *streams) { s.Inbox[8].Subject = refOf("ex5").Subject(recourse.FamilyFailure, "ci") }, "I1", "", 8},
}

// TestBroken: each broken worker is caught, by what it is about, at the message that shows it. What follows is not blamed for it.
func TestBroken(t *testing.T) {
	for _, test := range broken {
		t.Run(test.name, func(t *testing.T) {
			s := sound(t)
			test.do(s)
			v := Check(s.History)
			if got := strings.Join(found(v), " "); got != test.want {
				t.Errorf("violates %q, want %q:%s", got, test.want, Join(v, 20))
			}
			if !slices.ContainsFunc(v, func(v Violation) bool { return v.Sequence == test.at && strings.Contains(v.What, test.about) }) {
				t.Errorf("none is at %d about %q:%s", test.at, test.about, Join(v, 20))
			}
			if len(v) > 5 {
				t.Errorf("%d violations:%s", len(v), Join(v, 20))
			}
		})
	}
}
