package pipeline

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// templates makes templates of files, named by their order.
func templates(t testing.TB, files ...string) *Templates {
	t.Helper()
	made, ds := LoadTemplates("tpl", templateDir(files...))
	if len(ds) != 0 {
		t.Fatalf("templates: %v", ds)
	}
	return made
}

func templateDir(files ...string) fstest.MapFS {
	dir := fstest.MapFS{}
	for i, text := range files {
		dir[fmt.Sprintf("t%d.yaml", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	return dir
}

func inputs(t testing.TB, files ...string) *Inputs {
	t.Helper()
	made, ds := LoadInputs(inputFiles(files...))
	if len(ds) != 0 {
		t.Fatalf("inputs: %v", ds)
	}
	return made
}

func inputFiles(files ...string) []InputFile {
	var list []InputFile
	for i, text := range files {
		list = append(list, InputFile{fmt.Sprintf("i%d.yaml", i), []byte(text)})
	}
	return list
}

// resolve resolves, and holds the result to what is promised about it: it gives the same plan as the pipeline, and resolving it again
// changes nothing.
func resolve(t testing.TB, yaml string, opt Options) (text string, found, all Diagnostics) {
	t.Helper()
	text, found, all, plan := resolved(t, yaml, opt)
	if text == "" {
		return text, found, all
	}
	again, _ := Load("test.yaml", []byte(text), Options{Semantics: opt.Semantics})
	if !reflect.DeepEqual(summary(plan), summary(again)) {
		t.Errorf("the resolved text has another plan:\n%s\nwant\n%s\nof\n%s", strings.Join(summary(again), "\n"), strings.Join(summary(plan), "\n"), text)
	}
	return text, found, all
}

func resolved(t testing.TB, yaml string, opt Options) (string, Diagnostics, Diagnostics, *decide.Plan) {
	t.Helper()
	plan, all := Load("test.yaml", []byte(yaml), opt)
	text, found := Resolve("test.yaml", []byte(yaml), opt)
	if text == nil {
		return "", found, all, plan
	}
	if again, ds := Resolve("test.yaml", text, opt); string(again) != string(text) {
		t.Errorf("resolving again changes\n%s\nto\n%s\n%v", text, again, ds)
	}
	return string(text), found, all, plan
}

// summary writes down what a plan decides by, without the conditions, which are functions.
func summary(plan *decide.Plan) []string {
	out := []string{plan.Pipeline}
	for _, n := range plan.Nodes() {
		line := fmt.Sprintf("%s %s", n.Level, n.Node)
		for _, s := range n.Strategies {
			line += fmt.Sprintf("; %s %s %v", s.Path, s.Errors, s.Condition != nil)
			eachAction(&s.Do, func(do *decide.ActionSpec) {
				line += fmt.Sprintf(" %s", do.Action)
				if do.Retry != nil {
					line += fmt.Sprintf(" %d %v", do.Retry.Count, do.Retry.Intervals)
					if do.Retry.Backoff != nil {
						line += fmt.Sprintf(" %+v", *do.Retry.Backoff)
					}
				}
				if do.Intervention != nil {
					line += fmt.Sprintf(" %s %s", do.Intervention.Timeout, do.Intervention.Allowed)
				}
			})
		}
		out = append(out, line)
	}
	return out
}

const stageTemplate = `template:
  name: Deploy
  identifier: deploy
  versionLabel: v1
  type: Stage
  spec:
    type: Custom
    spec:
      execution:
        steps:
          - step:
              identifier: apply
              type: ShellScript
              timeout: <+input>.default(5m)
              spec: {script: <+input>}
              failureStrategies:
                - onFailure:
                    errors: [Timeout]
                    action:
                      type: Retry
                      spec:
                        retryCount: <+input>.default(2).allowedValues(1,2,3)
                        retryIntervals: <+input>
                        onRetryFailure: {action: {type: MarkAsFailure}}
          - insert: {identifier: extra, steps: <+input>}
        rollbackSteps: []
    failureStrategies: <+input>
`

const usesStage = `pipeline:
  identifier: p
  stages:
    - stage:
        identifier: prod
        name: Production
        template:
          templateRef: deploy
          versionLabel: v1
          templateInputs:
            type: Custom
            spec:
              execution:
                steps:
                  - step:
                      identifier: apply
                      type: ShellScript
                      spec: {script: ./deploy}
                      failureStrategies:
                        - onFailure:
                            action: {spec: {retryCount: 3, retryIntervals: [10s]}}
                  - insert:
                      identifier: extra
                      steps:
                        - step:
                            identifier: smoke
                            failureStrategies: [{onFailure: {errors: [AllErrors], action: {type: Ignore}}}]
            failureStrategies:
              - onFailure: {errors: [AllErrors], action: {type: Abort}}
`

// TestResolveStage holds the whole text of one resolved pipeline.
func TestResolveStage(t *testing.T) {
	text, found, all := resolve(t, usesStage, Options{Templates: templates(t, stageTemplate)})
	const want = `pipeline:
  identifier: p
  stages:
    - stage:
        identifier: prod
        name: Production
        type: Custom
        spec:
          execution:
            steps:
              - step:
                  identifier: apply
                  type: ShellScript
                  timeout: 5m
                  spec:
                    script: ./deploy
                  failureStrategies:
                    - onFailure:
                        errors:
                          - Timeout
                        action:
                          type: Retry
                          spec:
                            retryCount: 3
                            retryIntervals:
                              - 10s
                            onRetryFailure:
                              action:
                                type: MarkAsFailure
              - insert:
                  identifier: extra
                  steps:
                    - step:
                        identifier: smoke
                        failureStrategies:
                          - onFailure:
                              errors:
                                - AllErrors
                              action:
                                type: Ignore
            rollbackSteps: []
        failureStrategies:
          - onFailure:
              errors:
                - AllErrors
              action:
                type: Abort
`
	if text != want {
		t.Errorf("got\n%s", text)
	}
	if len(found) != 0 || len(all) != 0 {
		t.Errorf("%v, %v", found, all)
	}
	plan, _ := Load("test.yaml", []byte(text), Options{})
	if s := strategiesOf(t, plan, "prod/apply", recourse.Steps); len(s) != 1 || s[0].Do.Retry.Count != 3 || s[0].Do.Retry.Intervals[0] != 10*time.Second {
		t.Errorf("%+v", s)
	}
	strategiesOf(t, plan, "prod/smoke", recourse.Steps)
}

// tpl writes a template of one line.
func tpl(id, version, kind, spec string) string {
	return fmt.Sprintf("template: {identifier: %s, versionLabel: %s, type: %s, spec: %s}\n", id, version, kind, spec)
}

// use writes a pipeline of one stage with steps.
func usesSteps(steps string) string {
	return fmt.Sprintf("{pipeline: {identifier: p, orgIdentifier: o, projectIdentifier: j, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [%s]}}}}]}}", steps)
}

func usesStep(ref string) string {
	return usesSteps("{step: {identifier: a, template: {" + ref + "}}}")
}

const stepSpec = "{type: ShellScript, timeout: 1m}"

// timed is a step template whose timeout tells it from others.
func timed(id, version string, minutes int, more string) string {
	return fmt.Sprintf("template: {identifier: %s, versionLabel: %s, type: Step%s, spec: {type: ShellScript, timeout: %dm}}\n", id, version, more, minutes)
}

// TestResolveReferences chooses templates by identifier, version and scope.
func TestResolveReferences(t *testing.T) {
	versions := []string{timed("x", "v9", 9, ""), timed("x", "v10", 10, ""), timed("x", "v2", 2, "")}
	scopes := []string{
		timed("x", "v1", 1, ""), timed("x", "v1", 2, ", orgIdentifier: o"), timed("x", "v1", 3, ", orgIdentifier: o, projectIdentifier: j"),
		timed("x", "v1", 4, ", orgIdentifier: other, projectIdentifier: j"),
	}
	for _, c := range []struct {
		name, ref string
		templates []string
		timeout   string
		codes     []string
	}{
		{"exact", "templateRef: x, versionLabel: v2", versions, "2m", nil},
		{"quoted", `"templateRef": "x", "versionLabel": "v2"`, versions, "2m", nil},
		{"highest", "templateRef: x", versions, "10m", []string{"warning template-version-chosen"}},
		{"empty version", `templateRef: x, versionLabel: ""`, versions, "10m", []string{"warning template-version-chosen"}},
		{"stable", "templateRef: x", append(versions, timed("x", "v1", 1, ", stable: true")), "1m", nil},
		{"missing version", "templateRef: x, versionLabel: v3", versions, "", []string{"error template-version"}},
		{"open version", "templateRef: x, versionLabel: <+input>", versions, "", []string{"error template-version"}},
		{"missing", "templateRef: y, versionLabel: v1", versions, "", []string{"error template-unresolved"}},
		{"no name", "templateRef: , versionLabel: v1", versions, "", []string{"error template-unresolved"}},
		{"open name", "templateRef: <+input>, versionLabel: v1", versions, "", []string{"error template-unresolved"}},
		{"no reference", "versionLabel: v1", versions, "", []string{"error template-unresolved"}},
		{"project", "templateRef: x, versionLabel: v1", scopes, "3m", nil},
		{"org", "templateRef: org.x, versionLabel: v1", scopes, "2m", nil},
		{"account", "templateRef: account.x, versionLabel: v1", scopes, "1m", nil},
		{"falls back", "templateRef: x, versionLabel: v1", scopes[:1], "1m", nil},
		{"out of scope", "templateRef: account.x, versionLabel: v1", scopes[2:], "", []string{"error template-unresolved"}},
		{"somebody else's", "templateRef: x, versionLabel: v1", scopes[3:], "", []string{"error template-unresolved"}},
		{"wrong type", "templateRef: x, versionLabel: v1", []string{tpl("x", "v1", "StepGroup", "{steps: []}")}, "", []string{"error template-wrong-type"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, found, all := resolve(t, usesStep(c.ref), Options{Templates: templates(t, c.templates...)})
			if got := codes(found); !slices.Equal(got, append([]string{}, c.codes...)) || !slices.Equal(codes(all), got) {
				t.Errorf("got %v and %v, want %v", found, all, c.codes)
			}
			if c.timeout != "" && !strings.Contains(text, "timeout: "+c.timeout+"\n") {
				t.Errorf("want %s in\n%s", c.timeout, text)
			}
			if c.timeout == "" && text != "" {
				t.Errorf("there is a text with errors in it:\n%s", text)
			}
		})
	}
	_, found, _ := resolve(t, usesStep("templateRef: x, versionLabel: v3"), Options{Templates: templates(t, versions...)})
	if want := `there are "v2", "v9", "v10"`; found[0].Fix != want || found[0].Column == 1 {
		t.Errorf("got %+v, want %s", found[0], want)
	}
	_, found, _ = resolve(t, usesStep("templateRef: depoly, versionLabel: v3"), Options{Templates: templates(t, stageTemplate)})
	if want := "did you mean deploy?"; found[0].Fix != want {
		t.Errorf("got %+v, want %s", found[0], want)
	}
}

// TestResolveKinds puts templates in each place, and in each other.
func TestResolveKinds(t *testing.T) {
	files := []string{
		tpl("st", "v1", "Step", "{type: Http, timeout: <+input>, failureStrategies: [{onFailure: {errors: [Timeout], action: {type: Abort}}}]}"),
		tpl("gr", "v1", "StepGroup", "{stageType: Custom, steps: [{step: {identifier: in, template: {templateRef: st, versionLabel: v1, templateInputs: {type: Http, timeout: <+input>}}}}, {parallel: [{step: {identifier: two, type: Http, timeout: <+input>}}]}]}"),
		tpl("sg", "v1", "Stage", "{type: Custom, spec: {execution: {steps: [{stepGroup: {identifier: g, template: {templateRef: gr, versionLabel: v1, templateInputs: {steps: [{step: {identifier: in, template: {templateInputs: {timeout: <+input>.default(7m)}}}}]}}}}]}}}"),
		tpl("pi", "v1", "Pipeline", "{stages: [{stage: {identifier: one, template: {templateRef: sg, versionLabel: v1}}}, {insert: {identifier: more, stages: <+input>}}]}"),
	}
	const yaml = `{pipeline: {identifier: p, template: {templateRef: pi, versionLabel: v1, templateInputs: {stages: [{insert: {identifier: more, stages: [{stage: {identifier: two, type: Custom, spec: {execution: {steps: [{step: {identifier: x}}]}}}}]}}]}}}}`
	text, _, all := resolve(t, yaml, Options{Templates: templates(t, files...)})
	if len(all) != 0 {
		t.Errorf("%v", all)
	}
	plan, _ := Load("x", []byte(text), Options{})
	var got []string
	for _, n := range plan.Nodes() {
		got = append(got, n.Path)
	}
	if want := []string{"one", "one/g", "one/g/in", "one/g/two", "two", "two/x"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v\n%s", got, want, text)
	}
	if !strings.Contains(text, "timeout: 7m") || strings.Contains(text, "templateRef") {
		t.Errorf("got\n%s", text)
	}
	if s := strategiesOf(t, plan, "one/g/in", recourse.Steps); len(s) != 1 || s[0].Do.Action != recourse.Abort {
		t.Errorf("%+v", s)
	}
}

// TestResolvePlaces: a finding has its place where it is written, and what is written in a template is told once.
func TestResolvePlaces(t *testing.T) {
	const broken = "template:\n  identifier: x\n  versionLabel: v1\n  type: Step\n  spec:\n    failureStrategies:\n      - onFailure: {errors: [Timeot], action: {type: Abort}}\n      - onFailure: {errors: [Timeout], action: <+input>}\n"
	const wrong = "{type: Abbort}"
	yaml := usesSteps("{step: {identifier: a, template: {templateRef: x, versionLabel: v1, templateInputs: {failureStrategies: [{onFailure: {}}, {onFailure: {action: " + wrong + "}}]}}}}, {step: {identifier: b, template: {templateRef: x, versionLabel: v1}}}")
	_, all := Load("test.yaml", []byte(yaml), Options{Templates: templates(t, broken)})
	want := []string{
		fmt.Sprintf("test.yaml:1:%d unknown-action", strings.Index(yaml, "Abbort")+1),
		"tpl/t0.yaml:7:30 unknown-error-type",
		"tpl/t0.yaml:8:48 unresolved-input",
	}
	var got []string
	for _, d := range all {
		if d.Code != "input-unused" {
			got = append(got, fmt.Sprintf("%s:%d:%d %s", d.File, d.Line, d.Column, d.Code))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestResolveRefusals: cycles, depth, and what a node says beside its template.
func TestResolveRefusals(t *testing.T) {
	group := func(id, inner string) string {
		return tpl(id, "v1", "StepGroup", "{steps: [{stepGroup: {identifier: g, template: {templateRef: "+inner+", versionLabel: v1}}}]}")
	}
	var deep []string
	for i := range MaxTemplateDepth + 1 {
		deep = append(deep, group(fmt.Sprintf("d%d", i), fmt.Sprintf("d%d", i+1)))
	}
	strategies := "failureStrategies: [{onFailure: {errors: [AllErrors], action: {type: Ignore}}}]"
	for _, c := range []struct {
		name, yaml string
		templates  []string
		codes      []string
	}{
		{"itself", usesSteps("{stepGroup: {identifier: g, template: {templateRef: a, versionLabel: v1}}}"), []string{group("a", "a")}, []string{"error template-cycle"}},
		{"each other", usesSteps("{stepGroup: {identifier: g, template: {templateRef: a, versionLabel: v1}}}"), []string{group("a", "b"), group("b", "a")}, []string{"error template-cycle"}},
		{"too deep", usesSteps("{stepGroup: {identifier: g, template: {templateRef: d0, versionLabel: v1}}}"), deep, []string{"error template-cycle"}},
		{"its spec is one", usesStep("templateRef: a, versionLabel: v1"), []string{tpl("a", "v1", "Step", "{template: {templateRef: a, versionLabel: v1}}")}, []string{"error template-cycle"}},
		{"own strategies", usesSteps("{step: {identifier: a, " + strategies + ", template: {templateRef: a, versionLabel: v1}}}"), []string{tpl("a", "v1", "Step", "{type: X, "+strategies+"}")}, []string{"warning template-override"}},
		{"own strategies alone", usesSteps("{step: {identifier: a, " + strategies + ", template: {templateRef: a, versionLabel: v1}}}"), []string{tpl("a", "v1", "Step", "{type: X, failureStrategies: []}")}, nil},
		{"a fixed value", usesStep("templateRef: a, versionLabel: v1, templateInputs: {type: X, timeout: 5m}"), []string{tpl("a", "v1", "Step", "{type: X, timeout: 1m}")}, []string{"warning input-unused"}},
		{"nothing there", usesStep("templateRef: a, versionLabel: v1, templateInputs: {type: X, timeout: 5m}"), []string{tpl("a", "v1", "Step", "{type: X}")}, []string{"warning input-unused"}},
		{"the same value", usesStep("templateRef: a, versionLabel: v1, templateInputs: {type: X, timeout: 1m}"), []string{tpl("a", "v1", "Step", "{type: X, timeout: 1m}")}, nil},
		{"not allowed", usesStep("templateRef: a, versionLabel: v1, templateInputs: {timeout: 5m}"), []string{tpl("a", "v1", "Step", `{timeout: "<+input>.allowedValues(1m,2m)"}`)}, []string{"error input-not-allowed"}},
		{"not a template of a node", usesSteps("{step: {identifier: a, spec: {source: {template: {templateRef: nobody, versionLabel: v1}}}}}"), []string{tpl("a", "v1", "Step", "{}")}, nil},
		{"inputs of another pipeline", "{pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Pipeline, spec: {inputs: {template: {templateRef: nobody}, stages: [{stage: {identifier: z, template: {templateRef: nobody}}}]}}}}]}}", []string{tpl("a", "v1", "Step", "{}")}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, found, _ := resolve(t, c.yaml, Options{Templates: templates(t, c.templates...)})
			if got := codes(found); !slices.Equal(got, append([]string{}, c.codes...)) {
				t.Errorf("got %v, want %v", found, c.codes)
			}
		})
	}
	_, found, _ := resolve(t, usesSteps("{stepGroup: {identifier: g, template: {templateRef: a, versionLabel: v1}}}"), Options{Templates: templates(t, group("a", "b"), group("b", "a"))})
	if !strings.HasSuffix(found[0].Message, `"a" → "b" → "a"`) || found[0].File != "tpl/t1.yaml" {
		t.Errorf("got %v", found)
	}
}

// TestLoadTemplates looks at what is in a directory.
func TestLoadTemplates(t *testing.T) {
	dir := fstest.MapFS{
		"a.yaml":           {Data: []byte(tpl("a", "v1", "Step", stepSpec) + "---\n" + tpl("b", "v1", "Step", stepSpec))},
		"sub/c.yml":        {Data: []byte(tpl("c", "v1", "Step", stepSpec))},
		"sub/again.yaml":   {Data: []byte(tpl("a", "v1", "Step", "{timeout: 9m}"))},
		"broken.yaml":      {Data: []byte("template:\n\t- x")},
		"chart.yaml":       {Data: []byte("x: {{ .Values.x }}\n\ttemplates: [")},
		"nameless.yaml":    {Data: []byte("template: {type: Step, spec: {}}")},
		"pipeline.yaml":    {Data: []byte(usesStep("templateRef: a"))},
		"notes.txt":        {Data: []byte(tpl("d", "v1", "Step", stepSpec))},
		".git/config.yaml": {Data: []byte(tpl("e", "v1", "Step", stepSpec))},
		"json.yaml":        {Data: []byte(`{"template": {"identifier": "f", "type": "Step", "spec": {}}}`)},
		"large.yaml":       {Data: []byte("template: " + strings.Repeat("x", MaxSize))},
	}
	got, ds := LoadTemplates("dir", dir)
	want := []string{"dir/broken.yaml template-unreadable", "dir/large.yaml template-unreadable", "dir/nameless.yaml template-unreadable", "dir/sub/again.yaml template-duplicate"}
	var have []string
	for _, d := range ds {
		have = append(have, d.File+" "+d.Code)
	}
	if !slices.Equal(have, want) || ds.HasErrors() {
		t.Errorf("got %v, want %v", ds, want)
	}
	var ids []string
	for id := range got.byID {
		ids = append(ids, id)
	}
	if slices.Sort(ids); !slices.Equal(ids, []string{"a", "b", "c", "f"}) {
		t.Errorf("got %v", ids)
	}
	text, _, _ := resolve(t, usesStep("templateRef: a, versionLabel: v1"), Options{Templates: got})
	if !strings.Contains(text, "timeout: 1m") {
		t.Errorf("the first does not count:\n%s", text)
	}
	if _, ds := LoadTemplates("gone", os.DirFS(t.TempDir()+"/gone")); !slices.Equal(codes(ds), []string{"error templates-unreadable"}) {
		t.Errorf("got %v", ds)
	}
}

func TestNatural(t *testing.T) {
	ordered := []string{"", "1", "1.2", "1.9", "1.10", "2", "v1", "v2", "v2-rc1", "v2.1", "v9", "v10", "v10a"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got, want := natural(a, b), cmpInt(i, j); got != want {
				t.Errorf("%q, %q: %d, want %d", a, b, got, want)
			}
		}
	}
	if natural("v01", "v1") == 0 || natural("v01", "v1") != -natural("v1", "v01") {
		t.Error("two names are equal only where they are the same")
	}
}

func cmpInt(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// TestInputs fills a pipeline from files.
func TestInputs(t *testing.T) {
	const yaml = `pipeline:
  identifier: p
  variables:
    - name: region
      value: <+input>.allowedValues(eu, us)
    - name: tag
      value: <+input>.default("latest")
    - name: late
      value: <+input>.default(x).executionInput()
  stages:
    - stage:
        identifier: s
        timeout: <+input>.regex(^[0-9]+[mh]$)
        spec:
          execution:
            steps:
              - parallel:
                  - step: {identifier: a, failureStrategies: <+input>}
                  - step: {identifier: b, timeout: 1m}
`
	in := func(body string) string {
		return "{inputSet: {identifier: one, pipeline: {identifier: p, " + body + "}}}"
	}
	region := func(value string) string { return in("variables: [{name: region, value: " + value + "}]") }
	steps := func(steps string) string {
		return in("stages: [{stage: {identifier: s, spec: {execution: {steps: [{parallel: [" + steps + "]}]}}}}]")
	}
	for _, c := range []struct {
		name  string
		files []string
		codes []string
		want  []string // parts of the resolved text
	}{
		{"none", nil, []string{}, []string{"value: <+input>.allowedValues(eu, us)", "value: latest", "value: <+input>.default(x).executionInput()"}},
		{"allowed", []string{region("eu")}, []string{}, []string{"value: eu\n"}},
		{"not allowed", []string{region("cn")}, []string{"error input-not-allowed"}, nil},
		{"an expression", []string{region("<+env.region>")}, []string{}, []string{"value: <+env.region>\n"}},
		{"each of a list", []string{region("[eu, cn]")}, []string{"error input-not-allowed"}, nil},
		{"a mapping", []string{region("{a: b}")}, []string{"error input-not-allowed"}, nil},
		{"the last one wins", []string{region("eu"), region("us")}, []string{}, []string{"value: us\n"}},
		{"an input does not win", []string{region("eu"), region("<+input>")}, []string{}, []string{"value: eu\n"}},
		{"its default", []string{region("<+input>.default(us)")}, []string{}, []string{"value: us\n"}},
		{"its bad default", []string{region("<+input>.default(cn)")}, []string{"error input-not-allowed"}, nil},
		{"pattern", []string{in("stages: [{stage: {identifier: s, timeout: 10m}}]")}, []string{}, []string{"timeout: 10m"}},
		{"bad pattern", []string{in("stages: [{stage: {identifier: s, timeout: 10 minutes}}]")}, []string{"error input-not-allowed"}, nil},
		{"strategies", []string{steps("{step: {identifier: a, failureStrategies: [{onFailure: {errors: [AllErrors], action: {type: Abort}}}]}}")}, []string{}, []string{"type: Abort"}},
		{"a fixed value", []string{steps("{step: {identifier: b, timeout: 2m}}")}, []string{"warning input-unused"}, []string{"timeout: 1m"}},
		{"no such step", []string{steps("{step: {identifier: b, timeout: 1m}}, {step: {identifier: z, timeout: 2m}}")}, []string{"warning input-unused"}, nil},
		{"no such key", []string{in("foo: {bar: [1, 2]}")}, []string{"warning input-unused"}, nil},
		{"another pipeline", []string{strings.Replace(region("eu"), "identifier: p", "identifier: q", 1)}, []string{"warning input-set-pipeline"}, []string{"value: eu\n"}},
		{"a pipeline", []string{"{pipeline: {variables: [{name: region, value: eu}]}}"}, []string{}, []string{"value: eu\n"}},
		{"an overlay", []string{"overlayInputSet: {identifier: both, inputSetReferences: [two, one]}", region("eu"), strings.Replace(region("us"), "one", "two", 1)}, []string{}, []string{"value: us\n"}},
		{"an overlay last", []string{region("eu"), strings.Replace(region("us"), "one", "two", 1), "overlayInputSet: {identifier: both, inputSetReferences: [two, one]}"}, []string{}, []string{"value: eu\n"}},
		{"documents", []string{region("eu") + "\n---\n" + region("us")}, []string{}, []string{"value: us\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, found, _ := resolve(t, yaml, Options{Inputs: inputs(t, c.files...)})
			if got := codes(found); !slices.Equal(got, c.codes) {
				t.Errorf("got %v, want %v", found, c.codes)
			}
			for _, d := range found {
				if d.Code == "input-not-allowed" && d.File != "i0.yaml" {
					t.Errorf("not where the value is given: %s", d)
				}
			}
			for _, part := range c.want {
				if !strings.Contains(text, part) {
					t.Errorf("%q is missing in\n%s", part, text)
				}
			}
		})
	}
	_, _, all := resolve(t, yaml, Options{Inputs: inputs(t)})
	if got := codes(all); !slices.Equal(got, []string{"warning unresolved-input"}) {
		t.Errorf("what is not given: %v", all)
	}
	if got, _ := Resolve("x", []byte(yaml), Options{}); string(got) != yaml {
		t.Errorf("nothing to resolve with, and it differs:\n%s", got)
	}
}

// TestInputFiles: what cannot be inputs is told.
func TestInputFiles(t *testing.T) {
	set := "inputSet: {identifier: one, pipeline: {}}"
	for name, c := range map[string]struct {
		files []string
		codes []string
	}{
		"empty":           {[]string{""}, []string{"error no-inputs"}},
		"not YAML":        {[]string{"a: [", set}, []string{"error yaml-syntax"}},
		"something else":  {[]string{"a: b"}, []string{"error no-inputs"}},
		"no pipeline":     {[]string{"inputSet: {identifier: x}"}, []string{"error no-inputs"}},
		"overlay of none": {[]string{"overlayInputSet: {identifier: x}"}, []string{"error input-set-unresolved"}},
		"overlay":         {[]string{set, "overlayInputSet: {inputSetReferences: [one, two, '', {}]}"}, []string{"error input-set-unresolved", "error input-set-unresolved", "error input-set-unresolved"}},
	} {
		if in, ds := LoadInputs(inputFiles(c.files...)); !slices.Equal(codes(ds), c.codes) || in == nil {
			t.Errorf("%s: got %v, want %v", name, ds, c.codes)
		}
	}
}

// TestInputsOfTemplates: inputs reach what came with a template, by the way that the pipeline has it and by the way it has afterwards.
func TestInputsOfTemplates(t *testing.T) {
	opt := Options{Templates: templates(t, tpl("x", "v1", "Step", "{type: Http, timeout: '<+input>.default(9m)'}"))}
	const handed = "templateRef: x, versionLabel: v1, templateInputs: {type: Http, timeout: <+input>}"
	at := func(step string) string {
		return "{pipeline: {stages: [{stage: {identifier: s, spec: {execution: {steps: [{step: {identifier: a, " + step + "}}]}}}}]}}"
	}
	for _, c := range []struct{ yaml, inputs, want string }{
		{usesStep(handed), "", "9m"},
		{usesStep(handed), at("template: {templateInputs: {timeout: 2m}}"), "2m"},
		{usesStep(handed), at("timeout: 3m"), "3m"},
		{usesStep("templateRef: x, versionLabel: v1"), at("timeout: 4m"), "4m"},
		{usesStep(strings.Replace(handed, "<+input>", "<+input>.default(5m)", 1)), "", "5m"},
	} {
		opt.Inputs = nil
		if c.inputs != "" {
			opt.Inputs = inputs(t, c.inputs)
		}
		text, found, all := resolve(t, c.yaml, opt)
		if !strings.Contains(text, "timeout: "+c.want+"\n") || len(found) != 0 || len(all) != 0 {
			t.Errorf("want %s: %v %v\n%s", c.want, found, all, text)
		}
	}
}

func TestParseInput(t *testing.T) {
	for text, want := range map[string]input{
		"<+input>":            {bare: true},
		" <+input> ":          {bare: true},
		"<+input>.default(3)": {defaultText: "3", hasDefault: true},
		`<+input>.default("a b").allowedValues(a b, 'c')`: {defaultText: "a b", hasDefault: true, allowed: []string{"a b", "c"}},
		"<+input>.default(<+a.b(1)>).executionInput()":    {defaultText: "<+a.b(1)>", hasDefault: true, late: true},
		`<+input>.regex(^\(x\)$).default()`:               {pattern: `^\(x\)$`, hasPattern: true, hasDefault: true},
		"<+input>.regex(a":                                {pattern: "a", hasPattern: true},
		"<+input>.somethingNew(1).default(2)":             {defaultText: "2", hasDefault: true},
		"<+input>.x":                                      {},
	} {
		if got := parseInput(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}

// TestPatterns: a pattern has to match all of a value; one that Go does not know is a warning.
func TestPatterns(t *testing.T) {
	for pattern, want := range map[string][]string{
		"[0-9]+": {}, "[0-9]": {"error input-not-allowed"}, "(?=x)": {"warning input-unchecked"}, "a|42": {},
	} {
		yaml := "{pipeline: {identifier: p, x: '<+input>.regex(" + pattern + ")'}}"
		if _, found, _ := resolve(t, yaml, Options{Inputs: inputs(t, "pipeline: {x: 42}")}); !slices.Equal(codes(found), want) {
			t.Errorf("%s: %v, want %v", pattern, found, want)
		}
	}
}

// TestRender: what is written is read as what it was.
func TestRender(t *testing.T) {
	for _, text := range []string{
		"a", "1", "-1", "+5", "1.5e3", "true", "null", "~", "", " ", "a b", " a", "a ", "a: b", "a:b", "a:", "a #b", "a#b", "#a", "- a", "-", "-a", "---", "...",
		"<+input>", "<+a.b> == \"x\"", "<<", "=", "?", "&a", "*a", "!x", "|", ">", "%a", "@a", "`a`", "{a}", "[a]", "a, b", "'a'", "\"a\"", "\\",
		"a\nb", "a\nb\n", "a\n\nb\n\n", "\na", " a\nb", "a \nb  \n", "a\n  \nb", "a\n ", "a\tb", "a\r\nb", "\x00", "\u0085", "\u2028", "\ufeff", "ä→𝄞", "\U0001F600", "\u00a0",
		strings.Repeat("k", 2000), "2001-12-14 21:59:43.10 -5", "0x1F", "1_000", "012", ".5", "yes", "a\n# b\n---\n", "key: |\n  x",
	} {
		for _, quoted := range []bool{true, false} {
			leaf := &value{kind: scalar, text: text, quoted: quoted, size: 1, height: 1}
			if !quoted && isNull(text) {
				continue // it would have been nothing
			}
			empty := &value{kind: mapping, size: 1, height: 1}
			list := (&value{kind: sequence, items: []*value{leaf, empty, {kind: null}, {kind: sequence, items: []*value{leaf, leaf}}}}).measured()
			tree := (&value{kind: mapping, entries: []entry{{key: text, value: list}, {key: "z z", value: leaf}, {key: "e", value: empty}}}).measured()
			out := render(tree)
			found := &findings{file: "x"}
			again := parse(out, found)
			if len(found.list) != 0 || !same(tree, again) {
				t.Errorf("%q, quoted %v: %v\n%s", text, quoted, found.list, out)
			}
		}
	}
	long := &value{kind: scalar, text: strings.Repeat("x", MaxSize/2)}
	if render(&value{kind: sequence, items: []*value{long, long, long}}) != nil {
		t.Error("a text longer than a pipeline may be")
	}
}

// same compares two trees, without places.
func same(a, b *value) bool {
	return b != nil && a.kind == b.kind && (a.text == b.text || a.kind == null) &&
		slices.EqualFunc(a.entries, b.entries, func(a, b entry) bool { return a.key == b.key && same(a.value, b.value) }) &&
		slices.EqualFunc(a.items, b.items, same)
}

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("k%d", i)
	}
	return names
}

// TestResolveBombs: templates that multiply end in a diagnostic, and soon.
func TestResolveBombs(t *testing.T) {
	var doubling []string
	for i := range MaxTemplateDepth {
		ref := fmt.Sprintf("{stepGroup: {identifier: g, template: {templateRef: b%d, versionLabel: v1}}}", i+1)
		doubling = append(doubling, tpl(fmt.Sprintf("b%d", i), "v1", "StepGroup", "{steps: ["+strings.Repeat(ref+",", 10)+"]}"))
	}
	doubling = append(doubling, tpl(fmt.Sprintf("b%d", MaxTemplateDepth), "v1", "StepGroup", "{steps: []}"))
	wide := tpl("w", "v1", "Step", "{x: ["+strings.Repeat("1,", 50_000)+"]}")
	deep := tpl("w", "v1", "Step", "{x: "+strings.Repeat("[", 195)+strings.Repeat("]", 195)+"}")
	step := "{step: {identifier: a, template: {templateRef: w, versionLabel: v1}}},"
	long := tpl("w", "v1", "Step", "{x: "+strings.Repeat("y", 200_000)+"}")
	for _, c := range []struct {
		name, yaml string
		templates  []string
		inputs     []string
	}{
		{"multiplying", usesSteps("{stepGroup: {identifier: g, template: {templateRef: b0, versionLabel: v1}}}"), doubling, nil},
		{"many wide ones", usesSteps(strings.Repeat(step, 10_000)), []string{wide}, nil},
		{"too deep", usesSteps(step), []string{deep}, nil},
		{"too long", usesSteps(strings.Repeat(step, 1000)), []string{long}, nil},
		{"inputs that multiply", "pipeline: {identifier: p, x: &x [" + strings.Repeat("<+input>,", 1000) + "]}", nil, []string{"pipeline: {x: [" + strings.Repeat("["+strings.Repeat("1,", 190)+"],", 1000) + "]}", "pipeline: {y: [" + strings.Repeat("1,", 100_000) + "]}"}},
		{"one input set many times", usesSteps(""), nil, []string{
			"inputSet: {identifier: a, pipeline: {y: {" + strings.Join(numbered(20_000), ": 1, ") + ": 1}}}",
			"overlayInputSet: {inputSetReferences: [" + strings.Repeat("a,", 100_000) + "]}"}},
		{"many values of one input", "pipeline: {identifier: p, x: &x '<+input>.regex(" + strings.Repeat("(a|b)*", 1000) + ")', y: [" + strings.Repeat("*x,", 5000) + "]}", nil, []string{"pipeline: {y: [" + strings.Repeat(strings.Repeat("ab", 100)+",", 3000) + "]}"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			opt := Options{Templates: templates(t, c.templates...)}
			bad := false
			if c.inputs != nil {
				in, ds := LoadInputs(inputFiles(c.inputs...))
				opt.Inputs, bad = in, ds.HasErrors()
			}
			text, found := Resolve("x", []byte(c.yaml), opt)
			for _, d := range found {
				bad = bad || d.Code == "yaml-limits" || d.Code == "input-unchecked"
			}
			if !bad {
				t.Errorf("no bound: %.300v", found)
			}
			if len(text) > MaxSize {
				t.Errorf("%d bytes", len(text))
			}
			plan, _ := Load("x", []byte(c.yaml), opt)
			if plan != nil && len(plan.Nodes()) > MaxNodes {
				t.Errorf("%d nodes", len(plan.Nodes()))
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// FuzzResolve: no panic, the bounds hold, the result reads like the pipeline, and resolving it again changes nothing.
func FuzzResolve(f *testing.F) {
	f.Add(usesStage, stageTemplate, "pipeline: {stages: [{stage: {identifier: prod, spec: {execution: {steps: [{step: {identifier: apply, timeout: 3m}}]}}}}]}")
	f.Add(usesStep("templateRef: x"), timed("x", "v1", 1, "")+"---\n"+timed("x", "v2", 2, ""), "overlayInputSet: {inputSetReferences: [a]}\n---\ninputSet: {identifier: a, pipeline: {identifier: q}}")
	f.Add("pipeline: {identifier: p, a: '<+input>.default(<+input>.default(3)).regex((a)', b: \"a\\nb\\n\", ? [x] : y, <<: {c: 1}}", "template: {identifier: x, spec: {template: {templateRef: x}}}", "pipeline: {a: [1, {b: c}], identifier: '<+input>'}")
	f.Add("template: {identifier: t, type: Stage, spec: {template: {templateRef: t}}}", "template: {identifier: t, type: Stage, spec: {type: Pipeline}}", "pipeline: {}")
	examples, err := filepath.Glob("../../examples/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range examples {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "template: {identifier: x, type: Step, spec: {}}", string(text))
	}
	f.Fuzz(func(t *testing.T, yaml, template, input string) {
		made, ds := LoadTemplates("tpl", templateDir(template))
		in, more := LoadInputs(inputFiles(input))
		if made == nil || in == nil || len(ds) > MaxDiagnostics+1 || len(more) > MaxDiagnostics+1 {
			t.Fatal("nothing was loaded")
		}
		for _, opt := range []Options{{Templates: made, Inputs: in}, {Templates: made}, {Inputs: in}} {
			text, found, all, plan := resolved(t, yaml, opt)
			if len(found) > MaxDiagnostics+1 || len(text) > MaxSize {
				t.Errorf("%d diagnostics, %d bytes", len(found), len(text))
			}
			for _, d := range append(found, all...) {
				if _, known := RuleOf(d.Code); !known || d.Line < 1 || d.Column < 1 || d.File == "" || d.Message == "" || d.Severity == 0 {
					t.Errorf("incomplete: %+v", d)
				}
			}
			if text == "" {
				if len(yaml) > 0 && !found.HasErrors() {
					t.Errorf("no text, and nobody says why: %v", found)
				}
				continue
			}
			again, _ := Load("test.yaml", []byte(text), Options{})
			if again == nil || !reflect.DeepEqual(summary(plan), summary(again)) {
				t.Errorf("the resolved text has another plan:\n%v\nwant\n%v\nof\n%s", again, summary(plan), text)
			}
		}
	})
}

// TestResolveEnds: a default that is an input itself is filled in once, not again in each round.
func TestResolveEnds(t *testing.T) {
	opt := Options{Templates: templates(t), Inputs: inputs(t, "pipeline:\n  identifier: p\n  name: <+input>.default(<+input>.default(x))\n")}
	text, found, _ := resolve(t, "pipeline:\n  identifier: p\n  name: <+input>\n", opt)
	if len(found) != 0 || !strings.Contains(text, "name: x\n") {
		t.Errorf("got %q, %v", text, found)
	}
}
