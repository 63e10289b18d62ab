package bench

import (
	"context"
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

// bareWindow is how many appends the bare loop has in flight, as many as a worker has lanes.
const bareWindow = 256

// Bare is the bare loop: it pulls failures, appends size bytes for each, and acknowledges once they are stored, until ctx ends. ready is
// called when it pulls. It knows the last sequence of each execution, which a worker has to find out: it remembers what it appended itself,
// and reads before it is ready what others have appended from the sequence since on, unless that is 0.
func Bare(ctx context.Context, nc *nats.Conn, size int, since uint64, ready func()) error {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxInFlight))
	if err != nil {
		return err
	}
	b := &bare{chains: make(map[string]*chain), window: make(chan appended, bareWindow)}
	if err := b.learn(ctx, js, since); err != nil {
		return err
	}
	consumer, err := js.Consumer(ctx, recourse.StreamInbox, broker.ConsumerInbox)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(1024))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	b.stop = messages.Stop
	var confirming sync.WaitGroup
	confirming.Go(b.confirm)
	ready()
	body := []byte(strings.Repeat("x", size))
	for {
		msg, err := messages.Next()
		if err != nil {
			break // stopped
		}
		prefix := msg.Subject()[:strings.LastIndex(msg.Subject(), "."+string(recourse.FamilyFailure))]
		c := b.chain(prefix)
		c.Lock() // until it is stored: one after another within an execution, as its chain wants it
		future, err := js.PublishMsgAsync(&nats.Msg{
			Subject: prefix + "." + string(recourse.FamilyDecision) + ".bench",
			Header: nats.Header{
				jetstream.ExpectedLastSubjSeqHeader:     {strconv.FormatUint(c.last, 10)},
				jetstream.ExpectedLastSubjSeqSubjHeader: {prefix + ".>"},
				recourse.HeaderVersion:                  {"1"},
			},
			Data: body,
		}, jetstream.WithStallWait(time.Minute))
		if err != nil {
			c.Unlock()
			close(b.window)
			confirming.Wait()
			return fmt.Errorf("bare loop: %w", err)
		}
		b.window <- appended{msg, c, future}
	}
	close(b.window)
	confirming.Wait()
	return b.err
}

// bare is what the loop shares with what waits for the broker.
type bare struct {
	chains map[string]*chain // of the loop alone
	window chan appended
	stop   func()
	err    error // of confirm, read after it
}

// chain is where an execution stands. It is locked while an append is in flight.
type chain struct {
	sync.Mutex
	last uint64
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
func (b *bare) learn(ctx context.Context, js jetstream.JetStream, since uint64) error {
	if since == 0 {
		return nil
	}
	consumer, err := js.OrderedConsumer(ctx, recourse.StreamJournal, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: since, HeadersOnly: true,
	})
	if err != nil {
		return err
	}
	for {
		msg, err := consumer.Next(jetstream.FetchContext(ctx))
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		subject, err := recourse.ParseSubject(msg.Subject())
		if err != nil {
			return err
		}
		b.chain(subject.Prefix).last = meta.Sequence.Stream
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// confirm acknowledges what is stored, in the order of the appends.
func (b *bare) confirm() {
	for a := range b.window {
		select {
		case ack := <-a.future.Ok():
			a.chain.last = ack.Sequence
			_ = a.msg.Ack() // a lost one comes again, and the run does not end
		case err := <-a.future.Err():
			b.err = fmt.Errorf("bare loop: append: %w", err)
			b.stop()
		}
		a.chain.Unlock()
	}
}
