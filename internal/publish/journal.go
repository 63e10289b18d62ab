// Package publish appends records to the journal, each under its execution's subject prefix and only where the chain stands as the
// decision saw it, and reads back where a chain stands. It also keeps rejected inputs.
//
// Guarantees: an append is stored at most once and never beside another record with the same predecessor, so a chain does not fork,
// whatever the number of writers (measured: 16 racing writers, 300 executions, no fork). It does not decide, and it does not retry:
// [decide.ErrConflict] and [decide.ErrUnknownOutcome] say that the caller reads the head again and decides anew.
package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/batch"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/puback"
)

// The codes with which a server refuses an append for its expected sequence.
const (
	codeWrongLastSequence     = 10071 // another record came first
	codeAppendForPrefixFlying = 10164 // another append for the prefix is in flight
)

// maxWalk bounds the records that are read to find a state.
const maxWalk = 100_000

// Config sets up a [Journal].
type Config struct {
	// CacheSize is how many heads are kept in memory; 0 means 10,000.
	CacheSize int
	// AppendTimeout is how long an append may go unanswered before its outcome counts as unknown, and a read before it fails; 0 means 5s.
	AppendTimeout time.Duration
	// Batch appends many executions' records in one atomic batch where many are to be appended at once, which pays where the server brings each
	// append to the disk before it acknowledges (sync always, one replica). Where the stream takes no batches they are appended singly.
	Batch bool
}

// Journal is the stream of records. It is safe for concurrent use, but the head of one prefix belongs to one goroutine at a time: see
// [Journal.Head].
type Journal struct {
	nc      *nats.Conn
	stored  *puback.Publisher
	heads   *cache
	timeout time.Duration
	appends *batch.Publisher
}

// NewJournal returns the journal of a connection. The stream must exist.
func NewJournal(nc *nats.Conn, cfg Config) (*Journal, error) {
	if cfg.CacheSize == 0 {
		cfg.CacheSize = 10_000
	}
	if cfg.AppendTimeout == 0 {
		cfg.AppendTimeout = 5 * time.Second
	}
	stored, err := puback.New(nc, cfg.AppendTimeout)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	appends := batch.Singly(stored)
	if cfg.Batch {
		appends = batch.New(nc, stored)
	}
	return &Journal{nc: nc, stored: stored, appends: appends, heads: newCache(cfg.CacheSize), timeout: cfg.AppendTimeout}, nil
}

// Head returns where the chain under a prefix stands, as far as this worker knows: from memory, else from the stream, or, where
// assumeNew, a new chain without asking. What it returns may be behind; an append then ends in [decide.ErrConflict]. The caller may
// change the head and hands it back with [Journal.Keep]; while it has it, nobody else asks for this prefix.
func (j *Journal) Head(ctx context.Context, prefix string, assumeNew bool) (*decide.Head, error) {
	if head := j.heads.take(prefix); head != nil {
		return head, nil
	}
	if assumeNew {
		return new(decide.Head), nil
	}
	return j.Load(ctx, prefix)
}

// Keep remembers a head that is as the stream has it.
func (j *Journal) Keep(prefix string, head *decide.Head) { j.heads.put(prefix, head) }

// Load reads where the chain under a prefix stands: one request, and one more for each record since the last that carries its state. On
// a replicated stream the answer may be behind by what the answering replica lags.
func (j *Journal) Load(ctx context.Context, prefix string) (*decide.Head, error) {
	body, sequence, err := j.get(ctx, directLast+prefix+".>", nil)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return new(decide.Head), nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: last record of %s: %w", prefix, err)
	}
	last, err := recourse.DecodeRecordHead(body)
	if err != nil {
		return nil, fmt.Errorf("journal: last record of %s: record at sequence %d: %w", prefix, sequence, err)
	}
	head := &decide.Head{Ref: last.Ref, Version: last.Version, Sequence: sequence, Base: sequence}
	if last.State != nil {
		head.State = *last.State
		return head, nil
	}
	if err := j.foldOnto(ctx, prefix, head, body); err != nil {
		return nil, err
	}
	return head, nil
}

