package run

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
	"github.com/recourse-dev/recourse/internal/simulate"
)

// virtual is a world without processes and servers: attempts take a given time, and what they report is decided at once.
type virtual struct {
	t        *testing.T
	engine   *engine
	known    decide.Pipeline
	head     decide.Head
	now      time.Time
	took     time.Duration
	queue    tasks
	order    int
	reported []recourse.Failure
	attempts map[recourse.Node]int
	log      []string // what began and ended, in order
}

type virtualTask struct {
	at    time.Time
	order int
	do    func()
}

type tasks []virtualTask

func (q tasks) Len() int { return len(q) }
func (q tasks) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q tasks) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *tasks) Push(x any)   { *q = append(*q, x.(virtualTask)) }
func (q *tasks) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}

func (v *virtual) at(t time.Time, do func()) {
	v.order++
	heap.Push(&v.queue, virtualTask{t, v.order, do})
}

func (v *virtual) begin(t *task) {
	v.attempts[t.Node]++
	if v.attempts[t.Node] != t.Attempt {
		v.t.Errorf("%s: attempt %d is the %d. that begins", t.Node, t.Attempt, v.attempts[t.Node])
	}
	v.log = append(v.log, fmt.Sprintf("%s#%d", t.Node, t.Attempt))
	end := &ended{attemptID: t.attemptID}
	if t.stub != nil && t.stub.Errors != 0 {
		end.Failure = &failure{Errors: t.stub.Errors}
	}
	took := v.took
	if n, ok := v.known.Plan.Lookup(t.Node); !ok || n.Level != recourse.LevelStep {
		took = 0
	}
	v.at(v.now.Add(took), func() {
		if !v.engine.frames[t.Node].halted {
			v.ends(end)
		}
	})
}

func (v *virtual) ends(end *ended) {
	v.engine.attemptEnded(end)
	v.decideReported()
}

// kill ends the attempt at once; what it would have come to is dropped.
func (v *virtual) kill(n recourse.Node) {
	id := attemptID{n, v.engine.frames[n].attempt}
	v.at(v.now, func() { v.ends(&ended{attemptID: id, Killed: true}) })
}

func (v *virtual) report(f recourse.Failure) { v.reported = append(v.reported, f) }

func (v *virtual) tell(e Event) {
	switch e.Kind {
	case KindSkipped, KindRollback, KindEnded:
		v.log = append(v.log, e.Node+" "+e.Kind+" "+e.Status.String())
	}
}

func (v *virtual) decideReported() {
	for len(v.reported) > 0 {
		f := v.reported[0]
		v.reported = v.reported[1:]
		f.Ref = simulate.Ref
		v.decide(&decide.Input{Ref: f.Ref, Node: f.Node, Attempt: f.Attempt, Input: recourse.Input{
			Key: f.Key(), Digest: f.Digest(), Failure: &recourse.FailureInput{Errors: f.Errors},
		}})
	}
}

func (v *virtual) decide(in *decide.Input) {
	rec := new(recourse.Record)
	if result, _ := decide.Decide(rec, v.known, &v.head, in, v.now); result != decide.Decided {
		if in.Failure != nil {
			v.t.Errorf("%s: %s", in.Key, result)
		}
		return
	}
	if _, err := decide.Seal(rec, &v.head); err != nil {
		v.t.Fatal(err)
	}
	v.head.Appended(rec, rec.Version)
	rec.State = nil
	if w := rec.Wait; w.Version != 0 {
		v.at(w.DueAt, func() {
			v.decide(&decide.Input{Ref: simulate.Ref, Input: recourse.Input{Key: "due/" + strconv.FormatUint(w.Version, 10), Due: w.Version}})
		})
	}
	v.engine.decided(rec)
	v.decideReported()
}

// subject is a pipeline that is played.
type subject struct {
	plan      *decide.Plan
	structure *pipeline.Structure
	program   *program
}

func read(t *testing.T, yaml string, semantics recourse.Semantics) *subject {
	t.Helper()
	plan, structure, found := pipeline.LoadStructure("test.yaml", []byte(yaml), pipeline.Options{Semantics: semantics})
	if found.HasErrors() {
		t.Fatalf("%v\n%s", found, yaml)
	}
	p, err := newProgram(simulate.Ref, "test.yaml", []byte(yaml), structure, nil, stubs{})
	if err != nil {
		t.Fatal(err)
	}
	return &subject{plan, structure, p}
}

