package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/recourse-dev/recourse"
)

// ErrUndecided is in the error of [Operator.Answer] where the answer is stored, but ctx ended before it was decided.
var ErrUndecided = errors.New("stored, but not decided yet")

// RefusedError says that an answer was not accepted: the intervention is not open (any more), or does not allow the action.
type RefusedError struct {
	// Reason is the record's: mostly AnswerRefused, but also Conflicting or ExecutionEnded.
	Reason recourse.Reason
	// Detail says why in words; where somebody answered before, who.
	Detail string
	// Record is the whole decision.
	Record *recourse.Record
}

// Error returns the reason and the detail.
func (e *RefusedError) Error() string {
	if e.Detail == "" {
		return "answer refused: " + e.Reason.String()
	}
	return "answer refused: " + e.Reason.String() + ": " + e.Detail
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
	// Level and Strategy are where the strategy stands that asks.
	Level    recourse.Level
	Strategy string
	// OpenedAt is when it was opened (UTC); Errors and Message are those of the failure. They are zero where the record that
	// opened it is gone from the journal.
	OpenedAt time.Time
	Errors   recourse.ErrorTypes
	Message  string
}

// Operator answers manual interventions and lists the open ones. It is safe for concurrent use.
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
	// Where to look for the decision is settled before the answer is published, so that it cannot be overlooked: the records
	// after the newest one so far, or all of the execution where the answer may have been decided already.
	from := uint64(1)
	if !repeat {
		sequence, err := o.newest(ctx, a.Ref)
		if err != nil {
			return nil, err
		}
		from = sequence + 1
	}
	sequence, err := o.sender.send(ctx, a.Ref, event{id: a.ID, family: recourse.FamilyIntervention, at: a.At}, &a)
	if err != nil {
		return nil, err
	}
	record, err := o.decision(ctx, &a, from)
	if err != nil {
		what := ""
		if ctx.Err() != nil {
			what = ": is a worker running?"
		}
		return nil, fmt.Errorf("answer %q (inbox sequence %d): %w: %w%s", a.ID, sequence, ErrUndecided, err, what)
	}
	if record.Reason != recourse.HumanDecision {
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

// decision waits for the record of an answer.
func (o *Operator) decision(ctx context.Context, a *recourse.Answer, from uint64) (found *recourse.Record, err error) {
	key := "intervention/" + a.ID
	err = o.journal.read(ctx, scan{filter: a.Prefix() + ".>", from: from}, func(msg jetstream.Msg) error {
		record, err := recourse.DecodeRecord(msg.Data())
		if err != nil {
			return fmt.Errorf("record on %s: %w", msg.Subject(), err)
		}
		// Another answer may have used the ID before; the decision on that one is not ours, but the conflict that follows is.
		if record.Input.Key != key || !sameAnswer(record.Input.Answer, a) {
			return nil
		}
		found = record
		return errStop
	})
	return found, err
}

func sameAnswer(decided *recourse.AnswerInput, a *recourse.Answer) bool {
	return decided != nil && decided.Intervention == a.Intervention && decided.Action == a.Action
}

// openReaders bounds the executions that are looked at side by side.
const openReaders = 16

// Open lists the open interventions, the earliest deadline first. An empty id of filter stands for all. Each execution is read
// as it is at some moment during the call; one that changes meanwhile may show either way. It looks at every execution in the
// filter that ever paused, with a few direct gets each.
func (o *Operator) Open(ctx context.Context, filter recourse.Ref) ([]OpenIntervention, error) {
	stream, err := o.journal.stream(ctx)
	if err != nil {
		return nil, err
	}
	prefixes, err := o.paused(ctx, filter)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		open  []OpenIntervention
		next  = make(chan string)
	)
	for range min(openReaders, len(prefixes)) {
		group.Go(func() {
			for prefix := range next {
				found, err := openIn(ctx, stream, prefix)
				if err != nil {
					cancel(noAnswer(o.sender.nc, err)) // the first error stays
					return
				}
				mu.Lock()
				open = append(open, found...)
				mu.Unlock()
			}
		})
	}
feed:
	for prefix := range prefixes {
		select {
		case next <- prefix:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	group.Wait()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("open interventions: %w", context.Cause(ctx))
	}
	slices.SortFunc(open, func(a, b OpenIntervention) int {
		return cmp.Or(a.Deadline.Compare(b.Deadline), cmp.Compare(a.Prefix(), b.Prefix()), cmp.Compare(a.ID, b.ID))
	})
	return open, nil
}

// paused returns the prefixes of the executions that ever paused.
func (o *Operator) paused(ctx context.Context, filter recourse.Ref) (map[string]struct{}, error) {
	prefixes := make(map[string]struct{})
	pauses := filterSubject(filter, recourse.FamilyCommand, recourse.VerbPause.String())
	err := o.journal.read(ctx, scan{filter: pauses, headersOnly: true}, func(msg jetstream.Msg) error {
		subject, err := recourse.ParseSubject(msg.Subject())
		if err != nil {
			return err
		}
		prefixes[subject.Prefix] = struct{}{}
		return nil
	})
	return prefixes, err
}

// openIn returns the open interventions of one execution.
func openIn(ctx context.Context, stream jetstream.Stream, prefix string) ([]OpenIntervention, error) {
	newest, err := last(ctx, stream, prefix)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil // it left the journal just now
	}
	if err != nil {
		return nil, err
	}
	waits, err := pendingWaits(ctx, stream, newest)
	if err != nil {
		return nil, err
	}
	var open []OpenIntervention
	for _, w := range waits {
		if w.Kind == recourse.WaitIntervention {
			open = append(open, OpenIntervention{
				Ref: newest.Ref, Node: w.Node, ID: w.Version, Attempt: w.Attempt, Allowed: w.Allowed, Deadline: w.DueAt,
				OnTimeout: w.OnTimeout, Level: w.Level, Strategy: w.Strategy,
			})
		}
	}
	return open, describe(ctx, stream, prefix, open)
}

// describe adds what the records that opened the interventions say. It walks over the pauses of the execution, of which there
// are few, and not over all of its records.
func describe(ctx context.Context, stream jetstream.Stream, prefix string, open []OpenIntervention) error {
	pauses := recourse.SubjectUnder(prefix, recourse.FamilyCommand, recourse.VerbPause.String())
	for sequence, left := uint64(1), len(open); left > 0; {
		e, err := nextOn(ctx, stream, pauses, sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range open {
			if open[i].ID == e.Version {
				open[i].OpenedAt = e.At
				if f := e.Input.Failure; f != nil {
					open[i].Errors, open[i].Message = f.Errors, f.Message
				}
				left--
			}
		}
		sequence = e.sequence + 1
	}
	return nil
}
