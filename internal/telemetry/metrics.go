package telemetry

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/semconv/v1.43.0/cicdconv"

	"github.com/recourse-dev/recourse"
)

// Bounds of the histograms in seconds: a decision takes milliseconds, a backlog may be hours old.
var (
	durationBounds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	latenessBounds = []float64{.005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
	ageBounds      = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 1800, 3600}
)

// The sizes of the tables of attributes. What a later version adds beyond them costs an allocation, not an answer.
const (
	maxActions = 16
	maxReasons = 16
	maxLevels  = 4
)

// instruments are what is counted and measured. Attribute sets are made once: recording one allocates nothing of ours.
type instruments struct {
	meter metric.Meter

	decisions       metric.Int64Counter
	duration        metric.Float64Histogram
	age             metric.Float64Histogram
	lateness        metric.Float64Histogram
	unrecordedTotal metric.Int64Counter
	rejectedTotal   metric.Int64Counter
	conflicts       metric.Int64Counter
	rearmed         metric.Int64Counter
	handedOver      metric.Int64Counter
	errors          cicdconv.SystemErrors

	byDecision [maxActions][maxReasons][maxLevels]atomic.Pointer[[]metric.AddOption]
	byInput    map[recourse.Family][]metric.RecordOption
	byWait     map[recourse.WaitKind][]metric.RecordOption
	byResult   map[string][]metric.AddOption
	byReason   map[recourse.DecodeReason][]metric.AddOption
	byOutcome  map[string][]metric.AddOption
}

func newInstruments(meter metric.Meter) (*instruments, error) {
	m := &instruments{
		meter:   meter,
		byInput: map[recourse.Family][]metric.RecordOption{}, byWait: map[recourse.WaitKind][]metric.RecordOption{},
		byResult: map[string][]metric.AddOption{}, byReason: map[recourse.DecodeReason][]metric.AddOption{}, byOutcome: map[string][]metric.AddOption{},
	}
	for _, family := range []recourse.Family{
		recourse.FamilyFailure, recourse.FamilyIntervention, recourse.FamilyControl, recourse.FamilyLifecycle, recourse.FamilyDue,
	} {
		m.byInput[family] = []metric.RecordOption{with(keyInput.String(string(family)))}
	}
	for _, kind := range []recourse.WaitKind{recourse.WaitRetry, recourse.WaitRetryGroup, recourse.WaitIntervention} {
		m.byWait[kind] = []metric.RecordOption{with(keyWaitKind.String(waitKind(kind)))}
	}
	for _, result := range []string{"repeated", "not-waiting", "early", resultCancelled} {
		m.byResult[result] = []metric.AddOption{with(keyResult.String(result))}
	}
	for _, reason := range recourse.DecodeReasons() {
		m.byReason[reason] = []metric.AddOption{with(keyReason.String(string(reason)))}
	}
	for _, outcome := range []string{"conflict", "unknown"} {
		m.byOutcome[outcome] = []metric.AddOption{with(keyOutcome.String(outcome))}
	}

	b := builder{meter: meter}
	m.decisions = b.counter("recourse.decisions", "{decision}", "Records appended to the journal.")
	m.duration = b.histogram("recourse.decision.duration", "From the arrival of an input in the worker until its record is stored.", durationBounds)
	m.age = b.histogram("recourse.event.age", "From the storing of a message in its stream until it arrives in the worker.", ageBounds)
	m.lateness = b.histogram("recourse.retry.lateness", "From when a wait was due until its record was decided.", latenessBounds)
	m.unrecordedTotal = b.counter("recourse.inputs.unrecorded", "{input}", "Inputs that needed no record.")
	m.rejectedTotal = b.counter("recourse.rejected", "{input}", "Inputs that nobody can decide.")
	m.conflicts = b.counter("recourse.conflicts", "{append}", "Appends that were decided again.")
	m.rearmed = b.counter("recourse.waits.rearmed", "{wait}", "Overdue waits that were armed again.")
	m.handedOver = b.counter("recourse.inputs.handed_over", "{input}", "Inputs handed to the worker that handles their execution.")
	if b.err == nil {
		m.errors, b.err = cicdconv.NewSystemErrors(meter)
	}
	if b.err == nil {
		m.begin()
	}
	return m, b.err
}

