//go:build unix

package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/broker/brokertest"
	"github.com/recourse-dev/recourse/internal/simulate"
	"github.com/recourse-dev/recourse/internal/worker"
)

// childVariable makes the test program a run, in place of running tests, so that a run can be killed without the tests.
const childVariable = "RUN_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		var c childConfig
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			panic(err)
		}
		cfg := Config{Ref: c.Ref, File: c.File, YAML: c.YAML, Dir: c.Dir, Principal: c.Principal}
		cfg.Tell = func(e Event) { fmt.Println(e.Node, e.Text()) }
		if _, err := Run(context.Background(), cfg); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

type childConfig struct {
	Ref                  recourse.Ref
	File, Dir, Principal string
	YAML                 []byte
}

// events collects what a run tells.
type events struct {
	mu   sync.Mutex
	list []Event
}

func (e *events) tell(one Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, one)
}

// lines are the events of some kinds, as "node text".
func (e *events) lines(kinds ...string) (lines []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, one := range e.list {
		if len(kinds) == 0 || slices.Contains(kinds, one.Kind) {
			lines = append(lines, strings.TrimSpace(recourse.Node{Path: one.Node, Section: one.Section}.String()+" "+one.Text()))
		}
	}
	return lines
}

// script is a step that runs a script.
func script(id, text, more string) string {
	quoted, _ := json.Marshal(text)
	if more != "" {
		more = ", " + more
	}
	return fmt.Sprintf("{step: {identifier: %s, type: ShellScript, spec: {shell: Bash, source: {type: Inline, spec: {script: %s}}}%s}}", id, quoted, more)
}

func onFailure(errors, action string) string {
	return fmt.Sprintf("failureStrategies: [{onFailure: {errors: [%s], action: %s}}]", errors, action)
}

func stageOf(id, steps, rollback, more string) string {
	if more != "" {
		more = ", " + more
	}
	return fmt.Sprintf("{stage: {identifier: %s, type: Custom, spec: {execution: {steps: [%s], rollbackSteps: [%s]}}%s}}", id, steps, rollback, more)
}

func pipelineOf(stages ...string) []byte {
	return []byte("pipeline: {identifier: p, stages: [" + strings.Join(stages, ", ") + "]}")
}

// config is a run in a directory of the test.
func config(t *testing.T, yaml []byte) (Config, *events) {
	t.Helper()
	e := new(events)
	return Config{
		Ref:  recourse.Ref{Account: "a", Org: "o", Project: "p", Pipeline: "p", Execution: "ex1"},
		File: "test.yaml", YAML: yaml, Dir: t.TempDir(), Principal: "tester", Tell: e.tell,
	}, e
}

func wantOutcome(t *testing.T, e *events, result *Result, err error, want simulate.Status) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(e.lines(), "\n"))
	}
	if result.Outcome != want {
		t.Errorf("outcome %s, want %s\n%s", result.Outcome, want, strings.Join(e.lines(), "\n"))
	}
}

