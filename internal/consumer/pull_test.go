package consumer_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse/internal/broker/brokertest"
	"github.com/recourse-dev/recourse/internal/consumer"
)

// patience is how long a test waits for what must happen; it is not what it takes.
const patience = 20 * time.Second

// ackWait is when a message that is not settled comes again.
const ackWait = time.Minute

// durable returns a stream of subjects x.* on a server, and a source of it.
func durable(t *testing.T) (jetstream.JetStream, jetstream.Consumer, consumer.Source) {
	t.Helper()
	server := brokertest.Start(t)
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "X", Subjects: []string{"x.*"}}); err != nil {
		t.Fatal(err)
	}
	c, err := js.CreateConsumer(t.Context(), "X", jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait})
	if err != nil {
		t.Fatal(err)
	}
	return js, c, consumer.Durable(nc, c)
}

func publish(t *testing.T, js jetstream.JetStream, header nats.Header, body string) {
	t.Helper()
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "x.y", Header: header, Data: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, source consumer.Source, prefetch int) consumer.Messages {
	t.Helper()
	messages, err := source.Pull(prefetch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(messages.Stop)
	return messages
}

// next returns the next message, and fails the test where none comes.
func next(t *testing.T, messages consumer.Messages) jetstream.Msg {
	t.Helper()
	type result struct {
		msg jetstream.Msg
		err error
	}
	got := make(chan result, 1)
	go func() {
		msg, err := messages.Next()
		got <- result{msg, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			t.Fatal(r.err)
		}
		return r.msg
	case <-time.After(patience):
		t.Fatal("no message came")
		return nil
	}
}

// TestPullManyMore: all messages come, in order, whatever the prefetch.
func TestPullManyMore(t *testing.T) {
	for _, prefetch := range []int{1, 2, 3, 64} {
		t.Run(fmt.Sprint(prefetch), func(t *testing.T) {
			js, _, source := durable(t)
			messages := open(t, source, prefetch)
			for n := range 200 {
				publish(t, js, nil, fmt.Sprint(n))
			}
			for n := range 200 {
				msg := next(t, messages)
				meta, err := msg.Metadata()
				if err != nil {
					t.Fatal(err)
				}
				if string(msg.Data()) != fmt.Sprint(n) || meta.Sequence.Stream != uint64(n+1) || meta.Stream != "X" || meta.Consumer != "d" || meta.NumDelivered != 1 {
					t.Fatalf("message %d is %q, %+v", n, msg.Data(), meta)
				}
				if err := msg.Ack(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestPullLookalikes: stored messages that look like words from the server are messages, and what comes behind them comes.
func TestPullLookalikes(t *testing.T) {
	js, _, source := durable(t)
	messages := open(t, source, 2)
	for _, status := range []string{"100", "400", "404", "408", "409", "503"} {
		publish(t, js, nats.Header{"Status": {status}, "Description": {"Consumer Deleted"}, "Nats-Pending-Messages": {"1000000"}}, "")
		publish(t, js, nil, "behind "+status)
		if msg := next(t, messages); msg.Headers().Get("Status") != status {
			t.Errorf("status %s: got %q %v", status, msg.Data(), msg.Headers())
		}
		if msg := next(t, messages); string(msg.Data()) != "behind "+status {
			t.Errorf("behind %s: got %q", status, msg.Data())
		}
	}
}

// TestPullStop: what has arrived comes out after a stop, and nothing is left waiting at the server.
func TestPullStop(t *testing.T) {
	js, c, source := durable(t)
	messages := open(t, source, 10)
	for n := range 30 {
		publish(t, js, nil, fmt.Sprint(n))
	}
	seen := 1
	if err := next(t, messages).Ack(); err != nil {
		t.Fatal(err)
	}
	messages.Stop()
	messages.Stop()
	for {
		msg, err := messages.Next()
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
		seen++
	}
	if seen < 2 {
		t.Errorf("%d seen: what had arrived was dropped", seen)
	}
	// All else comes at once to whoever asks next: what the server was about to hand out when the pull stopped, and what it was not.
	missing := 30 - seen
	for deadline := time.Now().Add(ackWait / 4); missing > 0; {
		batch, err := c.FetchNoWait(missing)
		if err != nil {
			t.Fatal(err)
		}
		for msg := range batch.Messages() {
			if err := msg.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
			missing--
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d seen, %d more do not come until they count as lost", seen, missing)
		}
	}
	info, err := c.Info(t.Context())
	if err != nil || info.NumAckPending != 0 || info.NumPending != 0 || info.AckFloor.Stream != 30 {
		t.Errorf("%+v, %v; want all 30 settled", info, err)
	}
}

// TestSettlements: each way to settle does what it says.
func TestSettlements(t *testing.T) {
	js, c, source := durable(t)
	messages := open(t, source, 1)
	ctx := t.Context()
	for name, tc := range map[string]struct {
		settle func(jetstream.Msg) error
		again  bool
		within time.Duration // it comes again not before
	}{
		"ack":        {jetstream.Msg.Ack, false, 0},
		"double ack": {func(m jetstream.Msg) error { return m.DoubleAck(ctx) }, false, 0},
		"term":       {jetstream.Msg.Term, false, 0},
		"reason":     {func(m jetstream.Msg) error { return m.TermWithReason("bad-json") }, false, 0},
		"nak":        {jetstream.Msg.Nak, true, 0},
		"delay":      {func(m jetstream.Msg) error { return m.NakWithDelay(300 * time.Millisecond) }, true, 300 * time.Millisecond},
		"alive":      {func(m jetstream.Msg) error { return errors.Join(m.InProgress(), m.Nak()) }, true, 0},
	} {
		publish(t, js, nil, name)
		msg, begun := next(t, messages), time.Now()
		if string(msg.Data()) != name || msg.Subject() != "x.y" || msg.Reply() == "" {
			t.Fatalf("%s: got %q on %s", name, msg.Data(), msg.Subject())
		}
		if err := tc.settle(msg); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if tc.again {
			msg = next(t, messages)
			meta, err := msg.Metadata()
			if err != nil || string(msg.Data()) != name || meta.NumDelivered != 2 {
				t.Errorf("%s: then came %q, %+v, %v", name, msg.Data(), meta, err)
			}
			if took := time.Since(begun); took < tc.within {
				t.Errorf("%s: it came again after %s", name, took)
			}
			if err := msg.DoubleAck(ctx); err != nil {
				t.Fatal(err)
			}
		}
		deadline := time.Now().Add(patience)
		for {
			info, err := c.Info(ctx)
			if err == nil && info.NumAckPending == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: not settled: %+v, %v", name, info, err)
			}
			<-time.After(time.Millisecond)
		}
	}
}

// TestPullConsumerGone: a consumer that is deleted, or was while nobody looked, ends the pull with an error that says so.
func TestPullConsumerGone(t *testing.T) {
	js, _, source := durable(t)
	messages := open(t, source, 1)
	publish(t, js, nil, "x")
	next(t, messages)
	if err := js.DeleteConsumer(t.Context(), "X", "d"); err != nil {
		t.Fatal(err)
	}
	if _, err := messages.Next(); !errors.Is(err, jetstream.ErrConsumerDeleted) && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("deleted while pulling: %v", err)
	}
	if _, err := open(t, source, 1).Next(); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("deleted before: %v", err)
	}
	if err := js.DeleteStream(t.Context(), "X"); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, source, 1).Next(); !errors.Is(err, jetstream.ErrStreamNotFound) && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("the stream deleted: %v", err)
	}
}
