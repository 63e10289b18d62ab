package decide_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// draws is where plans and inputs come from: rapid, or the bytes of a fuzzer. n draws from 0 to n−1.
type draws func(n int) int

func rapidDraws(t *rapid.T) draws {
	return func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") }
}

func byteDraws(b []byte) draws {
	return func(n int) int {
		if len(b) == 0 {
			return 0
		}
		v := int(b[0])
		b = b[1:]
		return v % n
	}
}

func one[T any](d draws, of ...T) T { return of[d(len(of))] }

var drawnTypes = []recourse.ErrorType{
	recourse.Timeout, recourse.Connectivity, recourse.Authentication, recourse.Authorization, recourse.Unknown,
}

// drawOracle draws a pipeline: up to two stages with nested groups, steps of the same names everywhere, and rollbackSteps.
func drawOracle(d draws) *oracle {
	o := &oracle{known: d(16) > 0, engine: d(2) == 0, now: epoch}
	for stage := range 1 + d(2) {
		path := []string{"prod", "prod2"}[stage]
		o.addNode(d, path, false, recourse.LevelStage)
		for g := range d(3) {
			group := path + "/" + []string{"g", "h"}[g]
			o.addNode(d, group, false, recourse.LevelStepGroup)
			o.addSteps(d, group, false)
			if d(2) == 0 {
				inner := group + "/inner"
				o.addNode(d, inner, false, recourse.LevelStepGroup)
				o.addSteps(d, inner, false)
			}
			if d(2) == 0 {
				o.addSteps(d, group, true)
			}
		}
		o.addSteps(d, path, false)
		if d(2) == 0 {
			o.addSteps(d, path, true)
			if d(2) == 0 {
				o.addNode(d, path+"/undo", true, recourse.LevelStepGroup)
				o.addSteps(d, path+"/undo", true)
			}
		}
	}
	return o
}

func (o *oracle) addSteps(d draws, parent string, rollback bool) {
	for s := range d(3) {
		o.addNode(d, parent+"/"+[]string{"a", "b"}[s], rollback, recourse.LevelStep)
	}
}

func (o *oracle) addNode(d draws, path string, rollback bool, level recourse.Level) {
	n := oracleNode{path: path, rollback: rollback, level: level}
	for i := range d(4) {
		s := oracleStrategy{name: fmt.Sprintf("%s.%v.%d", path, rollback, i)}
		for range 1 + d(2) {
			if t := one(d, append(drawnTypes, recourse.AllErrors)...); !slices.Contains(s.types, t) {
				s.types = append(s.types, t)
			}
		}
		if d(5) == 0 {
			s.exitCode = 1 + d(2)
		}
		s.do = drawAction(d, rollback, "primary")
		n.strategies = append(n.strategies, s)
	}
	o.nodes = append(o.nodes, n)
}

func drawAction(d draws, rollback bool, place string) *oracleAction {
	actions := []recourse.Action{recourse.Ignore, recourse.MarkAsSuccess, recourse.MarkAsFailure, recourse.Abort}
	if !rollback {
		actions = append(actions, recourse.StageRollback, recourse.StepGroupRollback, recourse.PipelineRollback)
	}
	if place != "after retries" {
		actions = append(actions, recourse.Retry, recourse.Retry, recourse.RetryStepGroup, recourse.RetryStepGroup)
	}
	if place != "after time-out" && place != "after retries of a time-out" {
		actions = append(actions, recourse.ManualIntervention, recourse.ManualIntervention)
	}
	if place == "primary" {
		actions = append(actions, recourse.ProceedWithDefaultValues)
	}
	a := &oracleAction{action: one(d, actions...)}
	switch a.action {
	case recourse.Retry, recourse.RetryStepGroup:
		a.count = d(4)
		if d(4) == 0 {
			a.initial, a.multiplier, a.max = time.Second, 2, 5*time.Second
		} else {
			for range d(3) {
				a.intervals = append(a.intervals, time.Duration(d(3))*10*time.Second)
			}
		}
		next := "after retries"
		if place == "after time-out" {
			next = "after retries of a time-out"
		}
		if d(3) > 0 {
			for a.then == nil || a.then.action == recourse.Retry || a.then.action == recourse.RetryStepGroup {
				a.then = drawAction(d, rollback, next)
			}
		}
	case recourse.ManualIntervention:
		a.timeout = time.Duration(1+d(3)) * time.Minute
		a.allowed = oracleDefaultAnswers
		if d(2) == 0 {
			a.allowed = nil
			for x := recourse.Ignore; x <= recourse.ProceedWithDefaultValues; x++ {
				if d(2) == 0 && x != recourse.ManualIntervention { // which no pipeline can allow
					a.allowed = append(a.allowed, x)
				}
			}
		}
		if d(3) > 0 {
			a.then = drawAction(d, rollback, "after time-out")
		}
	}
	return a
}

