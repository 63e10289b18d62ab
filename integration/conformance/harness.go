// Package conformance checks an orchestrator: whether it does what docs/orchestrators.md asks for. It looks at the streams and at what
// the steps of its pipelines leave behind, and knows nothing else of what it checks.
//
// # Implementations
//
// One is a command line for sh, started once for each execution. It runs the pipeline and may end with it, or stay until it is killed.
// Its environment says what to run:
//
//	NATS_URL             the server; a worker decides there
//	RECOURSE_FILE        the pipeline's YAML, which is registered already
//	RECOURSE_ACCOUNT, RECOURSE_ORG, RECOURSE_PROJECT, RECOURSE_PIPELINE, RECOURSE_EXECUTION
//	RECOURSE_DATA_DIR    a directory of its own
//	RECOURSE_RESUME      1 where it was killed and goes on with the execution; else not set
//
// It must be able to run steps of the type ShellScript with Bash on this machine; they write to absolute paths.
//
// # What it does not check
//
// The order in which commands of different executions are handled, permissions, and what only a lost connection shows.
package conformance

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
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
)

// Suite is what executions are started on.
type Suite struct {
	// URL is the server's. A worker decides there.
	URL string
	// Command starts an implementation; see the package.
	Command string
	// Patience bounds whatever is waited for; it is not what it takes.
	Patience time.Duration
}

// execution is one execution of a pipeline by the implementation.
type execution struct {
	recourse.Ref
	t     *testing.T
	suite *Suite
	dir   string
	file  string
	nc    *nats.Conn
	js    jetstream.JetStream
	cmd   *exec.Cmd
	out   *buffer

	mu   sync.Mutex
	seen []message // under the execution's subjects, in the order in which they came
}

type message struct {
	recourse.Subject
	subject string
	data    []byte
}

// buffer is what an implementation writes.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// start registers a pipeline of the stages and starts an execution of it. In the stages, DIR stands for a directory of the execution.
func (s *Suite) start(t *testing.T, stages ...string) *execution {
	t.Helper()
	e := &execution{
		Ref: recourse.Ref{Account: "conformance", Org: "default", Project: "default", Pipeline: "p" + nuid.Next(), Execution: "ex1"},
		t:   t, suite: s, dir: t.TempDir(), out: new(buffer),
	}
	e.file = filepath.Join(e.dir, "pipeline.yaml")
	yaml := strings.ReplaceAll(fmt.Sprintf("pipeline: {identifier: %s, stages: [%s]}\n", e.Pipeline, strings.Join(stages, ", ")), "DIR", e.dir)
	if err := os.WriteFile(e.file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if e.nc, err = nats.Connect(s.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.nc.Close)
	if e.js, err = jetstream.New(e.nc); err != nil {
		t.Fatal(err)
	}
	if _, err := client.PutPipeline(t.Context(), e.js, e.Ref, []byte(yaml)); err != nil {
		t.Fatal(err)
	}
	// What is stored is stored by publishing to its subject, so whoever subscribes sees all of it.
	if _, err := e.nc.Subscribe(e.Prefix()+".>", e.arrived); err != nil {
		t.Fatal(err)
	}
	if err := e.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	e.launch(false)
	t.Cleanup(func() {
		e.kill()
		if t.Failed() {
			t.Logf("pipeline:\n%s\nsteps that ran: %v\nmessages:\n%s\nthe implementation wrote:\n%s", yaml, e.trace(), e.history(), e.out)
		}
	})
	return e
}

func (e *execution) launch(resume bool) {
	e.t.Helper()
	e.cmd = exec.Command("sh", "-c", e.suite.Command)
	e.cmd.Env = append(os.Environ(),
		"NATS_URL="+e.suite.URL, "RECOURSE_FILE="+e.file, "RECOURSE_ACCOUNT="+e.Account, "RECOURSE_ORG="+e.Org, "RECOURSE_PROJECT="+e.Project,
		"RECOURSE_PIPELINE="+e.Pipeline, "RECOURSE_EXECUTION="+e.Execution, "RECOURSE_DATA_DIR="+filepath.Join(e.dir, "data"))
	if resume {
		e.cmd.Env = append(e.cmd.Env, "RECOURSE_RESUME=1")
	}
	e.cmd.Stdout, e.cmd.Stderr = e.out, e.out
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
}

// kill ends the implementation as a lost machine would, without a word.
func (e *execution) kill() {
	_ = syscall.Kill(-e.cmd.Process.Pid, syscall.SIGKILL)
	_ = e.cmd.Wait() // a second time is an error, and of no matter
}

func (e *execution) arrived(msg *nats.Msg) {
	subject, err := recourse.ParseSubject(msg.Subject)
	if err != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, message{subject, msg.Subject, msg.Data})
}

