package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

const (
	firstPoll   = 20 * time.Millisecond // of what the broker counts as given out, during a hold; doubles each time
	longestPoll = time.Second
	holdGrace   = time.Second // beyond AckWait, for the broker to deliver again
	ackParts    = 3           // a command that waits or is handled is kept by a sign of life this often per AckWait
)

// run is one Handle. All of its state belongs to the goroutine of loop; pullers, handlers, polls and timers only send to it.
type run struct {
	o       *Orchestrator
	handle  func(context.Context, *recourse.Record) error
	binding binding
	cancel  context.CancelFunc

	lanes map[string]*lane    // by subject prefix: executions with commands that are not done
	given map[uint64]*command // by stream sequence: commands that arrived and are not acknowledged
	ready []*lane             // lanes whose first command may begin, in the order in which that came to be
	busy  int                 // handlers that run
	acked int                 // commands acknowledged
	next  uint64              // stream sequence after the newest command that arrived

	hold       hold
	reconnects uint64

	arrived chan jetstream.Msg
	pulled  chan error   // one pull ended
	rebound chan binding // a lost consumer was replaced
	done    chan outcome
	wake    chan *lane
	counted chan count
	over    chan struct{} // closed when loop has returned, so that no late timer blocks
}

// lane is the commands of one execution, in the order of the stream. The first is the one that is handled.
type lane struct {
	prefix  string
	queue   []*command
	active  bool // its first command is in ready, is handled or waits to be handled again
	begun   bool // a handler has begun with its first command
	tries   int  // of the first command
	retries *time.Timer
}

type command struct {
	sequence uint64
	msg      jetstream.Msg // the newest delivery
}

// outcome is what became of the first command of a lane.
type outcome struct {
	lane    *lane
	version uint64
	err     error
}

// hold keeps new commands from beginning; see [Orchestrator.Handle].
type hold struct {
	on     bool
	number int    // of the hold, so that an answer to an earlier one is not taken for one to this
	from   uint64 // nothing before this stream sequence is missing
	until  time.Time
	pause  time.Duration
	poll   <-chan time.Time
}

// count compares what the broker counts as given out with what had arrived when it was asked. What arrives in between counts for
// neither, else a new command could stand in for one that is missing.
type count struct {
	hold    int // its number
	arrived int
	acked   int // in this run, when the broker was asked
	given   int // -1 where the broker did not say
}

func newRun(o *Orchestrator, handle func(context.Context, *recourse.Record) error, b binding, cancel context.CancelFunc) *run {
	return &run{
		o: o, handle: handle, binding: b, cancel: cancel, next: b.next,
		lanes: make(map[string]*lane), given: make(map[uint64]*command),
		reconnects: o.sender.nc.Stats().Reconnects,
		arrived:    make(chan jetstream.Msg), pulled: make(chan error), rebound: make(chan binding), done: make(chan outcome),
		wake: make(chan *lane), counted: make(chan count), over: make(chan struct{}),
	}
}

func (r *run) loop(ctx context.Context) (err error) {
	defer r.finish()
	life := time.NewTicker(max(r.binding.ackWait/ackParts, time.Millisecond))
	defer life.Stop()
	if r.binding.given > 0 {
		r.startHold()
	}
	pulling := true
	go r.pull(ctx)
	for pulling || r.busy > 0 {
		select {
		case msg := <-r.arrived:
			r.add(msg)
		case out := <-r.done:
			r.settle(ctx, out)
		case l := <-r.wake:
			r.ready = append(r.ready, l)
		case <-life.C:
			for _, c := range r.given {
				_ = c.msg.InProgress() // in vain while disconnected; then the command comes again and is known
			}
		case <-r.hold.poll:
			r.pollHold(ctx)
		case answer := <-r.counted:
			r.checkHold(answer)
		case lost := <-r.pulled:
			if pulling = errors.Is(lost, errConsumerLost) && ctx.Err() == nil; pulling {
				r.o.cfg.OnError(lost)
				go r.rebind(ctx, r.resume())
			} else if ctx.Err() == nil {
				err = lost
				r.cancel()
			}
		case b := <-r.rebound:
			if pulling = b.Consumer != nil; pulling {
				r.binding = b
				go r.pull(ctx)
			}
		}
		if ctx.Err() == nil {
			r.begin(ctx)
		}
	}
	return err
}

