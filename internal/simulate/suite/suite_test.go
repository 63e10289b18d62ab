package suite

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse/internal/pipeline"
)

const web = `pipeline:
  identifier: web
  stages:
    - stage:
        identifier: prod
        type: Deployment
        spec:
          execution:
            steps:
              - step:
                  identifier: roll
                  type: Run
                  failureStrategies:
                    - onFailure: {errors: [Timeout], action: {type: Retry, spec: {retryCount: 2, retryIntervals: [1s, 5s], onRetryFailure: {action: {type: StageRollback}}}}}
                    - onFailure: {errors: [Verification], action: {type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: Abort}}}}}
              - step: {identifier: after, type: Run}
            rollbackSteps:
              - step: {identifier: undo, type: Run}
        failureStrategies:
          - onFailure: {errors: [AllErrors], action: {type: StageRollback}}
    - stage:
        identifier: tell
        type: Custom
        when: {pipelineStatus: Failure}
        spec: {execution: {steps: [{step: {identifier: chat, type: Run}}]}}
`

func open(string) ([]byte, error) { return []byte(web), nil }

func still() time.Time { return time.Time{} }

// file is a test file with tests in flow style.
func file(tests ...string) string {
	return "pipeline: web.yaml\ntests:\n  - " + strings.Join(tests, "\n  - ") + "\n"
}

