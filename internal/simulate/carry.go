package simulate

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// fails reports a failure to the engine and carries out what it decides.
func (r *run) fails(f *frame, attempt int, o *Outcome) {
	in := failureInput(f.Node, attempt, o)
	rec := r.decide(in)
	if rec == nil {
		if r.err == nil {
			r.err = fmt.Errorf("%s was decided before", in.Key)
		}
		return
	}
	r.carry(rec, f)
}

// failureInput is the input for a failed attempt, as a worker makes it.
func failureInput(node recourse.Node, attempt int, o *Outcome) *decide.Input {
	f := recourse.Failure{
		Ref: Ref, Node: node, Attempt: attempt, Errors: o.Errors, Message: o.Message, ExitCode: o.ExitCode, Target: o.Target,
		RetryAfter: recourse.Duration(o.RetryAfter),
	}
	f.Clean()
	return &decide.Input{Ref: f.Ref, Node: f.Node, Attempt: f.Attempt, Input: recourse.Input{
		Key: f.Key(), Digest: f.Digest(),
		Failure: &recourse.FailureInput{Errors: f.Errors, Message: f.Message, ExitCode: f.ExitCode, Target: f.Target, RetryAfter: f.RetryAfter},
	}}
}

// due reports a wait that came due. One that was superseded needs nothing.
func (r *run) due(version uint64) {
	f := r.waits[version]
	in := &decide.Input{Ref: Ref, Input: recourse.Input{Key: "due/" + strconv.FormatUint(version, 10), Due: version}}
	if rec := r.decide(in); rec != nil {
		r.carry(rec, f)
	}
}

// ask gives the next answer for an intervention, if the scenario has one.
func (r *run) ask(id uint64, node recourse.Node) {
	for i, a := range r.scenario.Answers {
		if r.answered[i] || !Covers(a.Node, node) {
			continue
		}
		r.answered[i] = true
		at := r.opened[id].Add(a.After)
		if at.Before(r.now) {
			at = r.now
		}
		r.at(at, func() { r.answer(i, id, node) })
		return
	}
}

// answer reports an answer. Where it is refused and the intervention is open still, the next one is given.
func (r *run) answer(i int, id uint64, node recourse.Node) {
	f := r.waits[id]
	a := recourse.Answer{
		Ref: Ref, ID: "answer-" + strconv.Itoa(i+1), Intervention: id, Action: r.scenario.Answers[i].Action, Who: "somebody", Why: "simulated",
	}
	rec := r.decide(&decide.Input{Ref: Ref, Input: recourse.Input{
		Key: "intervention/" + a.ID, Digest: a.Digest(),
		Answer: &recourse.AnswerInput{Intervention: a.Intervention, Action: a.Action, Who: a.Who, Why: a.Why},
	}})
	if last := len(r.result.Events) - 1; rec != nil && rec.Path == "" {
		r.result.Events[last].Node, r.result.Events[last].Section = node.Path, node.Section // the record does not know whose it was
	}
	switch {
	case rec == nil:
	case rec.Reason != recourse.AnswerRefused:
		r.carry(rec, f)
	case f != nil:
		r.ask(id, node)
	}
}

// decide decides an input and keeps the record, as a worker does. It is nil where the input needs none.
func (r *run) decide(in *decide.Input) *recourse.Record {
	rec := new(recourse.Record)
	if result, _ := decide.Decide(rec, r.known, &r.head, in, r.now); result != decide.Decided {
		return nil
	}
	if _, err := decide.Seal(rec, &r.head); err != nil {
		r.err = errors.Join(r.err, err)
		return nil
	}
	r.head.Appended(rec, rec.Version)
	rec.State = nil // it goes on changing
	r.result.Records = append(r.result.Records, rec)
	r.tell(r.event(rec))
	return rec
}

