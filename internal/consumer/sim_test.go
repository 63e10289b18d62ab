package consumer_test

import (
	"context"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/integration/invariant"
	"github.com/recourse-dev/recourse/internal/consumer"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
	"github.com/recourse-dev/recourse/internal/telemetry"
	"go.uber.org/zap"
)

var (
	seeds     = flag.Int("sim.seeds", 2400, "how many simulations")
	firstSeed = flag.Uint64("sim.seed", 1, "the seed of the first simulation")
)

const (
	workers    = 3
	faultsFor  = 3 * time.Minute // then the world is healed
	healWithin = 3 * time.Hour   // and quiet no later than this
	maxSkew    = 50 * time.Millisecond
	sweepEvery = 10 * time.Second
	sweepGrace = 30 * time.Second
)

// epoch is where the clock of a bubble starts.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// plans are the revisions of the pipeline of all executions.
var plans = map[uint64]*decide.Plan{1: simPlan(time.Second), 2: simPlan(7 * time.Second)}

func simPlan(wait time.Duration) *decide.Plan {
	all := recourse.ErrorTypesOf(recourse.AllErrors)
	of := recourse.ErrorTypesOf
	node := func(path string, level recourse.Level, strategies ...decide.Strategy) decide.PlanNode {
		for i := range strategies {
			strategies[i].Path, strategies[i].Index = path+"["+strconv.Itoa(i)+"]", i
		}
		return decide.PlanNode{Node: recourse.Node{Path: path}, Level: level, Strategies: strategies}
	}
	do := func(errors recourse.ErrorTypes, action recourse.Action) decide.Strategy {
		return decide.Strategy{Errors: errors, Do: decide.ActionSpec{Action: action}}
	}
	question := &decide.InterventionSpec{
		Timeout: 30 * wait, OnTimeout: &decide.ActionSpec{Action: recourse.Ignore}, Allowed: recourse.DefaultInterventionActions,
	}
	again := func(errors recourse.ErrorTypes, count int, then recourse.Action, intervals ...time.Duration) decide.Strategy {
		return decide.Strategy{Errors: errors, Do: decide.ActionSpec{
			Action: recourse.Retry, Retry: &retry.Policy{Count: count, Intervals: intervals},
			OnRetryFailure: &decide.ActionSpec{Action: then, Intervention: question},
		}}
	}
	ask := decide.Strategy{Errors: of(recourse.Verification), Do: decide.ActionSpec{Action: recourse.ManualIntervention, Intervention: question}}
	group := decide.Strategy{Errors: of(recourse.Connectivity), Do: decide.ActionSpec{
		Action: recourse.RetryStepGroup, Retry: &retry.Policy{Count: 2, Intervals: []time.Duration{5 * wait}},
	}}
	return decide.NewPlan("p", recourse.Documented, []decide.PlanNode{
		node("s", recourse.LevelStage, do(of(recourse.Authorization), recourse.PipelineRollback), do(all, recourse.StageRollback)),
		node("s/a", recourse.LevelStep, again(of(recourse.Timeout), 3, recourse.Abort, wait, 10*wait), ask),
		node("s/b", recourse.LevelStep, ask, again(of(recourse.Timeout, recourse.Connectivity), 2, recourse.ManualIntervention), do(of(recourse.Authentication), recourse.Abort)),
		node("s/g", recourse.LevelStepGroup, group, do(of(recourse.Verification), recourse.StepGroupRollback)),
		node("s/g/x", recourse.LevelStep, again(of(recourse.Timeout), 2, recourse.MarkAsFailure, 2*wait)),
		node("s/g/y", recourse.LevelStep, do(of(recourse.Timeout), recourse.Ignore)),
	})
}

var (
	simNodes  = []string{"s/a", "s/b", "s/g/x", "s/g/y", "s/unlisted"}
	simErrors = []recourse.ErrorType{
		recourse.Timeout, recourse.Timeout, recourse.Timeout, recourse.Verification, recourse.Verification, recourse.Connectivity, recourse.Connectivity,
		recourse.Authentication, recourse.Authorization, recourse.Unknown,
	}
	simAnswers = []recourse.Action{recourse.Retry, recourse.Retry, recourse.Ignore, recourse.Abort, recourse.MarkAsSuccess, recourse.PipelineRollback}
)

