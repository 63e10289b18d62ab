package telemetry

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/telemetry"
	"github.com/recourse-dev/recourse/internal/worker"
)

// node is what a span is expected to be; its children in the order in which they begin.
type node struct {
	name, kind string
	has        map[string]string // "*" for any value
	lacks      []string
	status     string // STATUS_CODE_UNSET where not set
	children   []node
}

var (
	ackInbox  = node{name: "settle RECOURSE_INBOX", kind: "CLIENT", has: map[string]string{"messaging.operation.name": "ack", "messaging.operation.type": "settle"}}
	ackTimers = node{name: "settle RECOURSE_TIMERS", kind: "CLIENT", has: map[string]string{"messaging.operation.name": "ack"}}
)

func decided(has map[string]string) node {
	has["recourse.result"] = "decided"
	return node{name: "decide", kind: "INTERNAL", has: has}
}

func appended(detail string) node {
	family, _, _ := strings.Cut(detail, ".")
	return node{name: "publish RECOURSE_JOURNAL", kind: "PRODUCER", has: map[string]string{
		"messaging.system": "nats", "messaging.operation.name": "publish", "messaging.operation.type": "send", "messaging.message.id": "*",
		"messaging.destination.template": "recourse.*.*.*.*.*." + family + ".*", "messaging.destination.name": "*." + detail,
	}}
}

var armed = node{name: "publish RECOURSE_TIMERS", kind: "PRODUCER", has: map[string]string{
	"messaging.operation.type": "send", "messaging.destination.template": "recourse.*.*.*.*.*.timer.*",
}}

// match compares a span and those below it with what is expected.
func (n node) match(t *testing.T, at string, s *span, all []*span) {
	t.Helper()
	at += " › " + s.name
	if s.name != n.name || s.kind != n.kind {
		t.Errorf("%s: %s %s, want %s %s", at, s.kind, s.name, n.kind, n.name)
	}
	if n.status == "" {
		n.status = "STATUS_CODE_UNSET"
	}
	if s.status != n.status {
		t.Errorf("%s: status %s %q, want %s", at, s.status, s.says, n.status)
	}
	if s.events != 0 {
		t.Errorf("%s: %d events", at, s.events)
	}
	for _, key := range sortedKeys(n.has) {
		got, ok := s.attributes[key]
		want := n.has[key]
		if end, any := strings.CutPrefix(want, "*"); !ok || got != want && (!any || !strings.HasSuffix(got, end)) {
			t.Errorf("%s: %s is %q, want %q", at, key, got, want)
		}
	}
	for _, key := range n.lacks {
		if got, ok := s.attributes[key]; ok {
			t.Errorf("%s: has %s = %q", at, key, got)
		}
	}
	var children []*span
	for _, c := range all {
		if c.parent == s.id && c.trace == s.trace {
			children = append(children, c)
			if c.start.Before(s.start) || c.end.After(s.end) {
				t.Errorf("%s: %s is not within it", at, c.name)
			}
		}
	}
	if len(children) != len(n.children) {
		t.Errorf("%s: children %s, want %d", at, namesOf(children), len(n.children))
		return
	}
	for i := range children {
		n.children[i].match(t, at, children[i], all)
	}
}

func namesOf(spans []*span) (names []string) {
	for _, s := range spans {
		names = append(names, s.kind+" "+s.name)
	}
	return names
}

// story is one execution's spans as they come.
type story struct {
	*world
	r         *receiver
	execution string
	seen      map[string]bool
}

// next waits for the next handling of a message of the execution that is whole, and returns its span with all others.
func (s *story) next(t *testing.T) (*span, []*span) {
	t.Helper()
	var found *span
	var all []*span
	eventually(t, "the next handling of "+s.execution, func() bool {
		all = s.r.spans()
		for _, c := range all {
			if strings.HasPrefix(c.name, "process ") && !s.seen[c.id] && c.attributes["messaging.message.conversation_id"] == ref(s.execution).Prefix() {
				found = c
				return true
			}
		}
		return false
	})
	s.seen[found.id] = true
	// The spans of a handling end before it does, so they have been sent with it or before.
	return found, all
}

func (w *world) story(r *receiver, execution string) *story {
	return &story{w, r, execution, map[string]bool{}}
}

