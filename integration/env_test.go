package integration

import (
	"context"
	"fmt"
	"maps"
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
	"github.com/recourse-dev/recourse/internal/retry/timer"
	"github.com/recourse-dev/recourse/internal/worker"
)

// env is a provisioned server and what talks to it, except workers.
type env struct {
	url      string
	nc       *nats.Conn
	js       jetstream.JetStream
	delegate *client.Delegate
	operator *client.Operator
}

// The sweeper of the tests is quick.
const (
	sweepEvery = 200 * time.Millisecond
	sweepGrace = time.Second
)

// newEnv connects to a server and provisions it. ackWait, where it is not 0, is how soon what a lost worker held comes again: workers must
// leave the streams alone then.
func newEnv(t *testing.T, url string, ackWait time.Duration) *env {
	t.Helper()
	e := &env{url: url}
	e.nc = must(client.Connect(t.Context(), client.Settings{Server: url, Name: t.Name()}, nats.RetryOnFailedConnect(false)))(t)
	t.Cleanup(e.nc.Close)
	e.js = must(jetstream.New(e.nc))(t)
	if _, err := broker.Provision(t.Context(), e.js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	if ackWait > 0 {
		for stream, durable := range map[string]string{recourse.StreamInbox: broker.ConsumerInbox, recourse.StreamTimers: broker.ConsumerDue} {
			cfg := must(e.js.Consumer(t.Context(), stream, durable))(t).CachedInfo().Config
			cfg.AckWait = ackWait
			must(e.js.UpdateConsumer(t.Context(), stream, cfg))(t)
		}
	}
	e.delegate = must(client.NewDelegate(e.nc, "delegate"))(t)
	e.operator = must(client.NewOperator(e.nc, "operator"))(t)
	return e
}

// embedded is an environment on a server in this process.
func embedded(t *testing.T) *env {
	t.Helper()
	server := brokertest.Start(t)
	return newEnv(t, server.URL(), 0)
}

// startWorkers starts workers in this process. They are stopped with the test, and must stop without an error.
func (e *env) startWorkers(t *testing.T, n int) {
	t.Helper()
	ready := make(chan struct{}, n)
	for range n {
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			ended <- worker.Run(ctx, worker.Config{
				Connection: client.Settings{Server: e.url}, Provision: broker.ModeOff,
				Sweeper: timer.SweeperConfig{Every: sweepEvery, Grace: sweepGrace},
				Ready:   func(string) { ready <- struct{}{} },
			})
		}()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Errorf("worker: %v", err)
			}
		})
	}
	for range n {
		select {
		case <-ready:
		case <-time.After(patience):
			t.Fatal("a worker did not get ready")
		}
	}
}

// spawnWorker starts a worker as a process of its own and waits until it works.
func (e *env) spawnWorker(t *testing.T, url string, args ...string) *process {
	t.Helper()
	binary := must(workerBinary())(t)
	cmd := command(binary, append([]string{
		"--server", url, "--provision", "off", "--sweep-every", sweepEvery.String(), "--sweep-grace", sweepGrace.String(),
	}, args...)...)
	p := start(t, cmd)
	eventually(t, "worker ready", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("the worker ended: %s", p.log)
		default:
		}
		return strings.Contains(p.log.String(), `"msg":"working"`)
	})
	return p
}

func (e *env) ref(account, pipeline, execution string) recourse.Ref {
	return recourse.Ref{Account: account, Org: "org", Project: "project", Pipeline: pipeline, Execution: execution}
}

// register stores a pipeline and returns its revision.
func (e *env) register(t testing.TB, ref recourse.Ref, yaml string) uint64 {
	t.Helper()
	return must(client.PutPipeline(t.Context(), e.js, ref, []byte(yaml)))(t)
}

func failure(ref recourse.Ref, node string, attempt int, kind recourse.ErrorType) recourse.Failure {
	return recourse.Failure{Ref: ref, Node: recourse.Node{Path: node}, Attempt: attempt, Errors: recourse.ErrorTypesOf(kind), Message: "it broke"}
}

func (e *env) fail(t testing.TB, ref recourse.Ref, node string, attempt int, kind recourse.ErrorType) {
	t.Helper()
	must(e.delegate.Report(t.Context(), failure(ref, node, attempt, kind)))(t)
}

