package telemetry

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/retry/timer"
	"github.com/recourse-dev/recourse/internal/worker"
)

// documented are the names of docs/telemetry.md: in OpenTelemetry, in Prometheus without the suffix of a kind, and the labels.
var documented = []struct{ otel, prometheus, unit, labels string }{
	{"recourse.decisions", "recourse_decisions_total", "{decision}", "recourse_action recourse_level recourse_reason"},
	{"recourse.decision.duration", "recourse_decision_duration_seconds_count", "s", "recourse_input"},
	{"recourse.event.age", "recourse_event_age_seconds_count", "s", "recourse_input"},
	{"recourse.retry.lateness", "recourse_retry_lateness_seconds_count", "s", "recourse_wait_kind"},
	{"recourse.inputs.unrecorded", "recourse_inputs_unrecorded_total", "{input}", "recourse_result"},
	{"recourse.inputs.handed_over", "recourse_inputs_handed_over_total", "{input}", ""},
	{"recourse.rejected", "recourse_rejected_total", "{input}", "recourse_reason"},
	{"recourse.waits", "recourse_waits", "{wait}", ""},
	{"recourse.interventions.open", "recourse_interventions_open", "{intervention}", ""},
	{"recourse.consumer.pending", "recourse_consumer_pending", "{message}", "messaging_consumer_group_name"},
	{"recourse.consumer.ack_pending", "recourse_consumer_ack_pending", "{message}", "messaging_consumer_group_name"},
	{"recourse.ready", "recourse_ready", "{worker}", ""},
}