// process is the handling of a message.
func process(stream, family string, has map[string]string, children ...node) node {
	durable := map[string]string{"RECOURSE_INBOX": "recourse-worker", "RECOURSE_TIMERS": "recourse-due"}[stream]
	all := map[string]string{
		"messaging.system": "nats", "messaging.operation.name": "process", "messaging.operation.type": "process", "messaging.message.id": "*",
		"messaging.destination.template": "recourse.*.*.*.*.*." + family + ".*", "messaging.consumer.group.name": durable,
		"recourse.input": family, "recourse.delivery": "1", "cicd.worker.id": "worker-1", "messaging.message.body.size": "*",
	}
	maps.Copy(all, has)
	return node{name: "process " + stream, kind: "CONSUMER", has: all, children: children}
}

// of is what the span of a message about an execution has.
func of(execution string, more map[string]string) map[string]string {
	all := map[string]string{
		"cicd.pipeline.name": "deploy", "cicd.pipeline.run.id": execution,
		"recourse.account": "acme", "recourse.org": "shop", "recourse.project": "web",
	}
	maps.Copy(all, more)
	return all
}

// continues checks that a span continues the trace of a header: as its child, and linked to it.
func continues(t *testing.T, s *span, header nats.Header) {
	t.Helper()
	parts := strings.Split(header.Get("traceparent"), "-")
	if s.trace != parts[1] || s.parent != parts[2] || !slices.Equal(s.links, []string{parts[1] + "/" + parts[2]}) {
		t.Errorf("%s is in trace %s under %s with links %s, want it under %s", s.name, s.trace, s.parent, s.links, header.Get("traceparent"))
	}
}

// carries checks that a record's header hands on the trace: its own publication as the hop, the rest as it came.
func carries(t *testing.T, header nats.Header, publication *span, came nats.Header) {
	t.Helper()
	if got := header.Get("traceparent"); got != publication.traceparent() {
		t.Errorf("traceparent %q, want %q", got, publication.traceparent())
	}
	origin := came.Get("ce-traceparent")
	if origin == "" {
		origin = came.Get("traceparent")
	}
	for name, want := range map[string]string{"ce-traceparent": origin, "ce-tracestate": "vendor=1", "baggage": came.Get("baggage")} {
		if got := header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// child returns the first span of a name under another.
func child(t *testing.T, s *span, name string, all []*span) *span {
	t.Helper()
	for _, c := range all {
		if c.parent == s.id && c.trace == s.trace && c.name == name {
			return c
		}
	}
	t.Fatalf("%s has no %s", s.name, name)
	return nil
}

// TestSpans publishes one input of each kind and looks at each span that comes of it.
func TestSpans(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			w := newWorld(t)
			r := newReceiver(t, protocol)
			export(t, r)
			t.Setenv("OTEL_SERVICE_NAME", "own-name")
			w.start(t, worker.Config{})
			t.Run("failure, due, failure", func(t *testing.T) { w.retried(t, r) })
			t.Run("failure without retry", func(t *testing.T) { w.marked(t, r) })
			t.Run("answer", func(t *testing.T) { w.answered(t, r) })
			t.Run("control and lifecycle", func(t *testing.T) { w.controlled(t, r) })
			t.Run("duplicate", func(t *testing.T) { w.repeated(t, r) })
			t.Run("rejected", func(t *testing.T) { w.rejected(t, r) })
			t.Run("failed append", func(t *testing.T) { w.failed(t, r) })
			allDocumented(t, r.spans())
		})
	}
}