// raw publishes bytes into the inbox, with headers.
func (e *env) raw(t testing.TB, subject string, header nats.Header, body []byte) uint64 {
	t.Helper()
	return must(e.js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: header, Data: body}))(t).Sequence
}

func (e *env) end(t testing.TB, ref recourse.Ref, event recourse.LifecycleEvent) {
	t.Helper()
	body := must(recourse.Encode(&recourse.Lifecycle{Ref: ref, Event: event}))(t)
	e.raw(t, ref.Subject(recourse.FamilyLifecycle, "orchestrator"), nil, body)
}

// inbox collects what an orchestrator is told, and fails the test where it is told something twice, or out of order.
type commands struct {
	mu  sync.Mutex
	got map[string][]*recourse.Record // by execution
}

// orchestrate starts an orchestrator for an account.
func (e *env) orchestrate(t *testing.T, account string) *commands {
	t.Helper()
	c := &commands{got: map[string][]*recourse.Record{}}
	o := must(client.NewOrchestrator(e.nc, client.OrchestratorConfig{
		Account: account, Durable: "orchestrator-" + recourse.Token(account), Principal: "orchestrator",
	}))(t)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- o.Handle(ctx, func(_ context.Context, rec *recourse.Record) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			got := c.got[rec.Execution]
			if len(got) > 0 && got[len(got)-1].Version >= rec.Version {
				t.Errorf("%s: command %d after %d", rec.Execution, rec.Version, got[len(got)-1].Version)
			}
			c.got[rec.Execution] = append(got, rec)
			return nil
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("orchestrator: %v", err)
		}
	})
	return c
}

// of returns the commands of an execution.
func (c *commands) of(execution string) []*recourse.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got[execution])
}

// verbs returns the verbs of an execution, joined by blanks.
func (c *commands) verbs(execution string) string {
	var verbs []string
	for _, rec := range c.of(execution) {
		verbs = append(verbs, rec.Command.Verb.String())
	}
	return strings.Join(verbs, " ")
}

// want waits until an execution's commands are these.
func (c *commands) want(t testing.TB, execution, verbs string) []*recourse.Record {
	t.Helper()
	if !within(patience, func() bool { return len(c.verbs(execution)) >= len(verbs) }) || c.verbs(execution) != verbs {
		t.Fatalf("%s: commands %q, want %q", execution, c.verbs(execution), verbs)
	}
	return c.of(execution)
}

// all returns how many commands came, of which verb.
func (c *commands) all() map[recourse.Verb]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := map[recourse.Verb]int{}
	for _, execution := range slices.Sorted(maps.Keys(c.got)) {
		for _, rec := range c.got[execution] {
			n[rec.Command.Verb]++
		}
	}
	return n
}

// heard fails the test unless the orchestrator was told every command of the journal, each once.
func (c *commands) heard(t testing.TB, recs []*recourse.Record, execution string) {
	t.Helper()
	want := count(recs, func(r *recourse.Record) bool { return r.Command.Verb != 0 })
	if !within(patience, func() bool { return len(c.of(execution)) >= want }) || len(c.of(execution)) != want {
		t.Errorf("%s: %d commands in the journal, the orchestrator was told %d", execution, want, len(c.of(execution)))
	}
}

// pipelineYAML is a pipeline with a stage "s" of steps and groups, given in flow style, and the strategies of the stage.
func pipelineYAML(strategies string, steps ...string) string {
	return fmt.Sprintf(`{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [%s]}}, failureStrategies: %s}}]}}`,
		strings.Join(steps, ", "), strategies)
}

func step(id string, strategies ...string) string {
	return fmt.Sprintf(`{step: {identifier: %s, failureStrategies: [%s]}}`, id, strings.Join(strategies, ", "))
}

func on(errors, action string) string {
	return fmt.Sprintf(`{onFailure: {errors: [%s], action: %s}}`, errors, action)
}

// retryThen is a Retry with intervals, and what follows.
func retryThen(n int, intervals, then string) string {
	return fmt.Sprintf(`{type: Retry, spec: {retryCount: %d, retryIntervals: [%s], onRetryFailure: {action: {type: %s}}}}`, n, intervals, then)
}

// ask is a ManualIntervention.
func ask(timeout, then string) string {
	return fmt.Sprintf(`{type: ManualIntervention, spec: {timeout: %s, onTimeout: {action: {type: %s}}}}`, timeout, then)
}
