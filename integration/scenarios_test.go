package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
)

// scenarios run on every backend, side by side, each in an account of its own, on two workers.
var scenarios = []struct {
	name string
	run  func(t *testing.T, e *env, account string)
}{
	{"EveryAction", everyAction},
	{"Duplicates", duplicates},
	{"WorkersRace", workersRace},
	{"ThousandFailures", thousandFailures},
	{"DueTwice", dueTwice},
	{"TimersPurged", timersPurged},
	{"Poison", poison},
	{"UnknownPipeline", unknownPipeline},
	{"PinnedRevision", pinnedRevision},
	{"HostileIDs", hostileIDs},
	{"TwoPeople", twoPeople},
	{"AnswerAgainstTimeout", answerAgainstTimeout},
	{"AbortAgainstRetry", abortAgainstRetry},
	{"EndCancelsWaits", endCancelsWaits},
	{"Controls", controls},
	{"Events", events},
}

func runScenarios(t *testing.T, e *env) {
	t.Run("scenarios", func(t *testing.T) {
		for _, s := range scenarios {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, e, s.name)
			})
		}
	})
	checkJournal(t, e.js)
	checkSettled(t, e.js)
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	e := embedded(t)
	e.startWorkers(t, 2)
	runScenarios(t, e)
}

// everyAction sees each action become its command, each command once.
func everyAction(t *testing.T, e *env, account string) {
	group := `{stepGroup: {identifier: g, steps: [` + step("x") + `], rollbackSteps: [{step: {identifier: u}}], failureStrategies: [` +
		on("Connectivity", `{type: RetryStepGroup, spec: {retryCount: 1, retryIntervals: [1s]}}`) + `, ` +
		on("AllErrors", `{type: StepGroupRollback}`) + `]}}`
	e.register(t, e.ref(account, "p", ""), pipelineYAML(`[`+on("Authorization", `{type: PipelineRollback}`)+`, `+on("AllErrors", `{type: StageRollback}`)+`]`,
		step("ignore", on("AllErrors", `{type: Ignore}`)),
		step("success", on("AllErrors", `{type: MarkAsSuccess}`)),
		step("failure", on("AllErrors", `{type: MarkAsFailure}`)),
		step("abort", on("AllErrors", `{type: Abort}`)),
		step("retry", on("AllErrors", retryThen(2, "1s", "MarkAsFailure"))),
		step("at-once", on("AllErrors", retryThen(1, "", "Ignore"))),
		step("ask", on("AllErrors", ask("1h", "Abort"))),
		step("defaults", on("InputTimeoutError", `{type: ProceedWithDefaultValues}`)),
		step("none"), group))
	c := e.orchestrate(t, account)
	cases := []struct {
		node  string
		kind  recourse.ErrorType
		verbs string // of an orchestrator whose retries fail again
	}{
		{"s/ignore", recourse.Timeout, "ignore"},
		{"s/success", recourse.Timeout, "mark-success"},
		{"s/failure", recourse.Timeout, "mark-failure"},
		{"s/abort", recourse.Timeout, "abort"},
		{"s/retry", recourse.Timeout, "retry retry mark-failure"},
		{"s/at-once", recourse.Timeout, "retry ignore"},
		{"s/ask", recourse.Timeout, "pause mark-success"},
		{"s/defaults", recourse.InputTimeoutError, "proceed-with-defaults"},
		{"s/none", recourse.Timeout, "rollback-stage"},
		{"s/none", recourse.Authorization, "rollback-pipeline"},
		{"s/g/x", recourse.Connectivity, "retry-group mark-failure"},
		{"s/g/x", recourse.Timeout, "rollback-group"},
	}
	var all sync.WaitGroup
	for i, tc := range cases {
		all.Go(func() {
			ref := e.ref(account, "p", fmt.Sprintf("ex%d", i))
			e.fail(t, ref, tc.node, 1, tc.kind)
			for n, verb := range strings.Fields(tc.verbs) {
				if !within(patience, func() bool { return len(c.of(ref.Execution)) > n }) {
					t.Errorf("%s: no command %s; got %q", tc.node, verb, c.verbs(ref.Execution))
					return
				}
				switch rec := c.of(ref.Execution)[n]; rec.Command.Verb {
				case recourse.VerbRetry:
					e.fail(t, ref, tc.node, rec.Command.Attempt, tc.kind)
				case recourse.VerbRetryGroup:
					e.fail(t, ref, tc.node, rec.Attempt+1, tc.kind)
				case recourse.VerbPause:
					answer := recourse.Answer{Ref: ref, Intervention: rec.Command.Intervention.ID, Action: recourse.MarkAsSuccess, Why: "looks fine"}
					if _, err := e.operator.Answer(t.Context(), answer); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	h := checkJournal(t, e.js, account)
	for i, tc := range cases {
		execution := fmt.Sprintf("ex%d", i)
		if got := c.verbs(execution); got != tc.verbs {
			t.Errorf("%s (%s): commands %q, want %q", tc.node, tc.kind, got, tc.verbs)
		}
		c.heard(t, records(t, h, e.ref(account, "p", execution)), execution)
	}
}

// duplicates: the same failure inside the server's window for duplicates, and after it, with the same message id and without.
func duplicates(t *testing.T, e *env, account string) {
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", `{type: StageRollback}`)+`]`))
	c := e.orchestrate(t, account)
	f := failure(ref, "s/a", 1, recourse.Timeout)
	body := must(recourse.Encode(&f))(t)
	subject := ref.Subject(recourse.FamilyFailure, "delegate")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { e.raw(t, subject, nil, body) })
	}
	all.Wait()
	first := e.raw(t, subject, nats.Header{jetstream.MsgIDHeader: {"same"}}, body)
	c.want(t, "ex", "rollback-stage")
	// The window has passed once the same message id is stored again.
	eventually(t, "the window for duplicates has passed", func() bool {
		return e.raw(t, subject, nats.Header{jetstream.MsgIDHeader: {"same"}}, body) > first
	})
	e.fail(t, ref, "s/a", 1, recourse.Timeout) // by the client, with a time of its own
	conflicting := f
	conflicting.Message = "something else"
	must(e.delegate.Report(t.Context(), conflicting))(t)
	e.fail(t, ref, "s/b", 2, recourse.Timeout)
	e.fail(t, ref, "s/b", 1, recourse.Timeout)
	h := checkJournal(t, e.js, account)
	recs := records(t, h, ref)
	kinds := map[string]int{}
	for _, rec := range recs {
		kinds[rec.Command.Verb.String()+rec.Kind]++
	}
	// Two workers may swap the last two: then both are superseded.
	if len(recs) != 4 || kinds["rollback-stage"] != 1 || kinds[recourse.KindConflicting] != 1 || kinds[recourse.KindSuperseded]+kinds[recourse.KindStale] != 2 {
		t.Errorf("%d inputs made %d records: %v", len(h.Inbox), len(recs), kinds)
	}
	c.heard(t, recs, "ex")
}

// workersRace: many nodes of one execution fail at once, on two workers.
func workersRace(t *testing.T, e *env, account string) {
	const executions, nodes = 4, 25
	e.register(t, e.ref(account, "p", ""), pipelineYAML(`[`+on("AllErrors", retryThen(1, "1s", "MarkAsFailure"))+`]`))
	c := e.orchestrate(t, account)
	var all sync.WaitGroup
	for x := range executions {
		for n := range nodes {
			all.Go(func() {
				e.fail(t, e.ref(account, "p", fmt.Sprintf("ex%d", x)), fmt.Sprintf("s/n%d", n), 1, recourse.Timeout)
			})
		}
	}
	all.Wait()
	eventually(t, "every retry commanded", func() bool { return c.all()[recourse.VerbRetry] >= executions*nodes })
	h := checkJournal(t, e.js, account)
	for x := range executions {
		recs := records(t, h, e.ref(account, "p", fmt.Sprintf("ex%d", x)))
		if len(recs) != 2*nodes {
			t.Errorf("execution %d has %d records, want %d", x, len(recs), 2*nodes)
		}
		c.heard(t, recs, fmt.Sprintf("ex%d", x))
	}
}

// thousandFailures makes a state that only every so many records carry.
func thousandFailures(t *testing.T, e *env, account string) {
	const nodes = 1000
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", `{type: Ignore}`)+`]`))
	var futures []jetstream.PubAckFuture
	for n := range nodes {
		f := failure(ref, fmt.Sprintf("s/group/step[%d]", n), 1, recourse.Timeout)
		futures = append(futures, must(e.js.PublishAsync(ref.Subject(recourse.FamilyFailure, "delegate"), must(recourse.Encode(&f))(t)))(t))
	}
	for _, future := range futures {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			t.Fatal(err)
		}
	}
	e.end(t, ref, recourse.Finished)
	h := checkJournal(t, e.js, account)
	recs := records(t, h, ref)
	without := count(recs, func(r *recourse.Record) bool { return r.State == nil })
	if len(recs) != nodes+1 || without < nodes/2 {
		t.Errorf("%d records, %d without a state: the path for large states was not taken", len(recs), without)
	}
}

// dueTwice: hints that a wait came due are only hints, before their time and after.
func dueTwice(t *testing.T, e *env, account string) {
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", retryThen(1, "2s", "MarkAsFailure"))+`]`))
	c := e.orchestrate(t, account)
	e.fail(t, ref, "s/a", 1, recourse.Timeout)
	hint := func(version uint64) {
		e.raw(t, ref.Subject(recourse.FamilyDue, recourse.VersionDetail(version)), nats.Header{"Nats-Scheduler": {"x"}, "Nats-Schedule-Next": {"purge"}}, nil)
	}
	eventually(t, "the wait is recorded", func() bool { return len(records(t, checkNow(t, e, account), ref)) == 1 })
	for range 3 {
		hint(1) // too early
	}
	c.want(t, "ex", "retry")
	for range 3 {
		hint(1) // over
	}
	h := checkJournal(t, e.js, account)
	if recs := records(t, h, ref); len(recs) != 2 || recs[1].At.Before(recs[0].Wait.DueAt) {
		t.Errorf("%d records, want 2, the retry not before it was due", len(recs))
	}
}

func checkNow(t testing.TB, e *env, account string) history {
	t.Helper()
	return must(readHistory(t.Context(), e.js, []string{account}))(t)
}

// timersPurged: all schedules are lost while an execution waits.
func timersPurged(t *testing.T, e *env, account string) {
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", retryThen(1, "3s", "MarkAsFailure"))+`]`))
	c := e.orchestrate(t, account)
	e.fail(t, ref, "s/a", 1, recourse.Timeout)
	timers := must(e.js.Stream(t.Context(), recourse.StreamTimers))(t)
	subject := ref.Subject(recourse.FamilyTimer, "1")
	eventually(t, "the schedule is there", func() bool {
		_, err := timers.GetLastMsgForSubject(t.Context(), subject)
		return err == nil
	})
	if err := timers.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := timers.GetLastMsgForSubject(t.Context(), subject); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Fatalf("the schedule is not gone: %v", err)
	}
	c.want(t, "ex", "retry")
	checkJournal(t, e.js, account)
}

// poison: between good inputs stand those that nobody can decide.
func poison(t *testing.T, e *env, account string) {
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", `{type: Ignore}`)+`]`))
	c := e.orchestrate(t, account)
	subject := ref.Subject(recourse.FamilyFailure, "delegate")
	body := func(change func(*recourse.Failure)) string {
		f := failure(ref, "s/a", 1, recourse.Timeout)
		change(&f)
		return string(must(recourse.Encode(&f))(t))
	}
	good := body(func(*recourse.Failure) {})
	other := e.ref("SomebodyElse", "p", "ex")
	for i, tc := range []struct {
		reason recourse.DecodeReason
		body   string
		header nats.Header
		at     string // subject, where it is another
	}{
		{recourse.ReasonBadJSON, `{`, nil, ""},
		{recourse.ReasonBadJSON, "", nil, ""},
		{recourse.ReasonBadJSON, "\xff\xfe", nil, ""},
		{recourse.ReasonBadJSON, strings.Replace(good, "it broke", "\xc3\x28", 1), nil, ""},
		{recourse.ReasonDuplicateKey, strings.Replace(good, `"attempt":1`, `"attempt":1,"attempt":2`, 1), nil, ""},
		{recourse.ReasonUnknownKey, strings.Replace(good, `"attempt":1`, `"attempt":1,"surprise":2`, 1), nil, ""},
		{recourse.ReasonUnknownKey, strings.Replace(good, `"attempt":1`, `"Attempt":1`, 1), nil, ""},
		{recourse.ReasonBadValue, strings.Replace(good, `"attempt":1`, `"attempt":"1"`, 1), nil, ""},
		{recourse.ReasonInvalid, body(func(f *recourse.Failure) { f.Attempt = 0 }), nil, ""},
		{recourse.ReasonInvalid, body(func(f *recourse.Failure) { f.Execution = "" }), nil, ""},
		{recourse.ReasonInvalid, body(func(f *recourse.Failure) { f.Execution = strings.Repeat("x", 257) }), nil, ""},
		{recourse.ReasonFutureSchema, strings.Replace(good, `"attempt":1`, `"attempt":1,"schema":99,"new":{}`, 1), nil, ""},
		{recourse.ReasonTooDeep, strings.Repeat("[", 5000) + strings.Repeat("]", 5000), nil, ""},
		{recourse.ReasonWrongSubject, body(func(f *recourse.Failure) { f.Ref = other }), nil, ""},
		{recourse.ReasonWrongSubject, body(func(f *recourse.Failure) { f.Execution = "another" }), nil, ""},
		{recourse.ReasonInvalid, string(must(recourse.Encode(&recourse.Answer{Ref: ref, Action: recourse.Abort}))(t)), nil, ref.Subject(recourse.FamilyIntervention, "delegate")},
		{recourse.ReasonUnknownKey, good, nil, ref.Subject(recourse.FamilyLifecycle, "delegate")},
		// What looks like a word from the server: it must neither stop the workers nor be overlooked.
		{recourse.ReasonBadJSON, "", nats.Header{"Status": {"400"}, "Description": {"Bad Request"}}, ""},
		{recourse.ReasonBadJSON, "", nats.Header{"Status": {"404"}, "Description": {"No Messages"}}, ""},
		{recourse.ReasonBadJSON, "", nats.Header{"Status": {"408"}, "Nats-Pending-Messages": {"1000000"}}, ""},
		{recourse.ReasonBadJSON, "", nats.Header{"Status": {"409"}, "Description": {"Consumer Deleted"}}, ""},
		{recourse.ReasonBadJSON, "", nats.Header{"Status": {"100"}, "Description": {"Idle Heartbeat"}}, ""},
		{recourse.ReasonBadJSON, "{", nats.Header{"Recourse-Reason": {"none"}, "Recourse-Sequence": {"1"}, "nats-rollup": {"all"}, "Two": {"one", "two"}}, ""},
		// What claims to be an event and is none that can be taken.
		{recourse.ReasonDuplicateKey, good, nats.Header{"ce-id": {"one", "two"}}, ""},
		{recourse.ReasonInvalid, good, nats.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"/ci"}}, ""},
		{recourse.ReasonUnknownType, good, nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/ci"}, "ce-type": {"com.example.failure"}}, ""},
	} {
		at := tc.at
		if at == "" {
			at = subject
		}
		sequence := e.raw(t, at, tc.header, []byte(tc.body))
		e.fail(t, ref, fmt.Sprintf("s/good%d", i), 1, recourse.Timeout)
		rejected := ref.Subject(recourse.FamilyRejected, string(tc.reason))
		found := within(patience, func() bool {
			for _, msg := range checkNow(t, e, account).Rejected {
				if msg.Header["Recourse-Sequence"][0] == fmt.Sprint(sequence) {
					if msg.Subject != rejected {
						t.Errorf("%d: rejected under %s, want %s", i, msg.Subject, rejected)
					}
					for name, values := range tc.header {
						if kept := append(msg.Header[name], msg.Header["Recourse-Original-"+name]...); strings.Join(kept, ",") != strings.Join(values, ",") &&
							!strings.HasSuffix(strings.Join(kept, ","), strings.Join(values, ",")) {
							t.Errorf("%d: header %s is kept as %q, want %q", i, name, kept, values)
						}
					}
					return true
				}
			}
			return false
		})
		if !found {
			t.Errorf("%d: %.60q is not among the rejected inputs (%s)", i, tc.body, tc.reason)
		}
	}
	// Headers that do something, or that are twice there, on a good input.
	f := failure(ref, "s/headers", 1, recourse.Timeout)
	e.raw(t, subject, nats.Header{
		"traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "garbage"}, "TraceParent": {"x"}, "baggage": {"a=b", "c"},
		"ce-custom": {"one", "two"}, "nats-rollup": {"all"}, "Empty": {""},
	}, must(recourse.Encode(&f))(t))
	for name, value := range map[string]string{"Nats-Rollup": "all", "Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-TTL": "1s", "Nats-Expected-Stream": "OTHER"} {
		f := failure(ref, "s/refused", 1, recourse.Timeout)
		msg := &nats.Msg{Subject: subject, Header: nats.Header{name: {value}}, Data: must(recourse.Encode(&f))(t)}
		if _, err := e.js.PublishMsg(t.Context(), msg); err == nil {
			t.Errorf("a message with the header %s was stored", name)
		}
	}
	// What is larger than an input may be is refused where it is published.
	if _, err := e.js.Publish(t.Context(), subject, []byte(`{"message":"`+strings.Repeat("x", recourse.MaxSize)+`"}`)); err == nil {
		t.Error("a message of more than the most bytes was stored")
	}
	largest := body(func(f *recourse.Failure) { f.Path = "s/large" })
	largest = strings.Replace(largest, "it broke", strings.Repeat("y", recourse.MaxSize-len(largest)-200), 1)
	e.raw(t, subject, nil, []byte(largest))
	// The largest that is rejected: its headers and those of the rejection come on top.
	e.raw(t, subject, nil, []byte(`["`+strings.Repeat("z", recourse.MaxSize-200)+`"]`))
	h := checkJournal(t, e.js, account)
	recs := records(t, h, ref)
	if want := 26 + 2; len(recs) != want || len(h.Rejected) != 26+1 {
		t.Errorf("%d records, want %d; %d rejected, want %d", len(recs), want, len(h.Rejected), 27)
	}
	c.heard(t, recs, "ex")
}

