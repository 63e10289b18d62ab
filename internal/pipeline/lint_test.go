package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/retry"
)

// TestLint has for each rule a pipeline that it speaks about and one next to it that it does not.
func TestLint(t *testing.T) {
	group := func(count int) string { return fmt.Sprintf("{type: RetryStepGroup, spec: {retryCount: %d}}", count) }
	groups := func(outer, inner int) string {
		return fmt.Sprintf(`{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [{stepGroup: {identifier: g,
		  steps: [{step: {identifier: a, timeout: 3m, failureStrategies: %s}}], failureStrategies: %s}}]}}}}]}}`,
			list(one("Timeout", retryDo(inner, ", retryIntervals: [10s]"))), list(one("Connectivity", group(outer))))
	}
	nested := func(outer, inner int) string {
		return fmt.Sprintf(`{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [{stepGroup: {identifier: g,
		  steps: [{stepGroup: {identifier: h, steps: [{step: {identifier: a}}], failureStrategies: %s}}], failureStrategies: %s}}]}}}}]}}`,
			list(one("Timeout", group(inner))), list(one("Connectivity", group(outer))))
	}
	approvals := func(onStep string, onStage ...string) string { // a stage around an approval
		return fmt.Sprintf(`{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Approval, failureStrategies: %s, spec: {execution: {
		  steps: [{step: {identifier: a, type: JiraApproval, failureStrategies: [%s]}}]}}}}]}}`, list(onStage...), onStep)
	}
	timed := func(stage, step, strategy string) string {
		return fmt.Sprintf(`{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, timeout: %s, spec: {execution: {
		  steps: [{step: {identifier: a, timeout: %s, failureStrategies: [%s]}}]}}}}]}}`, stage, step, strategy)
	}
	approval := func(strategies ...string) string {
		return strings.Replace(in(onStep, strategies...), "identifier: a,", "identifier: a, type: HarnessApproval,", 1)
	}
	bare := func(strategy string) string { // a stage and a group without rollbackSteps
		return fmt.Sprintf(`{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {rollbackSteps: [],
		  steps: [{stepGroup: {identifier: g, steps: [{step: {identifier: a}}], failureStrategies: [%s]}}]}}}}]}}`, strategy)
	}
	intervention := func(timeout string) string {
		return one("Unknown", "{type: ManualIntervention, spec: {timeout: "+timeout+", onTimeout: {action: {type: Abort}}}}")
	}
	templated := func(strategies string) string {
		return fmt.Sprintf(`{pipeline: {identifier: p, stages: [{stage: {identifier: s, template: {templateRef: t, templateInputs: {type: Deployment%s}}}}]}}`, strategies)
	}
	cases := []struct {
		code      string
		yaml      string
		semantics recourse.Semantics
		want      string // severity, "" for none
	}{
		{"never-applies", in(onStep, one("Timeout", do("Abort")), one("Timeout", do("Abort"))), documented, "warning"},
		{"never-applies", in(onStep, one("Timeout", do("Abort")), one("Timeout, Unknown", do("Abort"))), documented, ""},
		{"never-applies", in(onStep, one("Timeout", retryDo(1, ", condition: <+step.attempt> < 2")), one("Timeout", retryDo(1, ""))), documented, ""},
		{"never-applies", strings.Replace(in(onGroup, one("AllErrors", do("Abort"))), "identifier: a", "identifier: a, failureStrategies: "+list(one("AllErrors", do("Ignore"))), 1), documented, "warning"},
		{"never-applies", strings.Replace(in(onGroup, one("AllErrors", do("Abort"))), "identifier: a", "identifier: a, failureStrategies: "+list(one("Timeout", do("Ignore"))), 1), documented, ""},
		{"never-applies", strings.Replace(in(onGroup, one("Timeout", do("Abort"))), "identifier: a", "identifier: a, failureStrategies: "+list(one("Timeout", do("Ignore"))), 1), documented, "warning"},
		{"never-applies", strings.Replace(in(onStage, one("AllErrors", do("Abort"))), "identifier: a", "identifier: a, failureStrategies: "+list(one("AllErrors", do("Ignore"))), 1), documented, "warning"},
		{"never-applies", strings.Replace(in(onDeployment, one("AllErrors", do("Abort"))), "identifier: a", "identifier: a, failureStrategies: "+list(one("AllErrors", do("Ignore"))), 1), documented, ""},

		{"never-applies", strings.NewReplacer("identifier: g", "identifier: g, stepGroupInfra: {type: KubernetesDirect}", "identifier: a", "identifier: a, failureStrategies: "+list(one("AllErrors", do("Ignore")))).Replace(in(onGroup, one("AllErrors", do("Abort")))), documented, ""},

		{"conflicting-actions", in(onStep, one("Timeout", do("Abort")), one("Timeout", do("Ignore"))), documented, "warning"},
		{"conflicting-actions", in(onStep, one("Timeout", do("Abort")), one("Timeout", do("Ignore"))), engine, "error"},
		{"conflicting-actions", in(onStep, one("Timeout", do("Abort")), one("Unknown", do("Ignore"))), engine, ""},
		{"conflicting-actions", in(onStep, one("Timeout", do("Abort")), one("AllErrors", do("Ignore"))), engine, ""},

		{"all-errors-twice", in(onStep, one("AllErrors", do("Abort")), one("AllErrors", do("Abort"))), documented, "warning"},
		{"all-errors-twice", in(onStep, one("AllErrors", do("Abort")), one("AllErrors", do("Abort"))), engine, "error"},
		{"all-errors-twice", in(onStep, one("AllErrors", do("Abort"))), engine, ""},

		{"all-errors-not-last", in(onStep, one("AllErrors", do("Abort")), one("Timeout", do("Abort"))), documented, "warning"},
		{"all-errors-not-last", in(onStep, one("AllErrors", do("Abort")), one("Timeout", do("Abort"))), engine, ""},
		{"all-errors-not-last", in(onStep, one("Timeout", do("Abort")), one("AllErrors", do("Abort"))), documented, ""},
		{"all-errors-not-last", in(onStep, one("AllErrors", retryDo(1, ", condition: <+step.attempt> < 2")), one("Timeout", do("Abort"))), documented, ""},

		{"all-errors-shared", in(onStep, one("AllErrors, Timeout", do("Abort"))), documented, "warning"},
		{"all-errors-shared", in(onStep, one("AllErrors, Timeout", do("Abort"))), engine, "error"},
		{"all-errors-shared", in(onStep, one("AllErrors", do("Abort"))), engine, ""},

		{"deployment-without-all-errors", in(onDeployment, one("Timeout", do("Abort"))), documented, "warning"},
		{"deployment-without-all-errors", in(onDeployment, one("Timeout", do("Abort"))), engine, "error"},
		{"deployment-without-all-errors", in(onDeployment), documented, "warning"},
		{"deployment-without-all-errors", in(onDeployment, one("AllErrors", do("Abort"))), engine, ""},
		{"deployment-without-all-errors", in(onDeployment, one("AllErrors, Timeout", do("Abort"))), documented, ""},
		{"deployment-without-all-errors", in(onDeployment, one("AllErrors, Timeout", do("Abort"))), engine, "error"},
		{"deployment-without-all-errors", in(onStage, one("Timeout", do("Abort"))), engine, ""},
		{"deployment-without-all-errors", fmt.Sprintf(onDeployment, "<+input>"), engine, ""},
		{"deployment-without-all-errors", templated(""), engine, ""},
		{"deployment-without-all-errors", templated(", failureStrategies: []"), engine, "error"},

		{"surplus-intervals", in(onStep, one("Timeout", retryDo(1, ", retryIntervals: [1s, 2s]"))), documented, "warning"},
		{"surplus-intervals", in(onStep, one("Timeout", retryDo(2, ", retryIntervals: [1s, 2s]"))), documented, ""},

		{"many-retries", in(onStep, one("Timeout", retryDo(11, ""))), documented, "warning"},
		{"many-retries", in(onStep, one("Timeout", retryDo(10, ""))), documented, ""},

		{"retry-on-auth", in(onStep, one("Authorization", retryDo(1, ""))), documented, "warning"},
		{"retry-on-auth", in(onStep, one("AllErrors", retryDo(1, ""))), documented, ""},
		{"retry-on-auth", in(onStep, one("Authorization", do("Abort"))), documented, ""},

		{"retry-after-rejection", in(onStep, one("ApprovalRejection", retryDo(1, ""))), documented, "warning"},
		{"retry-after-rejection", in(onStep, one("AllErrors", retryDo(1, ""))), documented, ""},
		{"retry-after-rejection", approval(one("AllErrors", retryDo(1, ""))), documented, "warning"},
		{"retry-after-rejection", approval(one("ApprovalRejection", do("Abort")), one("AllErrors", retryDo(1, ""))), documented, ""},
		{"retry-after-rejection", approvals("", one("AllErrors", retryDo(1, ""))), documented, "warning"},
		{"retry-after-rejection", approvals("", one("ApprovalRejection", do("Abort")), one("AllErrors", retryDo(1, ""))), documented, ""},
		{"retry-after-rejection", approvals(one("ApprovalRejection", do("Abort")), one("AllErrors", retryDo(1, ""))), documented, ""},

		{"retry-group-misplaced", in(onStep, one("Timeout", group(1))), documented, "warning"},
		{"retry-group-misplaced", in(onStage, one("Timeout", group(1))), documented, "warning"},
		{"retry-group-misplaced", in(onGroup, one("Timeout", group(1))), documented, ""},

		{"wait-too-long", timed("1h", "10m", one("Timeout", retryDo(2, ", retryIntervals: [5m, 6m]"))), documented, "warning"},
		{"wait-too-long", timed("1h", "10m", one("Timeout", retryDo(2, ", retryIntervals: [5m]"))), documented, ""},
		{"wait-too-long", timed("9m", "10m", one("Timeout", retryDo(2, ", retryIntervals: [5m]"))), documented, "warning"},

		{"intervention-too-long", timed("1h", "10m", intervention("61m")), documented, "warning"},
		{"intervention-too-long", timed("1h", "10m", intervention("1h")), documented, ""},

		{"missing-timeout", in(onStep, one("Unknown", "{type: ManualIntervention, spec: {onTimeout: {action: {type: Abort}}}}")), documented, "warning"},
		{"missing-timeout", in(onStep, intervention("1h")), documented, ""},

		{"same-action-again", in(onStep, one("Timeout", "{type: Retry, spec: {retryCount: 1, onRetryFailure: {action: {type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: "+retryDo(1, "")+"}}}}}}")), documented, "warning"},
		{"same-action-again", in(onStep, one("Timeout", "{type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: "+retryDo(1, "")+"}}}")), documented, ""},

		{"default-values-misplaced", in(onStep, one("Timeout", do("ProceedWithDefaultValues"))), documented, "warning"},
		{"default-values-misplaced", in(onStep, one("InputTimeoutError", do("ProceedWithDefaultValues"))), documented, ""},

		{"retries-multiply", groups(4, 4), documented, "warning"},
		{"retries-multiply", groups(3, 4), documented, ""}, // 12 is the bound
		{"retries-multiply", groups(13, 1), documented, "warning"},
		{"retries-multiply", groups(0, 10), documented, ""},
		{"retries-multiply", nested(4, 4), documented, "warning"}, // groups alone
		{"retries-multiply", nested(3, 4), documented, ""},
		{"retries-multiply", nested(0, 20), documented, ""},

		{"nothing-to-roll-back", bare(one("Timeout", do("StageRollback"))), documented, "warning"},
		{"nothing-to-roll-back", bare(one("Timeout", do("StepGroupRollback"))), documented, "warning"},
		{"nothing-to-roll-back", bare(one("Timeout", do("PipelineRollback"))), documented, "warning"},
		{"nothing-to-roll-back", in(onGroup, one("Timeout", do("StageRollback"))), documented, ""}, // the group has some
		{"nothing-to-roll-back", in(onStage, one("Timeout", do("StageRollback"))), documented, ""},

		{"unresolved-input", fmt.Sprintf(onStep, "<+input>"), documented, "warning"},
		{"unresolved-input", fmt.Sprintf(onStep, "[]"), documented, ""},
	}
	seen := make(map[string]map[bool]bool)
	for i, c := range cases {
		_, ds := load(t, c.yaml, c.semantics)
		got, times := "", 0
		for _, d := range ds {
			if d.Code == c.code {
				got = d.Severity.String()
				times++
			}
		}
		if got != c.want || times > 1 {
			t.Errorf("case %d: %s: got %q %d times, want %q: %v\n%s", i, c.code, got, times, c.want, ds, c.yaml)
		}
		if seen[c.code] == nil {
			seen[c.code] = make(map[bool]bool)
		}
		seen[c.code][c.want != ""] = true
	}
	for code, both := range seen {
		if len(both) != 2 {
			t.Errorf("%s: the table needs a case that triggers and one that does not", code)
		}
	}
}

