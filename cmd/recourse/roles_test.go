package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/cli/online"
	"github.com/recourse-dev/recourse/internal/worker"
)

// guarded is a site whose server has the users and permissions that are shipped, and the tool in the hands of each.
type guarded struct {
	*site
	roles map[string]*site
}

const secretOf = "secret-of-"

// newGuarded starts the server and a worker with no more than the permissions of its role. The change is made to the operator's
// permissions, for tests of narrower ones.
func newGuarded(t *testing.T, narrow func(operator *server.Permissions)) *guarded {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	names := []string{"delegate", "orchestrator", "operator", "viewer", "worker", "admin"}
	for _, role := range append(names, "sys") {
		t.Setenv("RECOURSE_"+strings.ToUpper(role)+"_PASSWORD", secretOf+role)
	}
	options, err := server.ProcessConfigFile("../../deploy/nats/accounts.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range options.Users {
		if u.Username == "operator" && narrow != nil {
			narrow(u.Permissions)
		}
	}
	options.Host, options.Port, options.NoSigs, options.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	options.JetStream, options.StoreDir = true, t.TempDir()
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(testDeadline) {
		t.Fatal("the server does not start")
	}
	g := &guarded{roles: map[string]*site{}}
	for _, role := range names {
		g.roles[role] = &site{t: t, url: s.ClientURL(), env: map[string]string{
			"NATS_URL": s.ClientURL(), "NATS_USER": role, "NATS_PASSWORD": secretOf + role, "NATS_INBOX_PREFIX": "_INBOX." + role, "USER": role,
			"RECOURSE_ACCOUNT": "acme",
		}}
	}
	g.site = g.roles["admin"]
	if _, err := broker.Provision(t.Context(), g.js("admin"), broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	runWorker(t, worker.Config{
		Connection: client.Settings{Server: s.ClientURL(), User: "worker", Password: secretOf + "worker", InboxPrefix: "_INBOX.worker"},
		Provision:  broker.ModeVerify, Ready: func(string) {},
	})
	return g
}

func (g *guarded) connectAs(role string) *nats.Conn {
	g.t.Helper()
	nc, err := nats.Connect(g.url, nats.UserInfo(role, secretOf+role), nats.CustomInboxPrefix("_INBOX."+role))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(nc.Close)
	return nc
}

func (g *guarded) js(role string) jetstream.JetStream {
	g.t.Helper()
	js, err := jetstream.New(g.connectAs(role))
	if err != nil {
		g.t.Fatal(err)
	}
	return js
}

// as runs the tool in the hands of a role.
func (g *guarded) as(role string, want int, args ...string) (out, err string) {
	g.t.Helper()
	return g.roles[role].tool(want, args...)
}

// fail reports the first attempt of prod/check in the name of the delegate, and waits for the decision.
func (g *guarded) fail(ref recourse.Ref, e recourse.ErrorType) {
	g.t.Helper()
	delegate, err := client.NewDelegate(g.connectAs("delegate"), "delegate")
	if err != nil {
		g.t.Fatal(err)
	}
	_, err = delegate.Report(g.t.Context(), recourse.Failure{Ref: ref, Node: recourse.Node{Path: "prod/check"}, Attempt: 1, Errors: recourse.ErrorTypesOf(e)})
	if err != nil {
		g.t.Fatal(err)
	}
	stream, err := g.js("admin").Stream(g.t.Context(), recourse.StreamJournal)
	if err != nil {
		g.t.Fatal(err)
	}
	eventually(g.t, "a decision", func() bool {
		_, err := stream.GetLastMsgForSubject(g.t.Context(), ref.Prefix()+".>")
		return err == nil
	})
}

func (g *guarded) records(ref recourse.Ref) []*recourse.Record { return g.chain(g.js("admin"), ref) }

func acme(pipeline, execution string) recourse.Ref {
	return recourse.Ref{Account: "acme", Org: "retail", Project: "web", Pipeline: pipeline, Execution: execution}
}

// Each role gets through what people use it for, with the permissions that are shipped and nothing but the tool.
func TestRolesUseTheTool(t *testing.T) {
	g := newGuarded(t, nil)
	toolIn(t, &call{env: g.env, stdin: asking("deploy_web", "1h", "1h")}, 0, "apply", "-")
	question, wait := acme("deploy_web", "ex1"), acme("deploy_web", "ex2")
	g.fail(question, recourse.Timeout)
	g.fail(wait, recourse.Connectivity)

	for _, role := range []string{"operator", "viewer"} {
		out, _ := g.as(role, 0, "interventions")
		contains(t, out, "ex1/1", "prod/check")
		out, _ = g.as(role, 0, "retries")
		contains(t, out, "ex2/1", "1 of 3")
		began := time.Now()
		out, text := g.as(role, 0, "watch", "ex1", "--no-follow")
		contains(t, out, "command pause", "prod/check")
		contains(t, text, "may not read RECOURSE_INBOX", "may not read RECOURSE_REJECTED")
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("watch of a %s took %s: it waited for what the broker does not answer", role, took)
		}
		out, _ = g.as(role, 0, "__complete", "answer", "")
		contains(t, out, "ex1/1\t")
	}
	delete(g.roles["operator"].env, "RECOURSE_ACCOUNT")
	for _, list := range []string{"interventions", "retries"} {
		_, text := g.as("operator", 1, list)
		contains(t, text, "not permitted", "say --account")
		out, _ := g.as("operator", 0, list, "--match", "account=acme")
		contains(t, out, "prod/check")
	}
	g.roles["operator"].env["RECOURSE_ACCOUNT"] = "acme"
	out := ""
	for _, role := range []string{"operator", "viewer"} {
		out, _ = g.as(role, 0, "pipelines")
		contains(t, out, "acme.retail.web.deploy_web")
		out, _ = g.as(role, 0, "history", "ex1")
		contains(t, out, "prod/check")
		out, _ = g.as(role, 0, "incidents")
		contains(t, out, "ex1")
	}
	out, _ = g.as("admin", 0, "pipelines", "-o", "json")
	if list := decodeJSON[[]online.Registered](t, out); len(list) != 1 || list[0].Revision != 1 || list[0].Stages != 1 {
		t.Errorf("%+v", list)
	}

	out, _ = g.as("operator", 0, "retries", "run-now", "ex2/1", "--why", "the network is back", "-o", "json")
	if d := decodeJSON[cli.Decision](t, out); d.Command == nil || d.Command.Verb != recourse.VerbRetry {
		t.Errorf("%s", out)
	}
	out, _ = g.as("operator", 0, "answer", "--match", "account=acme,pipeline=deploy_web", "Ignore", "--why", "known", "--yes")
	if out != "Ignore: 1 yes, 0 no\n" {
		t.Errorf("%q", out)
	}
	for _, ref := range []recourse.Ref{question, wait} {
		if records := g.records(ref); len(records) != 2 || records[1].Input.Principal != "operator" {
			t.Errorf("%s: %+v", ref, records)
		}
	}
}

