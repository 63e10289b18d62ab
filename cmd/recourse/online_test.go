package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/broker/brokertest"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/cli/online"
	"github.com/recourse-dev/recourse/internal/worker"
)

// site is a server with a worker, and the environment in which the tool finds it.
type site struct {
	t    *testing.T
	url  string
	env  map[string]string
	stop func() // stops the worker, and the server where it is the worker's
}

// newSite starts a worker with a server of its own.
func newSite(t *testing.T) *site {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir()) // whatever context somebody has selected is not that of the test
	s := &site{t: t}
	s.stop = runWorker(t, worker.Config{
		Embedded: broker.EmbeddedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Sync: broker.SyncInterval, Logf: t.Logf},
		Ready:    func(url string) { s.url = url },
	})
	s.env = map[string]string{"NATS_URL": s.url, "USER": "ann"}
	return s
}

// runWorker returns once the worker works; the function it returns stops it.
func runWorker(t *testing.T, cfg worker.Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, over := make(chan struct{}), make(chan error, 1)
	tell := cfg.Ready
	cfg.Ready = func(url string) { tell(url); close(ready) }
	go func() { over <- worker.Run(ctx, cfg) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-over:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(testDeadline):
			t.Error("the worker did not stop")
		}
	}
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-over:
		stopped = true
		t.Fatalf("the worker did not start: %v", err)
	case <-time.After(testDeadline):
		t.Fatal("the worker did not start")
	}
	return stop
}

// tool runs the tool against the server and wants an exit code.
func (s *site) tool(want int, args ...string) (out, err string) {
	s.t.Helper()
	return toolIn(s.t, &call{env: s.env}, want, args...)
}

// report reports a failure and returns the decision.
func (s *site) report(execution, node, errors string, attempt int, more ...string) cli.Decision {
	s.t.Helper()
	out, _ := s.tool(0, append([]string{"report", "-o", "json", "--org", "retail", "--project", "web", "--pipeline", "shop",
		"--execution", execution, "--node", node, "--errors", errors, "--attempt", fmt.Sprint(attempt), "--wait"}, more...)...)
	return decodeJSON[cli.Decision](s.t, out)
}

