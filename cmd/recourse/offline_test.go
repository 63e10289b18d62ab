package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/recourse-dev/recourse/internal/pipeline"
)

const (
	shop       = "testdata/shop.yaml"
	warned     = "testdata/warned.yaml"
	broken     = "testdata/broken.yaml"
	unreadable = "testdata/unreadable.yaml"
)

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name     string
		args     []string
		code     int
		out, err []string
	}{
		{"clean", []string{shop}, 0, nil, []string{"1 file: nothing to report"}},
		{"warning", []string{warned}, 0, []string{warned + ":17:13  warning  all-errors-not-last", "\n    at pipeline.stages[0].stage.failureStrategies[1]\n", "\n    fix: "}, []string{"1 warning"}},
		{"warning, strict", []string{"--strict", warned}, 1, []string{"warning"}, nil},
		{"error", []string{broken}, 1, []string{broken + ":15:24  error  unknown-error-type", "fix: did you mean Timeout?"}, []string{"1 error"}},
		{"not YAML", []string{unreadable}, 1, []string{"yaml-syntax"}, nil},
		{"several", []string{shop, broken, warned}, 1, []string{broken, warned}, []string{"3 files: 1 error, 1 warning"}},
		{"directory", []string{"testdata/tree"}, 0, []string{"tree/one.yaml:17:13", "tree/sub/two.yml:17:13"}, []string{"2 files: 2 warnings"}},
		{"twice", []string{warned, "./" + warned}, 0, nil, []string{"1 file: 1 warning"}},
		{"engine", []string{"--semantics", "engine", shop}, 0, nil, nil},
		{"missing file", []string{"testdata/none.yaml", broken}, 2, []string{"unknown-error-type"}, []string{"none.yaml: no such file", "see recourse validate --help"}},
		{"no file", nil, 2, nil, []string{"see recourse validate --help"}},
		{"unknown flag", []string{"--stict", shop}, 2, nil, []string{"--stict"}},
		{"unknown format", []string{"-o", "xml", shop}, 2, nil, []string{"table, json"}},
		{"unknown semantics", []string{"--semantics", "other", shop}, 2, nil, []string{"documented, engine"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := tool(t, test.code, append([]string{"validate"}, test.args...)...)
			contains(t, out, test.out...)
			contains(t, err, test.err...)
			if strings.Contains(out, " \n") {
				t.Errorf("blanks at the end of a line:\n%s", out)
			}
		})
	}
}

func TestValidateStdin(t *testing.T) {
	content, err := os.ReadFile(broken)
	if err != nil {
		t.Fatal(err)
	}
	out, _ := toolIn(t, &call{stdin: string(content)}, 1, "validate", "-")
	contains(t, out, "-:15:24  error")
}

func TestValidateEmptyDirectory(t *testing.T) {
	_, err := tool(t, 2, "validate", t.TempDir())
	contains(t, err, "no *.yaml or *.yml file")
}

func TestValidateJSON(t *testing.T) {
	if out, err := tool(t, 0, "validate", "-o", "json", shop); out != "[]\n" || err != "" {
		t.Errorf("stdout %q, stderr %q", out, err)
	}
	out, _ := tool(t, 1, "validate", "-o", "json", broken, warned)
	found := decodeJSON[[]map[string]any](t, out)
	want := []map[string]any{
		{"file": broken, "line": 15.0, "column": 24.0, "path": "pipeline.stages[0].stage.failureStrategies[0].onFailure.errors[0]", "severity": "error", "code": "unknown-error-type", "message": `unknown error type "Timeot"`, "fix": "did you mean Timeout?"},
		{"file": warned, "line": 17.0, "column": 13.0, "path": "pipeline.stages[0].stage.failureStrategies[1]", "severity": "warning", "code": "all-errors-not-last"},
	}
	if len(found) != len(want) {
		t.Fatalf("%d findings in %s", len(found), out)
	}
	for i := range want {
		for key, value := range want[i] {
			if found[i][key] != value {
				t.Errorf("%d: %s is %v, want %v", i, key, found[i][key], value)
			}
		}
		for _, key := range []string{"file", "line", "column", "path", "severity", "code", "message", "fix"} {
			if _, ok := found[i][key]; !ok {
				t.Errorf("%d: no %s", i, key)
			}
		}
	}
	// What can be read is reported even where the exit code is about a file that cannot.
	out, _ = tool(t, 2, "validate", "-o", "json", "testdata/none.yaml")
	if out != "[]\n" {
		t.Errorf("stdout %q", out)
	}
}

