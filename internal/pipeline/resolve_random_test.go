package pipeline

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// TestResolveRandom: whatever pipeline, templates and inputs are, the result reads like the pipeline does with them, and resolving it
// again changes nothing.
func TestResolveRandom(t *testing.T) {
	resolvedSome, refusedSome := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		yaml := render(mapOf("pipeline", mapOf("identifier", text("p"), "a", leaf(t), "stages", nodes(t, "stage", 3))))
		var files []string
		for range rapid.IntRange(0, 4).Draw(t, "templates") {
			kind := rapid.SampledFrom([]string{"Step", "StepGroup", "Stage"}).Draw(t, "kind")
			key := map[string]string{"Step": "step", "StepGroup": "stepGroup", "Stage": "stage"}[kind]
			files = append(files, string(render(mapOf("template", mapOf("identifier", id(t), "versionLabel", version(t), "type", text(kind), "spec", says(t, key, 2))))))
		}
		made, _ := LoadTemplates("tpl", templateDir(files...))
		in, _ := LoadInputs(inputFiles(string(render(mapOf("pipeline", mapOf("identifier", text("p"), "a", leaf(t), "stages", nodes(t, "stage", 3)))))))
		for _, opt := range []Options{{Templates: made, Inputs: in}, {Templates: made}, {Inputs: in}} {
			plan, all := Load("x", yaml, opt)
			text, found := Resolve("x", yaml, opt)
			if text == nil {
				refusedSome++
				if !found.HasErrors() || !all.HasErrors() {
					t.Fatalf("no text, and nobody says why: %v; %v", found, all)
				}
				continue
			}
			if string(text) != string(yaml) {
				resolvedSome++
			}
			if again, ds := Resolve("x", text, opt); string(again) != string(text) {
				t.Fatalf("resolving again changes\n%s\nto\n%s\n%v", text, again, ds)
			}
			if again, _ := Load("x", text, Options{}); !reflect.DeepEqual(summary(again), summary(plan)) {
				t.Fatalf("another plan:\n%q\nwant\n%q\nof\n%s", summary(again), summary(plan), text)
			}
		}
	})
	if resolvedSome == 0 || refusedSome == 0 {
		t.Errorf("%d were resolved and %d refused: the one or the other was not tried", resolvedSome, refusedSome)
	}
}

func id(t *rapid.T) *value {
	return text(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "id"))
}

func version(t *rapid.T) *value {
	return text(rapid.SampledFrom([]string{"v1", "v2", ""}).Draw(t, "version"))
}

func leaf(t *rapid.T) *value {
	return text(rapid.SampledFrom([]string{
		"<+input>", "<+input>", "<+input>.default(1)", "<+input>.default(<+input>.default(x))", "<+input>.allowedValues(1,2)", "<+input>.default(3).executionInput()",
		"<+input>.regex([0-9]).default(5)", "<+a.b>", "1", "2", "x", "a: b\nc", " z",
	}).Draw(t, "leaf"))
}

// nodes is a list of nodes under a key, now and then in parallel or an input.
func nodes(t *rapid.T, key string, depth int) *value {
	if rapid.IntRange(0, 9).Draw(t, "open") == 0 {
		return text("<+input>")
	}
	list := &value{kind: sequence}
	for range rapid.IntRange(0, 3).Draw(t, "n") {
		kind := key
		if key == "step" && depth > 0 && rapid.Bool().Draw(t, "group") {
			kind = "stepGroup"
		}
		node := says(t, kind, depth)
		node.entries = append([]entry{{key: "identifier", value: id(t)}}, node.entries...)
		item := mapOf(kind, node.measured())
		switch rapid.IntRange(0, 5).Draw(t, "wrap") {
		case 0:
			item = mapOf("parallel", (&value{kind: sequence, items: []*value{item}}).measured())
		case 1:
			item = mapOf("insert", mapOf("identifier", id(t), map[string]string{"stage": "stages", "step": "steps"}[key], nodes(t, key, depth-1)))
		}
		list.items = append(list.items, item)
	}
	return list.measured()
}

// says is what a node says: itself, or by a template.
func says(t *rapid.T, key string, depth int) *value {
	if depth < 0 {
		return mapOf("timeout", leaf(t))
	}
	if rapid.IntRange(0, 2).Draw(t, "template") == 0 {
		ref := mapOf("templateRef", id(t), "versionLabel", version(t))
		if rapid.Bool().Draw(t, "inputs") {
			ref = mapOf("templateRef", id(t), "versionLabel", version(t), "templateInputs", says(t, key, depth-1))
		}
		return mapOf("template", ref)
	}
	strategies := leaf(t)
	if rapid.Bool().Draw(t, "strategies") {
		strategy := mapOf("onFailure", mapOf("errors", (&value{kind: sequence, items: []*value{text("Timeout")}}).measured(),
			"action", mapOf("type", text("Retry"), "spec", mapOf("retryCount", leaf(t), "onRetryFailure", mapOf("action", mapOf("type", text("Abort")))))))
		strategies = (&value{kind: sequence, items: []*value{strategy}}).measured()
	}
	switch key {
	case "stage":
		return mapOf("type", text("Custom"), "failureStrategies", strategies, "spec", mapOf("execution", mapOf("steps", nodes(t, "step", depth-1))))
	case "stepGroup":
		return mapOf("failureStrategies", strategies, "timeout", leaf(t), "steps", nodes(t, "step", depth-1))
	}
	return mapOf("failureStrategies", strategies, "timeout", leaf(t))
}
