package suite

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/nearest"
	"github.com/recourse-dev/recourse/internal/pipeline"
	"github.com/recourse-dev/recourse/internal/simulate"
)

// Report is what came of a test file.
type Report struct {
	File string `json:"file"`
	// Pipeline is the path of the pipeline.
	Pipeline string       `json:"pipeline"`
	Tests    []TestReport `json:"tests"`

	strategies []Strategy
	reached    map[string]bool // by YAML path
}

// TestReport is what came of a test.
type TestReport struct {
	Name   string `json:"name"`
	Line   int    `json:"line"`
	Passed bool   `json:"passed"`
	// Mismatches are what is otherwise than expected, in the order of the file.
	Mismatches []Mismatch `json:"mismatches"`
	// Notes are what the run took for granted, and what of the scenario never came about.
	Notes []string `json:"notes"`
	// Took is how long the test took on this machine.
	Took time.Duration `json:"-"`
	// Result is that of a scenario, nil of a single decision.
	Result *simulate.Result `json:"-"`
}

// Mismatch is one thing that is otherwise than expected.
type Mismatch struct {
	// What is compared: "actions of prod/rollout".
	What string `json:"what"`
	Want string `json:"want"`
	Got  string `json:"got"`
	// Differs is where two lists part, in words; "" where they are none.
	Differs string `json:"differs,omitzero"`
}

// Failed counts the tests that failed.
func (r *Report) Failed() (n int) {
	for i := range r.Tests {
		if !r.Tests[i].Passed {
			n++
		}
	}
	return n
}

// PipelinePath is where the pipeline is: as the file says, relative to its own directory.
func (f *File) PipelinePath() string {
	if filepath.IsAbs(f.Pipeline) {
		return f.Pipeline
	}
	return filepath.Join(filepath.Dir(f.Name), f.Pipeline)
}

// Run runs the tests of a file; open reads the pipeline, opt says what it is resolved with (its semantics are those of each test), now is
// a clock for how long tests take. The error joins what makes the file unusable, every *[Problem] of it; nothing is run then.
func (f *File) Run(open func(path string) ([]byte, error), opt pipeline.Options, now func() time.Time) (*Report, error) {
	content, err := open(f.PipelinePath())
	if err != nil {
		return nil, problemAt(f.Name, f.pipelineAt, "pipeline: %v", err)
	}
	r := &runner{file: f, report: &Report{File: f.Name, Pipeline: f.PipelinePath(), reached: make(map[string]bool)}}
	for _, semantics := range [...]recourse.Semantics{recourse.Documented, recourse.Engine} {
		if slices.ContainsFunc(f.Tests, func(t Test) bool { return t.Semantics == semantics }) {
			opt.Semantics = semantics
			r.load(opt, content)
		}
	}
	if len(r.problems) > 0 {
		return nil, errors.Join(r.problems...)
	}
	prepared := make([]func() TestReport, len(f.Tests))
	for i := range f.Tests {
		prepared[i] = r.prepare(&f.Tests[i])
	}
	if len(r.problems) > 0 {
		return nil, errors.Join(r.problems...)
	}
	for i, run := range prepared {
		start := now()
		t := run()
		t.Name, t.Line, t.Passed, t.Took = f.Tests[i].Name, f.Tests[i].Line, len(t.Mismatches) == 0, now().Sub(start)
		r.report.Tests = append(r.report.Tests, t)
	}
	return r.report, nil
}

type loaded struct {
	plan      *decide.Plan
	structure *pipeline.Structure
}

type runner struct {
	file     *File
	loaded   [2]loaded // by semantics
	report   *Report
	problems []error
}

func (r *runner) load(opt pipeline.Options, content []byte) {
	path := r.file.PipelinePath()
	plan, structure, findings := pipeline.LoadStructure(path, content, opt)
	for _, d := range findings {
		if d.Severity == pipeline.SeverityError {
			r.problems = append(r.problems, &Problem{d.File, d.Line, d.Column, fmt.Sprintf("%s [%s], with semantics %s", d.Message, d.Code, opt.Semantics)})
		}
	}
	if plan == nil {
		return
	}
	r.loaded[opt.Semantics] = loaded{plan, structure}
	for _, n := range plan.Nodes() {
		for i := range n.Strategies {
			s := &n.Strategies[i]
			if slices.ContainsFunc(r.report.strategies, func(known Strategy) bool { return known.Path == s.Path }) {
				continue // of the other semantics
			}
			at := structure.Strategies[s.Path]
			r.report.strategies = append(r.report.strategies, Strategy{
				File: at.File, Line: at.Line, Column: at.Column, Path: s.Path, Node: n.String(), Level: n.Level, Errors: s.Errors, Action: s.Do.Action,
			})
		}
	}
}

// find looks a node up.
func (r *runner) find(plan *decide.Plan, at *yaml.Node) recourse.Node {
	node, err := simulate.ParseNode(plan, at.Value)
	var unknown *simulate.UnknownNodeError
	if errors.As(err, &unknown) {
		err = fmt.Errorf("%w; %s", err, nearest.Hint(unknown.Path, unknown.Known))
	}
	if err != nil {
		r.problems = append(r.problems, problemAt(r.file.Name, at, "%v", err))
	}
	return node
}

