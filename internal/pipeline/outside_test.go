package pipeline

import (
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestCorpus loads pipelines that others wrote and compares a summary with the golden one: how many nodes and strategies the plan
// has, and which findings there are where. A file is known by its hash.
func TestCorpus(t *testing.T) {
	files := outside(t, "RECOURSE_CORPUS", "../../../shared/corpus", "*.yaml")
	var lines []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, semantics := range []recourse.Semantics{documented, engine} {
			plan, ds := Load(filepath.Base(file), text, Options{Semantics: semantics})
			nodes, strategies := 0, 0
			if plan != nil {
				nodes = len(plan.Nodes())
				for _, n := range plan.Nodes() {
					strategies += len(n.Strategies)
				}
			}
			line := fmt.Sprintf("%x %s: %d nodes, %d strategies", sha256.Sum256(text), semantics, nodes, strategies)
			line = line[:12] + line[64:]
			for _, d := range ds {
				line += fmt.Sprintf("; %d:%d %s %s", d.Line, d.Column, d.Severity, d.Code)
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	const golden = "testdata/corpus.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the summary differs; look at it, then run with -update\n%s", difference(string(want), got))
	}
}

// difference lists the lines that only one of two texts has.
func difference(want, got string) string {
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, line := range w {
		if !slices.Contains(g, line) {
			b.WriteString("- " + line + "\n")
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			b.WriteString("+ " + line + "\n")
		}
	}
	return b.String()
}

// TestEngineFacts holds the engine's semantics to what is known about the engine.
func TestEngineFacts(t *testing.T) {
	text, err := os.ReadFile(outside(t, "RECOURSE_VECTORS", "../../../shared/vectors", "engine-facts.json")[0])
	if err != nil {
		t.Fatal(err)
	}
	var facts []struct {
		ID, Kind string
		Input    json.RawMessage
		Expected string
	}
	if err := json.Unmarshal(text, &facts); err != nil {
		t.Fatal(err)
	}
	checked := make(map[string]int)
	for _, fact := range facts {
		var levels map[string]json.RawMessage
		structured := json.Unmarshal(fact.Input, &levels) == nil
		var words string
		_ = json.Unmarshal(fact.Input, &words)
		switch {
		case fact.Kind == "duration":
			d, err := recourse.ParseDuration(words)
			if got := fmt.Sprintf("%d ms", d/time.Millisecond); err != nil && fact.Expected != "invalid" || err == nil && got != fact.Expected {
				t.Errorf("%s: %q: %s, %v, want %s", fact.ID, words, got, err, fact.Expected)
			}
		case structured && (fact.Kind == "validate" || fact.Kind == "merge"):
			refused := false
			for level, skeleton := range map[string]string{"step": onStep, "stepGroup": onGroup, "step group": onGroup, "stage": onStage} {
				if levels[level] != nil {
					_, ds := load(t, in(skeleton, factStrategies(t, levels[level])...), engine)
					refused = refused || ds.HasErrors()
				}
			}
			if want := strings.HasPrefix(fact.Expected, "error"); refused != want {
				t.Errorf("%s: refused %v, want %v", fact.ID, refused, want)
			}
		case factYAML[fact.ID] != "":
			_, ds := load(t, factYAML[fact.ID], engine)
			want := fact.Expected != "allowed" && !strings.HasPrefix(fact.Expected, "true") && !strings.HasPrefix(fact.Expected, "null")
			if ds.HasErrors() != want {
				t.Errorf("%s: got %v, want an error: %v", fact.ID, ds, want)
			}
		default:
			continue // about running, not about reading
		}
		checked[fact.Kind]++
	}
	if checked["validate"] < 18 || checked["merge"] < 8 || checked["duration"] < 7 {
		t.Errorf("checked %v", checked)
	}
}

func factStrategies(t *testing.T, raw json.RawMessage) []string {
	t.Helper()
	var entries []struct {
		Errors []string
		Action string
	}
	if err := json.Unmarshal(raw, &entries); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, one(strings.Join(e.Errors, ","), do(e.Action)))
	}
	return out
}

// factYAML writes down the facts that are told in words.
var factYAML = func() map[string]string {
	after := func(action string) string {
		return in(onGroup, one("Timeout", "{type: Retry, spec: {retryCount: 1, onRetryFailure: {action: {type: "+action+"}}}}"))
	}
	group := func(spec string) string {
		return in(onGroup, one("Timeout", "{type: RetryStepGroup, spec: {"+spec+"}}"))
	}
	return map[string]string{
		"validate-09": in(onDeployment, one("Authorization", retryDo(4, ", retryIntervals: [2s]"))),
		"validate-10": in(onDeployment, one("AllErrors", do("Abort"))),
		"validate-12": after("MarkAsSuccess"),
		"validate-13": after("Retry"),
		"validate-15": after("Ignore"),
		"validate-18": after("StepGroupRollback"),
		"validate-20": after("ProceedWithDefaultValues"),
		"validate-24": in(onGroup, one("Timeout", "{type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: ProceedWithDefaultValues}}}}")),
		"validate-29": group("retryCount: , retryIntervals: [1s]"),
		"validate-31": group("retryCount: <+input>"),
		"validate-32": group("retryCount: 1, retryIntervals: <+input>"),
		"validate-33": in(onStep, one("random_123", do("Ignore"))),
		"validate-34": in(onStep, one("Timeout", do("random_123"))),
		"merge-24":    fmt.Sprintf(onStep, "null"),
	}
}()
