package run

import (
	"fmt"
	"slices"
	"strings"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
	"github.com/recourse-dev/recourse/internal/simulate"
)

// decided applies a record of the execution's chain. A version that is not above the last one was applied before.
func (e *engine) decided(rec *recourse.Record) {
	about := &frame{Node: rec.Node}
	if rec.Version <= e.version {
		e.tell(about, Event{Kind: KindNote, Version: rec.Version, Why: fmt.Sprintf("version %d again, after %d: left out", rec.Version, e.version)})
		return
	}
	e.version = rec.Version
	e.tell(about, decisionEvent(rec))
	f := e.frames[rec.Node]
	if f != nil && rec.Input.Failure != nil && rec.Attempt == f.attempt && rec.Reason != recourse.Conflicting {
		f.decided = true
	}
	switch {
	case e.stopped != "" || e.finished:
	case rec.Input.Lifecycle != 0:
		e.abort("somebody reported that the execution " + rec.Input.Lifecycle.String() + " " + rec.Input.Why)
	case rec.Kind == recourse.KindStale, rec.Kind == recourse.KindConflicting, rec.Kind == recourse.KindRefused:
	case rec.Command.Verb == recourse.VerbAbort:
		e.abort(simulate.Cause(rec))
	case f == nil || f.ended:
		e.aboutOthers(rec)
	case f.busy && rec.Command.Verb != 0 && !covers(rec.Command.Verb):
		// Somebody else reported a failure of what runs. It ends first, and then what was decided is done.
		f.next = rec
		e.world.kill(f.Node)
	case f.busy:
		e.aboutOthers(rec)
	default:
		e.carry(rec, f)
	}
	e.conclude()
}

// covers reports whether a command is about a scope and not about the node alone.
func covers(verb recourse.Verb) bool {
	switch verb {
	case recourse.VerbRollbackGroup, recourse.VerbRollbackStage, recourse.VerbRollbackPipeline, recourse.VerbRetryGroup:
		return true
	}
	return false
}

// aboutOthers carries out a decision whose node does not wait for it: a rollback that somebody else's report came to still counts where
// its scope runs.
func (e *engine) aboutOthers(rec *recourse.Record) {
	g := e.scopeOf(rec)
	if rec.Command.Verb == recourse.VerbRollbackPipeline || g != nil && !g.ended && covers(rec.Command.Verb) {
		outside := &frame{Node: rec.Node, stage: new(stage), ended: true}
		if s := e.frames[recourse.Node{Path: rec.Stage()}]; s != nil {
			outside.stage = s.stage
		}
		e.carry(rec, outside)
		return
	}
	if rec.Command.Verb != 0 {
		e.tell(&frame{Node: rec.Node}, Event{Kind: KindNote, Version: rec.Version, Why: "nothing waits for this command: left out"})
	}
}

// scopeOf returns the frame of the stage or group that a record is about, nil where it is about neither.
func (e *engine) scopeOf(rec *recourse.Record) *frame {
	switch rec.Command.Verb {
	case recourse.VerbRollbackStage:
		return e.frames[recourse.Node{Path: rec.Command.Scope}]
	case recourse.VerbRollbackGroup, recourse.VerbRetryGroup:
		return e.frames[recourse.Node{Path: rec.Command.Scope, Section: rec.Section}]
	}
	if rec.Wait.Kind == recourse.WaitRetryGroup {
		return e.frames[recourse.Node{Path: rec.Wait.Scope, Section: rec.Section}]
	}
	return nil
}

// carry carries out a decision about the node of a frame.
//
// What a decision stops is marked first, then what waited in there is let go: nothing that stood behind it starts any more.
func (e *engine) carry(rec *recourse.Record, f *frame) {
	waited := e.waits[rec.Ends]
	delete(e.waits, rec.Ends)
	if rec.Effect.Stage != "" || rec.Effect.Node == recourse.StatusIgnoreFailed {
		f.stage.settled = append(f.stage.settled, rec)
	}
	if rec.Section == recourse.RollbackSteps && rec.Effect.Node == recourse.StatusFailed {
		rollbackAround(f).failed = true
	}
	scope := e.scopeOf(rec)
	switch rec.Command.Verb {
	case recourse.VerbRollbackPipeline:
		if e.rolledBack == nil {
			e.rolledBack = rec
		}
	case recourse.VerbRollbackStage, recourse.VerbRollbackGroup:
		if scope != nil {
			scope.undo = true
		}
	case recourse.VerbRetryGroup:
		if scope != nil {
			scope.again, scope.dropped = true, 0
		}
	}
	if rec.Wait.Kind == recourse.WaitRetryGroup && scope != nil {
		scope.retryWait = rec.Wait.Version
	}
	if rec.Kind == recourse.KindSuperseded {
		if g := pending(f); g != nil {
			g.dropped++
		}
	}
	freed := e.free(rec, f)
	if g := waited.group; g != nil && g.retryWait == rec.Ends {
		if !g.again && g.dropped > 0 {
			// The group does not run again after all, so what failed in it and was not decided for that reason stays failed.
			f.stage.settled = append(f.stage.settled, &recourse.Record{Decision: recourse.Decision{
				Node: rec.Node, Attempt: rec.Attempt, Action: recourse.MarkAsFailure, Reason: rec.Reason, Effect: recourse.Effect{Stage: recourse.OutcomeFailed},
			}})
		}
		g.release()
	}
	if rec.Wait.Kind == recourse.WaitRetryGroup && scope != nil {
		scope.dropped += len(freed)
	}
	for _, one := range freed {
		if !one.running && !one.ended {
			e.stepsEnded(one)
		}
	}
	switch w := &rec.Wait; {
	case w.Kind == recourse.WaitRetryGroup:
		e.waits[w.Version] = wait{f, scope}
	case w.Version != 0:
		e.waits[w.Version] = wait{f, nil}
	case rec.Command.Verb == recourse.VerbRetry && f.running:
		// Somebody reported a failure of a stage or group that runs.
		f.again = true
		e.halt(f.Path, f.Section)
	case rec.Command.Verb == recourse.VerbRetry:
		e.try(f, max(rec.Command.Attempt, f.attempt+1))
	case f != scope && f.running:
		f.cut = true
		e.halt(f.Path, f.Section)
	case f != scope:
		e.end(f)
	case !f.running:
		e.stepsEnded(f)
	}
}