// unknownPipeline: a failure of a pipeline nobody registered is decided without a plan; one that is registered later counts from then on.
func unknownPipeline(t *testing.T, e *env, account string) {
	ref := e.ref(account, "late", "ex")
	c := e.orchestrate(t, account)
	e.fail(t, ref, "s/a", 1, recourse.Timeout)
	first := c.want(t, "ex", "mark-failure")[0]
	if first.Reason != recourse.NoStrategy || first.Pipeline.Revision != 0 {
		t.Errorf("reason %s, revision %d; want NoStrategy, none", first.Reason, first.Pipeline.Revision)
	}
	revision := e.register(t, ref, pipelineYAML(`[`+on("AllErrors", `{type: Ignore}`)+`]`))
	e.fail(t, ref, "s/b", 1, recourse.Timeout) // right after its registration
	second := c.want(t, "ex", "mark-failure ignore")[1]
	if second.Pipeline.Revision != revision || second.State.Pipeline.Revision != revision {
		t.Errorf("decided by revision %d, pinned %d; want %d", second.Pipeline.Revision, second.State.Pipeline.Revision, revision)
	}
	// Not YAML at all: it has a revision and no plan.
	broken := e.ref(account, "broken", "ex-broken")
	e.register(t, broken, "\t{[")
	e.fail(t, broken, "s/a", 1, recourse.Timeout)
	if rec := c.want(t, "ex-broken", "mark-failure")[0]; rec.Pipeline.Revision == 0 {
		t.Error("YAML that cannot be read has no revision in the record")
	}
	checkJournal(t, e.js, account)
}

