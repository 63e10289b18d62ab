package history

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ref   = recourse.Ref{Account: "acme", Org: "shop", Project: "web", Pipeline: "deploy", Execution: "ex42"}
)

// script makes a chain by deciding.
type script struct {
	t     *testing.T
	plan  *decide.Plan
	head  decide.Head
	now   time.Time
	chain []Message
	seen  int
}

func newScript(t *testing.T) *script {
	all := recourse.ErrorTypesOf(recourse.AllErrors)
	of := recourse.ErrorTypesOf
	again := decide.ActionSpec{Action: recourse.Retry, Retry: &retry.Policy{Count: 2, Intervals: []time.Duration{time.Second, 5 * time.Minute}},
		OnRetryFailure: &decide.ActionSpec{Action: recourse.StageRollback}}
	ask := decide.ActionSpec{Action: recourse.ManualIntervention, Intervention: &decide.InterventionSpec{
		Timeout: time.Hour, OnTimeout: &decide.ActionSpec{Action: recourse.Abort}, Allowed: recourse.ActionsOf(recourse.Retry, recourse.MarkAsSuccess)}}
	return &script{t: t, now: epoch, plan: decide.NewPlan("deploy", recourse.Documented, []decide.PlanNode{
		{Node: recourse.Node{Path: "prod"}, Level: recourse.LevelStage, Strategies: []decide.Strategy{
			{Path: "stages[0].failureStrategies[0]", Errors: all, Do: decide.ActionSpec{Action: recourse.PipelineRollback}}}},
		{Node: recourse.Node{Path: "prod/canary"}, Level: recourse.LevelStepGroup, Strategies: []decide.Strategy{
			{Path: "stages[0].steps[0].failureStrategies[0]", Errors: of(recourse.Connectivity), Do: decide.ActionSpec{
				Action: recourse.RetryStepGroup, Retry: &retry.Policy{Count: 1, Intervals: []time.Duration{10 * time.Second}}}}}},
		{Node: recourse.Node{Path: "prod/canary/rollout"}, Level: recourse.LevelStep, Strategies: []decide.Strategy{
			{Path: "stages[0].steps[0].steps[0].failureStrategies[0]", Errors: of(recourse.Timeout), Do: again},
			{Path: "stages[0].steps[0].steps[0].failureStrategies[1]", Index: 1, Errors: of(recourse.Verification), Do: ask}}},
	})}
}

func (s *script) wait(d time.Duration) { s.now = s.now.Add(d) }

func (s *script) input(in recourse.Input, node string, attempt int) {
	s.t.Helper()
	s.seen++
	if in.Due == 0 {
		in.Sequence, in.Principal = uint64(s.seen), "ci"
	}
	rec := new(recourse.Record)
	d := &decide.Input{Ref: ref, Node: recourse.Node{Path: node}, Attempt: attempt, Input: in}
	p := decide.Pipeline{Plan: s.plan, Revision: recourse.PipelineRevision{Revision: 7, Digest: "0123456789abcdef"}}
	if result, _ := decide.Decide(rec, p, &s.head, d, s.now); result != decide.Decided {
		s.t.Fatalf("%s: %s", in.Key, result)
	}
	body, err := decide.Seal(rec, &s.head)
	if err != nil {
		s.t.Fatal(err)
	}
	sequence := uint64(100 + len(s.chain))
	s.head.Appended(rec, sequence)
	decoded, err := recourse.DecodeRecord(body)
	if err != nil {
		s.t.Fatal(err)
	}
	s.chain = append(s.chain, Message{Sequence: sequence, Trace: fmt.Sprintf("%032x", len(s.chain)+1), Record: decoded})
}

func (s *script) fail(node string, attempt int, message string, kind recourse.ErrorType) {
	s.t.Helper()
	s.input(recourse.Input{Key: fmt.Sprintf("failure/%s/%d", node, attempt), Digest: fmt.Sprint(s.seen),
		Failure: &recourse.FailureInput{Errors: recourse.ErrorTypesOf(kind), Message: message}}, node, attempt)
}

func (s *script) due(version uint64) {
	s.t.Helper()
	s.input(recourse.Input{Key: fmt.Sprintf("due/%d", version), Due: version}, "", 0)
}

func (s *script) answer(intervention uint64, action recourse.Action, who, why string) {
	s.t.Helper()
	s.input(recourse.Input{Key: fmt.Sprintf("intervention/%d", s.seen), Digest: fmt.Sprint(s.seen),
		Answer: &recourse.AnswerInput{Intervention: intervention, Action: action, Who: who, Why: why}}, "", 0)
}

