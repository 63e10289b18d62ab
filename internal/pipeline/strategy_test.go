package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
)

const (
	documented = recourse.Documented
	engine     = recourse.Engine
)

// TestStrategyDiagnostics has one line for each thing that can be wrong with a strategy, and its neighbour that is right.
func TestStrategyDiagnostics(t *testing.T) {
	retrySpec := func(spec string) string { return in(onStep, one("Timeout", "{type: Retry, spec: {"+spec+"}}")) }
	const after = ", onRetryFailure: {action: {type: MarkAsFailure}}"
	mi := func(spec string) string { return one("Timeout", "{type: ManualIntervention, spec: {"+spec+"}}") }
	const onTimeout = ", onTimeout: {action: {type: MarkAsFailure}}"
	cases := []struct {
		name, yaml string
		semantics  recourse.Semantics
		want       []string
		kept       bool // whether the strategy stays in the plan
	}{
		{"plain", in(onStep, one("Timeout", do("Ignore"))), documented, nil, true},
		{"case of names", in(onStep, one("timeout", do("markasfailure"))), documented, nil, true},
		{"failAll", in(onStep, one("Timeout", "{type: MarkAsFailure, spec: {failAll: true}}")), documented, nil, true},
		{"input", fmt.Sprintf(onStep, "<+input>"), documented, []string{"warning unresolved-input"}, false},
		{"input with a default", fmt.Sprintf(onStep, "'<+input>.default([])'"), documented, []string{"warning unresolved-input"}, false},
		{"empty list", fmt.Sprintf(onStep, "[]"), documented, nil, false},
		{"null", fmt.Sprintf(onStep, "null"), documented, nil, false},
		{"not a list", fmt.Sprintf(onStep, one("Timeout", do("Ignore"))), documented, []string{"error strategies-not-a-list"}, true},
		{"a word", fmt.Sprintf(onStep, "Ignore"), documented, []string{"error strategies-not-a-list"}, false},
		{"no onFailure", in(onStep, "{onfailure: {errors: [Timeout], action: {type: Ignore}}}"), documented, []string{"error missing-on-failure"}, false},
		{"null entry", in(onStep, "null"), documented, []string{"error missing-on-failure"}, false},
		{"no errors", in(onStep, "{onFailure: {action: {type: Ignore}}}"), documented, []string{"error missing-errors"}, false},
		{"empty errors", in(onStep, one("", do("Ignore"))), documented, []string{"warning empty-errors"}, false},
		{"errors a word", in(onStep, "{onFailure: {errors: Timeout, action: {type: Ignore}}}"), documented, []string{"warning errors-not-a-list"}, true},
		{"errors input", in(onStep, "{onFailure: {errors: <+input>, action: {type: Ignore}}}"), documented, []string{"warning unresolved-input"}, false},
		{"unknown error", in(onStep, one("Timeuot", do("Ignore"))), documented, []string{"error unknown-error-type"}, false},
		{"one of two unknown", in(onStep, one("Timeuot, Unknown", do("Ignore"))), documented, []string{"error unknown-error-type"}, true},
		{"null error", in(onStep, one("null", do("Ignore"))), documented, []string{"error unknown-error-type"}, false},
		{"old name", in(onStep, one("AnyOther", do("Ignore"))), documented, []string{"warning old-error-type"}, true},
		{"no action", in(onStep, "{onFailure: {errors: [Timeout]}}"), documented, []string{"error missing-action"}, false},
		{"no type", in(onStep, one("Timeout", "{spec: {}}")), documented, []string{"error missing-action"}, false},
		{"action input", in(onStep, one("Timeout", do("<+input>"))), documented, []string{"warning unresolved-input"}, false},
		{"action a word", in(onStep, one("Timeout", "Ignore")), documented, []string{"error action-not-a-mapping"}, true},
		{"unknown action", in(onStep, one("Timeout", do("Ignroe"))), documented, []string{"error unknown-action"}, false},

		{"no retryCount", retrySpec("retryIntervals: [1s]" + after), documented, []string{"error missing-retry-count"}, false},
		{"no spec", in(onStep, one("Timeout", do("Retry"))), documented, []string{"warning missing-on-retry-failure", "error missing-retry-count"}, false},
		{"count in quotes", retrySpec("retryCount: '3'" + after), documented, nil, true},
		{"count 0", retrySpec("retryCount: 0" + after), documented, []string{"warning no-retries"}, true},
		{"count 1", retrySpec("retryCount: 1" + after), documented, nil, true},
		{"count 10", retrySpec("retryCount: 10" + after), documented, nil, true},
		{"count 11", retrySpec("retryCount: 11" + after), documented, []string{"warning many-retries"}, true},
		{"count 10000", retrySpec("retryCount: 10000" + after), documented, []string{"warning many-retries"}, true},
		{"count 10001", retrySpec("retryCount: 10001" + after), documented, []string{"error bad-retry-count"}, false},
		{"count −1", retrySpec("retryCount: -1" + after), documented, []string{"error bad-retry-count"}, false},
		{"count beyond int", retrySpec("retryCount: 99999999999999999999" + after), documented, []string{"error bad-retry-count"}, false},
		{"count 1.5", retrySpec("retryCount: 1.5" + after), documented, []string{"error bad-retry-count"}, false},
		{"count input", retrySpec("retryCount: <+input>" + after), documented, []string{"error bad-retry-count"}, false},
		{"count a list", retrySpec("retryCount: [1]" + after), documented, []string{"error bad-retry-count"}, false},
		{"intervals a word", retrySpec("retryCount: 1, retryIntervals: 10s" + after), documented, []string{"warning intervals-not-a-list"}, true},
		{"intervals input", retrySpec("retryCount: 1, retryIntervals: <+input>" + after), documented, []string{"error bad-retry-intervals"}, false},
		{"interval without unit", retrySpec("retryCount: 1, retryIntervals: [10]" + after), documented, []string{"error bad-retry-intervals"}, false},
		{"interval of 366 days", retrySpec("retryCount: 1, retryIntervals: [366d]" + after), documented, nil, true},
		{"interval of 366 days and a second", retrySpec("retryCount: 1, retryIntervals: [366d 1s]" + after), documented, []string{"error bad-retry-intervals"}, false},
		{"two bad intervals", retrySpec("retryCount: 2, retryIntervals: [x, y]" + after), documented, []string{"error bad-retry-intervals", "error bad-retry-intervals"}, false},
		{"intervals a mapping", retrySpec("retryCount: 2, retryIntervals: {a: 1s}" + after), documented, []string{"error bad-retry-intervals"}, false},
		{"no onRetryFailure", retrySpec("retryCount: 1"), documented, []string{"warning missing-on-retry-failure"}, true},
		{"onRetryFailure without action", retrySpec("retryCount: 1, onRetryFailure: {}"), documented, []string{"error missing-action"}, true},

		{"backoff", retrySpec("retryCount: 1, backoff: {initial: 1s}" + after), documented, nil, true},
		{"backoff and intervals", retrySpec("retryCount: 1, retryIntervals: [1s], backoff: {initial: 1s}" + after), documented, []string{"error backoff-and-intervals"}, false},
		{"backoff without initial", retrySpec("retryCount: 1, backoff: {max: 1s}" + after), documented, []string{"error bad-backoff"}, false},
		{"initial 0", retrySpec("retryCount: 1, backoff: {initial: 0s}" + after), documented, []string{"error bad-backoff"}, false},
		{"max below initial", retrySpec("retryCount: 1, backoff: {initial: 2s, max: 1s}" + after), documented, []string{"error bad-backoff"}, false},
		{"max is initial", retrySpec("retryCount: 1, backoff: {initial: 2s, max: 2s}" + after), documented, nil, true},
		{"multiplier 1", retrySpec("retryCount: 1, backoff: {initial: 2s, multiplier: 1}" + after), documented, nil, true},
		{"multiplier 0.9", retrySpec("retryCount: 1, backoff: {initial: 2s, multiplier: 0.9}" + after), documented, []string{"error bad-backoff"}, false},
		{"multiplier NaN", retrySpec("retryCount: 1, backoff: {initial: 2s, multiplier: NaN}" + after), documented, []string{"error bad-backoff"}, false},
		{"jitter 1", retrySpec("retryCount: 1, backoff: {initial: 2s, jitter: 1}" + after), documented, nil, true},
		{"jitter 100%", retrySpec("retryCount: 1, backoff: {initial: 2s, jitter: 100%}" + after), documented, nil, true},
		{"jitter 101%", retrySpec("retryCount: 1, backoff: {initial: 2s, jitter: 101%}" + after), documented, []string{"error bad-backoff"}, false},
		{"jitter −0.1", retrySpec("retryCount: 1, backoff: {initial: 2s, jitter: -0.1}" + after), documented, []string{"error bad-backoff"}, false},
		{"backoff with a typo", retrySpec("retryCount: 1, backoff: {initial: 2s, jiter: 0.1}" + after), documented, []string{"error bad-backoff"}, false},

		{"condition", retrySpec("retryCount: 1, condition: <+step.exitCode> == 137" + after), documented, nil, true},
		{"bad condition", retrySpec("retryCount: 1, condition: <+step.exitcode> == 137" + after), documented, []string{"error bad-condition"}, false},
		{"condition of another action", in(onStep, one("Timeout", "{type: Ignore, spec: {condition: 'true'}}")), documented, []string{"warning condition-ignored"}, true},

		{"intervention", in(onStep, mi("timeout: 1h"+onTimeout)), documented, nil, true},
		{"intervention without spec", in(onStep, one("Timeout", do("ManualIntervention"))), documented, []string{"warning missing-on-timeout", "warning missing-timeout"}, true},
		{"timeout 0", in(onStep, mi("timeout: 0s"+onTimeout)), documented, []string{"error bad-timeout"}, false},
		{"timeout 1 without unit", in(onStep, mi("timeout: 1"+onTimeout)), documented, []string{"error bad-timeout"}, false},
		{"timeout input", in(onStep, mi("timeout: <+input>"+onTimeout)), documented, []string{"error bad-timeout"}, false},
		{"timeout of 366 days", in(onStep, mi("timeout: 366d"+onTimeout)), documented, nil, true},
		{"timeout of 367 days", in(onStep, mi("timeout: 367d"+onTimeout)), documented, []string{"error bad-timeout"}, false},
		{"unknown answer", in(onStep, mi("timeout: 1h, availableActions: [Retry, Abrt]"+onTimeout)), documented, []string{"error bad-available-actions"}, true},
		{"who may answer", in(onStep, mi("timeout: 1h, answerBy: [ann, 'release-*', ann@acme.com]"+onTimeout)), documented, nil, true},
		{"who may answer is no list", in(onStep, mi("timeout: 1h, answerBy: ann"+onTimeout)), documented, []string{"error bad-answer-by"}, false},
		{"nobody may answer", in(onStep, mi("timeout: 1h, answerBy: []"+onTimeout)), documented, []string{"error bad-answer-by"}, false},
		{"two names in one", in(onStep, mi("timeout: 1h, answerBy: ['ann, bob']"+onTimeout)), documented, []string{"error bad-answer-by"}, false},
		{"who may answer is an input", in(onStep, mi("timeout: 1h, answerBy: <+input>"+onTimeout)), documented, []string{"error bad-answer-by"}, false},
		{"no answer", in(onStep, mi("timeout: 1h, availableActions: []"+onTimeout)), documented, []string{"warning bad-available-actions"}, true},
		{"itself as an answer", in(onStep, mi("timeout: 1h, availableActions: [ManualIntervention, Abort]"+onTimeout)), documented, []string{"warning bad-available-actions"}, true},

		{"two strategies in error", in(onStep, one("Timeuot", do("Ignore")), one("Timeout", do("Ignroe"))), documented, []string{"error unknown-error-type", "error unknown-action"}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			plan, ds := load(t, c.yaml, c.semantics)
			if got := codes(ds); !slices.Equal(got, append([]string{}, c.want...)) {
				t.Errorf("got %v, want %v\n%v", got, c.want, ds)
			}
			if got := len(strategiesOf(t, plan, "s/a", recourse.Steps)) > 0; got != c.kept {
				t.Errorf("strategy in the plan: %v, want %v", got, c.kept)
			}
		})
	}
}