func TestRun(t *testing.T) {
	retry := "{type: Retry, spec: {retryCount: 2, onRetryFailure: {action: {type: StageRollback}}}}"
	counted := `n=$(cat COUNT 2>/dev/null || echo 0); n=$((n+1)); echo $n > COUNT; `
	for _, test := range []struct {
		name string
		yaml []byte
		want simulate.Status
		ran  []string // attempts, in order
	}{
		{"succeeds", pipelineOf(stageOf("one", script("s", "true", ""), "", "")), simulate.Succeeded, []string{"one/s attempt 1"}},
		{"a retry helps", pipelineOf(stageOf("one", script("s", counted+"[ $n = 2 ]", onFailure("AllErrors", retry)), "", "")), simulate.Succeeded,
			[]string{"one/s attempt 1", "one/s attempt 2"}},
		{"exit 1, rolled back", pipelineOf(stageOf("one", script("s", "exit 1", onFailure("Unknown", retry)), script("undo", "true", ""), "")), simulate.Failed,
			[]string{"one/s attempt 1", "one/s attempt 2", "one/s attempt 3", "one/undo (rollbackSteps) attempt 1"}},
		{"killed, ignored", pipelineOf(stageOf("one", script("s", "kill -9 $$", onFailure("Unknown", "{type: Ignore}"))+", "+script("next", "true", ""), "", "")), simulate.Ignored,
			[]string{"one/s attempt 1", "one/next attempt 1"}},
		{"no such command, by its type", pipelineOf(stageOf("one", script("s", "surely-no-such-command", onFailure("ConfigurationFailure", "{type: MarkAsSuccess}")), "", "")), simulate.Succeeded,
			[]string{"one/s attempt 1"}},
		{"timeout, by its type", pipelineOf(stageOf("one", script("s", "sleep 60", "timeout: 1s, "+onFailure("Timeout", "{type: Ignore}")), "", "")), simulate.Ignored,
			[]string{"one/s attempt 1"}},
		{"refused, by its type", pipelineOf(stageOf("one", script("s", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", closedPort(t)), onFailure("Connectivity", "{type: MarkAsSuccess}")), "", "")), simulate.Succeeded,
			[]string{"one/s attempt 1"}},
		{"nothing applies, what follows by its when", pipelineOf(stageOf("one", script("s", "exit 1", "")+", "+script("next", "true", ""), "", ""), stageOf("two", script("s", "true", ""), "", ""), stageOf("three", script("s", "true", ""), "", "when: {pipelineStatus: Failure}")),
			simulate.Failed, []string{"one/s attempt 1", "three/s attempt 1"}},
		{"conditions", pipelineOf(stageOf("one", script("s", "true", `when: {stageStatus: Success, condition: "false"}`)+", "+script("t", "true", `when: {stageStatus: Success, condition: <+pipeline.variables.on>}`), "", "")),
			simulate.Succeeded, []string{"one/t attempt 1"}},
		{"pipeline rollback, last stage first", pipelineOf(
			stageOf("one", script("s", "true", ""), script("undo", "true", ""), ""), stageOf("two", script("s", "true", ""), script("undo", "true", ""), ""),
			stageOf("three", script("s", "exit 1", onFailure("AllErrors", "{type: PipelineRollback}")), script("undo", "true", ""), "")),
			simulate.RolledBack, []string{"one/s attempt 1", "two/s attempt 1", "three/s attempt 1", "three/undo (rollbackSteps) attempt 1", "two/undo (rollbackSteps) attempt 1", "one/undo (rollbackSteps) attempt 1"}},
		{"abort", pipelineOf(stageOf("one", "{parallel: ["+script("long", "sleep 60", "")+", "+script("s", "exit 1", onFailure("AllErrors", "{type: Abort}"))+"]}, "+script("never", "true", ""), "", "")),
			simulate.Aborted, []string{"one/long attempt 1", "one/s attempt 1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			yaml := strings.ReplaceAll(string(test.yaml), "COUNT", filepath.Join(t.TempDir(), "count"))
			cfg, e := config(t, []byte(yaml))
			cfg.Vars = map[string]string{"on": "true"}
			result, err := Run(t.Context(), cfg)
			wantOutcome(t, e, result, err, test.want)
			if ran := e.lines(KindRunning); !slices.Equal(ran, test.ran) {
				t.Errorf("ran %q, want %q\n%s", ran, test.ran, strings.Join(e.lines(), "\n"))
			}
			cfg.Resume = true
			again, err := Run(t.Context(), cfg)
			wantOutcome(t, e, again, err, test.want)
			if ran := e.lines(KindRunning); len(ran) != len(test.ran) {
				t.Errorf("resumed after its end, it ran again: %q", ran)
			}
		})
	}
}

// TestRunInterrupted: whoever interrupts a run aborts the execution, kills its processes, and the workers know.
func TestRunInterrupted(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(dir, "pid")
	cfg, e := config(t, pipelineOf(stageOf("one", script("s", fmt.Sprintf("echo $$ > %s; sleep 60", mark), onFailure("AllErrors", "{type: Ignore}")), script("undo", "true", ""), "")))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if content, err := os.ReadFile(mark); err == nil && len(content) > 0 {
				return
			}
		}
	}()
	result, err := Run(ctx, cfg)
	wantOutcome(t, e, result, err, simulate.Aborted)
	if ran := e.lines(KindRunning); len(ran) != 1 {
		t.Errorf("ran %q", ran)
	}
	var pid int
	content, _ := os.ReadFile(mark)
	if _, err := fmt.Sscan(string(content), &pid); err != nil || !gone(pid) {
		t.Errorf("process %s is still there", content)
	}
	if lines := e.lines(KindDecision); len(lines) != 1 || !strings.Contains(lines[0], "closed") {
		// The record of the end comes after the loop; it is read from the streams.
		if got := storedEnd(t, cfg); got != recourse.Aborted {
			t.Errorf("the workers know %q of the end", got)
		}
	}
}

// storedEnd returns the end of an execution as the inbox of an earlier run has it.
func storedEnd(t *testing.T, cfg Config) recourse.LifecycleEvent {
	t.Helper()
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: filepath.Join(cfg.Dir, "streams"), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Shutdown(context.Background()) }()
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), recourse.StreamInbox)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetLastMsgForSubject(t.Context(), cfg.Subject(recourse.FamilyLifecycle, cfg.Principal))
	if err != nil {
		t.Fatal(err)
	}
	l, err := recourse.DecodeLifecycle(msg.Data)
	if err != nil {
		t.Fatal(err)
	}
	return l.Event
}

