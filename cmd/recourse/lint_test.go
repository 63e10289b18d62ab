package main

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/cli/online"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// templated is a pipeline in one directory whose step is in a template in another, with a finding each, and its inputs.
func templated(t *testing.T) (file, templates, inputs string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"deploy.yaml": `pipeline:
  identifier: deploy
  orgIdentifier: retail
  projectIdentifier: web
  stages:
    - stage:
        identifier: prod
        type: Custom
        spec:
          execution:
            steps:
              - step:
                  identifier: apply
                  template:
                    templateRef: account.apply
                    versionLabel: v1
                    templateInputs:
                      timeout: <+input>
            rollbackSteps: []
        failureStrategies:
          - onFailure: {errors: [AllErrors], action: {type: StageRollback}}
`,
		"templates/apply.yaml": `template:
  identifier: apply
  versionLabel: v1
  type: Step
  spec:
    type: ShellScript
    timeout: <+input>.default(10m)
    failureStrategies:
      - onFailure:
          errors: [Authorization]
          action: {type: Retry, spec: {retryCount: 2, retryIntervals: [7s], onRetryFailure: {action: {type: Abort}}}}
`,
		"fast.yaml": "inputSet: {identifier: fast, pipeline: {identifier: deploy, stages: [{stage: {identifier: prod, spec: {execution: {steps: [{step: {identifier: apply, template: {templateInputs: {timeout: 1m}}}}]}}}}]}}\n",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "deploy.yaml"), filepath.Join(dir, "templates"), filepath.Join(dir, "fast.yaml")
}

func found(list pipeline.Diagnostics) []string {
	out := []string{}
	for _, d := range list {
		out = append(out, d.Severity.String()+" "+d.Code)
	}
	return out
}

