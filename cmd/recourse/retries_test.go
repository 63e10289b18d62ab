package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/cli/online"
)

func (s *site) retries(args ...string) []online.Retrying {
	s.t.Helper()
	return decodeJSON[[]online.Retrying](s.t, first(s.tool(0, append([]string{"retries", "-o", "json"}, args...)...)))
}

func TestRetries(t *testing.T) {
	s := newSite(t)
	if out, err := s.tool(0, "retries"); out != "" || !strings.Contains(err, "no retry is pending") {
		t.Errorf("stdout %q, stderr %q", out, err)
	}
	if out, _ := s.tool(0, "retries", "-o", "json"); out != "[]\n" {
		t.Errorf("%q", out)
	}
	s.apply(asking("deploy_web", "1h", "1h"))
	ref := execution("deploy_web", 1)
	s.fail([]recourse.Ref{ref}, recourse.Connectivity)
	r := s.retries()
	if len(r) != 1 || r[0].ID != "ex1/1" || r[0].Execution != ref.String() || r[0].Wait != 1 || r[0].Node != "prod/check" || r[0].Attempt != 1 ||
		r[0].Retry != 1 || r[0].Of != 3 || r[0].Then != recourse.StageRollback || r[0].DueAt.Sub(r[0].Since) != time.Hour || r[0].Group != "" ||
		r[0].Errors != recourse.ErrorTypesOf(recourse.Connectivity) || r[0].Level != recourse.LevelStage || !strings.Contains(r[0].Strategy, "failureStrategies[1]") {
		t.Fatalf("%+v", r)
	}
	out, _ := s.tool(0, "retries")
	contains(t, out, "ID ", "ex1/1", "deploy_web", "prod/check", "1 of 3", "StageRollback", "Connectivity")

	// Postponed: the record that postpones it waits in its place.
	out, _ = s.tool(0, "retries", "postpone", "ex1/1", "--for", "2h", "--why", "maintenance until noon", "-o", "json")
	d := decodeJSON[cli.Decision](t, out)
	if d.Kind != recourse.KindRetryPostponed || d.Version != 2 || d.DueAt.Sub(d.At) != 2*time.Hour || d.Reason != recourse.HumanDecision {
		t.Errorf("%s", out)
	}
	s.tool(0, "retries", "postpone", "ex1/2", "--for", "3h", "--why", "until one")
	r = s.retries()
	if len(r) != 1 || r[0].ID != "ex1/3" || r[0].DueAt.Sub(r[0].Since) != 3*time.Hour || r[0].PostponedBy != "ann" || r[0].PostponedWhy != "until one" ||
		r[0].Retry != 1 || r[0].Of != 3 || r[0].Then != recourse.StageRollback || r[0].Errors != recourse.ErrorTypesOf(recourse.Connectivity) {
		t.Errorf("%+v", r)
	}
	out, _ = s.tool(0, "retries")
	contains(t, out, "ex1/3", "    postponed by ann: until one\n")
	_, text := s.tool(1, "retries", "cancel", "ex1/1", "--why", "late", "--as", "bob")
	contains(t, text, "control refused", "retry 1 was postponed already, by ann in record 2 at "+d.At.Format("2006-01-02T15:04:05.000Z"))

	// Run now: the command is there, with who and why.
	out, _ = s.tool(0, "retries", "run-now", "ex1/3", "--why", "the network is back", "-o", "json")
	d = decodeJSON[cli.Decision](t, out)
	if d.Command == nil || d.Command.Verb != recourse.VerbRetry || d.Command.Attempt != 2 {
		t.Errorf("%s", out)
	}
	_, js := s.connect()
	records := s.chain(js, ref)
	if last := records[len(records)-1]; last.Input.Control == nil || last.Input.Control.Who != "ann" || last.Input.Control.Why != "the network is back" || last.Ends != 3 || last.Input.Principal != "ann" {
		t.Errorf("%+v", last)
	}
	out, text = s.tool(1, "retries", "run-now", "default/retail/web/deploy_web/ex1/3", "--why", "again", "-o", "json")
	contains(t, text, "retry 3 was run already, by ann in record 5")
	if d := decodeJSON[struct {
		Reason recourse.Reason `json:"reason"`
	}](t, out); d.Reason != recourse.AnswerRefused {
		t.Errorf("%s", out)
	}

	// The second of three; given up, what follows the last follows now.
	s.tool(0, "report", "--org", "retail", "--project", "web", "--pipeline", "deploy_web", "--execution", "ex1", "--node", "prod/check", "--errors", "Connectivity", "--attempt", "2", "--wait")
	r = s.retries("--match", "pipeline=deploy_web,then=StageRollback")
	if len(r) != 1 || r[0].Retry != 2 || r[0].Attempt != 2 {
		t.Fatalf("%+v", r)
	}
	out, _ = s.tool(0, "__complete", "retries", "cancel", "")
	contains(t, out, r[0].ID+"\tprod/check Connectivity\n")
	out, _ = s.tool(0, "__complete", "retries", "cancel", r[0].ID, "")
	if strings.Contains(out, r[0].ID) {
		t.Errorf("offered again: %s", out)
	}
	out, _ = s.tool(0, "retries", "cancel", r[0].ID, "--why", "it will not come back", "-o", "json")
	if d := decodeJSON[cli.Decision](t, out); d.Command == nil || d.Command.Verb != recourse.VerbRollbackStage || d.Command.Scope != "prod" {
		t.Errorf("%s", out)
	}
	if r = s.retries(); len(r) != 0 {
		t.Errorf("%+v", r)
	}

	for _, bad := range []struct {
		args string
		code int
		err  string
	}{
		{"retries runnow", 2, "did you mean run-now?"},
		{"retries run-now --why x", 2, "which?"},
		{"retries run-now ex1 --why x", 2, "want EXECUTION/VERSION"},
		{"retries run-now ex1/1", 2, "--why is required"},
		{"retries postpone ex1/1 --why x", 2, "--for is required"},
		{"retries postpone ex1/1 --for 10 --why x", 2, "--for"},
		{"retries run-now ex1/1 --for 10m --why x", 2, "unknown flag: --for"},
		{"retries cancel ex1/1 --match pipeline=x --why x", 2, "not both"},
		{"retries cancel ex1/1 --why x --yes", 2, "go with --match"},
		{"retries cancel --match pipline=x --why x", 2, "did you mean pipeline?"},
		{"retries cancel --match pipeline=x --why x --yes", 1, "no pending retry matches"},
		{"retries cancel ex7/1 --why x", 1, "ex7 has no retry"},
	} {
		_, err := s.tool(bad.code, strings.Fields(bad.args)...)
		contains(t, err, bad.err)
		if bad.code == 2 {
			contains(t, err, "--help")
		}
	}
}

