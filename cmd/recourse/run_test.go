//go:build unix

package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse/internal/run"
)

// scripts is a pipeline of scripts: one that fails once, a stage for production only, one that is rolled back, and what follows.
const scripts = `
pipeline:
  identifier: scripts
  variables:
    - {name: env, type: String, value: <+input>}
  stages:
    - stage:
        identifier: build
        type: Custom
        spec:
          execution:
            steps:
              - step:
                  identifier: flaky
                  type: ShellScript
                  timeout: 1m
                  spec: {shell: Bash, source: {type: Inline, spec: {script: "echo on <+pipeline.variables.env>; [ $RECOURSE_ATTEMPT = 2 ]"}}}
                  failureStrategies:
                    - onFailure: {errors: [Unknown], action: {type: Retry, spec: {retryCount: 1, onRetryFailure: {action: {type: Abort}}}}}
    - stage:
        identifier: deploy
        type: Custom
        when: {pipelineStatus: Success, condition: <+pipeline.variables.env> == "prod"}
        failureStrategies:
          - onFailure: {errors: [AllErrors], action: {type: StageRollback}}
        spec:
          execution:
            steps:
              - step: {identifier: roll, type: Run, spec: {shell: Bash, command: surely-no-such-command}}
            rollbackSteps:
              - step: {identifier: undo, type: Run, spec: {command: echo undone}}
    - stage:
        identifier: notify
        type: Custom
        when: {pipelineStatus: All}
        spec: {execution: {steps: [{step: {identifier: say, type: Run, spec: {command: echo told}}}]}}
`

// writeOne writes a file of the test and returns its name.
func writeOne(t *testing.T, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRun(t *testing.T) {
	file := writeOne(t, "scripts.yaml", scripts)
	out, _ := tool(t, 0, "run", file, "--var", "env=dev")
	contains(t, out, "| on dev", "attempt 1 failed, Unknown: exit code 1: on dev", "→ retry, attempt 2", "attempt 2 succeeded",
		`skipped: the condition <+pipeline.variables.env> == "prod" is false: <+pipeline.variables.env> is "dev"`, "| told", "execution succeeded")

	out, _ = tool(t, 1, "run", file, "--var", "env=prod", "-o", "json")
	var last run.Event
	said := make(map[string]bool)
	for line := range strings.Lines(out) {
		last = decodeJSON[run.Event](t, line)
		if last.Line != nil {
			said[*last.Line] = true
		}
	}
	if !said["undone"] || !said["told"] {
		t.Errorf("the steps said %v", said)
	}
	var stages []string
	for _, s := range last.Stages {
		stages = append(stages, s.Stage+" "+s.Status.String())
	}
	if got := strings.Join(stages, ", "); last.Kind != run.KindFinished || got != "build succeeded, deploy rolled-back, notify succeeded" {
		t.Errorf("it ends with %s: %s", last.Kind, got)
	}

	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{file}, 2, "no value for the variable env; give one with --var or --inputs"},
		{[]string{file, "--var", "env"}, 2, "want NAME=VALUE"},
		{[]string{file, "--var", "env=x", "--stub", "build/none=ok"}, 2, `no node "build/none"`},
		{[]string{file, "--var", "env=x", "--resume"}, 2, "name the run with --data-dir and --execution"},
		{[]string{file, "--var", "env=x", "--resume", "--data-dir", t.TempDir(), "--execution", "x"}, 1, "there is no run to resume"},
		{[]string{file, "--var", "env=x", "--templates", "nowhere"}, 2, "--templates"},
		{[]string{"nowhere.yaml"}, 2, "nowhere.yaml"},
		{[]string{"../../examples/deploy_web.yaml"}, 1, "--stub '*=ok'"},
		{[]string{writeOne(t, "bad.yaml", "pipeline: {stages: 1"), "--stub", "*=ok"}, 1, "is refused"},
	} {
		_, err := tool(t, test.code, append([]string{"run"}, test.args...)...)
		contains(t, err, test.says)
	}
}

