package decide

import (
	"errors"
	"fmt"
	"time"

	"github.com/recourse-dev/recourse"
)

// Head is where an execution's chain of records stands: what the next decision builds on and what its append expects. The zero
// value is an execution without records.
type Head struct {
	Ref      recourse.Ref
	Version  uint64 // of the last record, 0 before the first
	Sequence uint64 // of the last record in the stream, 0 before the first
	Base     uint64 // sequence of the last record that carries a state
	State    recourse.State
}

// What an append of a record may come to, beside success. In both cases the head is read again and the input decided anew: a record
// of its own that was stored after all is recognised ([Repeated]).
var (
	// ErrConflict says that another record was appended since the head was read, or is being appended.
	ErrConflict = errors.New("another record was appended to the execution")
	// ErrUnknownOutcome says that the append may or may not be stored: the answer did not come.
	ErrUnknownOutcome = errors.New("the outcome of the append is unknown")
)

// Pipeline is what is known of an execution's pipeline. The zero value is an unknown pipeline with documented semantics.
type Pipeline struct {
	// Plan is nil where the pipeline is not known (R6).
	Plan *Plan
	// Revision is the zero value where the pipeline is not known.
	Revision recourse.PipelineRevision
	// Semantics is the worker's setting; the plan was loaded under the same.
	Semantics recourse.Semantics
}

// Input is one thing to decide on. recourse.Input is recorded as it is; exactly one of its kinds is set.
type Input struct {
	recourse.Ref
	// Node and Attempt are those of a failure; not used for other kinds.
	recourse.Node
	Attempt int
	recourse.Input
}

// Result says what [Decide] did with an input.
type Result uint8

// The results.
const (
	// Decided: the record was filled and is to be appended.
	Decided Result = iota + 1
	// Repeated: the input was decided before, by the record of the version returned (R12).
	Repeated
	// NotWaiting: nothing waits for the version that came due; the hint is stale.
	NotWaiting
	// Early: the wait that came due is not due yet.
	Early
)

// String returns the name of the result.
func (r Result) String() string {
	names := [...]string{"", "decided", "repeated", "not-waiting", "early"}
	if int(r) >= len(names) {
		return ""
	}
	return names[r]
}

// Decide fills rec with the decision on an input: everything but State and StateBase, which [Seal] adds. Memory that rec holds is
// used again. The version is that of the decided or deciding record, of the wait where the input is a wait that came due too early,
// or 0.
func Decide(rec *recourse.Record, p Pipeline, head *Head, in *Input, now time.Time) (result Result, version uint64) {
	now = now.Round(0).UTC() // as it will be read again: without the monotonic clock, which could disagree with what is recorded
	d := decider{rec: rec, plan: p.Plan, semantics: p.Semantics, state: &head.State, in: in, now: now}
	if result, version = d.seen(); result != Decided {
		return result, version
	}
	trail, cancelled := rec.Trail[:0], rec.Cancelled[:0]
	*rec = recourse.Record{
		Schema:    recourse.Schema,
		Ref:       in.Ref,
		Version:   head.Version + 1,
		Previous:  head.Sequence,
		At:        now,
		Input:     in.Input,
		Pipeline:  p.Revision,
		Semantics: p.Semantics,
	}
	rec.Trail, rec.Cancelled = trail, cancelled
	switch {
	case in.Failure != nil:
		d.failure()
	case in.Answer != nil:
		d.answer()
	case in.Control != nil:
		d.control()
	case in.Due != 0:
		d.due()
	default:
		d.lifecycle()
	}
	return Decided, rec.Version
}

// decider is one call of Decide.
type decider struct {
	rec       *recourse.Record
	plan      *Plan
	semantics recourse.Semantics
	state     *recourse.State
	in        *Input
	now       time.Time

	strategy *Strategy // that was resolved, nil where none applies
	group    string    // path of the strategy's group, or of the innermost around the node; "" where there is none
	conflict bool      // the input's key was decided with another content
}

// seen says whether the input needs no record: it was decided before, or it is a hint that does not count (R12).
func (d *decider) seen() (Result, uint64) {
	switch in := d.in; {
	case in.Failure != nil:
		n := findNode(d.state, in.Node)
		if n == nil {
			return Decided, 0
		}
		for i := range n.Seen {
			if s := &n.Seen[i]; s.Attempt == in.Attempt {
				if s.Digest == in.Digest {
					return Repeated, s.Version
				}
				d.conflict = true
			}
		}
	case in.Answer != nil, in.Control != nil:
		for i := range d.state.Answers {
			if s := &d.state.Answers[i]; s.Key == in.Key {
				if s.Digest == in.Digest {
					return Repeated, s.Version
				}
				d.conflict = true
			}
		}
	case in.Due != 0:
		w := findWait(d.state, in.Due)
		if w == nil {
			return NotWaiting, 0
		}
		if d.now.Before(w.DueAt) {
			return Early, w.Version
		}
	default:
		for i := range d.state.Ended {
			if s := &d.state.Ended[i]; s.Key == in.Key {
				return Repeated, s.Version
			}
		}
	}
	return Decided, 0
}