// explained are the keys of an explanation that programs rely on.
type explained struct {
	Action, Reason, Detail, Level, Strategy, Section, Semantics, Node string
	Attempt                                                           int
	Delay                                                             *string
	Command                                                           *struct {
		Verb, Scope  string
		Attempt      int
		Intervention *struct {
			Allowed            []string
			Timeout, OnTimeout string
		}
	}
	Errors []string
	Effect struct {
		Node, Stage    string
		PipelineFailed bool
		Runs           []string
	}
	Trail []struct {
		Level, Path string
		Index       int
		Errors      []string
		Applies     bool
		Why         string
	}
}

func explain(t *testing.T, args ...string) (explained, string) {
	t.Helper()
	out, err := tool(t, 0, append([]string{"explain", "-o", "json"}, args...)...)
	var e explained
	if err := json.Unmarshal([]byte(out), &e, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	if e.Trail == nil {
		t.Error("trail is missing")
	}
	return e, err
}

// line is an explanation in short.
func (e *explained) line() string {
	parts := []string{e.Action, e.Reason, e.Level}
	if e.Delay != nil {
		parts = append(parts, "delay "+*e.Delay)
	}
	if e.Command != nil {
		parts = append(parts, e.Command.Verb, e.Command.Scope)
	}
	return strings.Join(append(parts, e.Effect.Node), " ")
}

func TestExplain(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
		err  string
	}{
		{[]string{"--node", "ship/wave/load", "--errors", "Timeout"}, "Retry StrategyMatched step delay 1s retry ship/wave/load Retrying", ""},
		{[]string{"--node", "ship/wave/load", "--errors", "timeout", "--attempt", "2"}, "Retry StrategyMatched step delay 2s retry ship/wave/load Retrying", ""},
		{[]string{"--node", "ship/wave/load", "--errors", "Timeout", "--attempt", "3"}, "StageRollback RetriesExhausted step rollback-stage ship Failed", ""},
		{[]string{"--node", "ship/wave/load", "--errors", "Timeout", "--retry-after", "1m"}, "Retry StrategyMatched step delay 1m0s retry ship/wave/load Retrying", ""},
		{[]string{"--node", "ship/wave/drive", "--errors", "Connectivity"}, "RetryStepGroup StrategyMatched step-group delay 3s retry-group ship/wave Retrying", ""},
		{[]string{"--node", "ship/wave/drive", "--errors", "Connectivity", "--attempt", "2"}, "RetryStepGroup StrategyMatched step-group delay 3s retry-group ship/wave Retrying", ""},
		{[]string{"--node", "ship/wave/drive", "--errors", "Connectivity", "--attempt", "3"}, "MarkAsFailure RetriesExhausted step-group mark-failure ship/wave/drive Failed", ""},
		{[]string{"--node", "ship/wave[1]/drive", "--errors", "Connectivity"}, "RetryStepGroup StrategyMatched step-group delay 3s retry-group ship/wave[1] Retrying", ""},
		{[]string{"--node", "ship/wave/drive", "--errors", "Timeout,Verification"}, "StageRollback StrategyMatched stage rollback-stage ship Failed", ""},
		{[]string{"--node", "ship/wave", "--errors", "Timeout"}, "StageRollback StrategyMatched stage rollback-stage ship Failed", ""},
		{[]string{"--node", "ship"}, "StageRollback StrategyMatched stage rollback-stage ship Failed", ""},
		{[]string{"--node", "ship/check", "--errors", "Verification"}, "ManualIntervention StrategyMatched step pause ship/check InterventionWaiting", ""},
		{[]string{"--node", "pack/wrap", "--errors", "Timeout"}, "Ignore StrategyMatched stage ignore pack/wrap IgnoreFailed", ""},
		{[]string{"--node", "pack/wrap"}, "MarkAsFailure NoStrategy none mark-failure pack/wrap Failed", ""},
		{[]string{"--node", "ship/take_back", "--phase", "rollback"}, "Retry StrategyMatched step delay 0s retry ship/take_back Retrying", ""},
		{[]string{"--node", "ship/take_back"}, "Retry StrategyMatched step delay 0s retry ship/take_back Retrying", "under rollbackSteps"},
		{[]string{"--node", "ship/take_back", "--phase", "steps"}, "StageRollback StrategyMatched stage rollback-stage ship Failed", "decided as asked"},
		{[]string{"--node", "ship/wave/lod", "--errors", "Connectivity"}, "RetryStepGroup StrategyMatched step-group delay 3s retry-group ship/wave Retrying", "did you mean ship/wave/load?"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			e, err := explain(t, append([]string{shop}, test.args...)...)
			if got := e.line(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if test.err == "" && err != "" || !strings.Contains(err, test.err) {
				t.Errorf("stderr %q, want %q", err, test.err)
			}
		})
	}
}

