package history

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// Message is a record with its place in the stream.
type Message struct {
	Sequence uint64
	// Trace is the trace id (32 hexadecimal digits) of the input the record decides on, "" where it has none.
	Trace string
	*recourse.Record
}

// Read reads the chain of an execution from its newest record backwards: each names its predecessor, and a read by sequence costs the
// server nothing, whereas a search by subject goes over the whole stream. The result is in the order of the chain. It begins later than
// with the first record where the ones before are gone (retention): the first one's Previous is not 0 then. No record at all is
// [jetstream.ErrMsgNotFound].
func Read(ctx context.Context, journal jetstream.Stream, prefix string) ([]Message, error) {
	var chain []Message
	raw, err := journal.GetLastMsgForSubject(ctx, prefix+".>")
	for {
		if errors.Is(err, jetstream.ErrMsgNotFound) && len(chain) > 0 {
			break // retention took it
		}
		if err != nil {
			return nil, fmt.Errorf("journal of %s: %w", prefix, err)
		}
		msg, err := decode(raw)
		if err != nil {
			return nil, err
		}
		if len(chain) > 0 && (msg.Prefix() != prefix || msg.Version >= chain[len(chain)-1].Version) {
			return nil, fmt.Errorf("journal of %s: record %d names sequence %d as its predecessor, which is another; `recourse verify` says more",
				prefix, chain[len(chain)-1].Version, msg.Sequence)
		}
		chain = append(chain, msg)
		if msg.Previous == 0 {
			break
		}
		raw, err = journal.GetMsg(ctx, msg.Previous)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, fmt.Errorf("journal of %s: %w", prefix, err)
		}
		if err != nil {
			break // retention took it
		}
	}
	slices.Reverse(chain)
	return chain, nil
}

func decode(raw *jetstream.RawStreamMsg) (Message, error) {
	rec, err := recourse.DecodeRecord(raw.Data)
	if err != nil {
		return Message{}, fmt.Errorf("record at sequence %d: %w", raw.Sequence, err)
	}
	return Message{Sequence: raw.Sequence, Trace: traceOf(raw.Header["traceparent"]), Record: rec}, nil
}

// traceOf returns the trace id of a W3C traceparent, "" where it is none.
func traceOf(traceparent []string) string {
	const begin, end = len("00-"), len("00-") + 32
	if len(traceparent) != 1 || len(traceparent[0]) < end {
		return ""
	}
	id := traceparent[0][begin:end]
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return id
}
