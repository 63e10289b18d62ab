package decide_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
)

// FuzzDecide plays what the fuzzer draws against the oracle: total, I3, I4, I5, I6 and every decision.
func FuzzDecide(f *testing.F) {
	for seed := range uint64(24) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := make([]byte, 600)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		playAgainstOracle(t, byteDraws(b), min(len(b)/8, 80))
	})
}

// TestRetriesAreBounded is I7: an orchestrator that carries every command out, and steps that fail whatever is done. The execution comes to
// an end, no node is retried more than its strategy allows between two group retries, and every wait is one of its strategy.
func TestRetriesAreBounded(t *testing.T) {
	const intervals, retries, groupRetries = 3, 4, 2
	waits := []time.Duration{time.Second, 5 * time.Second, 20 * time.Second}
	plan := decide.NewPlan("p", recourse.Documented, []decide.PlanNode{
		{Node: recourse.Node{Path: "s"}, Level: recourse.LevelStage},
		{Node: recourse.Node{Path: "s/g"}, Level: recourse.LevelStepGroup, Strategies: []decide.Strategy{{
			Path: "g", Errors: recourse.ErrorTypesOf(recourse.Verification),
			Do: decide.ActionSpec{Action: recourse.RetryStepGroup, Retry: &retry.Policy{Count: groupRetries, Intervals: waits}},
		}}},
		{Node: recourse.Node{Path: "s/g/a"}, Level: recourse.LevelStep, Strategies: []decide.Strategy{{
			Path: "a", Errors: recourse.ErrorTypesOf(recourse.Timeout),
			Do: decide.ActionSpec{
				Action: recourse.Retry, Retry: &retry.Policy{Count: retries, Intervals: waits},
				OnRetryFailure: &decide.ActionSpec{Action: recourse.Ignore},
			},
		}}},
	})
	c := newChain(t, plan, recourse.Documented)
	now, attempt, inRun, groups := epoch, 1, 0, 0
	for steps := 0; ; steps++ {
		if steps > 100 {
			t.Fatal("no end")
		}
		f := &recourse.Failure{Attempt: attempt, Errors: recourse.ErrorTypesOf(recourse.Timeout)}
		f.Path = "s/g/a"
		if inRun == retries {
			f.Errors = recourse.ErrorTypesOf(recourse.Verification) // the group's
		}
		rec, _, _ := c.step(c.failure(f), now)
		if rec.Wait.Version == 0 {
			if rec.Reason != recourse.RetriesExhausted || groups != groupRetries || inRun != retries {
				t.Errorf("ended with %s after %d group retries and %d retries, want %d and %d", rec.Reason, groups, inRun, groupRetries, retries)
			}
			break
		}
		i := inRun
		if rec.Wait.Kind == recourse.WaitRetryGroup {
			i = groups
		}
		if want := waits[min(i, intervals-1)]; time.Duration(rec.Delay) != want {
			t.Errorf("record %d waits %s, want %s", rec.Version, rec.Delay, want)
		}
		if early, result, _ := c.step(c.due(rec.Version), rec.Wait.DueAt.Add(-1)); early != nil || result != decide.Early {
			t.Fatalf("I3: fired a nanosecond before it was due: %+v", early)
		}
		now = rec.Wait.DueAt
		due, _, _ := c.step(c.due(rec.Version), now)
		if due.Command.Verb == recourse.VerbRetryGroup {
			inRun = 0
			groups++
		} else {
			inRun++
		}
		attempt++
	}
	if inRun > retries || groups > groupRetries {
		t.Errorf("I7: %d retries, %d group retries", inRun, groups)
	}
	c.replay()
}

// TestClockIsRecordable: the clock of a process has a monotonic part and a zone, neither of which is recorded. What is decided depends on
// what can be read again.
func TestClockIsRecordable(t *testing.T) {
	plan := decide.NewPlan("p", recourse.Documented, []decide.PlanNode{{
		Node: recourse.Node{Path: "s"}, Level: recourse.LevelStage, Strategies: []decide.Strategy{{
			Path: "x", Errors: recourse.ErrorTypesOf(recourse.AllErrors),
			Do: decide.ActionSpec{Action: recourse.Retry, Retry: &retry.Policy{Count: 1, Intervals: []time.Duration{time.Minute}}},
		}},
	}})
	c := newChain(t, plan, recourse.Documented)
	f := &recourse.Failure{Attempt: 1}
	f.Path = "s/a"
	now := time.Now().In(time.FixedZone("east", 7200)) // for its monotonic part
	rec, _, _ := c.step(c.failure(f), now)
	if !bytes.Contains(c.bodies[0], []byte(`Z","input"`)) || rec.At.Location() != time.UTC {
		t.Errorf("at is not UTC: %s", c.bodies[0])
	}
	if w := c.head.State.Waits[0]; w.DueAt != w.DueAt.Round(0) || w.DueAt.Location() != time.UTC {
		t.Errorf("a wait is due at %v: not UTC, or with a monotonic part", w.DueAt)
	}
	c.replay()
}