// carry carries out a decision about the node of a frame; for a group retry that came due the frame is that of the group.
//
// What a decision stops is marked first, then what waited in there is let go: nothing that stood behind it starts any more.
func (r *run) carry(rec *recourse.Record, f *frame) {
	delete(r.waits, rec.Ends)
	if rec.Effect.Stage != "" || rec.Effect.Node == recourse.StatusIgnoreFailed {
		f.stage.settled = append(f.stage.settled, rec)
	}
	if rec.Section == recourse.RollbackSteps && rec.Effect.Node == recourse.StatusFailed {
		rollbackAround(f).failed = true
	}
	scope := r.stop(rec, f)
	for _, freed := range r.free(rec) {
		if freed.running || freed.ended {
			continue
		}
		r.stepsEnded(freed)
	}
	switch w := &rec.Wait; {
	case w.Version != 0:
		r.at(w.DueAt, func() { r.due(w.Version) })
		switch w.Kind {
		case recourse.WaitRetryGroup:
			r.waits[w.Version] = scope
			if f != scope {
				r.end(f)
			}
		case recourse.WaitIntervention:
			r.waits[w.Version], r.opened[w.Version] = f, r.now
			r.ask(w.Version, rec.Node)
		default:
			r.waits[w.Version] = f
		}
	case rec.Command.Verb == recourse.VerbRetry:
		r.attempt(f)
	case f != scope:
		r.end(f)
	case !f.running:
		r.stepsEnded(f)
	}
}

// stop marks what a decision stops and returns the frame of its scope, nil where it has none or that is the whole execution.
func (r *run) stop(rec *recourse.Record, f *frame) *frame {
	group := func(path string) *frame { return r.frames[recourse.Node{Path: path, Section: rec.Section}] }
	switch rec.Command.Verb {
	case recourse.VerbAbort:
		r.aborted = rec
	case recourse.VerbRollbackPipeline:
		if r.rolledBack == nil {
			r.rolledBack = rec
		}
	case recourse.VerbRollbackStage:
		f.stage.frame.undo = true
		return f.stage.frame
	case recourse.VerbRollbackGroup:
		g := group(rec.Command.Scope)
		g.undo = true
		return g
	case recourse.VerbRetryGroup:
		g := group(rec.Command.Scope)
		g.again, g.retryWait = true, 0
		return g
	}
	if rec.Wait.Kind == recourse.WaitRetryGroup {
		g := group(rec.Wait.Scope)
		g.retryWait = rec.Wait.Version
		return g
	}
	return nil
}