// play draws inputs, gives each to the oracle and to the package, and hands both answers to compare.
func play(t tester, d draws, o *oracle, inputs int, compare func(want *verdict, got *recourse.Record, result decide.Result, version uint64)) *chain {
	semantics := recourse.Documented
	if o.engine {
		semantics = recourse.Engine
	}
	c := newChain(t, o.compile(), semantics)
	newest := map[recourse.Node]int{}
	paths := []string{"gone/a", "prod/x", "prod/g/x", "prod/g/y/x", "prod/undo/x"}
	for _, n := range o.nodes {
		paths = append(paths, n.path)
	}
	for range inputs {
		o.now = o.now.Add(time.Duration(d(3)) * 10 * time.Second)
		var in *decide.Input
		var want *verdict
		switch kind := d(18); {
		case kind < 8:
			f := &recourse.Failure{}
			f.Path = one(d, paths...)
			if d(6) == 0 {
				f.Path += "[1]"
			}
			if d(5) == 0 && strings.HasPrefix(f.Path, "prod/") { // iterations of a group
				f.Path = strings.Replace(f.Path, "prod/g/", "prod/g[2]/", 1)
			}
			if d(4) == 0 && o.known {
				f.Section = recourse.RollbackSteps
			}
			f.Attempt = newest[f.Node] + 1
			if d(6) == 0 {
				f.Attempt = 1 + d(5)
			}
			newest[f.Node] = max(newest[f.Node], f.Attempt)
			var types []recourse.ErrorType
			for range d(3) {
				if e := one(d, drawnTypes...); !slices.Contains(types, e) {
					types = append(types, e)
				}
			}
			f.Errors = recourse.ErrorTypesOf(types...)
			exit := d(4)
			if exit > 0 {
				f.ExitCode = &exit
			}
			f.RetryAfter = recourse.Duration(one(d, 0, 0, 15*time.Second, 5*time.Hour))
			in = c.failure(f)
			want = o.failure(f.Path, f.Section == recourse.RollbackSteps, f.Attempt, in.Digest, types, exit, time.Duration(f.RetryAfter))
		case kind < 11:
			a := &recourse.Answer{Why: "so", Who: "jane", Intervention: uint64(1 + d(len(o.records)+2))}
			if open := c.head.State.Waits; d(4) > 0 && len(open) > 0 {
				a.Intervention = one(d, open...).Version
			}
			a.Action = recourse.Action(1 + d(int(recourse.ProceedWithDefaultValues)))
			if d(4) == 0 {
				a.ID = one(d, "x", "y")
			}
			in = c.answer(a)
			want = o.answer(in.Key, in.Digest, int(a.Intervention), a.Action)
		case kind < 15:
			version := uint64(1 + d(len(o.records)+2))
			if waits := c.head.State.Waits; d(4) > 0 && len(waits) > 0 {
				w := one(d, waits...)
				version = w.Version
				if d(3) > 0 && o.now.Before(w.DueAt) {
					o.now = w.DueAt
				}
			}
			in, want = c.due(version), o.due(int(version))
		case d(3) > 0:
			k := &recourse.Control{Why: "so", Who: "jane", Wait: uint64(1 + d(len(o.records)+2))}
			if waits := c.head.State.Waits; d(4) > 0 && len(waits) > 0 {
				k.Wait = one(d, waits...).Version
			}
			k.Do = one(d, recourse.RunNow, recourse.Postpone, recourse.Cancel)
			if k.Do == recourse.Postpone {
				k.For = recourse.Duration(time.Duration(1+d(3)) * 10 * time.Second)
			}
			if d(4) == 0 {
				k.ID = one(d, "x", "y")
			}
			in = c.control(k)
			want = o.control(in.Key, in.Digest, int(k.Wait), k.Do, time.Duration(k.For))
		case d(4) == 0:
			l := &recourse.Lifecycle{Event: one(d, recourse.Finished, recourse.Aborted)}
			in, want = c.lifecycle(l), o.lifecycle(l.Key())
		default:
			continue
		}
		got, result, version := c.step(in, o.now)
		compare(want, got, result, version)
	}
	return c
}

