package incident

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// everything is the subject prefix of all executions.
const everything = "recourse.*.*.*.*.*"

const (
	readers       = 4      // side by side; more do not help a server with a few cores
	leastRange    = 5_000  // sequences that are worth a reader of their own
	ahead         = 10_000 // records that a reader asks for at once
	readerExpiry  = 30 * time.Second
	requestWithin = 5 * time.Second
)

// Read reports what went wrong since a time in the executions under a subject prefix, where * stands for any token
// (recourse.acme.*.*.*.*). What is appended while it reads is not looked at.
func Read(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, prefix string, since time.Time) (*Report, error) {
	until := time.Now()
	tally := NewTally()
	journal, err := js.Stream(ctx, recourse.StreamJournal)
	if err != nil {
		return nil, err
	}
	last := journal.CachedInfo().State.LastSeq
	first, err := firstSince(ctx, nc, since)
	if err != nil {
		return nil, fmt.Errorf("first record since %s: %w", since.Format(time.RFC3339), err)
	}
	if first == 0 || first > last {
		return tally.Report(since, until), nil
	}
	n := min(readers, (last-first)/leastRange+1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for i := range n {
		from, to := first+(last-first+1)*i/n, first+(last-first+1)*(i+1)/n-1
		group.Go(func() {
			if err := readRange(ctx, nc, js, prefix, from, to, tally); err != nil {
				cancel(err) // the first error stays
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return tally.Report(since, until), nil
}

// firstSince returns the sequence of the first record stored since a time, 0 where there is none.
func firstSince(ctx context.Context, nc *nats.Conn, since time.Time) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestWithin)
	defer cancel()
	request := fmt.Sprintf(`{"start_time":%q,"next_by_subj":"recourse.>"}`, since.UTC().Format(time.RFC3339Nano))
	msg, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+recourse.StreamJournal, []byte(request))
	if err != nil {
		return 0, err
	}
	switch status := msg.Header.Get("Status"); status {
	case "":
		return strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	case "404":
		return 0, nil
	default:
		return 0, fmt.Errorf("direct get: %s %s", status, msg.Header.Get("Description"))
	}
}

// readRange counts the records between two sequences, both included. It asks for messages itself: the client library's iterator costs half
// as much again for each of them, and here it is all about that.
func readRange(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, prefix string, from, to uint64, tally *Tally) error {
	filter := prefix + ".>"
	if prefix == everything {
		filter = "" // a server reads on faster without one
	}
	consumer, err := js.CreateConsumer(ctx, recourse.StreamJournal, jetstream.ConsumerConfig{
		FilterSubject: filter, HeadersOnly: true, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, InactiveThreshold: readerExpiry,
	})
	if err != nil {
		return err
	}
	info := consumer.CachedInfo()
	defer func() { // in vain where the connection is lost; then the broker removes it
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestWithin)
		defer cancel()
		_ = js.DeleteConsumer(cleanup, recourse.StreamJournal, info.Name)
	}()
	if info.NumPending == 0 {
		return nil
	}
	r := &rangeReader{
		nc: nc, next: "$JS.API.CONSUMER.MSG.NEXT." + recourse.StreamJournal + "." + info.Name, inbox: nc.NewInbox(), to: to,
		left: min(to-from+1, info.NumPending), tally: tally, ended: make(chan error, 1), alive: make(chan struct{}, 1),
	}
	sub, err := nc.Subscribe(r.inbox, r.take)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sub.SetPendingLimits(4*ahead, -1); err != nil { // twice as many are never on the way
		return err
	}
	r.ask()
	silent := time.NewTimer(requestWithin)
	defer silent.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-r.ended:
			return err
		case <-r.alive:
			silent.Reset(requestWithin)
		case <-silent.C:
			return errors.New("the server has stopped to send records; try again")
		}
	}
}

// rangeReader takes the messages of one range.
type rangeReader struct {
	nc          *nats.Conn
	next, inbox string // subjects
	to          uint64
	tally       *Tally
	ended       chan error    // once
	alive       chan struct{} // now and then

	// What follows belongs to the goroutine that takes.
	left      uint64 // messages not asked for yet, at most
	asked     uint64 // and not arrived
	delivered uint64
	over      bool
}

// ask keeps between half of what may be ahead and all of it asked for.
func (r *rangeReader) ask() {
	if n := min(ahead-r.asked, r.left); n > 0 && r.asked <= ahead/2 {
		r.left -= n
		r.asked += n
		if err := r.nc.PublishRequest(r.next, r.inbox, fmt.Appendf(nil, `{"batch":%d,"expires":%d}`, n, readerExpiry)); err != nil {
			r.end(err)
		}
	}
}

func (r *rangeReader) end(err error) {
	if !r.over {
		r.over = true
		r.ended <- err
	}
}

func (r *rangeReader) take(msg *nats.Msg) {
	if r.over {
		return
	}
	if msg.Reply == "" { // a word from the server; stored messages have the subject of their acknowledgement
		r.end(fmt.Errorf("%s %s", msg.Header.Get("Status"), msg.Header.Get("Description")))
		return
	}
	meta, err := msg.Metadata()
	if err != nil {
		r.end(err)
		return
	}
	r.delivered++
	if meta.Sequence.Consumer != r.delivered {
		r.end(errors.New("records were lost on the way; try again"))
		return
	}
	if meta.Sequence.Stream <= r.to {
		subject, err := recourse.ParseSubject(msg.Subject)
		if err != nil {
			r.end(err) // cannot come from the journal: its subjects have this form
			return
		}
		r.tally.Add(subject, msg.Header, meta.Timestamp)
	}
	if meta.Sequence.Stream >= r.to || meta.NumPending == 0 {
		r.end(nil)
		return
	}
	if r.asked--; r.delivered%1000 == 0 {
		select {
		case r.alive <- struct{}{}:
		default:
		}
	}
	r.ask()
}