func TestExplainJSON(t *testing.T) {
	e, _ := explain(t, shop, "--node", "ship/wave/load", "--errors", "Authorization,Timeout,Authentication", "--attempt", "2", "--exit-code", "7", "--message", "slow", "--target", "truck", "--semantics", "engine")
	if e.Node != "ship/wave/load" || e.Attempt != 2 || e.Section != "steps" || e.Semantics != "engine" || !slices.Equal(e.Errors, []string{"Authentication", "Timeout"}) {
		t.Errorf("%+v", e)
	}
	const step = "pipeline.stages[1].stage.spec.execution.steps[0].stepGroup.steps[0].step.failureStrategies[0]"
	if e.Strategy != step || e.Command.Attempt != 3 {
		t.Errorf("strategy %s, command %+v", e.Strategy, e.Command)
	}
	if len(e.Trail) != 3 || !e.Trail[0].Applies || e.Trail[0].Path != step || e.Trail[0].Level != "step" || e.Trail[0].Why == "" || e.Trail[1].Applies || e.Trail[2].Level != "stage" {
		t.Errorf("trail %+v", e.Trail)
	}

	e, _ = explain(t, shop, "--node", "ship/check", "--errors", "Verification")
	if i := e.Command.Intervention; i == nil || i.Timeout != "1h0m0s" || i.OnTimeout != "Abort" || len(i.Allowed) != 6 {
		t.Errorf("intervention %+v", i)
	}

	// Keys that are there whatever the decision, and keys that are not.
	out, _ := tool(t, 0, "explain", "-o", "json", shop, "--node", "pack/wrap")
	keys := decodeJSON[map[string]jsontext.Value](t, out)
	for _, key := range []string{"action", "reason", "level", "strategy", "effect", "trail", "node", "section", "attempt", "semantics", "command"} {
		if _, ok := keys[key]; !ok {
			t.Errorf("no %s in %s", key, out)
		}
	}
	for _, key := range []string{"delay", "execution", "version", "at", "sequence", "dueAt"} {
		if _, ok := keys[key]; ok {
			t.Errorf("%s in %s", key, out)
		}
	}
}