func (s *script) control(wait uint64, do recourse.ControlVerb, by time.Duration) {
	s.t.Helper()
	s.input(recourse.Input{Key: fmt.Sprintf("control/%d", s.seen), Digest: fmt.Sprint(s.seen),
		Control: &recourse.ControlInput{Wait: wait, Do: do, For: recourse.Duration(by), Who: "bob", Why: "the cluster is back"}}, "", 0)
}

func (s *script) end(event recourse.LifecycleEvent) {
	s.t.Helper()
	s.input(recourse.Input{Key: "lifecycle/" + event.String(), Lifecycle: event, Why: "all done"}, "", 0)
}

// hostile is a message that would leave the page, the line, or the reading direction.
const hostile = "</dd><script>alert(1)</script>\x1b[31mred\r\nnext \u202Eesrever\" onload='x'"

// incident has an input of every kind, and a wait that ends in every way.
func incident(t *testing.T) *script {
	s := newScript(t)
	const rollout = "prod/canary/rollout"
	s.fail(rollout, 1, "connection timed out", recourse.Timeout) // 1 waits 1s
	s.wait(time.Second + 3*time.Millisecond)
	s.due(1)                                        // 2 retry
	s.fail(rollout, 2, hostile, recourse.Timeout)   // 3 waits 5m
	s.control(3, recourse.Postpone, 10*time.Minute) // 4
	s.wait(time.Minute)
	s.control(4, recourse.RunNow, 0)                              // 5
	s.fail(rollout, 3, "numbers look bad", recourse.Verification) // 6 asks
	s.answer(6, recourse.Abort, "mallory", "just because")        // 7 refused
	s.answer(6, recourse.Retry, "alice", "known spike")           // 8
	s.fail(rollout, 1, "an old one, different", recourse.Timeout) // 9 conflicting
	s.fail("prod/canary/smoke", 1, "", recourse.Connectivity)     // 10 group retry in 10s
	s.wait(10 * time.Second)
	s.due(10)                                                      // 11
	s.fail(rollout, 4, "numbers look bad", recourse.Verification)  // 12 asks
	s.fail("prod/unlisted", 1, "disk full", recourse.Unknown)      // 13 rolls the pipeline back: ends 12
	s.fail("prod/canary/smoke", 2, "late", recourse.Authorization) // 14 superseded
	s.wait(time.Hour)
	s.end(recourse.Finished) // 15
	return s
}

func (t *Timeline) text(why bool, now time.Time) string {
	var b strings.Builder
	for _, fact := range t.Facts(now, time.UTC) {
		fmt.Fprintf(&b, "%s: %s\n", fact[0], fact[1])
	}
	for i := range t.Entries {
		e := &t.Entries[i]
		fmt.Fprintf(&b, "+%s %d\n", Span(time.Duration(e.After)), e.Record.Version)
		for _, line := range e.Lines(why, time.UTC) {
			mark := ' '
			if line.Chosen {
				mark = '*'
			}
			fmt.Fprintf(&b, " %c%s: %q\n", mark, line.Label, line.Text)
		}
	}
	return b.String()
}

// recorded returns the chain of the incident as it was decided when the golden files were written, so that another wording of a trail does
// not break them.
func recorded(t *testing.T) []Message {
	t.Helper()
	path := filepath.Join("testdata", "incident.jsonl")
	if *update {
		var lines bytes.Buffer
		for _, msg := range incident(t).chain {
			body, err := recourse.Encode(msg.Record)
			if err != nil {
				t.Fatal(err)
			}
			lines.Write(append(body, '\n'))
		}
		if err := os.WriteFile(path, lines.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bodies, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var chain []Message
	for body := range bytes.Lines(bodies) {
		rec, err := recourse.DecodeRecord(body)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, Message{Sequence: uint64(100 + len(chain)), Trace: fmt.Sprintf("%032x", len(chain)+1), Record: rec})
	}
	return chain
}

// TestLines compares the whole wording with golden files.
func TestLines(t *testing.T) {
	now := epoch.Add(2 * time.Hour)
	timeline := Of(recorded(t), now)
	var page strings.Builder
	if err := timeline.WriteHTML(&page, true, now, time.UTC); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{"incident.txt": timeline.text(false, now), "incident-why.txt": timeline.text(true, now), "incident.html": page.String()} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is another (-update writes it anew):\n%s", path, got)
		}
	}
}

