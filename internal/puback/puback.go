// Package puback publishes messages to streams and waits for each until the stream has stored it, many at once. It does what the client
// library's asynchronous publishing does, for a caller that waits anyway: without a future, channels, a timer and a reflecting decoder for
// each message, which took a tenth of a worker's time.
//
// It does not retry: whoever publishes knows whether a message may be stored twice.
package puback

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrNotSent says that a message did not leave: it is not stored.
var ErrNotSent = errors.New("not sent")

// ErrTimeout says that the stream did not answer in time: whether it stored the message is not known.
var ErrTimeout = errors.New("the stream did not answer in time")

// Publisher publishes on a connection, until that is closed. It is safe for concurrent use.
type Publisher struct {
	nc      *nats.Conn
	timeout time.Duration
	replies string // subject of the answers, up to the last token

	mu    sync.Mutex
	slots []*slot
	free  []*slot
}

// slot is the place of one message that waits for its answer.
type slot struct {
	index    uint64
	answered chan answer // one at the most: for each use of the slot, whoever clears its id sends
	// Under the publisher's lock:
	id    uint64 // of the message; 0 while nobody waits
	uses  uint64
	since time.Time
}

type answer struct {
	sequence uint64
	err      error
}

// maxSlots bounds the messages that wait at once; beyond it Publish fails. A worker has as many as lanes.
const maxSlots = 1 << 16

// New returns a publisher that gives a stream as long to answer as timeout, up to an eighth longer.
func New(nc *nats.Conn, timeout time.Duration) (*Publisher, error) {
	p := &Publisher{nc: nc, timeout: timeout, replies: nc.NewInbox() + "."}
	if _, err := nc.Subscribe(p.replies+"*", p.receive); err != nil {
		return nil, fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	go p.watch(nc.StatusChanged(nats.RECONNECTING, nats.CLOSED))
	return p, nil
}

// Publish publishes a message and returns its sequence in the stream that stored it: [Publisher.Send] and [Pending.Wait].
func (p *Publisher) Publish(ctx context.Context, msg *nats.Msg) (sequence uint64, err error) {
	pending, err := p.Send(msg)
	if err != nil {
		return 0, err
	}
	return pending.Wait(ctx)
}

// Pending is a message that was sent; one call of Wait is required.
type Pending struct {
	p  *Publisher
	s  *slot
	id uint64
}

// Send sends a message, which needs no reply subject; it gets one. Nobody looks at it any more when Send returns. An error is [ErrNotSent].
func (p *Publisher) Send(msg *nats.Msg) (Pending, error) {
	s, id, err := p.take()
	if err != nil {
		return Pending{}, err
	}
	msg.Reply = p.replies + strconv.FormatUint(id, 10)
	if err := p.nc.PublishMsg(msg); err != nil {
		p.resolve(id, answer{}) // or it is resolved already, since the connection is lost
		<-s.answered
		p.release(s)
		return Pending{}, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return Pending{p, s, id}, nil
}

// Wait waits until the message is stored, and returns its sequence. An error is a *[jetstream.APIError] where the stream refused the
// message. With jetstream.ErrNoStreamResponse nobody was there to store it. After [ErrTimeout], nats.ErrDisconnected,
// nats.ErrConnectionClosed and the error of ctx it may be stored or not.
func (w Pending) Wait(ctx context.Context) (sequence uint64, err error) {
	var a answer
	select {
	case a = <-w.s.answered:
	case <-ctx.Done():
		w.p.resolve(w.id, answer{err: ctx.Err()}) // unless it was answered just now
		a = <-w.s.answered
	}
	w.p.release(w.s)
	return a.sequence, a.err
}

func (p *Publisher) release(s *slot) {
	p.mu.Lock()
	p.free = append(p.free, s)
	p.mu.Unlock()
}

// take returns a slot and the id of the message in it. An id is never used twice, so that a late answer reaches nobody else.
func (p *Publisher) take() (*slot, uint64, error) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	var s *slot
	if n := len(p.free); n > 0 {
		s, p.free = p.free[n-1], p.free[:n-1]
	} else {
		if len(p.slots) == maxSlots {
			return nil, 0, fmt.Errorf("%w: %d messages wait for their acknowledgements", ErrNotSent, maxSlots)
		}
		s = &slot{index: uint64(len(p.slots)), answered: make(chan answer, 1)}
		p.slots = append(p.slots, s)
	}
	s.uses++
	s.id, s.since = s.uses*maxSlots+s.index, now
	return s, s.id, nil
}

// resolve answers the message with this id, unless it was answered before.
func (p *Publisher) resolve(id uint64, a answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if index := id % maxSlots; index < uint64(len(p.slots)) {
		p.slots[index].resolve(id, a)
	}
}

func (s *slot) resolve(id uint64, a answer) {
	if s.id == id && id != 0 {
		s.id = 0
		s.answered <- a
	}
}

// watch ends the wait for what is not answered in time, or was sent on a connection that was lost, until the connection is closed.
func (p *Publisher) watch(status chan nats.Status) {
	tick := time.NewTicker(max(p.timeout/8, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			p.mu.Lock()
			timeout := p.timeout
			p.mu.Unlock()
			p.expire(now.Add(-timeout), ErrTimeout)
		case to := <-status:
			if to == nats.CLOSED {
				p.nc.RemoveStatusListener(status)
				p.expire(time.Now(), nats.ErrConnectionClosed)
				return
			}
			p.expire(time.Now(), nats.ErrDisconnected)
		}
	}
}

// expire ends the wait for what was published until a time.
func (p *Publisher) expire(until time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.slots {
		if !s.since.After(until) {
			s.resolve(s.id, answer{err: err})
		}
	}
}

// receive takes an answer.
func (p *Publisher) receive(msg *nats.Msg) {
	id, err := strconv.ParseUint(strings.TrimPrefix(msg.Subject, p.replies), 10, 64)
	if err != nil {
		return // not ours
	}
	a := answer{}
	if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		a.err = jetstream.ErrNoStreamResponse
	} else {
		a.sequence, a.err = acknowledged(msg.Data)
	}
	p.resolve(id, a)
}

// acknowledged reads an acknowledgement. One that is as servers write it is read without reflection.
func acknowledged(data []byte) (sequence uint64, err error) {
	const stream, seq = `{"stream":"`, `","seq":`
	if rest, ok := bytes.CutPrefix(data, []byte(stream)); ok {
		if i := bytes.IndexByte(rest, '"'); i > 0 && bytes.HasPrefix(rest[i:], []byte(seq)) {
			rest = rest[i+len(seq):]
			for len(rest) > 0 && '0' <= rest[0] && rest[0] <= '9' && sequence < 1<<60 {
				sequence, rest = sequence*10+uint64(rest[0]-'0'), rest[1:]
			}
			if len(rest) == 1 && rest[0] == '}' && sequence > 0 {
				return sequence, nil
			}
		}
	}
	var ack struct {
		Stream   string              `json:"stream"`
		Sequence uint64              `json:"seq"`
		Error    *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(data, &ack); {
	case err != nil:
		return 0, fmt.Errorf("%w: %w", jetstream.ErrInvalidJSAck, err)
	case ack.Error != nil:
		return 0, ack.Error
	case ack.Stream == "":
		return 0, jetstream.ErrInvalidJSAck
	}
	return ack.Sequence, nil
}