// pinnedRevision: an execution keeps the revision of its first decision, a new one takes the newest.
func pinnedRevision(t *testing.T, e *env, account string) {
	ref := e.ref(account, "p", "old")
	first := e.register(t, ref, pipelineYAML(`[`+on("AllErrors", `{type: Ignore}`)+`]`))
	c := e.orchestrate(t, account)
	e.fail(t, ref, "s/a", 1, recourse.Timeout)
	c.want(t, "old", "ignore")
	second := e.register(t, ref, pipelineYAML(`[`+on("AllErrors", `{type: MarkAsSuccess}`)+`]`))
	n := 0
	eventually(t, "the new revision decides", func() bool {
		execution := fmt.Sprintf("new%d", n)
		n++
		e.fail(t, e.ref(account, "p", execution), "s/a", 1, recourse.Timeout)
		eventually(t, execution, func() bool { return c.verbs(execution) != "" })
		rec := c.of(execution)[0]
		return rec.Command.Verb == recourse.VerbMarkSuccess && rec.Pipeline.Revision == second
	})
	e.fail(t, ref, "s/b", 1, recourse.Timeout)
	if rec := c.want(t, "old", "ignore ignore")[1]; rec.Pipeline.Revision != first {
		t.Errorf("decided by revision %d, want the pinned %d", rec.Pipeline.Revision, first)
	}
	checkJournal(t, e.js, account)
}

