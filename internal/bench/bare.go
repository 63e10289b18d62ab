package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
)

// bareWindow is how many failures the bare loop has in hand, and how many it asks for ahead. A quarter of it is a tenth slower.
const bareWindow = 1024

// The codes with which a server refuses an append for its expected sequence: the chain ends elsewhere, which its text says, or another
// append is on its way.
const (
	codeWrongLastSequence = 10071
	codeAppendInFlight    = 10164
)

// Shape is what the records look like that the bare loop appends: like those of a worker on the same load.
type Shape struct {
	// Size is the bytes of a body.
	Size int `json:"size"`
	// Fresh is the part of the second and further records of an execution, from 0 to 1, that have a subject of their own, of which the
	// server keeps an index. Between 0 and 1 no difference in rate was to be seen beside the spread of the rounds.
	Fresh float64 `json:"fresh"`
}

// Bare is the bare loop: it pulls failures, appends one message for each, and acknowledges once that is stored, until ctx ends. ready is
// called when it pulls. It decodes nothing and decides nothing.
//
// Appends of one execution are chained as those of a worker are. It takes the last sequence of each from what it appended itself and,
// unless since is 0, from what others have appended from that sequence on, which it reads before it is ready. Where it is wrong, because
// another loop appended, the server says the right one, with which it appends again: unlike a worker it need not read.
//
// A failure whose execution has an append in flight waits without holding up the others. The limit is what this loop reaches, so it is
// kept generous: no body is looked at, the chains of all executions stay in memory, and nothing is armed for a record that waits.
func Bare(ctx context.Context, nc *nats.Conn, shape Shape, since uint64, ready func()) error {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxInFlight))
	if err != nil {
		return err
	}
	b := &bare{
		js: js, body: []byte(strings.Repeat("x", shape.Size)), fresh: shape.Fresh,
		chains: make(map[string]*chain), free: make(chan struct{}, bareWindow), window: make(chan appended, bareWindow), failed: make(chan struct{}),
	}
	if err := b.learn(ctx, since); err != nil {
		return err
	}
	consumer, err := js.Consumer(ctx, recourse.StreamInbox, broker.ConsumerInbox)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(bareWindow))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	b.stop = messages.Stop
	var confirming sync.WaitGroup
	confirming.Go(b.confirm)
	ready()
	for {
		msg, err := messages.Next()
		if err != nil {
			break // stopped
		}
		b.hold()
		b.take(msg)
	}
	for range bareWindow {
		b.hold() // until all in hand is done
	}
	close(b.window)
	confirming.Wait()
	return b.err
}

// bare is a running loop. Messages are in hand from a place in free on until they are acknowledged.
type bare struct {
	js   jetstream.JetStream
	body []byte
	stop func()
	free chan struct{}
	// window has what is on its way to the broker, in the order of the appends. It has room for all that is in hand.
	window chan appended
	failed chan struct{} // closed with the first error; nothing is appended after it

	mu     sync.Mutex // between what pulls and what confirms
	chains map[string]*chain
	fresh  float64
	owed   float64 // of a fresh subject
	err    error
}

// chain is where an execution stands.
type chain struct {
	last    uint64
	busy    bool            // an append is in flight
	waiting []jetstream.Msg // for that
}

type appended struct {
	msg    jetstream.Msg
	chain  *chain
	future jetstream.PubAckFuture
}

func (b *bare) chain(prefix string) *chain {
	c := b.chains[prefix]
	if c == nil {
		c = new(chain)
		b.chains[prefix] = c
	}
	return c
}

// learn reads where the chains stand.
func (b *bare) learn(ctx context.Context, since uint64) error {
	if since == 0 {
		return nil
	}
	return records(ctx, b.js, since, true, func(msg jetstream.Msg, prefix string) (bool, error) {
		meta, err := msg.Metadata()
		if err != nil {
			return false, err
		}
		b.chain(prefix).last = meta.Sequence.Stream
		return meta.NumPending > 0, nil
	})
}

// hold takes a place among what is in hand. After an error there is no need for one.
func (b *bare) hold() {
	select {
	case b.free <- struct{}{}:
	case <-b.failed:
	}
}

// take appends for a failure, or leaves that to whoever confirms the append of its execution that is in flight.
func (b *bare) take(msg jetstream.Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.chain(prefixOf(msg))
	if c.busy {
		c.waiting = append(c.waiting, msg)
		return
	}
	b.append(c, msg)
}

// prefixOf returns the subject prefix of a failure's execution.
func prefixOf(msg jetstream.Msg) string {
	subject := msg.Subject()
	return subject[:strings.LastIndex(subject, "."+string(recourse.FamilyFailure)+".")]
}

// append sends what is recorded for a failure. With a subject of its own it is named after the sequence it follows on, else like the first
// of its execution.
func (b *bare) append(c *chain, msg jetstream.Msg) {
	if b.err != nil {
		return
	}
	c.busy = true
	prefix, last := prefixOf(msg), strconv.FormatUint(c.last, 10)
	detail := "0"
	if c.last != 0 {
		if b.owed += b.fresh; b.owed >= 1 {
			b.owed--
			detail = last
		}
	}
	future, err := b.js.PublishMsgAsync(&nats.Msg{
		Subject: prefix + "." + string(recourse.FamilyCommand) + "." + detail,
		Header: nats.Header{
			jetstream.ExpectedLastSubjSeqHeader:     {last},
			jetstream.ExpectedLastSubjSeqSubjHeader: {prefix + ".>"},
			recourse.HeaderVersion:                  {"1"},
		},
		Data: b.body,
	}, jetstream.WithStallWait(time.Minute))
	if err != nil {
		b.give(err)
		return
	}
	b.window <- appended{msg, c, future}
}

// give gives up: what is in hand is left as it is.
func (b *bare) give(err error) {
	if b.err != nil {
		return
	}
	b.err = fmt.Errorf("bare loop: append: %w", err)
	close(b.failed)
	b.stop()
}

// confirm acknowledges what is stored, in the order of the appends.
func (b *bare) confirm() {
	for a := range b.window {
		select {
		case ack := <-a.future.Ok():
			_ = a.msg.Ack() // a lost one comes again, and the run does not end
			<-b.free
			b.stored(a.chain, ack.Sequence)
		case err := <-a.future.Err():
			b.refused(a, err)
		}
	}
}

func (b *bare) stored(c *chain, sequence uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.last, c.busy = sequence, false
	if w := c.waiting; len(w) > 0 {
		c.waiting = w[1:]
		b.append(c, w[0])
	}
}

func (b *bare) refused(a appended, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	last, known := lastSequence(err, a.chain.last)
	if !known {
		b.give(err)
		return
	}
	a.chain.last = last
	b.append(a.chain, a.msg)
}

// lastSequence reads from the error of an append where its chain ends. It is not known where that was not why it failed; where the server does
// not say it, another append is on its way, and one expects what one did.
func lastSequence(err error, expected uint64) (last uint64, known bool) {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return 0, false
	}
	switch api.ErrorCode {
	case codeAppendInFlight:
		return expected, true
	case codeWrongLastSequence:
		last, err := strconv.ParseUint(api.Description[strings.LastIndexByte(api.Description, ' ')+1:], 10, 64)
		return last, err == nil
	default:
		return 0, false
	}
}
