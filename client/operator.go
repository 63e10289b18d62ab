package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/recourse-dev/recourse"
)

// ErrUndecided is in the error of [Operator.Answer] and [Operator.Control] where what was said is stored, but ctx ended before it was
// decided.
var ErrUndecided = errors.New("stored, but not decided yet")

// RefusedError says that an answer or a control was not accepted: the intervention is not open (any more) or does not allow the action,
// the retry is not pending (any more).
type RefusedError struct {
	// Reason is the record's: mostly AnswerRefused, but also Conflicting or ExecutionEnded.
	Reason recourse.Reason
	// Detail says why in words; where somebody or something came first, who or what, and when.
	Detail string
	// Record is the whole decision.
	Record *recourse.Record
}

// Error returns the reason and the detail.
func (e *RefusedError) Error() string {
	what := "answer"
	if e.Record != nil && e.Record.Input.Control != nil {
		what = "control"
	}
	text := what + " refused: " + e.Reason.String()
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// OpenIntervention is a question that waits for a person (R9).
type OpenIntervention struct {
	recourse.Ref
	recourse.Node
	// ID is what an answer names.
	ID uint64
	// Attempt is the one that failed, 1-based.
	Attempt int
	// Allowed are the actions an answer may name.
	Allowed recourse.Actions
	// Deadline is when OnTimeout is carried out (UTC).
	Deadline  time.Time
	OnTimeout recourse.Action
	// AnswerBy is who may answer; see [recourse.MayAnswer].
	AnswerBy string
	// Level and Strategy are where the strategy stands that asks.
	Level    recourse.Level
	Strategy string
	// OpenedAt is when it was opened (UTC); Errors and Message are those of the failure. They are zero where the record that
	// opened it is gone from the journal.
	OpenedAt time.Time
	Errors   recourse.ErrorTypes
	Message  string
}

// Operator answers manual interventions, steps in where a retry waits, and lists both. It is safe for concurrent use.
type Operator struct {
	sender  *sender
	journal *journal
}

// NewOperator returns an operator that answers in the name of principal; see [NewDelegate].
func NewOperator(nc *nats.Conn, principal string) (*Operator, error) {
	s, err := newSender(nc, principal)
	if err != nil {
		return nil, err
	}
	return &Operator{s, &journal{nc, s.js}}, nil
}

// Answer publishes an answer and returns the record that decided on it. An answer without an ID gets one, one without an At the
// time of now. It is stored as [Delegate.Report] stores a failure; after that, Answer waits for the decision as long as ctx
// lets it.
//
// The error is a *[RefusedError] where the answer was decided against, and has [ErrUndecided] and that of ctx where it is
// stored but no decision came in time: the answer stands, and calling Answer again with the ID that the error names finds the
// decision. An answer with an ID that was decided before returns that decision again.
func (o *Operator) Answer(ctx context.Context, a recourse.Answer) (*recourse.Record, error) {
	repeat := a.ID != ""
	if !repeat {
		a.ID = nuid.Next()
	}
	if a.At.IsZero() {
		a.At = o.sender.now().UTC()
	}
	a.Schema = recourse.Schema
	a.Clean()
	if err := a.Validate(); err != nil {
		return nil, err
	}
	// Another answer may have used the ID before; the decision on that one is not ours, but the conflict that follows is.
	return o.say(ctx, said{Ref: a.Ref, what: "answer", id: a.ID, family: recourse.FamilyIntervention, at: a.At, repeat: repeat,
		same: func(in *recourse.Input) bool {
			return in.Answer != nil && in.Answer.Intervention == a.Intervention && in.Answer.Action == a.Action
		}}, &a)
}

// said is an answer or a control on its way to its decision.
type said struct {
	recourse.Ref
	what   string // it is
	id     string
	family recourse.Family
	at     time.Time
	repeat bool // it may have been decided already
	same   func(*recourse.Input) bool
}

// say publishes what was said and waits for the record that decides on it.
func (o *Operator) say(ctx context.Context, w said, input any) (*recourse.Record, error) {
	// Where to look for the decision is settled before anything is published, so that it cannot be overlooked: the records after the
	// newest one so far, or all of the execution where it may have been decided already.
	from := uint64(1)
	if !w.repeat {
		sequence, err := o.newest(ctx, w.Ref)
		if err != nil {
			return nil, err
		}
		from = sequence + 1
	}
	sequence, err := o.sender.send(ctx, w.Ref, event{id: w.id, family: w.family, at: w.at}, input)
	if err != nil {
		return nil, err
	}
	record, err := o.decision(ctx, w, from)
	if err != nil {
		what := ""
		if ctx.Err() != nil {
			what = ": is a worker running?"
		}
		return nil, fmt.Errorf("%s %q (inbox sequence %d): %w: %w%s", w.what, w.id, sequence, ErrUndecided, err, what)
	}
	// A control that gives a retry up may come to what is superseded already; that is a decision all the same.
	if record.Reason != recourse.HumanDecision && record.Ends == 0 {
		return nil, &RefusedError{Reason: record.Reason, Detail: record.Detail, Record: record}
	}
	return record, nil
}

// newest returns the stream sequence of the execution's newest record, 0 where there is none.
func (o *Operator) newest(ctx context.Context, ref recourse.Ref) (uint64, error) {
	stream, err := o.journal.stream(ctx)
	if err != nil {
		return 0, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	raw, err := stream.GetLastMsgForSubject(ctx, ref.Prefix()+".>")
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("journal of %s: %w", ref, noAnswer(o.sender.nc, err))
	}
	return raw.Sequence, nil
}

// decision waits for the record of what was said.
func (o *Operator) decision(ctx context.Context, w said, from uint64) (found *recourse.Record, err error) {
	key := string(w.family) + "/" + w.id
	err = o.journal.read(ctx, scan{filter: w.Prefix() + ".>", from: from}, func(msg jetstream.Msg) error {
		record, err := recourse.DecodeRecord(msg.Data())
		if err != nil {
			return fmt.Errorf("record on %s: %w", msg.Subject(), err)
		}
		if record.Input.Key != key || !w.same(&record.Input) {
			return nil
		}
		found = record
		return errStop
	})
	return found, err
}

// Open lists the open interventions, the earliest deadline first. An empty id of filter stands for all. Each execution is read
// as it is at some moment during the call; one that changes meanwhile may show either way. It looks at every execution in the
// filter that ever paused and did not end, with a few direct gets each.
func (o *Operator) Open(ctx context.Context, filter recourse.Ref) ([]OpenIntervention, error) {
	open, err := eachWaiting(ctx, o.journal, filter, []string{pauses, closed}, openIn)
	if err != nil {
		return nil, fmt.Errorf("open interventions: %w", err)
	}
	slices.SortFunc(open, func(a, b OpenIntervention) int {
		return cmp.Or(a.Deadline.Compare(b.Deadline), cmp.Compare(a.Prefix(), b.Prefix()), cmp.Compare(a.ID, b.ID))
	})
	return open, nil
}

// openIn returns the open interventions of one execution.
func openIn(ctx context.Context, stream jetstream.Stream, newest entry, waits []recourse.Wait) ([]OpenIntervention, error) {
	waits = slices.DeleteFunc(waits, func(w recourse.Wait) bool { return w.Kind != recourse.WaitIntervention })
	causes, err := causesOf(ctx, stream, newest.Prefix(), waits, pauses)
	if err != nil {
		return nil, err
	}
	open := make([]OpenIntervention, len(waits))
	for i, w := range waits {
		c := causes[w.Version]
		open[i] = OpenIntervention{
			Ref: newest.Ref, Node: w.Node, ID: w.Version, Attempt: w.Attempt, Allowed: w.Allowed, Deadline: w.DueAt,
			OnTimeout: w.OnTimeout, AnswerBy: w.AnswerBy, Level: w.Level, Strategy: w.Strategy, OpenedAt: c.at, Errors: c.errors, Message: c.message,
		}
	}
	return open, nil
}
