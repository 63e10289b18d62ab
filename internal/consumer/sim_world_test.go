package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/integration/invariant"
	"github.com/recourse-dev/recourse/internal/consumer"
	"github.com/recourse-dev/recourse/internal/decide"
)

// world is the broker of a simulation: streams, schedules and what goes wrong with them. What goes wrong is drawn from the seed, the
// operation and how often it was asked for the same thing, so that it does not depend on which goroutine comes first.
type world struct {
	seed   uint64
	mutant mutant

	mu       sync.Mutex
	drawn    map[string]int
	healed   bool
	busy     int // things that are on their way: delayed appends, inputs not published yet
	inbox    queue
	due      queue
	journal  []invariant.Message
	rejected []invariant.Message
	chains   map[string][]*stored // records by prefix
	waits    map[string][]recourse.Wait
	schedule map[string]int // generation by prefix and version
	changed  chan struct{}  // closed and replaced where a queue changed
	faults   map[string]int // how often each fault was met
	appended func(rec *recourse.Record)
}

// stored is a record with its place in the stream.
type stored struct {
	sequence uint64
	body     []byte
}

// queue is a durable consumer and its stream.
type queue struct {
	name     string
	messages []*queued
}

type queued struct {
	sequence  uint64
	subject   string
	header    nats.Header
	data      []byte
	stored    time.Time
	ready     time.Time // when it may be delivered
	delivered uint64
	done      bool
}

// mutant breaks workers or broker on purpose, so that the checker can be seen to notice.
type mutant uint8

const (
	sound        mutant = iota
	noCAS               // appends do not compare with the last sequence
	ackFirst            // messages are acknowledged when they are delivered
	noSweeper           // lost schedules are not armed again
	firesEarly          // a worker takes hints before their time
	ignoresAbort        // the end of an execution is forgotten
	appendsTwice        // an unknown outcome is taken for a failure by the broker: it stores once more
)

var errInjected = errors.New("injected")

func newWorld(seed uint64, m mutant) *world {
	return &world{
		seed: seed, mutant: m, drawn: map[string]int{}, inbox: queue{name: recourse.StreamInbox}, due: queue{name: recourse.StreamTimers},
		chains: map[string][]*stored{}, waits: map[string][]recourse.Wait{}, schedule: map[string]int{}, changed: make(chan struct{}), faults: map[string]int{},
	}
}

