package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"go.uber.org/zap"
)

// maxTries bounds how often one delivery of an input is decided again after conflicts; then it is delivered again later.
const maxTries = 32

// maxKept is how many bytes a lane keeps for its next record.
const maxKept = 32 << 10

// input decodes a message. A nil input without error is a cancelled schedule, which needs nothing.
func (c *Consumer) input(it *item) (*decide.Input, error) {
	if it.subject.Family == recourse.FamilyDue {
		return dueInput(it)
	}
	body, event, err := recourse.OpenInput(it.subject, it.msg.Headers(), it.msg.Data())
	if err != nil {
		return nil, err
	}
	switch it.subject.Family {
	case recourse.FamilyFailure:
		f, err := recourse.DecodeFailure(body)
		if err != nil {
			return nil, err
		}
		f.Clean()
		in := &decide.Input{Ref: f.Ref, Node: f.Node, Attempt: f.Attempt, Input: recourse.Input{
			Key: f.Key(), Digest: f.Digest(),
			Failure: &recourse.FailureInput{
				Errors: f.Errors, Message: f.Message, ExitCode: f.ExitCode, Target: f.Target, RetryAfter: f.RetryAfter, At: f.At,
			},
		}}
		return c.addressed(it, in)
	case recourse.FamilyIntervention:
		a, err := recourse.DecodeAnswer(body)
		if err != nil {
			return nil, err
		}
		a.Clean()
		a.ID = cmp.Or(a.ID, event.Key(), "sequence-"+strconv.FormatUint(it.metadata.Sequence.Stream, 10))
		if a.Who == "" {
			a.Who = it.subject.Detail
		}
		in := &decide.Input{Ref: a.Ref, Input: recourse.Input{
			Key: "intervention/" + a.ID, Digest: a.Digest(),
			Answer: &recourse.AnswerInput{Intervention: a.Intervention, Action: a.Action, Who: a.Who, Why: a.Why, At: a.At},
		}}
		return c.addressed(it, in)
	case recourse.FamilyControl:
		o, err := recourse.DecodeControl(body)
		if err != nil {
			return nil, err
		}
		o.Clean()
		o.ID = cmp.Or(o.ID, event.Key(), "sequence-"+strconv.FormatUint(it.metadata.Sequence.Stream, 10))
		if o.Who == "" {
			o.Who = it.subject.Detail
		}
		in := &decide.Input{Ref: o.Ref, Input: recourse.Input{
			Key: "control/" + o.ID, Digest: o.Digest(),
			Control: &recourse.ControlInput{Wait: o.Wait, Do: o.Do, For: o.For, Who: o.Who, Why: o.Why, At: o.At},
		}}
		return c.addressed(it, in)
	case recourse.FamilyLifecycle:
		l, err := recourse.DecodeLifecycle(body)
		if err != nil {
			return nil, err
		}
		l.Clean()
		return c.addressed(it, &decide.Input{Ref: l.Ref, Input: recourse.Input{Key: l.Key(), Lifecycle: l.Event, Why: l.Why}})
	default:
		return nil, &recourse.DecodeError{Reason: recourse.ReasonWrongSubject, Err: fmt.Errorf("family %q is no input", it.subject.Family)}
	}
}

// addressed adds where the input came from, and refuses one whose body names another execution than its subject: the broker's
// permissions are on subjects, so a body must not reach further (I8).
func (c *Consumer) addressed(it *item, in *decide.Input) (*decide.Input, error) {
	if prefix := in.Prefix(); prefix != it.subject.Prefix {
		return nil, &recourse.DecodeError{Reason: recourse.ReasonWrongSubject,
			Err: fmt.Errorf("the ids of the body belong under %s, not under %s", prefix, it.subject.Prefix)}
	}
	in.Principal, in.Sequence = it.subject.Detail, it.metadata.Sequence.Stream
	return in, nil
}

func dueInput(it *item) (*decide.Input, error) {
	if it.msg.Headers().Get(recourse.HeaderCancelled) != "" {
		return nil, nil
	}
	version, err := strconv.ParseUint(it.subject.Detail, 10, 64)
	if err != nil || version == 0 {
		return nil, &recourse.DecodeError{Reason: recourse.ReasonWrongSubject, Err: fmt.Errorf("%q is no version", it.subject.Detail)}
	}
	return &decide.Input{Input: recourse.Input{Key: "due/" + it.subject.Detail, Due: version}}, nil
}

// process decides an input until its record is stored, or it turns out to need none.
func (c *Consumer) process(ctx context.Context, it *item, in *decide.Input) error {
	prefix := it.subject.Prefix
	// Nearly every first attempt is the first record of its execution, or its head is in memory: no need to ask.
	head, err := c.journal.Head(ctx, prefix, in.Failure != nil && in.Attempt == 1)
	for try := 0; ; try++ {
		if err != nil {
			return err
		}
		if try == maxTries {
			return c.giveUp(it, in)
		}
		var done bool
		if done, err = c.decide(ctx, it, in, head); done || err != nil {
			if done {
				c.journal.Keep(prefix, head)
			}
			if !errors.Is(err, decide.ErrConflict) && !errors.Is(err, decide.ErrUnknownOutcome) {
				return err
			}
			it.told.Conflict(ctx, err)
			if ctx.Err() != nil {
				return err
			}
		}
		// Another record came first, or may have, or what is in memory is older than what came due: read and decide again.
		head, err = c.journal.Load(ctx, prefix)
	}
}

