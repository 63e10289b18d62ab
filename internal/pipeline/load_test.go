package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/recourse-dev/recourse"
)

// TestNodes lists everything that can enclose something.
func TestNodes(t *testing.T) {
	const yaml = `
pipeline:
  identifier: p
  stages:
    - stage:
        identifier: one
        type: Deployment
        failureStrategies: [{onFailure: {errors: [AllErrors], action: {type: StageRollback}}}]
        spec:
          infrastructure:
            infrastructureDefinition:
              provisioner:
                steps: [{step: {identifier: plan}}]
                rollbackSteps: [{step: {identifier: destroy}}]
          environment:
            provisioner:
              steps: [{step: {identifier: apply}}]
          execution:
            steps:
              - step: {identifier: a, type: ShellScript, strategy: {matrix: {x: [1, 2]}}}
              - parallel:
                  - step: {identifier: b}
                  - stepGroup:
                      identifier: g
                      steps:
                        - stepGroup:
                            identifier: h
                            steps: [{step: {identifier: c}}]
                            rollbackSteps: [{step: {identifier: c}}]
                      rollbackSteps:
                        - stepGroup:
                            identifier: u
                            steps: [{step: {identifier: d}}]
              - insert:
                  identifier: i
                  steps: [{step: {identifier: e}}]
            rollbackSteps:
              - step: {identifier: a}
    - parallel:
        - stage: {identifier: two, type: Custom, spec: {execution: {steps: [{step: {name: "My step-1"}}]}}}
        - parallel:
            - stage: {identifier: three, type: Pipeline, spec: {pipeline: x, inputs: {stages: [{stage: {identifier: z, spec: {execution: {steps: [{step: {identifier: y, failureStrategies: [{onFailure: {}}]}}]}}}}]}}}
`
	plan, ds := load(t, yaml, documented)
	want := []string{
		"stage one",
		"step one/plan", "step one/destroy (rollbackSteps)", "step one/apply",
		"step one/a", "step one/b",
		"step-group one/g", "step-group one/g/h", "step one/g/h/c", "step one/g/h/c (rollbackSteps)",
		"step-group one/g/u (rollbackSteps)", "step one/g/u/d (rollbackSteps)",
		"step one/e", "step one/a (rollbackSteps)",
		"stage two", "step two/My_step_1",
		"stage three",
	}
	var got []string
	for _, n := range plan.Nodes() {
		got = append(got, n.Level.String()+" "+n.Node.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := codes(ds); !slices.Equal(got, []string{"warning missing-identifier"}) {
		t.Errorf("got %v", ds)
	}
	if plan.Pipeline != "p" || plan.Semantics != documented {
		t.Errorf("pipeline %q, semantics %s", plan.Pipeline, plan.Semantics)
	}
}

// TestTemplates: the inputs of a template lie over what the node says itself, on all levels.
func TestTemplates(t *testing.T) {
	const strategy = "[{onFailure: {errors: [AllErrors], action: {type: %s}}}]"
	ignore, abort := fmt.Sprintf(strategy, "Ignore"), fmt.Sprintf(strategy, "Abort")
	cases := []struct{ name, yaml, node, path string }{
		{"step", `{pipeline: {identifier: p, stages: [{stage: {identifier: s, spec: {execution: {steps: [{step: {identifier: a, failureStrategies: ` + abort + `, template: {templateRef: t, templateInputs: {type: Http, failureStrategies: ` + ignore + `}}}}]}}}}]}}`,
			"s/a", "pipeline.stages[0].stage.spec.execution.steps[0].step.template.templateInputs.failureStrategies[0]"},
		{"group", `{pipeline: {identifier: p, stages: [{stage: {identifier: s, spec: {execution: {steps: [{stepGroup: {identifier: g, template: {templateRef: t, templateInputs: {steps: [{step: {identifier: a, failureStrategies: ` + ignore + `}}]}}}}]}}}}]}}`,
			"s/g/a", "pipeline.stages[0].stage.spec.execution.steps[0].stepGroup.template.templateInputs.steps[0].step.failureStrategies[0]"},
		{"stage", `{pipeline: {identifier: p, stages: [{stage: {identifier: s, template: {templateRef: t, templateInputs: {spec: {execution: {steps: [{step: {identifier: a, failureStrategies: ` + ignore + `}}]}}}}}}]}}`,
			"s/a", "pipeline.stages[0].stage.template.templateInputs.spec.execution.steps[0].step.failureStrategies[0]"},
		{"pipeline", `{pipeline: {identifier: p, template: {templateRef: t, templateInputs: {stages: [{stage: {identifier: s, failureStrategies: ` + ignore + `}}]}}}}`,
			"s", "pipeline.template.templateInputs.stages[0].stage.failureStrategies[0]"},
		{"template of a stage", `{template: {identifier: t, type: Stage, spec: {type: Custom, spec: {execution: {steps: [{step: {identifier: a}}]}}, failureStrategies: ` + ignore + `}}}`,
			"t", "template.spec.failureStrategies[0]"},
		{"template of a step", `{template: {identifier: t, type: Step, spec: {type: Http, failureStrategies: ` + ignore + `}}}`,
			"t/t", "template.spec.failureStrategies[0]"},
		{"template of a group", `{template: {identifier: t, type: StepGroup, spec: {steps: [{step: {identifier: a, failureStrategies: ` + ignore + `}}]}}}`,
			"t/t/a", "template.spec.steps[0].step.failureStrategies[0]"},
		{"template of a pipeline", `{template: {identifier: t, type: Pipeline, spec: {stages: [{stage: {identifier: s, failureStrategies: ` + ignore + `}}]}}}`,
			"s", "template.spec.stages[0].stage.failureStrategies[0]"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			plan, ds := load(t, c.yaml, documented)
			if ds.HasErrors() {
				t.Errorf("%v", ds)
			}
			got := strategiesOf(t, plan, c.node, recourse.Steps)
			if len(got) != 1 || got[0].Do.Action != recourse.Ignore || got[0].Path != c.path {
				t.Errorf("got %+v, want Ignore at %s", got, c.path)
			}
		})
	}
}

// TestDocuments: what is a pipeline, what is a part of one, and what is none.
func TestDocuments(t *testing.T) {
	const strategies = "[{onFailure: {errors: [Timeot], action: {type: Ignore}}}]"
	cases := []struct {
		name, yaml string
		want       []string
		noPlan     bool
	}{
		{"pipeline", "pipeline: {identifier: p}", nil, false},
		{"pipeline without identifier", "pipeline: {name: My p}", []string{"warning missing-identifier"}, false},
		{"pipeline without a name", "pipeline: {stages: []}", []string{"error missing-identifier"}, false},
		{"v1", "version: 1\nkind: pipeline\nspec: {stages: [{failureStrategies: [{}]}]}", []string{"error v1-yaml"}, false},
		{"v0 with a version", "version: 1\npipeline: {identifier: p}", nil, false},
		{"input set", "inputSet: {identifier: i, pipeline: {identifier: p}}", []string{"warning no-pipeline"}, false},
		{"service", "service: {identifier: s}", []string{"warning no-pipeline"}, false},
		{"template of a secret manager", "template: {identifier: t, type: SecretManager, spec: {}}", []string{"warning no-pipeline"}, false},
		{"template without identifier", "template: {type: Stage, spec: {}}", []string{"error missing-identifier"}, false},
		{"a word", "hello", []string{"error no-pipeline"}, false},
		{"nothing", "", []string{"error no-pipeline"}, true},
		{"a comment", "# nothing\n", []string{"error no-pipeline"}, true},
		{"strategies", "failureStrategies: " + strategies, []string{"error fragment", "error unknown-error-type"}, false},
		{"entries", strategies, []string{"error fragment", "error unknown-error-type"}, false},
		{"steps", "- step: {identifier: a, failureStrategies: " + strategies + "}", []string{"error fragment", "error unknown-error-type"}, false},
		{"step", "step: {identifier: a, failureStrategies: " + strategies + "}", []string{"error fragment", "error unknown-error-type"}, false},
		{"group", "stepGroup: {identifier: a, failureStrategies: " + strategies + "}", []string{"error fragment", "error unknown-error-type"}, false},
		{"stage", "stage: {identifier: a, failureStrategies: " + strategies + "}", []string{"error fragment", "error unknown-error-type"}, false},
		{"stages", "stages: [{stage: {identifier: a, failureStrategies: " + strategies + "}}]", []string{"error fragment", "error unknown-error-type"}, false},
		{"list of stages", "- stage: {identifier: a, failureStrategies: " + strategies + "}", []string{"error fragment", "error unknown-error-type"}, false},
		{"execution", "execution: {steps: [{step: {identifier: a, failureStrategies: " + strategies + "}}]}", []string{"error fragment", "error unknown-error-type"}, false},
		{"lost step", "- step: {failureStrategies: " + strategies + "}", []string{"error fragment", "error missing-identifier", "error unknown-error-type"}, false},
		{"rollback of a group in a fragment", "- step: {identifier: a, failureStrategies: [{onFailure: {errors: [Timeout], action: {type: StepGroupRollback}}}]}", []string{"error fragment"}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			plan, ds := Load("x.yaml", []byte(c.yaml), Options{})
			if got := codes(ds); !slices.Equal(got, append([]string{}, c.want...)) {
				t.Errorf("got %v, want %v", ds, c.want)
			}
			if (plan == nil) != c.noPlan {
				t.Errorf("plan %v", plan)
			}
		})
	}
}

