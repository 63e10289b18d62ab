// Package workload makes what the benchmarks feed to engines: pipelines, and failures in them. What it makes depends on its seed alone.
package workload

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
)

// The shape of the load.
const (
	BodySize    = 900 // bytes of a failure
	Delegate    = "bench-delegate"
	FewestSteps = 20 // of a pipeline, unless a benchmark wants others
	MostSteps   = 200

	stepsInStage = 10
)

// Load makes failures.
type Load struct {
	*rand.Rand
	Pipelines []Plan
	// Mix is the types of failures, as often as they come.
	Mix []recourse.ErrorType
}

// Plan is a pipeline: its YAML, and its steps as paths, stage by stage.
type Plan struct {
	Ref   recourse.Ref // without an execution
	YAML  []byte
	Nodes []string
}

// New makes pipelines of so many steps.
func New(seed uint64, pipelines, fewest, most int, mix []recourse.ErrorType) *Load {
	l := &Load{Rand: rand.New(rand.NewPCG(seed, 0)), Mix: mix}
	for i := range pipelines {
		ref := recourse.Ref{Account: "bench", Org: "default", Project: "shop", Pipeline: fmt.Sprintf("p%d-%d", seed, i)}
		yaml, nodes := pipeline(ref, fewest+l.IntN(most-fewest+1))
		l.Pipelines = append(l.Pipelines, Plan{ref, yaml, nodes})
	}
	return l
}

// stageStrategies are those of each stage; steps have a strategy of their own now and then. What they do to a failure of which type is
// what makes the mix: retries at once and later, rollbacks, ignored and marked failures, questions to people. Timeouts are retried at once, or
// after as long as the failure itself asks for.
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

// pipeline returns a pipeline with that many steps, and their paths.
func pipeline(ref recourse.Ref, steps int) (yaml []byte, nodes []string) {
	var b strings.Builder
	fmt.Fprintf(&b, "pipeline:\n  identifier: %s\n  name: %s\n  orgIdentifier: %s\n  projectIdentifier: %s\n  stages:\n", ref.Pipeline, ref.Pipeline, ref.Org, ref.Project)
	for i := range steps {
		stage := fmt.Sprintf("stage%d", i/stepsInStage)
		if i%stepsInStage == 0 {
			fmt.Fprintf(&b, "    - stage:\n        identifier: %s\n        type: Custom\n        failureStrategies:%s\n        spec:\n          execution:\n            steps:\n", stage, stageStrategies)
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

// First makes n first failures: of executions of their own three times out of four, else of another node of the execution before.
func (l *Load) First(run string, n int) []*recourse.Failure {
	failures := make([]*recourse.Failure, 0, n)
	var p Plan
	var execution string
	nodes := 0
	for i := range n {
		if i == 0 || l.IntN(4) > 0 || nodes == len(p.Nodes) {
			p, execution, nodes = l.Pipelines[l.IntN(len(l.Pipelines))], fmt.Sprintf("%s-%d", run, i), 0
		}
		failures = append(failures, l.Failure(p, execution, p.Nodes[nodes], 1, l.Mix[l.IntN(len(l.Mix))]))
		nodes++
	}
	return failures
}

// Each makes a failure of every pipeline.
func (l *Load) Each(run string) []*recourse.Failure {
	failures := make([]*recourse.Failure, 0, len(l.Pipelines))
	for i, p := range l.Pipelines {
		failures = append(failures, l.Failure(p, fmt.Sprintf("%s-%d", run, i), p.Nodes[0], 1, recourse.Verification))
	}
	return failures
}

// Failure makes a failure of one attempt at a node.
func (l *Load) Failure(p Plan, execution, node string, attempt int, typ recourse.ErrorType) *recourse.Failure {
	f := &recourse.Failure{Ref: p.Ref, Node: recourse.Node{Path: node}, Attempt: attempt, Errors: recourse.ErrorTypesOf(typ), At: time.Now().UTC()}
	f.Execution = execution
	f.Message = l.message()
	return f
}

// words make messages: what is redacted looks at each character, so it is text as it comes.
var words = strings.Fields("rollout of deployment web did not finish in time waiting for pods 3 of 5 ready image pull back-off node pressure retry connection reset by peer status 503 upstream")

func (l *Load) message() string {
	var b strings.Builder
	for b.Len() < BodySize-210 {
		b.WriteString(words[l.IntN(len(words))])
		b.WriteByte(' ')
	}
	return b.String()
}
