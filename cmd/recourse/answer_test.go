package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/cli/online"
)

// asking is a pipeline of one step that asks when it times out, until a deadline, and retries after a while when it cannot connect.
func asking(identifier, timeout, interval string) string {
	return fmt.Sprintf(`pipeline:
  identifier: %s
  orgIdentifier: retail
  projectIdentifier: web
  stages:
    - stage:
        identifier: prod
        type: Custom
        spec: {execution: {steps: [{step: {identifier: check, type: ShellScript, spec: {}}}]}}
        failureStrategies:
          - onFailure:
              errors: [Timeout, Verification]
              action: {type: ManualIntervention, spec: {timeout: %s, onTimeout: {action: {type: Ignore}}}}
          - onFailure:
              errors: [Connectivity]
              action: {type: Retry, spec: {retryCount: 3, retryIntervals: [%s], onRetryFailure: {action: {type: StageRollback}}}}
          - onFailure:
              errors: [AllErrors]
              action: {type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: Abort}}, availableActions: [Ignore, Abort]}}
`, identifier, timeout, interval)
}

func (s *site) apply(yaml string) {
	s.t.Helper()
	toolIn(s.t, &call{env: s.env, stdin: yaml}, 0, "apply", "-")
}

func execution(pipeline string, n int) recourse.Ref {
	return recourse.Ref{Account: "default", Org: "retail", Project: "web", Pipeline: pipeline, Execution: fmt.Sprintf("ex%d", n)}
}

