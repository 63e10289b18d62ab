package simulate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse"
)

// conditional has a first stage that ends in each way, by the error type of its step, and beside each other the stages that follow.
const conditional = `
pipeline:
  identifier: p
  stages:
    - stage:
        identifier: one
        type: Deployment
        spec: {execution: {
          steps: [{step: {identifier: a, type: Run}}],
          rollbackSteps: [{step: {identifier: undo, type: Run}}]}}
        failureStrategies:
          - onFailure: {errors: [Verification], action: {type: Ignore}}
          - onFailure: {errors: [Timeout], action: {type: StageRollback}}
          - onFailure: {errors: [Connectivity], action: {type: MarkAsSuccess}}
          - onFailure: {errors: [Authentication], action: {type: PipelineRollback}}
          - onFailure: {errors: [Authorization], action: {type: Abort}}
          - onFailure: {errors: [AllErrors], action: {type: MarkAsFailure}}
    - parallel:
        - stage: {identifier: success, type: Custom, when: {pipelineStatus: Success}, spec: {execution: {steps: [{step: {identifier: a, type: Run}}]}}}
        - stage: {identifier: failure, type: Custom, when: {pipelineStatus: Failure}, spec: {execution: {steps: [{step: {identifier: a, type: Run}}]}}}
        - stage: {identifier: all, type: Custom, when: {pipelineStatus: All}, spec: {execution: {steps: [{step: {identifier: a, type: Run}}]}}}
`

// TestConditionalExecution is the table of R13, written off the page.
func TestConditionalExecution(t *testing.T) {
	const runs, skipped, never = "succeeded", "skipped", "not-started"
	for _, test := range []struct {
		fails              string // outcome of one/a and of one/undo
		one                string
		documented, engine [3]string // success, failure, all
	}{
		{"ok ok", "succeeded", [3]string{runs, skipped, runs}, [3]string{runs, skipped, runs}},
		{"Connectivity ok", "succeeded", [3]string{runs, skipped, runs}, [3]string{runs, skipped, runs}},
		{"Unknown ok", "failed", [3]string{skipped, runs, runs}, [3]string{skipped, runs, runs}},
		{"Verification ok", "ignored", [3]string{runs, runs, runs}, [3]string{runs, skipped, runs}},
		{"Timeout ok", "rolled-back", [3]string{skipped, skipped, runs}, [3]string{skipped, runs, runs}},
		{"Timeout Unknown", "failed", [3]string{skipped, runs, runs}, [3]string{skipped, runs, runs}},
		{"Authentication ok", "rolled-back", [3]string{never, never, never}, [3]string{never, never, never}},
		{"Authentication Unknown", "failed", [3]string{never, never, never}, [3]string{never, never, never}},
		{"Authorization ok", "aborted", [3]string{never, never, never}, [3]string{never, never, never}},
	} {
		for _, semantics := range []recourse.Semantics{recourse.Documented, recourse.Engine} {
			next := test.documented
			if semantics == recourse.Engine {
				next = test.engine
			}
			t.Run(test.fails+" "+semantics.String(), func(t *testing.T) {
				w := load(t, conditional, semantics)
				a, undo, _ := strings.Cut(test.fails, " ")
				w.fail(t, "one/a="+a)
				w.fail(t, "one/undo="+undo)
				want := fmt.Sprintf("one=%s success=%s failure=%s all=%s", test.one, next[0], next[1], next[2])
				if res := w.run(t); res.statuses() != want {
					t.Errorf("got  %s\nwant %s\n%s", res.statuses(), want, res.text())
				}
			})
		}
	}
}

// TestConditionalExample is the example of the reference: the failure strategy is applied first, and `when` sees its result.
func TestConditionalExample(t *testing.T) {
	const two = `
pipeline:
  identifier: p
  stages:
    - stage:
        identifier: one
        type: Deployment
        spec: {execution: {steps: [{step: {identifier: a, type: Run}}], rollbackSteps: [{step: {identifier: undo, type: Run}}]}}
        failureStrategies: [{onFailure: {errors: [AllErrors], action: {type: %s}}}]
    - stage: {identifier: two, type: Custom, when: {pipelineStatus: Failure}, spec: {execution: {steps: [{step: {identifier: a, type: Run}}]}}}
`
	for action, want := range map[string]string{
		"StageRollback": "one=rolled-back two=skipped",
		"Ignore":        "one=ignored two=succeeded",
	} {
		for _, name := range recourse.ErrorTypeNames() {
			if name == recourse.AllErrors.String() {
				continue
			}
			w := load(t, fmt.Sprintf(two, action), recourse.Documented)
			w.fail(t, "one/a="+name)
			if res := w.run(t); res.statuses() != want {
				t.Errorf("%s on %s: got %s, want %s", action, name, res.statuses(), want)
			}
		}
	}
}

// TestSeveralStagesBefore: Success where each lets it run, Failure where one does; those that were skipped have no say.
func TestSeveralStagesBefore(t *testing.T) {
	stage := func(id, status string) string {
		return fmt.Sprintf(`{stage: {identifier: %s, type: Custom, when: {pipelineStatus: %s},
		  spec: {execution: {steps: [{step: {identifier: a, type: Run}}], rollbackSteps: [{step: {identifier: u, type: Run}}]}},
		  failureStrategies: [{onFailure: {errors: [Timeout], action: {type: StageRollback}}}, {onFailure: {errors: [Verification], action: {type: Ignore}}}]}}`, id, status)
	}
	for _, test := range []struct{ first, second, last, want string }{
		{"ok", "ok", "Success", "succeeded"},
		{"Unknown", "ok", "Success", "skipped"},
		{"Unknown", "ok", "Failure", "succeeded"},
		{"Unknown", "Timeout", "Failure", "succeeded"},
		{"Timeout", "ok", "Success", "skipped"},
		{"Timeout", "ok", "Failure", "skipped"},
		{"Timeout", "Unknown", "Failure", "succeeded"},
		{"Verification", "ok", "Success", "succeeded"},
		{"Verification", "ok", "Failure", "succeeded"},
	} {
		w := load(t, "pipeline: {identifier: p, stages: ["+stage("one", "Success")+", "+stage("no", "Failure")+","+stage("two", "All")+","+stage("three", test.last)+"]}", recourse.Documented)
		w.fail(t, "one/a="+test.first)
		w.fail(t, "two/a="+test.second)
		res := w.run(t)
		if got := res.Stages[3].Status.String(); got != test.want {
			t.Errorf("%+v: got %s\n%s", test, got, res.text())
		}
	}
}