// play runs a pipeline through a scenario without answers.
func play(t *testing.T, s *subject, scenario *simulate.Scenario) (*virtual, *simulate.Result) {
	t.Helper()
	p, semantics := *s.program, s.plan.Semantics
	p.stubs = stubs{nodes: scenario.Failures, rest: []simulate.Outcome{{}}}
	v := &virtual{t: t, known: decide.Pipeline{Plan: s.plan, Semantics: semantics}, now: time.Unix(0, 0).UTC(), took: scenario.StepDuration, attempts: make(map[recourse.Node]int)}
	v.engine = newEngine(&p, semantics, v)
	v.engine.begin()
	for work := 0; len(v.queue) > 0; work++ {
		if work > simulate.MaxWork {
			t.Fatalf("no end\n%s", p.text)
		}
		next := heap.Pop(&v.queue).(virtualTask)
		v.now = next.at
		next.do()
	}
	want, err := simulate.Run(s.plan, s.structure, scenario)
	if err != nil {
		t.Fatal(err)
	}
	return v, want
}

// compare wants the stages and the attempts of both to be the same.
func compare(t *testing.T, v *virtual, want *simulate.Result, why string) {
	t.Helper()
	if !v.engine.finished {
		t.Fatalf("the run did not end: %s\n%s", strings.Join(v.log, "\n"), why)
	}
	got := v.engine.result()
	if got.Outcome != want.Outcome {
		t.Errorf("outcome %s, the simulation has %s", got.Outcome, want.Outcome)
	}
	for i := range want.Stages {
		if got.Stages[i].Stage != want.Stages[i].Stage || got.Stages[i].Status != want.Stages[i].Status {
			t.Errorf("stage %s %s, the simulation has %s %s", got.Stages[i].Stage, got.Stages[i].Status, want.Stages[i].Stage, want.Stages[i].Status)
		}
	}
	steps := func(attempts map[recourse.Node]int) (list []string) {
		for n, count := range attempts {
			if level, ok := v.known.Plan.Lookup(n); ok && level.Level == recourse.LevelStep {
				list = append(list, fmt.Sprintf("%s %d", n, count))
			}
		}
		slices.Sort(list)
		return list
	}
	if got, want := steps(v.attempts), steps(want.Attempts); !slices.Equal(got, want) {
		t.Errorf("attempts\n  %s\nthe simulation has\n  %s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
	if t.Failed() {
		var events []string
		for i := range want.Events {
			events = append(events, want.Events[i].At.String()+" "+want.Events[i].Node+" "+want.Events[i].Text())
		}
		t.Fatalf("the run:\n%s\n\nthe simulation:\n%s\n\n%s", strings.Join(v.log, "\n"), strings.Join(events, "\n"), why)
	}
}

// TestAgreesOnExamples fails every node of every example in every way, alone.
func TestAgreesOnExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			yaml, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := read(t, string(yaml), recourse.Documented)
			kinds := recourse.ErrorTypesOf(recourse.Unknown) // and those that make a difference
			for _, n := range s.plan.Nodes() {
				for i := range n.Strategies {
					for kind := range n.Strategies[i].Errors.All {
						if kind != recourse.AllErrors {
							kinds = kinds.Add(kind)
						}
					}
				}
			}
			for _, n := range s.plan.Nodes() {
				for kind := range kinds.All {
					for _, always := range []bool{false, true} {
						scenario := &simulate.Scenario{StepDuration: time.Second, Failures: map[recourse.Node][]simulate.Outcome{
							n.Node: {{Errors: recourse.ErrorTypesOf(kind), Always: always}},
						}}
						v, want := play(t, s, scenario)
						compare(t, v, want, fmt.Sprintf("%s fails with %s, always: %t", n.Node, kind, always))
					}
				}
			}
		})
	}
}

// generator writes random pipelines.
type generator struct {
	*rand.Rand
	n     int
	nodes []recourse.Node
}

func (g *generator) one(list ...string) string { return list[g.IntN(len(list))] }

func (g *generator) strategies(group, rollback bool) string {
	simple := []string{"Ignore", "MarkAsSuccess", "MarkAsFailure"}
	if g.IntN(8) == 0 {
		simple = append(simple, "Abort")
	}
	if !rollback {
		simple = append(simple, "StageRollback", "PipelineRollback")
		if group {
			simple = append(simple, "StepGroupRollback")
		}
	}
	var list []string
	for _, errors := range []string{"Timeout", "AllErrors"} {
		action := "{type: " + g.one(simple...) + "}"
		switch g.IntN(4) {
		case 0:
			action = fmt.Sprintf("{type: Retry, spec: {retryCount: %d, retryIntervals: [%s], onRetryFailure: {action: {type: %s}}}}", 1+g.IntN(2), g.one("", "1s", "3s"), g.one(simple...))
		case 1:
			if group {
				action = fmt.Sprintf("{type: RetryStepGroup, spec: {retryCount: %d, retryIntervals: [%s], onRetryFailure: {action: {type: %s}}}}", 1+g.IntN(2), g.one("", "1s", "3s"), g.one(simple...))
			}
		case 2:
			action = fmt.Sprintf("{type: ManualIntervention, spec: {timeout: %s, onTimeout: {action: {type: %s}}}}", g.one("1s", "5s"), g.one(simple...))
		}
		if g.IntN(2) == 0 {
			list = append(list, fmt.Sprintf("{onFailure: {errors: [%s], action: %s}}", errors, action))
		}
	}
	return "failureStrategies: [" + strings.Join(list, ", ") + "]"
}

