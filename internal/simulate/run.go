package simulate

import (
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// epoch is when every run starts. It only shows in records.
var epoch = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// Ref names the execution that a run stands for. The ids spread the jitter of a backoff.
var Ref = recourse.Ref{Account: "default", Org: "default", Project: "default", Pipeline: "pipeline", Execution: "simulate"}

// Run runs a pipeline through a scenario. Plan and structure are those of one [pipeline.LoadStructure]; equal arguments give an equal
// result. The error is [ErrTooLong], with what happened until then, or one of the encoding of a record.
func Run(plan *decide.Plan, structure *pipeline.Structure, scenario *Scenario) (*Result, error) {
	r := &run{
		known: decide.Pipeline{Plan: plan, Semantics: plan.Semantics}, scenario: scenario, given: scenario.index(), now: epoch,
		frames: make(map[recourse.Node]*frame), waits: make(map[uint64]*frame), opened: make(map[uint64]time.Time),
		answered: make([]bool, len(scenario.Answers)), strategies: make(map[string]*decide.Strategy),
		result: &Result{
			Stages: []Stage{}, Events: []Event{}, Notes: []string{}, Semantics: plan.Semantics, Attempts: make(map[recourse.Node]int),
		},
	}
	for _, n := range plan.Nodes() {
		for i := range n.Strategies {
			r.strategies[n.Strategies[i].Path] = &n.Strategies[i]
		}
	}
	for _, d := range structure.Notes {
		r.note("%s:%d: %s", d.File, d.Line, d.Message)
	}
	r.listStages(structure.Stages)
	r.inOrder(nil, structure.Stages, r.finish)
	for r.err == nil && r.queue.Len() > 0 {
		next := heap.Pop(&r.queue).(task)
		if r.now = next.at; r.spend() {
			next.do()
		}
	}
	r.conclude()
	return r.result, r.err
}

// run is one run. It goes on by tasks in a queue; what is to happen after a block has ended is a function that the block keeps.
type run struct {
	known    decide.Pipeline
	scenario *Scenario
	given    index // of scenario.Failures
	head     decide.Head
	now      time.Time
	queue    queue
	order    int // of tasks
	work     int
	err      error

	stages   []*stage // in the order of the YAML
	over     []*stage // that ended, in that order
	frames   map[recourse.Node]*frame
	waits    map[uint64]*frame // by version: the node of a retry or intervention, the group of a group retry
	opened   map[uint64]time.Time
	answered []bool // by position in scenario.Answers

	aborted    *recourse.Record // that aborted the execution
	rolledBack *recourse.Record // that ordered the rollback of the pipeline

	strategies map[string]*decide.Strategy
	result     *Result
}

// task is something that happens at an instant. Of two at the same instant the one that was put first comes first.
type task struct {
	at    time.Time
	order int
	do    func()
}

type queue []task

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(task)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}

func (r *run) at(t time.Time, do func()) {
	r.order++
	heap.Push(&r.queue, task{t, r.order, do})
}

// spend counts a piece of work and reports whether there is some left.
func (r *run) spend() bool {
	if r.work++; r.work > MaxWork && r.err == nil {
		r.err = fmt.Errorf("%w: more than %d attempts and decisions", ErrTooLong, MaxWork)
	}
	return r.err == nil
}

func (r *run) since() recourse.Duration { return recourse.Duration(r.now.Sub(epoch)) }

func (r *run) tell(e Event) {
	e.At = r.since()
	r.result.Events = append(r.result.Events, e)
}

// frame is one run of a stage, step group or step, from its `when` to its end; a group that is run again keeps its frame.
type frame struct {
	up    *frame // nil of a stage
	block *pipeline.Block
	recourse.Node
	stage *stage
	then  func()
	ended bool

	// Of a stage or group:

	running    bool   // its steps
	retryWait  uint64 // version of the group retry that it waits for
	again      bool   // it is to be run again as soon as what runs in it has ended
	undo, done bool   // its rollback is ordered, and its rollbackSteps have run

	// A frame of rollbackSteps stands between those and their stage or group, and has its node.

	rollback bool
	failed   bool // one of the steps
}

// stopped reports whether nothing more is started in a frame: a rollback, a group retry or an abort was ordered for a scope around it.
// A rollback that has begun is stopped by an abort, or because what is around it runs again, but not by another rollback (R11).
func (r *run) stopped(f *frame) bool {
	if r.aborted != nil || r.err != nil {
		return true
	}
	undoing := false
	for ; f != nil; f = f.up {
		if f.again || f.retryWait != 0 || f.undo && !undoing {
			return true
		}
		undoing = undoing || f.rollback
	}
	return r.rolledBack != nil && !undoing
}

// inOrder runs blocks one after the other.
func (r *run) inOrder(up *frame, blocks []*pipeline.Block, then func()) {
	starts := make([]func(func()), len(blocks))
	for i, b := range blocks {
		starts[i] = func(then func()) { r.block(up, b, then) }
	}
	r.start(up, starts, 1, then)
}

