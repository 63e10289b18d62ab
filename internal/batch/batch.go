// Package batch publishes messages of one stream together: while some are on their way to the server, others wait, and then go out in one
// atomic batch. It pays where the server brings each message to the disk before it acknowledges, and brings a batch there with one flush
// (docs/adr/0006-group-commit.md).
//
// Guarantees: a message is stored at most once. Each has its own expectation, and of a batch all messages or none are stored; where none
// is, each is published singly, which sorts out whose expectation was wrong. Where it is not known whether a batch is stored, that is so
// for each of its messages. A message that nothing is on its way with goes out at once. It knows nothing of what it publishes.
package batch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse/internal/puback"
)

// The codes of a refusal that concerns this batch alone.
const (
	codeWrongLastSequence = 10071 // the expectation of a message does not hold
	codeAnotherInFlight   = 10164 // another message with the same expectation is in flight
	codeIncomplete        = 10176 // the server has not got, or not kept, all of it: it was restarted, or has too many batches in hand
)

// The headers of a message of an atomic batch.
const (
	headerID       = "Nats-Batch-Id"
	headerSequence = "Nats-Batch-Sequence" // from 1
	headerCommit   = "Nats-Batch-Commit"   // of the last one
)

// A batch costs the server some milliseconds however small it is, and a single message a flush of the disk.
const (
	// least is from where on a batch is quicker than as many messages.
	least = 16
	// mostSingles is how many messages are in flight singly before others wait for a batch.
	mostSingles = 16
	// most bounds a batch, as does mostBytes. A server takes 1,000 messages unless its limits are changed.
	most      = 512
	mostBytes = 8 << 20
	// Without batches for so long: after a refusal of a batch of the least size, and after one that every batch would get.
	pauseSmall   = 100 * time.Millisecond // the first time; twice as long each time after it
	pauseMost    = 5 * time.Second        // the longest of these: workers that share executions refuse nearly each batch
	pauseRefused = time.Minute
)

// Publisher publishes to one stream. It is safe for concurrent use.
type Publisher struct {
	nc     *nats.Conn
	stored *puback.Publisher
	name   string // in the ids of its batches; "" publishes all singly

	mu      sync.Mutex
	waiting []*waiting
	singles int // in flight
	flying  bool
	limit   int           // of the next batch: halved by a refusal, doubled by a success
	paused  time.Time     // until when there are no batches
	pause   time.Duration // the last one for a batch of the least size; 0 after a success
	batches uint64
}

// waiting is a message that waits for its turn.
type waiting struct {
	key  string
	msg  *nats.Msg
	turn chan turn     // has room for the one there is
	sent chan struct{} // closed once its batch is sent; nil before it is in one
	left bool          // nobody waits any more
}

// turn is what became of a message that waited: its batch was answered, or it is to go out alone.
type turn struct {
	alone    bool
	sequence uint64
	err      error
}

// New returns a publisher. The stream should allow atomic batches; where it does not, all goes out singly. What goes out singly,
// and the end of each batch, does so by stored, which is on nc.
func New(nc *nats.Conn, stored *puback.Publisher) *Publisher {
	return &Publisher{nc: nc, stored: stored, name: rand.Text(), limit: most}
}

// Singly returns a publisher that makes no batches.
func Singly(stored *puback.Publisher) *Publisher { return &Publisher{stored: stored} }

// Publish publishes a message, and returns its sequence once it is stored. Messages with the same key never are in one batch: two that
// expect the same would both be stored, since a server compares with what was there before the batch. The headers of the message are
// changed; nobody looks at it any more when Publish returns. Errors are those of [puback.Pending.Wait], and puback.ErrNotSent.
func (p *Publisher) Publish(ctx context.Context, key string, msg *nats.Msg) (uint64, error) {
	if p.name == "" {
		return p.stored.Publish(ctx, msg)
	}
	p.mu.Lock()
	if len(p.waiting) == 0 && !p.flying && p.singles < mostSingles || time.Now().Before(p.paused) {
		p.singles++
		p.mu.Unlock()
		return p.alone(ctx, msg)
	}
	w := &waiting{key: key, msg: msg, turn: make(chan turn, 1)}
	p.waiting = append(p.waiting, w)
	p.mu.Unlock()
	select {
	case t := <-w.turn:
		if t.alone {
			for _, name := range [...]string{headerID, headerSequence, headerCommit} {
				delete(msg.Header, name)
			}
			return p.alone(ctx, msg)
		}
		return t.sequence, t.err
	case <-ctx.Done():
		p.leave(w)
		return 0, ctx.Err()
	}
}

