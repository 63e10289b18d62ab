package incident

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/broker/brokertest"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/publish"
	"github.com/recourse-dev/recourse/internal/retry"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// record is what the tally sees of one.
type record struct {
	subject string
	header  map[string][]string
	at      time.Time
}

// seen makes a record: of an execution of a pipeline, its version, and what its headers say.
func seen(pipeline, execution, detail string, version, second int, header ...string) record {
	r := record{
		subject: recourse.Ref{Account: "acme", Org: "shop", Project: "web", Pipeline: pipeline, Execution: execution}.Prefix() + "." + detail,
		header:  map[string][]string{recourse.HeaderVersion: {strconv.Itoa(version)}}, at: epoch.Add(time.Duration(second) * time.Second),
	}
	for i := 0; i < len(header); i += 2 {
		r.header[header[i]] = []string{header[i+1]}
	}
	return r
}

func tallied(t *testing.T, records []record) *Report {
	t.Helper()
	tally := NewTally()
	for _, r := range records {
		subject, err := recourse.ParseSubject(r.subject)
		if err != nil {
			t.Fatal(err)
		}
		tally.Add(subject, r.header, r.at)
	}
	return tally.Report(epoch, epoch.Add(time.Hour))
}

const (
	failure = recourse.HeaderFailure
	dueAt   = recourse.HeaderDueAt
	ends    = recourse.HeaderEnds
	cancels = recourse.HeaderCancels
	later   = "2026-01-02T04:04:05Z"
)

// TestTally: counts, waits that ended in each way, and the order; whichever way the records come.
func TestTally(t *testing.T) {
	const retried, asked, rolled = "Retry Timeout steps prod/rollout", "ManualIntervention Verification steps prod/smoke", "StageRollback Timeout,Unknown rollbackSteps prod/x y"
	records := []record{
		seen("a", "1", "decision.retry-scheduled", 1, 1, failure, retried, dueAt, later),
		seen("a", "1", "command.retry", 2, 2, ends, "1"), // fired
		seen("a", "1", "decision.retry-scheduled", 3, 3, failure, "Retry Timeout steps prod/rollout[3]", dueAt, later),
		seen("a", "1", "decision.retry-postponed", 4, 4, ends, "3", dueAt, later), // waits on, for the failure of 3
		seen("a", "1", "decision.retry-postponed", 5, 5, ends, "4", dueAt, later),
		seen("a", "2", "decision.retry-scheduled", 1, 6, failure, retried, dueAt, later),
		seen("a", "2", "command.pause", 2, 7, failure, asked, dueAt, later),
		seen("a", "2", "command.rollback-stage", 3, 8, failure, rolled, cancels, "1,2"), // superseded
		seen("a", "3", "command.pause", 1, 9, failure, asked, dueAt, later),             // open
		seen("a", "4", "command.pause", 1, 10, failure, asked, dueAt, later),
		seen("a", "4", "command.retry", 2, 11, ends, "1"),                           // answered
		seen("b", "1", "command.retry", 9, 12, ends, "8"),                           // of a wait from before
		seen("b", "1", "decision.retry-postponed", 10, 13, ends, "7", dueAt, later), // its failure is from before
		seen("b", "2", "command.ignore", 1, 14, failure, "broken"),
		seen("b", "2", "decision.superseded", 2, 15, failure, "superseded Unknown steps prod", "Recourse-Ends", "x", cancels, "y"),
	}
	at := func(second int) time.Time { return epoch.Add(time.Duration(second) * time.Second) }
	incident := func(pipeline, errors, node string, action string, failures, executions, waiting, open, first, last int, example string) Incident {
		return Incident{Account: "acme", Org: "shop", Project: "web", Pipeline: pipeline, Errors: errors, Node: node, Action: action, Failures: failures,
			Executions: executions, Waiting: waiting, Open: open, First: at(first), Last: at(last), Example: "acme/shop/web/" + pipeline + "/" + example}
	}
	want := &Report{
		Since: epoch, Until: epoch.Add(time.Hour), Records: len(records), Failures: 8, Executions: 5, Waiting: 2, Open: 1,
		Incidents: []Incident{
			incident("a", "Verification", "prod/smoke", "ManualIntervention", 3, 3, 0, 1, 7, 10, "4"),
			incident("a", "Timeout", "prod/rollout", "Retry", 3, 2, 1, 0, 1, 6, "2"),
			incident("b", "Unknown", "prod", "superseded", 1, 1, 0, 0, 15, 15, "2"),
			incident("a", "Timeout,Unknown", "prod/x y", "StageRollback", 1, 1, 0, 0, 8, 8, "2"),
		},
	}
	want.Incidents[3].Section = recourse.RollbackSteps
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		if got := tallied(t, records); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v\nwant\n%+v", got, want)
		}
		random.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	}
	if got := tallied(t, nil); got.Incidents == nil || got.Failures != 0 {
		t.Errorf("nothing: %+v", got)
	}
}

