package main

import (
	"context"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zapcore"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/bench/workload"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/telemetry"
	"github.com/recourse-dev/recourse/internal/worker"
)

// natsStreams is what Recourse and Watermill have in common: failures in one stream, decisions in another.
type natsStreams struct {
	nc             *nats.Conn
	js             jetstream.JetStream
	inbox, journal jetstream.Stream
	info           func(ctx context.Context) (*jetstream.ConsumerInfo, error) // of the consumer of the inbox
}

// maxInFlight is how many failures are published and not yet stored.
const maxInFlight = 8192

func connectNATS(url string) (*natsStreams, error) {
	nc, err := nats.Connect(url, nats.Name("bench-peers"))
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxInFlight))
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &natsStreams{nc: nc, js: js}, nil
}

func (n *natsStreams) publish(ctx context.Context, messages []*nats.Msg) error {
	futures := make([]jetstream.PubAckFuture, 0, len(messages))
	for _, msg := range messages {
		future, err := n.js.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute))
		if err != nil {
			return err
		}
		futures = append(futures, future)
	}
	for _, future := range futures {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (n *natsStreams) count(ctx context.Context) (int, error) {
	info, err := n.journal.Info(ctx)
	if err != nil {
		return 0, err
	}
	return int(info.State.Msgs), nil
}

func (n *natsStreams) idle(ctx context.Context) (bool, error) {
	info, err := n.info(ctx)
	if err != nil {
		return false, err
	}
	return info.NumPending == 0 && info.NumAckPending == 0, nil
}

func (n *natsStreams) span(ctx context.Context) (first, last time.Time, err error) {
	info, err := n.journal.Info(ctx)
	if err != nil {
		return first, last, err
	}
	return info.State.FirstTime, info.State.LastTime, nil
}

func (n *natsStreams) listen(ctx context.Context, hear func(jetstream.Msg)) (stop func(), err error) {
	consumer, err := n.journal.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
	if err != nil {
		return nil, err
	}
	consuming, err := consumer.Consume(hear)
	if err != nil {
		return nil, err
	}
	return consuming.Stop, nil
}

func (n *natsStreams) close() { n.nc.Close() }

// recourseEngine is Recourse itself, with its worker as it runs by default.
type recourseEngine struct{ *natsStreams }

func openRecourse(_ context.Context, url string) (engine, error) {
	n, err := connectNATS(url)
	if err != nil {
		return nil, err
	}
	return &recourseEngine{n}, nil
}

func (e *recourseEngine) prepare(ctx context.Context, l *load) (err error) {
	if _, err := broker.Provision(ctx, e.js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		return err
	}
	if e.inbox, err = e.js.Stream(ctx, recourse.StreamInbox); err != nil {
		return err
	}
	if e.journal, err = e.js.Stream(ctx, recourse.StreamJournal); err != nil {
		return err
	}
	consumer, err := e.inbox.Consumer(ctx, broker.ConsumerInbox)
	if err != nil {
		return err
	}
	e.info = consumer.Info
	for _, p := range l.Pipelines {
		if _, err := client.PutPipeline(ctx, e.js, p.Ref, p.YAML); err != nil {
			return err
		}
	}
	return nil
}

func (e *recourseEngine) put(ctx context.Context, failures []*recourse.Failure) error {
	bodies, err := encode(failures)
	if err != nil {
		return err
	}
	messages := make([]*nats.Msg, 0, len(failures))
	for i, f := range failures {
		messages = append(messages, &nats.Msg{Subject: f.Prefix() + "." + string(recourse.FamilyFailure) + "." + workload.Delegate, Data: bodies[i]})
	}
	return e.publish(ctx, messages)
}

func (e *recourseEngine) follow(ctx context.Context, hear func(heard)) (stop func(), err error) {
	return e.listen(ctx, func(msg jetstream.Msg) {
		subject, err := recourse.ParseSubject(msg.Subject())
		if err != nil {
			return // what is missing is seen by the count
		}
		due, _ := time.Parse(time.RFC3339Nano, msg.Headers().Get(recourse.HeaderDueAt))
		hear(heard{prefix: subject.Prefix, command: subject.Family == recourse.FamilyCommand, due: due})
	})
}

// workRecourse is a worker as it runs by default, with its log in JSON on the standard error.
func workRecourse(ctx context.Context, w work, ready func()) error {
	log, err := telemetry.NewLog(os.Stderr, zapcore.InfoLevel, "json")
	if err != nil {
		return err
	}
	batches := worker.BatchesOff
	if w.flush == each {
		batches = worker.BatchesOn
	}
	return worker.Run(ctx, worker.Config{
		Connection: client.Settings{Server: w.url}, Provision: broker.ModeOff, Batches: batches, Log: log, Ready: func(string) { ready() },
	})
}
