package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// The topics of Watermill, each a stream of that name, and its queue group.
const (
	topicFailures  = "failures"
	topicDecisions = "decisions"
	queueGroup     = "deciders"
)

// The metadata of a decision, which Watermill makes the headers of its message.
const (
	metaPrefix  = "prefix"
	metaCommand = "command"
	metaDue     = "due"
)

// watermillEngine is a Watermill router on its NATS adapter, with JetStream.
type watermillEngine struct{ *natsStreams }

func openWatermill(_ context.Context, url string) (engine, error) {
	n, err := connectNATS(url)
	if err != nil {
		return nil, err
	}
	return &watermillEngine{n}, nil
}

func (e *watermillEngine) prepare(ctx context.Context, _ *load) (err error) {
	if e.inbox, err = e.js.CreateStream(ctx, jetstream.StreamConfig{Name: topicFailures, Subjects: []string{topicFailures}}); err != nil {
		return err
	}
	// One that the subscriber creates itself is deleted when it stops, and the next would be given everything again.
	consumer, err := e.inbox.CreatePushConsumer(ctx, jetstream.ConsumerConfig{
		Durable: queueGroup, DeliverGroup: queueGroup, DeliverSubject: "deliver." + topicFailures, FilterSubject: topicFailures,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, MaxAckPending: maxAckPending,
	})
	if err != nil {
		return err
	}
	e.info = consumer.Info
	e.journal, err = e.js.CreateStream(ctx, jetstream.StreamConfig{Name: topicDecisions, Subjects: []string{topicDecisions}})
	return err
}

func (e *watermillEngine) put(ctx context.Context, failures []*recourse.Failure) error {
	bodies, err := encode(failures)
	if err != nil {
		return err
	}
	messages := make([]*nats.Msg, 0, len(failures))
	for _, body := range bodies {
		// Watermill's own publisher waits for each; what it would send is sent all at once.
		msg, err := (&wmnats.NATSMarshaler{}).Marshal(topicFailures, message.NewMessage(watermill.NewUUID(), body))
		if err != nil {
			return err
		}
		messages = append(messages, msg)
	}
	return e.publish(ctx, messages)
}

func (e *watermillEngine) follow(ctx context.Context, hear func(heard)) (stop func(), err error) {
	return e.listen(ctx, func(msg jetstream.Msg) {
		due, _ := time.Parse(time.RFC3339Nano, msg.Headers().Get(metaDue))
		hear(heard{prefix: msg.Headers().Get(metaPrefix), command: msg.Headers().Get(metaCommand) != "", due: due})
	})
}

// maxAckPending has to hold every message that waits for its retry, since a message that waits is one that is not acknowledged.
const maxAckPending = 1 << 16

// errWaits has a message delivered again after the delay that the subscriber has for all.
var errWaits = errors.New("to be retried later")

// workWatermill is a router with one handler, whose subscribers are a queue group of one durable consumer.
func workWatermill(ctx context.Context, w work, ready func()) error {
	d, err := loadDecider(w.pipelines)
	if err != nil {
		return err
	}
	logger := watermill.NopLogger{}
	subscriber, err := wmnats.NewSubscriber(wmnats.SubscriberConfig{
		URL: w.url, QueueGroupPrefix: queueGroup, SubscribersCount: w.concurrency, AckWaitTimeout: time.Minute,
		NakDelay: wmnats.NewStaticDelay(w.delay),
		JetStream: wmnats.JetStreamConfig{
			AckAsync: true, DurablePrefix: queueGroup,
			SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit(), nats.ManualAck(), nats.AckWait(time.Minute), nats.MaxAckPending(maxAckPending)},
		},
	}, logger)
	if err != nil {
		return err
	}
	publisher, err := wmnats.NewPublisher(wmnats.PublisherConfig{URL: w.url}, logger)
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	h := &watermillHandler{decider: d, publisher: publisher}
	router.AddHandler("decide", topicFailures, subscriber, topicDecisions, publisher, h.decide)
	ended := make(chan error, 1)
	go func() { ended <- router.Run(ctx) }()
	select {
	case <-router.Running():
		ready()
		err = <-ended
	case err = <-ended:
	}
	return errors.Join(err, publisher.Close())
}

// watermillHandler decides. What waits is kept in memory until its message comes again: after a restart it is decided anew.
type watermillHandler struct {
	decider   *decider
	publisher message.Publisher
	waits     sync.Map // of bodies of decisions to wait, by the id of the message
}

func (h *watermillHandler) decide(msg *message.Message) ([]*message.Message, error) {
	if waits, ok := h.waits.Load(msg.UUID); ok {
		rec, err := h.decider.due(waits.([]byte))
		if err != nil {
			return nil, err
		}
		h.waits.Delete(msg.UUID)
		return []*message.Message{watermillMessage(rec)}, nil
	}
	rec, err := h.decider.failure(msg.Payload)
	if err != nil {
		return nil, err
	}
	out := watermillMessage(rec)
	if rec.command {
		return []*message.Message{out}, nil
	}
	if err := h.publisher.Publish(topicDecisions, out); err != nil {
		return nil, err
	}
	h.waits.Store(msg.UUID, rec.body)
	return nil, errWaits
}

func watermillMessage(rec *record) *message.Message {
	msg := message.NewMessage(watermill.NewUUID(), rec.body)
	msg.Metadata.Set(metaPrefix, rec.prefix)
	if rec.command {
		msg.Metadata.Set(metaCommand, "yes")
	}
	if !rec.due.IsZero() {
		msg.Metadata.Set(metaDue, rec.due.UTC().Format(time.RFC3339Nano))
	}
	return msg
}