// hostileIDs: whatever an id looks like, the failure is decided and the command has the id as it was.
func hostileIDs(t *testing.T, e *env, account string) {
	c := e.orchestrate(t, account)
	ids := []string{
		strings.Repeat("long", 64), strings.Repeat("long", 63) + "lon.", "a.b.c", "with spaces in it", "*", ">", "a.>", "$JS.API", "..", "名前", "émoji 🚀",
		"=", "==", "%2e", `"quoted"`, "tab?", "{}", "\u2028", "A", "a", strings.Repeat("é", 128),
	}
	for i, id := range ids {
		ref := recourse.Ref{Account: account, Org: id, Project: id, Pipeline: id, Execution: id}
		e.register(t, ref, pipelineYAML(`[`+on("AllErrors", retryThen(1, "1s", "Ignore"))+`]`))
		e.fail(t, ref, "s/"+strings.ReplaceAll(id, "/", "_"), 1, recourse.Timeout)
		_ = i
	}
	for _, id := range ids {
		if rec := c.want(t, id, "retry")[0]; rec.Org != id || rec.Project != id || rec.Pipeline.Revision == 0 {
			t.Errorf("%q: the command is for %s, revision %d", id, rec.Ref, rec.Pipeline.Revision)
		}
	}
	if err := failureError(e, recourse.Ref{Account: account, Org: "o", Project: "p", Pipeline: "p", Execution: strings.Repeat("x", 257)}); err == nil {
		t.Error("an id of 257 bytes was accepted")
	}
	checkJournal(t, e.js, account)
}

