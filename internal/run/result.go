package run

import (
	"slices"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/pipeline"
	"github.com/recourse-dev/recourse/internal/simulate"
)

// Stage is how one stage, or one iteration of it, ended.
type Stage = simulate.Stage

// Result is what came of a run.
type Result struct {
	Stages []Stage
	// Outcome is that of the pipeline: aborted, rolled-back by a pipeline rollback, failed where a stage failed or was rolled back,
	// ignored where a failure was ignored, else succeeded.
	Outcome simulate.Status
	// Why, where somebody aborted it.
	Why string
	// Interrupted says that it was this run that was interrupted, rather than something that was decided.
	Interrupted bool
}

// stage is one stage, or one iteration of it.
type stage struct {
	path  string
	frame *frame // nil until it starts
	// settled are the decisions that counted for its outcome, in order.
	settled []*recourse.Record
	outcome recourse.StageOutcome // "" until it ended, and where it was skipped
	status  simulate.Status
	reason  string

	byPipeline bool // its rollbackSteps run for a rollback of the pipeline
}

// forget drops what was settled inside a group that is run again: its last run is what counts.
func (s *stage) forget(group recourse.Node) {
	s.settled = slices.DeleteFunc(s.settled, func(rec *recourse.Record) bool {
		return rec.Within(group.Path) && rec.Section >= group.Section
	})
}

// soFar is the outcome of the stage if it ended now, not counting a rollback, and the decision that made it.
func (s *stage) soFar() (recourse.StageOutcome, *recourse.Record) {
	var failed, ignored *recourse.Record
	for _, rec := range s.settled {
		switch {
		case rec.Effect.Stage == recourse.OutcomeFailed && failed == nil:
			failed = rec
		case rec.Effect.Node == recourse.StatusIgnoreFailed && ignored == nil:
			ignored = rec
		}
	}
	switch {
	case failed != nil:
		return recourse.OutcomeFailed, failed
	case ignored != nil:
		return recourse.OutcomeIgnored, ignored
	}
	return recourse.OutcomeSucceeded, nil
}

// last returns the last decision that ended the stage in a way.
func (s *stage) last(outcome recourse.StageOutcome) *recourse.Record {
	for _, rec := range slices.Backward(s.settled) {
		if rec.Effect.Stage == outcome {
			return rec
		}
	}
	return nil
}

// settle settles the outcome of a stage.
func (e *engine) settle(s *stage) {
	var rec *recourse.Record
	switch {
	case s.frame.done && s.last(recourse.OutcomeRollbackFailed) != nil:
		s.outcome, rec = recourse.OutcomeRollbackFailed, s.last(recourse.OutcomeRollbackFailed)
		s.reason = "the rollback failed: " + simulate.Cause(rec)
	case s.frame.done && s.byPipeline:
		s.outcome, s.reason = recourse.OutcomePipelineRolledBack, simulate.Cause(e.rolledBack)
	case s.frame.done:
		s.outcome, s.reason = recourse.OutcomeRolledBack, simulate.Cause(s.last(recourse.OutcomeRolledBack))
	case e.stopped != "":
		s.outcome, s.reason = recourse.OutcomeAborted, e.stopped
	default:
		s.outcome, rec = s.soFar()
		s.reason = simulate.Cause(rec)
	}
	s.status = simulate.StatusOf(s.outcome)
	e.world.tell(Event{Node: s.path, Kind: KindEnded, Status: s.status, Why: s.reason})
}

func (e *engine) listStages(blocks []*pipeline.Block) {
	for _, b := range blocks {
		switch {
		case b.Level == recourse.LevelNone:
			e.listStages(b.Steps)
		case b.Loop.Count == 0:
			e.stages = append(e.stages, &stage{path: b.Path})
		default:
			for i := range b.Loop.Count {
				e.stages = append(e.stages, &stage{path: b.Path + iteration(i)})
			}
		}
	}
}

// result is what came of the run.
func (e *engine) result() *Result {
	r := &Result{Stages: []Stage{}, Outcome: simulate.Succeeded, Why: e.stopped, Interrupted: e.stopped == stopInterrupted}
	for _, s := range e.stages {
		if s.status == 0 {
			s.status, s.reason = simulate.NotStarted, e.stopped
			if e.stopped == "" {
				s.reason = simulate.Cause(e.rolledBack)
			}
		}
		r.Stages = append(r.Stages, Stage{Stage: s.path, Status: s.status, Reason: s.reason})
		switch {
		case s.status == simulate.Failed || s.status == simulate.RolledBack:
			r.Outcome = simulate.Failed
		case s.status == simulate.Ignored && r.Outcome == simulate.Succeeded:
			r.Outcome = simulate.Ignored
		}
	}
	switch {
	case e.stopped != "":
		r.Outcome = simulate.Aborted
	case e.rolledBack != nil:
		r.Outcome = simulate.RolledBack
	}
	return r
}
