package simulate

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// builder writes random pipelines: every action wherever it may stand, groups in groups, blocks beside each other, loops, `when`.
type builder struct {
	*rand.Rand
	next int
}

func (b *builder) one(list ...string) string { return list[b.IntN(len(list))] }

func (b *builder) id(kind string) string {
	b.next++
	return fmt.Sprintf("%s%d", kind, b.next)
}

var errorNames = []string{"Timeout", "Verification", "Connectivity", "Unknown"}

func (b *builder) action(level string, rollback bool, nested int) string {
	simple := []string{"Ignore", "MarkAsSuccess", "MarkAsFailure", "Abort"}
	if !rollback {
		simple = append(simple, "StageRollback", "StageRollback", "PipelineRollback")
		if level == "group" && nested == 0 {
			simple = append(simple, "StepGroupRollback", "StepGroupRollback")
		}
	}
	switch n := b.IntN(10); {
	case n < 2 && nested == 0:
		return fmt.Sprintf("{type: Retry, spec: {retryCount: %d, retryIntervals: [%s], onRetryFailure: {action: %s}}}", b.IntN(4), b.one("", "5s", "0s", "5s, 10s"), b.action(level, rollback, 1))
	case n < 4 && nested == 0 && level == "group":
		return fmt.Sprintf("{type: RetryStepGroup, spec: {retryCount: %d, retryIntervals: [%s]}}", b.IntN(3), b.one("", "5s", "10s"))
	case n < 6 && nested < 2:
		extra := ""
		if level == "group" && b.IntN(2) == 0 {
			extra = ", availableActions: [Retry, RetryStepGroup, Ignore, Abort]"
		}
		return fmt.Sprintf("{type: ManualIntervention, spec: {timeout: %s%s, onTimeout: {action: %s}}}", b.one("5s", "1m"), extra, b.action(level, rollback, 2))
	}
	return "{type: " + b.one(simple...) + "}"
}

