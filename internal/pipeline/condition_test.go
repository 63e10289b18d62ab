package pipeline

import (
	"errors"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

func TestCondition(t *testing.T) {
	code := 137
	full := &decide.FailureView{Attempt: 2, Errors: recourse.ErrorTypesOf(recourse.Timeout, recourse.Connectivity), Message: "node pool 3: OOMKilled", Target: "eu-1", ExitCode: &code}
	bare := &decide.FailureView{Attempt: 1, Errors: recourse.ErrorTypesOf(recourse.Unknown)}
	cases := []struct {
		text string
		view *decide.FailureView
		want bool
		why  string
	}{
		{"<+step.exitCode> == 137", full, true, "condition (<+step.exitCode> == 137) holds: exitCode is 137"},
		{"<+step.exitCode>==1", full, false, "condition (<+step.exitCode>==1) does not hold: exitCode is 137"},
		{"<+step.exitCode> == 137", bare, false, "cannot be evaluated: exitCode: the failure has none"},
		{"!(<+step.exitCode> == 137)", bare, false, "exitCode: the failure has none"},
		{"<+step.attempt> == 1 or <+step.exitCode> == 137", bare, false, "exitCode: the failure has none"},
		{"<+step.exitCode> in [1, 137]", full, true, "exitCode is 137"},
		{"<+step.exitCode> > 136 && <+step.exitCode> <= 137 and <+step.attempt> != 3", full, true, "exitCode is 137, attempt is 2"},
		{"<+step.message> contains \"OOM\"", full, true, `message is "node pool 3: OOMKilled"`},
		{"<+step.message> contains '<+step.message>'", full, false, "message"},
		{"<+step.message> matches '(?i)oomk'", full, true, "message"},
		{"not (<+step.message> startsWith 'node') || <+step.target> endsWith '-1'", full, true, `target is "eu-1"`},
		{"<+step.errors> contains 'timeout'", full, true, "errors are Connectivity,Timeout"},
		{"'Timeout' in <+step.errors>", full, true, "errors are Connectivity,Timeout"},
		{"'Timeout' not in <+step.errors>", bare, true, "errors are Unknown"},
		{"<+step.errors> contains 'Authentication'", full, false, "errors are"},
		{"not (<+step.errors> contains 'Authentication')", full, true, "errors are"},
		{"true", full, true, "it looks at nothing"},
		{"<+step.exitCode> == -1", full, false, "exitCode is 137"},
	}
	for _, c := range cases {
		compiled, err := compileCondition(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got, why := compiled.Holds(c.view); got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v, %q; want %v, %q", c.text, got, why, c.want, c.why)
		}
	}
}

func TestConditionErrors(t *testing.T) {
	cases := []struct {
		text    string
		message string
		offset  int
	}{
		{"", "is empty", 0},
		{" \t", "is empty", 0},
		{"<+step.exitCode>", "expected bool", 0},
		{"<+step.exitCode> == 'x'", "mismatched types", 17},
		{"<+step.exitcode> == 1", "did you mean <+step.exitCode>?", 0},
		{"1 == 1 && <+pipeline.name> == 'x'", "does not know", 10},
		{"exitCode == 1", "write <+step.exitCode>", 0},
		{"<+step.exitCode == 1", "not closed", 0},
		{"<+step.attempt> + 1 == 2", "no operator", -1},
		{"<+step.message> + 'x' == 'y'", "no operator", -1},
		{"len(<+step.message>) == 2", "nothing else", 0},
		{"len([1..100000000]) == 2", "nothing else", 0},
		{"<+step.attempt> in 1..100000000", "no operator", -1},
		{"all(<+step.errors>, # == 'x')", "nothing else", 0},
		{"let x = 1; x == 1", "nothing else", -1},
		{"<+step.attempt> == 1 ? true : false", "nothing else", -1},
		{"<+step.message>[0:1] == 'x'", "nothing else", -1},
		{"[1] == [1]", "a list stands only", 0},
		{"<+step.message> matches <+step.target>", "text in quotes", -1},
		{"<+step.message> matches '('", "missing closing", -1},
		{"<+step.message> matches '(((a{100}){100}){100})'", "", -1},
		{"<+step.message> matches '(a{30}){30}'", "too large", -1},
		{"<+step.errors> contains 'Timeuot'", "did you mean Timeout?", 24},
		{"<+step.errors> contains 'AllErrors'", "stands for any", 24},
		{"true &&", "unexpected", -1},
		{strings.Repeat("!", 5000) + "true", "at most 4096 bytes", 0},
		{strings.Repeat("!", 4000) + "true", "", -1},
		{strings.Repeat("(", 4000), "", -1},
		{strings.Repeat("true and ", 400) + "true", "", -1},
	}
	for _, c := range cases {
		_, err := compileCondition(c.text)
		var bad *conditionError
		if !errors.As(err, &bad) {
			t.Errorf("%.60s: got %v, want a *conditionError", c.text, err)
			continue
		}
		if !strings.Contains(bad.message, c.message) || c.offset >= 0 && bad.offset != c.offset {
			t.Errorf("%.60s: got %q at %d, want %q at %d", c.text, bad.message, bad.offset, c.message, c.offset)
		}
		if strings.Contains(bad.message, exprPrefix) {
			t.Errorf("%.60s: %q shows an inner name", c.text, bad.message)
		}
	}
}

// TestConditionPosition: the diagnostic points at the word in the YAML.
func TestConditionPosition(t *testing.T) {
	yaml := `pipeline:
  identifier: p
  stages:
    - stage:
        identifier: s
        failureStrategies:
          - onFailure:
              errors: [Timeout]
              action:
                type: Retry
                spec:
                  retryCount: 1
                  condition: %s
                  onRetryFailure: {action: {type: Abort}}
`
	for text, column := range map[string]int{
		"<+step.attempt> == 1 and <+step.nope> == 2":   30 + 25,
		"'<+step.attempt> == 1 and <+step.nope> == 2'": 30 + 1 + 25,
		"|-\n                    <+step.nope> == 2":    30,
	} {
		_, ds := load(t, strings.Replace(yaml, "%s", text, 1), documented)
		if len(ds) != 1 || ds[0].Code != "bad-condition" || ds[0].Line != 13 || ds[0].Column != column {
			t.Errorf("%s: got %v, want column %d", text, ds, column)
		}
	}
}

func FuzzCondition(f *testing.F) {
	f.Add("<+step.exitCode> == 137 and <+step.message> matches 'a+'", "aaa", 1)
	f.Add("'Timeout' in <+step.errors> or <+step.target> in ['a', 'b']", "", 0)
	f.Fuzz(func(t *testing.T, text, message string, code int) {
		c, err := compileCondition(text)
		if err != nil {
			return
		}
		view := &decide.FailureView{Attempt: 1, Message: recourse.Redact(message), ExitCode: &code}
		first, why := c.Holds(view)
		if second, again := c.Holds(view); first != second || why != again || why == "" {
			t.Errorf("%q: %v %q, then %v %q", text, first, why, second, again)
		}
	})
}