// child starts a run in a process of its own.
func child(t *testing.T, cfg Config) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(childConfig{cfg.Ref, cfg.File, cfg.Dir, cfg.Principal, cfg.YAML})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	out := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the run that was killed:\n%s", out)
		}
	})
	return cmd
}

// TestRunKilled kills a run with a step that has ended, one that runs and one that waits for its retry, and resumes it: the first is not
// run again, the second counts as failed, and the wait of the third goes on in the worker.
func TestRunKilled(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	retry := "{type: Retry, spec: {retryCount: 1, retryIntervals: [2s], onRetryFailure: {action: {type: MarkAsFailure}}}}"
	yaml := pipelineOf(stageOf("one",
		script("done", "echo >> "+file("done"), "")+", {parallel: ["+
			script("runs", fmt.Sprintf("echo $$ >> %s; [ $RECOURSE_ATTEMPT = 2 ] || sleep 60", file("runs")), onFailure("AllErrors", retry))+", "+
			script("waits", fmt.Sprintf("echo >> %s; [ $RECOURSE_ATTEMPT = 2 ]", file("waits")), onFailure("AllErrors", retry))+"]}", "", ""))
	cfg, e := config(t, yaml)
	first := child(t, cfg)
	journal := filepath.Join(cfg.Dir, "run", "a", "o", "p", "p", "ex1", journalName)
	eventually(t, "the retry of one step waits while another runs", func() bool {
		text, _ := os.ReadFile(journal)
		pid, _ := os.ReadFile(file("runs"))
		return strings.Contains(string(text), recourse.KindRetryScheduled) && len(pid) > 0
	})
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	pids, _ := os.ReadFile(file("runs"))
	var pid int
	if _, err := fmt.Sscan(string(pids), &pid); err != nil {
		t.Fatal(err)
	}

	if _, err := Run(t.Context(), cfg); !errors.Is(err, errJournal) {
		t.Errorf("run again without resume: %v", err)
	}
	cfg.Resume, cfg.Vars = true, map[string]string{"other": "1"}
	if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "begun otherwise") {
		t.Errorf("resumed with other variables: %v", err)
	}
	cfg.Vars = nil
	result, err := Run(t.Context(), cfg)
	wantOutcome(t, e, result, err, simulate.Succeeded)
	if !gone(pid) {
		t.Errorf("process %d was left over", pid)
	}
	for name, want := range map[string]int{"done": 1, "runs": 2, "waits": 2} {
		content, _ := os.ReadFile(file(name))
		if got := strings.Count(string(content), "\n"); got != want {
			t.Errorf("step %s ran %d times, want %d", name, got, want)
		}
	}
	all := strings.Join(e.lines(), "\n")
	for _, want := range []string{"one/runs attempt 1 failed, DelegateRestart: interrupted", "one/runs attempt 2 succeeded", "one/waits attempt 2 succeeded"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in\n%s", want, all)
		}
	}
	if strings.Contains(all, "one/done attempt") {
		t.Errorf("the step that had ended was run again:\n%s", all)
	}
}