// TestNestedActions is R10: what may follow the last retry, and what a timeout, under both semantics.
func TestNestedActions(t *testing.T) {
	spec := map[string]string{
		"Retry":              ", spec: {retryCount: 1, onRetryFailure: {action: {type: Abort}}}",
		"RetryStepGroup":     ", spec: {retryCount: 1}",
		"ManualIntervention": ", spec: {timeout: 1h, onTimeout: {action: {type: Abort}}}",
	}
	refusedAfterRetry := []string{"Retry", "RetryStepGroup", "ProceedWithDefaultValues"}
	refusedAfterTimeout := []string{"ManualIntervention", "ProceedWithDefaultValues"}
	for _, semantics := range []recourse.Semantics{documented, engine} {
		for _, action := range recourse.ActionNames() {
			nested := "{action: {type: " + action + spec[action] + "}}"
			afterRetry := in(onGroup, one("Timeout", "{type: Retry, spec: {retryCount: 1, onRetryFailure: "+nested+"}}"))
			afterTimeout := in(onGroup, one("Timeout", "{type: ManualIntervention, spec: {timeout: 1h, onTimeout: "+nested+"}}"))
			_, ds := load(t, afterRetry, semantics)
			if got, want := ds.HasErrors(), slices.Contains(refusedAfterRetry, action); got != want {
				t.Errorf("%s: onRetryFailure %s refused: %v, want %v: %v", semantics, action, got, want, ds)
			}
			_, ds = load(t, afterTimeout, semantics)
			want := slices.Contains(refusedAfterTimeout, action) || semantics == engine && action == "Retry"
			if got := ds.HasErrors(); got != want {
				t.Errorf("%s: onTimeout %s refused: %v, want %v: %v", semantics, action, got, want, ds)
			}
		}
	}
}