// free returns the frames whose waits a decision supersedes.
func (r *run) free(rec *recourse.Record) (freed []*frame) {
	for _, version := range rec.Cancelled {
		f := r.waits[version]
		delete(r.waits, version)
		if f == nil {
			continue
		}
		if f.retryWait == version {
			f.retryWait = 0
		}
		freed = append(freed, f)
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
func (r *run) when(up *frame, b *pipeline.Block) (runs bool, why string) {
	w := &b.When
	switch {
	case up == nil:
		runs, why = r.stageRuns(w.Status)
	case b.Section == recourse.RollbackSteps:
		runs, why = true, "a rollback runs"
		if rollbackAround(up).failed {
			runs, why = w.Status != pipeline.WhenSuccess, "a rollback step failed"
		}
	default:
		outcome, rec := up.stage.soFar()
		runs, why = slices.Contains(decide.NextStage(outcome, r.known.Semantics), w.Status), "nothing in the stage failed"
		if rec != nil {
			why = "the stage " + OutcomeText(outcome)
		}
	}
	if !runs {
		return false, "when " + w.Status + ", but " + why
	}
	var parts []string
	switch w.Status {
	case pipeline.WhenFailure:
		parts = append(parts, "when Failure, because "+why)
	case pipeline.WhenAll:
		parts = append(parts, "when All")
	}
	if w.Condition != "" {
		parts = append(parts, "the status allows it, the condition is not evaluated")
	}
	return true, strings.Join(parts, "; ")
}

// stageRuns says whether a stage runs after those that have ended.
func (r *run) stageRuns(status string) (runs bool, why string) {
	runs = status != pipeline.WhenFailure
	for _, s := range r.over {
		lets := slices.Contains(decide.NextStage(s.outcome, r.known.Semantics), status)
		if lets != runs {
			return lets, s.path + " " + OutcomeText(s.outcome)
		}
		if s.outcome != recourse.OutcomeSucceeded && why == "" {
			why = s.path + " " + OutcomeText(s.outcome)
		}
	}
	if why == "" {
		why = "nothing failed before"
	}
	return runs, why
}

// event is the line of the timeline for a decision.
func (r *run) event(rec *recourse.Record) Event {
	e := Event{
		Node: rec.Path, Section: rec.Section, Attempt: rec.Attempt, Kind: rec.Kind, Action: rec.Action, Reason: rec.Reason,
		Verb: rec.Command.Verb, Scope: rec.Command.Scope, Level: rec.Level, Strategy: rec.Strategy, Delay: rec.Delay, Version: rec.Version,
		Why: virtual(rec.Detail),
	}
	if e.Kind == "" {
		e.Kind = KindCommand
	}
	if f := rec.Input.Failure; f != nil {
		e.Errors, e.ExitCode = f.Errors.Normalize(), f.ExitCode
	}
	if a := rec.Input.Answer; a != nil {
		e.answered = a.Action
	}
	for _, version := range rec.Cancelled {
		if f := r.waits[version]; f != nil {
			e.Supersedes = append(e.Supersedes, f.Node.String())
		}
	}
	if w := &rec.Wait; w.Kind == recourse.WaitIntervention {
		e.Until, e.OnTimeout = recourse.Duration(w.DueAt.Sub(epoch)), w.OnTimeout
	}
	if rec.Reason == recourse.StrategyMatched || rec.Reason == recourse.InterventionTimedOut || rec.Reason == recourse.RetryDue {
		e.Retry, e.Retries = r.retry(rec)
	}
	return e
}

// virtual writes the instants in the words of a record as the time since the start.
func virtual(text string) string {
	words := strings.Split(text, " ")
	for i, word := range words {
		if at, err := time.Parse(time.RFC3339Nano, word); err == nil {
			words[i] = "t+" + recourse.Duration(at.Sub(epoch)).String()
		}
	}
	return strings.Join(words, " ")
}

// retry says which retry of how many a decision starts, 0 where it starts none.
func (r *run) retry(rec *recourse.Record) (i, of int) {
	state := &r.head.State
	s := r.strategies[rec.Strategy]
	if s == nil {
		return 0, 0
	}
	policy := policyOf(&s.Do, rec.Action)
	if policy == 0 {
		return 0, 0
	}
	switch rec.Action {
	case recourse.Retry:
		for j := range state.Nodes {
			if n := &state.Nodes[j]; n.Node == rec.Node {
				return rec.Attempt - n.Base, policy
			}
		}
	case recourse.RetryStepGroup:
		path, done := rec.Wait.Scope, 0
		if rec.Command.Verb == recourse.VerbRetryGroup {
			path, done = rec.Command.Scope, -1 // it counts already
		}
		for j := range state.Groups {
			if g := &state.Groups[j]; g.Path == path && g.Section == rec.Section {
				return g.Retries + 1 + done, policy
			}
		}
		return 1, policy
	}
	return 0, 0
}

// policyOf returns the count of the retry that an action with its nested actions has.
func policyOf(do *decide.ActionSpec, action recourse.Action) int {
	switch {
	case do == nil:
		return 0
	case do.Action == action && do.Retry != nil:
		return do.Retry.Count
	}
	if n := policyOf(do.OnRetryFailure, action); n != 0 {
		return n
	}
	if do.Intervention != nil {
		return policyOf(do.Intervention.OnTimeout, action)
	}
	return 0
}
