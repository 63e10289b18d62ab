package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

const (
	deployWeb     = "../../examples/deploy_web.yaml"
	deployWebTest = "../../examples/tests/deploy_web_test.yaml"
)

func TestSimulate(t *testing.T) {
	out, err := tool(t, 0, "simulate", deployWeb, "--fail", "prod/canary/rollout=Timeout*", "--fail", "prod/roll_back=Connectivity,ok")
	contains(t, out, "TIME", "t+1s ", "attempt 2 failed: Timeout → retry in 2s, retry 2 of 3 (StrategyMatched, step)",
		"t+5s ", "→ rollback-stage prod (RetriesExhausted, step)", "prod/roll_back (rollbackSteps) ", "retry 1 of 2",
		"notify", "skipped: when Failure, but prod was rolled back", "\nprod    rolled-back  StageRollback of prod/canary/rollout, attempt 4",
		"\nthe pipeline failed after 15s\n")
	if err != "" {
		t.Errorf("stderr %q", err)
	}

	out, _ = tool(t, 0, "simulate", "-o", "json", deployWeb, "--fail", "prod/canary/smoke=Verification:3", "--answer", "prod/canary/smoke=Retry@5m")
	s := decodeJSON[map[string]any](t, out)
	for _, e := range s["events"].([]any) {
		for _, key := range []string{"at", "node", "attempt", "kind", "action", "reason", "verb"} {
			if _, ok := e.(map[string]any)[key]; !ok {
				t.Errorf("no %s in %v", key, e)
			}
		}
	}
	var verbs []string
	for _, e := range s["events"].([]any) {
		if e := e.(map[string]any); e["verb"] != "" {
			verbs = append(verbs, fmt.Sprint(e["at"], " ", e["node"], " ", e["verb"], " ", e["action"], " ", e["reason"]))
		}
	}
	if got, want := strings.Join(verbs, "; "), "0s prod/canary/smoke pause ManualIntervention StrategyMatched; 5m0s prod/canary/smoke retry Retry HumanDecision"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if s["outcome"] != "succeeded" || s["duration"] != "5m0s" {
		t.Errorf("%v after %v", s["outcome"], s["duration"])
	}
}

func TestSimulateFlags(t *testing.T) {
	out, _ := tool(t, 0, "simulate", deployWeb, "--step-duration", "1m")
	contains(t, out, "after 5m0s")
	documented, _ := tool(t, 0, "simulate", deployWeb, "--fail", "prod/rollout_all=Unknown")
	engine, _ := tool(t, 0, "simulate", deployWeb, "--fail", "prod/rollout_all=Unknown", "--semantics", "engine")
	contains(t, documented, "\nnotify  skipped ")
	contains(t, engine, "\nnotify  succeeded\n")
	out, err := tool(t, 0, "simulate", deployWeb, "--fail", "notify/chat=Timeout", "--answer", "prod=Retry")
	contains(t, out, "the pipeline succeeded")
	contains(t, err, "recourse: notify/chat never ran\n", "recourse: nobody was asked for the answer Retry to prod\n")

	content, readErr := os.ReadFile(deployWeb)
	if readErr != nil {
		t.Fatal(readErr)
	}
	out, _ = toolIn(t, &call{stdin: string(content)}, 0, "simulate", "-")
	contains(t, out, "the pipeline succeeded")
}

func TestSimulateExitCodes(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		code int
		err  string
	}{
		{"no file", nil, 2, "see recourse simulate --help"},
		{"missing file", []string{"testdata/none.yaml"}, 2, "no such file"},
		{"not YAML", []string{unreadable}, 1, "yaml-syntax"},
		{"errors in the file", []string{broken}, 0, "has 1 error; simulated by what can be read of it"},
		{"no outcome", []string{shop, "--fail", "ship"}, 2, "want NODE=OUTCOME"},
		{"unknown node", []string{shop, "--fail", "ship/chek=ok"}, 2, `no node "ship/chek"; did you mean ship/check?`},
		{"bad node", []string{shop, "--fail", "ship//check=ok"}, 2, "an id is required"},
		{"unknown type", []string{shop, "--fail", "ship/check=Timeot"}, 2, "unknown error type"},
		{"matcher", []string{shop, "--fail", "ship/check=AllErrors"}, 2, "a type of its own"},
		{"twice", []string{shop, "--fail", "ship/check=ok", "--fail", "ship/check=ok"}, 2, "is there twice"},
		{"unknown action", []string{shop, "--answer", "ship/check=Retri@1m"}, 2, "did you mean Retry?"},
		{"bad time", []string{shop, "--answer", "ship/check=Retry@soon"}, 2, "not a duration"},
		{"bad duration", []string{shop, "--step-duration", "-1s"}, 2, "--step-duration"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := tool(t, test.code, append([]string{"simulate"}, test.args...)...)
			contains(t, err, test.err)
		})
	}
}

func TestSimulateCompletion(t *testing.T) {
	out, _ := tool(t, 0, "__complete", "simulate", shop, "--fail", "")
	contains(t, out, "pack/wrap=\n", "ship/wave/load=\n")
}