// block runs a block with all its iterations, unless its `when` keeps it from running. That is looked at once: the iterations do not
// wait for each other, even where they take turns.
func (r *run) block(up *frame, b *pipeline.Block, then func()) {
	switch {
	case b.Level == recourse.LevelNone:
		starts := make([]func(func()), len(b.Steps))
		for i, child := range b.Steps {
			starts[i] = func(then func()) { r.block(up, child, then) }
		}
		r.start(up, starts, 0, then)
	case b.Loop.Count == 0:
		runs, why := r.when(up, b)
		r.node(up, b, "", runs, why, then)
	default:
		runs, why := r.when(up, b)
		starts := make([]func(func()), b.Loop.Count)
		for i := range starts {
			starts[i] = func(then func()) { r.node(up, b, iteration(i), runs, why, then) }
		}
		r.start(up, starts, b.Loop.MaxConcurrency, then)
	}
}

func iteration(i int) string { return "[" + strconv.Itoa(i) + "]" }

// start starts what it is given, at most most at the same time (0 is all), and goes on once all have ended, or those have that were
// started before the frame was stopped.
func (r *run) start(up *frame, starts []func(func()), most int, then func()) {
	next, running, starting, over := 0, 0, false, false
	var more func()
	more = func() {
		if starting || over {
			return
		}
		starting = true
		for next < len(starts) && (most == 0 || running < most) && !r.stopped(up) {
			do := starts[next]
			next++
			running++
			do(func() {
				running--
				more()
			})
		}
		starting = false
		if running == 0 {
			over = true
			then()
		}
	}
	more()
}

// node begins one iteration of a stage, step group or step, or skips it.
func (r *run) node(up *frame, b *pipeline.Block, iteration string, runs bool, why string, then func()) {
	if !r.spend() {
		then()
		return
	}
	f := &frame{up: up, block: b, Node: b.Node, then: then}
	name := b.Path[strings.LastIndexByte(b.Path, '/')+1:] + iteration
	f.Path = name
	if up != nil {
		f.Path, f.stage = up.Path+"/"+name, up.stage
	} else {
		f.stage = r.stages[slices.IndexFunc(r.stages, func(s *stage) bool { return s.path == name })]
	}
	if !runs {
		r.tell(Event{Node: f.Path, Section: f.Section, Kind: KindSkipped, Why: why})
		if up == nil {
			f.stage.status, f.stage.reason = Skipped, why
		}
		then()
		return
	}
	if up == nil {
		f.stage.frame = f
	}
	if up == nil || why != "" {
		r.tell(Event{Node: f.Path, Section: f.Section, Kind: KindStarted, Why: why})
	}
	r.attempt(f)
}

// attempt begins an attempt. A step takes its time; a stage or group fails at once, or begins with its steps.
func (r *run) attempt(f *frame) {
	if !r.spend() {
		f.ended = true
		f.then()
		return
	}
	r.frames[f.Node] = f
	r.result.Attempts[f.Node]++
	attempt := r.result.Attempts[f.Node]
	outcome := outcomeOf(r.scenario.Failures[r.given.closest(f.Node)], attempt)
	step := f.block.Level == recourse.LevelStep
	took := r.scenario.StepDuration
	switch {
	case outcome.Errors == 0 && !step:
		f.running = true
		r.inOrder(f, f.block.Steps, func() { r.stepsEnded(f) })
		return
	case !step:
		took = 0
	}
	r.at(r.now.Add(took), func() {
		if outcome.Errors != 0 {
			r.fails(f, attempt, &outcome)
			return
		}
		r.tell(Event{Node: f.Path, Section: f.Section, Attempt: attempt, Kind: KindSucceeded})
		r.end(f)
	})
}

// stepsEnded goes on after the steps of a stage or group, or once nothing runs in it any more.
func (r *run) stepsEnded(f *frame) {
	f.running = false
	switch stopped := r.stopped(f.up); {
	case stopped:
		r.end(f)
	case f.retryWait != 0:
		// Until the wait is over, or superseded.
	case f.undo:
		r.undo(f, "", func() { r.end(f) })
	case f.again:
		f.again = false
		f.stage.forget(f.Node)
		r.attempt(f)
	default:
		r.end(f)
	}
}

// forget drops what was settled inside a group that is run again: its last run is what counts.
func (s *stage) forget(group recourse.Node) {
	s.settled = slices.DeleteFunc(s.settled, func(rec *recourse.Record) bool {
		return rec.Within(group.Path) && rec.Section >= group.Section
	})
}

// undo runs the rollbackSteps of a stage or group.
func (r *run) undo(f *frame, why string, then func()) {
	f.undo, f.again = true, false
	if len(f.block.Rollback) == 0 {
		why = strings.TrimPrefix(why+"; there are none", "; ")
	}
	r.tell(Event{Node: f.Path, Section: f.Section, Kind: KindRollback, Why: why})
	steps := &frame{up: f, block: f.block, Node: f.Node, stage: f.stage, rollback: true}
	r.inOrder(steps, f.block.Rollback, func() {
		f.done = r.aborted == nil
		then()
	})
}