// TestRunOnServer runs against a server and a worker of their own; a person answers.
func TestRunOnServer(t *testing.T) {
	server := brokertest.Start(t)
	ctx, stop := context.WithCancel(t.Context())
	ready, stopped := make(chan string, 1), make(chan error, 1)
	go func() {
		stopped <- worker.Run(ctx, worker.Config{Connection: client.Settings{Server: server.URL()}, Ready: func(url string) { ready <- url }})
	}()
	defer func() {
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-ready:
	case err := <-stopped:
		t.Fatal(err)
	}
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	operator, err := client.NewOperator(nc, "ann")
	if err != nil {
		t.Fatal(err)
	}
	cfg, e := config(t, pipelineOf(stageOf("one", script("s", "[ $RECOURSE_ATTEMPT = 2 ]", onFailure("AllErrors", "{type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: Abort}}}}")), "", "")))
	cfg.Dir, cfg.Connection = "", client.Settings{Server: server.URL()}
	answered := make(chan error, 1)
	cfg.Tell = func(one Event) {
		e.tell(one)
		if one.Answer != "" {
			if !strings.Contains(one.Answer, "ex1/1 ") || !strings.Contains(one.Answer, "Retry") || !strings.Contains(one.Answer, server.URL()) {
				t.Errorf("how to answer: %s", one.Answer)
			}
			go func() {
				_, err := operator.Answer(ctx, recourse.Answer{Ref: cfg.Ref, Intervention: one.Version, Action: recourse.Retry, Why: "again"})
				answered <- err
			}()
		}
	}
	result, err := Run(t.Context(), cfg)
	wantOutcome(t, e, result, err, simulate.Succeeded)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "has decisions already") {
		t.Errorf("an execution that was run: %v", err)
	}
}

// TestRunWentOn kills a run whose step goes on and succeeds: it counts, and is not run again.
func TestRunWentOn(t *testing.T) {
	dir := t.TempDir()
	begun, gate, over := filepath.Join(dir, "begun"), filepath.Join(dir, "gate"), filepath.Join(dir, "over")
	cfg, e := config(t, pipelineOf(stageOf("one", script("s", fmt.Sprintf("echo >> %s; while [ ! -e %s ]; do sleep 0.02; done", begun, gate), "")+", "+script("next", "echo >> "+over, ""), "", "")))
	first := child(t, cfg)
	eventually(t, "the step has begun", func() bool { return exists(begun) })
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the step has succeeded", func() bool {
		return exists(filepath.Join(cfg.Dir, "run", "a", "o", "p", "p", "ex1", "logs", "steps", "one", "s.1.ok"))
	})
	cfg.Resume = true
	result, err := Run(t.Context(), cfg)
	wantOutcome(t, e, result, err, simulate.Succeeded)
	if text, _ := os.ReadFile(begun); string(text) != "\n" || !exists(over) {
		t.Errorf("the step began %d times, the next one ran: %t", len(text), exists(over))
	}
}

