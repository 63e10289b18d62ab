package simulate

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
)

func TestParseOutcomes(t *testing.T) {
	for _, test := range []struct{ text, want, err string }{
		{"ok", "ok", ""},
		{"Timeout,ok,Timeout", "Timeout ok Timeout", ""},
		{" timeout , OK ", "Timeout ok", ""},
		{"Connectivity+Timeout", "Connectivity+Timeout", ""},
		{"Timeout:137", "Timeout:137", ""},
		{"Timeout:-1", "Timeout:-1", ""},
		{"Unknown+Timeout:137*3,ok*2,Verification*", "Unknown+Timeout:137*3 ok*2 Verification*", ""},
		{"Timeout*1", "Timeout", ""},
		{"ok*", "ok*", ""},
		{"", "", "an error type or ok is wanted"},
		{"Timeout,", "", "an error type or ok is wanted"},
		{"Timeout*0", "", "from 1 to 10000"},
		{"Timeout*10001", "", "from 1 to 10000"},
		{"Timeout*x", "", "from 1 to 10000"},
		{"Timeout:x", "", "exit code"},
		{"ok:1", "", "no exit code"},
		{"AllErrors", "", "a type of its own"},
		{"Timeot", "", "did you mean Timeout?"},
		{"Timeout*,ok", "", "is the last one"},
	} {
		list, err := ParseOutcomes(test.text)
		var got []string
		for i := range list {
			got = append(got, list[i].String())
		}
		switch {
		case test.err != "":
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: error %v, want %q", test.text, err, test.err)
			}
		case err != nil || strings.Join(got, " ") != test.want:
			t.Errorf("%q: %v, %v", test.text, got, err)
		}
	}
}

// TestOutcomeOfAttempt is at the edges of the list: before, at and behind a repeat.
func TestOutcomeOfAttempt(t *testing.T) {
	list, err := ParseOutcomes("ok,Timeout*2,Verification")
	if err != nil {
		t.Fatal(err)
	}
	always, _ := ParseOutcomes("ok*2,Timeout*")
	verified, _ := ParseOutcomes("Verification")
	unknown, _ := ParseOutcomes("Unknown")
	a, one := recourse.Node{Path: "s/a"}, recourse.Node{Path: "s/a[1]"}
	s := Scenario{Failures: map[recourse.Node][]Outcome{a: list, one: always, {Path: "s[4]/a"}: verified, {Path: "s/a[7]"}: unknown}}
	for node, want := range map[recourse.Node][]string{
		a:                         {"ok", "Timeout", "Timeout", "Verification", "ok", "ok"},
		{Path: "s/a[0]"}:          {"ok", "Timeout", "Timeout", "Verification", "ok", "ok"},
		one:                       {"ok", "ok", "Timeout*", "Timeout*", "Timeout*"},
		{Path: "s/a", Section: 1}: {"ok", "ok"},
		{Path: "s/b"}:             {"ok"},
		{Path: "s[3]/a"}:          {"ok", "Timeout"},
		{Path: "s[3]/a[1]"}:       {"ok", "ok", "Timeout*"}, // one iteration is named
		{Path: "s[4]/a[0]"}:       {"Verification"},
		{Path: "s[4]/a[7]"}:       {"Verification"}, // of two that name as many, the outer one counts
		{Path: "s[4]/a[0]/b"}:     {"ok"},
	} {
		for i := range want {
			o := outcomeOf(s.Failures[s.index().closest(node)], i+1)
			if o.Times = 0; o.String() != want[i] {
				t.Errorf("%s, attempt %d: %s, want %s", node, i+1, o.String(), want[i])
			}
		}
	}
}

