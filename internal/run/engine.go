package run

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/pipeline"
	"github.com/recourse-dev/recourse/internal/simulate"
)

// world is what an engine makes happen. Nothing of it comes back but as an input.
type world interface {
	// begin begins an attempt; how it ends is an input.
	begin(*task)
	// kill ends the process of a node's attempt.
	kill(recourse.Node)
	// report reports a failure until it is stored.
	report(recourse.Failure)
	// tell shows what happens.
	tell(Event)
}

// task is an attempt of a node.
type task struct {
	attemptID
	shell   string
	exit    bool // the shell ends with the first command that fails
	script  string
	env     []string
	timeout time.Duration
	stub    *simulate.Outcome // how it ends, where that was given; nothing is run then
}

// result is how a task ended: it succeeded where there is neither.
type result struct {
	failure *failure
	killed  bool
}

// engine is one run of a pipeline: which block is where, and what follows an input. It is driven by one goroutine.
type engine struct {
	program   *program
	semantics recourse.Semantics
	world     world

	stages   []*stage // in the order of the YAML
	over     []*stage // that ended, in that order
	frames   map[recourse.Node]*frame
	attempts map[recourse.Node]int
	waits    map[uint64]wait
	version  uint64 // of the last record that was applied
	busy     int    // attempts that have begun and not ended
	unknown  map[string]bool

	stopped    string           // why the run was aborted, "" where it was not
	rolledBack *recourse.Record // that ordered the rollback of the pipeline
	finished   bool
}

// wait is what a record waits for: a retry or an answer for node, or a retry of group that node asked for.
type wait struct{ node, group *frame }

func newEngine(p *program, semantics recourse.Semantics, w world) *engine {
	e := &engine{
		program: p, semantics: semantics, world: w, frames: make(map[recourse.Node]*frame), attempts: make(map[recourse.Node]int),
		waits: make(map[uint64]wait), unknown: make(map[string]bool),
	}
	e.listStages(p.structure.Stages)
	return e
}

// begin begins the first stage.
func (e *engine) begin() { e.inOrder(nil, e.program.structure.Stages, e.finish) }

// frame is one run of a stage, step group or step, from its `when` to its end; what is run again keeps its frame.
type frame struct {
	up    *frame // nil of a stage
	block *pipeline.Block
	recourse.Node
	stage  *stage
	then   func()
	values map[string]string // of the iterations around it
	ended  bool

	attempt int
	busy    bool              // the attempt has begun and not ended
	waiting bool              // the attempt failed, and what is to be done is not known yet
	report  *recourse.Failure // of the attempt; nil until it failed
	decided bool              // the report was decided
	next    *recourse.Record  // to be carried out once the attempt was killed
	halted  bool              // killed for what is around it: not to be reported

	// Of a stage or group:

	running    bool     // its steps
	retryWait  uint64   // version of the group retry that is pending
	held       []func() // what goes on once that is settled
	dropped    int      // failures inside that count for nothing, since the group runs again
	again      bool     // it is to be run again as soon as what runs in it has ended
	cut        bool     // nothing more is to be started in it
	undo, done bool     // its rollback is ordered, and its rollbackSteps have run

	// A frame of rollbackSteps stands between those and their stage or group, and has its node.

	rollback bool
	failed   bool // one of the steps
}

// closed reports whether nothing more is started in a frame: a rollback, a group retry or an abort was ordered for a scope around it.
// A rollback that has begun is stopped by an abort, or because what is around it runs again, but not by another rollback (R11).
func (e *engine) closed(f *frame) bool {
	if e.stopped != "" {
		return true
	}
	undoing := false
	for ; f != nil; f = f.up {
		if f.again || f.cut || f.undo && !undoing {
			return true
		}
		undoing = undoing || f.rollback // that what is around it is rolled back is why the steps run
	}
	return e.rolledBack != nil && !undoing
}

// pending returns the closest group around a frame that may be run again.
func pending(f *frame) *frame {
	for ; f != nil; f = f.up {
		if f.retryWait != 0 {
			return f
		}
	}
	return nil
}