// TestMetrics: one set of instruments is read in two ways, and says what happened.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, "grpc")
	export(t, r)
	running := w.start(t, worker.Config{})
	const execution = "an-execution-nobody-wants-on-a-metric"
	for range 2 { // and a duplicate
		w.publish(t, recourse.FamilyFailure, failure(execution, "prod/rollout", 1, recourse.Timeout), remote(1))
	}
	w.publish(t, recourse.FamilyFailure, failure(execution, "prod/rollout[1]", 1, recourse.Verification), remote(2))
	w.raw(t, ref(execution).Subject(recourse.FamilyFailure, "me"), []byte("{"), remote(3))
	eventually(t, "the retry, and the rejection", func() bool {
		records, _ := w.records(t, execution)
		n, _ := value(running.metrics(t), `recourse_rejected_total{recourse_reason="bad-json"}`)
		return len(records) == 3 && n == "1.0"
	})
	for _, reason := range recourse.DecodeReasons() {
		if n, _ := value(running.metrics(t), `recourse_rejected_total{recourse_reason="`+string(reason)+`"}`); n == "" {
			t.Errorf("rejections as %s do not begin at 0", reason)
		}
	}
	metrics := ""
	for _, want := range []struct{ series, value string }{
		{`recourse_decisions_total{recourse_action="Retry",recourse_level="step",recourse_reason="StrategyMatched"}`, "1.0"},
		{`recourse_decisions_total{recourse_action="Retry",recourse_level="step",recourse_reason="RetryDue"}`, "1.0"},
		{`recourse_decisions_total{recourse_action="ManualIntervention",recourse_level="step",recourse_reason="StrategyMatched"}`, "1.0"},
		{`recourse_decision_duration_seconds_count{recourse_input="failure"}`, "2"},
		{`recourse_decision_duration_seconds_count{recourse_input="due"}`, "1"},
		{`recourse_event_age_seconds_count{recourse_input="failure"}`, "4"},
		{`recourse_retry_lateness_seconds_count{recourse_wait_kind="retry"}`, "1"},
		{`recourse_inputs_unrecorded_total{recourse_result="repeated"}`, "1.0"},
		{`recourse_waits`, "1.0"},
		{`recourse_interventions_open`, "1.0"},
		{`recourse_consumer_pending{messaging_consumer_group_name="recourse-worker"}`, "0.0"},
		{`recourse_consumer_ack_pending{messaging_consumer_group_name="recourse-due"}`, "0.0"},
		{`recourse_ready`, "1.0"},
	} {
		eventually(t, want.series+" "+want.value, func() bool {
			metrics = running.metrics(t)
			got, _ := value(metrics, want.series)
			return got == want.value
		})
	}
	if !strings.Contains(metrics, `service_name="recourse-worker"`) || !strings.Contains(metrics, "go_goroutines ") || !strings.Contains(metrics, "process_cpu_seconds_total ") {
		t.Error("target_info, go_ or process_ are missing")
	}
	// Nothing that could be many.
	if strings.Contains(metrics, execution) || strings.Contains(metrics, "rollout") {
		t.Error("an execution or a node is on a metric")
	}
	page := string(must(os.ReadFile("../../docs/telemetry.md"))(t))
	for _, d := range documented {
		if row := "| `" + d.otel + "` | `" + strings.TrimSuffix(d.prometheus, "_count") + "` |"; !strings.Contains(page, row) {
			t.Errorf("docs/telemetry.md has no row %s", row)
		}
		labels := map[string]bool{}
		for _, series := range regexp.MustCompile(`(?m)^`+d.prometheus+`(?:\{([^}]*)\})? `).FindAllStringSubmatch(metrics, -1) {
			var names []string
			for _, pair := range regexp.MustCompile(`([a-z_]+)="`).FindAllStringSubmatch(series[1], -1) {
				names = append(names, pair[1])
			}
			labels[strings.Join(names, " ")] = true
		}
		if len(labels) != 1 || !labels[d.labels] {
			t.Errorf("%s has labels %v, want %q", d.prometheus, labels, d.labels)
		}
	}

	// An exemplar leads from each histogram to a trace that was sent.
	traces := map[string]bool{}
	for _, s := range r.spans() {
		traces[s.trace] = true
	}
	for _, histogram := range []string{"recourse_decision_duration_seconds", "recourse_event_age_seconds", "recourse_retry_lateness_seconds"} {
		found := regexp.MustCompile(`(?m)^`+histogram+`_bucket\{.*\} [0-9]+ # \{(.*)\} `).FindAllStringSubmatch(metrics, -1)
		if len(found) == 0 {
			t.Errorf("%s has no exemplar", histogram)
		}
		for _, exemplar := range found {
			id := regexp.MustCompile(`trace_id="([0-9a-f]{32})"`).FindStringSubmatch(exemplar[1])
			if id == nil || !traces[id[1]] || !strings.Contains(exemplar[1], "span_id=") || strings.Contains(exemplar[1], execution) {
				t.Errorf("%s has the exemplar %s, which is no trace of ours", histogram, exemplar[1])
			}
		}
	}

	// The same over OTLP.
	running.stop()
	exported := r.exported()
	for _, d := range documented {
		if unit, ok := exported[d.otel]; !ok || unit != d.unit {
			t.Errorf("%s came with unit %q (%t), want %q", d.otel, unit, ok, d.unit)
		}
	}
	known := []string{"cicd.system.errors", "recourse.conflicts", "recourse.waits.rearmed"}
	for _, d := range documented {
		known = append(known, d.otel)
	}
	for name := range exported {
		if !slices.Contains(known, name) {
			t.Errorf("%s came, and is not documented", name)
		}
	}
}

// exported returns the names of the metrics that came, with their units.
func (r *receiver) exported() map[string]string {
	names := map[string]string{}
	r.each(func(m *metricspb.Metric) { names[m.Name] = m.Unit })
	return names
}

func (r *receiver) each(do func(*metricspb.Metric)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.metrics {
		for _, of := range q.ResourceMetrics {
			for _, scope := range of.ScopeMetrics {
				for _, m := range scope.Metrics {
					do(m)
				}
			}
		}
	}
}

