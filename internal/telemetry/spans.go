package telemetry

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// The attributes of our own; those of others are from the semantic conventions.
const (
	keyAccount  = attribute.Key("recourse.account")
	keyOrg      = attribute.Key("recourse.org")
	keyProject  = attribute.Key("recourse.project")
	keyInput    = attribute.Key("recourse.input")
	keyInputKey = attribute.Key("recourse.input.key")
	keyDelivery = attribute.Key("recourse.delivery")
	keyResult   = attribute.Key("recourse.result")
	keyOutcome  = attribute.Key("recourse.outcome")
	keyErrors   = attribute.Key("recourse.errors")

	keyVersion    = attribute.Key("recourse.version")
	keyAction     = attribute.Key("recourse.action")
	keyReason     = attribute.Key("recourse.reason")
	keyLevel      = attribute.Key("recourse.level")
	keyStrategy   = attribute.Key("recourse.strategy")
	keyAttempt    = attribute.Key("recourse.attempt")
	keyDelay      = attribute.Key("recourse.delay")
	keySuperseded = attribute.Key("recourse.superseded")
	keyCommand    = attribute.Key("recourse.command")
	keyKind       = attribute.Key("recourse.kind")
	keyRevision   = attribute.Key("recourse.pipeline.revision")
	keyEnds       = attribute.Key("recourse.ends")
	keyDueAt      = attribute.Key("recourse.due_at")
	keyWaitKind   = attribute.Key("recourse.wait.kind")
)

var systemNATS = semconv.MessagingSystemKey.String("nats")

// Message is a message on its way, as a handling sees it.
type Message struct {
	jetstream.Msg
	Subject  recourse.Subject
	Metadata *jetstream.MsgMetadata
	Received time.Time
}

// Handling is what is told of one message from its arrival to its settlement; [Telemetry.Received] begins and [Handling.End] ends it.
// One goroutine uses it.
type Handling struct {
	Message
	t       *Telemetry
	span    trace.Span // nil where nothing is traced
	carried carried
	header  nats.Header // of what is being published
}

// Received begins the handling of a message. The context it returns carries its span: a continuation of the trace that came with the
// message, or, where it is a wait that came due, a new one that links to it (see [DelayedRetry]).
func (t *Telemetry) Received(ctx context.Context, h *Handling, msg Message) context.Context {
	*h = Handling{Message: msg, t: t, carried: carriedBy(msg.Headers()), header: h.header}
	if t.tracer != nil {
		ctx = h.start(ctx)
	}
	if t.metrics != nil {
		t.metrics.received(ctx, msg.Subject.Family, msg.Received.Sub(msg.Metadata.Timestamp))
	}
	return ctx
}

func (h *Handling) start(ctx context.Context) context.Context {
	previous := spanContext(h.carried.parent, h.carried.state)
	var links []trace.Link
	if previous.IsValid() {
		links = append(links, trace.Link{SpanContext: previous})
	}
	if h.Subject.Family == recourse.FamilyDue {
		if origin := spanContext(h.carried.origin, h.carried.originState); origin.IsValid() && origin.SpanID() != previous.SpanID() {
			links = append(links, trace.Link{SpanContext: origin})
		}
		if h.t.delayed == LinkDelayed {
			previous = trace.SpanContext{}
		}
	}
	ctx = trace.ContextWithRemoteSpanContext(ctx, previous)
	ctx, h.span = h.t.tracer.Start(ctx, "process "+h.Metadata.Stream,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(links...), trace.WithAttributes(
			systemNATS, semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess,
			semconv.MessagingDestinationName(h.Msg.Subject()), semconv.MessagingDestinationTemplate(recourse.Filter(h.Subject.Family)),
			semconv.MessagingConsumerGroupName(h.Metadata.Consumer),
			semconv.MessagingMessageID(messageID(h.Metadata.Stream, h.Metadata.Sequence.Stream)),
			semconv.MessagingMessageConversationID(h.Subject.Prefix), semconv.MessagingMessageBodySize(len(h.Data())),
			semconv.CICDWorkerID(h.t.worker), keyInput.String(string(h.Subject.Family)), keyDelivery.Int64(int64(h.Metadata.NumDelivered)),
		))
	if h.carried.origin == nil {
		h.carried.beginAt(ctx)
	}
	return ctx
}

// messageID is the place of a message: unique, and what a reader of the stream asks for.
func messageID(stream string, sequence uint64) string {
	return stream + "/" + strconv.FormatUint(sequence, 10)
}

// recording reports whether the handling's span keeps what it is told.
func (h *Handling) recording() bool { return h.span != nil && h.span.IsRecording() }

// End ends the handling, after its settlement.
func (h *Handling) End() {
	if h.span != nil {
		h.span.End()
	}
}