// inOrder runs blocks one after the other.
func (e *engine) inOrder(up *frame, blocks []*pipeline.Block, then func()) {
	starts := make([]func(func()), len(blocks))
	for i, b := range blocks {
		starts[i] = func(then func()) { e.block(up, b, then) }
	}
	e.start(up, starts, 1, then)
}

// block runs a block with all its iterations, unless its `when` keeps it from running. The status is looked at once: the iterations do
// not wait for each other, even where they take turns.
func (e *engine) block(up *frame, b *pipeline.Block, then func()) {
	switch {
	case b.Level == recourse.LevelNone:
		starts := make([]func(func()), len(b.Steps))
		for i, child := range b.Steps {
			starts[i] = func(then func()) { e.block(up, child, then) }
		}
		e.start(up, starts, 0, then)
	case b.Loop.Count == 0:
		runs, why := e.when(up, b)
		e.node(up, b, "", nil, runs, why, then)
	default:
		runs, why := e.when(up, b)
		values := e.program.iterations(b)
		starts := make([]func(func()), b.Loop.Count)
		for i := range starts {
			own := map[string]string{"strategy.iteration": strconv.Itoa(i), "strategy.iterations": strconv.Itoa(b.Loop.Count)}
			if i < len(values) {
				maps.Copy(own, values[i])
			}
			starts[i] = func(then func()) { e.node(up, b, iteration(i), own, runs, why, then) }
		}
		e.start(up, starts, b.Loop.MaxConcurrency, then)
	}
}

func iteration(i int) string { return "[" + strconv.Itoa(i) + "]" }

// start starts what it is given, at most most at the same time (0 is all), and goes on once all have ended, or those have that were
// started before the frame was closed. While a group around may be run again, it starts nothing.
func (e *engine) start(up *frame, starts []func(func()), most int, then func()) {
	next, running, starting, held, over := 0, 0, false, false, false
	var more func()
	more = func() {
		if starting || held || over {
			return
		}
		starting = true
		for next < len(starts) && (most == 0 || running < most) && !e.closed(up) && !held {
			if g := pending(up); g != nil {
				held = true
				g.held = append(g.held, func() { held = false; more() })
				break
			}
			do := starts[next]
			next++
			running++
			do(func() {
				running--
				more()
			})
		}
		starting = false
		if running == 0 && !held {
			over = true
			then()
		}
	}
	more()
}

// release goes on with what was held while a group retry was pending.
func (g *frame) release() {
	held := g.held
	g.retryWait, g.held = 0, nil
	for _, more := range held {
		more()
	}
}

// node begins one iteration of a stage, step group or step, or skips it.
func (e *engine) node(up *frame, b *pipeline.Block, iteration string, values map[string]string, runs bool, why string, then func()) {
	f := &frame{up: up, block: b, Node: b.Node, then: then, values: values}
	name := b.Path[strings.LastIndexByte(b.Path, '/')+1:] + iteration
	f.Path = name
	if up != nil {
		f.Path, f.stage = up.Path+"/"+name, up.stage
		f.values = make(map[string]string)
		maps.Copy(f.values, up.values)
		maps.Copy(f.values, values)
	} else {
		f.stage = e.stages[slices.IndexFunc(e.stages, func(s *stage) bool { return s.path == name })]
	}
	if runs {
		runs, why = e.holds(f, why)
	}
	if !runs {
		e.tell(f, Event{Kind: KindSkipped, Why: why})
		if up == nil {
			f.stage.status, f.stage.reason = simulate.Skipped, why
		}
		then()
		return
	}
	if up == nil {
		f.stage.frame = f
	}
	if b.Level != recourse.LevelStep || why != "" {
		e.tell(f, Event{Kind: KindStarted, Why: why})
	}
	e.try(f, e.attempts[f.Node]+1)
}