// TestIdentity: identifiers, duplicates, and strategies where nothing looks for them.
func TestIdentity(t *testing.T) {
	stage := func(steps string) string {
		return "{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [" + steps + "]}}}}]}}"
	}
	const strategies = "failureStrategies: [{onFailure: {errors: [Timeout], action: {type: Ignore}}}]"
	cases := []struct {
		name, yaml string
		want       []string
	}{
		{"no identifier, no strategy", stage("{step: {type: Run}}"), []string{"warning missing-identifier"}},
		{"no identifier, a strategy", stage("{step: {type: Run, " + strategies + "}}"), []string{"error missing-identifier"}},
		{"no identifier, a strategy below", stage("{stepGroup: {steps: [{step: {identifier: a, " + strategies + "}}]}}"), []string{"error missing-identifier"}},
		{"identifier with a slash", stage("{step: {identifier: a/b}}"), []string{"warning bad-identifier"}},
		{"identifier with a slash and a strategy", stage("{step: {identifier: a/b, " + strategies + "}}"), []string{"error bad-identifier"}},
		{"identifier too long", stage("{step: {identifier: " + strings.Repeat("a", 257) + "}}"), []string{"error bad-identifier"}},
		{"identifier of 256 bytes", stage("{step: {identifier: " + strings.Repeat("a", 256) + "}}"), nil},
		{"twice", stage("{step: {identifier: a}}, {parallel: [{step: {identifier: a}}]}"), []string{"warning duplicate-node"}},
		{"null items", stage("null, {step: null}, {parallel: null}, {insert: null}, 3"), nil},
		{"unknown items", stage("{foo: {bar: 1}}"), nil},
		{"on the pipeline", "{pipeline: {identifier: p, " + strategies + "}}", []string{"warning misplaced-strategies"}},
		{"in a spec", stage("{step: {identifier: a, spec: {" + strategies + "}}}"), []string{"warning misplaced-strategies"}},
		{"empty, on the pipeline", "{pipeline: {identifier: p, failureStrategies: []}}", nil},
		{"duplicate key", "{pipeline: {identifier: p, name: a, name: b}}", []string{"warning duplicate-key"}},
		{"duplicate identifier", "{pipeline: {identifier: p, identifier: q}}", []string{"error duplicate-key"}},
		{"duplicate strategies", stage("{step: {identifier: a, " + strategies + ", failureStrategies: []}}"), []string{"error duplicate-key"}},
		{"duplicate type of an action", stage("{step: {identifier: a, failureStrategies: [{onFailure: {errors: [Timeout], action: {type: Ignore, type: Abort}}}]}}"), []string{"error duplicate-key"}},
		{"more strategies than a node can have", stage("{step: {identifier: a, failureStrategies: [" + strings.Repeat("<+input>,", MaxStrategies+1) + "]}}"),
			append(slices.Repeat([]string{"warning unresolved-input"}, MaxStrategies), "error too-many-strategies")},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, ds := load(t, c.yaml, documented)
			if got := codes(ds); !slices.Equal(got, append([]string{}, c.want...)) {
				t.Errorf("got %v, want %v", ds, c.want)
			}
		})
	}
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	const yaml = `
retry: &retry
  type: Retry
  spec: {retryCount: 2, onRetryFailure: {action: {type: Abort}}}
common: &common
  type: ShellScript
  failureStrategies: &strategies
    - onFailure: {errors: [Timeout], action: *retry}
pipeline:
  identifier: p
  stages:
    - stage:
        identifier: s
        spec:
          execution:
            steps:
              - step: {<<: *common, identifier: a}
              - step: {<<: [*common], identifier: b, failureStrategies: []}
              - step: {identifier: c, failureStrategies: *strategies}
`
	plan, ds := load(t, yaml, documented)
	if len(ds) != 0 {
		t.Errorf("%v", ds)
	}
	for node, want := range map[string]int{"s/a": 1, "s/b": 0, "s/c": 1} {
		got := strategiesOf(t, plan, node, recourse.Steps)
		if len(got) != want || want == 1 && got[0].Do.Retry.Count != 2 {
			t.Errorf("%s: %+v", node, got)
		}
	}
}