func (b *builder) strategies(level string, rollback bool) string {
	var list []string
	for range b.IntN(3) {
		list = append(list, fmt.Sprintf("{onFailure: {errors: [%s], action: %s}}", b.one(append(errorNames, "AllErrors")...), b.action(level, rollback, 0)))
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func (b *builder) common(level string, rollback bool) string {
	s := "failureStrategies: " + b.strategies(level, rollback)
	if b.IntN(3) == 0 {
		key := "stageStatus"
		if level == "stage" {
			key = "pipelineStatus"
		}
		s += fmt.Sprintf(", when: {%s: %s}", key, b.one("Success", "Failure", "All"))
	}
	if b.IntN(8) == 0 {
		s += fmt.Sprintf(", strategy: {repeat: {times: %d, maxConcurrency: %d}}", 1+b.IntN(3), b.IntN(3))
	}
	return s
}

func (b *builder) steps(depth int, rollback bool) string {
	var list []string
	for range 1 + b.IntN(3) {
		list = append(list, b.item(depth, rollback))
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func (b *builder) item(depth int, rollback bool) string {
	switch n := b.IntN(6); {
	case n == 0 && depth > 0:
		return "{parallel: " + b.steps(depth-1, rollback) + "}"
	case n < 3 && depth > 0:
		return fmt.Sprintf("{stepGroup: {identifier: %s, steps: %s, rollbackSteps: %s, %s}}", b.id("g"), b.steps(depth-1, rollback), b.steps(0, true), b.common("group", rollback))
	}
	return fmt.Sprintf("{step: {identifier: %s, type: Run, %s}}", b.id("s"), b.common("step", rollback))
}

func (b *builder) stage() string {
	return fmt.Sprintf("{stage: {identifier: %s, type: Custom, spec: {execution: {steps: %s, rollbackSteps: %s}}, %s}}",
		b.id("t"), b.steps(2, false), b.steps(1, true), b.common("stage", false))
}

func (b *builder) pipeline() string {
	var list []string
	for range 1 + b.IntN(3) {
		if b.IntN(4) == 0 {
			list = append(list, "{parallel: ["+b.stage()+", "+b.stage()+"]}")
		} else {
			list = append(list, b.stage())
		}
	}
	return "pipeline: {identifier: p, stages: [" + strings.Join(list, ", ") + "]}"
}

func (b *builder) scenario(plan *decide.Plan) Scenario {
	s := Scenario{Failures: make(map[recourse.Node][]Outcome)}
	if b.IntN(2) == 0 {
		s.StepDuration = time.Duration(1+b.IntN(3)) * 5 * time.Second
	}
	for _, n := range plan.Nodes() {
		if b.IntN(3) != 0 {
			continue
		}
		var list []Outcome
		for range 1 + b.IntN(4) {
			o := Outcome{Times: b.IntN(3)}
			if b.IntN(4) != 0 {
				t, _ := recourse.ParseErrorType(b.one(errorNames...))
				o.Errors = recourse.ErrorTypesOf(t)
			}
			list = append(list, o)
		}
		list[len(list)-1].Always = b.IntN(4) == 0
		s.Failures[n.Node] = list
		for range b.IntN(3) {
			action, _ := recourse.ParseAction(b.one(recourse.ActionNames()...))
			s.Answers = append(s.Answers, Answer{n.Node, action, time.Duration(b.IntN(3)) * 5 * time.Second})
		}
	}
	return s
}

// TestRandom runs random pipelines through random scenarios. Whatever they are, the run ends, nothing is left waiting, the events are the
// decisions of the engine on the inputs of the run, and a retry starts the attempt that the engine counts.
func TestRandom(t *testing.T) {
	seeds := uint64(500)
	if testing.Short() {
		seeds = 200
	}
	verbs, statuses, tooLong := map[recourse.Verb]int{}, map[Status]int{}, 0
	for seed := range seeds {
		b := &builder{Rand: rand.New(rand.NewPCG(seed, 1))}
		yaml := b.pipeline()
		semantics := recourse.Semantics(b.IntN(2))
		plan, structure, found := pipeline.LoadStructure("random.yaml", []byte(yaml), pipeline.Options{Semantics: semantics})
		for _, d := range found {
			if d.Severity == pipeline.SeverityError && !(semantics == recourse.Engine) { // the engine refuses some of them: what is left is run
				t.Fatalf("seed %d: %s\n%s", seed, d, yaml)
			}
		}
		scenario := b.scenario(plan)
		res, err := Run(plan, structure, &scenario)
		if errors.Is(err, ErrTooLong) {
			tooLong++
			continue
		}
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, yaml)
		}
		if problem := check(plan, res); problem != "" {
			t.Fatalf("seed %d: %s\n%s\n%s", seed, problem, yaml, res.text())
		}
		if again, _ := Run(plan, structure, &scenario); !reflect.DeepEqual(res.Events, again.Events) || !slices.Equal(res.Stages, again.Stages) {
			t.Fatalf("seed %d: a second run differs", seed)
		}
		for _, rec := range res.Records {
			verbs[rec.Command.Verb]++
		}
		for _, s := range res.Stages {
			statuses[s.Status]++
		}
	}
	t.Logf("verbs %v, statuses %v, too long %d", verbs, statuses, tooLong)
	for _, name := range recourse.ActionNames() {
		a, _ := recourse.ParseAction(name)
		if a != recourse.ProceedWithDefaultValues && verbs[a.Verb()] == 0 {
			t.Errorf("%s never came about", a.Verb())
		}
	}
	for s := Succeeded; s < statusEnd; s++ {
		if statuses[s] == 0 {
			t.Errorf("no stage ended %s", s)
		}
	}
	if tooLong > int(seeds)/20 {
		t.Errorf("%d of %d runs are too long", tooLong, seeds)
	}
}

// check says what is wrong with a run.
func check(plan *decide.Plan, res *Result) string {
	// The decisions again, from the inputs alone.
	known, head := decide.Pipeline{Plan: plan, Semantics: plan.Semantics}, new(decide.Head)
	var events []Event
	for _, e := range res.Events {
		if e.Version != 0 {
			events = append(events, e)
		}
	}
	if len(events) != len(res.Records) {
		return fmt.Sprintf("%d events for %d decisions", len(events), len(res.Records))
	}
	settled := make(map[string]*recourse.Record)
	for i, rec := range res.Records {
		again := new(recourse.Record)
		in := &decide.Input{Ref: rec.Ref, Node: rec.Node, Attempt: rec.Attempt, Input: rec.Input}
		if rec.Input.Failure == nil {
			in.Node, in.Attempt = recourse.Node{}, 0
		}
		if result, _ := decide.Decide(again, known, head, in, rec.At); result != decide.Decided {
			return fmt.Sprintf("record %d: %s", rec.Version, result)
		}
		if _, err := decide.Seal(again, head); err != nil {
			return err.Error()
		}
		head.Appended(again, again.Version)
		again.State = nil // as the run keeps them
		want, _ := recourse.Encode(again)
		if got, _ := recourse.Encode(rec); !bytes.Equal(got, want) {
			return fmt.Sprintf("record %d:\n%s\nwant\n%s", rec.Version, got, want)
		}
		e := &events[i]
		if e.Version != rec.Version || e.Action != again.Action || e.Reason != again.Reason || e.Verb != again.Command.Verb ||
			e.Attempt != again.Attempt || time.Duration(e.At) != again.At.Sub(epoch) || again.Path != "" && e.Node != again.Path {
			return fmt.Sprintf("event %+v is not the decision %s of %s in record %d", e, again.Action, again.Node, again.Version)
		}
		if again.Effect.Stage != "" {
			settled[again.Stage()] = again
		}
	}
	if len(head.State.Waits) > 0 {
		return fmt.Sprintf("left waiting: %+v", head.State.Waits)
	}
	for node, attempts := range res.Attempts {
		failed := 0
		for _, rec := range res.Records {
			if rec.Node == node && rec.Input.Failure != nil {
				failed = max(failed, rec.Attempt)
			}
			if rec.Node == node && rec.Command.Verb == recourse.VerbRetry && rec.Command.Attempt > attempts && rec.Command.Scope == node.Path {
				return fmt.Sprintf("%s ran %d times, a command started attempt %d", node, attempts, rec.Command.Attempt)
			}
		}
		if failed > attempts {
			return fmt.Sprintf("%s ran %d times, attempt %d failed", node, attempts, failed)
		}
	}
	for i, at := 0, time.Duration(0); i < len(res.Events); i++ {
		if time.Duration(res.Events[i].At) < at {
			return "time runs backwards"
		}
		at = time.Duration(res.Events[i].At)
	}
	whole := slices.ContainsFunc(res.Records, func(rec *recourse.Record) bool { return rec.Command.Verb == recourse.VerbRollbackPipeline })
	for _, s := range res.Stages {
		rec := settled[s.Stage]
		switch {
		case s.Status == 0:
			return s.Stage + " has no status"
		case s.Status == Succeeded && rec != nil && !restarted(res, s.Stage):
			return fmt.Sprintf("%s succeeded, but record %d settled it as %s", s.Stage, rec.Version, rec.Effect.Stage)
		case s.Status == RolledBack && !whole && !settledAs(res, s.Stage, recourse.OutcomeRolledBack):
			return s.Stage + " was rolled back, and no decision says so"
		case (s.Status == Skipped || s.Status == NotStarted) && rec != nil:
			return fmt.Sprintf("%s did not run, but record %d settled it", s.Stage, rec.Version)
		case s.Status == NotStarted && res.Outcome != Aborted && res.Outcome != RolledBack:
			return s.Stage + " was never started"
		}
	}
	return ""
}

// restarted reports whether a group of the stage ran again: what was settled in it does not count any more.
func restarted(res *Result, stage string) bool {
	return slices.ContainsFunc(res.Records, func(rec *recourse.Record) bool {
		return rec.Command.Verb == recourse.VerbRetryGroup && rec.Stage() == stage
	})
}

func settledAs(res *Result, stage string, outcome recourse.StageOutcome) bool {
	return slices.ContainsFunc(res.Records, func(rec *recourse.Record) bool { return rec.Stage() == stage && rec.Effect.Stage == outcome })
}

// TestNextStageAgrees: of two stages, the second runs where the decision that settled the first says so.
func TestNextStageAgrees(t *testing.T) {
	compared := 0
	for seed := range uint64(700) {
		b := &builder{Rand: rand.New(rand.NewPCG(seed, 2))}
		when := b.one("Success", "Failure", "All")
		yaml := "pipeline: {identifier: p, stages: [" + b.stage() + ", {stage: {identifier: second, type: Custom, when: {pipelineStatus: " + when +
			"}, spec: {execution: {steps: [{step: {identifier: a, type: Run}}]}}}}]}"
		semantics := recourse.Semantics(b.IntN(2))
		plan, structure, _ := pipeline.LoadStructure("random.yaml", []byte(yaml), pipeline.Options{Semantics: semantics})
		if structure.Stages[0].Loop.Count > 1 {
			continue
		}
		scenario := b.scenario(plan)
		scenario.Failures[recourse.Node{Path: "second"}] = nil
		res, err := Run(plan, structure, &scenario)
		if err != nil || len(res.Stages) != 2 || restarted(res, res.Stages[0].Stage) {
			continue
		}
		var settled []*recourse.Record
		for _, rec := range res.Records {
			if rec.Effect.Stage != "" && rec.Stage() != "second" {
				settled = append(settled, rec)
			}
		}
		if len(settled) != 1 {
			continue // which of them counts is another question
		}
		compared++
		runs := res.Stages[1].Status != Skipped && res.Stages[1].Status != NotStarted
		if want := slices.Contains(settled[0].Effect.Runs, when); runs != want {
			t.Fatalf("seed %d: second runs %v with when %s, the decision allows %v\n%s\n%s", seed, runs, when, settled[0].Effect.Runs, yaml, res.text())
		}
	}
	if compared < 100 {
		t.Errorf("%d runs were compared", compared)
	}
}