// A retry of a step group says which group, and one that follows an intervention which failure is behind it.
func TestRetriesOfGroups(t *testing.T) {
	s := newSite(t)
	s.tool(0, "apply", shop)
	s.report("ex1", "ship/wave/drive", "Connectivity", 1, "--message", "no road")
	s.tool(0, "retries", "postpone", "ex1/1", "--for", "1h", "--why", "snow")
	r := s.retries("--match", "kind=retry-group")
	if len(r) != 1 || r[0].Group != "ship/wave" || r[0].Retry != 1 || r[0].Of != 2 || r[0].Message != "no road" {
		t.Fatalf("%+v", r)
	}
	out, _ := s.tool(0, "retries")
	contains(t, out, "1 of 2 of group ship/wave", "no road")
	out, _ = s.tool(0, "retries", "run-now", "ex1/2", "--why", "it has melted", "-o", "json")
	if d := decodeJSON[cli.Decision](t, out); d.Command == nil || d.Command.Verb != recourse.VerbRetryGroup || d.Command.Scope != "ship/wave" {
		t.Errorf("%s", out)
	}
}

func TestRetriesMany(t *testing.T) {
	const matching = 50
	s := newSite(t)
	s.apply(asking("deploy_web", "1h", "1h"))
	s.apply(asking("deploy_db", "1h", "1h"))
	var refs []recourse.Ref
	for n := range matching {
		refs = append(refs, execution("deploy_web", n))
	}
	s.fail(refs, recourse.Connectivity)
	s.fail([]recourse.Ref{execution("deploy_db", 1)}, recourse.Connectivity)
	match := "pipeline=deploy_web,error=Connectivity"
	_, text := s.tool(2, "retries", "run-now", "--match", match, "--why", "x")
	contains(t, text, "run-now: 50 pending retries? Nobody can be asked here")
	out, _ := s.tool(0, "retries", "run-now", "--match", match, "--why", "x", "--dry-run")
	if n := strings.Count(out, "\n"); n != matching+1 {
		t.Errorf("%d lines", n)
	}
	out, _ = s.tool(0, "retries", "postpone", "--match", match, "--for", "2h", "--why", "maintenance", "--yes")
	if out != "postpone: 50 yes, 0 no\n" {
		t.Errorf("%q", out)
	}
	r := s.retries("--match", match)
	if len(r) != matching || r[0].Wait != 2 || r[matching-1].PostponedWhy != "maintenance" {
		t.Errorf("%d, %+v", len(r), r[0])
	}
	// Several by name; one of them is not pending any more.
	out, _ = s.tool(1, "retries", "cancel", "default/retail/web/deploy_web/ex1/1", "ex2/2", "ex3/2", "--why", "enough", "-o", "json")
	m := decodeJSON[online.Many](t, out)
	if m.Yes != 2 || m.No != 1 || m.Each[0].Outcome != "no" || !strings.Contains(m.Each[0].Why, "postponed already, by ann") || m.Each[1].Node != "prod/check" {
		t.Errorf("%+v", m)
	}
	if r := s.retries(); len(r) != matching-2+1 {
		t.Errorf("%d are left", len(r))
	}
	// The end of an execution ends its waits, and it is not looked at any more.
	nc, _ := s.connect()
	orchestrator, err := client.NewOrchestrator(nc, client.OrchestratorConfig{Account: "default", Durable: "orchestrator", Principal: "orchestrator"})
	if err != nil {
		t.Fatal(err)
	}
	if err := orchestrator.Finished(t.Context(), refs[5], ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end is decided", func() bool { return len(s.retries()) == matching-2 })
	_, text = s.tool(1, "retries", "cancel", "default/retail/web/deploy_web/ex5/2", "--why", "x")
	contains(t, text, "superseded by the end of the execution")
}

// Somebody runs a retry now at the moment it comes due: it runs once, and whoever comes second is told.
func TestRunNowAgainstDue(t *testing.T) {
	const rounds = 40
	s := newSite(t)
	s.apply(asking("deploy_web", "1h", "1s"))
	operators := []*client.Operator{s.operator("ann"), s.operator("bob")}
	_, js := s.connect()
	var refs []recourse.Ref
	for n := range rounds {
		refs = append(refs, execution("deploy_web", n))
	}
	s.fail(refs, recourse.Connectivity)
	var mu sync.Mutex
	yes, no := 0, 0
	var group sync.WaitGroup
	for n, ref := range refs {
		due := s.chain(js, ref)[0].Wait.DueAt
		group.Go(func() {
			<-time.After(time.Until(due) + time.Duration(n-rounds/4)*15*time.Millisecond) // the broker is late itself
			// Two people at once, beside the time.
			results := race(
				func() (*recourse.Record, error) {
					return operators[0].Control(t.Context(), recourse.Control{Ref: ref, Wait: 1, Do: recourse.RunNow, Who: "ann", Why: "because"})
				},
				func() (*recourse.Record, error) {
					return operators[1].Control(t.Context(), recourse.Control{Ref: ref, Wait: 1, Do: recourse.Cancel, Who: "bob", Why: "because"})
				})
			mu.Lock()
			defer mu.Unlock()
			accepted := 0
			for i, r := range results {
				var refused *client.RefusedError
				switch {
				case r.err == nil:
					accepted++
				case !errors.As(r.err, &refused):
					t.Errorf("%v", r.err)
				case results[1-i].err == nil: // the other one won
					verb, who := "run", "ann"
					if i == 0 {
						verb, who = "given up", "bob"
					}
					contains(t, refused.Detail, fmt.Sprintf("was %s already, by %s in record 2 at ", verb, who))
				default:
					contains(t, refused.Detail, "retry 1 came due already, at ", "in record 2")
				}
			}
			if accepted > 1 {
				t.Errorf("%s: both were told yes", ref)
			}
			yes += accepted
			no += 1 - accepted
		})
	}
	group.Wait()
	t.Logf("of %d rounds a person won %d, the time %d", rounds, yes, no)
	for _, ref := range refs {
		ends := 0
		for _, r := range s.chain(js, ref) {
			if r.Ends == 1 {
				ends++
			}
		}
		if ends != 1 {
			t.Errorf("%s: the wait ended %d times", ref, ends)
		}
	}
}
