package decide

import "github.com/recourse-dev/recourse"

// NextStage says whether the next stage may run after a stage with this outcome, by the status of its `when` (R13). The condition of
// a `when` is the orchestrator's to evaluate. The slice is shared; the caller does not change it.
func NextStage(outcome recourse.StageOutcome, semantics recourse.Semantics) []string {
	engine := semantics == recourse.Engine
	switch outcome {
	case recourse.OutcomeSucceeded:
		return successAndAll
	case recourse.OutcomeFailed, recourse.OutcomeRollbackFailed:
		return failureAndAll
	case recourse.OutcomeIgnored:
		if engine {
			return successAndAll
		}
		return everyStatus
	case recourse.OutcomeRolledBack:
		if engine {
			return failureAndAll
		}
		return onlyAll
	default: // rolled back as a pipeline, or aborted: nothing is started any more
		return nil
	}
}

var (
	successAndAll = []string{"Success", "All"}
	failureAndAll = []string{"Failure", "All"}
	everyStatus   = []string{"Success", "Failure", "All"}
	onlyAll       = []string{"All"}
)

// effect is what an action does to the node, its stage and the pipeline.
func (d *decider) effect(action recourse.Action) recourse.Effect {
	e := recourse.Effect{PipelineFailed: d.state.Failed}
	settle := func(outcome recourse.StageOutcome) {
		e.Stage, e.PipelineFailed = outcome, true
		if strongestCover(d.state, recourse.Node{}) == nil { // else the pipeline is rolled back or aborted: nothing is started
			e.Runs = NextStage(outcome, d.semantics)
		}
	}
	switch action {
	case recourse.Ignore:
		e.Node = recourse.StatusIgnoreFailed
		e.PipelineFailed = e.PipelineFailed || d.semantics == recourse.Documented
	case recourse.MarkAsSuccess:
		e.Node = recourse.StatusSucceeded
	case recourse.ProceedWithDefaultValues:
		e.Node = recourse.StatusProceeding
	case recourse.Retry, recourse.RetryStepGroup:
		e.Node = recourse.StatusRetrying
	case recourse.ManualIntervention:
		e.Node = recourse.StatusInterventionWaiting
	case recourse.Abort:
		e.Node = recourse.StatusAborted
		settle(recourse.OutcomeAborted)
	case recourse.StageRollback:
		e.Node = recourse.StatusFailed
		settle(recourse.OutcomeRolledBack)
	case recourse.PipelineRollback:
		e.Node = recourse.StatusFailed
		settle(recourse.OutcomePipelineRolledBack)
	case recourse.MarkAsFailure, recourse.StepGroupRollback:
		e.Node = recourse.StatusFailed
		if d.rec.Section == recourse.RollbackSteps && d.ofStageRollback() {
			settle(recourse.OutcomeRollbackFailed)
		} else {
			settle(recourse.OutcomeFailed)
		}
	}
	return e
}

// ofStageRollback reports whether the node's rollbackSteps are those of its stage, not of a step group. Where the plan does not say, a
// rollback of the stage decides.
func (d *decider) ofStageRollback() bool {
	if d.plan == nil {
		c := strongestCover(d.state, recourse.Node{Path: d.rec.Path})
		return c != nil && c.Action != recourse.StepGroupRollback
	}
	quiet := decider{plan: d.plan, rec: &recourse.Record{}}
	for at := quiet.listed(d.rec.Node); at >= 0; at = d.plan.nodes[at].parent {
		if n := &d.plan.nodes[at]; n.Section == recourse.Steps {
			return n.Level == recourse.LevelStage
		}
	}
	return false
}
