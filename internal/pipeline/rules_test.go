package pipeline

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestLintFixtures: each rule that is a lint has a file that it speaks about, alone, and one next to it about which nobody has
// anything to say. What has a directory is a rule.
func TestLintFixtures(t *testing.T) {
	for _, rule := range Rules() {
		dir := filepath.Join("testdata", "lint", rule.Code)
		if rule.Clause == "" {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s: there are files for a rule that is no lint", rule.Code)
			}
			continue
		}
		for _, name := range []string{"bad.yaml", "good.yaml"} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Errorf("%s needs a file that triggers it and one that does not: %v", rule.Code, err)
				continue
			}
			_, ds := Load(name, text, Options{})
			want := []string{}
			if name == "bad.yaml" {
				want = []string{rule.Severity.String() + " " + rule.Code}
			}
			if got := codes(ds); !slices.Equal(got, want) {
				t.Errorf("%s/%s: got %v, want %v", rule.Code, name, ds, want)
			}
			_, ds = Load(name, text, Options{Semantics: engine})
			refused := slices.ContainsFunc(ds, func(d Diagnostic) bool { return d.Code == rule.Code && d.Severity == SeverityError })
			if refused != (rule.Strict && name == "bad.yaml") {
				t.Errorf("%s/%s: strict %v, the engine says %v", rule.Code, name, rule.Strict, ds)
			}
		}
	}
	dirs, err := os.ReadDir("testdata/lint")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if _, known := RuleOf(dir.Name()); !known {
			t.Errorf("testdata/lint/%s: there is no such rule", dir.Name())
		}
	}
}

// TestLintSection: each clause of the semantics has a rule, and the rules name no others.
func TestLintSection(t *testing.T) {
	text, err := os.ReadFile("../../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "## Lint (beyond load errors)\n")
	if !ok {
		t.Fatal("the semantics have no section about lint")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var clauses []string
	for clause := range strings.SplitSeq(section, ";") {
		clauses = append(clauses, strings.TrimSuffix(strings.Join(strings.Fields(clause), " "), "."))
	}
	for _, clause := range clauses {
		if !slices.ContainsFunc(rules, func(r Rule) bool { return r.Clause == clause }) {
			t.Errorf("no rule for: %s", clause)
		}
	}
	for _, rule := range rules {
		if rule.Clause != "" && !slices.Contains(clauses, rule.Clause) {
			t.Errorf("%s: the semantics do not say: %s", rule.Code, rule.Clause)
		}
	}
	if len(clauses) < 10 {
		t.Errorf("only %d clauses were found", len(clauses))
	}
}

// TestRules: the codes in this package and the rules are the same, and each rule says something.
func TestRules(t *testing.T) {
	code := regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)+$|^fragment$`)
	used := make(map[string]bool)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "rules.go" {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, _ := strconv.Unquote(literal.Value); code.MatchString(text) {
					used[text] = true
				}
			}
			return true
		})
	}
	for text := range used {
		if _, known := RuleOf(text); !known {
			t.Errorf("no rule for the code %s", text)
		}
	}
	for i, rule := range rules {
		if !used[rule.Code] {
			t.Errorf("nothing reports %s", rule.Code)
		}
		if rule.Severity == 0 || !strings.HasSuffix(rule.Summary, ".") || rule.Help != "" && !strings.ContainsAny(rule.Help[len(rule.Help)-1:], ".?") {
			t.Errorf("%s: %+v", rule.Code, rule)
		}
		if i > 0 && rules[i-1].Code >= rule.Code {
			t.Errorf("%s: not in order", rule.Code)
		}
	}
}

// TestLintDoc holds docs/lint.md to the rules; -update writes it.
func TestLintDoc(t *testing.T) {
	const file = "../../docs/lint.md"
	want := lintDoc()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Errorf("docs/lint.md is out of date (%v): run go test ./internal/pipeline -run TestLintDoc -update\n%s", err, difference(string(got), want))
	}
}

func lintDoc() string {
	var b strings.Builder
	b.WriteString(`# Findings

What ` + "`recourse validate` and `recourse lint`" + ` find, by code. Codes do not change between versions. An error means that the failure handling cannot
be taken as written; a pipeline with one is not registered. A warning means that it can, and that somebody should know. *strict*: an error with
` + "`--semantics engine`" + `. *lint*: beyond what a strict reader refuses, see [semantics.md](semantics.md#lint-beyond-load-errors); R numbers are rules there.

` + "`recourse lint --rules`" + ` prints this table, ` + "`--disable CODE`" + ` leaves one out, ` + "`-o sarif`" + ` writes SARIF 2.1.0.

| code | | what is found |
|---|---|---|
`)
	cell := strings.NewReplacer("|", `\|`, "<", "&lt;")
	for _, rule := range Rules() {
		b.WriteString("| `" + rule.Code + "` | " + rule.Severity.String())
		if rule.Strict {
			b.WriteString(", strict")
		}
		if rule.Clause != "" {
			b.WriteString(", lint")
		}
		b.WriteString(" | " + cell.Replace(strings.TrimSpace(rule.Summary+" "+rule.Help)) + " |\n")
	}
	b.WriteString("\nThis file is written by the tests of `internal/pipeline`.\n")
	return b.String()
}