func TestRetryThatLeadsBackToAnIntervention(t *testing.T) {
	yaml := in(onStep, one("Timeout", "{type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: Retry, spec: {retryCount: 1, onRetryFailure: {action: {type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: Abort}}}}}}}}}}"))
	plan, ds := load(t, yaml, documented)
	if got := codes(ds); !slices.Equal(got, []string{"error nested-action"}) {
		t.Errorf("got %v", ds)
	}
	if next := strategiesOf(t, plan, "s/a", recourse.Steps)[0].Do.Intervention.OnTimeout; next == nil || next.OnRetryFailure != nil {
		t.Errorf("the retry stays, without what it leads back to: %+v", next)
	}
}

// TestPlacement is R5 and the place of StepGroupRollback: which rollback may stand where, as an own action, after the last retry,
// after a timeout and as an answer.
func TestPlacement(t *testing.T) {
	places := []struct {
		name, skeleton string
		own, nested    map[string]string // by action; "" is allowed
	}{
		{"step", onStep, map[string]string{"StepGroupRollback": "error"}, map[string]string{"StepGroupRollback": "error"}},
		{"step in a group", onStepInGroup, map[string]string{"StepGroupRollback": "error"}, map[string]string{"StepGroupRollback": "warning"}},
		{"group", onGroup, nil, nil},
		{"stage", onStage, map[string]string{"StepGroupRollback": "error"}, map[string]string{"StepGroupRollback": "error"}},
		{"step in rollbackSteps", onRollbackStep, map[string]string{"StageRollback": "error", "StepGroupRollback": "error", "PipelineRollback": "error"}, map[string]string{"StageRollback": "error", "StepGroupRollback": "error", "PipelineRollback": "error"}},
		{"group in rollbackSteps", onRollbackGroup, map[string]string{"StageRollback": "error", "StepGroupRollback": "error", "PipelineRollback": "error"}, map[string]string{"StageRollback": "error", "StepGroupRollback": "error", "PipelineRollback": "error"}},
	}
	for _, place := range places {
		for _, action := range []string{"StageRollback", "StepGroupRollback", "PipelineRollback", "Abort"} {
			forms := map[string]string{
				"own":            do(action),
				"onRetryFailure": "{type: Retry, spec: {retryCount: 1, onRetryFailure: {action: {type: " + action + "}}}}",
				"onTimeout":      "{type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: " + action + "}}}}",
				"answer":         "{type: ManualIntervention, spec: {timeout: 1h, availableActions: [Retry, " + action + "], onTimeout: {action: {type: Abort}}}}",
			}
			for form, written := range forms {
				_, ds := load(t, in(place.skeleton, one("Timeout", written)), documented)
				want := place.nested[action]
				if form == "own" {
					want = place.own[action]
				}
				got := ""
				for _, d := range ds {
					if d.Code != "nothing-to-roll-back" {
						got = d.Severity.String()
					}
				}
				if got != want {
					t.Errorf("%s on a %s as %s: got %q, want %q: %v", action, place.name, form, got, want, ds)
				}
			}
		}
	}
}