// TestTallyBound: hostile nodes do not make more groups than there may be, and a ring of waits ends.
func TestTallyBound(t *testing.T) {
	var records []record
	for i := range MaxIncidents + 5 {
		records = append(records, seen("a", "1", "command.ignore", i+1, i, failure, fmt.Sprintf("Ignore Timeout steps n%d", i)))
	}
	records = append(records, seen("a", "2", "decision.retry-postponed", 1, 1, ends, "2", dueAt, later), seen("a", "2", "decision.retry-postponed", 2, 1, ends, "1", dueAt, later),
		seen("a", "2", "decision.retry-postponed", 3, 1, ends, "2", dueAt, later))
	if got := tallied(t, records); len(got.Incidents) != MaxIncidents || got.Others != 5 || got.Failures != MaxIncidents+5 {
		t.Errorf("%d incidents, %d others, %d failures", len(got.Incidents), got.Others, got.Failures)
	}
}

func TestReadable(t *testing.T) {
	for _, id := range []string{"plain", "a b", "ü*>.", "=", "=2", "50%"} {
		if got := readable(recourse.Token(id)); got != id {
			t.Errorf("%q became %q", id, got)
		}
	}
	long := recourse.Token(strings.Repeat("ä", 100))
	for _, token := range []string{long, "=", "=Z9", "a=4"} {
		if got := readable(token); got != token {
			t.Errorf("%q became %q", token, got)
		}
	}
	if got := readable("=FF"); got != "\uFFFD" {
		t.Errorf("not UTF-8: %q", got)
	}
}

// bench is a server with the streams.
type bench struct {
	nc *nats.Conn
	js jetstream.JetStream
}

func newBench(t *testing.T, dir string) *bench {
	t.Helper()
	server := brokertest.StartOn(t, dir, broker.SyncInterval)
	var err error
	b := &bench{}
	if b.nc, err = nats.Connect(server.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.nc.Close)
	b.js, err = jetstream.New(b.nc, jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), b.js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	return b
}

var plan = decide.NewPlan("p", recourse.Documented, []decide.PlanNode{
	{Node: recourse.Node{Path: "prod"}, Level: recourse.LevelStage, Strategies: []decide.Strategy{{Path: "stages[0].failureStrategies[0]",
		Errors: recourse.ErrorTypesOf(recourse.AllErrors), Do: decide.ActionSpec{Action: recourse.StageRollback}}}},
	{Node: recourse.Node{Path: "prod/rollout"}, Level: recourse.LevelStep, Strategies: []decide.Strategy{
		{Path: "pipeline.stages[0].stage.spec.execution.steps[0].step.failureStrategies[0]", Errors: recourse.ErrorTypesOf(recourse.Timeout), Do: decide.ActionSpec{
			Action: recourse.Retry, Retry: &retry.Policy{Count: 3, Intervals: []time.Duration{time.Second}}}},
		{Path: "pipeline.stages[0].stage.spec.execution.steps[0].step.failureStrategies[1]", Errors: recourse.ErrorTypesOf(recourse.Verification),
			Do: decide.ActionSpec{Action: recourse.ManualIntervention}}}},
})

// load stores executions as workers would, each of three records: a retry that fires, and a question.
func (b *bench) load(t *testing.T, executions int) {
	t.Helper()
	journal, err := b.js.Stream(t.Context(), recourse.StreamJournal)
	if err != nil {
		t.Fatal(err)
	}
	next := journal.CachedInfo().State.LastSeq + 1
	for i := range executions {
		ref := recourse.Ref{Account: "acme", Org: "shop", Project: "web", Pipeline: fmt.Sprintf("deploy_%d", i%20), Execution: fmt.Sprintf("ex%d", i)}
		head, now := new(decide.Head), time.Now()
		for k := range 3 {
			in := &decide.Input{Ref: ref, Node: recourse.Node{Path: "prod/rollout"}, Attempt: k/2 + 1, Input: recourse.Input{
				Key: fmt.Sprintf("failure/prod/rollout/%d", k/2+1), Sequence: uint64(2*i + k/2 + 1), Digest: "0123456789abcdef", Principal: "ci",
				Failure: &recourse.FailureInput{Errors: recourse.ErrorTypesOf(recourse.Timeout), Message: "could not reach the cluster at 10.2.3.4: connection timed out after 30s"}}}
			switch k {
			case 1:
				in, now = &decide.Input{Ref: ref, Input: recourse.Input{Key: "due/1", Due: 1}}, now.Add(time.Second)
			case 2:
				in.Failure.Errors = recourse.ErrorTypesOf(recourse.Verification)
			}
			rec := new(recourse.Record)
			if result, _ := decide.Decide(rec, decide.Pipeline{Plan: plan, Revision: recourse.PipelineRevision{Revision: 1, Digest: "0123456789abcdef"}}, head, in, now); result != decide.Decided {
				t.Fatal(result)
			}
			body, err := decide.Seal(rec, head)
			if err != nil {
				t.Fatal(err)
			}
			header := nats.Header{recourse.HeaderVersion: {fmt.Sprint(rec.Version)}}
			if rec.Wait.Version != 0 {
				header[dueAt] = []string{rec.Wait.DueAt.Format(time.RFC3339Nano)}
			}
			if rec.Ends != 0 {
				header[ends] = []string{fmt.Sprint(rec.Ends)}
			}
			if s := rec.FailureSummary(); s != "" {
				header[failure] = []string{s}
			}
			if _, err := b.js.PublishMsgAsync(&nats.Msg{Subject: rec.Subject(), Header: header, Data: body}, jetstream.WithStallWait(time.Minute)); err != nil {
				t.Fatal(err)
			}
			head.Appended(rec, next)
			next++
		}
	}
	<-b.js.PublishAsyncComplete()
}

