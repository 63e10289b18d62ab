package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// How the journal is pulled. A consumer that vanished (its server did, and it was kept in memory) shows by missing heartbeats
// after twice their interval.
const (
	pullExpiry    = 10 * time.Second
	pullHeartbeat = 2 * time.Second
	readerExpiry  = 30 * time.Second // after which the broker removes a reader whose client is gone
	cleanupLimit  = 2 * time.Second  // for removing a consumer and flushing acks when all is done
)

// journal reads the journal. It needs the stream's info, direct gets and consumers of its own.
type journal struct {
	nc *nats.Conn
	js jetstream.JetStream
}

func (j *journal) stream(ctx context.Context) (jetstream.Stream, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	stream, err := j.js.Stream(ctx, recourse.StreamJournal)
	if err != nil {
		err = noAnswer(j.nc, err)
		return nil, fmt.Errorf("stream %s: %w%s", recourse.StreamJournal, err, hint(err))
	}
	return stream, nil
}

// entry is a record with its place in the stream.
type entry struct {
	*recourse.Record
	sequence uint64
}

func decodeEntry(raw *jetstream.RawStreamMsg, err error) (entry, error) {
	if err != nil {
		return entry{}, err
	}
	record, err := recourse.DecodeRecord(raw.Data)
	if err != nil {
		return entry{}, fmt.Errorf("record %d: %w", raw.Sequence, err)
	}
	return entry{record, raw.Sequence}, nil
}

// last returns the newest record under an execution's prefix; jetstream.ErrMsgNotFound where there is none.
func last(ctx context.Context, stream jetstream.Stream, prefix string) (entry, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return decodeEntry(stream.GetLastMsgForSubject(ctx, prefix+".>"))
}

// at returns the record at a sequence.
func at(ctx context.Context, stream jetstream.Stream, sequence uint64) (entry, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return decodeEntry(stream.GetMsg(ctx, sequence))
}

// nextOn returns the first record on a subject from a sequence on; jetstream.ErrMsgNotFound where there is none.
func nextOn(ctx context.Context, stream jetstream.Stream, subject string, sequence uint64) (entry, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return decodeEntry(stream.GetMsg(ctx, sequence, jetstream.WithGetMsgSubject(subject)))
}

// pendingWaits returns the waits that are pending after a record: those of its state, or where it has none, those of its base
// with the records since then folded onto them.
func pendingWaits(ctx context.Context, stream jetstream.Stream, newest entry) ([]recourse.Wait, error) {
	var since []entry
	e := newest
	for e.State == nil {
		since = append(since, e)
		// The walk ends: each step goes backwards, and not behind the base.
		if e.Previous < newest.StateBase || e.Previous >= e.sequence || newest.StateBase == 0 {
			return nil, fmt.Errorf("record %d of %s: its state base %d is not on its chain", e.sequence, e.Prefix(), newest.StateBase)
		}
		var err error
		if e, err = at(ctx, stream, e.Previous); err != nil {
			return nil, fmt.Errorf("state of %s: %w", newest.Prefix(), err)
		}
	}
	waits := slices.Clone(e.State.Waits)
	for _, e := range slices.Backward(since) {
		waits = slices.DeleteFunc(waits, func(w recourse.Wait) bool {
			return w.Version == e.Ends || slices.Contains(e.Cancelled, w.Version)
		})
		if e.Wait.Kind != 0 {
			waits = append(waits, e.Wait)
		}
	}
	return waits, nil
}

// filterSubject returns the subject pattern of a part of the executions; an empty id stands for all.
func filterSubject(ref recourse.Ref, family recourse.Family, detail string) string {
	tokens := strings.Split(ref.Prefix(), ".")
	for i, token := range tokens {
		if token == recourse.Token("") {
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".") + "." + string(family) + "." + detail
}

// scan says what of the journal is read.
type scan struct {
	filter string
	// from is the first stream sequence; 0 means the last message of each subject, and the end when all of them were seen.
	from uint64
	// headersOnly leaves the bodies out.
	headersOnly bool
}

// errStop ends a read without an error.
var errStop = errors.New("stop")

// read calls visit with each message of a scan, in the order of the stream and without gaps, until visit returns an error, ctx
// ends or the scan does. A message may come twice where the broker lost the consumer in between. The consumers it makes are
// removed again.
func (j *journal) read(ctx context.Context, s scan, visit func(jetstream.Msg) error) error {
	for {
		next, err := j.readOnce(ctx, s, visit)
		switch {
		case errors.Is(err, errStop):
			return nil
		case !errors.Is(err, errConsumerLost):
			return err
		}
		if next > 0 {
			s.from = next
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(firstPause):
		}
	}
}

// createConsumer begins the subject of a request for a consumer on the journal; its name and filter follow.
const createConsumer = "$JS.API.CONSUMER.CREATE." + recourse.StreamJournal + "."

// errConsumerLost says that a consumer is gone or missed something, and that a new one can go on.
var errConsumerLost = errors.New("consumer lost")

// readOnce reads with one consumer and returns the sequence after the last message visited, 0 where there was none.
func (j *journal) readOnce(ctx context.Context, s scan, visit func(jetstream.Msg) error) (next uint64, err error) {
	cfg := jetstream.ConsumerConfig{
		FilterSubject: s.filter, AckPolicy: jetstream.AckNonePolicy, HeadersOnly: s.headersOnly, MemoryStorage: true, Replicas: 1,
		InactiveThreshold: readerExpiry, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: s.from,
	}
	if s.from == 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverLastPerSubjectPolicy, 0
	}
	request, cancel := bounded(ctx)
	request, done := unlessDenied(request, j.nc, createConsumer, "."+s.filter)
	consumer, err := j.js.CreateConsumer(request, recourse.StreamJournal, cfg)
	denied := context.Cause(request)
	done()
	cancel()
	if err != nil {
		if err = noAnswer(j.nc, err); errors.Is(denied, ErrDenied) {
			err = denied
		}
		if !permanent(err) {
			return 0, lost(ctx, j.nc, err)
		}
		return 0, fmt.Errorf("read %s: %w%s", recourse.StreamJournal, err, hint(err))
	}
	info := consumer.CachedInfo()
	defer func() { // in vain while disconnected; then the broker removes it
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
		defer cancel()
		_ = j.js.DeleteConsumer(cleanup, recourse.StreamJournal, info.Name)
	}()
	if s.from == 0 && info.NumPending == 0 {
		return 0, errStop
	}
	messages, err := consumer.Messages(jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return 0, err
	}
	defer messages.Stop()
	for delivered := uint64(1); ; delivered++ {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return next, lost(ctx, j.nc, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return next, err
		}
		if meta.Sequence.Consumer != delivered { // without acks nothing is delivered again
			return next, errConsumerLost
		}
		if err := visit(msg); err != nil {
			return next, err
		}
		next = meta.Sequence.Stream + 1
		if s.from == 0 && meta.NumPending == 0 {
			return next, errStop
		}
	}
}

// lost turns an error of a pull into errConsumerLost where a new consumer can go on.
func lost(ctx context.Context, nc *nats.Conn, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case nc.IsClosed():
		return nats.ErrConnectionClosed
	}
	return fmt.Errorf("%w: %w", errConsumerLost, err)
}
