package telemetry

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// sampler returns the sampler that OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG name, made such that it keeps or drops an incident
// whole. An incident is many traces: each wait ends one, and its firing begins another that only links to it.
func sampler(name, arg string) (sdk.Sampler, error) {
	name = strings.ToLower(strings.TrimSpace(name))
	ratio := 1.0
	if strings.HasSuffix(name, "traceidratio") && strings.TrimSpace(arg) != "" {
		var err error
		if ratio, err = strconv.ParseFloat(strings.TrimSpace(arg), 64); err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG %q: want a ratio from 0 to 1", arg)
		}
	}
	switch name {
	case "", "parentbased_always_on":
		return sdk.ParentBased(whole{sdk.AlwaysSample()}), nil
	case "parentbased_always_off":
		return sdk.ParentBased(whole{sdk.NeverSample()}), nil
	case "parentbased_traceidratio":
		return sdk.ParentBased(whole{sdk.TraceIDRatioBased(ratio)}), nil
	case "always_on":
		return sdk.AlwaysSample(), nil
	case "always_off":
		return sdk.NeverSample(), nil
	case "traceidratio": // what a delegate decided does not count, by its trace id it may yet
		ours := sdk.TraceIDRatioBased(ratio)
		return sdk.ParentBased(whole{ours}, sdk.WithRemoteParentSampled(ours), sdk.WithRemoteParentNotSampled(ours)), nil
	default:
		return nil, fmt.Errorf("OTEL_TRACES_SAMPLER %q: want always_on, always_off, traceidratio or one of these after parentbased_", name)
	}
}

// whole samples roots: as what they link to was sampled, else by their execution. So an incident stays whole also where a delegate
// carries no trace: each of its messages begins a trace of its own, and all of them come out the same.
type whole struct{ root sdk.Sampler }

// ShouldSample implements the SDK's Sampler.
func (w whole) ShouldSample(p sdk.SamplingParameters) sdk.SamplingResult {
	linked := false
	for i := range p.Links {
		linked = linked || p.Links[i].SpanContext.IsValid()
		if p.Links[i].SpanContext.IsSampled() {
			return sdk.AlwaysSample().ShouldSample(p)
		}
	}
	if linked {
		return sdk.NeverSample().ShouldSample(p)
	}
	if execution := conversation(p.Attributes); execution != "" {
		sum := sha256.Sum256([]byte(execution))
		p.TraceID = trace.TraceID(sum[:16])
	}
	return w.root.ShouldSample(p)
}

// Description implements the SDK's Sampler.
func (w whole) Description() string { return "WholeIncidents{" + w.root.Description() + "}" }

func conversation(attributes []attribute.KeyValue) string {
	for i := range attributes {
		if attributes[i].Key == semconv.MessagingMessageConversationIDKey {
			return attributes[i].Value.AsString()
		}
	}
	return ""
}
