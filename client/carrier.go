package client

import (
	"context"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
)

// HeaderCarrier carries a trace context in the headers of a NATS message. It writes lower-case keys, as W3C Trace Context
// names them, and reads a key in any letter case: nats.Header itself is case-sensitive, and other clients write
// "Traceparent".
//
// Of a key with several values the first counts. Where a key stands in several spellings, the lower-case one counts, else the
// first in byte order. Reading a nil carrier finds nothing; writing to one panics, as with any nil map.
type HeaderCarrier nats.Header

var (
	_ propagation.TextMapCarrier = HeaderCarrier{}
	_ propagation.ValuesGetter   = HeaderCarrier{}
)

// Get returns the first value of key, "" where there is none.
func (c HeaderCarrier) Get(key string) string {
	if values := c.Values(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Values returns the values of key in the spelling that counts, nil where there is none.
func (c HeaderCarrier) Values(key string) []string {
	key = strings.ToLower(key)
	if values, ok := c[key]; ok {
		return values
	}
	spelling := ""
	for k := range c {
		if strings.EqualFold(k, key) && (spelling == "" || k < spelling) {
			spelling = k
		}
	}
	return c[spelling]
}

// Set makes value the only value of key: other spellings of it are removed.
func (c HeaderCarrier) Set(key, value string) {
	key = strings.ToLower(key)
	for k := range c {
		if k != key && strings.EqualFold(k, key) {
			delete(c, k)
		}
	}
	c[key] = []string{value}
}

// Keys returns the keys in lower case, each once, in byte order.
func (c HeaderCarrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, strings.ToLower(k))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// traceContext is fixed, not the program's global propagator: it is part of the protocol, and a delegate that sets no
// propagator of its own must not cut the trace. Baggage is read, for whoever continues the trace out of here, and not written, since what
// is published here is kept for good.
var (
	traceContext propagation.TraceContext
	baggageHeld  propagation.Baggage
)

const (
	originParent = "ce-traceparent" // the trace in which a message was first published; nobody rewrites it
	originState  = "ce-tracestate"
)

// injectTrace writes the trace context of ctx as that of this hop and as the origin.
func injectTrace(ctx context.Context, header nats.Header) {
	carrier := HeaderCarrier(header)
	traceContext.Inject(ctx, carrier)
	if parent := carrier.Get("traceparent"); parent != "" {
		carrier.Set(originParent, parent)
	}
	if state := carrier.Get("tracestate"); state != "" {
		carrier.Set(originState, state)
	}
}

// extractTrace returns ctx with the remote span and the baggage of the message, ctx itself where the message has none that is valid.
func extractTrace(ctx context.Context, header nats.Header) context.Context {
	return baggageHeld.Extract(traceContext.Extract(ctx, HeaderCarrier(header)), HeaderCarrier(header))
}