// end ends a frame; what ended before stays as it is.
func (r *run) end(f *frame) {
	if f.ended {
		return
	}
	f.ended = true
	if f.up == nil {
		r.over = append(r.over, f.stage)
		if r.rolledBack == nil || r.aborted != nil || f.done {
			r.settle(f.stage)
		} // else it ends with the rollback of the pipeline
	}
	f.then()
}

// finish follows the last stage, or those in which the pipeline was stopped: a rollback of the pipeline goes back from there.
func (r *run) finish() {
	last := len(r.over) - 1
	for last >= 0 && r.over[last].frame.done {
		last--
	}
	if r.aborted != nil || r.rolledBack == nil || last < 0 {
		for _, s := range r.over {
			if s.status == 0 {
				r.settle(s)
			}
		}
		r.result.Duration = r.since()
		return
	}
	s := r.over[last]
	s.byPipeline = true
	r.undo(s.frame, Cause(r.rolledBack), func() {
		r.settle(s)
		r.finish()
	})
}

// settle settles the outcome of a stage.
func (r *run) settle(s *stage) {
	var rec *recourse.Record
	note := ""
	switch {
	case s.frame.done && s.last(recourse.OutcomeRollbackFailed) != nil:
		s.outcome, rec, note = recourse.OutcomeRollbackFailed, s.last(recourse.OutcomeRollbackFailed), "the rollback failed: "
	case s.frame.done && s.byPipeline:
		s.outcome, rec = recourse.OutcomePipelineRolledBack, r.rolledBack
	case s.frame.done:
		s.outcome, rec = recourse.OutcomeRolledBack, s.last(recourse.OutcomeRolledBack)
	case r.aborted != nil:
		s.outcome, rec = recourse.OutcomeAborted, r.aborted
	default:
		s.outcome, rec = s.soFar()
	}
	s.status, s.reason = StatusOf(s.outcome), note+Cause(rec)
	r.tell(Event{Node: s.path, Kind: KindEnded, Status: s.status, Why: s.reason})
}

func (r *run) listStages(blocks []*pipeline.Block) {
	for _, b := range blocks {
		switch {
		case b.Level == recourse.LevelNone:
			r.listStages(b.Steps)
		case b.Loop.Count == 0:
			r.stages = append(r.stages, &stage{path: b.Path})
		default:
			for i := range b.Loop.Count {
				r.stages = append(r.stages, &stage{path: b.Path + iteration(i)})
			}
		}
		if b.Level == recourse.LevelStage && len(b.Steps) == 0 {
			r.note("stage %s lists no steps: only a failure of its own can be simulated", b.Path)
		}
	}
}

func (r *run) note(format string, args ...any) {
	r.result.Notes = append(r.result.Notes, fmt.Sprintf(format, args...))
}

// conclude fills what is known only at the end.
func (r *run) conclude() {
	res := r.result
	res.PipelineFailed = r.head.State.Failed
	res.Outcome = Succeeded
	for _, s := range r.stages {
		stop := r.aborted
		if stop == nil {
			stop = r.rolledBack
		}
		switch {
		case s.status != 0:
		case s.frame != nil:
			s.status, s.reason = Aborted, "the run was given up"
		default:
			s.status, s.reason = NotStarted, Cause(stop)
		}
		res.Stages = append(res.Stages, Stage{s.path, s.status, s.reason})
		switch {
		case s.status == Failed || s.status == RolledBack:
			res.Outcome = Failed
		case s.status == Ignored && res.Outcome == Succeeded:
			res.Outcome = Ignored
		}
	}
	switch {
	case r.aborted != nil:
		res.Outcome = Aborted
	case r.rolledBack != nil:
		res.Outcome = RolledBack
	}
	r.leftOver()
}

// leftOver notes what of the scenario never came about.
func (r *run) leftOver() {
	ran := make(map[recourse.Node]int) // the most of all iterations that a path stands for
	for n, attempts := range r.result.Attempts {
		for _, given := range r.given[plain(n)] {
			if Covers(given, n) {
				ran[given] = max(ran[given], attempts)
			}
		}
	}
	for _, n := range slices.SortedFunc(maps.Keys(r.scenario.Failures), func(a, b recourse.Node) int { return strings.Compare(a.String(), b.String()) }) {
		given := 0
		for _, o := range r.scenario.Failures[n] {
			if given += max(o.Times, 1); o.Always {
				given -= max(o.Times, 1) - 1
				break
			}
		}
		switch {
		case ran[n] == 0 && given > 0:
			r.note("%s never ran", n)
		case ran[n] < given:
			r.note("%s ran %d of the %d times for which an outcome was given", n, ran[n], given)
		}
	}
	for i, used := range r.answered {
		if a := r.scenario.Answers[i]; !used {
			r.note("nobody was asked for the answer %s to %s", a.Action, a.Node)
		}
	}
	for _, rec := range r.result.Records {
		if s := r.strategies[rec.Strategy]; s != nil && rec.Delay > 0 && s.Do.Retry != nil && s.Do.Retry.Backoff != nil && s.Do.Retry.Backoff.Jitter > 0 {
			r.note("waits have a jitter that differs from execution to execution")
			break
		}
	}
}