// TestOracle compares the package with the oracle over random plans and inputs.
func TestOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { playAgainstOracle(t, rapidDraws(t), 30) })
}

func playAgainstOracle(t tester, d draws, inputs int) {
	o := drawOracle(d)
	var log []string
	c := play(t, d, o, inputs, func(want *verdict, got *recourse.Record, result decide.Result, version uint64) {
		t.Helper()
		a, b := describeVerdict(want), describeRecord(got, result, version)
		log = append(log, b)
		if a != b {
			t.Fatalf("the oracle and the package disagree:\noracle  %s\npackage %s\nbefore:\n  %s\nplan:\n%s", a, b, strings.Join(log[:len(log)-1], "\n  "), describePlan(o))
		}
	})
	c.replay()
}

func describeVerdict(v *verdict) string {
	if v.result != decide.Decided {
		return fmt.Sprintf("result %d of %d", v.result, v.version)
	}
	due := time.Duration(0)
	if v.waits != 0 {
		due = v.due.Sub(epoch)
	}
	return fmt.Sprintf("%s %v #%d: %s %s [%s] of %s %q; %s %q as %d; delay %s, waits %s %q until %s for %v, retry %d of %d then %s; ends %d, cancels %v; %s %s %v %v",
		v.node, v.rollback, v.attempt, v.action, v.reason, v.plain, v.level, v.strategy, v.verb, v.scope, v.nextAttempt,
		v.delay, v.waits, groupScope(v.waits, v.waitScope), due, recourse.ActionsOf(v.allowed...), v.retry, v.of, v.afterRetries(), v.ends, v.cancelled, v.status, v.stage, v.runs, v.failed)
}

// afterRetries is what the wait of a retry says about what follows the last one.
func (v *verdict) afterRetries() recourse.Action {
	switch {
	case v.of == 0:
		return 0
	case v.then == nil:
		return recourse.MarkAsFailure
	}
	return v.then.action
}

func groupScope(kind recourse.WaitKind, scope string) string {
	if kind != recourse.WaitRetryGroup {
		return ""
	}
	return scope
}

func describeRecord(r *recourse.Record, result decide.Result, version uint64) string {
	if result != decide.Decided {
		return fmt.Sprintf("result %d of %d", result, version)
	}
	due := time.Duration(0)
	if r.Wait.Version != 0 {
		due = r.Wait.DueAt.Sub(epoch)
	}
	return fmt.Sprintf("%s %v #%d: %s %s [%s] of %s %q; %s %q as %d; delay %s, waits %s %q until %s for %v, retry %d of %d then %s; ends %d, cancels %v; %s %s %v %v",
		r.Path, r.Section == recourse.RollbackSteps, r.Attempt, r.Action, r.Reason, r.Kind, r.Level, r.Strategy, r.Command.Verb, r.Command.Scope,
		r.Command.Attempt, r.Delay, r.Wait.Kind, groupScope(r.Wait.Kind, r.Wait.Scope), due, r.Wait.Allowed, r.Wait.Retry, r.Wait.Of, r.Wait.Then, r.Ends, r.Cancelled, r.Effect.Node, r.Effect.Stage,
		r.Effect.Runs, r.Effect.PipelineFailed)
}

func describePlan(o *oracle) string {
	var b strings.Builder
	fmt.Fprintf(&b, "known %v, engine %v\n", o.known, o.engine)
	for _, n := range o.nodes {
		fmt.Fprintf(&b, "%s %s rollback=%v\n", n.level, n.path, n.rollback)
		for _, s := range n.strategies {
			fmt.Fprintf(&b, "    %v when %d ->", s.types, s.exitCode)
			for a := s.do; a != nil; a = a.then {
				fmt.Fprintf(&b, " %s count=%d %v allow=%v then", a.action, a.count, a.intervals, a.allowed)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}
