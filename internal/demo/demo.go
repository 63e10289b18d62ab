// Package demo shows a worker at work: a deployment fails, is retried, is rolled back when the retries are used up, and a second one
// waits for a person. Worker, delegate, orchestrator and operator are the real ones, over an embedded server.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/examples"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/worker"
	"github.com/spf13/cobra"
)

// within bounds a scene: its retries take five seconds.
const within = time.Minute

const pipelineFile = "deploy_web.yaml"

// Command returns the subcommand of the worker.
func Command() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show an incident from failure to command, on an embedded server of its own",
		Long: `Demo starts a worker on an embedded server with a directory that is removed afterwards, registers a pipeline, and plays
delegate, orchestrator and operator: a step times out until its retries are used up and the stage is rolled back; in a second
execution a verification fails and a person decides. It takes about six seconds and exits with 0.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return Run(cmd.Context(), cmd.OutOrStdout()) },
	}
}

// Run plays the demo and writes what happens to out. It returns an error where anything came out differently than the story says.
func Run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "recourse-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Not by the worker, which takes the server of the selected context where there is one.
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Shutdown(context.WithoutCancel(ctx))) }()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- worker.Run(ctx, worker.Config{Connection: client.Settings{Server: server.URL()}, Ready: func(url string) { ready <- url }})
	}()
	select {
	case <-ready:
	case err := <-ended:
		return err
	}
	s := &story{out: out, start: time.Now(), commands: make(chan *recourse.Record, 16)}
	err = s.play(ctx, server.URL())
	cancel()
	return errors.Join(err, <-ended)
}

// story is the demo in play.
type story struct {
	start    time.Time
	delegate *client.Delegate
	operator *client.Operator
	commands chan *recourse.Record // that the orchestrator received

	mu  sync.Mutex
	out io.Writer
}

func (s *story) play(ctx context.Context, url string) error {
	nc, err := client.Connect(ctx, client.Settings{Server: url, Name: "demo"}, nats.RetryOnFailedConnect(false))
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := s.prepare(ctx, nc); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := s.retriesThenRollback(ctx); err != nil {
		return err
	}
	if err := s.personDecides(ctx); err != nil {
		return err
	}
	s.say("")
	s.say("Each decision is one record in the journal, with its trail. To look around by hand, start `go run ./cmd/worker` and see the README.")
	return nil
}

// prepare registers the pipeline and starts the orchestrator.
func (s *story) prepare(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	yaml, err := examples.Files.ReadFile(pipelineFile)
	if err != nil {
		return err
	}
	revision, err := client.PutPipeline(ctx, js, execution(""), yaml)
	if err != nil {
		return err
	}
	s.say("pipeline deploy_web registered (examples/%s, revision %d)", pipelineFile, revision)
	// The journal is stored by publishing to its subjects, so whoever subscribes sees the decisions as they come.
	for _, family := range []recourse.Family{recourse.FamilyDecision, recourse.FamilyCommand} {
		if _, err := nc.Subscribe(recourse.Filter(family), s.decided); err != nil {
			return err
		}
	}
	if s.delegate, err = client.NewDelegate(nc, "delegate-1"); err != nil {
		return err
	}
	if s.operator, err = client.NewOperator(nc, "alice"); err != nil {
		return err
	}
	orchestrator, err := client.NewOrchestrator(nc, client.OrchestratorConfig{Principal: "orchestrator-1"})
	if err != nil {
		return err
	}
	go func() {
		// Its end is that of the demo; a command that does not come is noticed where it is waited for.
		_ = orchestrator.Handle(ctx, func(_ context.Context, command *recourse.Record) error {
			s.commands <- command
			return nil
		})
	}()
	return nil
}

// decided shows a record as it is appended: what was decided, and which strategy applied.
func (s *story) decided(msg *nats.Msg) {
	rec, err := recourse.DecodeRecord(msg.Data)
	if err != nil {
		s.say("worker        %v", err)
		return
	}
	what := fmt.Sprintf("%s, %s", rec.Action, rec.Reason)
	if rec.Delay > 0 {
		what += fmt.Sprintf(", in %s", rec.Delay)
	}
	for _, entry := range rec.Trail {
		if entry.Applies {
			what += fmt.Sprintf(" (the %s's strategy %d: %s)", entry.Level, entry.Index+1, entry.Why)
		}
	}
	s.say("worker        record %d: %s", rec.Version, what)
}

// retriesThenRollback: rollout times out four times. Its strategy retries three times, after 1s, 2s and 2s, then rolls the stage back.
func (s *story) retriesThenRollback(ctx context.Context) error {
	s.say("")
	s.say("execution ex1: prod/canary/rollout times out, and so do its retries")
	for attempt := 1; attempt <= 4; attempt++ {
		want := recourse.VerbRetry
		if attempt == 4 {
			want = recourse.VerbRollbackStage
		}
		if _, err := s.fail(ctx, "ex1", "prod/canary/rollout", attempt, recourse.Timeout, "deployment did not become ready", want); err != nil {
			return err
		}
	}
	return nil
}

// personDecides: smoke finds bad numbers, the execution is paused, Alice says it is fine.
func (s *story) personDecides(ctx context.Context) error {
	s.say("")
	s.say("execution ex2: prod/canary/smoke finds bad numbers, a person decides")
	pause, err := s.fail(ctx, "ex2", "prod/canary/smoke", 1, recourse.Verification, "error rate 2.1 %, limit 2 %", recourse.VerbPause)
	if err != nil {
		return err
	}
	question := pause.Command.Intervention
	s.say("operator      open: ex2/%d, allowed %s; after %s: %s", question.ID, question.Allowed, time.Duration(recourse.Duration(question.Deadline.Sub(pause.At))), question.OnTimeout)
	s.say("operator      alice answers MarkAsSuccess: \"known spike, traffic shifted\"")
	if _, err := s.operator.Answer(ctx, recourse.Answer{
		Ref: execution("ex2"), Intervention: question.ID, Action: recourse.MarkAsSuccess, Who: "alice", Why: "known spike, traffic shifted",
	}); err != nil {
		return err
	}
	if _, err := s.command(ctx, recourse.VerbMarkSuccess); err != nil {
		return err
	}
	_, err = s.operator.Answer(ctx, recourse.Answer{
		Ref: execution("ex2"), Intervention: question.ID, Action: recourse.Abort, Who: "bob", Why: "looks bad to me",
	})
	var refused *client.RefusedError
	if !errors.As(err, &refused) {
		return fmt.Errorf("a second answer was not refused: %v", err)
	}
	s.say("operator      bob answers Abort a moment later: refused, %s", refused.Record.Detail)
	return nil
}

// fail reports a failure and waits for the command that answers it.
func (s *story) fail(ctx context.Context, id, node string, attempt int, kind recourse.ErrorType, message string, want recourse.Verb) (*recourse.Record, error) {
	s.say("delegate      %s attempt %d failed: %s, %s", node, attempt, kind, message)
	_, err := s.delegate.Report(ctx, recourse.Failure{
		Ref: execution(id), Node: recourse.Node{Path: node}, Attempt: attempt, Errors: recourse.ErrorTypesOf(kind), Message: message, At: time.Now(),
	})
	if err != nil {
		return nil, err
	}
	return s.command(ctx, want)
}

func (s *story) command(ctx context.Context, want recourse.Verb) (*recourse.Record, error) {
	select {
	case rec := <-s.commands:
		s.say("orchestrator  receives %s %s", rec.Command.Verb, rec.Command.Scope)
		if rec.Command.Verb != want {
			return nil, fmt.Errorf("the command was %s, not %s", rec.Command.Verb, want)
		}
		return rec, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("no command %s: %w", want, ctx.Err())
	}
}

func (s *story) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if format == "" {
		fmt.Fprintln(s.out)
		return
	}
	fmt.Fprintf(s.out, "%7.3fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// execution returns the ids of one of the demo's executions.
func execution(id string) recourse.Ref {
	return recourse.Ref{Account: "acme", Org: "shop", Project: "web", Pipeline: "deploy_web", Execution: id}
}
