package decide

import (
	"fmt"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/retry"
)

// markAsFailure is what happens where nothing else is said (R6, R8, R9).
var markAsFailure = ActionSpec{Action: recourse.MarkAsFailure}

// rollbacks are the actions that do not exist under rollbackSteps (R5).
const rollbacks = recourse.Actions(1<<recourse.StageRollback | 1<<recourse.StepGroupRollback | 1<<recourse.PipelineRollback)

// carryOut settles which action a failure comes to, after exhausted retries (R8), and does it unless something stronger covers
// the node (R11).
func (d *decider) carryOut(spec *ActionSpec, reason recourse.Reason) {
	group := ""
	for retries := true; retries; {
		switch spec.Action {
		case recourse.Retry:
			retries = d.exhausted(&spec, &reason, d.used())
		case recourse.RetryStepGroup:
			if group = d.group; group == "" {
				d.rec.Detail = "RetryStepGroup, but no step group is around the node"
				spec, retries = &markAsFailure, false
				break
			}
			retries = d.exhausted(&spec, &reason, d.usedByGroup(group))
		case recourse.StepGroupRollback:
			if d.group == "" {
				d.rec.Detail = "StepGroupRollback, but no step group is around the node"
				spec = &markAsFailure
			}
			retries = false
		default:
			retries = false
		}
	}
	if !d.superseded(spec.Action) {
		d.act(spec, reason)
	}
}

// exhausted replaces a retry whose count is used up by what follows it, and says whether it did.
func (d *decider) exhausted(spec **ActionSpec, reason *recourse.Reason, used int) bool {
	policy := (*spec).Retry
	if policy != nil && used < policy.Count {
		return false
	}
	next := (*spec).OnRetryFailure
	if next == nil {
		next = &markAsFailure
	}
	*spec, *reason = next, recourse.RetriesExhausted
	return true
}

// used returns the retries the node has used: its attempts since the last retry of its group, less one (R8).
func (d *decider) used() int {
	return max(d.rec.Attempt-1-base(d.state, d.rec.Node, d.rec.Attempt), 0)
}

// usedByGroup returns the retries that a step group has used, those that were carried out. One that is pending does not count yet: a
// step that fails beside the one that asked for it is part of the same run, and is run again with it.
func (d *decider) usedByGroup(group string) int {
	if g := findGroup(d.state, recourse.Node{Path: group, Section: d.rec.Section}); g != nil {
		return g.Retries
	}
	return 0
}

// base returns the attempts of a node before its current run of its group. After a group retry the first failure of a node is that
// of its first attempt since, whichever number it has: a node that succeeded before the group was retried was not heard of.
func base(s *recourse.State, node recourse.Node, attempt int) int {
	if n := findNode(s, node); n != nil {
		if n.Rebase {
			return attempt - 1
		}
		return n.Base
	}
	for i := range s.Groups {
		if g := &s.Groups[i]; g.Restarted && inside(node, recourse.Node{Path: g.Path, Section: g.Section}) {
			return attempt - 1
		}
	}
	return 0
}

// superseded decides a failure as superseded where the execution has ended, or a rollback, an abort or a group retry that is not
// weaker covers the node (R11).
func (d *decider) superseded(action recourse.Action) bool {
	rec := d.rec
	switch c := strongestCover(d.state, rec.Node); {
	case len(d.state.Ended) > 0:
		d.plain(recourse.ExecutionEnded, recourse.KindSuperseded)
		rec.Detail = fmt.Sprintf("the execution ended with record %d (R11)", d.state.Ended[0].Version)
	case c != nil && c.Action.Strength() >= action.Strength():
		d.plain(recourse.Superseded, recourse.KindSuperseded)
		rec.Detail = fmt.Sprintf("covered by %s of record %d (R11)", c.Action, c.Version)
	default:
		w := d.pendingGroupRetry(action)
		if w == nil {
			return false
		}
		d.plain(recourse.Superseded, recourse.KindSuperseded)
		rec.Detail = fmt.Sprintf("step group %s is run again by record %d (R8)", w.Scope, w.Version)
	}
	rec.Action = action
	return true
}

