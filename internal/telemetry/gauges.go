package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// observeWithin bounds how long one look at the server may take: a scrape waits for it.
const observeWithin = 2 * time.Second

// Look is what the server says about work that is still to be done, by all workers together.
type Look struct {
	// Backlogs are those of the durable consumers that answered.
	Backlogs []Backlog
	// Waits are the waits that are pending, where WaitsKnown.
	Waits      int64
	WaitsKnown bool
}

// Backlog is what a durable consumer has before it.
type Backlog struct {
	Consumer   string // its name
	Pending    uint64 // messages that no worker has received
	AckPending int    // messages that workers have not settled
}

// Sources are what gauges look at, each time somebody asks.
type Sources struct {
	// Ready reports whether the worker handles inputs.
	Ready func() bool
	// Look asks the server.
	Look func(context.Context) Look
	// Interventions are the open ones.
	Interventions *Interventions
}

// Measures reports whether there are metrics at all: else nobody need look for anything.
func (t *Telemetry) Measures() bool { return t.metrics != nil }

// Observe begins to show the sources on gauges. All workers see the same, except whether they are ready: the rest is counted in the
// streams and not by who did what, so it is true with any number of workers, and after any of them ended.
func (t *Telemetry) Observe(from Sources) error {
	if t.metrics == nil {
		return nil
	}
	t.interventions = from.Interventions
	b := builder{meter: t.metrics.meter}
	ready := b.gauge("recourse.ready", "{worker}", "1 while the worker handles inputs, else 0.")
	waits := b.gauge("recourse.waits", "{wait}", "Pending waits of all executions; the same on every worker.")
	open := b.gauge("recourse.interventions.open", "{intervention}", "Interventions nobody has answered; the same on every worker.")
	pending := b.gauge("recourse.consumer.pending", "{message}", "Messages that no worker has received yet; the same on every worker.")
	ackPending := b.gauge("recourse.consumer.ack_pending", "{message}", "Messages that workers have not settled; the same on every worker.")
	if b.err != nil {
		return b.err
	}
	_, err := t.metrics.meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		is := int64(0)
		if from.Ready() {
			is = 1
		}
		o.ObserveInt64(ready, is)
		if n, known := from.Interventions.Open(); known {
			o.ObserveInt64(open, int64(n))
		}
		ctx, cancel := context.WithTimeout(ctx, observeWithin)
		defer cancel()
		look := from.Look(ctx)
		for _, b := range look.Backlogs {
			consumer := metric.WithAttributeSet(attribute.NewSet(semconv.MessagingConsumerGroupName(b.Consumer)))
			o.ObserveInt64(pending, int64(b.Pending), consumer)
			o.ObserveInt64(ackPending, int64(b.AckPending), consumer)
		}
		if look.WaitsKnown {
			o.ObserveInt64(waits, look.Waits)
		}
		return nil
	}, ready, waits, open, pending, ackPending)
	return err
}

// HandedOver counts an input that was handed to the worker that handles its execution, which tells the rest.
func (t *Telemetry) HandedOver(ctx context.Context) {
	if t.metrics != nil {
		t.metrics.handedOver.Add(ctx, 1)
	}
}

// Rearmed tells of an overdue wait that was armed again.
func (t *Telemetry) Rearmed() {
	if t.metrics != nil {
		t.metrics.rearmed.Add(context.Background(), 1)
	}
}
