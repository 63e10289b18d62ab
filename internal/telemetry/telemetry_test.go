package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// delivered is a message without a server.
type delivered struct {
	jetstream.Msg
	header nats.Header
}

func (d *delivered) Headers() nats.Header { return d.header }
func (d *delivered) Subject() string      { return "recourse.a.o.p.pl.x.failure.me" }
func (d *delivered) Data() []byte         { return nil }

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// handle follows one failure as the consumer does.
func handle(t *Telemetry, h *Handling, msg Message, in *decide.Input, rec *recourse.Record) nats.Header {
	ctx := t.Received(context.Background(), h, msg)
	h.Addressed(in)
	deciding := h.Deciding(ctx)
	deciding.End(in, decide.Decided, 1, rec)
	_, publishing, header := h.Publishing(ctx, recourse.StreamJournal, recourse.FamilyDecision, recourse.KindRetryScheduled)
	publishing.End(recourse.StreamJournal, 1, nil)
	h.Recorded(ctx, rec, nil, msg.Received)
	settling := h.Settling(ctx, "ack")
	settling.End(nil)
	h.End()
	return header
}

func example(t testing.TB) (Message, *decide.Input, *recourse.Record) {
	subject, err := recourse.ParseSubject("recourse.a.o.p.pl.x.failure.me")
	if err != nil {
		t.Fatal(err)
	}
	msg := Message{
		Msg: &delivered{header: nats.Header{
			"ce-id": {"1"}, "ce-source": {"/x"}, "traceparent": {parent}, "tracestate": {"a=b"}, "ce-traceparent": {parent}, "baggage": {"k=v"},
		}},
		Subject: subject, Metadata: &jetstream.MsgMetadata{Stream: recourse.StreamInbox, Timestamp: time.Now()}, Received: time.Now(),
	}
	in := &decide.Input{Ref: recourse.Ref{Account: "a", Org: "o", Project: "p", Pipeline: "pl", Execution: "x"}, Node: recourse.Node{Path: "s/a"}, Attempt: 1}
	in.Failure = &recourse.FailureInput{}
	rec := &recourse.Record{Ref: in.Ref, Version: 1}
	rec.Node, rec.Attempt, rec.Action, rec.Reason, rec.Level = in.Node, 1, recourse.Retry, recourse.StrategyMatched, recourse.LevelStep
	rec.Wait = recourse.Wait{Version: 1, Kind: recourse.WaitRetry}
	return msg, in, rec
}

// TestFollowingAllocatesNothing: neither where nothing records, nor for the metrics.
func TestFollowingAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIP: the race detector allocates")
	}
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER",
	} {
		t.Setenv(name, "")
	}
	quiet := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(os.Stderr), zap.WarnLevel))
	measured, err := Start(t.Context(), Config{Log: quiet, Prometheus: true})
	if err != nil {
		t.Fatal(err)
	}
	defer measured.Shutdown(t.Context())
	msg, in, rec := example(t)
	h := new(Handling)
	for name, telemetry := range map[string]*Telemetry{"nothing": New(quiet), "metrics": measured} {
		if n := testing.AllocsPerRun(1000, func() { handle(telemetry, h, msg, in, rec) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkFollowing(b *testing.B) {
	msg, in, rec := example(b)
	h := new(Handling)
	for name, log := range map[string]*zap.Logger{
		"silent": zap.NewNop(),
		"logged": zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&bytes.Buffer{}), zap.InfoLevel)),
	} {
		for _, prometheus := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s,metrics=%t", name, prometheus), func(b *testing.B) {
				t, err := Start(b.Context(), Config{Log: log, Prometheus: prometheus})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					handle(t, h, msg, in, rec)
				}
			})
		}
	}
}

