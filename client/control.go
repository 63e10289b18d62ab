package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/recourse-dev/recourse"
)

// PendingRetry is a retry that waits for its interval (R8).
type PendingRetry struct {
	recourse.Ref
	recourse.Node
	// ID is what a control names as its Wait.
	ID uint64
	// Group is the step group that is run again, "" where it is the node alone.
	Group string
	// Attempt is the one that failed, 1-based.
	Attempt int
	// Retry is the number of the retry, 1-based, of Of that the strategy allows; Then is what follows the last. They are zero where the
	// record does not say.
	Retry, Of int
	Then      recourse.Action
	// DueAt is when it runs (UTC).
	DueAt time.Time
	// Level and Strategy are where the strategy stands that retries.
	Level    recourse.Level
	Strategy string
	// WaitsSince is when it began to wait (UTC), and Errors and Message are those of the failure. They are zero where the records are
	// gone from the journal.
	WaitsSince time.Time
	Errors     recourse.ErrorTypes
	Message    string
	// PostponedBy and PostponedWhy are of the person who postponed it last, "" where nobody did.
	PostponedBy, PostponedWhy string
}

// Retries lists the pending retries, the next one due first; it reads as [Operator.Open] does.
func (o *Operator) Retries(ctx context.Context, filter recourse.Ref) ([]PendingRetry, error) {
	pending, err := eachWaiting(ctx, o.journal, filter, []string{decisions}, retriesIn)
	if err != nil {
		return nil, fmt.Errorf("pending retries: %w", err)
	}
	slices.SortFunc(pending, func(a, b PendingRetry) int {
		return cmp.Or(a.DueAt.Compare(b.DueAt), cmp.Compare(a.Prefix(), b.Prefix()), cmp.Compare(a.ID, b.ID))
	})
	return pending, nil
}

// retriesIn returns the pending retries of one execution.
func retriesIn(ctx context.Context, stream jetstream.Stream, newest entry, waits []recourse.Wait) ([]PendingRetry, error) {
	waits = slices.DeleteFunc(waits, func(w recourse.Wait) bool { return w.Kind == recourse.WaitIntervention })
	causes, err := causesOf(ctx, stream, newest.Prefix(), waits, scheduled, grouped, postponed)
	if err != nil {
		return nil, err
	}
	pending := make([]PendingRetry, len(waits))
	for i, w := range waits {
		c := causes[w.Version]
		p := PendingRetry{
			Ref: newest.Ref, Node: w.Node, ID: w.Version, Attempt: w.Attempt, Retry: w.Retry, Of: w.Of, Then: w.Then, DueAt: w.DueAt,
			Level: w.Level, Strategy: w.Strategy, WaitsSince: c.at, Errors: c.errors, Message: c.message,
		}
		if w.Kind == recourse.WaitRetryGroup {
			p.Group = w.Scope
		}
		if c.control != nil {
			p.PostponedBy, p.PostponedWhy = c.control.Who, c.control.Why
		}
		pending[i] = p
	}
	return pending, nil
}

// Control publishes what a person does to a pending retry and returns the record that decided on it. What [Operator.Answer] says of ids,
// of waiting and of errors holds here too.
func (o *Operator) Control(ctx context.Context, c recourse.Control) (*recourse.Record, error) {
	repeat := c.ID != ""
	if !repeat {
		c.ID = nuid.Next()
	}
	if c.At.IsZero() {
		c.At = o.sender.now().UTC()
	}
	c.Schema = recourse.Schema
	c.Clean()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	record, err := o.say(ctx, said{Ref: c.Ref, what: "control", id: c.ID, family: recourse.FamilyControl, at: c.At, repeat: repeat,
		same: func(in *recourse.Input) bool {
			return in.Control != nil && in.Control.Wait == c.Wait && in.Control.Do == c.Do && in.Control.For == c.For
		}}, &c)
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Reason == recourse.AnswerRefused {
		o.whoCameFirst(ctx, c, refused)
	}
	return record, err
}

// whoCameFirst adds to a refusal what ended the wait, where that was no person: the state remembers only people. It leaves the refusal as
// it is where the journal does not tell in time.
func (o *Operator) whoCameFirst(ctx context.Context, c recourse.Control, refused *RefusedError) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_ = o.journal.read(ctx, scan{filter: c.Prefix() + ".>", from: 1}, func(msg jetstream.Msg) error {
		record, err := recourse.DecodeRecord(msg.Data())
		switch {
		case err != nil:
			return err
		case record.Version >= refused.Record.Version:
			return errStop
		case record.Ends == c.Wait && record.Input.Due != 0:
			refused.Detail = fmt.Sprintf("retry %d came due already, at %s in record %d", c.Wait, clock(record.At), record.Version)
			return errStop
		case slices.Contains(record.Cancelled, c.Wait):
			refused.Detail = fmt.Sprintf("retry %d is superseded by %s of record %d at %s (R11)", c.Wait, ending(record), record.Version, clock(record.At))
			return errStop
		}
		return nil
	})
}

// ending says in a word what ended a wait.
func ending(record *recourse.Record) string {
	if record.Input.Lifecycle != 0 {
		return "the end of the execution"
	}
	return record.Action.String()
}

// clock writes an instant as the details of records do.
func clock(t time.Time) string { return t.Format("2006-01-02T15:04:05.000Z07:00") }
