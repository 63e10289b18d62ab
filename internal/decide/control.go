package decide

import (
	"fmt"
	"time"

	"github.com/recourse-dev/recourse"
)

// control does what a person asked of a pending retry. Like an answer it has a record of its own, and the wait ends once: whoever comes
// second is refused and told why.
func (d *decider) control() {
	rec, c := d.rec, d.in.Control
	if d.conflict {
		d.plain(recourse.Conflicting, recourse.KindConflicting)
		rec.Detail = "another control with this id was decided before; the first one stands (R12)"
		return
	}
	w := findWait(d.state, c.Wait)
	if w == nil || w.Kind == recourse.WaitIntervention {
		d.refuse(notPending(d.state, w, c.Wait))
		return
	}
	d.continueWait(w)
	switch c.Do {
	case recourse.RunNow:
		if w.Kind == recourse.WaitRetryGroup {
			d.retryGroupNow(w.Scope, recourse.HumanDecision)
		} else {
			d.retryNow(recourse.HumanDecision)
		}
	case recourse.Postpone:
		d.postpone(w, time.Duration(c.For))
	case recourse.Cancel:
		d.giveUp(w)
	}
}

// postpone waits again: the record takes the place of the one that waited.
func (d *decider) postpone(w *recourse.Wait, by time.Duration) {
	rec := d.rec
	rec.Action, rec.Reason, rec.Kind = recourse.Retry, recourse.HumanDecision, recourse.KindRetryPostponed
	if w.Kind == recourse.WaitRetryGroup {
		rec.Action = recourse.RetryStepGroup
	}
	rec.Delay = recourse.Duration(min(by, recourse.MaxWait))
	d.wait(w.Kind, time.Duration(rec.Delay))
	rec.Wait.Scope, rec.Wait.Retry, rec.Wait.Of, rec.Wait.Then = w.Scope, w.Retry, w.Of, w.Then
	rec.Effect = d.effect(rec.Action)
}

// notPending says why a retry takes no control: who came first, and when. Of the retries that came due or are superseded a state keeps
// nothing, since an execution may have thousands.
func notPending(s *recourse.State, w *recourse.Wait, version uint64) string {
	if w != nil {
		return fmt.Sprintf("record %d waits for an answer, not for a retry", version)
	}
	for i := range s.Interventions {
		c := &s.Interventions[i]
		if c.ID != version {
			continue
		}
		by := fmt.Sprintf("by %s in record %d at %s", c.Who, c.Version, clock(c.At))
		switch c.Do {
		case recourse.RunNow:
			return fmt.Sprintf("retry %d was run already, %s", version, by)
		case recourse.Postpone:
			return fmt.Sprintf("retry %d was postponed already, %s, which took its place", version, by)
		case recourse.Cancel:
			return fmt.Sprintf("retry %d was given up already, %s", version, by)
		}
		return fmt.Sprintf("record %d waited for an answer, not for a retry", version)
	}
	return fmt.Sprintf("no retry %d is pending in this execution: it came due, or is superseded", version)
}

// clock writes an instant in a detail.
func clock(t time.Time) string { return t.Format("2006-01-02T15:04:05.000Z07:00") }

// giveUp goes on as if the retries were used up (R8).
func (d *decider) giveUp(w *recourse.Wait) {
	spec := &markAsFailure
	if d.plan != nil {
		if d.strategy = d.plan.strategy(w.Strategy); d.strategy != nil {
			d.note(w.Level, d.strategy, true, "its retry was cancelled; what follows its last retry follows now (R8)")
			if next := afterRetries(&d.strategy.Do, w.Then); next != nil {
				spec = next
			}
		}
	}
	d.carryOut(spec, recourse.HumanDecision)
	if rec := d.rec; w.Kind == recourse.WaitRetryGroup && rec.Action.Strength() == 0 && rec.Detail == "" {
		// One input has one record, so nothing is decided anew for those that were superseded in favour of the group retry.
		rec.Detail = fmt.Sprintf("step group %s is not run again; what failed in it since record %d and was left to that stays failed (R8)", w.Scope, w.Version)
	}
}

// afterRetries returns what follows the retries of a strategy, nil where it does not say. A strategy may retry twice, before an
// intervention and after its timeout; the action that follows tells them apart, since only the first leads to the intervention (R10).
func afterRetries(spec *ActionSpec, then recourse.Action) *ActionSpec {
	for spec != nil {
		switch {
		case spec.Intervention != nil:
			spec = spec.Intervention.OnTimeout
		case spec.OnRetryFailure == nil || then == 0 || spec.OnRetryFailure.Action == then:
			return spec.OnRetryFailure
		default:
			spec = spec.OnRetryFailure
		}
	}
	return nil
}
