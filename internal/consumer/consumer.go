// Package consumer takes inputs from the inbox and due waits from the timers, decides each and settles it: pull → decode → decide →
// append → arm → ack.
//
// Order: the inputs of one execution are handled one after another in the order this worker received them; many executions at once.
// Other workers may handle the same execution at the same time: the journal lets one win, the other decides again.
//
// Guarantees: an input is settled only after its record, and the schedule of its wait, are stored. It is decided at least once by
// whoever holds it and recorded exactly once (R12). What nobody can decide goes to the rejected inputs with a reason. It does not
// execute anything and keeps nothing that a restart could lose.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/telemetry"
	"go.uber.org/zap"
)

// Journal is where records go and where chains stand; see internal/publish. What it is given is the caller's again when it returns.
type Journal interface {
	Head(ctx context.Context, prefix string, assumeNew bool) (*decide.Head, error)
	Keep(prefix string, head *decide.Head)
	Load(ctx context.Context, prefix string) (*decide.Head, error)
	Append(ctx context.Context, prefix string, rec *recourse.Record, body []byte, header nats.Header) (sequence uint64, err error)
	Reject(ctx context.Context, input jetstream.Msg, sequence uint64, reason recourse.DecodeReason, cause error) error
}

// Timers keeps waits; see internal/retry/timer. A header is the caller's again when it returns.
type Timers interface {
	Arm(ctx context.Context, prefix string, version uint64, dueAt time.Time, header nats.Header) error
	Cancel(ctx context.Context, prefix string, version uint64) error
	Over(prefix string, version uint64)
}

// Pipelines finds the plan of an execution; see internal/registry.
type Pipelines interface {
	Pipeline(ctx context.Context, ref recourse.Ref, pinned uint64) (decide.Pipeline, error)
}

// Peers are the other workers; see internal/peers. As a source they deliver what they hand over.
type Peers interface {
	Source
	// HeardWithin is how long it takes until others have heard of a claim; 0 where there are none.
	HeardWithin() time.Duration
	Claim(prefix string, handed bool)
	HandOver(msg jetstream.Msg, prefix string) bool
	Begin(prefix string)
}

// Config sets up a [Consumer].
type Config struct {
	// Peers are told which executions are handled here, and are handed what belongs to those that they handle; nil means none.
	Peers Peers
	// Lanes is how many inputs are handled at once, 4,096 at the most; 0 means 1,024. The inputs of one execution share a lane.
	Lanes int
	// Prefetch is how many messages of each stream wait in the worker; 0 means 1,024.
	Prefetch int
	// AckWait is that of the durable consumers: what is in hand longer than a third of it is reported as in progress. 0 means 30s.
	AckWait time.Duration
	// RetryDelay is how long an input waits that could not be handled, say for want of the journal; 0 means 1s.
	RetryDelay time.Duration
	// Now is the clock of decisions; nil means time.Now.
	Now func() time.Time
}

// Consumer is the loop of a worker. Use [New], then [Consumer.Run] once.
type Consumer struct {
	journal   Journal
	timers    Timers
	pipelines Pipelines
	telemetry *telemetry.Telemetry
	cfg       Config

	lanes    []*lane
	seed     maphash.Seed
	inHand   inHand
	handling atomic.Int64 // inputs
}

const (
	// mostInHand is how many messages are handled, or wait for their lane, at once. Some wait to be that: each source has its prefetch.
	mostInHand = 4096
	// calm is how many inputs are handled at once before others have heard of it; see [Consumer.letOthersHear].
	calm = 256
	// yieldAfter is how many messages are given to lanes before they get to run: what others say is not to wait behind a backlog.
	yieldAfter = 4
)

// lane handles messages one after another, and has what is used again for each.
type lane struct {
	mu      sync.Mutex
	changed sync.Cond
	waiting []*item
	closed  bool

	rec  recourse.Record
	body []byte // of rec
	told telemetry.Handling
}

func newLane() *lane {
	l := new(lane)
	l.changed.L = &l.mu
	return l
}

// put adds an item, without waiting: however many of one execution there are, they do not hold up the others.
func (l *lane) put(it *item) {
	l.mu.Lock()
	l.waiting = append(l.waiting, it)
	l.mu.Unlock()
	l.changed.Signal()
}

// next waits for an item. It returns nil when the lane is closed and empty.
func (l *lane) next() *item {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) == 0 {
		if l.closed {
			return nil
		}
		l.changed.Wait()
	}
	it := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	return it
}

// close says that nothing more is put.
func (l *lane) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.changed.Signal()
}

// item is a message on its way.
type item struct {
	msg      jetstream.Msg
	subject  recourse.Subject
	metadata *jetstream.MsgMetadata
	received time.Time
	handed   bool // by another worker, so it stays
	*lane         // that handles it
}