// TestRead: all of the journal, of a time, of a pipeline; over several readers.
func TestRead(t *testing.T) {
	b := newBench(t, t.TempDir())
	const executions = 4_000 // three readers
	begin := time.Now()
	b.load(t, executions)
	const all = "recourse.*.*.*.*.*"
	report, err := Read(t.Context(), b.nc, b.js, all, begin.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if report.Records != 3*executions || report.Failures != 2*executions || report.Executions != executions || report.Waiting != 0 || report.Open != executions || len(report.Incidents) != 40 {
		t.Errorf("%+v", report)
	}
	for _, i := range report.Incidents {
		if i.Executions != executions/20 || i.Failures != executions/20 || i.First.Before(begin.Add(-time.Second)) || i.Last.Before(i.First) {
			t.Errorf("%+v", i)
		}
	}
	if report, err = Read(t.Context(), b.nc, b.js, "recourse.acme.*.*.deploy_7.*", begin.Add(-time.Hour)); err != nil || report.Records != 3*executions/20 || report.Executions != executions/20 || len(report.Incidents) != 2 {
		t.Errorf("%+v, %v", report, err)
	}
	if report, err = Read(t.Context(), b.nc, b.js, "recourse.other.*.*.*.*", begin.Add(-time.Hour)); err != nil || report.Records != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if report, err = Read(t.Context(), b.nc, b.js, all, time.Now().Add(time.Minute)); err != nil || report.Records != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	// Nothing is left behind at the server.
	journal, err := b.js.Stream(t.Context(), recourse.StreamJournal)
	if err != nil || journal.CachedInfo().State.Consumers != 0 {
		t.Errorf("%d consumers, %v", journal.CachedInfo().State.Consumers, err)
	}
	// Only what came since then.
	since := time.Now()
	one := recourse.Ref{Account: "acme", Org: "shop", Project: "web", Pipeline: "late one", Execution: "ex"}
	j, err := publish.NewJournal(b.nc, publish.Config{})
	if err != nil {
		t.Fatal(err)
	}
	rec, head := new(recourse.Record), new(decide.Head)
	decide.Decide(rec, decide.Pipeline{Plan: plan}, head, &decide.Input{Ref: one, Node: recourse.Node{Path: "prod/rollout"}, Attempt: 1, Input: recourse.Input{
		Key: "failure/prod/rollout/1", Failure: &recourse.FailureInput{Errors: recourse.ErrorTypesOf(recourse.Timeout)}}}, since)
	body, err := decide.Seal(rec, head)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(t.Context(), one.Prefix(), rec, body, nats.Header{}); err != nil {
		t.Fatal(err)
	}
	if report, err = Read(t.Context(), b.nc, b.js, all, since); err != nil || len(report.Incidents) != 1 || report.Incidents[0].Pipeline != "late one" || report.Waiting != 1 {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestReadMeasured prints how long 100,000 executions take, all of them within the time looked at. It is for people: RECOURSE_MEASURE is a
// directory for the server's files, which are used again.
func TestReadMeasured(t *testing.T) {
	dir := os.Getenv("RECOURSE_MEASURE")
	if dir == "" {
		t.Skip("SKIP: RECOURSE_MEASURE is not set to a directory")
	}
	b := newBench(t, dir)
	journal, err := b.js.Stream(t.Context(), recourse.StreamJournal)
	if err != nil {
		t.Fatal(err)
	}
	if journal.CachedInfo().State.Msgs == 0 {
		b.load(t, 100_000)
	}
	for range 5 {
		begin := time.Now()
		report, err := Read(t.Context(), b.nc, b.js, "recourse.*.*.*.*.*", begin.Add(-24*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s for %d records of %d executions, %d incidents", time.Since(begin), report.Records, report.Executions, len(report.Incidents))
	}
}