// free lets go what waited for what a decision supersedes, and returns it, other than its own.
func (e *engine) free(rec *recourse.Record, own *frame) (freed []*frame) {
	for _, version := range rec.Cancelled {
		w, ok := e.waits[version]
		delete(e.waits, version)
		if !ok {
			continue
		}
		if w.group != nil && w.group.retryWait == version {
			w.group.release()
		}
		if w.node != own {
			freed = append(freed, w.node)
		}
	}
	return freed
}

// rollbackAround returns the frame of the rollbackSteps that a node under them runs in.
func rollbackAround(f *frame) *frame {
	for ; f != nil; f = f.up {
		if f.rollback {
			return f
		}
	}
	return new(frame)
}

// when says whether a block runs by the status of its `when`, and why where that is worth saying (R13).
func (e *engine) when(up *frame, b *pipeline.Block) (runs bool, why string) {
	status := b.When.Status
	switch {
	case up == nil:
		runs, why = e.stageRuns(status)
	case b.Section == recourse.RollbackSteps:
		runs, why = true, "a rollback runs"
		if rollbackAround(up).failed {
			runs, why = status != pipeline.WhenSuccess, "a rollback step failed"
		}
	default:
		outcome, rec := up.stage.soFar()
		runs, why = slices.Contains(decide.NextStage(outcome, e.semantics), status), "nothing in the stage failed"
		if rec != nil {
			why = "the stage " + simulate.OutcomeText(outcome)
		}
	}
	switch {
	case !runs:
		return false, "when " + status + ", but " + why
	case status != pipeline.WhenSuccess:
		return true, "when " + status + ", because " + why
	}
	return true, ""
}

// holds looks at the condition beside the status. One that cannot be evaluated counts as true.
func (e *engine) holds(f *frame, why string) (bool, string) {
	condition := f.block.When.Condition
	if condition == "" {
		return true, why
	}
	holds, values, err := e.scope(f).condition(condition)
	switch {
	case err != nil:
		return true, strings.TrimPrefix(fmt.Sprintf("%s; the condition %s cannot be evaluated and counts as true: %s", why, condition, err), "; ")
	case holds:
		return true, why
	case values != "":
		values = ": " + values
	}
	return false, "the condition " + condition + " is false" + values
}

// stageRuns says whether a stage runs after those that have ended.
func (e *engine) stageRuns(status string) (runs bool, why string) {
	runs = status != pipeline.WhenFailure
	for _, s := range e.over {
		lets := slices.Contains(decide.NextStage(s.outcome, e.semantics), status)
		if lets != runs {
			return lets, s.path + " " + simulate.OutcomeText(s.outcome)
		}
		if s.outcome != recourse.OutcomeSucceeded && why == "" {
			why = s.path + " " + simulate.OutcomeText(s.outcome)
		}
	}
	if why == "" {
		why = "nothing failed before"
	}
	return runs, why
}

// decisionEvent is what is shown of a record.
func decisionEvent(rec *recourse.Record) Event {
	e := Event{
		Kind: KindDecision, Attempt: rec.Attempt, Version: rec.Version, Decision: rec.Kind, Verb: rec.Command.Verb, Scope: rec.Command.Scope,
		Action: rec.Action, Reason: rec.Reason, Why: rec.Detail, Level: rec.Level, Strategy: rec.Strategy,
	}
	if rec.Command.Verb == recourse.VerbRetry {
		e.Next = rec.Command.Attempt
	}
	if w := &rec.Wait; w.Version != 0 {
		e.Until = w.DueAt
		if w.Kind == recourse.WaitIntervention {
			e.Allowed, e.OnTimeout = w.Allowed, w.OnTimeout
		} else {
			e.Delay = rec.Delay
		}
	}
	if a := rec.Input.Answer; a != nil {
		e.Who = a.Who
	}
	if c := rec.Input.Control; c != nil {
		e.Who = c.Who
	}
	return e
}