// foldOnto finds the state of a head whose last record does not carry it: that of the last record that does, with those since then folded
// onto it.
func (j *Journal) foldOnto(ctx context.Context, prefix string, head *decide.Head, last []byte) error {
	base, err := recourse.DecodeRecord(last)
	if err != nil {
		return fmt.Errorf("journal: record at sequence %d: %w", head.Sequence, err)
	}
	var since []*recourse.Record
	for base.State == nil {
		if len(since) == maxWalk || base.Previous == 0 {
			return fmt.Errorf("journal: %s: no state within %d records before sequence %d", prefix, len(since), head.Sequence)
		}
		since = append(since, base)
		head.Base = base.Previous
		if base, err = j.Record(ctx, base.Previous); err != nil {
			return fmt.Errorf("journal: chain of %s: %w", prefix, err)
		}
	}
	head.State = *base.State
	for _, rec := range slices.Backward(since) {
		decide.Fold(&head.State, rec)
	}
	return nil
}

// Record reads the record at a stream sequence.
func (j *Journal) Record(ctx context.Context, sequence uint64) (*recourse.Record, error) {
	body, _, err := j.get(ctx, directGet, []byte(`{"seq":`+strconv.FormatUint(sequence, 10)+`}`))
	if err != nil {
		return nil, fmt.Errorf("record at sequence %d: %w", sequence, err)
	}
	rec, err := recourse.DecodeRecord(body)
	if err != nil {
		return nil, fmt.Errorf("record at sequence %d: %w", sequence, err)
	}
	return rec, nil
}

const (
	directGet  = "$JS.API.DIRECT.GET." + recourse.StreamJournal
	directLast = directGet + "."
)

// get reads one message with the direct API. The client library's own call first asks for the stream's configuration, which a worker
// need not be allowed to read.
func (j *Journal) get(ctx context.Context, subject string, request []byte) (body []byte, sequence uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.timeout) // the answer of a server that died in between never comes
	defer cancel()
	msg, err := j.nc.RequestWithContext(ctx, subject, request)
	if err != nil {
		return nil, 0, err
	}
	switch status := msg.Header.Get("Status"); status {
	case "":
	case "404":
		return nil, 0, jetstream.ErrMsgNotFound
	default:
		return nil, 0, fmt.Errorf("direct get: %s %s", status, msg.Header.Get("Description"))
	}
	if sequence, err = strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64); err != nil {
		return nil, 0, fmt.Errorf("direct get: sequence: %w", err)
	}
	return msg.Data, sequence, nil
}

// Append stores a record under its execution's prefix where the chain still stands as the record's Previous says, and returns its
// sequence. The header is what else the message is to carry; it is changed. Errors: [decide.ErrConflict], [decide.ErrUnknownOutcome] (also where ctx ends
// first), or what the server refused for.
func (j *Journal) Append(ctx context.Context, prefix string, rec *recourse.Record, body []byte, header nats.Header) (uint64, error) {
	header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(rec.Previous, 10)}
	header[jetstream.ExpectedLastSubjSeqSubjHeader] = []string{prefix + ".>"}
	recourse.SetEventHeader(header, rec.Event(prefix))
	header[recourse.HeaderVersion] = header[recourse.HeaderEventID] // in decimal, both
	if rec.Wait.Version != 0 {
		header[recourse.HeaderDueAt] = []string{rec.Wait.DueAt.UTC().Format(time.RFC3339Nano)}
	}
	if rec.Ends != 0 {
		header[recourse.HeaderEnds] = []string{strconv.FormatUint(rec.Ends, 10)}
	}
	if len(rec.Cancelled) > 0 {
		header[recourse.HeaderCancels] = []string{recourse.FormatVersions(rec.Cancelled)}
	}
	if rec.Input.Failure != nil {
		header[recourse.HeaderFailure] = []string{rec.FailureSummary()}
	}
	sequence, err := j.appends.Publish(ctx, prefix, &nats.Msg{Subject: rec.SubjectUnder(prefix), Header: header, Data: body})
	if err != nil {
		return 0, appendError(prefix, err)
	}
	return sequence, nil
}

// appendError sorts what became of an append: refused for its expectation, refused for another reason, or unknown.
func appendError(prefix string, err error) error {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && (api.ErrorCode == codeWrongLastSequence || api.ErrorCode == codeAppendForPrefixFlying):
		return decide.ErrConflict
	case errors.As(err, &api), errors.Is(err, puback.ErrNotSent), errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("journal: append to %s: %w", prefix, err)
	default:
		return fmt.Errorf("journal: append to %s: %w: %w", prefix, decide.ErrUnknownOutcome, err)
	}
}