// TestCarriedOn: what came goes on, and what is not valid, too long, or a secret stays behind.
func TestCarriedOn(t *testing.T) {
	other := strings.Replace(parent, "0af7", "1111", 1)
	for name, tc := range map[string]struct{ came, goes nats.Header }{
		"nothing":           {nil, nats.Header{}},
		"first hop":         {nats.Header{"traceparent": {parent}}, nats.Header{"traceparent": {parent}, "ce-traceparent": {parent}}},
		"any letter case":   {nats.Header{"TraceParent": {parent}, "TRACESTATE": {"a=b"}}, nats.Header{"traceparent": {parent}, "tracestate": {"a=b"}, "ce-traceparent": {parent}, "ce-tracestate": {"a=b"}}},
		"later hop":         {nats.Header{"traceparent": {parent}, "Ce-Traceparent": {other}}, nats.Header{"traceparent": {parent}, "ce-traceparent": {other}}},
		"origin alone":      {nats.Header{"ce-traceparent": {other}}, nats.Header{"ce-traceparent": {other}}},
		"not valid":         {nats.Header{"traceparent": {"00-zz"}, "tracestate": {"a=b"}}, nats.Header{}},
		"no trace id":       {nats.Header{"traceparent": {"00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01"}}, nats.Header{}},
		"no span id":        {nats.Header{"traceparent": {parent[:36] + strings.Repeat("0", 16) + "-01"}}, nats.Header{}},
		"upper case":        {nats.Header{"traceparent": {strings.ToUpper(parent)}}, nats.Header{}},
		"no such version":   {nats.Header{"traceparent": {"ff" + parent[2:]}}, nats.Header{}},
		"two values":        {nats.Header{"traceparent": {parent, other}}, nats.Header{"traceparent": {parent}, "ce-traceparent": {parent}}},
		"too much state":    {nats.Header{"traceparent": {parent}, "tracestate": {strings.Repeat("a", 513)}}, nats.Header{"traceparent": {parent}, "ce-traceparent": {parent}}},
		"baggage":           {nats.Header{"baggage": {"tenant=acme,build=7"}}, nats.Header{"baggage": {"tenant=acme,build=7"}}},
		"secret in baggage": {nats.Header{"baggage": {"tenant=acme,password=hunter2"}}, nats.Header{}},
		"too much baggage":  {nats.Header{"baggage": {strings.Repeat("a", 8193)}}, nats.Header{}},
	} {
		c := carriedBy(tc.came)
		header := nats.Header{}
		c.put(header)
		if fmt.Sprint(header) != fmt.Sprint(tc.goes) {
			t.Errorf("%s: %v, want %v", name, header, tc.goes)
		}
	}
}

func TestSampler(t *testing.T) {
	remote := func(flags trace.TraceFlags) trace.SpanContext {
		return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: flags, Remote: true})
	}
	sampled, dropped := remote(trace.FlagsSampled), remote(0)
	none := trace.SpanContext{}
	for _, tc := range []struct {
		sampler, arg string
		parent       trace.SpanContext
		links        []trace.SpanContext
		keeps        bool
	}{
		{"", "", none, nil, true},
		{"", "", dropped, nil, false},
		{"", "", none, []trace.SpanContext{dropped}, false},
		{"", "", none, []trace.SpanContext{dropped, sampled}, true},
		{"parentbased_always_off", "", none, nil, false},
		{"parentbased_always_off", "", sampled, nil, true},
		{"parentbased_always_off", "", none, []trace.SpanContext{sampled}, true},
		{" ParentBased_TraceIDRatio ", " 0 ", none, nil, false},
		{"parentbased_traceidratio", "0", none, []trace.SpanContext{sampled}, true},
		{"parentbased_traceidratio", "1", none, []trace.SpanContext{dropped}, false},
		{"parentbased_traceidratio", "", none, nil, true},
		{"traceidratio", "0", sampled, nil, false},
		{"traceidratio", "1", dropped, nil, true},
		{"always_on", "", dropped, []trace.SpanContext{dropped}, true},
		{"always_off", "", sampled, []trace.SpanContext{sampled}, false},
	} {
		s, err := sampler(tc.sampler, tc.arg)
		if err != nil {
			t.Fatal(err)
		}
		p := sdk.SamplingParameters{ParentContext: trace.ContextWithSpanContext(t.Context(), tc.parent), TraceID: trace.TraceID{9}}
		for _, l := range tc.links {
			p.Links = append(p.Links, trace.Link{SpanContext: l})
		}
		if keeps := s.ShouldSample(p).Decision == sdk.RecordAndSample; keeps != tc.keeps {
			t.Errorf("%s %s, parent %v, links %v: keeps %t", tc.sampler, tc.arg, tc.parent.IsSampled(), tc.links, keeps)
		}
	}
	for name, arg := range map[string]string{"sometimes": "", "traceidratio": "2", "parentbased_traceidratio": "NaN", "jaeger_remote": ""} {
		if _, err := sampler(name, arg); err == nil {
			t.Errorf("%s %s is a sampler", name, arg)
		}
	}
}