// draw returns a number that depends on seed, operation and how often it was drawn.
func (w *world) draw(op string) uint64 {
	w.mu.Lock()
	n := w.drawn[op]
	w.drawn[op]++
	w.mu.Unlock()
	h := fnv.New64a()
	fmt.Fprintf(h, "%d|%s|%d", w.seed, op, n)
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// chance is true in percent of the cases, and never once the world is healed.
func (w *world) chance(percent uint64, op string) bool {
	hit := w.draw(op)%1000 < percent*10
	w.mu.Lock()
	defer w.mu.Unlock()
	if hit && !w.healed {
		w.faults[op[:min(len(op), 5)]]++
		return true
	}
	return false
}

// between draws a duration.
func (w *world) between(low, high time.Duration, op string) time.Duration {
	return low + time.Duration(w.draw(op)%uint64(high-low))
}

// later does something after a while; the world is not quiet before.
func (w *world) later(after time.Duration, do func()) {
	w.mu.Lock()
	w.busy++
	w.mu.Unlock()
	go func() {
		time.Sleep(after)
		do()
		w.mu.Lock()
		w.busy--
		w.mu.Unlock()
	}()
}

func (w *world) put(q *queue, subject string, header nats.Header, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	q.messages = append(q.messages, &queued{
		sequence: uint64(len(q.messages) + 1), subject: subject, header: header, data: data, stored: now, ready: now,
	})
	w.wake()
}

func (w *world) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// append stores a record where the chain stands as expected.
func (w *world) append(prefix string, rec *recourse.Record, expected uint64, body []byte, header nats.Header) (uint64, error) {
	w.mu.Lock()
	chain := w.chains[prefix]
	last := uint64(0)
	if len(chain) > 0 {
		last = chain[len(chain)-1].sequence
	}
	if last != expected && w.mutant != noCAS && w.mutant != appendsTwice {
		w.mu.Unlock()
		return 0, decide.ErrConflict
	}
	sequence := uint64(len(w.journal) + 1)
	w.journal = append(w.journal, invariant.Message{Sequence: sequence, Subject: rec.SubjectUnder(prefix), Header: header, Data: body, Stored: time.Now()})
	w.chains[prefix] = append(chain, &stored{sequence, body})
	w.waits[prefix] = rec.State.Waits // the states here are too small to be left out
	w.mu.Unlock()
	w.appended(rec)
	return sequence, nil
}

// head reads where a chain stands, the last skip records left out: a replica that lags.
func (w *world) head(prefix string, skip int) (*decide.Head, error) {
	w.mu.Lock()
	chain := slices.Clone(w.chains[prefix])
	w.mu.Unlock()
	chain = chain[:max(len(chain)-skip, 0)]
	head := new(decide.Head)
	if len(chain) == 0 {
		return head, nil
	}
	last := chain[len(chain)-1]
	var since []*recourse.Record
	for i := len(chain) - 1; i >= 0; i-- {
		rec, err := recourse.DecodeRecord(chain[i].body)
		if err != nil {
			return nil, err
		}
		if i == len(chain)-1 {
			head.Ref, head.Version, head.Sequence = rec.Ref, rec.Version, last.sequence
		}
		if rec.State != nil {
			head.State, head.Base = *rec.State, chain[i].sequence
			break
		}
		since = append(since, rec)
	}
	for _, rec := range slices.Backward(since) {
		decide.Fold(&head.State, rec)
	}
	if w.mutant == ignoresAbort {
		head.State.Covers, head.State.Ended = nil, nil
	}
	return head, nil
}

func timerKey(prefix string, version uint64) string {
	return prefix + "/" + strconv.FormatUint(version, 10)
}

// arm schedules a due message; the schedule may be lost, late, early or fire twice.
func (w *world) arm(prefix string, version uint64, dueAt time.Time) {
	key := timerKey(prefix, version)
	w.mu.Lock()
	w.schedule[key]++
	generation := w.schedule[key]
	w.mu.Unlock()
	if w.chance(10, "timer lost "+key) {
		return
	}
	at := dueAt
	switch {
	case w.chance(10, "timer late "+key):
		at = at.Add(w.between(0, time.Minute, "late "+key))
	case w.chance(10, "timer early "+key):
		at = at.Add(-w.between(0, 5*time.Second, "early "+key))
	}
	fire := func() {
		w.mu.Lock()
		armed := w.schedule[key] == generation
		w.mu.Unlock()
		if armed {
			w.put(&w.due, recourse.SubjectUnder(prefix, recourse.FamilyDue, recourse.VersionDetail(version)), nats.Header{}, nil)
		}
	}
	time.AfterFunc(time.Until(at), func() {
		fire()
		if w.chance(10, "timer twice "+key) {
			time.AfterFunc(w.between(0, 10*time.Second, "again "+key), fire)
		}
	})
}

func (w *world) cancel(prefix string, version uint64) {
	w.mu.Lock()
	w.schedule[timerKey(prefix, version)]++
	w.mu.Unlock()
	w.put(&w.due, recourse.SubjectUnder(prefix, recourse.FamilyDue, recourse.VersionDetail(version)), nats.Header{recourse.HeaderCancelled: {"true"}}, nil)
}

// pending returns the waits by execution.
func (w *world) pending() map[string][]recourse.Wait {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.waits)
}

// quiet reports whether nothing is on its way, nothing is undecided and nothing waits.
func (w *world) quiet() bool {
	w.mu.Lock()
	open := w.busy > 0
	for _, q := range []*queue{&w.inbox, &w.due} {
		open = open || slices.ContainsFunc(q.messages, func(m *queued) bool { return !m.done })
	}
	w.mu.Unlock()
	for _, waits := range w.pending() {
		open = open || len(waits) > 0
	}
	return !open
}

// machine is a worker's view of the world: its connection, which may be slow, lose answers, or end with the worker.
type machine struct {
	*world
	name    string
	ackWait time.Duration
	skew    time.Duration
	crash   func() // ends the worker where it stands

	mu     sync.Mutex
	dead   bool
	paused time.Time
	heads  map[string]*decide.Head
}

func (m *machine) now() time.Time { return time.Now().Add(m.skew) }

func (m *machine) alive() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.dead
}

func (m *machine) kill() {
	m.mu.Lock()
	m.dead = true
	m.mu.Unlock()
	m.crash()
}

// before is what every call goes through on its way to the broker: a little time, a pause of the whole worker, a crash.
func (m *machine) before(op string) error {
	m.mu.Lock()
	paused := time.Until(m.paused)
	m.mu.Unlock()
	time.Sleep(max(paused, 0) + m.between(time.Microsecond, 5*time.Millisecond, "time "+op))
	if m.chance(1, "pause "+op) {
		m.mu.Lock()
		m.paused = time.Now().Add(m.between(0, 3*m.ackWait, "paused "+op))
		paused = time.Until(m.paused)
		m.mu.Unlock()
		time.Sleep(paused)
	}
	if m.chance(2, "crash before "+op) {
		m.kill()
	}
	if !m.alive() {
		return errInjected
	}
	if m.chance(3, "error "+op) {
		return errInjected // refused; nothing was done
	}
	return nil
}