// Addressed tells what execution and node an input is about, as soon as it is known.
func (h *Handling) Addressed(in *decide.Input) {
	if !h.recording() || in.Execution == "" {
		return
	}
	h.span.SetAttributes(executionAttributes(in.Ref)...)
	if f := in.Failure; f != nil {
		h.span.SetAttributes(taskAttributes(in.Node, in.Attempt)...)
		h.span.SetAttributes(taskResult(f.Errors), keyErrors.StringSlice(names(f.Errors)))
	}
}

func executionAttributes(ref recourse.Ref) []attribute.KeyValue {
	return []attribute.KeyValue{
		semconv.CICDPipelineName(ref.Pipeline), semconv.CICDPipelineRunID(ref.Execution),
		keyAccount.String(ref.Account), keyOrg.String(ref.Org), keyProject.String(ref.Project),
	}
}

func taskAttributes(node recourse.Node, attempt int) []attribute.KeyValue {
	name := node.String()
	return []attribute.KeyValue{
		semconv.CICDPipelineTaskName(name), semconv.CICDPipelineTaskRunID(name + "/" + strconv.Itoa(attempt)), keyAttempt.Int(attempt),
	}
}

// taskResult is how the conventions name what became of a run: it timed out, the system around it failed, or it did.
func taskResult(errors recourse.ErrorTypes) attribute.KeyValue {
	switch {
	case errors.Has(recourse.Timeout), errors.Has(recourse.InputTimeoutError):
		return semconv.CICDPipelineTaskRunResultTimeout
	case errors.Has(recourse.DelegateProvisioning), errors.Has(recourse.DelegateRestart), errors.Has(recourse.InfrastructureFailure):
		return semconv.CICDPipelineTaskRunResultError
	default:
		return semconv.CICDPipelineTaskRunResultFailure
	}
}

// Deciding is one run of the decision. The zero value tells nothing.
type Deciding struct {
	h    *Handling
	span trace.Span
}

// Deciding begins the span of a decision.
func (h *Handling) Deciding(ctx context.Context) Deciding {
	if h.span == nil {
		return Deciding{}
	}
	_, span := h.t.tracer.Start(ctx, "decide", trace.WithSpanKind(trace.SpanKindInternal))
	return Deciding{h, span}
}

// End tells what was decided: rec where the result is decide.Decided, else the record of that version.
func (d Deciding) End(in *decide.Input, result decide.Result, version uint64, rec *recourse.Record) {
	if d.span == nil {
		return
	}
	defer d.span.End()
	if !d.span.IsRecording() {
		return
	}
	d.span.SetAttributes(keyResult.String(result.String()), keyInputKey.String(in.Key), keyVersion.Int64(int64(version)))
	d.h.span.SetAttributes(keyResult.String(result.String()))
	if in.Due != 0 { // its subject has the ids encoded: they are known only now
		d.h.span.SetAttributes(executionAttributes(in.Ref)...)
	}
	if result == decide.Decided {
		d.h.span.SetAttributes(keyAction.String(action(rec.Action)), keyReason.String(rec.Reason.String()))
		if rec.Path != "" {
			d.h.span.SetAttributes(taskAttributes(rec.Node, rec.Attempt)...)
		}
		d.span.SetAttributes(decisionAttributes(rec)...)
	}
}

func decisionAttributes(rec *recourse.Record) []attribute.KeyValue {
	attributes := make([]attribute.KeyValue, 0, 16)
	attributes = append(attributes, keyAction.String(action(rec.Action)), keyReason.String(rec.Reason.String()), keyLevel.String(rec.Level.String()))
	if rec.Path != "" {
		attributes = append(attributes, semconv.CICDPipelineTaskName(rec.Node.String()), keyAttempt.Int(rec.Attempt))
	}
	if rec.Strategy != "" {
		attributes = append(attributes, keyStrategy.String(rec.Strategy))
	}
	if rec.Pipeline.Revision != 0 {
		attributes = append(attributes, keyRevision.Int64(int64(rec.Pipeline.Revision)))
	}
	if rec.Command.Verb != 0 {
		attributes = append(attributes, keyCommand.String(rec.Command.Verb.String()))
	}
	if rec.Kind != "" {
		attributes = append(attributes, keyKind.String(rec.Kind))
	}
	if rec.Wait.Version != 0 {
		attributes = append(attributes, keyWaitKind.String(waitKind(rec.Wait.Kind)), keyDueAt.String(rec.Wait.DueAt.UTC().Format(time.RFC3339Nano)))
		if rec.Wait.Kind != recourse.WaitIntervention {
			attributes = append(attributes, keyDelay.Float64(time.Duration(rec.Delay).Seconds()))
		}
	}
	if rec.Ends != 0 {
		attributes = append(attributes, keyEnds.Int64(int64(rec.Ends)))
	}
	if len(rec.Cancelled) > 0 {
		superseded := make([]int64, len(rec.Cancelled))
		for i, version := range rec.Cancelled {
			superseded[i] = int64(version)
		}
		attributes = append(attributes, keySuperseded.Int64Slice(superseded))
	}
	return attributes
}

