package pipeline

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// The skeletons put failureStrategies, in flow style, where a test wants them.
const (
	onStep = `{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {
	  steps: [{step: {identifier: a, failureStrategies: %s}}],
	  rollbackSteps: [{step: {identifier: r}}]}}}}]}}`
	onGroup = `{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {
	  steps: [{stepGroup: {identifier: g, steps: [{step: {identifier: a}}], rollbackSteps: [{step: {identifier: u}}], failureStrategies: %s}}]}}}}]}}`
	onStepInGroup = `{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {
	  steps: [{stepGroup: {identifier: g, steps: [{step: {identifier: a, failureStrategies: %s}}], rollbackSteps: [{step: {identifier: u}}]}}]}}}}]}}`
	onStage = `{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {
	  steps: [{step: {identifier: a}}], rollbackSteps: [{step: {identifier: r}}]}}, failureStrategies: %s}}]}}`
	onDeployment = `{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Deployment, spec: {execution: {
	  steps: [{step: {identifier: a}}], rollbackSteps: [{step: {identifier: r}}]}}, failureStrategies: %s}}]}}`
	onRollbackStep = `{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {
	  steps: [{step: {identifier: a}}], rollbackSteps: [{step: {identifier: r, failureStrategies: %s}}]}}}}]}}`
	onRollbackGroup = `{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {
	  steps: [{step: {identifier: a}}], rollbackSteps: [{stepGroup: {identifier: g, steps: [{step: {identifier: r}}], failureStrategies: %s}}]}}}}]}}`
)

// one writes a strategy in flow style.
func one(errors, action string) string {
	return fmt.Sprintf("{onFailure: {errors: [%s], action: %s}}", errors, action)
}

// do writes an action without settings.
func do(action string) string { return "{type: " + action + "}" }

// retryDo writes a Retry that ends in MarkAsFailure; more are further keys of its spec.
func retryDo(count int, more string) string {
	return fmt.Sprintf("{type: Retry, spec: {retryCount: %d, onRetryFailure: {action: {type: MarkAsFailure}}%s}}", count, more)
}

func list(strategies ...string) string { return "[" + strings.Join(strategies, ", ") + "]" }

func in(skeleton string, strategies ...string) string {
	return fmt.Sprintf(skeleton, list(strategies...))
}

// codes returns "error code" or "warning code" for each diagnostic.
func codes(ds Diagnostics) []string {
	out := []string{}
	for _, d := range ds {
		out = append(out, d.Severity.String()+" "+d.Code)
	}
	return out
}

func load(t *testing.T, yaml string, semantics recourse.Semantics) (*decide.Plan, Diagnostics) {
	t.Helper()
	plan, ds := Load("test.yaml", []byte(yaml), Options{Semantics: semantics})
	for _, d := range ds {
		if strings.HasPrefix(d.Code, "yaml-") {
			t.Fatalf("the test's own YAML: %s\n%s", d, yaml)
		}
	}
	if plan == nil {
		t.Fatalf("no plan for\n%s", yaml)
	}
	return plan, ds
}

// strategiesOf returns the strategies of a node that must be there.
func strategiesOf(t *testing.T, p *decide.Plan, path string, section recourse.Section) []decide.Strategy {
	t.Helper()
	n, ok := p.Lookup(recourse.Node{Path: path, Section: section})
	if !ok {
		t.Fatalf("the plan has no %s in %s", path, section)
	}
	return n.Strategies
}

// outside returns the files of a directory that is not part of the repository, and skips where it is not there.
func outside(t *testing.T, variable, fallback, pattern string) []string {
	t.Helper()
	dir := os.Getenv(variable)
	if dir == "" {
		dir = fallback
	}
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Skipf("SKIP: no %s in %s; set %s to a directory that has some. Nothing was checked.", pattern, dir, variable)
	}
	return files
}