func (s *site) connect() (*nats.Conn, jetstream.JetStream) {
	s.t.Helper()
	nc, err := nats.Connect(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	return nc, js
}

func TestApplyAndPipelines(t *testing.T) {
	s := newSite(t)
	if out, err := s.tool(0, "pipelines"); out != "" || !strings.Contains(err, "recourse apply") {
		t.Errorf("stdout %q, stderr %q", out, err)
	}
	if out, _ := s.tool(0, "pipelines", "-o", "json"); out != "[]\n" {
		t.Errorf("stdout %q", out)
	}

	out, err := s.tool(1, "apply", "-o", "json", shop, broken, warned, "testdata/template.yaml", unreadable)
	applied := decodeJSON[[]online.Applied](t, out)
	var lines []string
	for _, a := range applied {
		lines = append(lines, fmt.Sprint(filepath.Base(a.File), " ", a.Status, " ", a.Key, " ", a.Revision, " ", a.Why))
	}
	want := []string{
		"shop.yaml registered default.retail.web.shop 1 ",
		"broken.yaml refused  0 1 error",
		"warned.yaml registered default.default.default.warned 2 ",
		"template.yaml refused  0 a template, not a pipeline; register the pipelines that use it",
		"unreadable.yaml refused  0 1 error",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("%q", lines)
	}
	contains(t, err, broken+":15:24: error: ", warned+" has 1 warning")

	out, _ = s.tool(0, "apply", shop)
	contains(t, out, "FILE", "STATUS", "KEY", "REVISION", "unchanged", "default.retail.web.shop", "1\n")
	out, _ = s.tool(0, "apply", "-o", "json", "--account", "acme", "--org", "o", "--project", "p", shop)
	if a := decodeJSON[[]online.Applied](t, out)[0]; a.Key != "acme.o.p.shop" || a.Status != "registered" || a.Revision != 3 || len(a.Digest) != 16 {
		t.Errorf("%+v", a)
	}
	// The environment says where the YAML does not.
	s.env["RECOURSE_ACCOUNT"], s.env["RECOURSE_ORG"], s.env["RECOURSE_PROJECT"] = "env", "env", "env"
	out, _ = s.tool(0, "apply", "-o", "json", shop, warned)
	if a := decodeJSON[[]online.Applied](t, out); a[0].Key != "env.retail.web.shop" || a[1].Key != "env.env.env.warned" {
		t.Errorf("%+v", a)
	}
	delete(s.env, "RECOURSE_ACCOUNT")
	delete(s.env, "RECOURSE_ORG")
	delete(s.env, "RECOURSE_PROJECT")

	// A changed pipeline is a new revision of the same key.
	content, readErr := os.ReadFile(shop)
	if readErr != nil {
		t.Fatal(readErr)
	}
	out, _ = toolIn(t, &call{env: s.env, stdin: string(content) + "# changed\n"}, 0, "apply", "-o", "json", "-")
	if a := decodeJSON[[]online.Applied](t, out)[0]; a.Status != "registered" || a.Revision != 6 || a.Key != "default.retail.web.shop" {
		t.Errorf("%+v", a)
	}
	out, _ = s.tool(1, "apply", "-o", "json", shop, "testdata/../testdata/tree/../../"+shop, writeFile(t, string(content)))
	if a := decodeJSON[[]online.Applied](t, out); len(a) != 2 || a[1].Status != "refused" || !strings.HasPrefix(a[1].Why, "the same pipeline as") {
		t.Errorf("%+v", a)
	}
	out, _ = s.tool(1, "apply", writeFile(t, "pipeline: {identifier: x, orgIdentifier: <+input>, stages: []}"))
	contains(t, out, "name it with --org")
	_, err = s.tool(2, "apply", "testdata/none.yaml")
	contains(t, err, "no such file")
	s.tool(2, "apply")

	out, _ = s.tool(0, "pipelines", "-o", "json", "--account", "default")
	list := decodeJSON[[]online.Registered](t, out)
	if len(list) != 2 || list[1].Key != "default.retail.web.shop" || list[1].Revision != 7 || list[1].Stages != 2 || list[1].Size != len(content) || list[1].Org != "retail" || list[1].Created.IsZero() || len(list[1].Digest) != 16 {
		t.Errorf("%+v", list)
	}
	out, _ = s.tool(0, "pipelines")
	contains(t, out, "KEY", "REVISION", "CREATED", "SIZE", "STAGES", "acme.o.p.shop")
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pipeline.yaml")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestReport(t *testing.T) {
	s := newSite(t)
	s.tool(0, "apply", shop)
	of := []string{"--org", "retail", "--project", "web", "--pipeline", "shop", "--execution", "ex1"}
	with := func(args ...string) []string { return append(append([]string{"report"}, of...), args...) }

	out, _ := s.tool(0, with("--node", "ship/wave/load", "--errors", "Timeout", "--message", "late")...)
	if out != "reported ship/wave/load, attempt 1, as 1 in the inbox\n" {
		t.Errorf("%q", out)
	}
	// Whoever repeats it with --wait gets the decision of the first.
	out, err := s.tool(0, with("--node", "ship/wave/load", "--errors", "Timeout", "--message", "late", "--wait", "-o", "json")...)
	d := decodeJSON[cli.Decision](t, out)
	if d.Action != recourse.Retry || d.Version != 1 || d.Sequence != 1 || d.Delay == nil || time.Duration(*d.Delay) != time.Second ||
		d.Command == nil || d.Command.Verb != recourse.VerbRetry || d.Command.Attempt != 2 || d.DueAt.IsZero() || d.Kind != "retry-scheduled" ||
		d.Execution != "default/retail/web/shop/ex1" || d.Level != recourse.LevelStep || len(d.Trail) == 0 {
		t.Errorf("%s", out)
	}
	contains(t, err, "decided before")
	// Another report of the same attempt conflicts, and is told so.
	out, _ = s.tool(0, with("--node", "ship/wave/load", "--errors", "Verification", "--wait", "--within", "20s")...)
	contains(t, out, "reason     Conflicting", "record     ")

	out, _ = s.tool(0, with("--node", "ship/take_back", "--phase", "rollback", "--attempt", "2", "--exit-code", "3", "--target", "truck", "--retry-after", "1m", "--as", "lorry", "-o", "json")...)
	r := decodeJSON[online.Reported](t, out)
	if r.Sequence != 4 || r.Subject != "recourse.default.retail.web.shop.ex1.failure.lorry" || r.Node != "ship/take_back (rollbackSteps)" || r.Attempt != 2 || r.Execution != "default/retail/web/shop/ex1" {
		t.Errorf("%+v", r)
	}
	_, js := s.connect()
	stream, streamErr := js.Stream(t.Context(), recourse.StreamInbox)
	if streamErr != nil {
		t.Fatal(streamErr)
	}
	msg, streamErr := stream.GetMsg(t.Context(), 4)
	if streamErr != nil {
		t.Fatal(streamErr)
	}
	f, streamErr := recourse.DecodeFailure(msg.Data)
	if streamErr != nil || f.ExitCode == nil || *f.ExitCode != 3 || f.Target != "truck" || f.RetryAfter.String() != "1m0s" || f.Section != recourse.RollbackSteps {
		t.Errorf("%+v, %v", f, streamErr)
	}

	for _, bad := range []struct {
		args []string
		err  string
	}{
		{[]string{"report", "--execution", "e", "--node", "s"}, "--pipeline is required"},
		{[]string{"report", "--pipeline", "p", "--node", "s"}, "--execution is required"},
		{with(), "--node is required"},
		{with("--node", "a//b"), "an id is required"},
		{with("--node", "a", "--errors", "Tmeout"), "did you mean Timeout?"},
		{with("--node", "a", "extra"), "unknown command"},
	} {
		_, err := s.tool(2, bad.args...)
		contains(t, err, bad.err)
	}
	// The environment names what the flags do not.
	s.env["RECOURSE_PIPELINE"], s.env["RECOURSE_EXECUTION"], s.env["RECOURSE_AS"] = "shop", "ex9", "robot"
	out, _ = s.tool(0, "report", "--node", "ship", "-o", "json")
	if r := decodeJSON[online.Reported](t, out); r.Subject != "recourse.default.default.default.shop.ex9.failure.robot" {
		t.Errorf("%+v", r)
	}
}

// Without a worker a report is stored, but nobody decides.
func TestReportWithoutWorker(t *testing.T) {
	server := brokertest.Start(t)
	s := &site{t: t, url: server.URL(), env: map[string]string{"NATS_URL": server.URL()}}
	args := []string{"report", "--pipeline", "p", "--execution", "e", "--node", "s", "--as", "x", "--wait", "--within", "300ms"}
	// There are no streams yet.
	for _, args := range [][]string{{"watch"}, {"rejected"}, {"answer", "e/1", "Abort", "--why", "x"}} {
		_, text := s.tool(1, args...)
		contains(t, text, "stream RECOURSE_", "start `worker` once")
	}
	s.tool(1, "interventions")
	s.tool(1, "pipelines")
	_, js := s.connect()
	if _, err := broker.Provision(t.Context(), js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	_, text := s.tool(1, args...)
	contains(t, text, "stored as 1 in the inbox, but not decided within 300ms: is a worker running?")
}

func TestNoServer(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	// A port that was free a moment ago.
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Sync: broker.SyncInterval})
	if err != nil {
		t.Fatal(err)
	}
	url := server.URL()
	if err := server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, text := tool(t, 1, "pipelines", "--server", url)
	contains(t, text, "connect to "+url)
	_, text = tool(t, 1, "pipelines", "--context", "nobody-has-this")
	contains(t, text, "nobody-has-this")
	if nc, err := nats.Connect(nats.DefaultURL, nats.Timeout(time.Second)); err == nil {
		nc.Close()
		t.Skip("SKIP: a server listens on " + nats.DefaultURL + ", so its absence cannot be tried")
	}
	_, text = tool(t, 1, "pipelines")
	contains(t, text, "connect to "+nats.DefaultURL, "start `worker`", "--server")
}