func (g *generator) when(key string) string {
	if g.IntN(4) != 0 {
		return ""
	}
	return ", when: {" + key + ": " + g.one("Success", "Failure", "All") + "}"
}

func (g *generator) item(up recourse.Node, depth int) string {
	g.n++
	switch g.IntN(5) {
	case 0:
		if depth > 0 {
			return "{parallel: [" + g.item(up, depth-1) + ", " + g.item(up, depth-1) + "]}"
		}
	case 1, 2:
		if depth > 0 {
			n := recourse.Node{Path: fmt.Sprintf("%s/g%d", up.Path, g.n), Section: up.Section}
			g.nodes = append(g.nodes, n)
			id := g.n
			own := g.strategies(true, up.Section == recourse.RollbackSteps) + g.when("stageStatus")
			steps := g.items(n, depth-1)
			n.Section = recourse.RollbackSteps
			return fmt.Sprintf("{stepGroup: {identifier: g%d, steps: %s, rollbackSteps: %s, %s}}", id, steps, g.items(n, 0), own)
		}
	}
	n := recourse.Node{Path: fmt.Sprintf("%s/s%d", up.Path, g.n), Section: up.Section}
	g.nodes = append(g.nodes, n)
	loop := ""
	if g.IntN(6) == 0 {
		loop = ", strategy: {repeat: {times: 3, maxConcurrency: " + g.one("1", "2", "3") + "}}"
	}
	return fmt.Sprintf("{step: {identifier: s%d, type: Run, %s%s%s}}", g.n, g.strategies(false, up.Section == recourse.RollbackSteps), g.when("stageStatus"), loop)
}

func (g *generator) items(up recourse.Node, depth int) string {
	var list []string
	for range 1 + g.IntN(3) {
		list = append(list, g.item(up, depth))
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func (g *generator) pipeline() string {
	stage := func() string {
		g.n++
		n := recourse.Node{Path: fmt.Sprintf("t%d", g.n)}
		g.nodes = append(g.nodes, n)
		id, own := g.n, g.strategies(false, false)+g.when("pipelineStatus")
		steps := g.items(n, 2)
		n.Section = recourse.RollbackSteps
		return fmt.Sprintf("{stage: {identifier: t%d, type: Custom, spec: {execution: {steps: %s, rollbackSteps: %s}}, %s}}", id, steps, g.items(n, 1), own)
	}
	var list []string
	for range 1 + g.IntN(3) {
		if g.IntN(4) == 0 {
			list = append(list, "{parallel: ["+stage()+", "+stage()+"]}")
		} else {
			list = append(list, stage())
		}
	}
	return "pipeline: {identifier: p, stages: [" + strings.Join(list, ", ") + "]}"
}

// TestAgreesAtRandom runs random pipelines in which random nodes fail, and wants what the simulation of the same says.
func TestAgreesAtRandom(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 100
	}
	verbs := make(map[simulate.Status]int)
	for seed := range seeds {
		g := &generator{Rand: rand.New(rand.NewPCG(seed, 1))}
		yaml := g.pipeline()
		scenario := &simulate.Scenario{StepDuration: time.Duration(g.IntN(3)) * time.Second, Failures: make(map[recourse.Node][]simulate.Outcome)}
		for _, n := range g.nodes {
			if g.IntN(3) == 0 {
				scenario.Failures[n] = []simulate.Outcome{{Errors: recourse.ErrorTypesOf([]recourse.ErrorType{recourse.Timeout, recourse.Unknown}[g.IntN(2)]), Times: 1 + g.IntN(3)}}
			}
		}
		v, want := play(t, read(t, yaml, []recourse.Semantics{recourse.Documented, recourse.Engine}[g.IntN(2)]), scenario)
		compare(t, v, want, fmt.Sprintf("seed %d: %v\n%s", seed, maps.Collect(maps.All(scenario.Failures)), yaml))
		verbs[want.Outcome]++
	}
	t.Logf("outcomes: %v", verbs)
	if len(verbs) < 4 {
		t.Errorf("only outcomes %v came about", verbs)
	}
}