// begin shows the counters whose attributes are known as 0, so that the first of a kind is an increase.
func (m *instruments) begin() {
	ctx := context.Background()
	m.rearmed.Add(ctx, 0)
	m.handedOver.Add(ctx, 0)
	for _, options := range m.byResult {
		m.unrecordedTotal.Add(ctx, 0, options...)
	}
	for _, options := range m.byReason {
		m.rejectedTotal.Add(ctx, 0, options...)
	}
	for _, options := range m.byOutcome {
		m.conflicts.Add(ctx, 0, options...)
	}
}

func with(attributes ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attributes...))
}

// builder makes instruments until one fails.
type builder struct {
	meter metric.Meter
	err   error
}

func (b *builder) counter(name, unit, description string) (c metric.Int64Counter) {
	if b.err == nil {
		c, b.err = b.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
	}
	return c
}

func (b *builder) histogram(name, description string, bounds []float64) (h metric.Float64Histogram) {
	if b.err == nil {
		h, b.err = b.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), metric.WithExplicitBucketBoundaries(bounds...))
	}
	return h
}

func (b *builder) gauge(name, unit, description string) (g metric.Int64ObservableGauge) {
	if b.err == nil {
		g, b.err = b.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
	}
	return g
}

func (m *instruments) received(ctx context.Context, family recourse.Family, age time.Duration) {
	m.age.Record(ctx, max(age, 0).Seconds(), m.byInput[family]...)
}

func (m *instruments) decided(ctx context.Context, rec *recourse.Record, family recourse.Family, took time.Duration) {
	m.decisions.Add(ctx, 1, m.decision(rec)...)
	m.duration.Record(ctx, max(took, 0).Seconds(), m.byInput[family]...)
}

// decision returns the attributes of a decision, made once for each combination.
func (m *instruments) decision(rec *recourse.Record) []metric.AddOption {
	var slot *atomic.Pointer[[]metric.AddOption]
	if rec.Action < maxActions && rec.Reason < maxReasons && rec.Level < maxLevels {
		slot = &m.byDecision[rec.Action][rec.Reason][rec.Level]
		if options := slot.Load(); options != nil {
			return *options
		}
	}
	options := []metric.AddOption{with(keyAction.String(action(rec.Action)), keyReason.String(rec.Reason.String()), keyLevel.String(rec.Level.String()))}
	if slot != nil {
		slot.Store(&options)
	}
	return options
}

func (m *instruments) late(ctx context.Context, kind recourse.WaitKind, late time.Duration) {
	m.lateness.Record(ctx, max(late, 0).Seconds(), m.byWait[kind]...)
}

func (m *instruments) unrecorded(ctx context.Context, result string) {
	m.unrecordedTotal.Add(ctx, 1, m.byResult[result]...)
}

func (m *instruments) rejected(ctx context.Context, reason recourse.DecodeReason) {
	m.rejectedTotal.Add(ctx, 1, m.byReason[reason]...)
}

func (m *instruments) conflict(ctx context.Context, outcome string) {
	m.conflicts.Add(ctx, 1, m.byOutcome[outcome]...)
}

// failed counts what we failed at. It is rare: its attributes are made each time.
func (m *instruments) failed(component string, err error) {
	m.errors.Add(context.Background(), 1, component, cicdconv.ErrorTypeAttr(errorType(err)))
}

// metricsHandler serves a registry, with exemplars for who asks for OpenMetrics.
func metricsHandler(registry *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true, Registry: registry, MaxRequestsInFlight: 4})
}
