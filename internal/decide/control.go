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
		d.refuse(fmt.Sprintf("no retry %d is pending in this execution: it has run, was given up or is superseded", c.Wait))
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
	rec.Wait.Scope = w.Scope
	rec.Effect = d.effect(rec.Action)
}

// giveUp goes on as if the retries were used up (R8).
func (d *decider) giveUp(w *recourse.Wait) {
	spec := &markAsFailure
	if d.plan != nil {
		if d.strategy = d.plan.strategy(w.Strategy); d.strategy != nil {
			d.note(w.Level, d.strategy, true, "its retry was cancelled; what follows its last retry follows now (R8)")
			if next := afterRetries(&d.strategy.Do); next != nil {
				spec = next
			}
		}
	}
	d.carryOut(spec, recourse.HumanDecision)
}

// afterRetries returns what follows the retries of a strategy, also where an intervention leads to them; nil where it does not say.
func afterRetries(spec *ActionSpec) *ActionSpec {
	for spec != nil {
		switch {
		case spec.OnRetryFailure != nil:
			return spec.OnRetryFailure
		case spec.Intervention != nil:
			spec = spec.Intervention.OnTimeout
		default:
			return nil
		}
	}
	return nil
}