// fail reports the first attempt of prod/check in many executions, and waits until each is decided.
func (s *site) fail(refs []recourse.Ref, types ...recourse.ErrorType) {
	s.t.Helper()
	nc, js := s.connect()
	delegate, err := client.NewDelegate(nc, "runner")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, ref := range refs {
		_, err := delegate.Report(s.t.Context(), recourse.Failure{Ref: ref, Node: recourse.Node{Path: "prod/check"}, Attempt: 1, Errors: recourse.ErrorTypesOf(types...)})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	stream, err := js.Stream(s.t.Context(), recourse.StreamJournal)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, ref := range refs {
		eventually(s.t, "a decision for "+ref.String(), func() bool {
			_, err := stream.GetLastMsgForSubject(s.t.Context(), ref.Prefix()+".>")
			return err == nil
		})
	}
}

// chain reads the records of an execution.
func (s *site) chain(js jetstream.JetStream, ref recourse.Ref) (records []*recourse.Record) {
	s.t.Helper()
	stream, err := js.Stream(s.t.Context(), recourse.StreamJournal)
	if err != nil {
		s.t.Fatal(err)
	}
	msg, err := stream.GetLastMsgForSubject(s.t.Context(), ref.Prefix()+".>")
	for {
		if err != nil {
			s.t.Fatal(err)
		}
		record, err2 := recourse.DecodeRecord(msg.Data)
		if err2 != nil {
			s.t.Fatal(err2)
		}
		records = append([]*recourse.Record{record}, records...)
		if record.Previous == 0 {
			return records
		}
		msg, err = stream.GetMsg(s.t.Context(), record.Previous)
	}
}

func (s *site) operator(name string) *client.Operator {
	s.t.Helper()
	nc, _ := s.connect()
	o, err := client.NewOperator(nc, name)
	if err != nil {
		s.t.Fatal(err)
	}
	return o
}

// Two hundred open interventions are answered in one go, each by a record of its own; what does not match is left alone.
func TestAnswerMany(t *testing.T) {
	const matching, others = 200, 10
	s := newSite(t)
	s.apply(asking("deploy_web", "1h", "1h"))
	s.apply(asking("deploy_db", "1h", "1h"))
	var refs, rest []recourse.Ref
	for n := range matching {
		refs = append(refs, execution("deploy_web", n))
	}
	for n := range others {
		rest = append(rest, execution("deploy_db", n))
	}
	s.fail(refs, recourse.Timeout)
	s.fail(rest, recourse.Timeout)
	s.fail([]recourse.Ref{execution("deploy_web", 999)}, recourse.Verification)

	match := []string{"answer", "--match", "pipeline=deploy_web,error=Timeout", "Retry", "--why", "the registry is back"}
	with := func(more ...string) []string { return append(append([]string{}, match...), more...) }
	_, text := s.tool(2, match...)
	contains(t, text, "Answer 200 interventions with Retry? Nobody can be asked here", "--yes", "--dry-run")
	out, _ := s.tool(0, with("--dry-run")...)
	if n := strings.Count(out, "\n"); n != matching+1 || strings.Contains(out, "deploy_db") || strings.Contains(out, "ex999") {
		t.Errorf("%d lines: %s", n, out)
	}
	if w := decodeJSON[[]online.Waiting](t, first(s.tool(0, with("--dry-run", "-o", "json")...))); len(w) != matching {
		t.Errorf("%d match", len(w))
	}
	if w := decodeJSON[[]online.Waiting](t, first(s.tool(0, "interventions", "-o", "json"))); len(w) != matching+others+1 {
		t.Errorf("after looking %d are open", len(w))
	}

	began := time.Now()
	out, _ = s.tool(0, with("--yes")...)
	took := time.Since(began)
	t.Logf("%d interventions answered in %s", matching, took)
	if took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if out != "Retry: 200 yes, 0 no\n" {
		t.Errorf("%q", out)
	}
	_, js := s.connect()
	for _, ref := range refs {
		records := s.chain(js, ref)
		last := records[len(records)-1]
		if a := last.Input.Answer; len(records) != 2 || a == nil || a.Who != "ann" || a.Why != "the registry is back" || last.Input.Principal != "ann" ||
			last.Command.Verb != recourse.VerbRetry || last.Reason != recourse.HumanDecision {
			t.Fatalf("%s: %d records, the last is %+v", ref, len(records), last)
		}
	}
	if w := decodeJSON[[]online.Waiting](t, first(s.tool(0, "interventions", "-o", "json"))); len(w) != others+1 {
		t.Errorf("%d are left open", len(w))
	}
	_, text = s.tool(1, with("--yes")...)
	contains(t, text, "no open intervention matches")
}

// Two hundred iterations of one step ask at once, in one execution: its chain takes one answer after another, and its state is large.
func TestAnswerManyOfOneExecution(t *testing.T) {
	const iterations = 200
	s := newSite(t)
	s.apply(asking("deploy_web", "1h", "1h"))
	nc, js := s.connect()
	delegate, err := client.NewDelegate(nc, "runner")
	if err != nil {
		t.Fatal(err)
	}
	ref := execution("deploy_web", 1)
	for n := range iterations {
		node := recourse.Node{Path: fmt.Sprintf("prod/check[%d]", n)}
		if _, err := delegate.Report(t.Context(), recourse.Failure{Ref: ref, Node: node, Attempt: 1, Errors: recourse.ErrorTypesOf(recourse.Timeout), Message: "no answer"}); err != nil {
			t.Fatal(err)
		}
	}
	open := func() int {
		w := decodeJSON[[]online.Waiting](t, first(s.tool(0, "interventions", "-o", "json", "--match", "node=prod/check,message=no answer")))
		return len(w)
	}
	eventually(t, "all ask", func() bool { return open() == iterations })
	began := time.Now()
	out, _ := s.tool(0, "answer", "--match", "node=prod/check", "Ignore", "--why", "known", "--yes")
	took := time.Since(began)
	t.Logf("%d interventions of one execution answered in %s", iterations, took)
	if out != "Ignore: 200 yes, 0 no\n" || took > 20*time.Second {
		t.Errorf("%q in %s", out, took)
	}
	if n := len(s.chain(js, ref)); n != 2*iterations || open() != 0 {
		t.Errorf("%d records, %d are open", n, open())
	}
}

// Of many answers some are refused: each says why, and the others stand.
func TestAnswerManyInPart(t *testing.T) {
	s := newSite(t)
	s.apply(asking("deploy_web", "1h", "1h"))
	s.fail([]recourse.Ref{execution("deploy_web", 1), execution("deploy_web", 2)}, recourse.Timeout)
	s.fail([]recourse.Ref{execution("deploy_web", 3)}, recourse.Unknown) // allows Ignore and Abort
	out, _ := s.tool(1, "answer", "--match", "pipeline=deploy_web", "Retry", "--why", "x", "--yes", "-o", "json")
	m := decodeJSON[online.Many](t, out)
	if m.What != "Retry" || m.Matched != 3 || m.Yes != 2 || m.No != 1 || m.Failed != 0 || len(m.Each) != 3 {
		t.Errorf("%+v", m)
	}
	for _, e := range m.Each {
		switch e.ID {
		case "ex3/1":
			if e.Outcome != "no" || !strings.Contains(e.Why, "Retry is not allowed here; allowed are Ignore,Abort") || e.Node != "prod/check" {
				t.Errorf("%+v", e)
			}
		default:
			if e.Outcome != "yes" || e.Version != 2 || !strings.HasPrefix(e.Execution, "default/retail/web/deploy_web/ex") {
				t.Errorf("%+v", e)
			}
		}
	}
	// The one that does not allow it is still open, and nothing was decided on it.
	out, _ = s.tool(0, "interventions", "--match", "allows!=Retry")
	contains(t, out, "ex3/1", "Ignore,Abort")
	out, _ = s.tool(1, "answer", "--match", "execution=ex3", "Retry", "--why", "x", "--yes")
	contains(t, out, "Retry: 0 yes, 1 no", "ID", "WHY", "ex3/1", "not allowed here")

	for _, bad := range []struct{ args, err string }{
		{"answer --match ppeline=x Retry --why y", "did you mean pipeline?"},
		{"answer --match error=Tmeout Retry --why y", "did you mean Timeout?"},
		{"answer --match pipeline=x Retry", "--why is required"},
		{"answer --match pipeline=x Retyr --why y", "did you mean Retry?"},
		{"answer --match pipeline=x ex1/1 Retry --why y", "arg"},
		{"answer ex1/1 Retry --why y --yes", "go with --match"},
		{"answer ex1/1 Retry --why y --dry-run", "go with --match"},
		{"interventions --match node", "want KEY=VALUE"},
	} {
		_, err := s.tool(2, strings.Fields(bad.args)...)
		contains(t, err, bad.err, "--help")
	}
	out, _ = s.tool(0, "__complete", "answer", "--match", "error=T")
	contains(t, out, "error=Timeout\n")
	out, _ = s.tool(0, "__complete", "answer", "--match", "pipeline=x,")
	contains(t, out, "pipeline=x,node=\n")
	out, _ = s.tool(0, "__complete", "answer", "--match", "pipeline=x", "")
	contains(t, out, "StageRollback\n")
}

// said is what two of a race were told.
type said struct {
	record *recourse.Record
	err    error
}

// race lets both go at the same moment.
func race(both ...func() (*recourse.Record, error)) []said {
	results := make([]said, len(both))
	var group sync.WaitGroup
	start := make(chan struct{})
	for i, do := range both {
		group.Go(func() {
			<-start
			results[i].record, results[i].err = do()
		})
	}
	close(start)
	group.Wait()
	return results
}

// winner wants exactly one of two to have been told yes, and returns it with the refusal of the other.
func winner(t *testing.T, results []said) (won int, refused *client.RefusedError) {
	t.Helper()
	for i, r := range results {
		if r.err != nil {
			if !errors.As(r.err, &refused) {
				t.Fatalf("%v", r.err)
			}
			won = 1 - i
		}
	}
	if refused == nil || results[won].err != nil {
		t.Fatalf("want one yes and one no: %+v", results)
	}
	return won, refused
}

// Two people answer the same intervention: one decides, the other is told who it was and when.
func TestTwoPeopleAnswer(t *testing.T) {
	const rounds = 60
	s := newSite(t)
	s.apply(asking("deploy_web", "1h", "1h"))
	var refs []recourse.Ref
	for n := range rounds {
		refs = append(refs, execution("deploy_web", n))
	}
	s.fail(refs, recourse.Timeout)
	_, js := s.connect()
	people := []string{"ann", "bob"}
	operators := []*client.Operator{s.operator("ann"), s.operator("bob")}
	wins := map[string]int{}
	for n, ref := range refs {
		say := func(i int) func() (*recourse.Record, error) {
			return func() (*recourse.Record, error) {
				action := []recourse.Action{recourse.MarkAsSuccess, recourse.Abort}[i]
				return operators[i].Answer(t.Context(), recourse.Answer{Ref: ref, Intervention: 1, Action: action, Who: people[i], Why: "because"})
			}
		}
		order := []func() (*recourse.Record, error){say(0), say(1)}
		results := race(order[n%2], order[1-n%2])
		if n%2 == 1 {
			results[0], results[1] = results[1], results[0]
		}
		won, refused := winner(t, results)
		wins[people[won]]++
		record := results[won].record
		contains(t, refused.Detail, "by "+people[won], fmt.Sprintf("record %d", record.Version), record.At.Format("2006-01-02T15:04:05.000Z"), record.Action.String())
		commands := 0
		for _, r := range s.chain(js, ref) {
			if r.Ends == 1 {
				commands++
			}
		}
		if commands != 1 {
			t.Errorf("%s: the intervention ended %d times", ref, commands)
		}
	}
	t.Logf("of %d rounds %v", rounds, wins)
}

// A person answers when the time is up: one of the two decides, and the person is told which.
func TestPersonAgainstTimeout(t *testing.T) {
	const rounds = 40
	s := newSite(t)
	s.apply(asking("deploy_web", "1s", "1h"))
	operator := s.operator("ann")
	_, js := s.connect()
	var refs []recourse.Ref
	for n := range rounds {
		refs = append(refs, execution("deploy_web", n))
	}
	s.fail(refs, recourse.Timeout)
	var mu sync.Mutex
	yes, no := 0, 0
	var group sync.WaitGroup
	for n, ref := range refs {
		deadline := s.chain(js, ref)[0].Wait.DueAt
		group.Go(func() {
			<-time.After(time.Until(deadline) + time.Duration(n-rounds/4)*15*time.Millisecond) // the broker is late itself
			record, err := operator.Answer(t.Context(), recourse.Answer{Ref: ref, Intervention: 1, Action: recourse.MarkAsSuccess, Who: "ann", Why: "because"})
			var refused *client.RefusedError
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && record.Command.Verb == recourse.VerbMarkSuccess:
				yes++
			case errors.As(err, &refused):
				no++
				contains(t, refused.Detail, "already timed out: Ignore in record 2 at ")
			default:
				t.Errorf("%s: %+v, %v", ref, record, err)
			}
		})
	}
	group.Wait()
	t.Logf("of %d rounds the person won %d, the timeout %d", rounds, yes, no)
	for _, ref := range refs {
		ends := 0
		for _, r := range s.chain(js, ref) {
			if r.Ends == 1 {
				ends++
			}
		}
		if ends != 1 {
			t.Errorf("%s: the intervention ended %d times", ref, ends)
		}
	}
	if w := decodeJSON[[]online.Waiting](t, first(s.tool(0, "interventions", "-o", "json"))); len(w) != 0 {
		t.Errorf("%d are still open", len(w))
	}
}