func TestLint(t *testing.T) {
	file, templates, inputs := templated(t)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other := writeFile(t, string(content))
	const bad = "../../internal/pipeline/testdata/lint/many-retries/bad.yaml"
	for _, test := range []struct {
		name string
		code int
		args []string
		want []string
	}{
		{"plain", 0, []string{"lint", bad}, []string{"warning many-retries"}},
		{"strict", 1, []string{"lint", "--strict", bad}, []string{"warning many-retries"}},
		{"disabled", 0, []string{"lint", "--strict", "--disable", "many-retries,retry-on-auth", bad}, []string{}},
		{"without templates", 0, []string{"lint", file}, []string{"warning template-unresolved", "warning nothing-to-roll-back"}},
		{"with templates", 0, []string{"lint", "--templates", templates, file}, []string{"warning nothing-to-roll-back", "warning retry-on-auth"}},
		{"with inputs", 0, []string{"lint", "--templates", templates, "--inputs", inputs, file}, []string{"warning nothing-to-roll-back", "warning retry-on-auth"}},
		{"two that use one template", 0, []string{"lint", "--templates", templates, file, other}, []string{"warning nothing-to-roll-back", "warning retry-on-auth", "warning nothing-to-roll-back"}},
		{"a template is missing", 1, []string{"lint", "--templates", t.TempDir(), file}, []string{"error template-unresolved", "warning nothing-to-roll-back"}},
		{"validate is the same", 0, []string{"validate", "--templates", templates, file}, []string{"warning nothing-to-roll-back", "warning retry-on-auth"}},
		{"inputs of nothing", 1, []string{"lint", "--inputs", filepath.Join(templates, "apply.yaml"), file}, []string{"error no-inputs", "warning template-unresolved", "warning nothing-to-roll-back"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, _ := tool(t, test.code, append(test.args, "-o", "json")...)
			if got := found(decodeJSON[pipeline.Diagnostics](t, out)); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	out, _ := tool(t, 0, "lint", "--templates", templates, file)
	contains(t, out, filepath.Join(templates, "apply.yaml")+":10:19", "retry-on-auth")
}

func TestLintUsage(t *testing.T) {
	_, err := tool(t, 2, "lint", "--disable", "many-retry", "x.yaml")
	contains(t, err, `unknown rule "many-retry"; did you mean many-retries?`)
	tool(t, 2, "lint")
	tool(t, 2, "lint", "--rules", "x.yaml")
	_, err = tool(t, 2, "lint", "-o", "xml", "x.yaml")
	contains(t, err, "table, json, sarif")
	tool(t, 2, "explain", "-o", "sarif", "x.yaml")
	tool(t, 2, "lint", "--templates", "testdata/none", "testdata/shop.yaml")
	tool(t, 2, "lint", "--templates", "testdata/shop.yaml", "testdata/shop.yaml")
	tool(t, 2, "lint", "--inputs", "testdata/none", "testdata/shop.yaml")
}

func TestLintRules(t *testing.T) {
	out, _ := tool(t, 0, "lint", "--rules", "--disable", "many-retries")
	contains(t, out, "CODE", "retries-multiply", "warning (engine: error)")
	if strings.Contains(out, "many-retries") {
		t.Error(out)
	}
	out, _ = tool(t, 0, "lint", "--rules", "-o", "json")
	rules := decodeJSON[[]pipeline.Rule](t, out)
	if len(rules) != len(pipeline.Rules()) {
		t.Errorf("%d rules, want %d", len(rules), len(pipeline.Rules()))
	}
	checkSARIF(t, first(tool(t, 0, "lint", "--rules", "-o", "sarif")), 0)
}

// checkSARIF holds a log to what SARIF 2.1.0 requires and tools for code review rely on, and returns its results.
func checkSARIF(t *testing.T, text string, want int) []any {
	t.Helper()
	log := decodeJSON[map[string]any](t, text)
	at := func(v any, keys ...string) any {
		t.Helper()
		for _, key := range keys {
			object, ok := v.(map[string]any)
			if !ok || object[key] == nil {
				t.Fatalf("no %s in %v", key, v)
			}
			v = object[key]
		}
		return v
	}
	levels := []string{"none", "note", "warning", "error"}
	if at(log, "version") != "2.1.0" || !strings.Contains(at(log, "$schema").(string), "sarif-2.1.0") {
		t.Errorf("version %v, schema %v", log["version"], log["$schema"])
	}
	runs := at(log, "runs").([]any)
	if len(runs) != 1 {
		t.Fatalf("%d runs", len(runs))
	}
	if at(runs[0], "tool", "driver", "name") != "recourse" || at(runs[0], "columnKind") != "unicodeCodePoints" {
		t.Error("no name, or columns of another kind")
	}
	rules := at(runs[0], "tool", "driver", "rules").([]any)
	ids := map[any]bool{}
	for _, rule := range rules {
		if ids[at(rule, "id")] {
			t.Errorf("%v is there twice", at(rule, "id"))
		}
		ids[at(rule, "id")] = true
		for _, key := range []string{"shortDescription", "fullDescription", "help"} {
			if at(rule, key, "text") == "" {
				t.Errorf("%v has no %s", at(rule, "id"), key)
			}
		}
		if !slices.Contains(levels, at(rule, "defaultConfiguration", "level").(string)) {
			t.Errorf("level %v", at(rule, "defaultConfiguration", "level"))
		}
	}
	for _, invocation := range at(runs[0], "invocations").([]any) {
		if _, ok := at(invocation, "executionSuccessful").(bool); !ok {
			t.Error("no executionSuccessful")
		}
	}
	results := at(runs[0], "results").([]any)
	if len(results) != want {
		t.Errorf("%d results, want %d", len(results), want)
	}
	for _, result := range results {
		index := int(at(result, "ruleIndex").(float64))
		if index < 0 || index >= len(rules) || at(rules[index], "id") != at(result, "ruleId") {
			t.Errorf("ruleIndex %d is not %v", index, at(result, "ruleId"))
		}
		if at(result, "message", "text") == "" || !slices.Contains(levels, at(result, "level").(string)) {
			t.Errorf("no message or level: %v", result)
		}
		locations := at(result, "locations").([]any)
		if len(locations) != 1 {
			t.Fatalf("%d locations", len(locations))
		}
		place := at(locations[0], "physicalLocation")
		if at(place, "region", "startLine").(float64) < 1 || at(place, "region", "startColumn").(float64) < 1 {
			t.Errorf("not 1-based: %v", place)
		}
		uri, err := url.Parse(at(place, "artifactLocation", "uri").(string))
		base := at(place, "artifactLocation").(map[string]any)["uriBaseId"]
		switch below := err == nil && filepath.IsLocal(uri.Path) && !uri.IsAbs(); {
		case below && base != "%SRCROOT%", !below && (base != nil || err != nil || uri.Scheme != "file" || !strings.HasPrefix(uri.Path, "/")):
			t.Errorf("neither a file below the root nor an absolute URI: %v", place)
		}
	}
	return results
}

func TestSARIF(t *testing.T) {
	dir := t.TempDir()
	shop, err := os.ReadFile("testdata/broken.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a b:ä.yaml"), shop, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	list := decodeJSON[pipeline.Diagnostics](t, first(tool(t, 1, "validate", "-o", "json", ".")))
	for _, args := range [][]string{{"validate", "-o", "sarif", "."}, {"lint", "--output=sarif", dir}} {
		out, stderr := tool(t, 1, args...)
		results := checkSARIF(t, out, len(list))
		contains(t, out, `a%20b:%C3%A4.yaml"`)
		if stderr != "" {
			t.Errorf("more than the log: %s", stderr)
		}
		for i, result := range results {
			if got := result.(map[string]any)["ruleId"]; got != list[i].Code {
				t.Errorf("result %d is %v, want %s", i, got, list[i].Code)
			}
		}
	}
	if err := os.Mkdir("below", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir("below")
	out, _ := tool(t, 1, "lint", "-o", "sarif", "..")
	checkSARIF(t, out, len(list))
	contains(t, out, `"uri": "file://`+filepath.ToSlash(dir)+`/a%20b:%C3%A4.yaml"`)
	t.Chdir(dir)
	c := &call{env: map[string]string{"RECOURSE_OUTPUT": "sarif"}, stdin: string(shop)}
	out, _ = toolIn(t, c, 1, "validate", "-")
	checkSARIF(t, out, len(list))
	contains(t, out, `"uri": "stdin"`)
	out, _ = tool(t, 2, "validate", "-o", "sarif", "none.yaml")
	checkSARIF(t, out, 0)
	contains(t, out, `"executionSuccessful": false`, "none.yaml")
	out, _ = tool(t, 0, "lint", "-o", "sarif", "--disable", strings.Join(codesOf(list), ","), ".")
	checkSARIF(t, out, 0)
}

func codesOf(list pipeline.Diagnostics) []string {
	var codes []string
	for _, d := range list {
		codes = append(codes, d.Code)
	}
	return codes
}

func TestTemplatesOffline(t *testing.T) {
	file, templates, inputs := templated(t)
	out, _ := tool(t, 0, "explain", file, "--templates", templates, "--node", "prod/apply", "--errors", "Authorization", "-o", "json")
	if d := decodeJSON[cli.Decision](t, out); d.Action.String() != "Retry" || d.Delay == nil || d.Delay.String() != "7s" {
		t.Errorf("got %s", out)
	}
	out, _ = tool(t, 0, "explain", file, "--node", "prod/apply", "--errors", "Authorization", "-o", "json")
	if d := decodeJSON[cli.Decision](t, out); d.Action.String() != "StageRollback" {
		t.Errorf("without templates: %s", out)
	}
	_, err := tool(t, 1, "explain", file, "--inputs", file, "--inputs", filepath.Join(templates, "apply.yaml"), "--node", "prod/apply")
	contains(t, err, "no-inputs")
	out, _ = tool(t, 0, "simulate", file, "--templates", templates, "--inputs", inputs, "--fail", "prod/apply=Authorization*")
	contains(t, out, "7s", "abort")
}

func TestApplyTemplates(t *testing.T) {
	s := newSite(t)
	file, templates, inputs := templated(t)
	for range 2 { // what is resolved to the same is the same
		s.tool(0, "apply", "--templates", templates, "--inputs", inputs, file)
	}
	out, _ := s.tool(0, "apply", "-o", "json", "--templates", templates, "--inputs", inputs, file)
	applied := decodeJSON[[]online.Applied](t, out)
	if len(applied) != 1 || applied[0].Status != "unchanged" || applied[0].Org != "retail" {
		t.Fatalf("got %s", out)
	}
	_, js := s.connect()
	kv, err := js.KeyValue(t.Context(), "RECOURSE_PIPELINES")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), applied[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(entry.Value())
	contains(t, text, "timeout: 1m\n", "- Authorization\n", "retryCount: 2\n")
	if strings.Contains(text, "templateRef") || strings.Contains(text, "<+input>") {
		t.Errorf("registered:\n%s", text)
	}
	out, _ = s.tool(1, "apply", "--templates", t.TempDir(), file)
	contains(t, out, "refused")
}