func TestMoreDocuments(t *testing.T) {
	for _, second := range []string{"pipeline: {identifier: q}\n", "{\n"} {
		plan, ds := Load("x.yaml", []byte("pipeline: {identifier: p}\n---\n"+second), Options{})
		if got := codes(ds); !slices.Equal(got, []string{"warning extra-documents"}) || plan == nil || plan.Pipeline != "p" {
			t.Errorf("%q: got %v, plan %v", second, ds, plan)
		}
	}
}

// TestSyntaxErrors: where, and for the common causes what to do.
func TestSyntaxErrors(t *testing.T) {
	cases := []struct {
		yaml         string
		line, column int
		fix          string
	}{
		{"pipeline:\n\tidentifier: p\n", 2, 1, "line 2 is indented with a tab"},
		{"pipeline:\n  name: {{ name }}\n  identifier: p\n", 2, 9, "render the template"},
		{"pipeline:\n  name: a\n  {{ more }}\n  identifier: p\n", 4, 3, "line 3 has a placeholder"},
		{"pipeline:\n  name: a\n<% if x %>\n  identifier: p\n", 4, 0, "line 3 has a placeholder"},
		{"pipeline:\n  name: <+x>: y\n", 2, 13, "line 2 has a colon inside a value"},
		{"pipeline:\n  name: a\n<<<<<<< HEAD\n  identifier: p\n=======\n", 4, 0, "merge conflict"},
		{"pipeline:\n  - a\n  b: c\n", 3, 3, ""},
		{"a: *nope\n", 1, 4, ""},
		{"a: 'b\n", 2, 1, ""},
		{"\xff\xfe\xfd", 1, 1, ""},
	}
	for _, c := range cases {
		_, ds := Load("x.yaml", []byte(c.yaml), Options{})
		if len(ds) == 0 || ds[0].Code != "yaml-syntax" || ds[0].Severity != SeverityError || ds[0].Line != c.line ||
			c.column > 0 && ds[0].Column != c.column || !strings.Contains(ds[0].Fix, c.fix) {
			t.Errorf("%q: got %v, want %d:%d, %q", c.yaml, ds, c.line, c.column, c.fix)
		}
	}
}

