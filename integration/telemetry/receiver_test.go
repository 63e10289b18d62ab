package telemetry

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	logspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	spanpb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// receiver is an OTLP receiver in the test: it keeps what workers send.
type receiver struct {
	endpoint string
	protocol string // as OTEL_EXPORTER_OTLP_PROTOCOL names it
	calls    atomic.Int64

	mu      sync.Mutex
	traces  []*tracepb.ExportTraceServiceRequest
	metrics []*metricspb.ExportMetricsServiceRequest
	logs    []*logspb.ExportLogsServiceRequest
}

// newReceiver starts a receiver that speaks "grpc" or "http/protobuf".
func newReceiver(t *testing.T, protocol string) *receiver {
	t.Helper()
	r := &receiver{protocol: protocol}
	if protocol == "grpc" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		tracepb.RegisterTraceServiceServer(s, &traceService{r: r})
		metricspb.RegisterMetricsServiceServer(s, &metricsService{r: r})
		logspb.RegisterLogsServiceServer(s, &logsService{r: r})
		go func() { _ = s.Serve(listener) }() // ends with Stop
		t.Cleanup(s.Stop)
		r.endpoint = "http://" + listener.Addr().String()
		return r
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(rw http.ResponseWriter, q *http.Request) {
		serve(rw, q, &tracepb.ExportTraceServiceRequest{}, r.trace)
	})
	mux.HandleFunc("POST /v1/metrics", func(rw http.ResponseWriter, q *http.Request) {
		serve(rw, q, &metricspb.ExportMetricsServiceRequest{}, r.metric)
	})
	mux.HandleFunc("POST /v1/logs", func(rw http.ResponseWriter, q *http.Request) {
		serve(rw, q, &logspb.ExportLogsServiceRequest{}, r.log)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	r.endpoint = s.URL
	return r
}

func serve[T proto.Message](rw http.ResponseWriter, q *http.Request, into T, keep func(T)) {
	body := io.Reader(q.Body)
	if q.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(q.Body)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	content, err := io.ReadAll(body)
	if err == nil {
		err = proto.Unmarshal(content, into)
	}
	if err != nil || q.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(rw, fmt.Sprint(err), http.StatusBadRequest)
		return
	}
	keep(into)
	rw.Header().Set("Content-Type", "application/x-protobuf")
}

func (r *receiver) trace(q *tracepb.ExportTraceServiceRequest) {
	r.calls.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.traces = append(r.traces, q)
}

func (r *receiver) metric(q *metricspb.ExportMetricsServiceRequest) {
	r.calls.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.metrics = append(r.metrics, q)
}

func (r *receiver) log(q *logspb.ExportLogsServiceRequest) {
	r.calls.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logs = append(r.logs, q)
}

type traceService struct {
	tracepb.UnimplementedTraceServiceServer
	r *receiver
}

func (s *traceService) Export(_ context.Context, q *tracepb.ExportTraceServiceRequest) (*tracepb.ExportTraceServiceResponse, error) {
	s.r.trace(q)
	return &tracepb.ExportTraceServiceResponse{}, nil
}

type metricsService struct {
	metricspb.UnimplementedMetricsServiceServer
	r *receiver
}

func (s *metricsService) Export(_ context.Context, q *metricspb.ExportMetricsServiceRequest) (*metricspb.ExportMetricsServiceResponse, error) {
	s.r.metric(q)
	return &metricspb.ExportMetricsServiceResponse{}, nil
}

type logsService struct {
	logspb.UnimplementedLogsServiceServer
	r *receiver
}

func (s *logsService) Export(_ context.Context, q *logspb.ExportLogsServiceRequest) (*logspb.ExportLogsServiceResponse, error) {
	s.r.log(q)
	return &logspb.ExportLogsServiceResponse{}, nil
}

// span is a received span, in words.
type span struct {
	name, kind           string
	trace, id, parent    string
	links                []string // trace/span
	attributes           map[string]string
	status, says, schema string
	events               int
	resource             map[string]string
	start, end           time.Time
}

// at is where the span is: trace/span.
func (s *span) at() string { return s.trace + "/" + s.id }

// parentOf is what a traceparent of the span is.
func (s *span) traceparent() string { return "00-" + s.trace + "-" + s.id + "-01" }

// spans returns what has come, in the order in which the spans began.
func (r *receiver) spans() (spans []*span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.traces {
		for _, of := range q.ResourceSpans {
			for _, scope := range of.ScopeSpans {
				for _, s := range scope.Spans {
					got := &span{
						name: s.Name, kind: kinds[s.Kind], trace: hex.EncodeToString(s.TraceId), id: hex.EncodeToString(s.SpanId),
						parent: hex.EncodeToString(s.ParentSpanId), attributes: attributes(s.Attributes), status: s.Status.GetCode().String(),
						says: s.Status.GetMessage(), schema: scope.SchemaUrl, events: len(s.Events), resource: attributes(of.Resource.Attributes),
						start: time.Unix(0, int64(s.StartTimeUnixNano)), end: time.Unix(0, int64(s.EndTimeUnixNano)),
					}
					for _, l := range s.Links {
						got.links = append(got.links, hex.EncodeToString(l.TraceId)+"/"+hex.EncodeToString(l.SpanId))
					}
					spans = append(spans, got)
				}
			}
		}
	}
	slices.SortStableFunc(spans, func(a, b *span) int { return a.start.Compare(b.start) })
	return spans
}

var kinds = map[spanpb.Span_SpanKind]string{
	spanpb.Span_SPAN_KIND_CONSUMER: "CONSUMER", spanpb.Span_SPAN_KIND_PRODUCER: "PRODUCER",
	spanpb.Span_SPAN_KIND_INTERNAL: "INTERNAL", spanpb.Span_SPAN_KIND_CLIENT: "CLIENT",
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, kv := range list {
		m[kv.Key] = words(kv.Value)
	}
	return m
}

func words(v *commonpb.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *commonpb.AnyValue_DoubleValue:
		return fmt.Sprint(v.DoubleValue)
	case *commonpb.AnyValue_BoolValue:
		return fmt.Sprint(v.BoolValue)
	case *commonpb.AnyValue_ArrayValue:
		var list []string
		for _, one := range v.ArrayValue.Values {
			list = append(list, words(one))
		}
		return fmt.Sprint(list)
	default:
		return fmt.Sprint(v)
	}
}

// everything is all that was received, as bytes.
func (r *receiver) everything(t *testing.T) []byte {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []byte
	put := func(m proto.Message) {
		content, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, content...)
	}
	for _, q := range r.traces {
		put(q)
	}
	for _, q := range r.metrics {
		put(q)
	}
	for _, q := range r.logs {
		put(q)
	}
	return all
}