func TestParseNode(t *testing.T) {
	w := loadFile(t, "groups.yaml", recourse.Documented)
	for _, test := range []struct{ text, want string }{
		{"s/outer/a", "s/outer/a"},
		{"s/undo_1", "s/undo_1 (rollbackSteps)"},
		{"s/undo_1 (rollbackSteps)", "s/undo_1 (rollbackSteps)"},
		{"s/outer[2]/a", "s/outer[2]/a"},
		{" s ", "s"},
	} {
		if n, err := ParseNode(w.plan, test.text); err != nil || n.String() != test.want {
			t.Errorf("%q: %s, %v", test.text, n, err)
		}
	}
	var unknown *UnknownNodeError
	for _, text := range []string{"s/outer/x", "s/outer/a (rollbackSteps)", "x"} {
		if _, err := ParseNode(w.plan, text); !errors.As(err, &unknown) || len(unknown.Known) == 0 {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ParseNode(w.plan, "s//a"); err == nil {
		t.Error("a bad path is taken")
	}
}

// TestTooLong: what loops within loops ends with an error and with what happened until then; what takes long does not.
func TestTooLong(t *testing.T) {
	const long = `pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [
	  {stepGroup: {identifier: g, steps: [{step: {identifier: a, type: Run}}, {step: {identifier: b, type: Run}}],
	  failureStrategies: [{onFailure: {errors: [AllErrors], action: {type: RetryStepGroup, spec: {retryCount: 10000}}}}]}}]}}}}]}`
	w := load(t, long, recourse.Documented)
	w.fail(t, "s/g/b=Timeout*")
	res, err := Run(w.plan, w.structure, &w.scenario)
	if b := w.node(t, "s/g/b"); err != nil || res.Attempts[b] != 10_001 || res.Outcome != Failed {
		t.Errorf("%v, %d attempts, %s", err, res.Attempts[b], res.Outcome)
	}
	loops := `pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, strategy: {parallelism: 256}, spec: {execution: {steps: [
	  {stepGroup: {identifier: g, strategy: {repeat: {times: 256}}, steps: [{step: {identifier: a, type: Run, strategy: {repeat: {times: 256}}}}]}}]}}}}]}`
	w = load(t, loops, recourse.Documented)
	res, err = Run(w.plan, w.structure, &w.scenario)
	if !errors.Is(err, ErrTooLong) || len(res.Stages) != 256 {
		t.Errorf("%v, %d stages", err, len(res.Stages))
	}
}

// TestStepDuration: the time of attempts adds to the waits, and the timeout of an intervention runs from its opening.
func TestStepDuration(t *testing.T) {
	w := loadFile(t, "deploy_web.yaml", recourse.Documented)
	w.scenario.StepDuration = 10 * time.Second
	w.fail(t, "prod/canary/rollout=Timeout*")
	if res := w.run(t); time.Duration(res.Duration) != 20*time.Second+4*10*time.Second+5*time.Second+20*time.Second {
		t.Error(res.text())
	}
}

// TestUnresolved: what only a running execution knows is said in a note.
func TestUnresolved(t *testing.T) {
	w := load(t, `pipeline: {identifier: p, stages: [
	  {stage: {identifier: t, template: {templateRef: x}}},
	  {stage: {identifier: s, type: Custom, when: <+input>, strategy: {matrix: <+input>}, spec: {execution: {steps: [{step: {identifier: a, type: Run}}]}}}}]}`, recourse.Documented)
	w.fail(t, "t=Unknown")
	res := w.run(t)
	text := res.text()
	for _, want := range []string{"= t failed", "= s[0] skipped", "note: stage t lists no steps", "this when is not resolved", "one iteration is taken for all"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

// TestExitCode: conditions see what the outcome says.
func TestExitCode(t *testing.T) {
	w := loadFile(t, "nightly_batch.yaml", recourse.Documented)
	w.fail(t, "batch/crunch=Unknown:75,Unknown:1")
	res := w.run(t)
	if got := len(res.Records); got != 3 || res.Records[0].Action != recourse.Retry || res.Records[2].Action != recourse.MarkAsFailure {
		t.Error(res.text())
	}
	if !slices.Contains(res.Notes, "waits have a jitter that differs from execution to execution") {
		w.fail(t, "batch/fetch=Timeout")
		if res := w.run(t); !strings.Contains(strings.Join(res.Notes, "\n"), "jitter") {
			t.Error(res.text())
		}
	}
}