// people are the delegates, operators and orchestrators of a world.
type people struct{ *world }

func (p people) publish(ref recourse.Ref, family recourse.Family, principal string, body any) {
	data, err := recourse.Encode(body)
	if err != nil {
		panic(err)
	}
	p.put(&p.inbox, ref.Subject(family, principal), nil, data)
}

// fail reports a failure: once, twice, or with a second body that is another.
func (p people) fail(ref recourse.Ref, node string, attempt int) {
	op := fmt.Sprintf("%s %s %d", ref.Execution, node, attempt)
	f := &recourse.Failure{
		Ref: ref, Node: recourse.Node{Path: node}, Attempt: attempt, Message: "m",
		Errors: recourse.ErrorTypesOf(simErrors[p.draw("error type "+op)%uint64(len(simErrors))]),
	}
	p.publish(ref, recourse.FamilyFailure, "delegate", f)
	if p.draw("repeat "+op)%4 == 0 {
		p.later(p.between(0, 2*time.Minute, "repeat "+op), func() { p.publish(ref, recourse.FamilyFailure, "delegate-2", f) })
	}
	if p.draw("differ "+op)%16 == 0 {
		other := *f
		other.Message = "another"
		p.later(p.between(0, time.Minute, "differ "+op), func() { p.publish(ref, recourse.FamilyFailure, "delegate", &other) })
	}
}

// carryOut does what an orchestrator does with a command, and what comes of it: the next attempt fails too, somebody answers.
func (p people) carryOut(rec *recourse.Record) {
	op := fmt.Sprintf("%s %d %s", rec.Ref.Execution, rec.Version, rec.Input.Key)
	ref, node, attempt := rec.Ref, rec.Path, rec.Attempt
	if rec.Wait.Kind != 0 && rec.Wait.Kind != recourse.WaitIntervention && p.draw("control "+op)%4 == 0 {
		control := &recourse.Control{Ref: ref, Wait: rec.Version, Do: recourse.ControlVerb(1 + p.draw("do "+op)%3), Why: "so"}
		if control.Do == recourse.Postpone {
			control.For = recourse.Duration(p.between(time.Second, time.Minute, "for "+op))
		}
		p.later(p.between(0, 20*time.Second, "control "+op), func() { p.publish(ref, recourse.FamilyControl, "operator", control) })
	}
	switch rec.Command.Verb {
	case recourse.VerbRetry:
		if p.draw("again "+op)%3 > 0 {
			next := rec.Command.Attempt
			p.later(p.between(0, 5*time.Second, "run "+op), func() { p.fail(ref, node, next) })
		}
	case recourse.VerbRetryGroup:
		if p.draw("again "+op)%3 > 0 {
			p.later(p.between(0, 5*time.Second, "run "+op), func() { p.fail(ref, node, attempt+1) })
		}
	case recourse.VerbPause:
		id := rec.Command.Intervention.ID
		for i := range p.draw("answers "+op) % 3 {
			who := "person-" + strconv.FormatUint(i, 10)
			answer := &recourse.Answer{Ref: ref, Intervention: id, Action: simAnswers[p.draw("answer "+op)%uint64(len(simAnswers))], Why: "so"}
			if p.draw("named "+op)%2 == 0 {
				answer.ID = fmt.Sprintf("%s-%d", who, id)
			}
			p.later(p.between(0, time.Minute, "think "+op), func() { p.publish(ref, recourse.FamilyIntervention, who, answer) })
		}
	}
}

