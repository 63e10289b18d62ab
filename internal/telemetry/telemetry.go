// Package telemetry is what a worker tells of itself: spans, metrics and log lines of each input, with the trace of the failure carried
// into the command and across waits. docs/telemetry.md lists every name.
//
// The OTEL_* variables decide what is exported ([Start]). Where nothing is, nothing is recorded either: following an input then allocates
// nothing, and what came with a message in trace context goes into what is published about it, as it came.
//
// It does not decide, and nothing waits for it: what an exporter cannot send in time is dropped.
package telemetry

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// Scope is the name of the instrumentation in what is exported.
const Scope = "github.com/recourse-dev/recourse"

// Telemetry observes the handling of inputs. Its methods are called on the way of each input and do not block. It is safe for concurrent
// use.
type Telemetry struct {
	// Log is the worker's log: redacted, and exported beside where the environment says so.
	Log *zap.Logger

	consumer *zap.Logger  // the log of the way of an input
	worker   string       // cicd.worker.id
	tracer   trace.Tracer // nil where nothing is traced
	delayed  DelayedRetry
	metrics  *instruments // nil where nothing is measured
	registry *prometheus.Registry
	stops    []func(context.Context) error

	interventions *Interventions // nil where nobody counts them
}

// New returns a telemetry that logs to log, and neither traces nor measures.
func New(log *zap.Logger) *Telemetry { return &Telemetry{Log: log, consumer: log.Named("consumer")} }

// Handler serves the metrics for Prometheus; nil where [Config] asked for none.
func (t *Telemetry) Handler() http.Handler {
	if t.registry == nil {
		return nil
	}
	return metricsHandler(t.registry)
}

// Recorded tells of an input whose record was appended, the wait that came due with it being due (nil where none did).
func (h *Handling) Recorded(ctx context.Context, rec *recourse.Record, due *recourse.Wait, now time.Time) {
	took := now.Sub(h.Received)
	if m := h.t.metrics; m != nil {
		m.decided(ctx, rec, h.Subject.Family, took)
		if due != nil {
			m.late(ctx, due.Kind, now.Sub(due.DueAt))
		}
	}
	if open := h.t.interventions; open != nil {
		open.ended(h.Subject.Prefix, rec.Ends, rec.Cancelled)
		if rec.Wait.Kind == recourse.WaitIntervention {
			open.opened(h.Subject.Prefix, rec.Version, false)
		}
	}
	if entry := h.t.consumer.Check(zap.InfoLevel, "decided"); entry != nil {
		fields := fieldPool.Get().(*[]zap.Field)
		*fields = append(h.traceFields(ctx, (*fields)[:0]),
			zap.Stringer("execution", &rec.Ref), zap.Uint64("version", rec.Version), zap.String("input", rec.Input.Key),
			zap.Stringer("node", &rec.Node), zap.Int("attempt", rec.Attempt),
			zap.Stringer("action", rec.Action), zap.Stringer("reason", rec.Reason), zap.Stringer("level", rec.Level),
			zap.String("strategy", rec.Strategy), zap.Stringer("command", rec.Command.Verb), zap.String("kind", rec.Kind),
			zap.Stringer("delay", &rec.Delay), zap.Array("cancelled", (*versions)(&rec.Cancelled)), zap.Duration("took", took))
		entry.Write(*fields...)
		clear(*fields) // holds no record longer than the line
		fieldPool.Put(fields)
	}
}

// versions logs versions of records. Like the other fields of a line it is a pointer, which a field holds without an allocation.
type versions []uint64

// MarshalLogArray implements zapcore.ArrayMarshaler.
func (v *versions) MarshalLogArray(to zapcore.ArrayEncoder) error {
	for _, version := range *v {
		to.AppendUint64(version)
	}
	return nil
}

// Repeated tells of an input that needed no record.
func (h *Handling) Repeated(ctx context.Context, result decide.Result, now time.Time) {
	if m := h.t.metrics; m != nil {
		m.unrecorded(ctx, result.String())
	}
	if entry := h.t.consumer.Check(zap.DebugLevel, "needed no record"); entry != nil {
		entry.Write(append(h.traceFields(ctx, nil), zap.String("execution", h.Subject.Prefix),
			zap.Stringer("result", result), zap.Duration("took", now.Sub(h.Received)))...)
	}
}

// Cancelled tells of a message that only cancelled a schedule.
func (h *Handling) Cancelled(ctx context.Context) {
	if m := h.t.metrics; m != nil {
		m.unrecorded(ctx, resultCancelled)
	}
	h.result(resultCancelled)
}

// Rejected tells of an input that nobody can decide.
func (h *Handling) Rejected(ctx context.Context, reason recourse.DecodeReason, cause error) {
	if m := h.t.metrics; m != nil {
		m.rejected(ctx, reason)
	}
	h.rejected(reason)
	h.t.consumer.Warn("rejected", append(h.traceFields(ctx, nil),
		zap.String("subject", h.Msg.Subject()), zap.String("reason", string(reason)), zap.String("cause", cause.Error()))...)
}

// Failed tells of an input that could not be handled and is to be delivered again: the one thing that is an error of ours.
func (h *Handling) Failed(ctx context.Context, err error) {
	h.failed(err)
	h.t.consumer.Error("not handled, will be delivered again",
		append(h.traceFields(ctx, nil), zap.String("subject", h.Msg.Subject()), zap.Error(err))...)
}

// Conflict tells of an append that came second, or whose outcome was unknown.
func (h *Handling) Conflict(ctx context.Context, err error) {
	if m := h.t.metrics; m != nil {
		m.conflict(ctx, outcome(err))
	}
	if entry := h.t.consumer.Check(zap.DebugLevel, "deciding again"); entry != nil {
		entry.Write(append(h.traceFields(ctx, nil), zap.String("execution", h.Subject.Prefix), zap.String("outcome", outcome(err)))...)
	}
}