func TestInterventions(t *testing.T) {
	s := newSite(t)
	s.tool(0, "apply", shop)
	if out, err := s.tool(0, "interventions"); out != "" || !strings.Contains(err, "nothing waits") {
		t.Errorf("stdout %q, stderr %q", out, err)
	}
	if out, _ := s.tool(0, "interventions", "-o", "json"); out != "[]\n" {
		t.Errorf("%q", out)
	}
	s.report("ex42", "pack/wrap", "Timeout", 1)
	d := s.report("ex42", "ship/check", "Verification", 1, "--message", "numbers look bad")
	if d.Command == nil || d.Command.Intervention == nil || d.Command.Intervention.ID != 2 || d.Command.Intervention.Deadline.IsZero() {
		t.Fatalf("%+v", d)
	}
	out, _ := s.tool(0, "interventions")
	contains(t, out, "ID ", "ex42/2", "shop", "ship/check", "Abort", "Ignore,Retry,MarkAsSuccess", "Verification: numbers look bad")
	out, _ = s.tool(0, "interventions", "-o", "json", "--pipeline", "shop")
	w := decodeJSON[[]online.Waiting](t, out)
	if len(w) != 1 || w[0].ID != "ex42/2" || w[0].Execution != "default/retail/web/shop/ex42" || w[0].Intervention != 2 || w[0].Node != "ship/check" ||
		w[0].Message != "numbers look bad" || w[0].Since.IsZero() || w[0].Deadline.Sub(w[0].Since) != time.Hour || w[0].OnTimeout != recourse.Abort || w[0].Allowed != recourse.DefaultInterventionActions {
		t.Errorf("%+v", w)
	}
	if out, _ := s.tool(0, "interventions", "-o", "json", "--pipeline", "other"); out != "[]\n" {
		t.Errorf("%q", out)
	}
	out, _ = s.tool(0, "__complete", "answer", "")
	contains(t, out, "ex42/2\tship/check Verification\n")
	out, _ = s.tool(0, "__complete", "answer", "ex42/2", "")
	contains(t, out, "StageRollback\n")
	out, _ = s.tool(0, "__complete", "watch", "")
	contains(t, out, "ex42\n")

	for _, bad := range []struct {
		args []string
		code int
		err  string
	}{
		{[]string{"answer", "ex42", "Abort", "--why", "x"}, 2, "want EXECUTION/VERSION"},
		{[]string{"answer", "ex42/0", "Abort", "--why", "x"}, 2, "want EXECUTION/VERSION"},
		{[]string{"answer", "ex42/2", "Abrt", "--why", "x"}, 2, "did you mean Abort?"},
		{[]string{"answer", "ex42/2", "Abort"}, 2, "--why is required"},
		{[]string{"answer", "ex42/2"}, 2, "arg"},
		{[]string{"answer", "ex43/2", "Abort", "--why", "x"}, 1, "ex43 has no intervention"},
		{[]string{"answer", "ex42/7", "Abort", "--why", "x"}, 1, "no intervention 7 is known"},
		{[]string{"answer", "ex42/2", "PipelineRollback", "--why", "x"}, 1, "PipelineRollback is not allowed here; allowed are"},
	} {
		_, err := s.tool(bad.code, bad.args...)
		contains(t, err, bad.err)
	}

	out, _ = s.tool(0, "answer", "ex42/2", "retry", "--why", "counted again", "-o", "json")
	if d := decodeJSON[cli.Decision](t, out); d.Reason != recourse.HumanDecision || d.Command == nil || d.Command.Verb != recourse.VerbRetry || d.Command.Attempt != 2 || d.Node != "ship/check" {
		t.Errorf("%s", out)
	}
	out, err := s.tool(1, "answer", "default/retail/web/shop/ex42/2", "Abort", "--why", "me too", "--as", "bob", "-o", "json")
	if d := decodeJSON[cli.Decision](t, out); d.Reason != recourse.AnswerRefused || d.Command != nil {
		t.Errorf("%s", out)
	}
	contains(t, err, "already answered: Retry by ann")

	// The same id in another pipeline's execution is not guessed at.
	s.report("ex42", "ship/check", "Verification", 2)
	s.tool(0, "apply", "--org", "o", "--project", "p", shop)
	s.tool(0, "report", "--org", "o", "--project", "p", "--pipeline", "shop", "--execution", "ex42", "--wait", "--node", "ship/check", "--errors", "Verification")
	_, err = s.tool(1, "answer", "ex42/2", "Abort", "--why", "which")
	contains(t, err, "stands for several", "default/o/p/shop/ex42/2", "default/retail/web/shop/ex42/2")
	open := decodeJSON[[]online.Waiting](t, first(s.tool(0, "interventions", "-o", "json")))
	if len(open) != 2 || open[0].Intervention == open[1].Intervention {
		t.Fatalf("%+v", open)
	}
	// Where the version tells them apart, the short name is enough.
	out, _ = s.tool(0, "answer", open[0].ID, "Abort", "--why", "enough", "-o", "json")
	if d := decodeJSON[cli.Decision](t, out); d.Execution != open[0].Execution || d.Command == nil || d.Command.Verb != recourse.VerbAbort {
		t.Errorf("%s", out)
	}
}