// TestLintSaysOneThing: a finding is not told twice in other words.
func TestLintSaysOneThing(t *testing.T) {
	cases := []struct {
		yaml string
		want []string
	}{
		{in(onStep, one("Timeout", do("Abort")), one("Timeout", do("Ignore"))), []string{"warning conflicting-actions"}},
		{in(onStep, one("AllErrors", do("Abort")), one("AllErrors", do("Ignore"))), []string{"warning all-errors-twice"}},
		{in(onStep, one("AllErrors", do("Abort")), one("Timeout", do("Ignore"))), []string{"warning all-errors-not-last"}},
		{in(onDeployment, one("AllErorrs", do("Abort"))), []string{"error unknown-error-type"}},
	}
	for _, c := range cases {
		if _, ds := load(t, c.yaml, documented); !slices.Equal(codes(ds), c.want) {
			t.Errorf("got %v, want %v", ds, c.want)
		}
	}
}

func TestWorstCaseMessage(t *testing.T) {
	yaml := fmt.Sprintf(`{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [{stepGroup: {identifier: g,
	  steps: [{stepGroup: {identifier: h, steps: [{step: {identifier: a, timeout: 3m, failureStrategies: %s}}], failureStrategies: %s}}], failureStrategies: %s}}]}}}}]}}`,
		list(one("Timeout", retryDo(2, ", retryIntervals: [30s]"))),
		list(one("Connectivity", "{type: RetryStepGroup, spec: {retryCount: 3, retryIntervals: [1m]}}")),
		list(one("Unknown", "{type: RetryStepGroup, spec: {retryCount: 3}}")))
	_, ds := load(t, yaml, documented)
	// 3 runs of 3m and 2 waits of 30s make 10m; 4 of these and 3 waits of 1m make 43m; 4 of these make 172m.
	const want = `step and group retries multiply, 3·4·4: up to 48 executions, 2h52m, of "s/g/h/a"`
	if len(ds) != 1 || ds[0].Message != want {
		t.Errorf("got %v, want %s", ds, want)
	}
}