func TestExplainTable(t *testing.T) {
	out, _ := tool(t, 0, "explain", shop, "--node", "ship/wave/load", "--errors", "Timeout", "--attempt", "2")
	contains(t, out, "node       ship/wave/load, attempt 2\n", "action     Retry\n", "delay      2s\n", "command    retry ship/wave/load, attempt 3\n", "\ntrail, closest level first\n", "*  step")
	out, _ = tool(t, 0, "explain", shop, "--node", "ship/check", "--errors", "Verification")
	contains(t, out, "within 1h0m0s one of ", "else Abort")
}

func TestExplainExitCodes(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		code int
		err  []string
	}{
		{"unknown stage", []string{shop, "--node", "shp/check"}, 3, []string{`no stage "shp"; it has pack, ship`}},
		{"unknown type", []string{shop, "--node", "ship/check", "--errors", "Verificaton"}, 2, []string{"did you mean Verification?", "see recourse explain --help"}},
		{"matcher", []string{shop, "--node", "ship/check", "--errors", "AllErrors"}, 2, []string{"a type of its own"}},
		{"no node", []string{shop}, 2, []string{"--node is required"}},
		{"bad node", []string{shop, "--node", "ship//check"}, 2, []string{"an id is required"}},
		{"attempt 0", []string{shop, "--node", "ship", "--attempt", "0"}, 2, []string{"--attempt: want 1"}},
		{"bad phase", []string{shop, "--node", "ship", "--phase", "later"}, 2, []string{"steps, rollbackSteps"}},
		{"no file", []string{"--node", "ship"}, 2, []string{"arg"}},
		{"missing file", []string{"testdata/none.yaml", "--node", "ship"}, 2, []string{"no such file"}},
		{"not YAML", []string{unreadable, "--node", "ship"}, 1, []string{"yaml-syntax"}},
		{"no pipeline", []string{"testdata/tree/notes.txt", "--node", "ship"}, 1, []string{"yaml-syntax"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := tool(t, test.code, append([]string{"explain"}, test.args...)...)
			contains(t, err, test.err...)
			if out != "" {
				t.Errorf("stdout %q", out)
			}
		})
	}
}

func TestExplainFileWithErrors(t *testing.T) {
	e, err := explain(t, broken, "--node", "pack/wrap", "--errors", "Connectivity")
	if got := e.line(); got != "Abort StrategyMatched stage abort Aborted" && got != "Abort StrategyMatched stage abort  Aborted" {
		t.Error(got)
	}
	contains(t, err, broken+":15:24: error: ", "has 1 error; decided by what can be read of it")
}

func TestExplainStdin(t *testing.T) {
	content, err := os.ReadFile(shop)
	if err != nil {
		t.Fatal(err)
	}
	out, _ := toolIn(t, &call{stdin: string(content)}, 0, "explain", "-", "--node", "ship")
	contains(t, out, "StageRollback")
}

// A message must not reach the terminal as it is, nor a secret in it.
func TestExplainMessage(t *testing.T) {
	out, _ := tool(t, 0, "explain", shop, "--node", "ship", "--message", "\x1b[31mpassword=hunter2")
	if strings.Contains(out, "\x1b") || strings.Contains(out, "hunter2") {
		t.Errorf("%q", out)
	}
}

func TestVersion(t *testing.T) {
	out, _ := tool(t, 0, "version")
	contains(t, out, "recourse", "built with")
	out, _ = tool(t, 0, "version", "-o", "json")
	if v := decodeJSON[version](t, out); v.Version == "" || v.Go == "" || v.Platform == "" {
		t.Error(out)
	}
}