func first(out, _ string) string { return out }

func TestRejected(t *testing.T) {
	s := newSite(t)
	if out, err := s.tool(0, "rejected"); out != "" || !strings.Contains(err, "nothing was rejected") {
		t.Errorf("stdout %q, stderr %q", out, err)
	}
	if out, _ := s.tool(0, "rejected", "-o", "json"); out != "[]\n" {
		t.Errorf("%q", out)
	}
	_, js := s.connect()
	bodies := []string{"{", `{"attempt":1,"attempt":2}`, "\xff\xfe", `{"schema":99}`}
	for i, body := range bodies {
		subject := fmt.Sprintf("recourse.acc%d.o.p.pl.e.failure.x", i)
		if _, err := js.Publish(t.Context(), subject, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	list := func(args ...string) []online.RejectedInput {
		t.Helper()
		return decodeJSON[[]online.RejectedInput](t, first(s.tool(0, append([]string{"rejected", "-o", "json"}, args...)...)))
	}
	eventually(t, "all rejected", func() bool { return len(list()) == len(bodies) })
	seen := map[string]online.RejectedInput{}
	all := list()
	for i, r := range all {
		seen[r.Subject] = r
		if r.Error == "" || r.Time.IsZero() || r.Inbox == 0 || i > 0 && r.Sequence <= all[i-1].Sequence {
			t.Errorf("%+v", r)
		}
	}
	for i, reason := range []string{"bad-json", "duplicate-key", "", "future-schema"} {
		r := seen[fmt.Sprintf("recourse.acc%d.o.p.pl.e.failure.x", i)]
		if reason != "" && r.Reason != reason || r.Body+string(r.BodyBytes) != bodies[i] {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if got := list("--limit", "2"); len(got) != 2 || got[1].Sequence != all[3].Sequence || got[0].Sequence != all[2].Sequence {
		t.Errorf("%+v", got)
	}
	if got := list("--account", "acc1", "--limit", "1"); len(got) != 1 || got[0].Reason != "duplicate-key" {
		t.Errorf("%+v", got)
	}
	if got := list("--org", "o", "--limit", "2"); len(got) != 2 || got[1].Sequence != all[3].Sequence { // the newest of those that the filter lets through
		t.Errorf("%+v", got)
	}
	if got := list("--limit", "0"); len(got) != 4 {
		t.Errorf("%+v", got)
	}
	out, _ := s.tool(0, "rejected")
	contains(t, out, "TIME", "SUBJECT", "REASON", "ERROR", "recourse.acc1.o.p.pl.e.failure.x", "duplicate-key")
	s.tool(2, "rejected", "--limit", "-1")
}

// watching is a watch that runs beside the test.
type watching struct {
	call
	t      *testing.T
	cancel context.CancelFunc
	over   chan int
}

func (s *site) watch(args ...string) *watching {
	w := &watching{call: call{env: s.env}, t: s.t, over: make(chan int, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), 2*testDeadline)
	w.cancel = cancel
	go func() { w.over <- w.run(ctx, append([]string{"watch"}, args...)...) }()
	s.t.Cleanup(cancel)
	return w
}

// end interrupts the watch, which is no error.
func (w *watching) end() {
	w.t.Helper()
	w.cancel()
	select {
	case code := <-w.over:
		if code != 0 {
			w.t.Errorf("exit code %d, stderr %s", code, &w.err)
		}
	case <-time.After(testDeadline):
		w.t.Fatal("the watch did not end")
	}
}

func events(t *testing.T, text string) []online.Event {
	t.Helper()
	var list []online.Event
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			break // being written
		}
		var e online.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		list = append(list, e)
	}
	return list
}

// story is what happened, in short.
func story(list []online.Event) []string {
	var lines []string
	for _, e := range list {
		lines = append(lines, strings.Join(strings.Fields(fmt.Sprint(e.What, " ", e.Kind, " ", e.Node, " ", e.Attempt, " ", e.Action)), " "))
	}
	return lines
}

func TestWatch(t *testing.T) {
	s := newSite(t)
	s.tool(0, "apply", shop)
	all := s.watch("-o", "json")
	// A live watch shows what happens after it began: report until it does.
	eventually(t, "the watch begins", func() bool {
		s.report("warm-up", "pack/wrap", "Timeout", len(events(t, all.out.String()))+1)
		return strings.Contains(all.out.String(), "warm-up")
	})

	s.report("ex1", "ship/wave/load", "Timeout", 1, "--message", "late")
	eventually(t, "the retry is due", func() bool { return strings.Contains(all.out.String(), "RetryDue") })
	s.report("ex1", "ship/check", "Verification", 1)
	s.tool(0, "answer", "ex1/3", "Ignore", "--why", "fine")
	nc, js := s.connect()
	if _, err := js.Publish(t.Context(), "recourse.default.retail.web.shop.ex1.failure.x", []byte("{")); err != nil {
		t.Fatal(err)
	}
	_ = nc
	want := []string{
		"failure ship/wave/load 1",
		"decision retry-scheduled ship/wave/load 1 Retry",
		"command retry ship/wave/load 1 Retry",
		"failure ship/check 1",
		"command pause ship/check 1 ManualIntervention",
		"answer 0 Ignore",
		"command ignore ship/check 1 Ignore",
		"unreadable failure 0",
		"rejected bad-json 0",
	}
	of := func(text string) []string {
		return story(slices.DeleteFunc(events(t, text), func(e online.Event) bool { return !strings.HasSuffix(e.Execution, "/ex1") }))
	}
	eventually(t, "the rejection is seen", func() bool { return strings.Contains(all.out.String(), "bad-json") })
	all.end()
	if got := of(all.out.String()); !slices.Equal(got, want) {
		t.Errorf("live:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	// The history of an execution is the same.
	for _, args := range [][]string{{"ex1"}, {"default/retail/web/shop/ex1"}, {"ex1", "--pipeline", "shop"}, {"ex1", "--since", "1h"}, {"--since", "1h"}} {
		out, _ := s.tool(0, append([]string{"watch", "-o", "json", "--no-follow"}, args...)...)
		if got := of(out); !slices.Equal(got, want) {
			t.Errorf("%v:\n%s\nwant\n%s", args, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	out, _ := s.tool(0, "watch", "-o", "json", "--no-follow", "ex1")
	list := events(t, out)
	if e := list[0]; e.Execution != "default/retail/web/shop/ex1" || e.Principal != "ann" || e.Message != "late" || e.Errors != recourse.ErrorTypesOf(recourse.Timeout) || e.Time.IsZero() || e.Sequence == 0 {
		t.Errorf("%+v", e)
	}
	if e := list[1]; e.Version != 1 || e.Delay == nil || e.Delay.String() != "1s" || e.DueAt.IsZero() || e.Reason != recourse.StrategyMatched || e.Level != recourse.LevelStep || e.Strategy == "" {
		t.Errorf("%+v", e)
	}
	if e := list[6]; e.Who != "ann" || e.Why != "fine" || e.Intervention != 3 || e.Reason != recourse.HumanDecision {
		t.Errorf("%+v", e)
	}
	out, _ = s.tool(0, "watch", "--no-follow", "ex1")
	contains(t, out, "TIME ", "EXECUTION", "WHAT", "shop/ex1", "decision retry-scheduled", "Timeout: late", "intervention 3, ann: fine", "rejected bad-json")

	// History, then what happens.
	one := s.watch("ex1")
	eventually(t, "history", func() bool { return strings.Contains(one.out.String(), "rejected bad-json") })
	s.report("ex1", "ship", "Unknown", 1)
	s.report("ex2", "ship", "Unknown", 1)
	eventually(t, "the rollback", func() bool { return strings.Contains(one.out.String(), "rollback-stage") })
	one.end()
	if strings.Contains(one.out.String(), "ex2") {
		t.Error(one.out.String())
	}

	_, err := s.tool(1, "watch", "--no-follow", "nobody")
	contains(t, err, "nothing is known of execution nobody")
	_, err = s.tool(2, "watch", "--no-follow")
	contains(t, err, "--since")
	_, err = s.tool(2, "watch", "--since", "yesterday")
	contains(t, err, "1h30m")
	s.tool(2, "watch", "a", "b")
	out, _ = s.tool(0, "watch", "--no-follow", "--since", time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	if out != "" {
		t.Errorf("%q", out)
	}
}

// A watch goes on over a restart of the server, without a gap, and tells of it.
func TestWatchReconnects(t *testing.T) {
	dir := t.TempDir()
	start := func(listen string) *broker.Embedded {
		t.Helper()
		server, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: dir, Listen: listen, Sync: broker.SyncInterval})
		if err != nil {
			t.Fatal(err)
		}
		return server
	}
	stop := func(server *broker.Embedded) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), testDeadline)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}
	server := start("127.0.0.1:0")
	s := &site{t: t, url: server.URL(), env: map[string]string{"NATS_URL": server.URL(), "USER": "ann"}}
	_, js := s.connect()
	if _, err := broker.Provision(t.Context(), js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	report := func(node string) {
		t.Helper()
		s.tool(0, "report", "--pipeline", "p", "--execution", "ex1", "--node", node)
	}
	w := s.watch("ex1", "-o", "json")
	eventually(t, "the watch begins", func() bool { return strings.Contains(w.err.String(), "nothing is known of execution ex1 yet") })
	report("before")
	eventually(t, "the first failure", func() bool { return strings.Contains(w.out.String(), `"before"`) })
	stop(server)
	eventually(t, "the loss is told", func() bool { return strings.Contains(w.err.String(), "disconnected") })
	server = start(strings.TrimPrefix(s.url, "nats://"))
	defer stop(server)
	report("after")
	eventually(t, "the second failure", func() bool { return strings.Contains(w.out.String(), `"after"`) })
	contains(t, w.err.String(), "connected again")
	w.end()
	if got, want := story(events(t, w.out.String())), []string{"failure before 1", "failure after 1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A watch also ends while the server is away.
func TestWatchEndsWhileDisconnected(t *testing.T) {
	s := newSite(t)
	w := s.watch("ex1")
	eventually(t, "the watch begins", func() bool { return strings.Contains(w.err.String(), "nothing is known of execution ex1 yet") })
	s.stop()
	eventually(t, "the loss is told", func() bool { return strings.Contains(w.err.String(), "disconnected") })
	began := time.Now()
	w.end()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestInterrupted(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := &call{env: s.env}
	if code := c.run(ctx, "pipelines"); code != cli.ExitInterrupted {
		t.Errorf("exit code %d, stderr %s", code, &c.err)
	}
}

// People see what is in a control, an input that this tool does not write.
func TestWatchControl(t *testing.T) {
	s := newSite(t)
	s.tool(0, "apply", shop)
	s.report("ex1", "ship/wave/drive", "Connectivity", 1) // waits for 3 s
	ref := recourse.Ref{Account: "default", Org: "retail", Project: "web", Pipeline: "shop", Execution: "ex1"}
	body, err := recourse.Encode(&recourse.Control{Schema: recourse.Schema, Ref: ref, Wait: 1, Do: recourse.RunNow, Who: "ann", Why: "it is back"})
	if err != nil {
		t.Fatal(err)
	}
	_, js := s.connect()
	if _, err := js.Publish(t.Context(), ref.Subject(recourse.FamilyControl, "ann"), body); err != nil {
		t.Fatal(err)
	}
	w := s.watch("ex1")
	eventually(t, "the control is decided", func() bool { return strings.Contains(w.out.String(), "command retry-group") })
	w.end()
	contains(t, w.out.String(), "control run-now", "wait of record 1, ann: it is back")
}