// allDocumented checks that docs/telemetry.md names each span and each attribute that came, in full or by its last word behind another.
func allDocumented(t *testing.T, spans []*span) {
	t.Helper()
	page := string(must(os.ReadFile("../../docs/telemetry.md"))(t))
	missing := map[string]bool{}
	for _, s := range spans {
		if !strings.Contains(page, "`"+s.name+"`") {
			missing[s.name] = true
		}
		for key := range s.attributes {
			if !strings.Contains(page, "`"+key+"`") && !strings.Contains(page, "`"+key[strings.LastIndexByte(key, '.'):]+"`") {
				missing[key] = true
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("docs/telemetry.md says nothing of %v", slices.Sorted(maps.Keys(missing)))
	}
}

func (w *world) retried(t *testing.T, r *receiver) {
	s := w.story(r, "retried")
	first := w.publish(t, recourse.FamilyFailure, failure("retried", "prod/rollout", 1, recourse.Timeout), remote(1))
	got, all := s.next(t)
	continues(t, got, first)
	if got.resource["service.name"] != "own-name" || got.resource["service.instance.id"] != "worker-1" || got.resource["deployment.environment.name"] != "test" ||
		got.resource["telemetry.sdk.language"] != "go" || got.resource["service.version"] == "" || got.schema != semconv.SchemaURL {
		t.Errorf("resource %v, schema %s", got.resource, got.schema)
	}
	task := map[string]string{
		"cicd.pipeline.task.name": "prod/rollout", "cicd.pipeline.task.run.id": "prod/rollout/1", "cicd.pipeline.task.run.result": "timeout",
		"recourse.errors": "[Timeout]", "recourse.attempt": "1", "recourse.action": "Retry", "recourse.reason": "StrategyMatched",
		"messaging.destination.name": ref("retried").Subject(recourse.FamilyFailure, "me"), "recourse.result": "decided",
	}
	process("RECOURSE_INBOX", "failure", of("retried", task),
		decided(map[string]string{
			"recourse.action": "Retry", "recourse.reason": "StrategyMatched", "recourse.level": "step", "recourse.attempt": "1", "recourse.delay": "1",
			"recourse.strategy": "*", "recourse.pipeline.revision": "1", "recourse.kind": "retry-scheduled", "recourse.version": "1",
			"recourse.input.key": "failure/prod/rollout/1", "recourse.wait.kind": "retry", "recourse.due_at": "*",
		}), appended("decision.retry-scheduled"), armed, ackInbox).match(t, "", got, all)
	_, header := w.record(t, "retried", 1)
	carries(t, header, child(t, got, "publish RECOURSE_JOURNAL", all), first)

	// The wait is over: a trace of its own, linked to the hop before and to where all began.
	arming := child(t, got, "publish RECOURSE_TIMERS", all)
	due, all := s.next(t)
	parts := strings.Split(first.Get("traceparent"), "-")
	if due.parent != "" || due.trace == got.trace || !slices.Equal(due.links, []string{arming.at(), parts[1] + "/" + parts[2]}) {
		t.Errorf("due: trace %s, parent %q, links %s; want a root, linked to %s and %s", due.trace, due.parent, due.links, arming.at(), first.Get("traceparent"))
	}
	process("RECOURSE_TIMERS", "due", of("retried", map[string]string{
		"cicd.pipeline.task.name": "prod/rollout", "recourse.action": "Retry", "recourse.reason": "RetryDue",
	}), decided(map[string]string{"recourse.reason": "RetryDue", "recourse.command": "retry", "recourse.ends": "1", "recourse.input.key": "due/1"}),
		appended("command.retry"), ackTimers).match(t, "", due, all)
	_, header = w.record(t, "retried", 2)
	carries(t, header, child(t, due, "publish RECOURSE_JOURNAL", all), first)

	// An orchestrator continues from the command, so the next failure is in the trace of the retry.
	second := nats.Header{"Traceparent": header["traceparent"]}
	w.publish(t, recourse.FamilyFailure, failure("retried", "prod/rollout", 2, recourse.Timeout), second)
	got, all = s.next(t)
	continues(t, got, nats.Header{"traceparent": header["traceparent"]})
	if got.trace != due.trace {
		t.Errorf("the second failure is in trace %s, its retry in %s", got.trace, due.trace)
	}
	process("RECOURSE_INBOX", "failure", of("retried", map[string]string{"recourse.attempt": "2", "recourse.reason": "RetriesExhausted"}),
		decided(map[string]string{"recourse.action": "MarkAsFailure", "recourse.reason": "RetriesExhausted", "recourse.command": "mark-failure"}),
		appended("command.mark-failure"), ackInbox).match(t, "", got, all)
}

func (w *world) marked(t *testing.T, r *receiver) {
	// Without a trace of whoever reports: one begins here.
	w.publish(t, recourse.FamilyFailure, failure("marked", "prod/smoke", 1), nats.Header{"traceparent": {"00-nonsense"}, "baggage": {"token=hunter2secret"}})
	got, all := w.story(r, "marked").next(t)
	if got.parent != "" || len(got.links) != 0 {
		t.Errorf("parent %q, links %s", got.parent, got.links)
	}
	want := decided(map[string]string{"recourse.action": "MarkAsFailure", "recourse.reason": "NoStrategy", "recourse.level": "none", "recourse.command": "mark-failure"})
	want.lacks = []string{"recourse.strategy", "recourse.delay", "recourse.superseded", "recourse.kind", "recourse.wait.kind"}
	process("RECOURSE_INBOX", "failure", of("marked", map[string]string{"cicd.pipeline.task.run.result": "failure", "recourse.errors": "[Unknown]"}),
		want, appended("command.mark-failure"), ackInbox).match(t, "", got, all)
	_, header := w.record(t, "marked", 1)
	if header.Get("ce-traceparent") != got.traceparent() || header.Get("traceparent") != child(t, got, "publish RECOURSE_JOURNAL", all).traceparent() || header["baggage"] != nil {
		t.Errorf("header %v, want what began at %s, and no secret", header, got.traceparent())
	}
}

func (w *world) answered(t *testing.T, r *receiver) {
	s := w.story(r, "answered")
	w.publish(t, recourse.FamilyFailure, failure("answered", "prod/rollout", 1, recourse.Verification), remote(2))
	got, all := s.next(t)
	want := decided(map[string]string{"recourse.action": "ManualIntervention", "recourse.command": "pause", "recourse.wait.kind": "intervention"})
	want.lacks = []string{"recourse.delay"}
	process("RECOURSE_INBOX", "failure", nil, want, appended("command.pause"), armed, ackInbox).match(t, "", got, all)
	by := w.publish(t, recourse.FamilyIntervention, recourse.Answer{Ref: ref("answered"), Intervention: 1, Action: recourse.Ignore, Why: "known"}, remote(3))
	got, all = s.next(t)
	continues(t, got, by)
	process("RECOURSE_INBOX", "intervention", of("answered", map[string]string{"cicd.pipeline.task.name": "prod/rollout", "recourse.action": "Ignore"}),
		decided(map[string]string{"recourse.action": "Ignore", "recourse.reason": "HumanDecision", "recourse.ends": "1", "recourse.input.key": "*"}),
		appended("command.ignore"), ackInbox).match(t, "", got, all)
	cancelled, all := s.next(t)
	process("RECOURSE_TIMERS", "due", map[string]string{"recourse.result": "cancelled"}, ackTimers).match(t, "", cancelled, all)
}

func (w *world) controlled(t *testing.T, r *receiver) {
	s := w.story(r, "controlled")
	for version, step := range []string{"prod/rollout", "prod/rollout[1]"} {
		w.publish(t, recourse.FamilyFailure, failure("controlled", step, 1, recourse.Connectivity), remote(4))
		w.record(t, "controlled", uint64(version+1))
		s.next(t)
	}
	w.publish(t, recourse.FamilyControl, recourse.Control{Ref: ref("controlled"), Wait: 1, Do: recourse.RunNow, Why: "it is back"}, remote(5))
	got, all := s.next(t)
	process("RECOURSE_INBOX", "control", of("controlled", map[string]string{"recourse.action": "Retry"}),
		decided(map[string]string{"recourse.action": "Retry", "recourse.reason": "HumanDecision", "recourse.command": "retry", "recourse.ends": "1"}),
		appended("command.retry"), ackInbox).match(t, "", got, all)
	s.next(t) // the cancelled schedule
	w.publish(t, recourse.FamilyLifecycle, recourse.Lifecycle{Ref: ref("controlled"), Event: recourse.Finished}, remote(6))
	got, all = s.next(t)
	want := decided(map[string]string{"recourse.action": "none", "recourse.reason": "LifecycleReported", "recourse.kind": "closed", "recourse.superseded": "[2]"})
	want.lacks = []string{"cicd.pipeline.task.name", "recourse.attempt"}
	node := process("RECOURSE_INBOX", "lifecycle", of("controlled", nil), want, appended("decision.closed"), ackInbox)
	node.lacks = []string{"cicd.pipeline.task.name", "cicd.pipeline.task.run.result"}
	node.match(t, "", got, all)
}

func (w *world) repeated(t *testing.T, r *receiver) {
	s := w.story(r, "repeated")
	for n := range 2 {
		w.publish(t, recourse.FamilyFailure, failure("repeated", "prod/rollout", 1, recourse.Connectivity), remote(7+n))
		got, all := s.next(t)
		if n == 0 {
			continue
		}
		want := node{name: "decide", kind: "INTERNAL", has: map[string]string{"recourse.result": "repeated", "recourse.version": "1"}, lacks: []string{"recourse.action"}}
		process("RECOURSE_INBOX", "failure", of("repeated", map[string]string{"recourse.result": "repeated"}), want, armed, ackInbox).match(t, "", got, all)
	}
}

func (w *world) rejected(t *testing.T, r *receiver) {
	came := remote(9)
	w.raw(t, ref("rejected").Subject(recourse.FamilyFailure, "me"), []byte(`{"node":"a","node":"b"}`), came)
	got, all := w.story(r, "rejected").next(t)
	continues(t, got, came)
	node := process("RECOURSE_INBOX", "failure", map[string]string{"recourse.result": "rejected", "recourse.reason": "duplicate-key"},
		node{name: "publish RECOURSE_REJECTED", kind: "PRODUCER", has: map[string]string{"messaging.destination.template": "recourse.*.*.*.*.*.rejected.*"}},
		node{name: "settle RECOURSE_INBOX", kind: "CLIENT", has: map[string]string{"messaging.operation.name": "term", "messaging.operation.type": "settle"}})
	node.lacks = []string{"cicd.pipeline.run.id"}
	node.match(t, "", got, all)
	kept := w.messages(t, recourse.StreamRejected)
	if h := kept[len(kept)-1].Header; h.Get("traceparent") != came.Get("traceparent") {
		t.Errorf("kept with %v", h)
	}
}

// failed has the journal take nothing more for a while.
func (w *world) failed(t *testing.T, r *receiver) {
	stream := must(w.js.Stream(t.Context(), recourse.StreamJournal))(t)
	cfg := stream.CachedInfo().Config
	full := cfg
	full.MaxMsgs = int64(stream.CachedInfo().State.Msgs)
	must(w.js.UpdateStream(t.Context(), full))(t)
	s := w.story(r, "failed")
	w.publish(t, recourse.FamilyFailure, failure("failed", "prod/smoke", 1), remote(10))
	got, all := s.next(t)
	want := appended("command.mark-failure")
	want.status, want.has["error.type"] = "STATUS_CODE_ERROR", "jetstream.10077"
	delete(want.has, "messaging.message.id")
	node := process("RECOURSE_INBOX", "failure", of("failed", map[string]string{"error.type": "jetstream.10077"}),
		decided(map[string]string{}), want,
		node{name: "settle RECOURSE_INBOX", kind: "CLIENT", has: map[string]string{"messaging.operation.name": "nak"}})
	node.status = "STATUS_CODE_ERROR"
	node.match(t, "", got, all)
	must(w.js.UpdateStream(t.Context(), cfg))(t)
	eventually(t, "the record", func() bool { records, _ := w.records(t, "failed"); return len(records) == 1 })
	eventually(t, "its span", func() bool {
		got, _ := s.next(t)
		return got.status == "STATUS_CODE_UNSET" && got.attributes["recourse.delivery"] != "1"
	})
}

// TestConflict has a worker decide on a chain that it believes to be empty.
func TestConflict(t *testing.T) {
	w := newWorld(t)
	before := w.start(t, worker.Config{})
	w.publish(t, recourse.FamilyFailure, failure("conflict", "prod/smoke", 1), nil)
	w.record(t, "conflict", 1)
	before.stop()
	r := newReceiver(t, "grpc")
	export(t, r)
	after := w.start(t, worker.Config{})
	w.publish(t, recourse.FamilyFailure, failure("conflict", "prod/other", 1), nil)
	got, all := w.story(r, "conflict").next(t)
	second := appended("command.mark-failure")
	second.has["recourse.outcome"] = "conflict"
	delete(second.has, "messaging.message.id")
	process("RECOURSE_INBOX", "failure", of("conflict", nil),
		decided(map[string]string{"recourse.version": "1"}), second,
		decided(map[string]string{"recourse.version": "2"}), appended("command.mark-failure"), ackInbox).match(t, "", got, all)
	if n, ok := value(after.metrics(t), `recourse_conflicts_total{recourse_outcome="conflict"}`); n != "1.0" {
		t.Errorf("conflicts: %q, %t", n, ok)
	}
}

// TestDelayedRetryInOneTrace: what came due continues the trace where that is asked for.
func TestDelayedRetryInOneTrace(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, "http/protobuf")
	export(t, r)
	w.start(t, worker.Config{DelayedRetry: telemetry.ParentDelayed})
	w.publish(t, recourse.FamilyFailure, failure("parent", "prod/rollout", 1, recourse.Timeout), remote(1))
	s := w.story(r, "parent")
	first, all := s.next(t)
	due, _ := s.next(t)
	arming := child(t, first, "publish RECOURSE_TIMERS", all)
	if due.trace != first.trace || due.parent != arming.id || len(due.links) != 2 || due.links[0] != arming.at() {
		t.Errorf("due: trace %s, parent %s, links %s; want a child of %s", due.trace, due.parent, due.links, arming.at())
	}
}

// TestSamplerKeepsIncidentsWhole runs some hundred incidents of several traces each, with a sampler of a tenth.
func TestSamplerKeepsIncidentsWhole(t *testing.T) {
	const incidents = 300
	w := newWorld(t)
	r := newReceiver(t, "grpc")
	export(t, r)
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
	t.Setenv("OTEL_TRACES_SAMPLER_ARG", "0.1")
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	t.Setenv("OTEL_LOGS_EXPORTER", "none")
	running := w.start(t, worker.Config{})
	// An orchestrator that runs the step again, which fails again: in the trace of the command, or, of every third incident, without one.
	commands := must(w.nc.SubscribeSync(recourse.FilterDetail(recourse.FamilyCommand, "retry")))(t)
	for n := range incidents {
		header := nats.Header{}
		if n%3 == 0 { // a delegate that traces, and samples a tenth itself
			flags := "00"
			if n%30 == 0 {
				flags = "01"
			}
			header.Set("traceparent", fmt.Sprintf("00-%032x-%016x-%s", n+1, n+1, flags))
		}
		w.publish(t, recourse.FamilyFailure, failure(fmt.Sprintf("incident-%d", n), "prod/rollout", 1, recourse.Timeout), header)
	}
	for range incidents {
		msg := must(commands.NextMsg(patience))(t)
		rec := must(recourse.DecodeRecord(msg.Data))(t)
		var n int
		must(fmt.Sscanf(rec.Execution, "incident-%d", &n))(t)
		header := nats.Header{}
		if n%3 != 1 {
			header["traceparent"] = msg.Header["traceparent"]
		}
		w.publish(t, recourse.FamilyFailure, failure(rec.Execution, "prod/rollout", 2, recourse.Timeout), header)
	}
	journal := must(w.js.Stream(t.Context(), recourse.StreamJournal))(t)
	eventually(t, "all decided", func() bool {
		return must(journal.Info(t.Context(), jetstream.WithSubjectFilter("")))(t).State.Msgs == 3*incidents
	})
	running.stop() // and sends what is left
	handled, whole := map[string][]string{}, map[string]int{}
	for _, s := range r.spans() {
		if strings.HasPrefix(s.name, "process ") {
			execution := s.attributes["messaging.message.conversation_id"]
			handled[execution] = append(handled[execution], s.attributes["recourse.input"])
		}
	}
	for n := range incidents {
		got := handled[ref(fmt.Sprintf("incident-%d", n)).Prefix()]
		kind := [...]string{"traced", "untraced", "traced from the command on"}[n%3]
		switch {
		case slices.Equal(got, []string{"failure", "due", "failure"}):
			whole[kind]++
		case len(got) != 0:
			t.Errorf("incident %d (%s) is not whole: %s", n, kind, got)
		case n%30 == 0:
			t.Errorf("incident %d was sampled by its delegate, and dropped", n)
		}
	}
	t.Logf("kept of 100 each: %v", whole)
	for kind, n := range whole {
		if n < 2 || n > 25 {
			t.Errorf("%d of 100 incidents are kept (%s), want about 10", n, kind)
		}
	}
	if len(whole) != 3 || whole["traced"] != 10 {
		t.Errorf("kept: %v", whole)
	}
}