// New returns a consumer that is not running.
func New(journal Journal, timers Timers, pipelines Pipelines, telemetry *telemetry.Telemetry, cfg Config) *Consumer {
	if cfg.Lanes == 0 {
		cfg.Lanes = 1024
	}
	if cfg.Prefetch == 0 {
		cfg.Prefetch = 1024
	}
	if cfg.AckWait == 0 {
		cfg.AckWait = 30 * time.Second
	}
	if cfg.RetryDelay == 0 {
		cfg.RetryDelay = time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Consumer{
		journal: journal, timers: timers, pipelines: pipelines, telemetry: telemetry, cfg: cfg,
		seed: maphash.MakeSeed(), inHand: inHand{room: make(chan struct{}, mostInHand), items: make(map[*item]struct{})},
	}
	for range cfg.Lanes {
		c.lanes = append(c.lanes, newLane())
	}
	return c
}

// Run handles the messages of the given sources until ctx ends, then finishes what it has in hand. The context finish bounds
// that: what is not finished by its end is left unsettled and will be delivered again, to whichever worker. It returns an error where a
// source cannot be pulled from any more: it or its stream was deleted.
func (c *Consumer) Run(ctx, finish context.Context, sources ...Source) error {
	var lanes sync.WaitGroup
	for _, lane := range c.lanes {
		lanes.Go(func() {
			for it := lane.next(); it != nil; it = lane.next() {
				c.handle(finish, it)
			}
		})
	}
	stopProgress := c.inHand.report(c.cfg.AckWait / 3)

	ctx, cancel := context.WithCancelCause(ctx)
	var pulls sync.WaitGroup
	pull := func(source Source, handed bool) {
		pulls.Go(func() {
			if err := c.pull(ctx, source, handed); err != nil {
				cancel(err) // one source gone ends the others: a worker that does half its work looks healthy and is not
			}
		})
	}
	for _, source := range sources {
		pull(source, false)
	}
	if c.cfg.Peers != nil {
		pull(c.cfg.Peers, true)
	}
	pulls.Wait()
	for _, lane := range c.lanes {
		lane.close()
	}
	lanes.Wait()
	stopProgress()
	cancel(nil)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// pull hands the messages of one source to the lanes until ctx ends, and then those that have arrived: they need not wait to be delivered again.
func (c *Consumer) pull(ctx context.Context, source Source, handed bool) error {
	messages, err := source.Pull(c.cfg.Prefetch)
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	for n := 1; ; n++ {
		msg, err := messages.Next()
		switch {
		case err == nil:
			c.dispatch(msg, handed)
			if n%yieldAfter == 0 {
				runtime.Gosched()
			}
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return nil
		case errors.Is(err, jetstream.ErrConsumerDeleted), errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			messages.Stop()
			return fmt.Errorf("pull: %w", err)
		default:
			// A missed heartbeat or a leader change: it is asked for again.
			c.telemetry.Log.Warn("pulling messages was interrupted", zap.Error(err))
		}
	}
}

// dispatch puts a message on the lane of its execution. It blocks while too much is in hand, which holds back the pull.
func (c *Consumer) dispatch(msg jetstream.Msg, handed bool) {
	it := &item{msg: msg, received: c.cfg.Now(), handed: handed}
	var err error
	if it.metadata, err = msg.Metadata(); err != nil {
		c.telemetry.Log.Error("a message without JetStream metadata was dropped", zap.String("subject", msg.Subject()), zap.Error(err))
		return
	}
	if it.subject, err = recourse.ParseSubject(msg.Subject()); err != nil {
		// The streams take no other subjects; were one changed by hand, this must not stop the rest.
		c.telemetry.Log.Error("a message on a subject nobody expects was dropped", zap.String("subject", msg.Subject()), zap.Error(err))
		c.unsettled(it, msg.Term())
		return
	}
	if c.cfg.Peers != nil {
		c.cfg.Peers.Claim(it.subject.Prefix, handed) // now, so that others know by the time they come to what follows on it
	}
	c.inHand.add(it)
	it.lane = c.lanes[maphash.String(c.seed, it.subject.Prefix)%uint64(len(c.lanes))]
	it.lane.put(it)
}

// handle decides one message and settles it.
func (c *Consumer) handle(ctx context.Context, it *item) {
	defer c.inHand.remove(it)
	if ctx.Err() != nil {
		return // not finished in time: delivered again
	}
	defer c.handling.Add(-1)
	if c.handling.Add(1) > calm {
		c.letOthersHear(ctx, it)
	}
	if c.handOver(ctx, it) {
		return
	}
	ctx = c.telemetry.Received(ctx, &it.told, telemetry.Message{Msg: it.msg, Subject: it.subject, Metadata: it.metadata, Received: it.received})
	defer it.told.End()
	in, err := c.input(it)
	var undecodable *recourse.DecodeError
	switch {
	case errors.As(err, &undecodable):
		c.reject(ctx, it, undecodable)
		return
	case in == nil:
		it.told.Cancelled(ctx)
		c.ack(ctx, it)
		return
	}
	it.told.Addressed(in)
	var early *earlyError
	switch err := c.process(ctx, it, in); {
	case errors.As(err, &early):
		// The server's clock is ahead. Armed again it would fire at once, over and over; so the hint itself waits.
		c.nak(ctx, it, max(min(early.dueAt.Sub(c.cfg.Now()), c.cfg.AckWait), time.Millisecond))
		return
	case err != nil:
		it.told.Failed(ctx, err)
		c.nak(ctx, it, c.cfg.RetryDelay)
		return
	}
	c.ack(ctx, it)
}

// letOthersHear waits until others have heard which executions this worker claims, and it has heard of theirs. A backlog comes to all at
// once: without that, each would begin with executions that another one has begun with too.
func (c *Consumer) letOthersHear(ctx context.Context, it *item) {
	if !c.mayHandOver(it) {
		return
	}
	wait := c.cfg.Peers.HeardWithin() - c.cfg.Now().Sub(it.received)
	if wait <= 0 {
		return
	}
	heard := time.NewTimer(wait)
	defer heard.Stop()
	select {
	case <-heard.C:
	case <-ctx.Done():
	}
}

// mayHandOver says whether a message may go to another worker. What was delivered before stays: whatever became of it then, it does not go
// round in circles.
func (c *Consumer) mayHandOver(it *item) bool {
	return c.cfg.Peers != nil && !it.handed && it.metadata.NumDelivered == 1
}

// handOver hands a message to the worker that handles its execution, where that is another.
func (c *Consumer) handOver(ctx context.Context, it *item) bool {
	if c.mayHandOver(it) && c.cfg.Peers.HandOver(it.msg, it.subject.Prefix) {
		c.telemetry.HandedOver(ctx)
		return true
	}
	if c.cfg.Peers != nil {
		c.cfg.Peers.Begin(it.subject.Prefix)
	}
	return false
}

func (c *Consumer) reject(ctx context.Context, it *item, why *recourse.DecodeError) {
	// It keeps the headers it came with: who publishes it again continues the trace in which it was published first.
	publishingCtx, publishing, _ := it.told.Publishing(ctx, recourse.StreamRejected, recourse.FamilyRejected, string(why.Reason))
	err := c.journal.Reject(publishingCtx, it.msg, it.metadata.Sequence.Stream, why.Reason, why.Err)
	publishing.End(recourse.StreamRejected, 0, err)
	if err != nil {
		it.told.Failed(ctx, err)
		c.nak(ctx, it, c.cfg.RetryDelay)
		return
	}
	it.told.Rejected(ctx, why.Reason, why.Err)
	c.inHand.settled(it)
	settling := it.told.Settling(ctx, "term")
	err = it.msg.TermWithReason(string(why.Reason))
	settling.End(err)
	c.unsettled(it, err)
}

func (c *Consumer) ack(ctx context.Context, it *item) {
	c.inHand.settled(it)
	settling := it.told.Settling(ctx, "ack")
	err := it.msg.Ack()
	settling.End(err)
	c.unsettled(it, err)
}

func (c *Consumer) nak(ctx context.Context, it *item, delay time.Duration) {
	c.inHand.settled(it)
	settling := it.told.Settling(ctx, "nak")
	err := it.msg.NakWithDelay(delay)
	settling.End(err)
	c.unsettled(it, err)
}

// unsettled only logs what a settlement could not do: the message is then delivered again, which is harmless (R12).
func (c *Consumer) unsettled(it *item, err error) {
	if err != nil {
		c.telemetry.Log.Warn("a message could not be settled and will be delivered again", zap.String("subject", it.msg.Subject()), zap.Error(err))
	}
}

// inHand knows the messages that were dispatched and not settled.
type inHand struct {
	room  chan struct{} // has one for each that is handled or waits for its lane
	mu    sync.Mutex
	items map[*item]struct{}
}

// add waits until there is room.
func (h *inHand) add(it *item) {
	h.mu.Lock()
	h.items[it] = struct{}{}
	h.mu.Unlock()
	h.room <- struct{}{}
}

// settled says that a message is settled now: whoever then reported it as in progress would have a server that is to deliver it again soon
// wait for as long as it waits for an acknowledgement.
func (h *inHand) settled(it *item) {
	h.mu.Lock()
	delete(h.items, it)
	h.mu.Unlock()
}

// remove makes room.
func (h *inHand) remove(it *item) {
	h.settled(it)
	<-h.room
}

// report tells the broker every so often that what is in hand is being worked on, until the function it returns is called: else a
// message that waits in a lane behind slow ones is delivered to another worker too.
func (h *inHand) report(every time.Duration) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				for _, it := range h.list() {
					h.progress(it)
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}

// progress reports a message, unless it was settled meanwhile.
func (h *inHand) progress(it *item) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, still := h.items[it]; still {
		_ = it.msg.InProgress() // a connection that is gone is seen elsewhere
	}
}

func (h *inHand) list() []*item {
	h.mu.Lock()
	defer h.mu.Unlock()
	items := make([]*item, 0, len(h.items))
	for it := range h.items {
		items = append(items, it)
	}
	return items
}