func TestHelpAndUsage(t *testing.T) {
	out, _ := tool(t, 0)
	contains(t, out, "Exit codes:", "no such stage", "validate", "explain", "apply", "pipelines", "report", "watch", "interventions", "answer", "rejected", "version", "completion")
	_, err := tool(t, 2, "explian")
	contains(t, err, `unknown command "explian"; did you mean explain?`)
	_, err = toolIn(t, &call{env: map[string]string{"RECOURSE_OUTPUT": "xml"}}, 2, "version")
	contains(t, err, "RECOURSE_OUTPUT", "table, json")
	out, _ = toolIn(t, &call{env: map[string]string{"RECOURSE_OUTPUT": "json"}}, 0, "validate", shop)
	if out != "[]\n" {
		t.Errorf("%q", out)
	}
	out, _ = toolIn(t, &call{env: map[string]string{"RECOURSE_OUTPUT": "json"}}, 0, "validate", "-o", "table", shop)
	if out != "" {
		t.Errorf("%q", out)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, _ := tool(t, 0, "completion", shell); !strings.Contains(out, "recourse") {
			t.Errorf("%s: %q", shell, out)
		}
	}
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"explain", shop, "--node", ""}, []string{"pack", "pack/wrap", "ship", "ship/wave", "ship/wave/load", "ship/wave/drive", "ship/check", "ship/take_back"}},
		{[]string{"explain", "--node", ""}, nil},
		{[]string{"explain", "testdata/none.yaml", "--node", ""}, nil},
		{[]string{"explain", shop, "--phase", ""}, []string{"steps", "rollback"}},
		{[]string{"validate", ""}, []string{"yaml", "yml"}},
		{[]string{"validate", "-o", ""}, []string{"table", "json", "sarif"}},
		{[]string{"validate", "--semantics", ""}, []string{"documented", "engine"}},
	} {
		out, _ := tool(t, 0, append([]string{"__complete"}, test.args...)...)
		offers := strings.Split(out, "\n")
		offers = offers[:slices.IndexFunc(offers, func(s string) bool { return strings.HasPrefix(s, ":") })]
		for i := range offers {
			offers[i], _, _ = strings.Cut(offers[i], "\t")
		}
		if !slices.Equal(offers, test.want) {
			t.Errorf("%v: %q, want %q", test.args, offers, test.want)
		}
	}
	// The shell leaves out what does not begin like what was typed.
	out, _ := tool(t, 0, "__complete", "explain", shop, "--errors", "Timeout,Conn")
	contains(t, out, "Timeout,Connectivity\n")
	if strings.Contains(out, "Timeout,Timeout") || strings.Contains(out, "AllErrors") {
		t.Error(out)
	}
}

// TestCorpus runs pipelines from elsewhere through validate and explain. Nothing is said about what they decide, but that each says it.
func TestCorpus(t *testing.T) {
	dir := os.Getenv("RECOURSE_CORPUS")
	if dir == "" {
		dir = "../../../shared/corpus"
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			t.Skip("SKIP: no pipelines to try: set RECOURSE_CORPUS to a directory of them")
		}
	}
	var files []string
	for _, pattern := range []string{"*.yaml", "*.yml"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		t.Fatalf("no YAML in %s", dir)
	}
	nodes := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		plan, found := pipeline.Load(file, content, pipeline.Options{})
		want := 0
		if found.HasErrors() {
			want = 1
		}
		out, _ := tool(t, want, "validate", "-o", "json", file)
		if got := decodeJSON[pipeline.Diagnostics](t, out); !slices.Equal(got, append(pipeline.Diagnostics{}, found...)) {
			t.Errorf("%s: the findings are not those of the load", file)
		}
		if plan == nil {
			tool(t, 1, "explain", file, "--node", "any")
			continue
		}
		for _, n := range plan.Nodes() {
			args := []string{file, "--node", n.Path, "--phase", n.Section.String()}
			for _, more := range [][]string{nil, {"--errors", "Timeout", "--attempt", "2"}, {"--errors", "Verification,Connectivity", "--semantics", "engine"}} {
				if e, _ := explain(t, append(args, more...)...); e.Action == "" || e.Reason == "" || e.Effect.Node == "" {
					t.Errorf("%v: %+v", args, e)
				}
			}
			nodes++
		}
	}
	t.Logf("%d files, %d nodes", len(files), nodes)
}