// TestGaugesOfManyWorkers: each worker tells the same, whoever did what, also after it ended.
func TestGaugesOfManyWorkers(t *testing.T) {
	w := newWorld(t)
	workers := []*running{w.start(t, worker.Config{}), w.start(t, worker.Config{})}
	for n, execution := range []string{"one", "two", "three", "four", "five", "six"} {
		w.publish(t, recourse.FamilyFailure, failure(execution, "prod/rollout", 1, recourse.Verification), nil)
		if n%2 == 0 {
			w.publish(t, recourse.FamilyFailure, failure(execution, "prod/rollout[1]", 1, recourse.Connectivity), nil)
		}
	}
	tell := func(worker *running, waits, open string) {
		t.Helper()
		eventually(t, waits+" waits, "+open+" open interventions", func() bool {
			metrics := worker.metrics(t)
			w, _ := value(metrics, "recourse_waits")
			o, _ := value(metrics, "recourse_interventions_open")
			return w == waits && o == open
		})
	}
	for _, worker := range workers {
		tell(worker, "9.0", "6.0")
	}
	// One ends; another that comes knows as much.
	workers[0].stop()
	workers[0] = w.start(t, worker.Config{})
	for _, worker := range workers {
		tell(worker, "9.0", "6.0")
	}
	// One intervention is answered, one execution ends with an intervention and a retry pending. Whoever did it knows at once, long
	// before it looks; who comes later finds it in the journal.
	workers[1].stop()
	begun := time.Now()
	w.publish(t, recourse.FamilyIntervention, recourse.Answer{Ref: ref("two"), Intervention: 1, Action: recourse.Ignore, Why: "known"}, nil)
	w.publish(t, recourse.FamilyLifecycle, recourse.Lifecycle{Ref: ref("one"), Event: recourse.Finished}, nil)
	tell(workers[0], "6.0", "4.0")
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it took %s until the worker knew what it did itself", took)
	}
	tell(w.start(t, worker.Config{}), "6.0", "4.0")
}

// TestErrorsAreCounted: what a worker fails at is one line and one count.
func TestErrorsAreCounted(t *testing.T) {
	w := newWorld(t)
	running := w.start(t, worker.Config{})
	stream := must(w.js.Stream(t.Context(), recourse.StreamRejected))(t)
	full := stream.CachedInfo().Config
	full.MaxMsgSize = 10
	must(w.js.UpdateStream(t.Context(), full))(t)
	w.raw(t, ref("x").Subject(recourse.FamilyFailure, "me"), []byte("{"), nil)
	var n string
	eventually(t, "an error", func() bool {
		n, _ = value(running.metrics(t), `cicd_system_errors_total{cicd_system_component="consumer",error_type="jetstream.10054"}`)
		return n != ""
	})
	if lines := running.lines.with(t, "not handled, will be delivered again"); len(lines) == 0 || lines[0]["level"] != "error" || lines[0]["logger"] != "consumer" {
		t.Errorf("%s errors, lines %v", n, lines)
	}
}

// TestRearmedWaitsAreCounted: the broker loses a schedule, the sweeper arms it again.
func TestRearmedWaitsAreCounted(t *testing.T) {
	w := newWorld(t)
	running := w.start(t, worker.Config{Sweeper: timer.SweeperConfig{Every: 50 * time.Millisecond, Grace: 50 * time.Millisecond}})
	w.publish(t, recourse.FamilyFailure, failure("lost", "prod/rollout", 1, recourse.Timeout), nil)
	w.record(t, "lost", 1)
	timers := must(w.js.Stream(t.Context(), recourse.StreamTimers))(t)
	eventually(t, "the schedule", func() bool { return must(timers.Info(t.Context()))(t).State.Msgs == 1 })
	if n, _ := value(running.metrics(t), "recourse_waits_rearmed_total"); n != "0.0" {
		t.Errorf("%q rearmed before anything was lost", n)
	}
	if err := timers.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.record(t, "lost", 2)
	eventually(t, "the count", func() bool {
		n, _ := value(running.metrics(t), "recourse_waits_rearmed_total")
		return n != "0.0"
	})
}