func TestDiagnosticJSON(t *testing.T) {
	_, ds := Load("dir/x.yaml", []byte("a: 'b"), Options{})
	got, err := json.Marshal(ds)
	if err != nil || !strings.HasPrefix(string(got), `[{"file":"dir/x.yaml","line":1,"column":6,"path":"","severity":"error","code":"yaml-syntax","message":"`) ||
		!strings.Contains(string(got), `"fix":""`) {
		t.Errorf("%s %v", got, err)
	}
	var back Diagnostics
	if err := json.Unmarshal(got, &back); err != nil || !slices.Equal(back, ds) {
		t.Errorf("%v %v", back, err)
	}
	if json.Unmarshal([]byte(`[{"severity":"fatal"}]`), &back) == nil {
		t.Error("an unknown severity was read")
	}
}

func TestTooManyDiagnostics(t *testing.T) {
	var steps strings.Builder
	for i := range MaxDiagnostics {
		fmt.Fprintf(&steps, "{step: {identifier: a%d, failureStrategies: <+input>}},", i)
	}
	yaml := "{pipeline: {identifier: p, stages: [{stage: {identifier: s, spec: {execution: {steps: [%s]}}}}]}}"
	if _, ds := load(t, fmt.Sprintf(yaml, steps.String()), documented); len(ds) != MaxDiagnostics || ds.HasErrors() {
		t.Errorf("%d diagnostics at the bound", len(ds))
	}
	steps.WriteString("{step: {identifier: last, failureStrategies: [{}]}}")
	_, ds := load(t, fmt.Sprintf(yaml, steps.String()), documented)
	if last := ds[len(ds)-1]; len(ds) != MaxDiagnostics+1 || last.Code != "too-many-diagnostics" || !ds.HasErrors() {
		t.Errorf("%d diagnostics, the last %v", len(ds), last)
	}
}

