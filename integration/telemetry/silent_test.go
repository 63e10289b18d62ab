package telemetry

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/worker"
)

// TestSilent: without a variable, or with the SDK disabled, nothing is sent, nothing is said about it, and a trace passes through.
func TestSilent(t *testing.T) {
	for name, set := range map[string]func(*testing.T, *receiver){
		"nothing set": func(*testing.T, *receiver) {},
		"disabled": func(t *testing.T, r *receiver) {
			export(t, r)
			t.Setenv("OTEL_SDK_DISABLED", "TRUE")
		},
		"no exporters": func(t *testing.T, r *receiver) {
			export(t, r)
			for _, signal := range []string{"TRACES", "METRICS", "LOGS"} {
				t.Setenv("OTEL_"+signal+"_EXPORTER", "none")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := newReceiver(t, "http/protobuf")
			set(t, r)
			knocked := make(chan string, 10)
			for _, usual := range []string{"127.0.0.1:4317", "127.0.0.1:4318"} {
				listener, err := net.Listen("tcp", usual)
				if err != nil {
					t.Logf("SKIP the look at %s: %v", usual, err)
					continue
				}
				t.Cleanup(func() { _ = listener.Close() })
				go func() {
					if c, err := listener.Accept(); err == nil {
						knocked <- usual
						_ = c.Close()
					}
				}()
			}
			running := w.start(t, worker.Config{})
			came := w.publish(t, recourse.FamilyFailure, failure("silent", "prod/smoke", 1), remote(1))
			_, header := w.record(t, "silent", 1)
			for name, want := range map[string]string{
				"traceparent": came.Get("traceparent"), "tracestate": "vendor=1", "baggage": "tenant=acme",
				"ce-traceparent": came.Get("traceparent"), "ce-tracestate": "vendor=1",
			} {
				if got := header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			eventually(t, "the line", func() bool { return len(running.lines.with(t, "decided")) == 1 })
			line := running.lines.with(t, "decided")[0]
			if want := strings.Split(came.Get("traceparent"), "-"); line["trace_id"] != want[1] || line["span_id"] != want[2] {
				t.Errorf("the line is at %v %v, want %s", line["trace_id"], line["span_id"], want)
			}
			running.stop()
			if n := r.calls.Load(); n != 0 {
				t.Errorf("%d calls to the receiver", n)
			}
			select {
			case usual := <-knocked:
				t.Errorf("somebody came to %s", usual)
			default:
			}
			// With the colon and the end: the digits alone stand in a time now and then.
			if word := regexp.MustCompile(`otlp|OTEL|telemetry|:431[78]\b`).FindString(running.lines.String()); word != "" {
				t.Errorf("the log speaks of %s:\n%s", word, running.lines)
			}
		})
	}
}

// TestCollectorAway: an exporter whose collector is away costs a few lines, and the end is bounded.
func TestCollectorAway(t *testing.T) {
	w := newWorld(t)
	export(t, &receiver{endpoint: "http://" + freeAddress(t), protocol: "grpc"})
	running := w.start(t, worker.Config{})
	for n := range 50 {
		w.publish(t, recourse.FamilyFailure, failure("away", "prod/smoke", n+1), remote(n))
	}
	w.record(t, "away", 50)
	begun := time.Now()
	running.stop()
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if n := len(running.lines.with(t, "telemetry is not exported")) + len(running.lines.with(t, "telemetry was lost at the end")); n == 0 || n > 3 {
		t.Errorf("%d lines about it:\n%s", n, running.lines)
	}
	if n := len(running.lines.with(t, "decided")); n != 50 {
		t.Errorf("%d lines of decisions", n)
	}
}

// TestWrongSettings: a setting that cannot be is said at the start.
func TestWrongSettings(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_TRACES_SAMPLER": "sometimes", "OTEL_TRACES_EXPORTER": "carrier-pigeon", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke",
	} {
		clearEnvironment(t)
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
		t.Setenv("OTEL_METRICS_EXPORTER", "none")
		t.Setenv("OTEL_LOGS_EXPORTER", "none")
		t.Setenv(name, value)
		err := worker.Run(t.Context(), worker.Config{Connection: client.Settings{Server: "nats://127.0.0.1:1"}})
		if err == nil || !strings.Contains(err.Error(), "telemetry: traces: ") {
			t.Errorf("%s=%s: %v", name, value, err)
		}
		t.Setenv(name, "")
	}
}