// write puts files into a directory of the test.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTest(t *testing.T) {
	out, err := tool(t, 0, "test", deployWebTest)
	contains(t, out, "ok    "+deployWebTest+":12: a slow cluster is retried, then rolled back\n", "10 tests passed; 8 of 8 strategies reached, 100%\n")
	if err != "" {
		t.Errorf("stderr %q", err)
	}
	content, readErr := os.ReadFile(shop)
	if readErr != nil {
		t.Fatal(readErr)
	}
	dir := write(t, map[string]string{
		"shop.yaml": string(content),
		"shop_test.yaml": "pipeline: shop.yaml\ntests:\n  - {name: works, expect: {outcome: succeeded}}\n" +
			"  - {name: wrong, fail: {ship/check: Verification}, expect: {actions: {ship/check: [ManualIntervention, Ignore]}, stages: {ship: ignored}}}\n",
		"typo_test.yml":  "pipeline: shop.yaml\ntests:\n  - {name: x, expct: {}}\n",
		"other.yaml":     "a: 1\n",
		"notes_test.txt": "no test\n",
	})
	file, typo, report := filepath.Join(dir, "shop_test.yaml"), filepath.Join(dir, "typo_test.yml"), filepath.Join(dir, "report.xml")

	out, _ = tool(t, 1, "test", file)
	contains(t, out, "ok    "+file+":3: works\n", "FAIL  "+file+":4: wrong\n",
		"      actions of ship/check\n        want ManualIntervention, Ignore\n        got  ManualIntervention, Abort\n        differs at 2: want Ignore, got Abort\n",
		"      stage ship\n        want ignored\n        got  aborted: Abort of ship/check",
		"strategies that no test has reached:\n", "shop.yaml:22:13 ", "Timeout → Ignore", "1 test failed, 1 passed; 1 of 6 strategies reached, 16%\n")
	if strings.Contains(out, "t+0s") {
		t.Errorf("a timeline that nobody asked for:\n%s", out)
	}
	out, _ = tool(t, 1, "test", file, "--timeline")
	contains(t, out, "      t+1h0m0s  ship/check ", "nobody answered → abort")

	// A file that cannot be run ends with 2, and the other ones are run.
	out, err = tool(t, 2, "test", dir, "--junit", report)
	contains(t, out, "1 test failed, 1 passed, 1 file could not be run")
	contains(t, err, typo+`:3:15: a test does not know "expct"`)
	written, readErr := os.ReadFile(report)
	if readErr != nil {
		t.Fatal(readErr)
	}
	var suites struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
	}
	if err := xml.Unmarshal(written, &suites); err != nil || suites.Tests != 3 || suites.Failures != 1 || suites.Errors != 1 {
		t.Errorf("%+v, %v in %s", suites, err, written)
	}

	out, _ = tool(t, 2, "test", "-o", "json", dir)
	type tested struct {
		Passed, Failed int
		Files          []struct {
			File, Pipeline string
			Tests          []struct {
				Name       string
				Line       int
				Passed     bool
				Mismatches []struct{ What, Want, Got, Differs string }
				Notes      []string
			}
		}
		Unusable []struct{ File, Error string }
		Coverage struct {
			Strategies, Reached, Percent int
			Missed                       []struct {
				File, Path, Node, Level, Action string
				Line, Column                    int
				Errors                          []string
			}
		}
	}
	var all tested
	if err := json.Unmarshal([]byte(out), &all, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	if all.Passed != 1 || all.Failed != 1 || len(all.Unusable) != 1 || all.Coverage.Reached != 1 || all.Coverage.Missed[0].Line != 22 || len(all.Files[0].Tests[1].Mismatches) != 2 {
		t.Errorf("%+v", all)
	}
}

func TestTestCoverage(t *testing.T) {
	content, err := os.ReadFile(shop)
	if err != nil {
		t.Fatal(err)
	}
	dir := write(t, map[string]string{
		"shop.yaml":   string(content),
		"a_test.yaml": "pipeline: shop.yaml\ntests:\n  - {name: x, fail: {pack/wrap: Timeout, ship/check: Verification}, expect: {stages: {pack: ignored}}}\n",
		"b_test.yaml": "pipeline: ./shop.yaml\ntests:\n  - {name: x, decide: {node: ship}, expect: {action: StageRollback}}\n",
	})
	// Three of six: 50 percent, at the edge.
	tool(t, 0, "test", dir, "--min-coverage", "50%")
	_, stderr := tool(t, 1, "test", dir, "--min-coverage", "51")
	contains(t, stderr, "50% of the strategies are reached, 51% are wanted")
}

func TestTestExitCodes(t *testing.T) {
	empty := t.TempDir()
	for _, test := range []struct {
		name string
		args []string
		code int
		err  string
	}{
		{"no file", nil, 2, "see recourse test --help"},
		{"missing file", []string{"testdata/none_test.yaml"}, 2, "no such file"},
		{"empty directory", []string{empty}, 2, "no *_test.yaml or *_test.yml file"},
		{"a pipeline", []string{shop}, 2, "pipeline is missing its value"},
		{"bad percentage", []string{deployWebTest, "--min-coverage", "101%"}, 2, "--min-coverage"},
		{"no place for the report", []string{deployWebTest, "--junit", filepath.Join(empty, "none", "report.xml")}, 2, "--junit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := tool(t, test.code, append([]string{"test"}, test.args...)...)
			contains(t, err, test.err)
		})
	}
}

// TestDirectoryWithTests: what reads the pipelines of a directory leaves the test files out.
func TestDirectoryWithTests(t *testing.T) {
	_, err := tool(t, 0, "validate", "../../examples")
	contains(t, err, "6 files: nothing to report")
}