// TestStrategyValues reads every setting once and looks at what the plan has.
func TestStrategyValues(t *testing.T) {
	plan, ds := load(t, in(onStepInGroup,
		one("Timeout, connectivity", "{type: Retry, spec: {retryCount: 3, retryIntervals: [12s, 1m20s, 1d 2h], condition: <+step.attempt> < 3, onRetryFailure: {action: {type: ManualIntervention, spec: {timeout: 2h, onTimeout: {action: {type: Abort}}}}}}}"),
		one("Verification", "{type: Retry, spec: {retryCount: 2, backoff: {initial: 10s, multiplier: 1.5, max: 5m, jitter: 20%}, onRetryFailure: {action: {type: Ignore}}}}"),
		one("Unknown", "{type: ManualIntervention, spec: {timeout: 1h, availableActions: [Retry, Ignore], onTimeout: {action: {type: StageRollback}}}}"),
	), documented)
	for _, d := range ds {
		if d.Code != "nothing-to-roll-back" {
			t.Errorf("unexpected: %s", d)
		}
	}
	got := strategiesOf(t, plan, "s/g/a", recourse.Steps)
	if len(got) != 3 {
		t.Fatalf("%d strategies", len(got))
	}
	first := got[0]
	if want := recourse.ErrorTypesOf(recourse.Timeout, recourse.Connectivity); first.Errors != want || first.Index != 0 || first.Condition == nil {
		t.Errorf("first: %+v", first)
	}
	if want := "pipeline.stages[0].stage.spec.execution.steps[0].stepGroup.steps[0].step.failureStrategies[0]"; first.Path != want {
		t.Errorf("path %s, want %s", first.Path, want)
	}
	if p := first.Do.Retry; p.Count != 3 || !slices.Equal(p.Intervals, []time.Duration{12 * time.Second, 80 * time.Second, 26 * time.Hour}) || p.Backoff != nil {
		t.Errorf("policy %+v", p)
	}
	if next := first.Do.OnRetryFailure; next.Action != recourse.ManualIntervention || next.Intervention.Timeout != 2*time.Hour ||
		next.Intervention.OnTimeout.Action != recourse.Abort || next.Intervention.Allowed != recourse.DefaultInterventionActions {
		t.Errorf("onRetryFailure %+v", next)
	}
	if b := got[1].Do.Retry.Backoff; b == nil || b.Initial != 10*time.Second || b.Multiplier != 1.5 || b.Max != 5*time.Minute || b.Jitter != 0.2 {
		t.Errorf("backoff %+v", b)
	}
	if i := got[2].Do.Intervention; i.Timeout != time.Hour || i.Allowed != recourse.ActionsOf(recourse.Retry, recourse.Ignore) || i.OnTimeout.Action != recourse.StageRollback {
		t.Errorf("intervention %+v", i)
	}
}