// of returns what arrived of a family.
func (e *execution) of(family recourse.Family) (found []message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.seen {
		if m.Family == family {
			found = append(found, m)
		}
	}
	return found
}

func (e *execution) history() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for _, m := range e.seen {
		fmt.Fprintf(&b, "  %s.%s %.300s\n", m.Family, m.Detail, m.data)
	}
	return b.String()
}

// eventually polls until done says so.
func (e *execution) eventually(what string, done func() bool) {
	e.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(e.suite.Patience)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			e.t.Fatalf("%s: not within %s", what, e.suite.Patience)
		}
	}
}

// trace is what the steps say of themselves: the identifier of each attempt that began, in order.
func (e *execution) trace() []string {
	content, _ := os.ReadFile(filepath.Join(e.dir, "trace"))
	return strings.Fields(string(content))
}

// touch makes a file that a step waits for.
func (e *execution) touch(name string) {
	e.t.Helper()
	if err := os.WriteFile(filepath.Join(e.dir, name), nil, 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// ran waits until a step has begun for the n-th time.
func (e *execution) ran(id string, n int) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("step %s begins for the %d. time", id, n), func() bool {
		count := 0
		for _, one := range e.trace() {
			if one == id {
				count++
			}
		}
		return count >= n
	})
}

// failures returns what was reported, once for each node and attempt, as "node#attempt types". A report that differs from an earlier one
// of the same attempt is an error.
func (e *execution) failures() (list []string) {
	e.t.Helper()
	digests := make(map[string]string)
	for _, m := range e.of(recourse.FamilyFailure) {
		f, err := recourse.DecodeFailure(m.data)
		if err != nil {
			e.t.Errorf("a failure that cannot be read: %v: %s", err, m.data)
			continue
		}
		if f.Ref != e.Ref || m.subject != e.Subject(recourse.FamilyFailure, m.Detail) {
			e.t.Errorf("a failure of %s on %s", f.Ref, m.subject)
		}
		f.Clean()
		if digest, known := digests[f.Key()]; known {
			if digest != f.Digest() {
				e.t.Errorf("%s was reported twice, and not the same", f.Key())
			}
			continue
		}
		digests[f.Key()] = f.Digest()
		list = append(list, fmt.Sprintf("%s#%d %s", f.Node, f.Attempt, f.Errors.Normalize()))
	}
	return list
}

// commands returns the commands so far, each version once.
func (e *execution) commands() (list []*recourse.Record) {
	e.t.Helper()
	for _, m := range e.of(recourse.FamilyCommand) {
		record, err := recourse.DecodeRecord(m.data)
		if err != nil {
			e.t.Fatal(err)
		}
		if !slices.ContainsFunc(list, func(known *recourse.Record) bool { return known.Version == record.Version }) {
			list = append(list, record)
		}
	}
	return list
}

// command waits for the n-th command of a verb, from 1.
func (e *execution) command(verb recourse.Verb, n int) *recourse.Record {
	e.t.Helper()
	var found *recourse.Record
	e.eventually(fmt.Sprintf("command %s number %d", verb, n), func() bool {
		count := 0
		for _, record := range e.commands() {
			if record.Command.Verb == verb {
				if count++; count == n {
					found = record
				}
			}
		}
		return found != nil
	})
	return found
}

// answer answers the intervention that a pause opened.
func (e *execution) answer(pause *recourse.Record, action recourse.Action) {
	e.t.Helper()
	operator, err := client.NewOperator(e.nc, "conformance")
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), e.suite.Patience)
	defer cancel()
	_, err = operator.Answer(ctx, recourse.Answer{Ref: e.Ref, Intervention: pause.Version, Action: action, Why: "to see what follows"})
	var refused *client.RefusedError
	switch {
	case errors.As(err, &refused):
		e.t.Errorf("nobody waited for the answer %s to %s: %v", action, pause.Node, err)
	case err != nil:
		e.t.Fatal(err)
	}
}