// pendingGroupRetry returns the group retry that will run the node again, where the action would do so or would wait for people.
func (d *decider) pendingGroupRetry(action recourse.Action) *recourse.Wait {
	if action != recourse.Retry && action != recourse.RetryStepGroup && action != recourse.ManualIntervention {
		return nil
	}
	for i := range d.state.Waits {
		w := &d.state.Waits[i]
		if w.Kind != recourse.WaitRetryGroup || !d.rec.Within(w.Scope) || w.Version == d.rec.Ends {
			continue // also one that this record gives up: it runs nothing again
		}
		if action == recourse.RetryStepGroup && len(d.group) < len(w.Scope) {
			continue // a group further out: it is run again as well
		}
		return w
	}
	return nil
}

// strongestCover returns the strongest rollback or abort whose scope has the node, nil where there is none. A node under
// rollbackSteps belongs to the rollback; only an abort covers it (R11).
func strongestCover(s *recourse.State, node recourse.Node) *recourse.Cover {
	var found *recourse.Cover
	for i := range s.Covers {
		c := &s.Covers[i]
		if node.Section == recourse.RollbackSteps && c.Action != recourse.Abort || !node.Within(c.Scope) {
			continue
		}
		if found == nil || c.Action.Strength() > found.Action.Strength() {
			found = c
		}
	}
	return found
}

// act does an action: command, wait, effect and what it supersedes.
func (d *decider) act(spec *ActionSpec, reason recourse.Reason) {
	rec := d.rec
	rec.Action, rec.Reason = spec.Action, reason
	switch spec.Action {
	case recourse.Retry:
		d.retry(spec, reason)
	case recourse.RetryStepGroup:
		d.retryGroup(spec, reason)
	case recourse.ManualIntervention:
		d.pause(spec.Intervention)
	case recourse.StageRollback:
		d.cover(rec.Stage())
	case recourse.StepGroupRollback:
		d.cover(d.group)
	case recourse.PipelineRollback, recourse.Abort:
		d.cover("")
	default:
		d.command(rec.Path)
		d.supersedeOwn()
	}
	rec.Effect = d.effect(rec.Action)
}

func (d *decider) command(scope string) {
	d.rec.Command.Verb = d.rec.Action.Verb()
	d.rec.Command.Scope = scope
}

// cover rolls back or aborts a scope; retries and interventions inside it end with that.
func (d *decider) cover(scope string) {
	d.command(scope)
	if d.rec.Command.Verb == recourse.VerbRollbackGroup && scope == "" {
		d.rec.Action = recourse.MarkAsFailure // an answer where no group is around the node
		d.rec.Detail = "StepGroupRollback, but no step group is around the node"
		d.command(d.rec.Path)
		d.supersedeOwn()
		return
	}
	abort := d.rec.Action == recourse.Abort
	d.supersede(func(w *recourse.Wait) bool {
		about := w.Node
		if w.Kind == recourse.WaitRetryGroup {
			about.Path = w.Scope // a group further out is run again all the same
		}
		return about.Within(scope) && (abort || w.Section != recourse.RollbackSteps) || w.Node == d.rec.Node
	})
}

// supersedeOwn ends what the node itself still waits for: a newer failure of it was decided.
func (d *decider) supersedeOwn() {
	d.supersede(func(w *recourse.Wait) bool { return w.Node == d.rec.Node })
}

func (d *decider) supersede(covered func(*recourse.Wait) bool) {
	for i := range d.state.Waits {
		if w := &d.state.Waits[i]; w.Version != d.rec.Ends && covered(w) {
			d.rec.Cancelled = append(d.rec.Cancelled, w.Version)
		}
	}
}

// retry schedules a retry of the node, or commands it where there is nothing to wait for: a human's retry runs at once (R8, R9).
func (d *decider) retry(spec *ActionSpec, reason recourse.Reason) {
	rec, policy := d.rec, spec.Retry
	d.supersedeOwn()
	if policy == nil || reason == recourse.HumanDecision {
		d.retryNow(reason)
		return
	}
	delay := retry.Delay(policy, d.used()+1, d.retryAfter(), d.seed(policy))
	rec.Delay = recourse.Duration(min(delay, recourse.MaxWait))
	if rec.Delay == 0 {
		d.retryNow(reason)
		return
	}
	rec.Kind = recourse.KindRetryScheduled
	d.wait(recourse.WaitRetry, time.Duration(rec.Delay))
	if rec.Level == recourse.LevelStepGroup {
		rec.Wait.Scope = d.group // what follows the last retry may roll it back
	}
	d.countRetry(spec, d.used()+1)
}