// TestHostilePage: what came from elsewhere stays text, and the page asks for nothing.
func TestHostilePage(t *testing.T) {
	s := incident(t)
	for i := range s.chain {
		s.chain[i].Execution = "<img src=x onerror=alert(1)>" + "\u202E\x07"
		s.chain[i].Trace = "\"><b>"
	}
	var page strings.Builder
	if err := Of(s.chain, epoch).WriteHTML(&page, true, epoch, time.UTC); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "<img", "\x1b", "\u202E", "\x07", "onload='x'", "\"><b>", "http://", "https://", "url(", "src=x onerror=alert(1)>"} {
		if strings.Contains(page.String(), bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	for _, want := range []string{"&lt;/dd&gt;&lt;script&gt;alert(1)", "prefers-color-scheme: dark", "@media print", "default-src 'none'"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page has no %q", want)
		}
	}
}

// TestEnds: what became of each wait of the incident.
func TestEnds(t *testing.T) {
	timeline := Of(incident(t).chain, epoch.Add(2*time.Hour))
	got := map[uint64]string{}
	for _, e := range timeline.Entries {
		if e.Ended != nil {
			got[e.Record.Version] = fmt.Sprintf("%s %d", e.Ended.How, e.Ended.Version)
		}
	}
	want := map[uint64]string{1: "fired 2", 3: "postponed 4", 4: "run-now 5", 6: "answered 8", 10: "fired 11", 12: "superseded 13"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if late := timeline.Entries[0].Ended.Late; time.Duration(late) != 3*time.Millisecond {
		t.Errorf("%s late", late)
	}
	if timeline.End != "finished" || !timeline.Failed || len(timeline.Pending) != 0 || timeline.Missing != 0 {
		t.Errorf("%+v", timeline)
	}
	if want := (Counts{Failures: 8, Retries: 4, Interventions: 2, Answers: 2, Commands: 7}); timeline.Counts != want {
		t.Errorf("%+v, want %+v", timeline.Counts, want)
	}
}

// TestPending: waits that nothing has ended yet, of which one is due; and what ends with the execution.
func TestPending(t *testing.T) {
	s := newScript(t)
	s.fail("prod/canary/rollout", 1, "", recourse.Timeout)
	s.fail("prod/canary/rollout[2]", 1, "", recourse.Verification)
	timeline := Of(s.chain, epoch.Add(time.Minute))
	if timeline.End != "open" || len(timeline.Pending) != 2 || timeline.Entries[0].Ended.How != Overdue || timeline.Entries[1].Ended.How != Pending ||
		time.Duration(timeline.Entries[0].Ended.Late) != 59*time.Second {
		t.Errorf("%s", timeline.text(true, epoch.Add(time.Minute)))
	}
	if text := timeline.text(false, epoch.Add(time.Minute)); !strings.Contains(text, "waiting: attempt 2 of prod/canary/rollout at 2026-01-02 03:04:06, OVERDUE for 59s") ||
		!strings.Contains(text, "waiting: intervention 2 at prod/canary/rollout[2]: one of") {
		t.Errorf("%s", text)
	}
	// The first record is not kept any more: the last one's state still knows its wait.
	timeline = Of(s.chain[1:], epoch)
	if timeline.Missing != 1 || len(timeline.Pending) != 2 {
		t.Errorf("%+v", timeline)
	}
	s.wait(time.Second)
	s.control(1, recourse.Cancel, 0)
	s.end(recourse.Aborted)
	timeline = Of(s.chain, epoch)
	if a, b := timeline.Entries[0].Ended, timeline.Entries[1].Ended; a.How != GivenUp || a.Version != 3 || b.How != Superseded || b.Version != 3 || timeline.End != "aborted" {
		t.Errorf("%s", timeline.text(true, epoch.Add(time.Minute)))
	}
	s = newScript(t)
	s.fail("prod/canary/rollout", 1, "", recourse.Timeout)
	s.end(recourse.Finished)
	if timeline = Of(s.chain, epoch); timeline.Entries[0].Ended.How != Closed || timeline.Entries[0].Ended.Version != 2 || len(timeline.Pending) != 0 {
		t.Errorf("%s", timeline.text(true, epoch))
	}
}

func TestTraceOf(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	for header, want := range map[string]string{
		"00-" + id + "-b7ad6b7169203331-01": id, "00-" + strings.ToUpper(id) + "-b7ad6b7169203331-01": "", "00-": "", "": "", "00-" + id[:31]: "",
		"00-" + id[:31] + "\"-b7ad6b7169203331-01": "",
	} {
		if got := traceOf([]string{header}); got != want {
			t.Errorf("%q: %q", header, got)
		}
	}
	if got := traceOf(nil); got != "" {
		t.Errorf("none: %q", got)
	}
}
