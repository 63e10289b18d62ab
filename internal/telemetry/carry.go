package telemetry

import (
	"context"
	"strings"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
)

// The headers that carry a trace. OTEL_PROPAGATORS does not change them: they are part of the protocol.
const (
	headerParent      = "traceparent"    // the previous hop
	headerState       = "tracestate"     //
	headerBaggage     = "baggage"        // of who published first
	headerOrigin      = "ce-traceparent" // where the incident's message was first published; nobody rewrites it
	headerOriginState = "ce-tracestate"
)

// The most bytes of what is carried on, as W3C Trace Context and Baggage have them; longer values stay behind.
const (
	maxState   = 512
	maxBaggage = 8192
)

var traceContext propagation.TraceContext

// carried is the trace context of a message as it came; nil where it has none that is valid.
type carried struct {
	parent, state       []string
	origin, originState []string
	baggage             []string
}

// carriedBy reads the trace context of a header, whatever the letter case of its names.
func carriedBy(header nats.Header) (c carried) {
	if len(header) == 0 {
		return carried{}
	}
	from := client.HeaderCarrier(header)
	if c.parent = one(from.Values(headerParent)); c.parent != nil && validParent(c.parent[0]) {
		c.state = bounded(one(from.Values(headerState)), maxState)
	} else {
		c.parent = nil
	}
	if c.origin = one(from.Values(headerOrigin)); c.origin != nil && validParent(c.origin[0]) {
		c.originState = bounded(one(from.Values(headerOriginState)), maxState)
	} else { // the message is where it began
		c.origin, c.originState = c.parent, c.state
	}
	// Baggage is for whoever handles the command. What is published here is kept for good, so one with a secret stays behind.
	if c.baggage = bounded(one(from.Values(headerBaggage)), maxBaggage); c.baggage != nil && redacted(c.baggage[0]) {
		c.baggage = nil
	}
	return c
}

func redacted(baggage string) bool {
	for member := range strings.SplitSeq(baggage, ",") { // each is short enough for Redact not to cut it, or stays behind
		if recourse.Redact(member) != member {
			return true
		}
	}
	return false
}

// one returns the first value, without a copy.
func one(values []string) []string {
	if len(values) == 0 {
		return nil
	}
	return values[:1:1]
}

func bounded(values []string, most int) []string {
	if len(values) == 0 || values[0] == "" || len(values[0]) > most {
		return nil
	}
	return values
}

// put writes what came into the header of what is published.
func (c *carried) put(header nats.Header) {
	for _, h := range [...]struct {
		name   string
		values []string
	}{{headerParent, c.parent}, {headerState, c.state}, {headerOrigin, c.origin}, {headerOriginState, c.originState}, {headerBaggage, c.baggage}} {
		if h.values != nil {
			header[h.name] = h.values
		}
	}
}

// putUnder is put with the span of ctx as the previous hop.
func (c *carried) putUnder(ctx context.Context, header nats.Header) {
	c.put(header)
	delete(header, headerState)
	traceContext.Inject(ctx, client.HeaderCarrier(header))
}

// beginAt makes the span of ctx the origin of a message that came without one.
func (c *carried) beginAt(ctx context.Context) {
	header := nats.Header{}
	traceContext.Inject(ctx, client.HeaderCarrier(header))
	c.origin, c.originState = header[headerParent], header[headerState]
}

// spanContext returns the remote span that a traceparent and a tracestate name; not a valid one where they name none.
func spanContext(parent, state []string) trace.SpanContext {
	if parent == nil {
		return trace.SpanContext{}
	}
	from := propagation.MapCarrier{headerParent: parent[0]}
	if state != nil {
		from[headerState] = state[0]
	}
	return trace.SpanContextFromContext(traceContext.Extract(context.Background(), from))
}

// validParent reports whether a traceparent can be carried on: version, trace id, span id and flags, the ids not zero. It is what is
// asked of each message, so it does not parse; who continues the trace does.
func validParent(s string) bool {
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return false
	}
	trace, span := false, false
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 2 || i == 35 || i == 52:
			continue
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		case c == '0':
		case 3 <= i && i < 35:
			trace = true
		case 36 <= i && i < 52:
			span = true
		}
	}
	return trace && span
}