// headerSize has room for what is carried on, an event's attributes and what the journal adds.
const headerSize = 20

// Publishing is one message that is being published. The zero value tells nothing.
type Publishing struct{ span trace.Span }

// Publishing begins the span of a message that is published under the execution's prefix, and returns the header with which the
// message's receiver continues the trace; it is used again for the next message. A span's trace context is that of the message: its receivers
// are children of its publication.
func (h *Handling) Publishing(ctx context.Context, stream string, family recourse.Family, detail string) (context.Context, Publishing, nats.Header) {
	if h.header == nil {
		h.header = make(nats.Header, headerSize)
	}
	header := h.header
	clear(header)
	if h.span == nil {
		h.carried.put(header)
		return ctx, Publishing{}, header
	}
	ctx, span := h.t.tracer.Start(ctx, "publish "+stream, trace.WithSpanKind(trace.SpanKindProducer))
	if span.IsRecording() {
		span.SetAttributes(
			systemNATS, semconv.MessagingOperationName("publish"), semconv.MessagingOperationTypeSend,
			semconv.MessagingDestinationName(recourse.SubjectUnder(h.Subject.Prefix, family, detail)),
			semconv.MessagingDestinationTemplate(recourse.Filter(family)), semconv.MessagingMessageConversationID(h.Subject.Prefix),
		)
	}
	h.carried.putUnder(ctx, header)
	return ctx, Publishing{span}, header
}

// End tells what became of the message: its sequence in the stream, 0 where it is not known, or the error.
func (p Publishing) End(stream string, sequence uint64, err error) {
	if p.span == nil {
		return
	}
	defer p.span.End()
	switch {
	case errors.Is(err, decide.ErrConflict), errors.Is(err, decide.ErrUnknownOutcome):
		p.span.SetAttributes(keyOutcome.String(outcome(err))) // decided again: not a failure of ours
	case err != nil:
		fail(p.span, err)
	case sequence != 0 && p.span.IsRecording():
		p.span.SetAttributes(semconv.MessagingMessageID(messageID(stream, sequence)))
	}
}

// Settling is one settlement. The zero value tells nothing.
type Settling struct{ span trace.Span }

// Settling begins the span of a settlement: ack, nak or term.
func (h *Handling) Settling(ctx context.Context, how string) Settling {
	if h.span == nil {
		return Settling{}
	}
	_, span := h.t.tracer.Start(ctx, "settle "+h.Metadata.Stream, trace.WithSpanKind(trace.SpanKindClient))
	if span.IsRecording() {
		span.SetAttributes(
			systemNATS, semconv.MessagingOperationName(how), semconv.MessagingOperationTypeSettle,
			semconv.MessagingDestinationName(h.Msg.Subject()), semconv.MessagingDestinationTemplate(recourse.Filter(h.Subject.Family)),
			semconv.MessagingConsumerGroupName(h.Metadata.Consumer),
			semconv.MessagingMessageID(messageID(h.Metadata.Stream, h.Metadata.Sequence.Stream)),
		)
	}
	return Settling{span}
}

// End tells what became of the settlement.
func (s Settling) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		fail(s.span, err)
	}
	s.span.End()
}

func (h *Handling) result(result string) {
	if h.recording() {
		h.span.SetAttributes(keyResult.String(result))
	}
}

func (h *Handling) rejected(reason recourse.DecodeReason) {
	if h.recording() {
		h.span.SetAttributes(keyResult.String(resultRejected), keyReason.String(string(reason)))
	}
}

func (h *Handling) failed(err error) {
	if h.span != nil {
		fail(h.span, err)
	}
}

// fail marks a span: we failed at it. A decision is never that, whatever it decides.
func fail(span trace.Span, err error) {
	span.SetStatus(codes.Error, recourse.Redact(err.Error()))
	span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
}

// What became of a message that has no [decide.Result].
const (
	resultCancelled = "cancelled"
	resultRejected  = "rejected"
)

func outcome(err error) string {
	if errors.Is(err, decide.ErrConflict) {
		return "conflict"
	}
	return "unknown"
}

// action names an action for labels, which have no empty value.
func action(a recourse.Action) string {
	if a == 0 {
		return "none"
	}
	return a.String()
}

// waitKind names what is waited for, a retry of a group with the other retries.
func waitKind(k recourse.WaitKind) string {
	if k == recourse.WaitIntervention {
		return "intervention"
	}
	return "retry"
}

func names(errors recourse.ErrorTypes) []string {
	list := make([]string, 0, errors.Len())
	for e := range errors.Normalize().All {
		list = append(list, e.String())
	}
	return list
}