func TestRunWithStubs(t *testing.T) {
	out, _ := tool(t, 0, "run", "../../examples/deploy_web.yaml", "--stub", "*=ok", "--stub", "Type:Run=ok")
	contains(t, out, "execution succeeded")
}

// What is run is what the templates and inputs make of the file.
func TestRunResolved(t *testing.T) {
	templates := filepath.Dir(writeOne(t, "step.yaml", `
template:
  identifier: hello
  versionLabel: v1
  name: hello
  type: Step
  spec: {type: ShellScript, spec: {shell: Bash, source: {type: Inline, spec: {script: "echo hello <+pipeline.variables.whom>"}}}}
`))
	inputs := writeOne(t, "inputs.yaml", "inputSet: {identifier: i, pipeline: {identifier: greet, variables: [{name: whom, type: String, value: world}]}}")
	file := writeOne(t, "greet.yaml", `
pipeline:
  identifier: greet
  variables: [{name: whom, type: String, value: <+input>}]
  stages:
    - stage:
        identifier: s
        type: Custom
        spec: {execution: {steps: [{step: {identifier: a, name: a, template: {templateRef: hello, versionLabel: v1}}}]}}
`)
	out, _ := tool(t, 0, "run", file, "--templates", templates, "--inputs", inputs)
	contains(t, out, "| hello world")
	_, err := tool(t, 1, "run", file, "--inputs", inputs)
	contains(t, err, "a template, which is not resolved")
}

// A step waits until somebody has answered, on a server with workers of its own.
func TestRunAnswered(t *testing.T) {
	s := newSite(t)
	file := writeOne(t, "ask.yaml", `
pipeline:
  identifier: ask
  stages:
    - stage:
        identifier: s
        type: Custom
        spec:
          execution:
            steps:
              - step:
                  identifier: a
                  type: Run
                  spec: {command: "[ $RECOURSE_ATTEMPT = 2 ]"}
                  failureStrategies:
                    - onFailure: {errors: [AllErrors], action: {type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: Abort}}}}}
`)
	ctx, cancel := context.WithTimeout(t.Context(), testDeadline)
	defer cancel()
	c := &call{env: s.env}
	ended := make(chan int, 1)
	go func() { ended <- c.run(ctx, "run", file, "--execution", "ex7") }()
	asks := regexp.MustCompile(`recourse answer (\S+) ACTION`)
	eventually(t, "somebody is asked", func() bool { return asks.MatchString(c.out.String()) })
	s.tool(0, "answer", asks.FindStringSubmatch(c.out.String())[1], "Retry", "--why", "it is up again")
	if code := <-ended; code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, &c.out, &c.err)
	}
	contains(t, c.out.String(), "→ retry, attempt 2 (HumanDecision, step, by ann)", "execution succeeded")
	_, err := s.tool(1, "run", file, "--execution", "ex7")
	contains(t, err, "has decisions already")
}

// An interrupt aborts the execution, which is over then.
func TestRunInterrupted(t *testing.T) {
	file := writeOne(t, "slow.yaml", "pipeline: {identifier: slow, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [{step: {identifier: a, type: Run, spec: {command: echo begun; sleep 600}}}]}}}}]}")
	ctx, cancel := context.WithTimeout(t.Context(), testDeadline)
	defer cancel()
	args := []string{"run", file, "--data-dir", t.TempDir(), "--execution", "ex1"}
	c := &call{}
	ended := make(chan int, 1)
	go func() { ended <- c.run(ctx, args...) }()
	eventually(t, "the step runs", func() bool { return strings.Contains(c.out.String(), "| begun") })
	cancel()
	if code := <-ended; code != 130 {
		t.Fatalf("exit code %d\n%s%s", code, &c.out, &c.err)
	}
	contains(t, c.out.String(), "attempt 1 was killed", "execution aborted: interrupted")
	out, _ := tool(t, 130, append(args, "--resume")...)
	contains(t, out, "it had ended before")
}