// TestLongWaitsAreCut: no wait is longer than MaxWait, whatever the plan says.
func TestLongWaitsAreCut(t *testing.T) {
	forever := decide.ActionSpec{Action: recourse.Retry, Retry: &retry.Policy{Count: 1, Intervals: []time.Duration{1<<63 - 1}}}
	ask := decide.ActionSpec{Action: recourse.ManualIntervention, Intervention: &decide.InterventionSpec{Timeout: 1<<63 - 1}}
	for _, do := range []decide.ActionSpec{forever, ask} {
		plan := decide.NewPlan("p", recourse.Documented, []decide.PlanNode{{
			Node: recourse.Node{Path: "s"}, Level: recourse.LevelStage,
			Strategies: []decide.Strategy{{Path: "x", Errors: recourse.ErrorTypesOf(recourse.AllErrors), Do: do}},
		}})
		c := newChain(t, plan, recourse.Documented)
		f := &recourse.Failure{Attempt: 1}
		f.Path = "s/a"
		rec, _, _ := c.step(c.failure(f), epoch)
		if got := rec.Wait.DueAt.Sub(epoch); got != recourse.MaxWait {
			t.Errorf("%s waits %s, want %s", do.Action, got, recourse.MaxWait)
		}
		c.replay()
	}
}

// TestLargeStates: a thousand parallel failures. Over the limit every 64th record carries the state, the others name it, and folding from
// there gives the same.
func TestLargeStates(t *testing.T) {
	plan := decide.NewPlan("p", recourse.Documented, []decide.PlanNode{{
		Node: recourse.Node{Path: "s"}, Level: recourse.LevelStage, Strategies: []decide.Strategy{
			{Path: "x", Errors: recourse.ErrorTypesOf(recourse.Timeout), Do: decide.ActionSpec{Action: recourse.Ignore}},
			{Path: "y", Index: 1, Errors: recourse.ErrorTypesOf(recourse.Connectivity), Do: decide.ActionSpec{
				Action: recourse.Retry, Retry: &retry.Policy{Count: 3, Intervals: []time.Duration{time.Minute}}}},
			{Path: "z", Index: 2, Errors: recourse.ErrorTypesOf(recourse.Verification), Do: decide.ActionSpec{Action: recourse.StageRollback}},
		},
	}})
	c := newChain(t, plan, recourse.Documented)
	for i := range 500 {
		f := &recourse.Failure{Attempt: 1 + i/400, Errors: recourse.ErrorTypesOf(recourse.Timeout)}
		if i%3 == 0 {
			f.Errors = recourse.ErrorTypesOf(recourse.Connectivity)
		}
		f.Path = fmt.Sprintf("s/deploy[%d]", i%400)
		c.step(c.failure(f), epoch.Add(time.Duration(i)))
	}
	f := &recourse.Failure{Attempt: 1, Errors: recourse.ErrorTypesOf(recourse.Verification)}
	f.Path = "s/verify"
	if rec, _, _ := c.step(c.failure(f), epoch); len(rec.Cancelled) < 100 {
		t.Errorf("the rollback cancels %d waits", len(rec.Cancelled))
	}
	with, without := 0, 0
	for i, body := range c.bodies {
		switch has := bytes.Contains(body, []byte(`"state":{`)); {
		case has:
			with++
		case bytes.Contains(body, []byte(`"stateBase":`)):
			without++
		default:
			t.Errorf("record %d has neither a state nor a base", i+1)
		}
		if (i+1)%64 == 0 && !bytes.Contains(body, []byte(`"state":{`)) {
			t.Errorf("record %d has no state", i+1)
		}
	}
	if with == 0 || without < 300 {
		t.Errorf("%d records with and %d without a state", with, without)
	}
	c.replay()
}

// TestRecordsReusedAreEqual: a record that held another decision encodes as a new one does.
func TestRecordsReusedAreEqual(t *testing.T) {
	p, in := benchInput(recourse.Timeout, 1)
	fresh, used := &recourse.Record{}, &recourse.Record{}
	used.Trail = make([]recourse.TrailEntry, 0, 9)
	used.Cancelled = make([]uint64, 3)
	used.Detail, used.Strategy, used.Action = "old", "old", recourse.Abort
	used.State = &recourse.State{Failed: true}
	var bodies [][]byte
	for _, rec := range []*recourse.Record{fresh, used} {
		head := decide.Head{}
		decide.Decide(rec, p, &head, in, epoch)
		body, err := decide.Seal(rec, &head)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, body)
	}
	if !bytes.Equal(bodies[0], bodies[1]) {
		t.Errorf("a used record gives another one:\n%s\n%s", bodies[0], bodies[1])
	}
}

// TestNextStage is the table of R13.
func TestNextStage(t *testing.T) {
	all := []string{"Success", "Failure", "All"}
	for _, row := range []struct {
		outcome            recourse.StageOutcome
		documented, engine []string
	}{
		{recourse.OutcomeSucceeded, []string{"Success", "All"}, []string{"Success", "All"}},
		{recourse.OutcomeFailed, all[1:], all[1:]},
		{recourse.OutcomeIgnored, all, []string{"Success", "All"}},
		{recourse.OutcomeRolledBack, all[2:], all[1:]},
		{recourse.OutcomeRollbackFailed, all[1:], all[1:]},
		{recourse.OutcomePipelineRolledBack, nil, nil},
		{recourse.OutcomeAborted, nil, nil},
	} {
		if got := decide.NextStage(row.outcome, recourse.Documented); fmt.Sprint(got) != fmt.Sprint(row.documented) {
			t.Errorf("after %s %v, want %v", row.outcome, got, row.documented)
		}
		if got := decide.NextStage(row.outcome, recourse.Engine); fmt.Sprint(got) != fmt.Sprint(row.engine) {
			t.Errorf("engine: after %s %v, want %v", row.outcome, got, row.engine)
		}
	}
}