// try begins an attempt. A stage or group begins with its steps, unless a failure was given for it.
func (e *engine) try(f *frame, attempt int) {
	e.frames[f.Node] = f
	e.attempts[f.Node] = attempt
	f.attempt, f.waiting, f.decided, f.halted, f.cut, f.report = attempt, false, false, false, false, nil
	t := e.task(f)
	if f.block.Level != recourse.LevelStep && (t.stub == nil || t.stub.Errors == 0) {
		f.running = true
		e.inOrder(f, f.block.Steps, func() { e.stepsEnded(f) })
		return
	}
	f.busy = true
	e.busy++
	e.tell(f, Event{Kind: KindRunning, Attempt: attempt})
	e.world.begin(t)
}

// task makes the attempt of a frame: its script with values in place of expressions.
func (e *engine) task(f *frame) *task {
	at := e.program.spec(f.block)
	kind := at.get("type").text()
	t := &task{attemptID: attemptID{f.Node, f.attempt}}
	runs := e.program.whyNot(f.block, at) == ""
	if t.stub = e.program.stubs.outcome(f.Node, kind, runs, f.attempt); t.stub != nil || f.block.Level != recourse.LevelStep {
		return t
	}
	s := e.scope(f)
	expand := func(text string) string {
		expanded, unknown := s.expand(text)
		e.noteUnknown(f, unknown)
		return expanded
	}
	spec := at.get("spec")
	t.shell = shellOf(spec.get("shell").text())
	if kind == typeRun {
		t.script, t.exit = expand(spec.get("command").text()), true
		for _, key := range spec.get("envVariables").keys() {
			t.env = append(t.env, key+"="+expand(spec.get("envVariables").get(key).text()))
		}
	} else {
		t.script = expand(spec.get("source").get("spec").get("script").text())
		for _, v := range spec.get("environmentVariables").items() {
			t.env = append(t.env, v.get("name").text()+"="+expand(v.get("value").text()))
		}
	}
	t.timeout, _ = recourse.ParseDuration(expand(at.get("timeout").text())) // one that is none was noted
	return t
}

// scope is what the expressions of a frame can name.
func (e *engine) scope(f *frame) *scope {
	s := &scope{program: e.program, values: f.values}
	for at := f; at != nil; at = at.up {
		own := e.program.spec(at.block)
		switch {
		case at.block.Level == recourse.LevelStep:
			s.step = own
		case at.block.Level == recourse.LevelStage:
			s.stage = own
		case s.group == nil:
			s.group = own
		}
	}
	return s
}

func (e *engine) noteUnknown(f *frame, unknown []string) {
	for _, expression := range unknown {
		if key := f.Node.String() + " " + expression; !e.unknown[key] {
			e.unknown[key] = true
			e.tell(f, Event{Kind: KindNote, Why: expression + " is not known here and stays as it is"})
		}
	}
}

// attemptEnded applies how an attempt ended.
func (e *engine) attemptEnded(in *ended) {
	f := e.frames[in.Node]
	if f == nil || !f.busy || f.attempt != in.Attempt {
		return // an input of another run: there is none in this one
	}
	f.busy = false
	e.busy--
	switch next := f.next; {
	case e.stopped != "" || f.halted || next == nil && in.Killed:
		e.tell(f, Event{Kind: KindKilled, Attempt: f.attempt})
		e.end(f)
	case next != nil:
		f.next = nil
		e.tell(f, Event{Kind: KindKilled, Attempt: f.attempt})
		f.waiting = true
		e.carry(next, f)
	case in.Failure == nil:
		e.tell(f, Event{Kind: KindSucceeded, Attempt: f.attempt})
		e.end(f)
	default:
		f.waiting = true
		f.report = &recourse.Failure{
			Ref: e.program.ref, Node: f.Node, Attempt: f.attempt, Errors: in.Failure.Errors, Message: in.Failure.Message, ExitCode: in.Failure.ExitCode,
		}
		e.tell(f, Event{Kind: KindFailed, Attempt: f.attempt, Errors: in.Failure.Errors, ExitCode: in.Failure.ExitCode, Message: in.Failure.Message})
		e.world.report(*f.report)
	}
	e.conclude()
}

