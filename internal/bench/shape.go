package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// readWithin is how long the next record may take.
const readWithin = 10 * time.Second

// few failures are enough to see what their records look like.
const few = 2000

// shapeOf has a worker record failures, some before that do not count, and returns what their records look like: the mean size, and how
// many of those that are not the first of their execution have a subject that it had not before.
func (b *bench) shapeOf(ctx context.Context, before, failures []*recourse.Failure) (Shape, error) {
	from, err := b.lastSequence(ctx)
	if err != nil {
		return Shape{}, err
	}
	for _, part := range [][]*recourse.Failure{before, failures} {
		if len(part) == 0 {
			continue
		}
		if _, err := b.measure(ctx, theWorker, part, 1); err != nil {
			return Shape{}, err
		}
	}
	subjects, executions := make(map[string]bool), make(map[string]bool)
	seen, size, later, fresh := 0, 0, 0, 0
	err = records(ctx, b.js, from+1, false, func(msg jetstream.Msg, prefix string) (bool, error) {
		if seen >= len(before) {
			size += sizeBeside(msg)
			if executions[prefix] {
				later++
				if !subjects[msg.Subject()] {
					fresh++
				}
			}
		}
		subjects[msg.Subject()], executions[prefix] = true, true
		seen++
		return seen < len(before)+len(failures), nil
	})
	if err != nil {
		return Shape{}, err
	}
	return Shape{Size: size / len(failures), Fresh: float64(fresh) / float64(max(later, 1))}, nil
}

// sizeBeside is the bytes of body and headers, but for the headers that the bare loop sends too.
func sizeBeside(msg jetstream.Msg) int {
	size := len(msg.Data())
	for key, values := range msg.Headers() {
		switch key {
		case jetstream.ExpectedLastSubjSeqHeader, jetstream.ExpectedLastSubjSeqSubjHeader, recourse.HeaderVersion:
			continue
		}
		for _, value := range values {
			size += len(key) + len(value) + len(": \r\n")
		}
	}
	return size
}

// records visits the records from a sequence on, each with the subject prefix of its execution, until visit wants no more of them.
func records(ctx context.Context, js jetstream.JetStream, from uint64, headersOnly bool, visit func(msg jetstream.Msg, prefix string) (more bool, err error)) error {
	consumer, err := js.OrderedConsumer(ctx, recourse.StreamJournal, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, HeadersOnly: headersOnly,
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages() // its Next would make a new consumer for each record
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextMaxWait(readWithin))
		if err != nil {
			return fmt.Errorf("reading records: %w", err)
		}
		subject, err := recourse.ParseSubject(msg.Subject())
		if err != nil {
			return err
		}
		if more, err := visit(msg, subject.Prefix); !more || err != nil {
			return err
		}
	}
}