// giveUp leaves an input for later after too many tries. A wait that came due and whose record is still not seen after many deliveries
// is dropped: its journal is gone, and nothing will ever wait for it.
func (c *Consumer) giveUp(it *item, in *decide.Input) error {
	if in.Due != 0 && it.metadata.NumDelivered > maxTries {
		c.telemetry.Log.Error("a wait came due that the journal does not know; it is dropped",
			zap.String("execution", it.subject.Prefix), zap.Uint64("version", in.Due))
		return nil
	}
	return fmt.Errorf("%s: %s: not decided in %d tries", it.subject.Prefix, in.Key, maxTries)
}

// decide decides once on a head and stores the record. It is done where the head is as the stream has it and the input can be settled;
// where it is neither done nor failed, the head was too old to tell.
func (c *Consumer) decide(ctx context.Context, it *item, in *decide.Input, head *decide.Head) (done bool, err error) {
	rec := &it.rec
	if in.Due != 0 {
		if head.Version < in.Due {
			return false, nil // the record that waits is not seen yet: no word on whether it still does
		}
		in.Ref = head.Ref // the subject has the ids encoded, the chain has them as they are
	}
	pipeline, err := c.pipelines.Pipeline(ctx, in.Ref, head.State.Pipeline.Revision)
	if err != nil {
		return false, err
	}
	now := c.cfg.Now().UTC()
	deciding := it.told.Deciding(ctx)
	result, version := decide.Decide(rec, pipeline, head, in, now)
	deciding.End(in, result, version, rec)
	if result == decide.Early {
		it.told.Repeated(ctx, result, c.cfg.Now())
		return true, &earlyError{dueAt: pendingWait(head, version).DueAt}
	}
	if result != decide.Decided {
		err := c.arm(ctx, it, head, version)
		if err == nil {
			it.told.Repeated(ctx, result, c.cfg.Now())
		}
		return true, err
	}
	var due *recourse.Wait
	if in.Due != 0 { // sealing ends it
		if w := pendingWait(head, in.Due); w != nil {
			came := *w
			due = &came
		}
	}
	body, err := decide.SealTo(it.body[:0], rec, head)
	if it.body = body; cap(body) > maxKept {
		it.body = nil
	}
	if err != nil {
		return false, fmt.Errorf("encode record: %w", err)
	}
	sequence, err := c.append(ctx, it, rec, body)
	if err != nil {
		return false, err
	}
	head.Appended(rec, sequence)
	it.told.Recorded(ctx, rec, due, c.cfg.Now())
	if err := c.arm(ctx, it, head, rec.Wait.Version); err != nil {
		return true, err
	}
	c.cancel(ctx, it.subject.Prefix, rec)
	return true, nil
}

// append stores a record, which continues the trace of its input.
func (c *Consumer) append(ctx context.Context, it *item, rec *recourse.Record, body []byte) (uint64, error) {
	family, detail := recourse.FamilyDecision, rec.Kind
	if rec.Command.Verb != 0 {
		family, detail = recourse.FamilyCommand, rec.Command.Verb.String()
	}
	ctx, publishing, header := it.told.Publishing(ctx, recourse.StreamJournal, family, detail)
	sequence, err := c.journal.Append(ctx, it.subject.Prefix, rec, body, header)
	publishing.End(recourse.StreamJournal, sequence, err)
	return sequence, err
}

// arm schedules the wait of a version where it is still pending.
func (c *Consumer) arm(ctx context.Context, it *item, head *decide.Head, version uint64) error {
	w := pendingWait(head, version)
	if w == nil {
		return nil
	}
	ctx, publishing, header := it.told.Publishing(ctx, recourse.StreamTimers, recourse.FamilyTimer, recourse.VersionDetail(version))
	err := c.timers.Arm(ctx, it.subject.Prefix, version, w.DueAt, header)
	publishing.End(recourse.StreamTimers, 0, err)
	return err
}

// pendingWait returns the wait of a version, nil where nothing waits for it.
func pendingWait(head *decide.Head, version uint64) *recourse.Wait {
	for i := range head.State.Waits {
		if w := &head.State.Waits[i]; w.Version == version {
			return w
		}
	}
	return nil
}

// earlyError says that a wait came due before its time by this worker's clock.
type earlyError struct{ dueAt time.Time }

func (e *earlyError) Error() string { return "due only at " + e.dueAt.String() }

// cancel removes the schedules of the waits that a record ended other than by coming due. The journal knows already that they ended;
// this only spares the broker, so what fails here is left to the hint that comes to nothing.
func (c *Consumer) cancel(ctx context.Context, prefix string, rec *recourse.Record) {
	switch {
	case rec.Ends == 0:
	case rec.Input.Due != 0:
		c.timers.Over(prefix, rec.Ends)
	default:
		_ = c.timers.Cancel(ctx, prefix, rec.Ends)
	}
	for _, version := range rec.Cancelled {
		_ = c.timers.Cancel(ctx, prefix, version)
	}
}

// Overdue says whether an execution still waits for a version and since when, for the sweeper.
func Overdue(journal Journal) func(ctx context.Context, prefix string, version uint64) (time.Time, bool, error) {
	return func(ctx context.Context, prefix string, version uint64) (time.Time, bool, error) {
		head, err := journal.Load(ctx, prefix)
		if err != nil {
			return time.Time{}, false, err
		}
		if w := pendingWait(head, version); w != nil {
			return w.DueAt, true, nil
		}
		return time.Time{}, false, nil
	}
}