// stepsEnded goes on after the steps of a stage or group, or once nothing waits in it any more.
func (e *engine) stepsEnded(f *frame) {
	f.running = false
	switch {
	case e.closed(f.up), f.cut:
		e.end(f)
	case f.undo:
		e.rollBack(f, "", func() { e.end(f) })
	case f.again:
		f.again = false
		f.stage.forget(f.Node)
		e.try(f, e.attempts[f.Node]+1)
	default:
		e.end(f)
	}
}

// rollBack runs the rollbackSteps of a stage or group.
func (e *engine) rollBack(f *frame, why string, then func()) {
	f.undo, f.again = true, false
	if len(f.block.Rollback) == 0 {
		why = strings.TrimPrefix(why+"; there are no rollbackSteps", "; ")
	}
	e.tell(f, Event{Kind: KindRollback, Why: why})
	steps := &frame{up: f, block: f.block, Node: f.Node, stage: f.stage, values: f.values, rollback: true}
	e.inOrder(steps, f.block.Rollback, func() {
		f.done = e.stopped == ""
		then()
	})
}

// end ends a frame; what ended before stays as it is.
func (e *engine) end(f *frame) {
	if f.ended {
		return
	}
	f.ended, f.waiting = true, false
	if f.up == nil {
		e.over = append(e.over, f.stage)
		if e.rolledBack == nil || e.stopped != "" || f.done {
			e.settle(f.stage)
		} // else it ends with the rollback of the pipeline
	}
	f.then()
}

// finish follows the last stage, or those in which the pipeline was stopped: a rollback of the pipeline goes back from there.
func (e *engine) finish() {
	last := len(e.over) - 1
	for last >= 0 && e.over[last].frame.done {
		last--
	}
	if e.stopped != "" || e.rolledBack == nil || last < 0 {
		for _, s := range e.over {
			if s.status == 0 {
				e.settle(s)
			}
		}
		e.finished = true
		return
	}
	s := e.over[last]
	s.byPipeline = true
	e.rollBack(s.frame, simulate.Cause(e.rolledBack), func() {
		e.settle(s)
		e.finish()
	})
}

// abort stops everything: what runs is killed, what waits waits no more.
func (e *engine) abort(why string) {
	if e.stopped != "" || e.finished {
		return
	}
	e.stopped = why
	e.halt("", recourse.Steps)
	e.conclude()
}

// halt ends what runs and what waits in a scope.
func (e *engine) halt(scope string, section recourse.Section) {
	var inside []*frame
	for _, f := range e.frames {
		if !f.ended && f.Within(scope) && f.Section >= section && (scope == "" || f.Path != scope) {
			inside = append(inside, f)
		}
	}
	slices.SortFunc(inside, func(a, b *frame) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Section, b.Section))
	})
	for _, f := range inside {
		switch {
		case f.busy:
			f.halted, f.next = true, nil
			e.world.kill(f.Node)
		case f.waiting:
			e.end(f)
		}
		if f.retryWait != 0 {
			f.release()
		}
	}
}

// conclude notices the end where an abort left nothing that would come to it.
func (e *engine) conclude() {
	if e.stopped == "" || e.busy > 0 || e.finished {
		return
	}
	for _, s := range e.stages {
		if s.frame != nil && s.status == 0 {
			e.settle(s)
		}
	}
	e.finished = true
}

// killing reports whether the attempt of a node is to be killed, or was.
func (e *engine) killing(n recourse.Node) bool {
	f := e.frames[n]
	return e.stopped != "" || f != nil && (f.halted || f.next != nil)
}

// undecided returns the failures whose decisions have not come, in the order of their nodes.
func (e *engine) undecided() (failures []recourse.Failure) {
	for _, f := range e.frames {
		if f.waiting && !f.decided && f.report != nil {
			failures = append(failures, *f.report)
		}
	}
	slices.SortFunc(failures, func(a, b recourse.Failure) int { return cmp.Compare(a.Node.String(), b.Node.String()) })
	return failures
}

func (e *engine) tell(f *frame, event Event) {
	event.Node, event.Section = f.Path, f.Section
	e.world.tell(event)
}