func failureError(e *env, ref recourse.Ref) error {
	_, err := e.delegate.Report(context.Background(), failure(ref, "s/a", 1, recourse.Timeout))
	return err
}

// twoPeople answer the same interventions at the same moment: one is told yes, the other who was first.
func twoPeople(t *testing.T, e *env, account string) {
	e.register(t, e.ref(account, "p", ""), pipelineYAML(`[`+on("AllErrors", ask("1h", "Abort"))+`]`))
	c := e.orchestrate(t, account)
	var all sync.WaitGroup
	for x := range 8 {
		all.Go(func() {
			ref := e.ref(account, "p", fmt.Sprintf("ex%d", x))
			e.fail(t, ref, "s/a", 1, recourse.Timeout)
			if !within(patience, func() bool { return c.verbs(ref.Execution) == "pause" }) {
				t.Errorf("no pause")
				return
			}
			question := c.of(ref.Execution)[0].Command.Intervention
			people := []string{"alice", "bob"}
			errs := make([]error, len(people))
			var both sync.WaitGroup
			for i, who := range people {
				both.Go(func() {
					_, errs[i] = e.operator.Answer(t.Context(), recourse.Answer{
						Ref: ref, Intervention: question.ID, Action: recourse.MarkAsSuccess, Who: who, Why: "because",
					})
				})
			}
			both.Wait()
			first := 0
			if errs[0] != nil {
				first = 1
			}
			var refused *client.RefusedError
			switch second := errs[1-first]; {
			case errs[first] != nil:
				t.Errorf("both were refused: %v, %v", errs[0], errs[1])
			case !errors.As(second, &refused):
				t.Errorf("both were told yes: %v", second)
			case !strings.Contains(refused.Detail, people[first]):
				t.Errorf("%s was refused with %q, which does not name %s", people[1-first], refused.Detail, people[first])
			}
		})
	}
	all.Wait()
	checkJournal(t, e.js, account)
	for x := range 8 {
		c.want(t, fmt.Sprintf("ex%d", x), "pause mark-success")
	}
}

