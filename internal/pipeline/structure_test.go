package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse"
)

// outline writes blocks in short: (…) beside each other, {…} the steps of what stands before it, <…> its rollbackSteps.
func outline(blocks []*Block) string {
	var parts []string
	for _, b := range blocks {
		s := ""
		if b.Level == recourse.LevelNone {
			parts = append(parts, "("+outline(b.Steps)+")")
			continue
		}
		s += b.Path[strings.LastIndexByte(b.Path, '/')+1:]
		if b.When.Given {
			s += "?" + b.When.Status
		}
		if b.When.Condition != "" {
			s += "?" + b.When.Condition
		}
		if b.Loop.Count > 0 {
			s += fmt.Sprintf("*%d/%d", b.Loop.Count, b.Loop.MaxConcurrency)
		}
		if len(b.Steps) > 0 {
			s += "{" + outline(b.Steps) + "}"
		}
		if len(b.Rollback) > 0 {
			s += "<" + outline(b.Rollback) + ">"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

func step(id string) string { return "{step: {identifier: " + id + "}}" }

func stageOf(id, steps, more string) string {
	return fmt.Sprintf("{stage: {identifier: %s, type: Custom, spec: {execution: {steps: [%s]}}%s}}", id, steps, more)
}

func pipelineOf(stages ...string) string {
	return "pipeline: {identifier: p, stages: [" + strings.Join(stages, ", ") + "]}"
}

func TestStructure(t *testing.T) {
	a := step("a")
	for _, test := range []struct{ name, yaml, want, notes string }{
		{"order", pipelineOf(stageOf("s", a+", "+step("b"), ""), stageOf("t", a, "")), "s{a b} t{a}", ""},
		{"beside each other", pipelineOf(stageOf("s", "{parallel: ["+a+", "+step("b")+"]}, "+step("c")+", {parallel: ["+step("d")+"]}", "")), "s{(a b) c (d)}", ""},
		{"one after the other", pipelineOf(stageOf("s", "{parallel: ["+a+", "+step("b")+"]}, {parallel: ["+step("c")+", "+step("d")+"]}", "")), "s{(a b) (c d)}", ""},
		{"stages beside each other", pipelineOf(stageOf("s", a, ""), "{parallel: ["+stageOf("t", a, "")+", "+stageOf("u", a, "")+"]}", stageOf("v", a, "")), "s{a} (t{a} u{a}) v{a}", ""},
		{"groups", pipelineOf(stageOf("s", "{stepGroup: {identifier: g, steps: [{parallel: ["+a+", {stepGroup: {identifier: h, steps: ["+step("b")+", "+step("c")+"], rollbackSteps: ["+step("u")+"]}}]}], rollbackSteps: [{stepGroup: {identifier: x, steps: ["+step("y")+"]}}, "+step("z")+"]}}", "")), "s{g{(a h{b c}<u>)}<x{y} z>}", ""},
		{"rollback first in the file", "pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {rollbackSteps: [" + step("u") + "], steps: [" + a + "]}}}}]}", "s{a}<u>", ""},
		{"provisioner", "pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Deployment, spec: {execution: {steps: [" + a + "], rollbackSteps: [" + step("u") + "]}, infrastructure: {provisioner: {steps: [" + step("plan") + "], rollbackSteps: [" + step("destroy") + "]}}}}}]}", "s{plan a}<u destroy>", ""},
		{"insert", pipelineOf(stageOf("s", a+", {insert: {identifier: i, steps: ["+step("b")+"]}}, "+step("c"), "")), "s{a b c}", ""},
		{"alias", "x: &x " + a + "\npipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [{parallel: &l [*x]}], rollbackSteps: [{parallel: *l}]}}}}]}", "s{(a)}<(a)>", ""},
		{"twice", pipelineOf(stageOf("s", a+", {stepGroup: {identifier: a, steps: ["+step("b")+"]}}, "+step("c"), "")), "s{a c}", "duplicate-node"},
		{"template", "template: {identifier: g, type: StepGroup, spec: {steps: [" + a + ", " + step("b") + "]}}", "g{g{a b}}", ""},

		{"when of a stage", pipelineOf(stageOf("s", a, ", when: {pipelineStatus: Failure, condition: <+a> == 1}"), stageOf("t", a, ", when: {pipelineStatus: all}")), "s?Failure?<+a> == 1{a} t?All{a}", ""},
		{"when of a step", pipelineOf(stageOf("s", "{step: {identifier: a, when: {stageStatus: All}}}, {step: {identifier: b, when: {condition: x}}}", "")), "s{a?All b?x}", ""},
		{"the other status does not count", pipelineOf(stageOf("s", "{step: {identifier: a, when: {pipelineStatus: All}}}", ", when: {stageStatus: All}")), "s{a}", ""},
		{"when, not resolved", pipelineOf(stageOf("s", a, ", when: <+input>"), stageOf("t", a, ", when: {pipelineStatus: <+input>}")), "s{a} t?Success{a}", "unresolved-when unresolved-when"},
		{"when of a template's input", "pipeline: {identifier: p, stages: [{stage: {identifier: s, template: {templateRef: t, templateInputs: {type: Custom, when: {pipelineStatus: All}}}}}]}", "s?All", ""},

		{"parallelism", pipelineOf(stageOf("s", "{step: {identifier: a, strategy: {parallelism: 3}}}", "")), "s{a*3/0}", ""},
		{"repeat times", pipelineOf(stageOf("s", "{step: {identifier: a, strategy: {repeat: {times: 4, maxConcurrency: 2}}}}", "")), "s{a*4/2}", ""},
		{"repeat items", pipelineOf(stageOf("s", "{step: {identifier: a, strategy: {repeat: {items: [x, y]}}}}", "")), "s{a*2/0}", ""},
		{"matrix", pipelineOf(stageOf("s", a, ", strategy: {matrix: {x: [1, 2, 3], y: [a, b], exclude: [{x: 1, y: a}, {x: 2}], maxConcurrency: 2, nodeName: n}}")), "s*3/2{a}", ""},
		{"matrix, not resolved", pipelineOf(stageOf("s", a, ", strategy: {matrix: {x: <+input>, y: [a, b]}}")), "s*1/0{a}", "unresolved-strategy"},
		{"exclude, not resolved", pipelineOf(stageOf("s", a, ", strategy: {matrix: {x: [1], exclude: <+input>}}")), "s*1/0{a}", "unresolved-strategy"},
		{"strategy, not resolved", pipelineOf(stageOf("s", a, ", strategy: <+input>")), "s*1/0{a}", "unresolved-strategy"},
		{"no iterations", pipelineOf(stageOf("s", a, ", strategy: {repeat: {items: []}}")), "s*1/0{a}", "unresolved-strategy"},
		{"at the bound", pipelineOf(stageOf("s", a, ", strategy: {parallelism: 256}")), "s*256/0{a}", ""},
		{"above the bound", pipelineOf(stageOf("s", a, ", strategy: {parallelism: 257}")), "s*1/0{a}", "unresolved-strategy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan, structure, found := LoadStructure("test.yaml", []byte(test.yaml), Options{})
			for _, d := range found {
				if strings.HasPrefix(d.Code, "yaml-") {
					t.Fatalf("the test's own YAML: %s", d)
				}
			}
			if got := outline(structure.Stages); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			var notes []string
			for _, d := range structure.Notes {
				notes = append(notes, d.Code)
			}
			if got := strings.Join(notes, " "); got != test.notes {
				t.Errorf("notes %q, want %q: %v", got, test.notes, structure.Notes)
			}
			// The plan is that of Load, and what is listed in the structure is in it.
			loaded, same := Load("test.yaml", []byte(test.yaml), Options{})
			if len(loaded.Nodes()) != len(plan.Nodes()) || fmt.Sprint(same) != fmt.Sprint(found) {
				t.Error("Load finds something else")
			}
			var walk func([]*Block)
			walk = func(blocks []*Block) {
				for _, b := range blocks {
					if n, ok := plan.Lookup(b.Node); b.Level != recourse.LevelNone && (!ok || n.Level != b.Level || b.Line == 0) {
						t.Errorf("%s is not in the plan", b.Node)
					}
					walk(b.Steps)
					walk(b.Rollback)
				}
			}
			walk(structure.Stages)
		})
	}
}

// TestStructurePlaces: each strategy of the plan has its place in the file.
func TestStructurePlaces(t *testing.T) {
	text := "pipeline:\n  identifier: p\n  stages:\n    - stage:\n        identifier: s\n        type: Custom\n        failureStrategies:\n" +
		"          - onFailure: {errors: [Timeout], action: {type: Ignore}}\n          - onFailure: {errors: [AllErrors], action: {type: Abort}}\n"
	plan, structure, _ := LoadStructure("test.yaml", []byte(text), Options{})
	for i, s := range plan.Nodes()[0].Strategies {
		if got, want := structure.Strategies[s.Path], (Place{"test.yaml", 8 + i, 13}); got != want {
			t.Errorf("%s: %v, want %v", s.Path, got, want)
		}
	}
	if plan, structure, found := LoadStructure("test.yaml", []byte("a: [b"), Options{}); plan != nil || structure != nil || !found.HasErrors() {
		t.Errorf("%v %v %v", plan, structure, found)
	}
}

// FuzzStructure: whatever the bytes are, the structure lists nodes of the plan, each once.
func FuzzStructure(f *testing.F) {
	f.Add(pipelineOf(stageOf("s", "{parallel: ["+step("a")+"]}", ", strategy: {matrix: {x: [1, 2], exclude: [{x: 1}]}}")))
	f.Add("x: &x [{step: {identifier: a}}]\npipeline: {stages: [{stage: {identifier: s, spec: {execution: {steps: *x, rollbackSteps: *x}}}}]}")
	f.Fuzz(func(t *testing.T, text string) {
		plan, structure, _ := LoadStructure("test.yaml", []byte(text), Options{})
		if (plan == nil) != (structure == nil) {
			t.Fatal("a plan without structure, or the other way round")
		}
		if plan == nil {
			return
		}
		seen := make(map[recourse.Node]bool)
		var walk func([]*Block)
		walk = func(blocks []*Block) {
			for _, b := range blocks {
				if b.Level != recourse.LevelNone {
					if _, ok := plan.Lookup(b.Node); !ok || seen[b.Node] {
						t.Fatalf("%s: in the plan %v, seen before %v", b.Node, ok, seen[b.Node])
					}
					seen[b.Node] = true
				}
				walk(b.Steps)
				walk(b.Rollback)
			}
		}
		walk(structure.Stages)
	})
}