// add puts a command that arrived into its lane.
func (r *run) add(msg jetstream.Msg) {
	// A delivery after a reconnect may stand for others that were lost with the old connection.
	if n := r.o.sender.nc.Stats().Reconnects; n != r.reconnects {
		r.reconnects = n
		r.startHold()
	}
	meta, err := msg.Metadata()
	if err != nil {
		r.o.cfg.OnError(fmt.Errorf("command on %s: %w", msg.Subject(), err)) // not from a consumer: the broker never sends this
		return
	}
	sequence := meta.Sequence.Stream
	r.next = max(r.next, sequence+1)
	if c, ok := r.given[sequence]; ok {
		c.msg = msg // delivered again while it waits here
		return
	}
	c := &command{sequence, msg}
	r.given[sequence] = c
	prefix := msg.Subject()
	if subject, err := recourse.ParseSubject(prefix); err == nil {
		prefix = subject.Prefix
	}
	l := r.lanes[prefix]
	if l == nil {
		l = &lane{prefix: prefix}
		r.lanes[prefix] = l
	}
	at, _ := slices.BinarySearchFunc(l.queue, sequence, func(c *command, s uint64) int {
		if c.sequence < s {
			return -1
		}
		return 1
	})
	if at == 0 && l.begun {
		at = 1 // the first one has begun: this one is stale then, and will be left out
	}
	l.queue = slices.Insert(l.queue, at, c)
	r.activate(l)
}

func (r *run) activate(l *lane) {
	if !l.active && len(l.queue) > 0 {
		l.active = true
		r.ready = append(r.ready, l)
	}
}

// begin starts handlers for what is ready, as many as may run.
func (r *run) begin(ctx context.Context) {
	for !r.hold.on && r.busy < r.o.cfg.Concurrency && len(r.ready) > 0 {
		l := r.ready[0]
		r.ready = r.ready[1:]
		r.busy++
		l.begun = true
		go r.work(ctx, l, l.queue[0].msg, r.o.handled.get(l.prefix))
	}
}

// work handles the first command of a lane, unless its version is not above the one handled last.
func (r *run) work(ctx context.Context, l *lane, msg jetstream.Msg, handled uint64) {
	out := outcome{lane: l}
	record, err := recourse.DecodeRecord(msg.Data())
	switch {
	case err != nil: // written by a later version, most likely: it waits for an orchestrator that knows it
		out.err = fmt.Errorf("command on %s: %w", msg.Subject(), err)
	case record.Subject() != msg.Subject():
		out.err = fmt.Errorf("command on %s: the record is one for %s", msg.Subject(), record.Subject())
	default:
		if out.version = record.Version; out.version > handled {
			if err := r.handle(extractTrace(ctx, msg.Headers()), record); err != nil {
				out.err = fmt.Errorf("command %s of %s, version %d: %w", record.Command.Verb, record.Ref, record.Version, err)
			}
		}
	}
	if out.err != nil && ctx.Err() == nil {
		r.o.cfg.OnError(out.err)
	}
	r.done <- out
}

// settle acknowledges the first command of a lane, or has it handled again later.
func (r *run) settle(ctx context.Context, out outcome) {
	r.busy--
	l := out.lane
	if out.err != nil {
		delay := r.o.cfg.RetryDelay << min(l.tries, 32)
		if delay <= 0 || delay > MaxRetryDelay {
			delay = max(MaxRetryDelay, r.o.cfg.RetryDelay)
		}
		l.tries++
		if ctx.Err() == nil {
			l.retries = time.AfterFunc(delay, func() {
				select {
				case r.wake <- l:
				case <-r.over:
				}
			})
		}
		return
	}
	r.o.handled.put(l.prefix, out.version)
	c := l.queue[0]
	r.acked++
	_ = c.msg.Ack() // where it is lost, the command comes again and its version is known
	delete(r.given, c.sequence)
	l.queue[0] = nil
	l.queue, l.active, l.begun, l.tries = l.queue[1:], false, false, 0
	if len(l.queue) == 0 {
		delete(r.lanes, l.prefix)
	}
	r.activate(l)
}