// answerAgainstTimeout: people answer when the time is just up. Whoever is first counts, and only that.
func answerAgainstTimeout(t *testing.T, e *env, account string) {
	e.register(t, e.ref(account, "p", ""), pipelineYAML(`[`+on("AllErrors", ask("1s", "Ignore"))+`]`))
	c := e.orchestrate(t, account)
	const executions = 12
	var all sync.WaitGroup
	for x := range executions {
		all.Go(func() {
			ref := e.ref(account, "p", fmt.Sprintf("ex%d", x))
			e.fail(t, ref, "s/a", 1, recourse.Timeout)
			if !within(patience, func() bool { return len(c.of(ref.Execution)) > 0 }) {
				t.Error("no pause")
				return
			}
			question := c.of(ref.Execution)[0].Command.Intervention
			<-time.After(time.Until(question.Deadline) + time.Duration(x-executions*2/3)*25*time.Millisecond)
			_, err := e.operator.Answer(t.Context(), recourse.Answer{
				Ref: ref, Intervention: question.ID, Action: recourse.MarkAsSuccess, Who: "late", Why: "because",
			})
			want := "pause mark-success"
			var refused *client.RefusedError
			if errors.As(err, &refused) {
				want = "pause ignore"
				if !strings.Contains(refused.Detail, "timed out") {
					t.Errorf("refused with %q", refused.Detail)
				}
			} else if err != nil {
				t.Error(err)
			}
			if !within(patience, func() bool { return len(c.of(ref.Execution)) >= 2 }) || c.verbs(ref.Execution) != want {
				t.Errorf("%s: commands %q, want %q", ref.Execution, c.verbs(ref.Execution), want)
			}
		})
	}
	all.Wait()
	checkJournal(t, e.js, account)
	if n := c.all(); n[recourse.VerbPause] != executions || n[recourse.VerbMarkSuccess]+n[recourse.VerbIgnore] != executions {
		t.Errorf("commands %v", n)
	}
}