func run(t *testing.T, text string) *Report {
	t.Helper()
	f, err := Read("dir/web_test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Run(open, pipeline.Options{}, still)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestExpectations: each expectation holds, and where it is otherwise it says what was wanted and what came.
func TestExpectations(t *testing.T) {
	for _, test := range []struct{ test, want string }{
		{"fail: {prod/roll: [Timeout]}, expect: {actions: {prod/roll: [Retry]}}", ""},
		{"fail: {prod/roll: [Timeout]}, expect: {actions: {prod/roll: [retry, Ignore]}}", "actions of prod/roll|want Retry, Ignore|got  Retry|differs at 2: want Ignore, got nothing"},
		{"fail: {prod/roll: Timeout*3}, expect: {actions: {prod/roll: [Retry, Retry]}}", "actions of prod/roll|want Retry, Retry|got  Retry, Retry, StageRollback|differs at 3: want nothing, got StageRollback"},
		{"fail: {prod/roll: Timeout*3}, expect: {delays: {prod/roll: [1s, 5s]}}", ""},
		{"fail: {prod/roll: Timeout*3}, expect: {delays: {prod/roll: [1s, 5m]}}", "delays of prod/roll|want 1s, 5m0s|got  1s, 5s|differs at 2: want 5m0s, got 5s"},
		{"expect: {delays: {prod/roll: []}, actions: {prod/roll: []}}", ""},
		{"expect: {actions: {prod/roll: [Retry]}}", "actions of prod/roll|want Retry|got  none|differs at 1: want Retry, got nothing"},
		{"fail: {prod/after: Unknown}, expect: {stages: {prod: rolled-back, tell: skipped}, outcome: failed, duration: 0s}", ""},
		{"fail: {prod/after: Unknown}, expect: {stages: {prod: failed}}", "stage prod|want failed|got  rolled-back: StageRollback of prod/after, attempt 1 (StrategyMatched)"},
		{"semantics: engine, fail: {prod/after: Unknown}, expect: {stages: {tell: succeeded}}", ""},
		{"expect: {outcome: failed}", "outcome|want failed|got  succeeded"},
		{"stepDuration: 1m, expect: {duration: 3m}", "duration|want 3m0s|got  2m0s"},
		{"fail: {prod/roll: Timeout}, expect: {attempts: {prod/roll: 2, prod/undo: 0}}", ""},
		{"expect: {attempts: {prod/roll: 2}}", "attempts of prod/roll|want 2|got  1"},
		{"fail: {prod/roll: Verification}, answers: [{node: prod/roll, action: Retry, after: 5m}], expect: {actions: {prod/roll: [ManualIntervention, Retry]}, delays: {prod/roll: [0s]}, duration: 5m}", ""},
		{"fail: {prod/roll: Verification}, answers: [{node: prod/roll, action: PipelineRollback}], expect: {actions: {prod/roll: [ManualIntervention, AnswerRefused, Abort]}}", ""},
		{"fail: {prod/roll: Timeout}, expect: {events: [{at: 0s, node: prod/roll, kind: retry-scheduled}, {at: 1s, verb: retry, reason: RetryDue}, {node: prod/roll, attempt: 2, kind: succeeded}]}", ""},
		{"fail: {prod/roll: Timeout}, expect: {events: [{at: 1s, verb: retry}, {at: 0s, node: prod/roll}]}", "events|want {at: 0s, node: prod/roll}|got  no such event after t+1s prod/roll the wait is over → retry 1 of 2, attempt 2 (RetryDue, step)"},
		{"fail: {prod/after: Unknown}, expect: {events: [{node: prod/undo (rollbackSteps), kind: succeeded}]}", ""},
		{"fail: {prod/after: Unknown}, expect: {events: [{node: prod/undo, kind: succeeded}]}", ""},
		{"fail: {prod/roll: [{errors: [Timeout], exitCode: 3, message: slow, target: x, retryAfter: 9s, times: 2}]}, expect: {delays: {prod/roll: [9s, 9s]}}", ""},
		{"fail: {prod/roll: [{times: always}]}, expect: {stages: {prod: rolled-back}}", ""},

		{"decide: {node: prod/roll, errors: [Timeout], attempt: 2}, expect: {action: Retry, reason: StrategyMatched, level: step, delay: 5s, verb: retry, scope: prod/roll, status: Retrying}", ""},
		{"decide: {node: prod/roll, errors: [Timeout], attempt: 3}, expect: {action: stagerollback, reason: RetriesExhausted, scope: prod}", ""},
		{"decide: {node: prod/roll, errors: [Timeout]}, expect: {strategy: 'failureStrategies[0]'}", ""},
		{"decide: {node: prod/roll, errors: [Timeout]}, expect: {strategy: 'ailureStrategies[0]'}", "strategy|want ailureStrategies[0]|got  pipeline.stages[0].stage.spec.execution.steps[0].step.failureStrategies[0]"},
		{"decide: {node: prod/roll, errors: [Verification], exitCode: 1}, expect: {verb: pause, timeout: 1h, onTimeout: Abort}", ""},
		{"decide: {node: prod/roll}, expect: {action: Ignore, level: stage}", "action|want Ignore|got  StageRollback"},
		{"decide: {node: prod/undo}, expect: {action: MarkAsFailure, reason: NoStrategy, level: none}", ""},
	} {
		r := run(t, file("{name: x, "+test.test+"}"))
		got := strings.TrimSuffix(strings.ReplaceAll(mismatchText(r.Tests[0].Mismatches), "\n  ", "|"), "\n")
		if got != test.want || r.Tests[0].Passed != (test.want == "") || r.Tests[0].Line != 3 {
			t.Errorf("%s\ngot  %s\nwant %s", test.test, got, test.want)
		}
	}
}

// TestIterations: what is expected of a node without its iterations is expected of each that ran.
func TestIterations(t *testing.T) {
	const loops = `pipeline: {identifier: p, stages: [{stage: {identifier: b, type: Custom, strategy: {repeat: {times: 2}}, spec: {execution: {steps: [
	  {step: {identifier: s, type: Run, strategy: {matrix: {x: [1, 2]}}, failureStrategies: [{onFailure: {errors: [AllErrors], action: {type: Retry,
	    spec: {retryCount: 1, retryIntervals: [1s], onRetryFailure: {action: {type: Ignore}}}}}}]}}]}}}}]}`
	f, err := Read("t.yaml", []byte(file(
		"{name: all, fail: {b/s: Timeout}, expect: {attempts: {b/s: 2}, actions: {b/s: [Retry], 'b[1]/s': [Retry]}, stages: {b: succeeded}}}",
		"{name: some, fail: {'b[1]/s': Timeout*}, expect: {attempts: {'b[0]/s': 1, 'b[1]/s': 2, b/s: 1}, delays: {'b/s[1]': []}, stages: {b: ignored}}}",
	)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Run(func(string) ([]byte, error) { return []byte(loops), nil }, pipeline.Options{}, still)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range append(r.Tests[0].Mismatches, r.Tests[1].Mismatches...) {
		got = append(got, m.What+": "+m.Got)
	}
	want := []string{"delays of b[1]/s[1]: 1s", "attempts of b[1]/s[0]: 2", "attempts of b[1]/s[1]: 2", "stage b[0]: succeeded"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if notes := r.Tests[0].Notes; len(notes) != 0 {
		t.Errorf("notes %q", notes)
	}
}

// TestUnusable: each thing that is wrong is reported with its place, all of them in one go.
func TestUnusable(t *testing.T) {
	ok := "{name: x, expect: {outcome: succeeded}}"
	for _, test := range []struct {
		text string
		want []string // each begins a line
	}{
		{"", []string{"1:1: the file is empty"}},
		{"# nothing\n", []string{"1:1: the file is empty"}},
		{"pipeline: [a", []string{"2:1: the file is not YAML"}},
		{"a: 1\n---\nb: 2\n", []string{"1:1: the file has more than one document"}},
		{"[]", []string{"1:1: a test file is a mapping"}},
		{"tests: [" + ok + "]", []string{"1:1: the file does not say which pipeline"}},
		{"pipeline: web.yaml", []string{"1:1: the file has no tests"}},
		{"pipeline: web.yaml\ntests: []", []string{"2:8: the file has no tests"}},
		{"pipeline: web.yaml\ntests: {}", []string{"2:8: tests is a list"}},
		{"pipeline:\ntests: [" + ok + "]", []string{"1:10: pipeline is missing its value"}},
		{"pipeline: web.yaml\npipline: x\nsemantics: both\nstepDuration: 5\ntests: [" + ok + "]", []string{`2:1: a test file does not know "pipline"; did you mean pipeline?`, "3:12: semantics: unknown semantics", "4:15: stepDuration:"}},
		{"pipeline: a\npipeline: b\ntests: [" + ok + "]", []string{`2:1: "pipeline" is in a test file twice`}},
		{file("{expect: {outcome: failed}}"), []string{"3:5: the test has no name"}},
		{file("{name: x}"), []string{"3:5: the test expects nothing"}},
		{file("{name: x, expect: {}}"), []string{"3:23: the test expects nothing"}},
		{file("{name: x, expect: {stages: {}}}"), []string{"3:23: the test expects nothing"}},
		{file(ok, ok), []string{`4:5: a test with the name "x" stands in line 3 already`}},
		{file("{name: x, fial: {}, expect: {outcome: failed}}"), []string{`3:15: a test does not know "fial"`}},
		{file("{name: x, expect: {outcom: failed}}"), []string{`3:24: expect does not know "outcom"`}},
		{file("{name: x, expect: {outcome: done}}"), []string{`3:33: outcome: unknown status "done"; known are succeeded`}},
		{file("{name: x, expect: {actions: {prod/roll: [Retri]}}}"), []string{`3:46: actions of prod/roll: unknown action "Retri"`}},
		{file("{name: x, expect: {actions: {prod/roll: Retry}}}"), []string{"3:45: actions of prod/roll is a list"}},
		{file("{name: x, expect: {delays: {prod/roll: [5]}}}"), []string{"3:45: delays of prod/roll:"}},
		{file("{name: x, expect: {attempts: {prod/roll: many}}}"), []string{"3:46: attempts of prod/roll:"}},
		{file("{name: x, expect: {events: [{}]}}"), []string{"3:33: an event is empty"}},
		{file("{name: x, expect: {events: [{verb: jump}]}}"), []string{`3:40: verb: unknown verb "jump"; known are ignore`}},
		{file("{name: x, expect: {events: [{kind: comand}]}}"), []string{`3:40: kind: unknown kind "comand"; did you mean command?`}},
		{file("{name: x, expect: {events: [{reason: RetriesExausted}]}}"), []string{`3:42: reason: unknown reason "RetriesExausted"; did you mean RetriesExhausted?`}},
		{file("{name: x, decide: {node: prod}, expect: {status: Retry, level: group}}"), []string{`3:54: status: unknown status "Retry"; did you mean Retrying?`, `3:68: level: unknown level "group"; known are`}},
		{file("{name: x, fail: {prod/roll: [Timeot]}, expect: {outcome: failed}}"), []string{`3:34: an outcome: outcome "Timeot": unknown error type`}},
		{file("{name: x, fail: {prod/roll: 'Timeout*,ok'}, expect: {outcome: failed}}"), []string{"3:33: an outcome that always comes is the last one"}},
		{file("{name: x, fail: {prod/roll: [{errors: [AllErrors]}]}, expect: {outcome: failed}}"), []string{"3:44: errors: AllErrors is what a strategy lists"}},
		{file("{name: x, fail: {prod/roll: [{times: 0}]}, expect: {outcome: failed}}"), []string{"3:42: times is a number from 1"}},
		{file("{name: x, fail: {prod/rol: ok}, expect: {outcome: failed}}"), []string{`3:22: the pipeline has no node "prod/rol"; did you mean prod/roll?`}},
		{file("{name: x, fail: {prod/undo: ok, prod/undo (rollbackSteps): ok}, expect: {outcome: failed}}"), []string{"3:37: prod/undo (rollbackSteps) is there twice"}},
		{file("{name: x, answers: [{node: prod/roll}], expect: {outcome: failed}}"), []string{"3:25: an answer has node and action"}},
		{file("{name: x, answers: [{node: prod, action: Rety}], expect: {outcome: failed}}"), []string{"3:46: action: unknown action"}},
		{file("{name: x, decide: {errors: [Timeout]}, expect: {action: Ignore}}"), []string{"3:23: decide does not say which node fails"}},
		{file("{name: x, decide: {node: prod, attempt: 0}, expect: {action: Ignore}}"), []string{"3:45: attempt is a number from 1"}},
		{file("{name: x, decide: {node: prod}, fail: {prod: ok}, expect: {action: Ignore}}"), []string{"3:43: a test is a scenario or a single decision"}},
		{file("{name: x, decide: {node: prod}, expect: {stages: {}}}"), []string{`3:46: expect of a single decision does not know "stages"`}},
		{file("{name: x, expect: {stages: {prd: failed, prod/roll: failed}}}"), []string{`3:33: the pipeline has no node "prd"`, "3:46: prod/roll is no stage"}},
		{file("{name: x, expect: {outcome: }}", "{name: y, expect: {outcome: 1}}"), []string{"3:", "4:33: outcome: unknown status"}},
		{"pipeline: a\nx: &x [1, 2, 3]\ntests: [*x, *x]", []string{`2:1: a test file does not know "x"`, "2:4: a test is a mapping", "2:4: a test is a mapping"}},
		{"pipeline: &a [*a]\ntests: [" + ok + "]", []string{"1:"}},
		{strings.Repeat("#", MaxSize+1), []string{"1:1: a test file has at most"}},
	} {
		f, err := Read("t.yaml", []byte(test.text))
		if err == nil {
			_, err = f.Run(open, pipeline.Options{}, still)
		}
		if err == nil {
			t.Errorf("%.200s\nis taken, want %q", test.text, test.want)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		for i, want := range test.want {
			if i >= len(lines) || !strings.HasPrefix(lines[i], "t.yaml:"+want) {
				t.Errorf("%.200s\ngot  %q\nwant %q", test.text, lines, test.want)
				break
			}
		}
		if len(lines) != len(test.want) {
			t.Errorf("%.200s\ngot  %q\nwant %q", test.text, lines, test.want)
		}
		var problem *Problem
		if !errors.As(err, &problem) || problem.File != "t.yaml" {
			t.Errorf("%v is no Problem", err)
		}
	}
}

// TestPipelineUnusable: a pipeline that is not there, or whose own load has errors, is not tested.
func TestPipelineUnusable(t *testing.T) {
	text := file("{name: x, expect: {outcome: succeeded}}")
	for want, open := range map[string]func(string) ([]byte, error){
		"d/t.yaml:1:11: pipeline: gone":                       func(string) ([]byte, error) { return nil, errors.New("gone") },
		"a type that is misspelt":                             nil,
		"d/web.yaml:1:1: the file is empty [no-pipeline], wi": func(string) ([]byte, error) { return nil, nil },
	} {
		if open == nil {
			want = "d/web.yaml:14:44: unknown error type"
			open = func(path string) ([]byte, error) {
				if path != "d/web.yaml" {
					t.Errorf("%s is read", path)
				}
				return []byte(strings.Replace(web, "Timeout", "Timeot", 1)), nil
			}
		}
		f, err := Read("d/t.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if r, err := f.Run(open, pipeline.Options{}, still); r != nil || err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	f, _ := Read("d/t.yaml", []byte(strings.Replace(text, "web.yaml", "/srv/web.yaml", 1)))
	if f.PipelinePath() != "/srv/web.yaml" {
		t.Error(f.PipelinePath())
	}
}

// TestBomb: aliases are bounded.
func TestBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("pipeline: web.yaml\nsemantics: documented\ntests:\n  - &t\n    name: x\n    fail: {a: &l [")
	b.WriteString(strings.Repeat("ok,", 1000) + "ok]}\n    expect: {outcome: failed}\n")
	b.WriteString(strings.Repeat("  - *t\n", 1000))
	_, err := Read("t.yaml", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "more than 200000 values") || len(err.Error()) > 1<<20 {
		t.Errorf("%.300v", err)
	}
}

func TestCoverage(t *testing.T) {
	name := func(r *Report) []string {
		var missed []string
		for _, s := range Cover([]*Report{r}).Missed {
			missed = append(missed, fmt.Sprintf("%s:%d:%d %s %s", s.File, s.Line, s.Column, s.Node, s.Action))
		}
		return missed
	}
	const retry, ask, stage = "dir/web.yaml:14:23 prod/roll Retry", "dir/web.yaml:15:23 prod/roll ManualIntervention", "dir/web.yaml:20:13 prod StageRollback"
	one := run(t, file("{name: x, expect: {outcome: succeeded}}"))
	if got := name(one); !slices.Equal(got, []string{retry, ask, stage}) {
		t.Errorf("%q", got)
	}
	two := run(t, file("{name: x, fail: {prod/roll: Timeout}, expect: {outcome: succeeded}}", "{name: y, semantics: engine, decide: {node: prod/after}, expect: {level: stage}}"))
	if got := name(two); !slices.Equal(got, []string{ask}) {
		t.Errorf("%q", got)
	}
	three := run(t, file("{name: x, fail: {prod/roll: Timeout*}, expect: {outcome: failed}}"))
	if got := name(three); !slices.Equal(got, []string{ask, stage}) {
		t.Errorf("%q", got)
	}
	if c := Cover([]*Report{one, two, three}); c.Strategies != 3 || c.Reached != 2 || c.Percent != 66 {
		t.Errorf("%+v", c)
	}
	// A failure that is superseded does not reach its strategy.
	f, err := Read("t.yaml", []byte(file("{name: x, fail: {s/a: Timeout, s/b: Verification}, expect: {actions: {s/b: [Superseded]}}}")))
	if err != nil {
		t.Fatal(err)
	}
	beside := func(string) ([]byte, error) {
		return []byte(`pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {
          steps: [{parallel: [{step: {identifier: a}}, {step: {identifier: b, failureStrategies: [{onFailure: {errors: [Verification], action: {type: Ignore}}}]}}]}],
          rollbackSteps: [{step: {identifier: u}}]}}, failureStrategies: [{onFailure: {errors: [AllErrors], action: {type: StageRollback}}}]}}]}`), nil
	}
	r, err := f.Run(beside, pipeline.Options{}, still)
	if err != nil || !r.Tests[0].Passed || Cover([]*Report{r}).Reached != 1 {
		t.Errorf("%v, %+v", err, r)
	}
	if c := Cover(nil); c.Percent != 100 || c.Missed == nil {
		t.Errorf("%+v", c)
	}
}

func TestJUnit(t *testing.T) {
	r := run(t, file("{name: good, expect: {outcome: succeeded}}", "{name: 'bad <&>', expect: {outcome: failed}}"))
	var out strings.Builder
	if err := WriteJUnit(&out, []*Report{r}, []Unusable{{"broken.yaml", errors.New("broken.yaml:1:1: \x01 no")}}); err != nil {
		t.Fatal(err)
	}
	var got junitSuites
	if err := xml.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if got.Tests != 3 || got.Failures != 1 || got.Errors != 1 || len(got.Suites) != 2 {
		t.Errorf("%+v", got)
	}
	bad := got.Suites[1].Cases[1]
	if bad.Name != "bad <&>" || bad.Line != 4 || bad.Failure == nil || bad.Failure.Text != "outcome\n  want failed\n  got  succeeded\n" || got.Suites[1].Cases[0].Failure != nil {
		t.Errorf("%+v %+v", bad, bad.Failure)
	}
	if e := got.Suites[0].Cases[0].Error; e == nil || !strings.Contains(e.Text, "broken.yaml:1:1") {
		t.Errorf("%+v", e)
	}
}

// TestExample: the example passes and reaches every strategy of its pipeline.
func TestExample(t *testing.T) {
	const name = "../../../examples/tests/deploy_web_test.yaml"
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Read(name, content)
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Run(os.ReadFile, pipeline.Options{}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Tests {
		if got := &r.Tests[i]; !got.Passed || len(got.Notes) > 0 {
			t.Errorf("%s: %s %q", got.Name, mismatchText(got.Mismatches), got.Notes)
		}
	}
	if c := Cover([]*Report{r}); c.Percent != 100 || c.Strategies == 0 {
		t.Errorf("%+v", c)
	}
}

// FuzzRead: whatever the bytes are, reading and running end, with a problem that has a place or with a report.
func FuzzRead(f *testing.F) {
	f.Add(file("{name: x, fail: {prod/roll: [Timeout, {errors: [Unknown], times: 2}]}, answers: [{node: prod, action: Retry}], expect: {stages: {prod: failed}, events: [{at: 1s}]}}"))
	f.Add(file("{name: x, decide: {node: prod/roll, errors: [Timeout], attempt: 2}, expect: {action: Retry}}"))
	f.Add("pipeline: &a {x: *a}\ntests: [&b {name: b, expect: *b}]")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Read("t.yaml", []byte(text))
		if err == nil {
			_, err = file.Run(open, pipeline.Options{}, still)
		}
		var problem *Problem
		if err != nil && (!errors.As(err, &problem) || problem.Line < 1) {
			t.Fatalf("%v", err)
		}
	})
}