// TestRunElsewhere resumes a run on streams that do not know of it.
func TestRunElsewhere(t *testing.T) {
	cfg, e := config(t, pipelineOf(stageOf("one", script("s", "[ $RECOURSE_ATTEMPT = 2 ]", onFailure("AllErrors", "{type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: Abort}}}}")), "", "")))
	first := child(t, cfg)
	journal := filepath.Join(cfg.Dir, "run", "a", "o", "p", "p", "ex1", journalName)
	eventually(t, "somebody is asked", func() bool {
		text, _ := os.ReadFile(journal)
		return strings.Contains(string(text), `"pause"`)
	})
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	if err := os.RemoveAll(filepath.Join(cfg.Dir, "streams")); err != nil {
		t.Fatal(err)
	}
	cfg.Resume = true
	ctx, cancel := context.WithTimeout(t.Context(), patience) // else it would wait for an answer
	defer cancel()
	if _, err := Run(ctx, cfg); err == nil || !strings.Contains(err.Error(), "it knows 1 decisions, and") {
		t.Errorf("got %v\n%s", err, strings.Join(e.lines(), "\n"))
	}
}

// provisioned makes the streams, as a worker does.
func provisioned(t *testing.T, url string) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
}

// TestRunWithoutWorker tells that nobody decides.
func TestRunWithoutWorker(t *testing.T) {
	server := brokertest.Start(t)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	cfg, e := config(t, pipelineOf(stageOf("one", script("s", "exit 1", ""), "", "")))
	cfg.Connection = client.Settings{Server: server.URL()}
	if _, err := Run(ctx, cfg); err == nil || !strings.Contains(err.Error(), "start `worker` once") {
		t.Fatalf("without streams: %v", err)
	}
	provisioned(t, server.URL())
	cfg.Tell = func(one Event) {
		e.tell(one)
		if strings.Contains(one.Why, "does a worker run on") {
			stop()
		}
	}
	defer func(most time.Duration) { lateAfter = most }(lateAfter)
	lateAfter = 200 * time.Millisecond
	_, err := Run(ctx, cfg)
	if lines := strings.Join(e.lines(KindNote), "\n"); !strings.Contains(lines, "there is no decision about one/s, attempt 1") {
		t.Errorf("%v\n%s", err, strings.Join(e.lines(), "\n"))
	}
}

func TestRunRefuses(t *testing.T) {
	var unsupported *UnsupportedError
	var wrong *ConfigError
	cfg, e := config(t, []byte(mixed))
	if _, err := Run(t.Context(), cfg); !errors.As(err, &unsupported) || len(unsupported.Blocks) != 7 {
		t.Errorf("steps that cannot be run: %v", err)
	}
	cfg.Stubs = []string{"nonsense"}
	if _, err := Run(t.Context(), cfg); !errors.As(err, &wrong) {
		t.Errorf("a stub that is none: %v", err)
	}
	cfg.Stubs, cfg.Resume, cfg.Dir = []string{"*=ok"}, true, ""
	if _, err := Run(t.Context(), cfg); !errors.As(err, &wrong) {
		t.Errorf("resumed nowhere: %v", err)
	}
	cfg.Dir = t.TempDir()
	if _, err := Run(t.Context(), cfg); !errors.Is(err, errNoJournal) {
		t.Errorf("resumed without a run: %v", err)
	}
	cfg.YAML = []byte("pipeline: {identifier: p, stages: [{stage: {identifier: s, failureStrategies: [{onFailure: {errors: [Nope], action: {type: Ignore}}}]}}]}")
	if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "has errors") {
		t.Errorf("a pipeline with errors: %v", err)
	}
	if lines := e.lines(KindRunning); len(lines) > 0 {
		t.Errorf("ran %q", lines)
	}
}

// TestWithin bounds the package's own waits against each other.
func TestWithin(t *testing.T) {
	if closeWait > endWithin || killGrace+drainWithin > endWithin || endWithin > time.Minute {
		t.Error("the waits at the end do not fit into each other")
	}
}