// abortAgainstRetry: an abort that came before the retry was due always wins, and nothing fires after it.
func abortAgainstRetry(t *testing.T, e *env, account string) {
	e.register(t, e.ref(account, "p", ""), pipelineYAML(`[`+on("AllErrors", retryThen(1, "1s", "Ignore"))+`]`))
	c := e.orchestrate(t, account)
	const executions = 12
	var all sync.WaitGroup
	for x := range executions {
		all.Go(func() {
			ref := e.ref(account, "p", fmt.Sprintf("ex%d", x))
			e.fail(t, ref, "s/a", 1, recourse.Timeout)
			<-time.After(time.Second + time.Duration(x-executions/3)*100*time.Millisecond)
			e.end(t, ref, recourse.Aborted)
		})
	}
	all.Wait()
	var h history
	eventually(t, "every wait has ended and every abort is recorded", func() bool {
		h = checkJournal(t, e.js, account)
		for x := range executions {
			recs := records(t, h, e.ref(account, "p", fmt.Sprintf("ex%d", x)))
			if len(recs) == 0 || len(recs[len(recs)-1].State.Waits) > 0 || len(recs[len(recs)-1].State.Ended) == 0 {
				return false
			}
		}
		return true
	})
	won := 0
	for x := range executions {
		recs := records(t, h, e.ref(account, "p", fmt.Sprintf("ex%d", x)))
		aborted := -1
		for i, rec := range recs {
			switch {
			case rec.Input.Lifecycle == recourse.Aborted:
				aborted = i
				if len(rec.Cancelled) > 0 {
					won++
				}
			case aborted >= 0 && rec.Command.Verb != 0:
				t.Errorf("ex%d: %s after the abort", x, rec.Command.Verb)
			}
		}
		if recs[aborted].At.Before(recs[0].Wait.DueAt) && count(recs, func(r *recourse.Record) bool { return r.Command.Verb == recourse.VerbRetry }) > 0 {
			t.Errorf("ex%d: aborted before the retry was due, and retried", x)
		}
		c.heard(t, recs, fmt.Sprintf("ex%d", x))
	}
	t.Logf("the abort came first in %d of %d", won, executions)
	if won == 0 {
		t.Error("no abort came before its retry: the race was not run")
	}
}