// Who may not answer is told so, and nothing is decided: neither a viewer, nor an operator in the name of another, nor one whose
// permission is for another pipeline.
func TestWhoMayAnswer(t *testing.T) {
	g := newGuarded(t, func(operator *server.Permissions) {
		for i, subject := range operator.Publish.Allow {
			operator.Publish.Allow[i] = strings.NewReplacer(
				"recourse.acme.*.*.*.*.intervention.", "recourse.acme.retail.web.deploy_web.*.intervention.",
				"recourse.acme.*.*.*.*.control.", "recourse.acme.retail.web.deploy_web.*.control.").Replace(subject)
		}
	})
	for _, pipeline := range []string{"deploy_web", "deploy_db"} {
		toolIn(t, &call{env: g.env, stdin: asking(pipeline, "1h", "1h")}, 0, "apply", "-")
		for _, execution := range []string{"a", "b", "c", "d", "e", "f"} {
			g.fail(acme(pipeline, execution), recourse.Timeout)
		}
		g.fail(acme(pipeline, "r"), recourse.Connectivity)
	}
	web, db := "acme/retail/web/deploy_web/", "acme/retail/web/deploy_db/"
	for _, no := range []struct {
		role string
		args []string
		text string
	}{
		{"viewer", []string{"answer", web + "a/1", "Abort"}, "viewer may not answer here"},
		{"viewer", []string{"retries", "run-now", web + "r/1"}, "viewer may not run-now a retry here"},
		{"operator", []string{"answer", db + "a/1", "Abort"}, "operator may not answer here"},
		{"operator", []string{"retries", "cancel", db + "r/1"}, "operator may not cancel a retry here"},
		{"operator", []string{"answer", web + "a/1", "Abort", "--as", "ann"}, "ann may not answer here"},
	} {
		_, text := g.as(no.role, 1, append(no.args, "--why", "x")...)
		contains(t, text, no.text, "not permitted", "--as")
	}
	out, _ := g.as("operator", 1, "answer", "--match", "error=Timeout", "Ignore", "--why", "known", "--yes", "-o", "json")
	m := decodeJSON[online.Many](t, out)
	if m.Yes != 6 || m.No != 6 || m.Failed != 0 {
		t.Errorf("%+v", m)
	}
	for _, e := range m.Each {
		if web := strings.HasPrefix(e.Execution, web); web != (e.Outcome == "yes") || !web && !strings.HasPrefix(e.Why, "not permitted: ") {
			t.Errorf("%+v", e)
		}
	}
	for _, execution := range []string{"a", "b", "c", "d", "e", "f", "r"} {
		if records := g.records(acme("deploy_db", execution)); len(records) != 1 {
			t.Errorf("%s: something was decided: %+v", execution, records[1])
		}
	}
	if records := g.records(acme("deploy_web", "a")); len(records) != 2 || records[1].Input.Principal != "operator" {
		t.Errorf("%+v", records)
	}
	stream, err := g.js("admin").Stream(t.Context(), recourse.StreamInbox)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 14+6 {
		t.Errorf("%d inputs are in the inbox: a denied one was stored", n)
	}
}