// countRetry says of a wait which retry it is for, 1-based, of how many, and what follows the last.
func (d *decider) countRetry(spec *ActionSpec, number int) {
	w := &d.rec.Wait
	w.Retry, w.Of, w.Then = number, spec.Retry.Count, recourse.MarkAsFailure
	if spec.OnRetryFailure != nil {
		w.Then = spec.OnRetryFailure.Action
	}
}

func (d *decider) retryAfter() time.Duration {
	if d.in.Failure == nil {
		return 0
	}
	return time.Duration(d.in.Failure.RetryAfter)
}

func (d *decider) seed(policy *retry.Policy) uint64 {
	if policy.Backoff == nil {
		return 0
	}
	return retry.Seed(d.in.Prefix(), d.rec.Node.String(), d.rec.Attempt)
}

func (d *decider) retryNow(reason recourse.Reason) {
	rec := d.rec
	rec.Action, rec.Reason = recourse.Retry, reason
	d.command(rec.Path)
	rec.Command.Attempt = rec.Attempt + 1
	rec.Effect = d.effect(recourse.Retry)
}

// retryGroup schedules a retry of the step group around the node, or commands it. What waits inside the group ends with that.
func (d *decider) retryGroup(spec *ActionSpec, reason recourse.Reason) {
	rec, policy := d.rec, spec.Retry
	group := d.group
	if group == "" {
		rec.Action = recourse.MarkAsFailure // an answer where no group is around the node
		rec.Detail = "RetryStepGroup, but no step group is around the node"
		d.command(rec.Path)
		d.supersedeOwn()
		return
	}
	d.supersede(func(w *recourse.Wait) bool { return w.Within(group) })
	var delay time.Duration
	if policy != nil && reason != recourse.HumanDecision {
		delay = min(retry.Delay(policy, d.usedByGroup(group)+1, d.retryAfter(), d.seed(policy)), recourse.MaxWait)
	}
	rec.Delay = recourse.Duration(delay)
	if delay == 0 {
		d.retryGroupNow(group, reason)
		return
	}
	rec.Kind = recourse.KindGroupRetryScheduled
	d.wait(recourse.WaitRetryGroup, delay)
	rec.Wait.Scope = group
	d.countRetry(spec, d.usedByGroup(group)+1)
}

func (d *decider) retryGroupNow(group string, reason recourse.Reason) {
	rec := d.rec
	rec.Action, rec.Reason = recourse.RetryStepGroup, reason
	d.command(group)
	rec.Effect = d.effect(recourse.RetryStepGroup)
}

// pause opens an intervention (R9).
func (d *decider) pause(spec *InterventionSpec) {
	rec := d.rec
	d.supersedeOwn()
	timeout, allowed, onTimeout, by := DefaultInterventionTimeout, recourse.DefaultInterventionActions, recourse.MarkAsFailure, ""
	if spec != nil {
		timeout, allowed, by = min(spec.Timeout, recourse.MaxWait), spec.Allowed, spec.AnswerBy
		if spec.OnTimeout != nil {
			onTimeout = spec.OnTimeout.Action
		}
	}
	if rec.Section == recourse.RollbackSteps {
		allowed &^= rollbacks // a rollback does not roll back (R5)
	}
	d.wait(recourse.WaitIntervention, timeout)
	rec.Wait.Scope, rec.Wait.Allowed, rec.Wait.OnTimeout, rec.Wait.AnswerBy = "", allowed, onTimeout, by
	if rec.Level == recourse.LevelStepGroup {
		rec.Wait.Scope = d.group
	}
	d.command(rec.Path)
	rec.Command.Intervention = recourse.Intervention{
		ID: rec.Version, Allowed: allowed, Deadline: rec.Wait.DueAt, OnTimeout: onTimeout, AnswerBy: by,
	}
}

func (d *decider) wait(kind recourse.WaitKind, delay time.Duration) {
	rec := d.rec
	rec.Wait = recourse.Wait{
		Version: rec.Version, Kind: kind, Node: rec.Node, Attempt: rec.Attempt, DueAt: d.now.Add(delay),
		Level: rec.Level, Strategy: rec.Strategy,
	}
}