// endCancelsWaits: what waits when an execution finishes does not fire, and what fails later is recorded only.
func endCancelsWaits(t *testing.T, e *env, account string) {
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("Timeout", retryThen(1, "2s", "Ignore"))+`, `+on("AllErrors", ask("2s", "Abort"))+`]`))
	c := e.orchestrate(t, account)
	for n := range 5 {
		e.fail(t, ref, fmt.Sprintf("s/retry%d", n), 1, recourse.Timeout)
		e.fail(t, ref, fmt.Sprintf("s/ask%d", n), 1, recourse.Verification)
	}
	c.want(t, "ex", "pause pause pause pause pause")
	journal := must(e.js.Stream(t.Context(), recourse.StreamJournal))(t)
	eventually(t, "all ten are decided", func() bool { // with two workers a pause may come before a retry of an earlier input
		info, err := journal.Info(t.Context(), jetstream.WithSubjectFilter(ref.Prefix()+".>"))
		if err != nil {
			return false
		}
		n := uint64(0)
		for _, messages := range info.State.Subjects {
			n += messages
		}
		return n == 10
	})
	e.end(t, ref, recourse.Finished)
	e.end(t, ref, recourse.Finished)
	e.fail(t, ref, "s/later", 1, recourse.Timeout)
	h := checkJournal(t, e.js, account)
	recs := records(t, h, ref)
	if n := count(recs, func(r *recourse.Record) bool { return len(r.Cancelled) == 10 }); n != 1 {
		t.Errorf("%d records cancel all 10 waits, want 1", n)
	}
	if last := recs[len(recs)-1]; last.Reason != recourse.ExecutionEnded && recs[len(recs)-2].Reason != recourse.ExecutionEnded {
		t.Errorf("the failure after the end was decided %s", last.Reason)
	}
	// The schedules are gone too.
	timers := must(e.js.Stream(t.Context(), recourse.StreamTimers))(t)
	eventually(t, "the schedules are cancelled", func() bool {
		info, err := timers.Info(t.Context(), jetstream.WithSubjectFilter(ref.Prefix()+".>"))
		return err == nil && len(info.State.Subjects) == 0
	})
}

// controls: a person runs a retry now, gives one up, moves one.
func controls(t *testing.T, e *env, account string) {
	e.register(t, e.ref(account, "p", ""), pipelineYAML(`[`+on("AllErrors", retryThen(2, "1h", "StageRollback"))+`]`))
	c := e.orchestrate(t, account)
	do := func(ref recourse.Ref, control recourse.Control) {
		control.Ref, control.Why = ref, "because"
		e.raw(t, ref.Subject(recourse.FamilyControl, "operator"), nil, must(recourse.Encode(&control))(t))
	}
	for execution, tc := range map[string]struct {
		control recourse.Control
		verbs   string
	}{
		"now":    {recourse.Control{Wait: 1, Do: recourse.RunNow}, "retry"},
		"cancel": {recourse.Control{Wait: 1, Do: recourse.Cancel}, "rollback-stage"},
		"sooner": {recourse.Control{Wait: 1, Do: recourse.Postpone, For: recourse.Duration(time.Second)}, "retry"},
	} {
		ref := e.ref(account, "p", execution)
		e.fail(t, ref, "s/a", 1, recourse.Timeout)
		eventually(t, "the wait is recorded", func() bool { return len(records(t, checkNow(t, e, account), ref)) == 1 })
		do(ref, tc.control)
		do(ref, tc.control) // comes second: refused
		c.want(t, execution, tc.verbs)
	}
	checkJournal(t, e.js, account)
}