// TestLogs: the same lines go out as log records, at the place in the trace that the line names.
func TestLogs(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, "http/protobuf")
	export(t, r)
	running := w.start(t, worker.Config{})
	w.publish(t, recourse.FamilyFailure, failure("logged", "prod/smoke", 1), remote(1))
	process, _ := w.story(r, "logged").next(t)
	running.stop()
	line := running.lines.with(t, "decided")[0]
	if line["trace_id"] != process.trace || line["span_id"] != process.id || line["execution"] != ref("logged").String() || line["action"] != "MarkAsFailure" {
		t.Errorf("the line is %v, the span %s", line, process.at())
	}
	found := 0
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.logs {
		for _, of := range q.ResourceLogs {
			if of.Resource == nil || attributes(of.Resource.Attributes)["service.instance.id"] != "worker-1" {
				t.Errorf("resource %v", of.Resource)
			}
			for _, scope := range of.ScopeLogs {
				for _, record := range scope.LogRecords {
					if words(record.Body) != "decided" {
						continue
					}
					found++
					has := attributes(record.Attributes)
					if string(record.TraceId) != hexBytes(t, process.trace) || string(record.SpanId) != hexBytes(t, process.id) ||
						record.SeverityText != "info" || has["action"] != "MarkAsFailure" || has["trace_id"] != "" {
						t.Errorf("%v", record)
					}
				}
			}
		}
	}
	if found != 1 {
		t.Errorf("%d records of the decision", found)
	}
}

// canaries are secrets in the shapes in which they come, each with a part that must be found nowhere.
var canaries = map[string]string{
	"password":   "login failed: password=canary-hunter2-a for deploy",
	"token":      "Authorization: Bearer canary-Tok3n-b.xyz",
	"url":        "fetch https://bob:canary-pw-c@git.example.com/x.git failed",
	"key":        `{"api_key": "canary-k3y-d"}`,
	"github":     "remote: ghp_canarye000000000000000000000000000000 was refused",
	"cloud":      "AWS_SECRET_ACCESS_KEY=canary/f+000000000000",
	"privatekey": "-----BEGIN RSA PRIVATE KEY-----\ncanaryg\n-----END RSA PRIVATE KEY-----",
}

// TestCanary: a secret in what a delegate reports is found nowhere afterwards.
func TestCanary(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, "grpc")
	export(t, r)
	running := w.start(t, worker.Config{})
	delegate := must(client.NewDelegate(w.nc, "me"))(t)
	for name, message := range canaries {
		for n, kind := range []recourse.ErrorType{recourse.Timeout, recourse.Verification, recourse.Unknown} {
			f := failure("canary-of-"+name, "prod/rollout", n+1, kind)
			f.Message, f.Target = message, message
			must(delegate.Report(t.Context(), f))(t)
		}
	}
	for name := range canaries {
		w.record(t, "canary-of-"+name, 3)
	}
	look := func(streams ...string) {
		t.Helper()
		for _, stream := range streams {
			for _, msg := range w.messages(t, stream) {
				all := append(must(json.Marshal(msg.Header))(t), msg.Data...)
				nowhere(t, stream+" "+msg.Subject, all)
			}
		}
	}
	look(recourse.StreamInbox, recourse.StreamJournal, recourse.StreamTimers, recourse.StreamRejected, "KV_"+recourse.BucketPipelines)

	// What somebody publishes who does not redact is in the inbox, and where it cannot be decided among the rejected, as it came. Nothing
	// else has it.
	for name, message := range canaries {
		f := failure("raw-"+name, "prod/rollout", 1, recourse.Verification)
		f.Message = message
		w.publish(t, recourse.FamilyFailure, f, nats.Header{"baggage": {"note=" + strings.Fields(message)[0]}, "traceparent": {message}})
		w.raw(t, ref("bad-"+name).Subject(recourse.FamilyFailure, "me"), must(json.Marshal(map[string]any{"attempt": message, message: 1}))(t), nil)
		w.record(t, "raw-"+name, 1)
		w.publish(t, recourse.FamilyIntervention, recourse.Answer{Ref: ref("raw-" + name), Intervention: 1, Action: recourse.Ignore, Why: message, Who: message}, nil)
		w.record(t, "raw-"+name, 2)
	}
	eventually(t, "the rejections", func() bool { return len(w.messages(t, recourse.StreamRejected)) == len(canaries) })
	look(recourse.StreamJournal, recourse.StreamTimers, "KV_"+recourse.BucketPipelines)
	for _, msg := range w.messages(t, recourse.StreamRejected) {
		nowhere(t, "the reason of a rejection", must(json.Marshal(msg.Header))(t))
	}
	metrics := running.metrics(t)
	running.stop()
	nowhere(t, "the log", []byte(running.lines.String()))
	nowhere(t, "the metrics", []byte(metrics))
	nowhere(t, "what was exported", r.everything(t))
	if len(r.spans()) == 0 {
		t.Error("nothing was exported")
	}
}

func nowhere(t *testing.T, where string, content []byte) {
	t.Helper()
	for _, canary := range []string{"canary-hunter2-a", "canary-Tok3n-b", "canary-pw-c", "canary-k3y-d", "ghp_canarye", "canary/f+0", "canaryg"} {
		if at := bytes.Index(content, []byte(canary)); at >= 0 {
			t.Errorf("%s has the secret: …%s…", where, content[max(at-60, 0):min(at+60, len(content))])
		}
	}
}

func hexBytes(t *testing.T, text string) string {
	t.Helper()
	return string(must(hex.DecodeString(text))(t))
}
