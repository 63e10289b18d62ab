package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
)

// The shape of the load.
const (
	bodySize     = 900 // bytes of a failure
	account      = "bench"
	delegate     = "bench-delegate"
	maxInFlight  = 8192 // failures published and not yet stored
	fewestSteps  = 20
	mostSteps    = 200
	stepsInStage = 10
)

// load makes failures. What it makes depends on its seed alone.
type load struct {
	*rand.Rand
	pipelines []plan
}

// plan is a registered pipeline: its steps as paths, stage by stage.
type plan struct {
	ref   recourse.Ref // without an execution
	nodes []string
}

// newLoad registers pipelines of 20 to 200 steps and returns what makes failures in them.
func newLoad(ctx context.Context, js jetstream.JetStream, seed uint64, pipelines int) (*load, error) {
	l := &load{Rand: rand.New(rand.NewPCG(seed, 0))}
	for i := range pipelines {
		steps := fewestSteps + l.IntN(mostSteps-fewestSteps+1)
		ref := recourse.Ref{Account: account, Org: "default", Project: "shop", Pipeline: fmt.Sprintf("p%d-%d", seed, i)}
		yaml, nodes := pipeline(ref, steps)
		if _, err := client.PutPipeline(ctx, js, ref, yaml); err != nil {
			return nil, fmt.Errorf("pipeline %s: %w", ref.Pipeline, err)
		}
		l.pipelines = append(l.pipelines, plan{ref, nodes})
	}
	return l, nil
}

// stageStrategies are those of each stage; steps have a strategy of their own now and then. What they do to a failure of which type is
// what makes the mix: retries at once and later, rollbacks, ignored and marked failures, questions to people.
const stageStrategies = `
        - onFailure: {errors: [Timeout], action: {type: Retry, spec: {retryCount: 5, retryIntervals: [0s], onRetryFailure: {action: {type: StageRollback}}}}}
        - onFailure: {errors: [Connectivity], action: {type: Retry, spec: {retryCount: 3, retryIntervals: [1h], onRetryFailure: {action: {type: Abort}}}}}
        - onFailure: {errors: [Verification], action: {type: StageRollback}}
        - onFailure: {errors: [Authentication], action: {type: ManualIntervention, spec: {timeout: 1d, onTimeout: {action: {type: Abort}}}}}
        - onFailure: {errors: [AllErrors], action: {type: MarkAsFailure}}`

const stepStrategies = `
                  failureStrategies:
                    - onFailure: {errors: [Unknown], action: {type: Ignore}}
                    - onFailure: {errors: [Authorization], action: {type: MarkAsSuccess}}`

// pipeline returns the YAML of a pipeline with that many steps, and their paths.
func pipeline(ref recourse.Ref, steps int) (yaml []byte, nodes []string) {
	var b strings.Builder
	fmt.Fprintf(&b, "pipeline:\n  identifier: %s\n  name: %s\n  orgIdentifier: %s\n  projectIdentifier: %s\n  stages:\n", ref.Pipeline, ref.Pipeline, ref.Org, ref.Project)
	for i := range steps {
		stage := fmt.Sprintf("stage%d", i/stepsInStage)
		if i%stepsInStage == 0 {
			fmt.Fprintf(&b, "    - stage:\n        identifier: %s\n        type: Custom\n        failureStrategies:%s\n        spec:\n          execution:\n            steps:\n",
				stage, strings.ReplaceAll(stageStrategies, "\n", "\n  "))
		}
		step := fmt.Sprintf("step%d", i)
		fmt.Fprintf(&b, "              - step:\n                  identifier: %s\n                  type: ShellScript\n                  timeout: 10m", step)
		if i%3 == 0 {
			b.WriteString(stepStrategies)
		}
		b.WriteString("\n")
		nodes = append(nodes, stage+"/"+step)
	}
	return []byte(b.String()), nodes
}

// mix is the types of failures, as often as they come.
var mix = []recourse.ErrorType{
	recourse.Timeout, recourse.Timeout, recourse.Timeout, recourse.Timeout, recourse.Unknown, recourse.Unknown,
	recourse.Authorization, recourse.Verification, recourse.Connectivity, recourse.Authentication,
}

// first makes n first failures: of executions of their own three times out of four, else of another node of the execution before.
func (l *load) first(run string, n int) []*recourse.Failure {
	failures := make([]*recourse.Failure, 0, n)
	var p plan
	var execution string
	nodes := 0
	for i := range n {
		if i == 0 || l.IntN(4) > 0 || nodes == len(p.nodes) {
			p, execution, nodes = l.pipelines[l.IntN(len(l.pipelines))], fmt.Sprintf("%s-%d", run, i), 0
		}
		failures = append(failures, l.failure(p, execution, p.nodes[nodes], 1, mix[l.IntN(len(mix))]))
		nodes++
	}
	return failures
}

// each makes a failure of every pipeline.
func (l *load) each(run string) []*recourse.Failure {
	failures := make([]*recourse.Failure, 0, len(l.pipelines))
	for i, p := range l.pipelines {
		failures = append(failures, l.failure(p, fmt.Sprintf("%s-%d", run, i), p.nodes[0], 1, recourse.Verification))
	}
	return failures
}

// second makes the failures of second attempts that follow on first ones.
func (l *load) second(first []*recourse.Failure) []*recourse.Failure {
	failures := make([]*recourse.Failure, 0, len(first))
	for _, f := range first {
		again := *f
		again.Attempt = 2
		failures = append(failures, &again)
	}
	return failures
}

func (l *load) failure(p plan, execution, node string, attempt int, typ recourse.ErrorType) *recourse.Failure {
	f := &recourse.Failure{Ref: p.ref, Node: recourse.Node{Path: node}, Attempt: attempt, Errors: recourse.ErrorTypesOf(typ), At: time.Now().UTC()}
	f.Execution = execution
	f.Message = l.message()
	return f
}

// words make messages: what is redacted looks at each character, so it is text as it comes.
var words = strings.Fields("rollout of deployment web did not finish in time waiting for pods 3 of 5 ready image pull back-off node pressure retry connection reset by peer status 503 upstream")

func (l *load) message() string {
	var b strings.Builder
	for b.Len() < bodySize-210 {
		b.WriteString(words[l.IntN(len(words))])
		b.WriteByte(' ')
	}
	return b.String()
}

// publish stores failures in the inbox, in order.
func publish(ctx context.Context, nc *nats.Conn, failures []*recourse.Failure) error {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxInFlight))
	if err != nil {
		return err
	}
	futures := make([]jetstream.PubAckFuture, 0, len(failures))
	for _, f := range failures {
		body, err := recourse.Encode(f)
		if err != nil {
			return err
		}
		future, err := js.PublishAsync(f.Prefix()+"."+string(recourse.FamilyFailure)+"."+delegate, body, jetstream.WithStallWait(time.Minute))
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		futures = append(futures, future)
	}
	for _, future := range futures {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			return fmt.Errorf("publish: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