// begin publishes what nobody asked for: first failures, ends of executions, and what nobody can read.
func (p people) begin() {
	for e := range 1 + p.draw("executions")%3 {
		ref := recourse.Ref{Account: "a", Org: "o", Project: "p", Pipeline: "pl", Execution: "ex" + strconv.FormatUint(e, 10)}
		for i := range 1 + p.draw("nodes")%4 {
			node := simNodes[(p.draw("node")+i)%uint64(len(simNodes))]
			p.later(p.between(0, 20*time.Second, "first"), func() { p.fail(ref, node, 1) })
		}
		if n := p.draw("end") % 4; n < 2 {
			event := recourse.Finished
			if n == 0 {
				event = recourse.Aborted
			}
			p.later(p.between(10*time.Second, 2*time.Minute, "end"), func() {
				p.publish(ref, recourse.FamilyLifecycle, "orchestrator", &recourse.Lifecycle{Ref: ref, Event: event})
			})
		}
		if p.draw("poison")%4 == 0 {
			p.later(p.between(0, time.Minute, "poison"), func() {
				p.put(&p.inbox, ref.Subject(recourse.FamilyFailure, "delegate"), nil, []byte(`{"account":"b"}`))
			})
		}
	}
}

// simulate runs one world to its end and returns what it violates.
func simulate(t *testing.T, seed uint64, m mutant) (violations []invariant.Violation, faults map[string]int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(seed, m)
		p := people{w}
		w.appended = p.carryOut
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for i := range workers {
			running.Go(func() { w.worker(ctx, i) })
		}
		p.begin()
		time.Sleep(faultsFor)
		w.mu.Lock()
		w.healed = true
		w.mu.Unlock()
		deadline := time.Now().Add(healWithin)
		for !w.quiet() && time.Now().Before(deadline) {
			time.Sleep(sweepEvery)
		}
		quiet := w.quiet()
		cancel()
		running.Wait()
		synctest.Wait()
		violations = invariant.Check(w.history())
		if !quiet {
			violations = append(violations, invariant.Violation{Invariant: "I9", Where: "world", What: "not quiet " + healWithin.String() + " after the last fault"})
		}
		faults = w.faults
	})
	return violations, faults
}

// worker runs one worker after another on a machine, until ctx ends: each until it crashes or is stopped.
func (w *world) worker(ctx context.Context, i int) {
	for life := 0; ctx.Err() == nil; life++ {
		name := fmt.Sprintf("worker-%d-%d", i, life)
		run, stop := context.WithCancel(ctx)
		finish, finished := context.WithCancel(context.Background())
		m := &machine{
			world: w, name: name, ackWait: w.between(5*time.Second, 40*time.Second, "ack wait"), heads: map[string]*decide.Head{},
			skew: w.between(-maxSkew, maxSkew, "skew "+name), crash: func() { stop(); finished() },
		}
		now := m.now
		if w.mutant == firesEarly && i == 0 {
			now = func() time.Time { return m.now().Add(4 * time.Second) }
		}
		c := consumer.New(m, m, m, telemetry.New(zap.NewNop()), consumer.Config{
			Lanes: 1 + int(w.draw("lanes")%4), AckWait: m.ackWait, RetryDelay: w.between(time.Millisecond, 5*time.Second, "retry delay"), Now: now,
		})
		context.AfterFunc(run, func() { time.AfterFunc(20*time.Second, finished) })
		if w.draw("stop "+name)%4 == 0 { // a rolling update
			go func() {
				select {
				case <-time.After(w.between(time.Second, time.Minute, "stop "+name)):
					stop()
				case <-run.Done():
				}
			}()
		}
		var sweeping sync.WaitGroup
		if w.mutant != noSweeper {
			sweeping.Go(func() { m.sweep(run) })
		}
		_ = c.Run(run, finish, source{m, &w.inbox}, source{m, &w.due})
		m.mu.Lock()
		m.dead = true
		m.mu.Unlock()
		stop()
		finished()
		sweeping.Wait()
		select {
		case <-time.After(w.between(time.Millisecond, 10*time.Second, "restart")):
		case <-ctx.Done():
		}
	}
}

// sweep arms overdue waits again, as the sweeper of a worker does.
func (m *machine) sweep(ctx context.Context) {
	overdue := consumer.Overdue(m)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepEvery):
		}
		for prefix, waits := range m.pending() {
			for _, wait := range waits {
				if time.Since(wait.DueAt) < sweepGrace {
					continue
				}
				if dueAt, still, err := overdue(ctx, prefix, wait.Version); err == nil && still {
					_ = m.Arm(ctx, prefix, wait.Version, dueAt, nil)
				}
			}
		}
	}
}