// TestGuardedLog: what is logged of trouble is redacted and counted; the rest is left alone.
func TestGuardedLog(t *testing.T) {
	var out bytes.Buffer
	base := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&out), zap.InfoLevel))
	counted := []string{}
	log := base.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return &guarded{core, func(component string, err error) { counted = append(counted, component+": "+errorType(err)) }}
	}))
	secret := errors.New("dial nats://user:hunter2@host: no")
	log.Named("nats").Warn("connect to https://user:hunter2@host", zap.Error(secret), zap.String("url", "https://user:hunter2@host"), zap.Int("n", 1))
	log.With(zap.String("password", "password=hunter2")).Error("no", zap.Error(context.DeadlineExceeded))
	log.Warn("nobody failed")
	log.Info("decided", zap.Error(errors.New("not counted")))
	log.Debug("not written")
	text := out.String()
	if strings.Contains(text, "hunter2") || strings.Count(text, "\n") != 4 || !strings.Contains(text, `"n":1`) || strings.Contains(text, "not written") {
		t.Errorf("the log:\n%s", text)
	}
	if got := strings.Join(counted, ", "); got != "nats: _OTHER, worker: timeout" {
		t.Errorf("counted %s", got)
	}
}

func TestErrorType(t *testing.T) {
	for want, err := range map[string]error{
		"jetstream.10077": fmt.Errorf("append: %w", &jetstream.APIError{ErrorCode: 10077}),
		"permission":      fmt.Errorf("%w: publish to x", nats.ErrPermissionViolation),
		"no_responders":   jetstream.ErrNoStreamResponse,
		"disconnected":    nats.ErrConnectionClosed,
		"unknown_outcome": fmt.Errorf("%w: %w", decide.ErrUnknownOutcome, context.DeadlineExceeded),
		"conflict":        decide.ErrConflict,
		"timeout":         nats.ErrTimeout,
		"cancelled":       context.Canceled,
		"_OTHER":          errors.New("execution ex42 on host 10.0.0.7 failed"), // no part of a text is a label
	} {
		if got := errorType(err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

// TestComplaints: the first at once, then one in a while.
func TestComplaints(t *testing.T) {
	var out bytes.Buffer
	c := &complaints{log: zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&out), zap.InfoLevel))}
	for range 3 {
		c.Handle(errors.New("refused"))
	}
	c.last = c.last.Add(-complainEvery)
	c.Handle(errors.New("refused again"))
	if text := out.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, `"error":"refused again","unsaid":2`) {
		t.Errorf("the log:\n%s", text)
	}
}

func TestDelayedRetry(t *testing.T) {
	var d DelayedRetry
	for _, name := range []string{"parent", "link"} {
		if err := d.UnmarshalText([]byte(name)); err != nil || d.String() != name {
			t.Errorf("%s: %s, %v", name, d, err)
		}
	}
	if d.UnmarshalText([]byte("both")) == nil {
		t.Error("both is a way")
	}
}