func TestBackoffDefaults(t *testing.T) {
	plan, _ := load(t, in(onStep, one("Timeout", retryDo(1, ", backoff: {initial: 2h}"))), documented)
	b := strategiesOf(t, plan, "s/a", recourse.Steps)[0].Do.Retry.Backoff
	if b.Multiplier != 2 || b.Max != 2*time.Hour || b.Jitter != 0 {
		t.Errorf("%+v", b)
	}
}

// TestRollbackAnswers: nobody can answer with a rollback inside of one (R5).
func TestRollbackAnswers(t *testing.T) {
	plan, ds := load(t, in(onRollbackStep, one("Timeout", "{type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: Abort}}}}")), documented)
	if len(ds) != 0 {
		t.Errorf("%v", ds)
	}
	allowed := strategiesOf(t, plan, "s/r", recourse.RollbackSteps)[0].Do.Intervention.Allowed
	if allowed.Has(recourse.StageRollback) || !allowed.Has(recourse.Retry) {
		t.Errorf("allowed %s", allowed)
	}
}

// TestFixes looks at what people are told.
func TestFixes(t *testing.T) {
	cases := []struct{ yaml, message, fix string }{
		{in(onStep, one("AuthenticationError", do("Ignore"))), `unknown error type "AuthenticationError"`, "did you mean Authentication?"},
		{in(onStep, one("Timeuot", do("Ignore"))), `unknown error type "Timeuot"`, "did you mean Timeout?"},
		{in(onStep, one("Zzzzzz", do("Ignore"))), `unknown error type "Zzzzzz"`, "known are Unknown, AllErrors"},
		{in(onStep, one("Timeout", do("Rollback"))), `unknown action "Rollback"`, "known are"},
		{in(onStep, one("Timeout", do("StageRolback"))), `unknown action "StageRolback"`, "did you mean StageRollback?"},
		{in(onStep, "{onfailure: {}}"), "onFailure", `did you mean onFailure instead of "onfailure"?`},
		{in(onStep, one("Timeout", "{type: Retry, spec: {retrycount: 1, onRetryFailure: {action: {type: Abort}}}}")), "retryCount is required", `did you mean retryCount instead of "retrycount"?`},
		{in(onStep, one("Timeout", retryDo(1, ", retryIntervals: [10]"))), `a retry interval "10" is not a duration`, "write 10s for seconds"},
	}
	for _, c := range cases {
		_, ds := load(t, c.yaml, documented)
		if len(ds) != 1 || !strings.Contains(ds[0].Message, c.message) || !strings.Contains(ds[0].Fix, c.fix) {
			t.Errorf("want %q, %q; got %v", c.message, c.fix, ds)
		}
	}
}