// TestGeneratedPipelines makes pipelines of any shape and compares the plan with what was made: each node is there, after what
// encloses it, and diagnostics are sorted and the same again.
func TestGeneratedPipelines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := generator{t: t}
		var b strings.Builder
		b.WriteString("{pipeline: {identifier: p, stages: [")
		for i := range rapid.IntRange(0, 3).Draw(t, "stages") {
			id := fmt.Sprintf("s%d", i)
			g.want = append(g.want, recourse.Node{Path: id})
			fmt.Fprintf(&b, "{stage: {identifier: %s, spec: {execution: {steps: [%s], rollbackSteps: [%s]}}}},", id, g.steps(id, 0, 3), g.steps(id, 1, 2))
		}
		b.WriteString("]}}")
		plan, ds := Load("x", []byte(b.String()), Options{})
		if plan == nil || len(ds) != 0 {
			t.Fatalf("%v\n%s", ds, b.String())
		}
		var got []recourse.Node
		for _, n := range plan.Nodes() {
			if parent := recourse.Parent(n.Path); parent != "" {
				if _, ok := plan.Lookup(recourse.Node{Path: parent, Section: n.Section}); !ok {
					if _, ok := plan.Lookup(recourse.Node{Path: parent}); !ok {
						t.Fatalf("%s has no parent", n.Node)
					}
				}
			}
			got = append(got, n.Node)
		}
		if !slices.Equal(got, g.want) {
			t.Fatalf("got %v, want %v\n%s", got, g.want, b.String())
		}
	})
}

type generator struct {
	t    *rapid.T
	next int
	want []recourse.Node
}

func (g *generator) steps(parent string, section recourse.Section, depth int) string {
	var b strings.Builder
	for range rapid.IntRange(0, 3).Draw(g.t, "steps") {
		switch kind := rapid.IntRange(0, 3).Draw(g.t, "kind"); {
		case kind == 1 && depth > 0:
			id := g.add(parent, section)
			path := parent + "/" + id
			fmt.Fprintf(&b, "{stepGroup: {identifier: %s, steps: [%s], rollbackSteps: [%s]}},", id, g.steps(path, section, depth-1), g.steps(path, 1, depth-1))
		case kind == 2 && depth > 0:
			fmt.Fprintf(&b, "{parallel: [%s]},", g.steps(parent, section, depth-1))
		case kind == 3 && depth > 0:
			fmt.Fprintf(&b, "{insert: {identifier: x, steps: [%s]}},", g.steps(parent, section, depth-1))
		default:
			fmt.Fprintf(&b, "{step: {identifier: %s}},", g.add(parent, section))
		}
	}
	return b.String()
}

func (g *generator) add(parent string, section recourse.Section) string {
	g.next++
	id := fmt.Sprintf("n%d", g.next)
	g.want = append(g.want, recourse.Node{Path: parent + "/" + id, Section: section})
	return id
}

func BenchmarkLoad200Steps(b *testing.B) {
	var steps strings.Builder
	for i := range 200 {
		fmt.Fprintf(&steps, "{step: {identifier: a%d, timeout: 10m, failureStrategies: %s}},", i,
			list(one("Timeout", retryDo(2, ", retryIntervals: [10s]")), one("AllErrors", do("StageRollback"))))
	}
	yaml := []byte(fmt.Sprintf("{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [%s]}}}}]}}", steps.String()))
	b.ReportAllocs()
	for b.Loop() {
		Load("x", yaml, Options{})
	}
}