func intervention(versions ...uint64) (waits []recourse.Wait) {
	waits = append(waits, recourse.Wait{Version: 99, Kind: recourse.WaitRetry})
	for _, version := range versions {
		waits = append(waits, recourse.Wait{Version: version, Kind: recourse.WaitIntervention})
	}
	return waits
}

// TestInterventions: what is open is what the journal says when it is looked at, and what this worker did since.
func TestInterventions(t *testing.T) {
	journal := map[string][]recourse.Wait{"a": intervention(1, 4), "b": intervention()}
	looks := 0
	var during func()
	i := NewInterventions(func(_ context.Context, prefix string) ([]recourse.Wait, error) {
		looks++
		if during != nil {
			during()
		}
		if prefix == "broken" {
			return nil, errors.New("no")
		}
		return journal[prefix], nil
	}, zap.NewNop())
	is := func(what string, want int, known bool) {
		t.Helper()
		if n, k := i.Open(); n != want || k != known {
			t.Errorf("%s: %d, %t; want %d, %t", what, n, k, want, known)
		}
	}
	now := time.Now()
	i.Read(pauses("a", "1", now))
	i.Read(pauses("a", "4", now))
	i.Read(pauses("b", "2", now))
	i.Read(pauses("forgotten", "1", now.Add(-2*forgottenFrom)))
	i.Read(pauses("broken", "x", now))
	i.Heard(pauses("b", "2", now))
	is("not read to the end", 1, false)
	i.ReadAll()
	is("read", 3, true)
	i.look(t.Context(), now)
	if looks != 0 {
		t.Errorf("looked %d times at what was just read", looks)
	}
	now = now.Add(lookEvery + time.Second)
	i.look(t.Context(), now)
	is("another worker ended the one of b", 2, true)
	i.look(t.Context(), now)
	if looks != 3 {
		t.Errorf("looked %d times, want once at each, and once more at what was heard", looks)
	}
	i.opened("c", 1, false)
	i.opened("c", 1, false) // and the journal tells it again
	is("opened here", 3, true)
	i.ended("c", 1, nil)
	i.opened("c", 1, false) // and the journal tells it late
	is("ended here", 2, true)
	i.ended("a", 0, []uint64{4, 7})
	i.ended("nowhere", 5, nil)
	is("superseded here", 1, true)

	// Another worker ended the last one of a; while that is looked up, one is opened here.
	now = now.Add(2 * lookEvery)
	journal["a"] = intervention()
	during = func() { i.opened("a", 9, false) }
	i.look(t.Context(), now)
	is("what came in between counts", 2, true)
	during, journal["a"] = nil, intervention(9)
	i.look(t.Context(), now.Add(2*lookEvery))
	is("and is looked at next time", 1, true)
	if len(i.open) != 1 || len(i.queue) != 1 {
		t.Errorf("%d executions are kept, %d are queued: what has nothing open is to be forgotten", len(i.open), len(i.queue))
	}
	i.opened("broken", 1, false)
	i.look(t.Context(), now.Add(4*lookEvery))
	is("what cannot be looked up stays", 2, true)
	var nobody *Interventions
	nobody.ended("a", 1, nil)
	nobody.opened("a", 1, false)
	nobody.Heard(pauses("a", "1", now))
	nobody.Read(pauses("a", "1", now))
	nobody.ReadAll()
}

// pauses is a record that opens an intervention.
func pauses(prefix, version string, deadline time.Time) (recourse.Subject, nats.Header) {
	return recourse.Subject{Prefix: prefix, Family: recourse.FamilyCommand, Detail: recourse.VerbPause.String()},
		nats.Header{recourse.HeaderVersion: {version}, recourse.HeaderDueAt: {deadline.UTC().Format(time.RFC3339Nano)}}
}