// alone publishes singly. Its place among the singles is taken already.
func (p *Publisher) alone(ctx context.Context, msg *nats.Msg) (uint64, error) {
	sequence, err := p.stored.Publish(ctx, msg)
	p.mu.Lock()
	p.singles--
	p.next()
	p.mu.Unlock()
	return sequence, err
}

// leave gives up waiting. The message is not touched after it returns.
func (p *Publisher) leave(w *waiting) {
	p.mu.Lock()
	w.left = true
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	select {
	case t := <-w.turn:
		if t.alone { // for somebody else then
			p.singles--
			p.next()
		}
	default:
	}
	p.mu.Unlock()
	if w.sent != nil {
		<-w.sent
	}
}

// give ends a wait. The lock is held.
func (p *Publisher) give(w *waiting, t turn) {
	if w.left {
		return
	}
	if t.alone {
		p.singles++
	}
	w.turn <- t
}

// next lets those go that need wait no longer. The lock is held.
func (p *Publisher) next() {
	if p.flying {
		return
	}
	paused := time.Now().Before(p.paused)
	if !paused {
		if batch := p.take(); batch != nil {
			p.flying = true
			p.batches++
			go p.fly(batch, p.name+"-"+strconv.FormatUint(p.batches, 10))
			return
		}
	}
	for len(p.waiting) > 0 && (paused || p.singles < mostSingles) {
		p.give(p.waiting[0], turn{alone: true})
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// take takes the next batch from those that wait, the first ones and one of each key; nil where there are too few. The lock is held.
func (p *Publisher) take() []*waiting {
	if len(p.waiting) < least {
		return nil
	}
	batch, rest := make([]*waiting, 0, min(len(p.waiting), p.limit)), []*waiting(nil)
	keys := make(map[string]struct{}, cap(batch))
	bytes := 0
	for _, w := range p.waiting {
		_, twice := keys[w.key]
		if twice || len(batch) == p.limit || bytes > mostBytes {
			rest = append(rest, w)
			continue
		}
		keys[w.key] = struct{}{}
		batch = append(batch, w)
		bytes += len(w.msg.Data)
	}
	if len(batch) < least {
		return nil
	}
	p.waiting = rest
	sent := make(chan struct{})
	for _, w := range batch {
		w.sent = sent
	}
	return batch
}

// fly brings a batch to the server and tells each what became of it.
func (p *Publisher) fly(batch []*waiting, id string) {
	last, err := p.send(batch, id)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying = false
	var api *jetstream.APIError
	switch {
	case err == nil:
		p.limit, p.pause = min(2*p.limit, most), 0
	case errors.As(err, &api):
		p.refused(api)
	}
	for i, w := range batch {
		switch {
		case err == nil:
			// They are stored one after another.
			p.give(w, turn{sequence: last - uint64(len(batch)-1-i)})
		case api != nil:
			p.give(w, turn{alone: true})
		default:
			p.give(w, turn{err: err})
		}
	}
	p.next()
}

// refused makes the next batches smaller or ends them for a while. The lock is held.
func (p *Publisher) refused(why *jetstream.APIError) {
	switch why.ErrorCode {
	case codeWrongLastSequence, codeAnotherInFlight, codeIncomplete:
		if p.limit == least {
			p.pause = min(max(2*p.pause, pauseSmall), pauseMost)
			p.paused = time.Now().Add(p.pause)
		}
		p.limit = max(p.limit/2, least)
	default:
		p.paused = time.Now().Add(pauseRefused) // the stream takes none, or the server fewer at once
	}
}

// send publishes a batch, and returns the sequence of its last message once all are stored.
func (p *Publisher) send(batch []*waiting, id string) (uint64, error) {
	sent := batch[0].sent
	last, err := p.sendAll(batch, id)
	close(sent)
	if err != nil {
		return 0, err
	}
	return last.Wait(context.Background()) // which is bounded
}

// sendAll sends the messages of a batch. Only its last message is answered: the server keeps the others for it, up to 10s unless that is changed.
func (p *Publisher) sendAll(batch []*waiting, id string) (puback.Pending, error) {
	for i, w := range batch {
		w.msg.Header[headerID] = []string{id}
		w.msg.Header[headerSequence] = []string{strconv.Itoa(i + 1)}
		if i == len(batch)-1 {
			w.msg.Header[headerCommit] = []string{"1"}
			return p.stored.Send(w.msg)
		}
		if err := p.nc.PublishMsg(w.msg); err != nil {
			return puback.Pending{}, fmt.Errorf("%w: %w", puback.ErrNotSent, err)
		}
	}
	panic("unreachable: a batch has messages")
}
