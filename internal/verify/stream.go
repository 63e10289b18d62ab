package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	batchMessages = 500
	batchBytes    = 4 << 20
	everything    = "recourse.*.*.*.*.*.>"
	answerWithin  = 10 * time.Second       // for a batch
	behindPause   = 100 * time.Millisecond // before a replica that may be behind is asked again
	behindTries   = 20                     // then what is missing counts as removed
)

// reader reads a stream from a sequence up to another, in batches of direct gets: without a consumer, so that it needs no permission to
// make one, and by its own subscription, since a stored message may have a header "Status" that a client library takes for a word from the
// server. While one batch is worked on, the next is on its way.
type reader struct {
	nc       *nats.Conn
	stream   string
	filter   string // subject pattern
	next, to uint64 // sequences

	sub     *nats.Subscription
	arrived chan *nats.Msg
	asked   bool
	behind  int // how often in a row nothing more was there, though something should be
	batch   []Message
	at      int
}

// newReader begins to read the messages of a stream under a pattern; whoever is done with it calls close.
func newReader(nc *nats.Conn, stream, filter string, from, to uint64) (*reader, error) {
	r := &reader{nc: nc, stream: stream, filter: filter, next: max(from, 1), to: to, arrived: make(chan *nats.Msg, 2*batchMessages+16)}
	var err error
	r.sub, err = nc.ChanSubscribe(nc.NewInbox(), r.arrived)
	return r, err
}

func (r *reader) close() { _ = r.sub.Unsubscribe() }

// peek returns the next message, nil behind the last one.
func (r *reader) peek(ctx context.Context) (*Message, error) {
	for r.at == len(r.batch) && r.next <= r.to {
		if r.behind > 0 {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(behindPause):
			}
		}
		if err := r.fill(ctx); err != nil {
			return nil, fmt.Errorf("read %s from %d: %w", r.stream, r.next, err)
		}
	}
	if r.at == len(r.batch) || r.batch[r.at].Sequence > r.to {
		return nil, nil
	}
	return &r.batch[r.at], nil
}

func (r *reader) skip() { r.at++ }

// ask asks for the next batch, once.
func (r *reader) ask() error {
	if r.asked || r.next > r.to {
		return nil
	}
	request, err := json.Marshal(struct {
		Sequence uint64 `json:"seq"`
		NextFor  string `json:"next_by_subj"`
		Batch    int    `json:"batch"`
		MaxBytes int    `json:"max_bytes"`
	}{r.next, r.filter, batchMessages, batchBytes})
	if err != nil {
		return err
	}
	r.asked = true
	return r.nc.PublishRequest("$JS.API.DIRECT.GET."+r.stream, r.sub.Subject, request)
}

// fill receives one batch and asks for the one behind it.
func (r *reader) fill(ctx context.Context) error {
	if err := r.ask(); err != nil {
		return err
	}
	r.batch, r.at = r.batch[:0], 0
	timeout := time.NewTimer(answerWithin)
	defer timeout.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			return errors.New("the server does not answer; may this user read it?")
		case msg := <-r.arrived:
			timeout.Reset(answerWithin)
			if first(msg.Header, "Nats-Stream") == "" { // a word from the server: stored messages say where they are from
				more, err := r.ended(msg)
				if err != nil || !more {
					return err
				}
				return r.ask()
			}
			m, err := stored(msg)
			if err != nil {
				return err
			}
			r.batch = append(r.batch, m)
			r.next, r.behind = m.Sequence+1, 0
		}
	}
}

// ended acts on the end of a batch: it says whether more is to be asked for.
func (r *reader) ended(msg *nats.Msg) (more bool, err error) {
	r.asked = false
	switch status := msg.Header.Get("Status"); status {
	case "204":
		if pending := msg.Header.Get("Nats-Num-Pending"); pending != "0" {
			return true, nil
		}
	case "404":
	case "503":
		return false, nats.ErrNoResponders
	default:
		return false, fmt.Errorf("%s %s", status, msg.Header.Get("Description"))
	}
	if r.next <= r.to && r.filter == everything && r.behind < behindTries {
		r.behind++ // direct gets are answered by any replica
		return false, nil
	}
	r.next = r.to + 1 // nothing else is there
	return false, nil
}

// stored makes a message of what a direct get returns.
func stored(msg *nats.Msg) (Message, error) {
	sequence, err := strconv.ParseUint(first(msg.Header, "Nats-Sequence"), 10, 64)
	if err != nil {
		return Message{}, fmt.Errorf("sequence of a message: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, first(msg.Header, "Nats-Time-Stamp"))
	if err != nil {
		return Message{}, fmt.Errorf("time of message %d: %w", sequence, err)
	}
	return Message{Sequence: sequence, Subject: first(msg.Header, "Nats-Subject"), Header: msg.Header, Data: msg.Data, Stored: at}, nil
}