func (w *world) history() invariant.History {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := invariant.History{
		Journal: w.journal, Rejected: w.rejected, Now: time.Now(), Skew: maxSkew,
		Plan: func(_ recourse.Ref, revision uint64, _ recourse.Semantics) *decide.Plan { return plans[revision] },
	}
	for _, m := range w.inbox.messages {
		h.Inbox = append(h.Inbox, invariant.Message{Sequence: m.sequence, Subject: m.subject, Data: m.data, Stored: m.stored})
	}
	return h
}

// TestEarlyHint: a hint that comes before its time waits, and comes back. Armed again it would fire again at once, as often as the broker
// can.
func TestEarlyHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, sound)
		w.healed, w.appended = true, func(*recourse.Record) {}
		p := people{w}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.worker(ctx, 0) })
		time.Sleep(2 * time.Second) // the pipeline is registered
		ref := recourse.Ref{Account: "a", Org: "o", Project: "p", Pipeline: "pl", Execution: "ex"}
		p.publish(ref, recourse.FamilyFailure, "delegate", &recourse.Failure{
			Ref: ref, Node: recourse.Node{Path: "s/g/x"}, Attempt: 1, Errors: recourse.ErrorTypesOf(recourse.Timeout),
		})
		time.Sleep(500 * time.Millisecond) // it waits for two seconds
		p.put(&w.due, ref.Subject(recourse.FamilyDue, "1"), nil, nil)
		for range 1000 {
			if time.Sleep(10 * time.Millisecond); w.quiet() {
				break
			}
		}
		cancel()
		running.Wait()
		if violations := invariant.Check(w.history()); len(violations) > 0 || len(w.journal) != 2 {
			t.Errorf("%d records%s", len(w.journal), invariant.Join(violations, 10))
		}
		if armed := w.schedule[timerKey(ref.Prefix(), 1)]; armed != 1 {
			t.Errorf("the wait was armed %d times, want once", armed)
		}
		if came := w.due.messages[0].delivered; came != 2 {
			t.Errorf("the early hint was delivered %d times, want twice", came)
		}
	})
}

// shards run side by side.
const shards = 2

func TestSimulation(t *testing.T) {
	if testing.Short() {
		*seeds = min(*seeds, 300)
	}
	var mu sync.Mutex
	met := map[string]int{}
	t.Run("seeds", func(t *testing.T) {
		for shard := range shards {
			t.Run(strconv.Itoa(shard), func(t *testing.T) {
				t.Parallel()
				for i := shard; i < *seeds; i += shards {
					seed := *firstSeed + uint64(i)
					violations, faults := simulate(t, seed, sound)
					if len(violations) > 0 {
						t.Fatalf("seed %d (-sim.seed=%d -sim.seeds=1):%s", seed, seed, invariant.Join(violations, 10))
					}
					mu.Lock()
					for fault, n := range faults {
						met[fault] += n
					}
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("seeds %d to %d, faults met: %v", *firstSeed, *firstSeed+uint64(*seeds)-1, met)
	if *seeds < 100 {
		return
	}
	for _, fault := range []string{"pause", "crash", "after", "error", "reply", "slow ", "stale", "twice", "lost ", "timer"} {
		if met[fault] == 0 {
			t.Errorf("the fault %q was never met", fault)
		}
	}
}

// TestSimulationCatches sees each broken worker caught by the invariant that is about it.
func TestSimulationCatches(t *testing.T) {
	for _, c := range []struct {
		name   string
		mutant mutant
		by     string // one of these
	}{
		{"appends without the last sequence", noCAS, "I6"},
		{"an append stored twice", appendsTwice, "I6"},
		{"acknowledged before the append", ackFirst, "I1"},
		{"no sweeper", noSweeper, "I9"},
		{"fires early", firesEarly, "I3"},
		{"ignores the end", ignoresAbort, "I4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// A few dozen seeds are enough, seldom a few hundred: the scheduler is not of the seed.
			for seed := range uint64(3000) {
				violations, _ := simulate(t, seed+1, c.mutant)
				for _, v := range violations {
					if strings.HasPrefix(v.String(), c.by) {
						t.Logf("caught by seed %d: %s", seed+1, v)
						return
					}
				}
			}
			t.Error("not caught by 3,000 seeds")
		})
	}
}