// TestTotalWait compares the closed form with the waits themselves.
func TestTotalWait(t *testing.T) {
	policies := []retry.Policy{
		{Count: 0, Intervals: []time.Duration{time.Second}},
		{Count: 3},
		{Count: 5, Intervals: []time.Duration{time.Second, time.Minute}},
		{Count: 1, Intervals: []time.Duration{time.Second, time.Minute}},
		{Count: 9, Backoff: &retry.Backoff{Initial: 10 * time.Second, Multiplier: 2, Max: time.Minute}},
		{Count: 9, Backoff: &retry.Backoff{Initial: 10 * time.Second, Multiplier: 1, Max: time.Minute}},
		{Count: 9, Backoff: &retry.Backoff{Initial: 10 * time.Second, Multiplier: 3, Max: 10 * time.Second}},
		{Count: 2, Backoff: &retry.Backoff{Initial: 10 * time.Second, Multiplier: 1.5, Max: time.Hour}},
	}
	for _, p := range policies {
		var want time.Duration
		for i := 1; i <= p.Count; i++ {
			want += retry.Delay(&p, i, 0, 0)
		}
		if got := totalWait(&p); (got - want).Abs() > time.Second {
			t.Errorf("%+v: %s, want %s", p, got, want)
		}
	}
	if got := totalWait(&retry.Policy{Count: 10_000, Intervals: []time.Duration{recourse.MaxWait}}); got != longest {
		t.Errorf("the longest waits: %s", got)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", 134 * time.Minute: "2h14m", 90 * time.Second: "1m30s", 48 * time.Hour: "2d", time.Millisecond: "1ms"} {
		if got := span(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
