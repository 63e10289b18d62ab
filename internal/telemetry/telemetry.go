// Package telemetry is what a worker tells of itself: one log line and the spans of each input, with the trace of the failure carried
// into the command.
package telemetry

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/decide"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// Telemetry observes the handling of inputs. Its methods are called on the way of each input and do not block.
type Telemetry struct {
	// Log is the worker's log.
	Log        *zap.Logger
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
}

// New returns a telemetry that logs to log and traces with the provider that OpenTelemetry has globally: none, unless it was set up.
func New(log *zap.Logger) *Telemetry {
	return &Telemetry{
		Log:        log,
		tracer:     otel.Tracer("github.com/recourse-dev/recourse"),
		propagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	}
}

// Received starts the handling of a message. The context it returns carries the message's trace, continued by a span; one of Recorded,
// Repeated, Rejected, Failed ends it.
func (t *Telemetry) Received(ctx context.Context, msg jetstream.Msg, metadata *jetstream.MsgMetadata) context.Context {
	if header := msg.Headers(); header != nil {
		ctx = t.propagator.Extract(ctx, client.HeaderCarrier(header))
	}
	ctx, _ = t.tracer.Start(ctx, "process "+metadata.Stream, trace.WithSpanKind(trace.SpanKindConsumer))
	return ctx
}

// Inject writes the trace of ctx into the header of a message that is to be published.
func (t *Telemetry) Inject(ctx context.Context, header nats.Header) {
	t.propagator.Inject(ctx, client.HeaderCarrier(header))
}

// Recorded ends the handling of an input whose record was appended. took is the time since the message was received.
func (t *Telemetry) Recorded(ctx context.Context, rec *recourse.Record, took time.Duration) {
	span := trace.SpanFromContext(ctx)
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("recourse.action", rec.Action.String()),
			attribute.String("recourse.reason", rec.Reason.String()),
			attribute.String("recourse.level", rec.Level.String()),
			attribute.String("recourse.strategy", rec.Strategy),
			attribute.Int("recourse.attempt", rec.Attempt),
		)
	}
	span.End()
	if entry := t.Log.Check(zap.InfoLevel, "decided"); entry != nil {
		entry.Write(append(traceFields(ctx),
			zap.Stringer("execution", rec.Ref), zap.Uint64("version", rec.Version), zap.String("input", rec.Input.Key),
			zap.Stringer("node", rec.Node), zap.Int("attempt", rec.Attempt),
			zap.Stringer("action", rec.Action), zap.Stringer("reason", rec.Reason), zap.Stringer("level", rec.Level),
			zap.String("strategy", rec.Strategy), zap.Stringer("command", rec.Command.Verb), zap.String("kind", rec.Kind),
			zap.Stringer("delay", rec.Delay), zap.Uint64s("cancelled", rec.Cancelled), zap.Duration("took", took))...)
	}
}

// Repeated ends the handling of an input that needed no record.
func (t *Telemetry) Repeated(ctx context.Context, result decide.Result, took time.Duration) {
	trace.SpanFromContext(ctx).End()
	t.Log.Debug("needed no record", append(traceFields(ctx), zap.Stringer("result", result), zap.Duration("took", took))...)
}

// Rejected ends the handling of an input that nobody can decide.
func (t *Telemetry) Rejected(ctx context.Context, subject string, reason recourse.DecodeReason, cause error) {
	trace.SpanFromContext(ctx).End()
	t.Log.Warn("rejected", append(traceFields(ctx),
		zap.String("subject", subject), zap.String("reason", string(reason)), zap.String("error", recourse.Redact(cause.Error())))...)
}

// Failed ends the handling of an input that is to be delivered again.
func (t *Telemetry) Failed(ctx context.Context, subject string, err error) {
	span := trace.SpanFromContext(ctx)
	span.SetStatus(codes.Error, "not handled")
	span.End()
	t.Log.Error("not handled, will be delivered again", append(traceFields(ctx), zap.String("subject", subject), zap.Error(err))...)
}

// Conflict notes an append that came second, or whose outcome was unknown.
func (t *Telemetry) Conflict(ctx context.Context, execution string) {
	t.Log.Debug("deciding again", append(traceFields(ctx), zap.String("execution", execution))...)
}

func traceFields(ctx context.Context) []zap.Field {
	fields := make([]zap.Field, 0, 16)
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		fields = append(fields, zap.Stringer("trace_id", span.TraceID()), zap.Stringer("span_id", span.SpanID()))
	}
	return fields
}