func (r *run) startHold() {
	from := r.next
	if r.hold.on {
		from = r.hold.from
	}
	r.hold = hold{
		on: true, number: r.hold.number + 1, from: from, until: time.Now().Add(r.binding.ackWait + holdGrace),
		pause: firstPoll, poll: time.After(0),
	}
}

// pollHold asks how many commands the broker counts as given out.
func (r *run) pollHold(ctx context.Context) {
	r.hold.poll = nil
	consumer, answer := r.binding.Consumer, count{hold: r.hold.number, arrived: len(r.given), acked: r.acked, given: -1}
	go func() {
		ctx, cancel := bounded(ctx)
		defer cancel()
		if info, err := consumer.Info(ctx); err == nil {
			answer.given = info.NumAckPending
		}
		select {
		case r.counted <- answer:
		case <-r.over:
		}
	}()
}

// checkHold ends the hold where all that was given out is here, or had the time to come again.
func (r *run) checkHold(answer count) {
	if !r.hold.on || answer.hold != r.hold.number {
		return
	}
	// The broker may have left out of its count what was acknowledged meanwhile.
	missing := answer.given + r.acked - answer.acked - answer.arrived
	if answer.given >= 0 && missing <= 0 || time.Now().After(r.hold.until) {
		r.hold = hold{number: r.hold.number}
		return
	}
	r.hold.poll = time.After(r.hold.pause)
	r.hold.pause = min(2*r.hold.pause, longestPoll)
}

// resume returns where a new consumer must begin so that nothing is left out.
func (r *run) resume() uint64 {
	from := r.next
	if r.hold.on {
		from = r.hold.from
	}
	for sequence := range r.given {
		from = min(from, sequence)
	}
	return from
}

// pull passes on what the consumer delivers, until ctx ends or the consumer is lost.
func (r *run) pull(ctx context.Context) {
	err := r.pullOnce(ctx, r.binding)
	select {
	case r.pulled <- err:
	case <-r.over:
	}
}

func (r *run) pullOnce(ctx context.Context, b binding) error {
	nc := r.o.sender.nc
	messages, err := b.Messages(jetstream.PullMaxMessages(r.o.cfg.Concurrency), jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return lost(ctx, nc, err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		switch {
		case err == nil:
			r.arrived <- msg
		case ctx.Err() != nil:
			return r.drain(messages)
		case errors.Is(err, jetstream.ErrNoHeartbeat) && nc.Status() != nats.CLOSED:
			// Disconnected, or the consumer is gone; the pull goes on by itself in the first case.
			if !r.gone(ctx, b) {
				continue
			}
			return lost(ctx, nc, err)
		default:
			return lost(ctx, nc, err)
		}
	}
}

// drain passes on what is in the buffer, so that it is given back instead of waiting for AckWait.
func (r *run) drain(messages jetstream.MessagesContext) error {
	messages.Drain()
	for {
		msg, err := messages.Next(jetstream.NextMaxWait(cleanupLimit))
		if err != nil {
			return context.Canceled
		}
		r.arrived <- msg
	}
}

// gone reports whether the broker does not know the consumer any more.
func (r *run) gone(ctx context.Context, b binding) bool {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := b.Info(ctx)
	return errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
}

// rebind replaces a lost consumer, and does not give up before ctx ends.
func (r *run) rebind(ctx context.Context, from uint64) {
	var b binding
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, longestPause) {
		var err error
		if b, err = r.o.bind(ctx, from); err == nil {
			break
		}
		if ctx.Err() == nil {
			r.o.cfg.OnError(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	r.rebound <- b
}

// finish gives back what was not handled, and removes a consumer that nobody will come back to.
func (r *run) finish() {
	close(r.over)
	for _, l := range r.lanes {
		if l.retries != nil {
			l.retries.Stop()
		}
	}
	for _, c := range r.given {
		_ = c.msg.Nak() // in vain while disconnected; then AckWait gives it back
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupLimit)
	defer cancel()
	if r.o.cfg.Durable == "" {
		_ = r.o.sender.js.DeleteConsumer(ctx, recourse.StreamJournal, r.binding.CachedInfo().Name)
	}
	_ = r.o.sender.nc.FlushWithContext(ctx)
}
