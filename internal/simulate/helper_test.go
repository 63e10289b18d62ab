package simulate

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// world is a pipeline that is ready to run.
type world struct {
	plan      *decide.Plan
	structure *pipeline.Structure
	scenario  Scenario
}

func load(t *testing.T, yaml string, semantics recourse.Semantics) *world {
	t.Helper()
	plan, structure, found := pipeline.LoadStructure("test.yaml", []byte(yaml), pipeline.Options{Semantics: semantics})
	for _, d := range found {
		if d.Severity == pipeline.SeverityError {
			t.Fatalf("the test's own pipeline: %s\n%s", d, yaml)
		}
	}
	return &world{plan: plan, structure: structure, scenario: Scenario{Failures: make(map[recourse.Node][]Outcome)}}
}

func loadFile(t *testing.T, name string, semantics recourse.Semantics) *world {
	t.Helper()
	dir := "testdata"
	if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
		dir = "../../examples"
	}
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return load(t, string(content), semantics)
}

func (w *world) node(t *testing.T, text string) recourse.Node {
	t.Helper()
	n, err := ParseNode(w.plan, text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fail is --fail.
func (w *world) fail(t *testing.T, text string) {
	t.Helper()
	at := strings.LastIndexByte(text, '=')
	outcomes, err := ParseOutcomes(text[at+1:])
	if err != nil {
		t.Fatal(err)
	}
	w.scenario.Failures[w.node(t, text[:at])] = outcomes
}

// answer is --answer.
func (w *world) answer(t *testing.T, text string) {
	t.Helper()
	at := strings.LastIndexByte(text, '=')
	name, after, _ := strings.Cut(text[at+1:], "@")
	action, err := recourse.ParseAction(name)
	if err != nil {
		t.Fatal(err)
	}
	var wait recourse.Duration
	if after != "" {
		if err := wait.UnmarshalText([]byte(after)); err != nil {
			t.Fatal(err)
		}
	}
	w.scenario.Answers = append(w.scenario.Answers, Answer{w.node(t, text[:at]), action, time.Duration(wait)})
}

func (w *world) run(t *testing.T) *Result {
	t.Helper()
	res, err := Run(w.plan, w.structure, &w.scenario)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (r *Result) text() string {
	var b strings.Builder
	for i := range r.Events {
		e := &r.Events[i]
		fmt.Fprintf(&b, "t+%s %s: %s\n", e.At, recourse.Node{Path: e.Node, Section: e.Section}, e.Text())
	}
	for _, s := range r.Stages {
		fmt.Fprintf(&b, "= %s %s\n", s.Stage, s.Status)
	}
	fmt.Fprintf(&b, "= %s after %s\n", r.Outcome, r.Duration)
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}

// statuses are the stages in short: "one=failed two=skipped".
func (r *Result) statuses() string {
	var parts []string
	for _, s := range r.Stages {
		parts = append(parts, s.Stage+"="+s.Status.String())
	}
	return strings.Join(parts, " ")
}