func (d *decider) failure() {
	rec := d.rec
	rec.Node, rec.Attempt = d.in.Node, d.in.Attempt
	if d.conflict {
		d.plain(recourse.Conflicting, recourse.KindConflicting)
		rec.Detail = "another report of this attempt was decided before; the first one stands (R12)"
		return
	}
	if n := findNode(d.state, rec.Node); n != nil && rec.Attempt < n.Attempt {
		d.plain(recourse.Stale, recourse.KindStale)
		rec.Detail = fmt.Sprintf("attempt %d was decided before (R12)", n.Attempt)
		return
	}
	d.resolve(d.in.Failure)
	reason, spec := recourse.NoStrategy, &markAsFailure
	if d.strategy != nil {
		reason, spec = recourse.StrategyMatched, &d.strategy.Do
	}
	d.carryOut(spec, reason)
}

// plain makes the record one without command or effect on the node.
func (d *decider) plain(reason recourse.Reason, kind string) {
	d.rec.Reason, d.rec.Kind = reason, kind
	d.rec.Effect.PipelineFailed = d.state.Failed
}

func (d *decider) answer() {
	rec, a := d.rec, d.in.Answer
	rec.Action = a.Action
	if d.conflict {
		d.plain(recourse.Conflicting, recourse.KindConflicting)
		rec.Detail = "another answer with this id was decided before; the first one stands (R12)"
		return
	}
	w := findWait(d.state, a.Intervention)
	switch {
	case w == nil || w.Kind != recourse.WaitIntervention:
		d.refuse(closedDetail(d.state, a.Intervention))
		return
	case d.in.Principal != "" && !recourse.MayAnswer(w.AnswerBy, d.in.Principal): // a simulation has no principals
		rec.Node, rec.Attempt = w.Node, w.Attempt
		d.refuse(fmt.Sprintf("%s may not answer here; who may: %s (R9)", d.in.Principal, w.AnswerBy))
		return
	case !w.Allowed.Has(a.Action):
		rec.Node, rec.Attempt = w.Node, w.Attempt
		d.refuse(fmt.Sprintf("%s is not allowed here; allowed are %s (R9)", a.Action, w.Allowed))
		return
	}
	d.continueWait(w)
	d.act(&ActionSpec{Action: a.Action}, recourse.HumanDecision)
}

func (d *decider) refuse(detail string) {
	d.plain(recourse.AnswerRefused, recourse.KindRefused)
	d.rec.Detail = detail
}

// closedDetail says why an intervention takes no answer.
func closedDetail(s *recourse.State, id uint64) string {
	for i := range s.Interventions {
		c := &s.Interventions[i]
		if c.ID != id || c.Do != 0 {
			continue
		}
		switch c.Reason {
		case recourse.HumanDecision:
			return fmt.Sprintf("already answered: %s by %s in record %d at %s (R9)", c.Action, c.Who, c.Version, clock(c.At))
		case recourse.InterventionTimedOut:
			return fmt.Sprintf("already timed out: %s in record %d at %s (R9)", c.Action, c.Version, clock(c.At))
		default:
			return fmt.Sprintf("superseded by record %d at %s (R11)", c.Version, clock(c.At))
		}
	}
	return fmt.Sprintf("no intervention %d is known in this execution (R9)", id)
}

// continueWait makes the record go on where a wait left off.
func (d *decider) continueWait(w *recourse.Wait) {
	d.rec.Node, d.rec.Attempt = w.Node, w.Attempt
	d.rec.Level, d.rec.Strategy = w.Level, w.Strategy
	d.rec.Ends = w.Version
	d.group = groupOf(d.plan, w.Node)
	if w.Level == recourse.LevelStepGroup && w.Scope != "" {
		d.group = w.Scope
	}
}

func (d *decider) due() {
	w := findWait(d.state, d.in.Due)
	d.continueWait(w)
	switch w.Kind {
	case recourse.WaitRetry:
		d.retryNow(recourse.RetryDue)
	case recourse.WaitRetryGroup:
		d.retryGroupNow(w.Scope, recourse.RetryDue)
	default:
		d.timeout(w)
	}
}

// timeout carries out what an intervention does when nobody answered (R9).
func (d *decider) timeout(w *recourse.Wait) {
	spec := &ActionSpec{Action: w.OnTimeout}
	if d.plan != nil {
		if d.strategy = d.plan.strategy(w.Strategy); d.strategy != nil {
			if i := d.strategy.Do.intervention(); i != nil && i.OnTimeout != nil {
				spec = i.OnTimeout
			}
			d.note(w.Level, d.strategy, true, "nobody answered in time (R9)")
		}
	}
	d.carryOut(spec, recourse.InterventionTimedOut)
}

func (d *decider) lifecycle() {
	d.plain(recourse.LifecycleReported, recourse.KindClosed)
	for i := range d.state.Waits {
		d.rec.Cancelled = append(d.rec.Cancelled, d.state.Waits[i].Version)
	}
}