// TestInterventionsOfTheJournal: what the journal says was ended is not looked at, and reading it again changes nothing.
func TestInterventionsOfTheJournal(t *testing.T) {
	i := NewInterventions(func(context.Context, string) ([]recourse.Wait, error) {
		t.Error("looked up")
		return nil, nil
	}, zap.NewNop())
	now := time.Now()
	ends := func(prefix, header, versions string) (recourse.Subject, nats.Header) {
		return recourse.Subject{Prefix: prefix, Family: recourse.FamilyCommand, Detail: recourse.VerbRetry.String()},
			nats.Header{recourse.HeaderVersion: {"9"}, header: {versions}}
	}
	for range 2 {
		for _, prefix := range []string{"ended", "cancelled", "open", "other"} {
			i.Read(pauses(prefix, "2", now))
		}
		i.Read(pauses("cancelled", "3", now))
		i.Read(pauses("cancelled", "5", now))
		i.Read(ends("ended", recourse.HeaderEnds, "2"))
		i.Read(ends("cancelled", recourse.HeaderCancels, "2,3"))
		i.Read(ends("other", recourse.HeaderEnds, "1"))
		i.ReadAll()
		if n, known := i.Open(); n != 3 || !known || len(i.open) != 3 || len(i.found) != 0 {
			t.Fatalf("%d open, %t, of %d executions; %d found", n, known, len(i.open), len(i.found))
		}
	}
	i.look(t.Context(), now)
}

// TestInterventionsAreLookedUpSlowly: however many are open.
func TestInterventionsAreLookedUpSlowly(t *testing.T) {
	looks := 0
	i := NewInterventions(func(context.Context, string) ([]recourse.Wait, error) {
		looks++
		return intervention(1), nil
	}, zap.NewNop())
	const many = 1000
	for n := range many {
		i.opened(fmt.Sprint(n), 1, false)
	}
	now := time.Now().Add(lookEvery + time.Second)
	for round := range many {
		if i.look(t.Context(), now); looks != round+1 {
			t.Fatalf("%d looks in %d rounds", looks, round+1)
		}
	}
	if i.look(t.Context(), now); looks != many {
		t.Errorf("%d looks at %d", looks, many)
	}
	if i.look(t.Context(), now.Add(lookEvery+time.Second)); looks != many+1 {
		t.Errorf("%d looks in a round", looks-many)
	}
}

// TestRefusedInterventions: what was heard and the journal refused is not counted for long, whatever else waits to be looked at.
func TestRefusedInterventions(t *testing.T) {
	journal := map[string][]recourse.Wait{"other": intervention(1), "again": intervention(2)}
	var looks []string
	i := NewInterventions(func(_ context.Context, prefix string) ([]recourse.Wait, error) {
		looks = append(looks, prefix)
		return journal[prefix], nil
	}, zap.NewNop())
	now := time.Now()
	i.opened("other", 1, false)
	for _, version := range []string{"1", "2"} {
		i.Heard(pauses("again", version, now))
	}
	i.Heard(pauses("refused", "1", now))
	i.Heard(pauses("ended", "1", now))
	i.ended("ended", 1, nil)
	is := func(want int, looked ...string) {
		t.Helper()
		i.look(t.Context(), now)
		if n, _ := i.Open(); n != want || !slices.Equal(looks, looked) {
			t.Errorf("%d open after looking at %q, want %d after %q", n, looks, want, looked)
		}
		looks = nil
	}
	is(4)
	now = now.Add(lookFirst + time.Second)
	is(3, "again")
	is(3, "again") // once for each that was heard
	is(2, "refused")
	is(2)
	i.Heard(pauses("other", "2", now)) // where one is open already
	if n, _ := i.Open(); n != 3 {
		t.Errorf("%d open, want 3 before it is looked at", n)
	}
	is(2, "other")
	now = now.Add(lookEvery)
	is(2, "other")
	is(2, "again")
	is(2)
	if len(i.open) != 2 || len(i.queue) != 2 || len(i.heard) != 0 {
		t.Errorf("%d executions are kept, %d and %d are queued", len(i.open), len(i.heard), len(i.queue))
	}
}
