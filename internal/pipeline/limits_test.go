package pipeline

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
)

// TestBombs: hostile files end in a diagnostic, and soon.
func TestBombs(t *testing.T) {
	var doubling strings.Builder
	doubling.WriteString("a0: &a0 [x, x]\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&doubling, "a%d: &a%d [*a%d, *a%d]\n", i, i, i-1, i-1)
	}
	var steps strings.Builder
	steps.WriteString("pipeline: {identifier: p, stages: [{stage: {identifier: s, spec: {execution: {steps: &s0 [{step: {identifier: a, failureStrategies: [{}]}}]}}}}]}\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&steps, "s%d: &s%d [{parallel: *s%d}, {parallel: *s%d}]\n", i, i, i-1, i-1)
	}
	var wide strings.Builder
	wide.WriteString("a: &a {")
	for i := range 20_000 {
		fmt.Fprintf(&wide, "k%d: 1,", i)
	}
	wide.WriteString("}\nb: [" + strings.Repeat("{<<: *a},", 50_000) + "]\n")
	chain := "a0: &a0 " + strings.Repeat("[", 150) + strings.Repeat("]", 150) + "\na1: " + strings.Repeat("[", 150) + "*a0" + strings.Repeat("]", 150) + "\n"
	var nodes strings.Builder
	for i := range MaxNodes + 1 {
		fmt.Fprintf(&nodes, "{step: {identifier: a%d}},", i)
	}
	cases := []struct{ name, yaml, code string }{
		{"doubling aliases", doubling.String(), "yaml-limits"},
		{"doubling steps", steps.String(), "yaml-limits"},
		{"wide merges", wide.String(), "yaml-limits"},
		{"deep through aliases", chain, "yaml-limits"},
		{"alias of itself", "a: &a [*a]\n", "yaml-limits"},
		{"merge of itself", "a: &a {<<: *a}\n", "yaml-limits"},
		{"deep flow", strings.Repeat("[", 50_000), "yaml-limits"},
		{"deep blocks", strings.Repeat("- ", 50_000), "yaml-limits"},
		{"deep enough for the parser", strings.Repeat("[", 300) + strings.Repeat("]", 300), "yaml-limits"},
		{"many values", "a: [" + strings.Repeat("1,", 500_000) + "]", "yaml-limits"},
		{"too large", strings.Repeat("#", MaxSize+1), "yaml-limits"},
		{"too many nodes", "{pipeline: {identifier: p, stages: [{stage: {identifier: s, spec: {execution: {steps: [" + nodes.String() + "]}}}}]}}", "too-many-nodes"},
		{"groups in groups", "{pipeline: {identifier: p, stages: [{stage: {identifier: s, spec: {execution: {steps: [" + strings.Repeat("{stepGroup: {identifier: g, steps: [", 60) + strings.Repeat("]}}", 60) + "]}}}}]}}", "bad-identifier"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			plan, ds := Load("x", []byte(c.yaml), Options{})
			found := false
			for _, d := range ds {
				found = found || d.Code == c.code && d.Severity == SeverityError
			}
			if !found {
				t.Errorf("no %s: %.300v", c.code, ds)
			}
			if plan != nil && len(plan.Nodes()) > MaxNodes {
				t.Errorf("%d nodes", len(plan.Nodes()))
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// TestLimitsLetThrough: at the bounds nothing is said.
func TestLimitsLetThrough(t *testing.T) {
	for name, yaml := range map[string]string{
		"size":  "pipeline: {identifier: p} #" + strings.Repeat("x", MaxSize-len("pipeline: {identifier: p} #")),
		"depth": "pipeline: {identifier: p, x: " + strings.Repeat("[", MaxDepth-3) + "1" + strings.Repeat("]", MaxDepth-3) + "}",
	} {
		if _, ds := Load("x", []byte(yaml), Options{}); len(ds) != 0 {
			t.Errorf("%s: %v", name, ds)
		}
	}
}

func FuzzLoad(f *testing.F) {
	examples, err := filepath.Glob("../../examples/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range examples {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), false)
	}
	f.Add(in(onGroup, one("Timeout", retryDo(11, ", retryIntervals: [1d, 2d]")), one("AllErrors", "{type: RetryStepGroup, spec: {retryCount: 9}}")), true)
	f.Add("a: &a {<<: *a}\nb: [*a, {{ x }}]\n---\nc", false)
	f.Add("- step: {template: {templateRef: t, templateInputs: {failureStrategies: [null, <+input>]}}}", true)
	f.Fuzz(func(t *testing.T, text string, strict bool) {
		opt := Options{}
		if strict {
			opt.Semantics = recourse.Engine
		}
		plan, ds := Load("x", []byte(text), opt)
		if len(ds) > MaxDiagnostics+1 {
			t.Errorf("%d diagnostics", len(ds))
		}
		for i, d := range ds {
			if d.Line < 1 || d.Column < 1 || d.Code == "" || d.Message == "" || d.Severity == 0 {
				t.Errorf("incomplete: %+v", d)
			}
			if i > 0 && (d.Line < ds[i-1].Line || d.Line == ds[i-1].Line && d.Column < ds[i-1].Column) {
				t.Errorf("not sorted: %v", ds)
			}
		}
		if plan == nil {
			if !ds.HasErrors() {
				t.Error("no plan, and nobody says why")
			}
			return
		}
		for _, n := range plan.Nodes() {
			if err := n.Validate(); err != nil {
				t.Errorf("%s: %v", n.Node, err)
			}
		}
		if _, again := Load("x", []byte(text), opt); !reflect.DeepEqual(ds, again) {
			t.Errorf("another result the second time: %v, %v", ds, again)
		}
	})
}