// after is the way back: the answer may be lost, or the worker gone.
func (m *machine) after(op string) error {
	if m.chance(2, "after crash "+op) {
		m.kill()
	}
	if !m.alive() || m.chance(4, "reply lost "+op) {
		return errInjected
	}
	return nil
}

// Head implements consumer.Journal.
func (m *machine) Head(ctx context.Context, prefix string, assumeNew bool) (*decide.Head, error) {
	m.mu.Lock()
	head := m.heads[prefix]
	delete(m.heads, prefix)
	m.mu.Unlock()
	if head != nil {
		return head, nil
	}
	if assumeNew {
		return new(decide.Head), nil
	}
	return m.Load(ctx, prefix)
}

// Keep implements consumer.Journal.
func (m *machine) Keep(prefix string, head *decide.Head) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heads[prefix] = head
}

// Load implements consumer.Journal.
func (m *machine) Load(_ context.Context, prefix string) (*decide.Head, error) {
	op := "load " + prefix
	if err := m.before(op); err != nil {
		return nil, err
	}
	skip := 0
	if m.chance(5, "stale "+op) {
		skip = 1
	}
	head, err := m.head(prefix, skip)
	return head, errors.Join(err, m.after(op))
}

// Append implements consumer.Journal.
func (m *machine) Append(_ context.Context, prefix string, rec *recourse.Record, body []byte, header nats.Header) (uint64, error) {
	op := fmt.Sprintf("append %s %d %s", prefix, rec.Version, rec.Input.Key)
	if err := m.before(op); err != nil {
		return 0, err
	}
	// What happens later must not see memory that the worker uses again.
	header = maps.Clone(header)
	header.Set(recourse.HeaderVersion, strconv.FormatUint(rec.Version, 10))
	kept, expected, body := copyOf(body), rec.Previous, slices.Clone(body)
	if m.chance(4, "slow "+op) {
		// The answer does not come in time, and the append is carried out after that, or never.
		if m.chance(70, "slow executed "+op) {
			m.later(m.between(0, 20*time.Second, "slow "+op), func() { _, _ = m.append(prefix, kept, expected, body, header) })
		}
		time.Sleep(5 * time.Second)
		return 0, decide.ErrUnknownOutcome
	}
	sequence, err := m.append(prefix, kept, expected, body, header)
	if err != nil {
		return 0, err
	}
	if err := m.after(op); err != nil {
		if m.mutant == appendsTwice {
			_, _ = m.append(prefix, kept, expected, body, header)
		}
		return 0, decide.ErrUnknownOutcome
	}
	return sequence, nil
}

func copyOf(body []byte) *recourse.Record {
	rec, err := recourse.DecodeRecord(body)
	if err != nil {
		panic(err)
	}
	return rec
}

// Reject implements consumer.Journal.
func (m *machine) Reject(_ context.Context, input jetstream.Msg, sequence uint64, reason recourse.DecodeReason, _ error) error {
	op := "reject " + strconv.FormatUint(sequence, 10)
	if err := m.before(op); err != nil {
		return err
	}
	m.world.mu.Lock()
	id := strconv.FormatUint(sequence, 10)
	if !slices.ContainsFunc(m.rejected, func(r invariant.Message) bool { return r.Header["Recourse-Sequence"][0] == id }) { // by message id
		m.rejected = append(m.rejected, invariant.Message{
			Subject: input.Subject() + "." + string(reason), Data: input.Data(),
			Header: map[string][]string{"Recourse-Sequence": {id}, "Recourse-Subject": {input.Subject()}},
		})
	}
	m.world.mu.Unlock()
	return m.after(op)
}

// Arm implements consumer.Timers.
func (m *machine) Arm(_ context.Context, prefix string, version uint64, dueAt time.Time, _ nats.Header) error {
	op := "arm " + timerKey(prefix, version)
	if err := m.before(op); err != nil {
		return err
	}
	m.arm(prefix, version, dueAt)
	return m.after(op)
}

// Over implements consumer.Timers. It needs nothing: the sweeper of this world asks about every wait.
func (m *machine) Over(string, uint64) {}

// Cancel implements consumer.Timers.
func (m *machine) Cancel(_ context.Context, prefix string, version uint64) error {
	op := "cancel " + timerKey(prefix, version)
	if err := m.before(op); err != nil {
		return err
	}
	m.cancel(prefix, version)
	return m.after(op)
}