// Who may answer can stand in the pipeline: whoever else answers is refused, and the intervention stays open.
func TestAnswerBy(t *testing.T) {
	s := newSite(t)
	s.apply(strings.Replace(asking("deploy_web", "1h", "1h"), "{timeout: 1h, onTimeout: {action: {type: Ignore}}}", "{timeout: 1h, answerBy: [bob, release-*], onTimeout: {action: {type: Ignore}}}", 1))
	s.fail([]recourse.Ref{execution("deploy_web", 1), execution("deploy_web", 2)}, recourse.Timeout)
	out, _ := s.tool(0, "interventions")
	contains(t, out, "BY", "bob,release-*")
	out, _ = s.tool(0, "report", "--org", "retail", "--project", "web", "--pipeline", "deploy_web", "--execution", "ex1", "--node", "prod/check", "--errors", "Timeout", "--as", "runner", "--wait")
	contains(t, out, "by bob,release-*, else Ignore")
	w := decodeJSON[[]online.Waiting](t, first(s.tool(0, "interventions", "-o", "json")))
	if len(w) != 2 || w[0].AnswerBy != "bob,release-*" {
		t.Errorf("%+v", w)
	}
	_, text := s.tool(1, "answer", "ex1/1", "Abort", "--why", "x")
	contains(t, text, "ann may not answer here; who may: bob,release-* (R9)")
	out, _ = s.tool(1, "answer", "--match", "pipeline=deploy_web", "Abort", "--why", "x", "--yes")
	contains(t, out, "Abort: 0 yes, 2 no", "ann may not answer here")
	_, js := s.connect()
	if records := s.chain(js, execution("deploy_web", 1)); len(records) != 2 || records[1].Kind != recourse.KindRefused || records[1].Command.Verb != 0 {
		t.Errorf("%+v", records[1])
	}
	if w := decodeJSON[[]online.Waiting](t, first(s.tool(0, "interventions", "-o", "json"))); len(w) != 2 {
		t.Errorf("%+v", w)
	}
	s.tool(0, "answer", "ex1/1", "Abort", "--why", "x", "--as", "bob")
	s.tool(0, "answer", "--match", "execution=ex2", "Abort", "--why", "x", "--as", "release-42", "--yes")
}

// What a person is told by the tool who comes second.
func TestSecondAnswerOfTheTool(t *testing.T) {
	s := newSite(t)
	s.apply(asking("deploy_web", "1h", "1h"))
	s.fail([]recourse.Ref{execution("deploy_web", 1)}, recourse.Timeout)
	out, _ := s.tool(0, "answer", "ex1/1", "Ignore", "--why", "known", "-o", "json")
	d := decodeJSON[cli.Decision](t, out)
	_, text := s.tool(1, "answer", "ex1/1", "Abort", "--why", "no", "--as", "bob")
	contains(t, text, "already answered: Ignore by ann in record 2 at "+d.At.Format("2006-01-02T15:04:05.000Z"))
}