// again publishes a record once more, as it stands in the journal.
func (e *execution) again(record *recourse.Record) {
	e.t.Helper()
	for _, m := range e.of(recourse.FamilyCommand) {
		known, err := recourse.DecodeRecord(m.data)
		if err != nil || known.Version != record.Version {
			continue
		}
		if _, err := e.js.Publish(e.t.Context(), m.subject, m.data); err != nil {
			e.t.Fatal(err)
		}
		return
	}
	e.t.Fatalf("no version %d", record.Version)
}

// ended waits for the end of the execution, and wants one lifecycle event of a kind.
func (e *execution) ended(want recourse.LifecycleEvent) {
	e.t.Helper()
	e.eventually("the end of the execution is reported", func() bool { return len(e.of(recourse.FamilyLifecycle)) > 0 })
	for _, m := range e.of(recourse.FamilyLifecycle) {
		l, err := recourse.DecodeLifecycle(m.data)
		if err != nil {
			e.t.Fatal(err)
		}
		if l.Event != want || l.Ref != e.Ref {
			e.t.Errorf("the end is reported as %s of %s, want %s", l.Event, l.Ref, want)
		}
	}
}

// wantTrace wants the steps to have run in this order.
func (e *execution) wantTrace(want ...string) {
	e.t.Helper()
	if got := e.trace(); !slices.Equal(got, want) {
		e.t.Errorf("the steps ran %v, want %v", got, want)
	}
}

// wantFailures wants these reports and no others, in any order.
func (e *execution) wantFailures(want ...string) {
	e.t.Helper()
	got := e.failures()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		e.t.Errorf("reported were %q, want %q", got, want)
	}
}

// The pieces of a pipeline.

// step is a step that says that it ran and goes on with a script. more is what else it has in the YAML.
func step(id, script string, more ...string) string {
	quoted, _ := json.Marshal(fmt.Sprintf("echo %s >> DIR/trace\n%s", id, script)) // a text always has a JSON
	return fmt.Sprintf("{step: {identifier: %s, type: ShellScript, %s}}", id, strings.Join(append([]string{"timeout: 10m",
		fmt.Sprintf("spec: {shell: Bash, onDelegate: true, source: {type: Inline, spec: {script: %s}}}", quoted)}, more...), ", "))
}

// fails is a script that fails the first n times the step with the identifier runs.
func fails(id string, n int) string {
	return fmt.Sprintf("[ $(grep -c -x '%s' DIR/trace) -gt %d ]", id, n)
}

// gate is a script that waits for a file.
func gate(name string) string { return fmt.Sprintf("while [ ! -e DIR/%s ]; do sleep 0.02; done", name) }

func parallel(blocks ...string) string { return "{parallel: [" + strings.Join(blocks, ", ") + "]}" }

func list(blocks ...string) string { return "[" + strings.Join(blocks, ", ") + "]" }

func group(id, steps, rollback string, more ...string) string {
	return fmt.Sprintf("{stepGroup: {identifier: %s, steps: %s, rollbackSteps: %s%s}}", id, steps, rollback, tail(more))
}

func stage(id, steps, rollback string, more ...string) string {
	return fmt.Sprintf("{stage: {identifier: %s, type: Custom, spec: {execution: {steps: %s, rollbackSteps: %s}}%s}}", id, steps, rollback, tail(more))
}

func tail(more []string) string {
	if len(more) == 0 {
		return ""
	}
	return ", " + strings.Join(more, ", ")
}

// on is a strategy for one error type.
func on(errors, action string) string {
	return fmt.Sprintf("failureStrategies: [{onFailure: {errors: [%s], action: %s}}]", errors, action)
}

func do(action recourse.Action) string { return "{type: " + action.String() + "}" }

func retry(count int, interval, then string) string {
	return fmt.Sprintf("{type: Retry, spec: {retryCount: %d, retryIntervals: [%s], onRetryFailure: {action: %s}}}", count, interval, then)
}

func retryGroup(count int, interval, then string) string {
	return fmt.Sprintf("{type: RetryStepGroup, spec: {retryCount: %d, retryIntervals: [%s], onRetryFailure: {action: %s}}}", count, interval, then)
}

func ask(timeout string, onTimeout recourse.Action, available ...recourse.Action) string {
	more := ""
	if len(available) > 0 {
		var names []string
		for _, a := range available {
			names = append(names, a.String())
		}
		more = ", availableActions: [" + strings.Join(names, ", ") + "]"
	}
	return fmt.Sprintf("{type: ManualIntervention, spec: {timeout: %s%s, onTimeout: {action: {type: %s}}}}", timeout, more, onTimeout)
}

func when(key, status string) string { return fmt.Sprintf("when: {%s: %s}", key, status) }