// Pipeline implements consumer.Pipelines: the pipeline is registered one second after the world began, and again with other
// strategies three seconds later.
func (m *machine) Pipeline(_ context.Context, ref recourse.Ref, pinned uint64) (decide.Pipeline, error) {
	if err := m.before("pipeline " + ref.Execution); err != nil {
		return decide.Pipeline{}, err
	}
	revision := pinned
	if since := time.Since(epoch); pinned == 0 && since >= 4*time.Second {
		revision = 2
	} else if pinned == 0 && since >= time.Second {
		revision = 1
	}
	if revision == 0 {
		return decide.Pipeline{}, nil
	}
	return decide.Pipeline{Plan: plans[revision], Revision: recourse.PipelineRevision{Revision: revision, Digest: "d" + strconv.FormatUint(revision, 10)}}, nil
}

// source is the pull of one queue by one machine.
type source struct {
	*machine
	queue *queue
}

// Pull implements consumer.Source.
func (s source) Pull(int) (consumer.Messages, error) {
	return &pulling{source: s, stopped: make(chan struct{})}, nil
}

type pulling struct {
	source
	once    sync.Once
	stopped chan struct{}
}

// Stop implements consumer.Messages.
func (p *pulling) Stop() { p.once.Do(func() { close(p.stopped) }) }

// Next implements consumer.Messages.
func (p *pulling) Next() (jetstream.Msg, error) {
	for {
		select {
		case <-p.stopped:
			return nil, jetstream.ErrMsgIteratorClosed
		default:
		}
		if !p.alive() {
			return nil, jetstream.ErrMsgIteratorClosed
		}
		p.machine.mu.Lock()
		paused := time.Until(p.paused)
		p.machine.mu.Unlock()
		if paused > 0 {
			time.Sleep(paused)
			continue
		}
		w := p.world
		w.mu.Lock()
		changed, now := w.changed, time.Now()
		next := now.Add(time.Hour)
		var found *queued
		for _, m := range p.queue.messages {
			if m.done {
				continue
			}
			if !m.ready.After(now) {
				found = m
				break
			}
			if m.ready.Before(next) {
				next = m.ready
			}
		}
		if found != nil {
			found.delivered++
			found.ready = now.Add(p.ackWait)
			found.done = w.mutant == ackFirst
			msg := &delivery{machine: p.machine, queue: p.queue, queued: found, delivered: found.delivered}
			w.mu.Unlock()
			if w.chance(5, fmt.Sprintf("twice %s %d", p.queue.name, found.sequence)) {
				w.mu.Lock()
				found.ready = now.Add(time.Millisecond)
				w.mu.Unlock()
			}
			return msg, nil
		}
		w.mu.Unlock()
		timer := time.NewTimer(time.Until(next))
		select {
		case <-changed:
		case <-timer.C:
		case <-p.stopped:
		}
		timer.Stop()
	}
}

// delivery is one delivery of a message.
type delivery struct {
	*machine
	queue     *queue
	queued    *queued
	delivered uint64
}

func (d *delivery) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{
		Sequence: jetstream.SequencePair{Stream: d.queued.sequence}, NumDelivered: d.delivered, Timestamp: d.queued.stored, Stream: d.queue.name,
	}, nil
}
func (d *delivery) Data() []byte         { return d.queued.data }
func (d *delivery) Headers() nats.Header { return d.queued.header }
func (d *delivery) Subject() string      { return d.queued.subject }
func (d *delivery) Reply() string        { return "" }

// settle changes the message, unless the word is lost on the way. Nobody learns whether it was.
func (d *delivery) settle(how string, change func(*queued)) error {
	op := fmt.Sprintf("%s %s %d", how, d.queue.name, d.queued.sequence)
	if err := d.before(op); err != nil {
		return err
	}
	if !d.chance(5, "lost "+op) {
		d.world.mu.Lock()
		change(d.queued)
		d.wake()
		d.world.mu.Unlock()
	}
	return nil
}

func done(q *queued) { q.done = true }

func (d *delivery) Ack() error                      { return d.settle("ack", done) }
func (d *delivery) DoubleAck(context.Context) error { return d.settle("ack", done) }
func (d *delivery) Term() error                     { return d.settle("term", done) }
func (d *delivery) TermWithReason(string) error     { return d.settle("term", done) }
func (d *delivery) Nak() error                      { return d.NakWithDelay(0) }

func (d *delivery) NakWithDelay(delay time.Duration) error {
	return d.settle("nak", func(q *queued) {
		if !q.done {
			q.ready = time.Now().Add(delay)
		}
	})
}

func (d *delivery) InProgress() error {
	d.machine.mu.Lock()
	silent := d.dead || time.Now().Before(d.paused)
	d.machine.mu.Unlock()
	if silent {
		return errInjected
	}
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if q := d.queued; !q.done && q.delivered == d.delivered {
		q.ready = time.Now().Add(d.ackWait)
	}
	return nil
}
