package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// The ends of subjects of records that wait, and of the one after which nothing does.
var (
	pauses    = string(recourse.FamilyCommand) + "." + recourse.VerbPause.String()
	decisions = string(recourse.FamilyDecision) + ".*"
	closed    = string(recourse.FamilyDecision) + "." + recourse.KindClosed
	scheduled = string(recourse.FamilyDecision) + "." + recourse.KindRetryScheduled
	grouped   = string(recourse.FamilyDecision) + "." + recourse.KindGroupRetryScheduled
	postponed = string(recourse.FamilyDecision) + "." + recourse.KindRetryPostponed
)

// waitingReaders bounds the executions that are looked at side by side.
const waitingReaders = 16

// eachWaiting calls in with each execution that may wait, the newest record of it and its pending waits, several at once, and returns
// what they found in no order. It looks at the executions that have a record on one of the subjects and did not end: after its end an
// execution waits for nothing.
func eachWaiting[T any](ctx context.Context, j *journal, filter recourse.Ref, subjects []string,
	in func(ctx context.Context, stream jetstream.Stream, newest entry, waits []recourse.Wait) ([]T, error)) ([]T, error) {
	stream, err := j.stream(ctx)
	if err != nil {
		return nil, err
	}
	prefixes, err := mayWait(ctx, j, filter, subjects)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		all   []T
		next  = make(chan string)
	)
	for range min(waitingReaders, len(prefixes)) {
		group.Go(func() {
			for prefix := range next {
				found, err := waitingIn(ctx, stream, prefix, in)
				if err != nil {
					cancel(noAnswer(j.nc, err)) // the first error stays
					return
				}
				mu.Lock()
				all = append(all, found...)
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
	return all, context.Cause(ctx)
}

// mayWait returns the prefixes of the executions that have a record on one of the subjects and did not end.
func mayWait(ctx context.Context, j *journal, filter recourse.Ref, subjects []string) (map[string]struct{}, error) {
	prefixes, ended := make(map[string]struct{}), make(map[string]struct{})
	for _, end := range subjects {
		family, detail, _ := strings.Cut(end, ".")
		s := scan{filter: filterSubject(filter, recourse.Family(family), detail), headersOnly: true}
		err := j.read(ctx, s, func(msg jetstream.Msg) error {
			subject, err := recourse.ParseSubject(msg.Subject())
			if err != nil {
				return err
			}
			switch string(subject.Family) + "." + subject.Detail {
			case closed:
				ended[subject.Prefix] = struct{}{}
			case pauses, scheduled, grouped, postponed:
				prefixes[subject.Prefix] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for prefix := range ended {
		delete(prefixes, prefix)
	}
	return prefixes, nil
}

func waitingIn[T any](ctx context.Context, stream jetstream.Stream, prefix string,
	in func(context.Context, jetstream.Stream, entry, []recourse.Wait) ([]T, error)) ([]T, error) {
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
	return in(ctx, stream, newest, waits)
}

// cause is what the records say of how a wait came about. Its members are zero where these are gone from the journal.
type cause struct {
	at      time.Time // of the record that waits
	errors  recourse.ErrorTypes
	message string
	control *recourse.ControlInput // that postponed it
}

// causesOf finds the records that wait, on the subjects where such records stand, and the failures behind them. It walks over the records
// of these subjects, of which there are few, and not over all of the execution.
func causesOf(ctx context.Context, stream jetstream.Stream, prefix string, waits []recourse.Wait, subjects ...string) (map[uint64]cause, error) {
	wanted := make(map[uint64]bool, len(waits))
	for _, w := range waits {
		wanted[w.Version] = true
	}
	causes := make(map[uint64]cause, len(waits))
	for _, subject := range subjects {
		for sequence := uint64(1); len(causes) < len(wanted); {
			e, err := nextOn(ctx, stream, prefix+"."+subject, sequence)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			if err != nil {
				return nil, err
			}
			if sequence = e.sequence + 1; !wanted[e.Version] {
				continue
			}
			c := cause{at: e.At, control: e.Input.Control}
			failed, err := failureBehind(ctx, stream, e)
			if err != nil {
				return nil, err
			}
			if failed != nil {
				c.errors, c.message = failed.Errors, failed.Message
			}
			causes[e.Version] = c
		}
	}
	return causes, nil
}

// failureBehind returns the failure a record goes back to: its own, or that of the record whose wait it ended. It is nil where that is
// gone from the journal.
func failureBehind(ctx context.Context, stream jetstream.Stream, e entry) (*recourse.FailureInput, error) {
	for e.Input.Failure == nil && e.Ends != 0 {
		for ends := e.Ends; e.Version > ends; {
			if e.Previous == 0 || e.Previous >= e.sequence {
				return nil, fmt.Errorf("record %d of %s: its chain is broken", e.sequence, strings.TrimPrefix(e.Prefix(), "recourse."))
			}
			var err error
			if e, err = at(ctx, stream, e.Previous); errors.Is(err, jetstream.ErrMsgNotFound) {
				return nil, nil
			} else if err != nil {
				return nil, err
			}
		}
	}
	return e.Input.Failure, nil
}