// some names as many as fit a line.
func some(names []string) string {
	const most = 20
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// prepare looks up the nodes of a test and returns what runs it.
func (r *runner) prepare(t *Test) func() TestReport {
	l := r.loaded[t.Semantics]
	if t.single != nil {
		node := r.find(l.plan, t.single.node)
		return func() TestReport { return r.decide(l.plan, t, node) }
	}
	scenario := &simulate.Scenario{Failures: make(map[recourse.Node][]simulate.Outcome), StepDuration: t.step}
	for _, f := range t.fail {
		node := r.find(l.plan, f.node)
		if scenario.Failures[node] != nil {
			r.problems = append(r.problems, problemAt(r.file.Name, f.node, "%s is there twice", node))
		}
		scenario.Failures[node] = f.list
	}
	for _, a := range t.answers {
		scenario.Answers = append(scenario.Answers, simulate.Answer{Node: r.find(l.plan, a.node), Action: a.action, After: a.after})
	}
	var checks []func(*comparison)
	for _, e := range t.expect.actions {
		checks = append(checks, listCheck("actions", r.find(l.plan, e.node), e.list, asText, actionsOf))
	}
	for _, e := range t.expect.delays {
		checks = append(checks, listCheck("delays", r.find(l.plan, e.node), e.list, time.Duration.String, delaysOf))
	}
	for _, e := range t.expect.attempts {
		given := r.find(l.plan, e.node)
		checks = append(checks, func(c *comparison) {
			for _, node := range ranOf(c.result, given) {
				c.equal("attempts of "+node.String(), strconv.Itoa(e.list[0]), strconv.Itoa(c.result.Attempts[node]))
			}
		})
	}
	for _, e := range t.expect.stages {
		if node := r.find(l.plan, e.stage); strings.Contains(node.Path, "/") {
			r.problems = append(r.problems, problemAt(r.file.Name, e.stage, "%s is no stage", node))
		}
		checks = append(checks, func(c *comparison) { c.stage(recourse.Node{Path: strings.TrimSpace(e.stage.Value)}, e.status) })
	}
	return func() TestReport {
		result, err := simulate.Run(l.plan, l.structure, scenario)
		c := &comparison{result: result, mismatches: []Mismatch{}}
		for _, check := range checks {
			check(c)
		}
		if e := t.expect.outcome; e != nil {
			c.equal("outcome", e.String(), result.Outcome.String())
		}
		if e := t.expect.duration; e != nil {
			c.equal("duration", e.String(), result.Duration.String())
		}
		c.events(t.expect.events)
		if err != nil {
			c.mismatches = append(c.mismatches, Mismatch{What: "the run", Want: "ends", Got: err.Error()})
		}
		for _, rec := range result.Records {
			r.reach(rec)
		}
		return TestReport{Mismatches: c.mismatches, Notes: result.Notes, Result: result}
	}
}

// reach counts the strategy that decided a failure.
func (r *runner) reach(rec *recourse.Record) {
	if rec.Input.Failure != nil && (rec.Reason == recourse.StrategyMatched || rec.Reason == recourse.RetriesExhausted) {
		r.report.reached[rec.Strategy] = true
	}
}

// decide runs the test of a single decision.
func (r *runner) decide(plan *decide.Plan, t *Test, node recourse.Node) TestReport {
	outcome := t.single.outcome
	rec := simulate.Single(plan, node, t.single.attempt, &outcome)
	r.reach(rec)
	verb, scope := rec.Command.Verb, rec.Command.Scope
	switch rec.Wait.Kind { // what the wait ends with
	case recourse.WaitRetry:
		verb, scope = recourse.VerbRetry, rec.Wait.Path
	case recourse.WaitRetryGroup:
		verb, scope = recourse.VerbRetryGroup, rec.Wait.Scope
	}
	got := map[string]string{
		"action": rec.Action.String(), "reason": rec.Reason.String(), "level": rec.Level.String(), "strategy": rec.Strategy,
		"delay": rec.Delay.String(), "verb": verb.String(), "scope": scope, "status": string(rec.Effect.Node),
		"onTimeout": rec.Wait.OnTimeout.String(), "timeout": "",
	}
	if rec.Wait.Kind == recourse.WaitIntervention {
		got["timeout"] = rec.Wait.DueAt.Sub(rec.At).String()
	}
	c := &comparison{mismatches: []Mismatch{}}
	for _, f := range t.expect.fields {
		have := got[f.key]
		if f.key == "strategy" && strings.HasSuffix(have, "."+f.want) {
			continue
		}
		c.equal(f.key, f.want, have)
	}
	return TestReport{Mismatches: c.mismatches, Notes: []string{}}
}

// comparison collects what is otherwise than expected.
type comparison struct {
	result     *simulate.Result
	mismatches []Mismatch
}

func (c *comparison) equal(what, want, got string) {
	if want != got {
		c.mismatches = append(c.mismatches, Mismatch{What: what, Want: want, Got: either(got, "nothing")})
	}
}

func either(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// stage compares the status of a stage, or of each iteration that it stands for.
func (c *comparison) stage(given recourse.Node, want simulate.Status) {
	var names []string
	found := false
	for _, s := range c.result.Stages {
		names = append(names, s.Stage)
		if !simulate.Covers(given, recourse.Node{Path: s.Stage}) {
			continue
		}
		found = true
		if s.Status != want {
			c.mismatches = append(c.mismatches, Mismatch{What: "stage " + s.Stage, Want: want.String(), Got: because(s)})
		}
	}
	if !found {
		c.mismatches = append(c.mismatches, Mismatch{What: "stage " + given.Path, Want: want.String(), Got: "no such stage; there are " + some(names)})
	}
}

func because(s simulate.Stage) string {
	if s.Reason == "" {
		return s.Status.String()
	}
	return s.Status.String() + ": " + s.Reason
}

func asText(s string) string { return s }

// ranOf returns the nodes that ran of those that a given one stands for: itself, or iterations. Where none did it is the given one.
func ranOf(result *simulate.Result, given recourse.Node) (ran []recourse.Node) {
	for node := range result.Attempts {
		if simulate.Covers(given, node) {
			ran = append(ran, node)
		}
	}
	if len(ran) == 0 {
		return []recourse.Node{given}
	}
	slices.SortFunc(ran, func(a, b recourse.Node) int {
		return cmp.Or(cmp.Compare(len(a.Path), len(b.Path)), cmp.Compare(a.Path, b.Path))
	})
	return ran
}

// listCheck compares a list about a node, or about each iteration that it stands for.
func listCheck[T comparable](what string, given recourse.Node, want []T, text func(T) string, of func(*simulate.Result, recourse.Node) []T) func(*comparison) {
	return func(c *comparison) {
		for _, node := range ranOf(c.result, given) {
			compareLists(c, what+" of "+node.String(), want, of(c.result, node), text)
		}
	}
}

func compareLists[T comparable](c *comparison, what string, want, got []T, text func(T) string) {
	if slices.Equal(want, got) {
		return
	}
	join := func(list []T) string {
		var texts []string
		for _, v := range list {
			texts = append(texts, text(v))
		}
		return either(strings.Join(texts, ", "), "none")
	}
	at := 0
	for at < len(want) && at < len(got) && want[at] == got[at] {
		at++
	}
	one := func(list []T) string {
		if at < len(list) {
			return text(list[at])
		}
		return "nothing"
	}
	c.mismatches = append(c.mismatches, Mismatch{
		What: what, Want: join(want), Got: join(got), Differs: fmt.Sprintf("at %d: want %s, got %s", at+1, one(want), one(got)),
	})
}

// decisionsOf yields the decisions about a node: on its failures, on answers and on interventions that timed out. A retry that came due
// was decided before.
func decisionsOf(result *simulate.Result, node recourse.Node, each func(*recourse.Record)) {
	for _, rec := range result.Records {
		if rec.Node == node && rec.Reason != recourse.RetryDue {
			each(rec)
		}
	}
}

func actionsOf(result *simulate.Result, node recourse.Node) (actions []string) {
	decisionsOf(result, node, func(rec *recourse.Record) {
		if name := rec.Reason.String(); slices.Contains(reasonsAsActions, name) {
			actions = append(actions, name)
		} else {
			actions = append(actions, rec.Action.String())
		}
	})
	return actions
}

func delaysOf(result *simulate.Result, node recourse.Node) (delays []time.Duration) {
	decisionsOf(result, node, func(rec *recourse.Record) {
		if rec.Effect.Node == recourse.StatusRetrying {
			delays = append(delays, time.Duration(rec.Delay))
		}
	})
	return delays
}

// events looks for each pattern behind the one before it.
func (c *comparison) events(patterns []pattern) {
	from := 0
	for _, p := range patterns {
		found := slices.IndexFunc(c.result.Events[from:], func(e simulate.Event) bool { return p.matches(&e) })
		if found >= 0 {
			from += found + 1
			continue
		}
		after := "in the run"
		if from > 0 {
			e := &c.result.Events[from-1]
			after = fmt.Sprintf("after t+%s %s %s", e.At, e.Node, e.Text())
		}
		c.mismatches = append(c.mismatches, Mismatch{What: "events", Want: p.String(), Got: "no such event " + after})
		return
	}
}

func (p *pattern) matches(e *simulate.Event) bool {
	have := map[string]string{
		"at": e.At.String(), "node": recourse.Node{Path: e.Node, Section: e.Section}.String(), "attempt": strconv.Itoa(e.Attempt), "kind": e.Kind,
		"action": e.Action.String(), "reason": e.Reason.String(), "verb": e.Verb.String(),
	}
	for _, f := range p.fields {
		if have[f.key] != f.want && !(f.key == "node" && e.Node == f.want) {
			return false
		}
	}
	return true
}

func (p *pattern) String() string {
	var parts []string
	for _, f := range p.fields {
		parts = append(parts, f.key+": "+f.want)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
