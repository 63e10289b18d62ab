package simulate

import (
	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// Single decides one failed attempt of a node in an execution of which nothing else is known: the attempts before it count as retries, of
// the node, or of its group where the decision is to retry that. The outcome has the failure.
func Single(plan *decide.Plan, node recourse.Node, attempt int, o *Outcome) *recourse.Record {
	in := failureInput(node, attempt, o)
	known := decide.Pipeline{Plan: plan, Semantics: plan.Semantics}
	rec, head := new(recourse.Record), new(decide.Head)
	decide.Decide(rec, known, head, in, epoch)
	if rec.Action == recourse.RetryStepGroup && attempt > 1 {
		group := rec.Command.Scope
		if rec.Wait.Kind == recourse.WaitRetryGroup {
			group = rec.Wait.Scope
		}
		head.State.Groups = []recourse.GroupState{{Path: group, Section: node.Section, Retries: attempt - 1, Restarted: true}}
		decide.Decide(rec, known, head, in, epoch)
	}
	return rec
}
