package client

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"
)

func TestHeaderCarrierReadsEveryLetterCase(t *testing.T) {
	// Every variation of the first letters, and the usual ones of the whole.
	const key = "traceparent"
	spellings := []string{"TRACEPARENT", "Traceparent", "TraceParent", "traceParent"}
	for mask := range 1 << len(key) {
		b := []byte(key)
		for i := range b {
			if mask&(1<<i) != 0 {
				b[i] -= 'a' - 'A'
			}
		}
		spellings = append(spellings, string(b))
	}
	for _, spelling := range spellings {
		c := HeaderCarrier{spelling: {"value"}}
		for _, asked := range []string{key, strings.ToUpper(key), spelling} {
			if got := c.Get(asked); got != "value" {
				t.Fatalf("written as %q, Get(%q) = %q", spelling, asked, got)
			}
		}
	}
}

func TestHeaderCarrier(t *testing.T) {
	var none HeaderCarrier
	if none.Get("a") != "" || none.Values("a") != nil || len(none.Keys()) != 0 {
		t.Error("a nil carrier has something")
	}
	c := HeaderCarrier{"Key": {"upper", "second"}, "KEY": {"all upper"}, "empty": {}, "nil": nil}
	if got := c.Get("key"); got != "all upper" {
		t.Errorf("of two spellings the first in byte order counts, got %q", got)
	}
	c["key"] = []string{"lower", "more"}
	if got := c.Get("KEY"); got != "lower" {
		t.Errorf("the lower-case spelling and the first value count, got %q", got)
	}
	if got := c.Values("Key"); !slices.Equal(got, []string{"lower", "more"}) {
		t.Errorf("Values = %q", got)
	}
	if c.Get("empty") != "" || c.Get("nil") != "" {
		t.Error("a key without values has one")
	}
	if got := c.Keys(); !slices.Equal(got, []string{"empty", "key", "nil"}) {
		t.Errorf("Keys = %q", got)
	}
	c.Set("KEY", "only")
	if got := nats.Header(c); len(got) != 3 || !slices.Equal(got["key"], []string{"only"}) {
		t.Errorf("after Set: %v", got)
	}
}

// spanContext returns a ctx with a sampled span, and the span.
func spanContext(ctx context.Context) (context.Context, trace.SpanContext) {
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3}, TraceFlags: trace.FlagsSampled})
	return trace.ContextWithSpanContext(ctx, span), span
}

func TestTraceTravels(t *testing.T) {
	ctx, span := spanContext(t.Context())
	header := nats.Header{}
	injectTrace(ctx, header)
	if header["traceparent"] == nil || header["ce-traceparent"] == nil || header["ce-traceparent"][0] != header["traceparent"][0] {
		t.Errorf("headers: %v", header)
	}
	// Another client wrote it canonically, and twice.
	other := nats.Header{"Traceparent": append(header["traceparent"], "rubbish")}
	got := trace.SpanContextFromContext(extractTrace(t.Context(), other))
	if got.TraceID() != span.TraceID() || got.SpanID() != span.SpanID() || !got.IsRemote() || !got.IsSampled() {
		t.Errorf("got %v, want %v", got, span)
	}
	for name, header := range map[string]nats.Header{"nil": nil, "empty": {"traceparent": {}}, "rubbish": {"traceparent": {"00-xyz"}}} {
		if trace.SpanContextFromContext(extractTrace(t.Context(), header)).IsValid() {
			t.Errorf("%s: a trace came of it", name)
		}
	}
	// Baggage reaches whoever handles the message, and goes no further through here.
	with := extractTrace(t.Context(), nats.Header{"traceparent": header["traceparent"], "BAGGAGE": {"tenant=acme"}})
	if got := baggage.FromContext(with).Member("tenant").Value(); got != "acme" {
		t.Errorf("baggage %q", got)
	}
	further := nats.Header{}
	injectTrace(with, further)
	if HeaderCarrier(further).Get("baggage") != "" || HeaderCarrier(further).Get("traceparent") == "" {
		t.Errorf("headers: %v", further)
	}
	injectTrace(t.Context(), header)
	plain := nats.Header{}
	injectTrace(t.Context(), plain)
	if len(plain) != 0 {
		t.Errorf("without a trace: %v", plain)
	}
}
