// Package telemetry holds the tests of what a worker exports, seen by those who receive it: an OTLP receiver, a scraper, a reader of the log.
package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/broker/brokertest"
	"github.com/recourse-dev/recourse/internal/worker"
)

// patience is how long a test waits for what must happen; it is not what it takes.
const patience = time.Minute

// world is a server, and what talks to it.
type world struct {
	url string
	nc  *nats.Conn
	js  jetstream.JetStream
}

// pipeline has a strategy for each kind of answer.
const pipeline = `
pipeline:
  identifier: deploy
  stages:
    - stage:
        identifier: prod
        type: Deployment
        spec:
          execution:
            steps:
              - step:
                  identifier: rollout
                  type: ShellScript
                  failureStrategies:
                    - onFailure: {errors: [Timeout], action: {type: Retry, spec: {retryCount: 1, retryIntervals: [%s], onRetryFailure: {action: {type: MarkAsFailure}}}}}
                    - onFailure: {errors: [Verification], action: {type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: Abort}}}}}
                    - onFailure: {errors: [Connectivity], action: {type: Retry, spec: {retryCount: 1, retryIntervals: [1h], onRetryFailure: {action: {type: MarkAsFailure}}}}}
              - step: {identifier: smoke, type: ShellScript}
`

func newWorld(t *testing.T) *world {
	t.Helper()
	clearEnvironment(t)
	server := brokertest.Start(t)
	w := &world{url: server.URL()}
	w.nc = must(nats.Connect(w.url))(t)
	t.Cleanup(w.nc.Close)
	w.js = must(jetstream.New(w.nc))(t)
	must(broker.Provision(t.Context(), w.js, broker.ModeCreate, broker.ProvisionConfig{}))(t)
	w.register(t, "1s")
	return w
}

// register stores the pipeline with an interval for its first retry.
func (w *world) register(t *testing.T, interval string) {
	t.Helper()
	kv := must(w.js.KeyValue(t.Context(), recourse.BucketPipelines))(t)
	must(kv.Put(t.Context(), ref("any").PipelineKey(), fmt.Appendf(nil, pipeline, interval)))(t)
}

// clearEnvironment takes away what this machine has set.
func clearEnvironment(t *testing.T) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER",
		"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
		"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",
	} {
		t.Setenv(name, "")
	}
}

// export has the workers that start from now on send everything to a receiver, soon.
func export(t *testing.T, to *receiver) {
	t.Helper()
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": to.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": to.protocol,
		"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_BLRP_SCHEDULE_DELAY": "20", "OTEL_METRIC_EXPORT_INTERVAL": "100",
		"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=worker-1,deployment.environment.name=test",
	} {
		t.Setenv(name, value)
	}
}

// running is a worker that runs.
type running struct {
	admin string
	lines *lines
	stop  func() // and waits for its end
}

// start starts a worker and waits until it works.
func (w *world) start(t *testing.T, cfg worker.Config) *running {
	t.Helper()
	r := &running{admin: freeAddress(t), lines: &lines{}}
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	cfg.Log = zap.New(zapcore.NewCore(encoder, zapcore.AddSync(r.lines), zapcore.DebugLevel))
	cfg.Connection = client.Settings{Server: w.url}
	cfg.AdminListen = r.admin
	cfg.Consumer.RetryDelay = 50 * time.Millisecond
	ready := make(chan string, 1)
	cfg.Ready = func(url string) { ready <- url }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx, cfg) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("worker: %v", err)
			}
		case <-time.After(patience):
			t.Error("the worker does not end")
		}
	})
	t.Cleanup(r.stop)
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the worker ended: %v", err)
	case <-time.After(patience):
		t.Fatal("the worker does not get ready")
	}
	return r
}

// metrics asks a worker for its metrics, in the OpenMetrics format.
func (r *running) metrics(t *testing.T) string {
	t.Helper()
	request := must(http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.admin+"/metrics", nil))(t)
	request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	response := must((&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Do(request))(t)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), "application/openmetrics-text") {
		t.Fatalf("/metrics is %s, %s", response.Status, response.Header.Get("Content-Type"))
	}
	return string(must(io.ReadAll(response.Body))(t))
}

// value returns the value of a series, and whether there is one.
func value(metrics, series string) (string, bool) {
	for line := range strings.Lines(metrics) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.Fields(rest)[0], true
		}
	}
	return "", false
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// with returns the lines with a message.
func (l *lines) with(t *testing.T, message string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		fields := map[string]any{}
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%q is no JSON: %v", line, err)
		}
		if fields["msg"] == message {
			found = append(found, fields)
		}
	}
	return found
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer listener.Close()
	return listener.Addr().String()
}

func ref(execution string) recourse.Ref {
	return recourse.Ref{Account: "acme", Org: "shop", Project: "web", Pipeline: "deploy", Execution: execution}
}

// remote is the trace of somebody who publishes.
func remote(n int) nats.Header {
	return nats.Header{
		"traceparent": {fmt.Sprintf("00-%032x-%016x-01", 0xa00000+n, 0xb00000+n)}, "tracestate": {"vendor=1"}, "baggage": {"tenant=acme"},
	}
}

// publish publishes an input with a header, as a client would that is not ours, and returns the header.
func (w *world) publish(t *testing.T, family recourse.Family, in any, header nats.Header) nats.Header {
	t.Helper()
	var of recourse.Ref
	switch in := in.(type) {
	case recourse.Failure:
		of = in.Ref
	case recourse.Answer:
		of = in.Ref
	case recourse.Control:
		of = in.Ref
	case recourse.Lifecycle:
		of = in.Ref
	}
	w.raw(t, of.Subject(family, "me"), must(recourse.Encode(in))(t), header)
	return header
}

func (w *world) raw(t *testing.T, subject string, body []byte, header nats.Header) {
	t.Helper()
	must(w.js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: maps.Clone(header), Data: body}))(t)
}

func failure(execution, node string, attempt int, errors ...recourse.ErrorType) recourse.Failure {
	return recourse.Failure{Ref: ref(execution), Node: recourse.Node{Path: node}, Attempt: attempt, Errors: recourse.ErrorTypesOf(errors...)}
}

// record waits for the record of an execution with a version, and returns it with its header.
func (w *world) record(t *testing.T, execution string, version uint64) (*recourse.Record, nats.Header) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		if rec, header := w.records(t, execution); len(rec) >= int(version) {
			return rec[version-1], header[version-1]
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has no record %d", execution, version)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (w *world) records(t *testing.T, execution string) (records []*recourse.Record, headers []nats.Header) {
	t.Helper()
	for _, msg := range w.messages(t, recourse.StreamJournal) {
		rec := must(recourse.DecodeRecord(msg.Data))(t)
		if rec.Execution == execution {
			records, headers = append(records, rec), append(headers, msg.Header)
		}
	}
	return records, headers
}

// messages returns all that a stream holds.
func (w *world) messages(t *testing.T, name string) (all []*jetstream.RawStreamMsg) {
	t.Helper()
	stream := must(w.js.Stream(t.Context(), name))(t)
	state := stream.CachedInfo().State
	for sequence := state.FirstSeq; sequence <= state.LastSeq && state.Msgs > 0; sequence++ {
		if msg, err := stream.GetMsg(t.Context(), sequence); err == nil {
			all = append(all, msg)
		}
	}
	return all
}

// eventually waits for something.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
