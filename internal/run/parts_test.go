package run

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

func TestClassifyExit(t *testing.T) {
	for _, test := range []struct {
		code           int
		script, output string
		want           recourse.ErrorType
	}{
		{1, "make", "", recourse.Unknown},
		{127, "x", "", recourse.ConfigurationFailure},
		{126, "x", "", recourse.ConfigurationFailure},
		{7, "curl -s x", "", recourse.Connectivity},
		{6, "curl -s x", "", recourse.Connectivity},
		{28, "curl -s x", "", recourse.Timeout},
		{7, "make", "", recourse.Unknown}, // not curl's 7
		{7, "./curly", "", recourse.Unknown},
		{4, "wget -q x", "", recourse.Connectivity},
		{255, "ssh host true", "", recourse.Connectivity},
		{124, "timeout 5 make", "", recourse.Timeout},
		{1, "make", "curl: (6) Could not resolve host: x", recourse.Connectivity},
		{1, "make", "curl: (28) Operation timed out after 5000 milliseconds", recourse.Timeout},
		{1, "make", "curl: (60) SSL certificate problem", recourse.Authentication},
		{22, "curl -f x", "curl: (22) The requested URL returned error: 401", recourse.Authentication},
		{22, "curl -f x", "curl: (22) The requested URL returned error: 403", recourse.Authorization},
		{22, "curl -f x", "curl: (22) The requested URL returned error: 503", recourse.Connectivity},
		{22, "curl -f x", "curl: (22) The requested URL returned error: 404", recourse.Unknown},
		{1, "kubectl get", "dial tcp 127.0.0.1:6443: connect: connection refused", recourse.Connectivity},
		{1, "kubectl get", "net/http: request canceled (context deadline exceeded)", recourse.Timeout},
		{1, "git pull", "git@host: Permission denied (publickey).", recourse.Authentication},
		{1, "x", "HTTP/1.1 403 Forbidden", recourse.Authorization},
		{1, "x", "urllib.error.HTTPError: HTTP Error 401: Unauthorized", recourse.Authentication},
		{1, "x", "unexpected status code 504", recourse.Timeout},
		{1, "x", "main.go:403: undefined: x", recourse.Unknown},
		{1, "x", "HTTP 404 Not Found", recourse.Unknown},
		{1, "docker pull x", "Error response from daemon: unauthorized: authentication required", recourse.Authentication},
		{1, "docker push x", "denied: requested access to the resource is denied", recourse.Authorization},
		{1, "kubectl get", "error: You must be logged in to the server (Unauthorized)", recourse.Authentication},
		{1, "kubectl get", `Error from server (Forbidden): pods is forbidden: User "x" cannot list resource`, recourse.Authorization},
		{1, "kubectl get", "The connection to the server localhost:8080 was refused - did you specify the right host or port?", recourse.Connectivity},
		{254, "aws s3 ls", "An error occurred (AccessDenied) when calling the ListBuckets operation: Access Denied", recourse.Authorization},
		{254, "aws s3 ls", "An error occurred (ExpiredToken) when calling the ListBuckets operation: The security token included in the request is expired", recourse.Authentication},
		{1, "node x.js", "Error: connect ECONNREFUSED 127.0.0.1:5432", recourse.Connectivity},
		{1, "node x.js", "Error: connect ETIMEDOUT 10.0.0.1:443", recourse.Timeout},
		{128, "git pull", "fatal: unable to access 'http://h/x.git/': Failed to connect to h port 80 after 0 ms: Couldn't connect to server", recourse.Connectivity},
		{1, "python x.py", "requests.exceptions.HTTPError: 403 Client Error: Forbidden for url: http://x", recourse.Authorization},
		{1, "helm upgrade", "Error: UPGRADE FAILED: timed out waiting for the condition", recourse.Timeout},
		{1, "go run .", `Get "https://x": net/http: TLS handshake timeout`, recourse.Timeout},
		{1, "go run .", `Get "https://x": tls: failed to verify certificate: x509: certificate signed by unknown authority`, recourse.Authentication},
		{1, "cp a b", "cp: error writing 'b': No space left on device", recourse.ResourceLimitsFailure},
		{1, "cat x", "cat: x: Permission denied", recourse.Unknown}, // of a file
		{1, "make", "3 tests failed: timeout_test, connection_test", recourse.Unknown},
		{1, "x", "connection refused\nretrying\n1\n2\n3\n4\n5", recourse.Unknown}, // it lived with that
		{1, "x", "connection refused\n403 Forbidden", recourse.Authorization},     // the last one counts
	} {
		if got := classifyExit(test.code, test.script, test.output); got != recourse.ErrorTypesOf(test.want) {
			t.Errorf("%d %q %q: %s, want %s", test.code, test.script, test.output, got, test.want)
		}
	}
}

const expressions = `
pipeline:
  identifier: p
  name: The pipeline
  variables:
    - {name: image, type: String, value: "web:<+pipeline.variables.tag>"}
    - {name: tag, type: String, value: <+input>, default: "1.10"}
    - {name: open, type: String, value: <+input>}
    - {name: loop, type: String, value: <+pipeline.variables.loop>}
  stages:
    - stage:
        identifier: one
        name: Stage one
        type: Custom
        variables:
          - {name: region, type: String, value: eu}
        spec: &spec
          execution:
            steps:
              - step: {identifier: s, type: Run, timeout: 5s, spec: {command: "true"}}
`

func load(t *testing.T, yaml string, vars map[string]string, stubTexts ...string) (*program, *decide.Plan) {
	t.Helper()
	plan, structure, found := pipeline.LoadStructure("test.yaml", []byte(yaml), pipeline.Options{})
	if found.HasErrors() {
		t.Fatal(found)
	}
	s, err := parseStubs(plan, stubTexts)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newProgram(recourse.Ref{Execution: "ex1"}, "test.yaml", []byte(yaml), structure, vars, s)
	if err != nil {
		t.Fatal(err)
	}
	return p, plan
}

func TestExpand(t *testing.T) {
	p, _ := load(t, expressions, map[string]string{"given": "yes", "region": "us"})
	stage := p.structure.Stages[0]
	s := &scope{program: p, stage: p.spec(stage), step: p.spec(stage.Steps[0]), values: map[string]string{"matrix.os": "linux"}}
	for _, test := range []struct{ text, want, unknown string }{
		{"plain", "plain", ""},
		{"<+pipeline.variables.tag>", "1.10", ""}, // as it is written, not as a number
		{"<+pipeline.variables.image>!", "web:1.10!", ""},
		{"<+pipeline.variables.given>", "yes", ""},
		{"<+stage.variables.region>", "us", ""},
		{"<+stage.variables.given>", "<+stage.variables.given>", "<+stage.variables.given>"}, // the stage has none of the name
		{"<+pipeline.variables.open>", "<+pipeline.variables.open>", "<+pipeline.variables.open>"},
		{"<+pipeline.variables.loop>", "<+pipeline.variables.loop>", "<+pipeline.variables.loop>"},
		{"<+pipeline.name> <+stage.name> <+step.identifier> <+step.timeout>", "The pipeline Stage one s 5s", ""},
		{"<+pipeline.executionId>", "ex1", ""},
		{"<+pipeline.stages.one.variables.region> <+pipeline.stages.one.name>", "us Stage one", ""},
		{"<+pipeline.stages.none.name>", "<+pipeline.stages.none.name>", "<+pipeline.stages.none.name>"},
		{"<+step.name>", "s", ""}, // it has none
		{"<+matrix.os>", "linux", ""},
		{"<+pipeline.variables.<+matrix.os>>", "<+pipeline.variables.linux>", "<+pipeline.variables.linux>"},
		{`<+secrets.getValue("x")> <+pipeline.variables.tag>`, `<+secrets.getValue("x")> 1.10`, `<+secrets.getValue("x")>`},
	} {
		got, unknown := s.expand(test.text)
		if got != test.want || strings.Join(unknown, " ") != test.unknown {
			t.Errorf("%s: %q, unknown %q; want %q, %q", test.text, got, unknown, test.want, test.unknown)
		}
	}
}

func TestOpen(t *testing.T) {
	const yaml = `
pipeline:
  identifier: p
  variables:
    - {name: a, value: <+input>}
    - {name: b, value: <+input>, default: 1}
    - {name: c, value: "<+input>.allowedValues(x,y).default(x)"}
    - {name: d, value: <+input>}
    - {name: unused, value: <+input>}
  stages:
    - stage:
        identifier: s
        type: Custom
        variables: [{name: e, value: <+input>}]
        spec: {execution: {steps: [{step: {identifier: x, type: Run, spec: {command: "<+pipeline.variables.a> <+pipeline.variables.b> <+pipeline.variables.c> <+pipeline.variables.d> <+stage.variables.e>"}}}]}}
`
	p, _ := load(t, yaml, map[string]string{"d": "given"})
	if got := p.open(); !slices.Equal(got, []string{"a", "e"}) {
		t.Errorf("open are %q, want a and e", got)
	}
	if got, unknown := (&scope{program: p}).expand("<+pipeline.variables.c><+pipeline.variables.d>"); got != "xgiven" {
		t.Errorf("got %s, unknown %q", got, unknown)
	}
}

func TestCondition(t *testing.T) {
	p, _ := load(t, expressions, map[string]string{"given": "yes", "trigger.branch": "main"})
	s := &scope{program: p, values: map[string]string{"matrix.os": "linux", "matrix.flag": "true", "matrix.quote": `" || true || "`}}
	for _, test := range []struct{ text, want string }{
		{"true", "true"},
		{` "false" `, "false"},
		{"<+matrix.flag>", "true"},
		{"!<+matrix.flag>", "false: <+matrix.flag> is \"true\""},
		{`<+matrix.os> == "linux"`, "true"},
		{`"<+matrix.os>" == 'linux'`, "true"},
		{`<+matrix.os> != "linux"`, `false: <+matrix.os> is "linux"`},
		{`<+pipeline.variables.tag> == 1.1`, "true"}, // both read as a number
		{`<+pipeline.variables.tag> > 1.9 || <+pipeline.variables.tag> < 1`, `false: <+pipeline.variables.tag> is "1.10"`},
		{`<+pipeline.variables.tag> >= 1.10 && <+pipeline.variables.tag> <= 1.10`, "true"},
		{`<+pipeline.variables.image> =~ "^web:\d+\\.10$"`, "true"},
		{`<+pipeline.variables.image> !~ "^web"`, `false: <+pipeline.variables.image> is "web:1.10"`},
		{`<+pipeline.variables.image> =^ "web" && <+matrix.flag>`, "true"},
		{`<+matrix.os>.contains("nu") and not <+matrix.os>.startsWith("x")`, "true"},
		{`<+matrix.os> in ["mac", "linux"]`, "true"},
		{`<+trigger.branch> == "main"`, "true"},
		{`"<+matrix.quote>" == "x"`, `false: <+matrix.quote> is "\" || true || \""`}, // a value is never part of the condition
		{"<+matrix.nope> == 1", "error <+matrix.nope> is not known here"},
		{"<+matrix.os", "error an expression is not closed by >"},
		{`<+matrix.os> == "x`, `error a text is not closed by "`},
		{"<+matrix.os>", `error "linux" is neither true nor false`},
		{`<+matrix.os> ==`, "error unexpected token EOF"},
		{"len(<+matrix.os>) > 1", "error unknown name len"},
		{"1 == " + strings.Repeat("1", maxConditionLength), "error it has 4101 bytes, 4096 are the most"},
	} {
		holds, values, err := s.condition(test.text)
		got := strconv.FormatBool(holds)
		switch {
		case err != nil:
			got = "error " + err.Error()
		case !holds && values != "":
			got += ": " + values
		}
		if got != test.want {
			t.Errorf("%.80s: %s, want %s", test.text, got, test.want)
		}
	}
}

func TestIterations(t *testing.T) {
	for strategy, want := range map[string]string{
		"{matrix: {a: [x, y], b: [1, 2]}}":                                  "map[matrix.a:x matrix.b:1] map[matrix.a:x matrix.b:2] map[matrix.a:y matrix.b:1] map[matrix.a:y matrix.b:2]",
		"{matrix: {a: [x, y], b: [1, 2], exclude: [{a: x, b: 2}, {a: y}]}}": "map[matrix.a:x matrix.b:1]",
		"{repeat: {items: [x, y], maxConcurrency: 1}}":                      "map[repeat.item:x] map[repeat.item:y]",
		"{repeat: {times: 2}}":                                              "map[] map[]",
		"{parallelism: 3}":                                                  "map[] map[] map[]",
		"{matrix: {a: <+input>}}":                                           "",
	} {
		p, _ := load(t, "pipeline: {identifier: p, stages: [{stage: {identifier: s, type: Custom, strategy: "+strategy+", spec: {execution: {steps: []}}}}]}", nil)
		var got []string
		for _, one := range p.iterations(p.structure.Stages[0]) {
			got = append(got, strings.ReplaceAll(strings.TrimSpace(string(must(t, one))), "\n", ""))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", strategy, got, want)
		}
	}
}

func must(t *testing.T, one map[string]string) []byte {
	t.Helper()
	keys := make([]string, 0, len(one))
	for key, value := range one {
		keys = append(keys, key+":"+value)
	}
	slices.Sort(keys)
	return []byte("map[" + strings.Join(keys, " ") + "]")
}

const mixed = `
pipeline:
  identifier: p
  stages:
    - stage:
        identifier: one
        type: Deployment
        timeout: 1h
        spec:
          execution:
            steps:
              - step: {identifier: script, type: ShellScript, timeout: soon, spec: {shell: Bash, outputVariables: [{name: x}], source: {type: Inline, spec: {script: "true"}}}}
              - step: {identifier: run, type: Run, spec: {image: alpine, command: "true"}}
              - step: {identifier: power, type: ShellScript, spec: {shell: PowerShell, source: {type: Inline, spec: {script: "true"}}}}
              - step: {identifier: remote, type: ShellScript, spec: {shell: Bash, onDelegate: false, source: {type: Inline, spec: {script: "true"}}}}
              - step: {identifier: stored, type: ShellScript, spec: {shell: Bash, source: {type: Harness, spec: {file: /x}}}}
              - step: {identifier: empty, type: Run, spec: {}}
              - step: {identifier: deploy, type: K8sRollingDeploy, spec: {}}
            rollbackSteps:
              - step: {identifier: back, type: K8sRollingRollback, spec: {}}
    - stage: {identifier: chained, type: Pipeline, spec: {}}
`

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		stubs []string
		want  []string
	}{
		{nil, []string{"one/power", "one/remote", "one/stored", "one/empty", "one/deploy", "one/back (rollbackSteps)", "chained"}},
		{[]string{"Type:K8sRollingDeploy=ok", "one/power=Timeout,ok", "one/back=ok"}, []string{"one/remote", "one/stored", "one/empty", "chained"}},
		{[]string{"*=ok"}, nil},
	} {
		p, _ := load(t, mixed, nil, test.stubs...)
		unsupported, notes := p.check()
		var got []string
		for _, u := range unsupported {
			got = append(got, u.Node.String())
			if u.Line == 0 || u.Why == "" {
				t.Errorf("%+v", u)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%v: %v, want %v", test.stubs, got, test.want)
		}
		all := strings.Join(notes, "\n")
		for _, want := range []string{"outputVariables has no effect here: one/script", "image has no effect here: one/run", "timeouts are enforced on steps only, not on: one", "no timeout, since it is no duration: one/script"} {
			if !strings.Contains(all, want) {
				t.Errorf("%q is missing in\n%s", want, all)
			}
		}
	}
}

func TestStubs(t *testing.T) {
	p, plan := load(t, mixed, nil, "one/script=Timeout,ok*2,Connectivity:7*", "Type:Run=Unknown", "*=ok")
	script, run := recourse.Node{Path: "one/script"}, recourse.Node{Path: "one/run"}
	for attempt, want := range []recourse.ErrorType{recourse.Timeout, 0, 0, recourse.Connectivity, recourse.Connectivity} {
		o := p.stubs.outcome(script, typeShellScript, true, attempt+1)
		if o == nil || o.Errors.First() != want {
			t.Errorf("attempt %d: %v, want %s", attempt+1, o, want)
		}
	}
	if o := p.stubs.outcome(run, typeRun, true, 1); o == nil || o.Errors == 0 {
		t.Errorf("by type: %v", o)
	}
	if o := p.stubs.outcome(run, typeRun, true, 2); o == nil || o.Errors != 0 {
		t.Errorf("beyond the list: %v", o)
	}
	if o := p.stubs.outcome(recourse.Node{Path: "one/other"}, typeShellScript, true, 1); o != nil {
		t.Errorf("* counts for what can be run: %v", o)
	}
	for _, text := range []string{"", "x", "=ok", "one/none=ok", "one/script=AllErrors", "one/script=", "*=Nothing"} {
		if _, err := parseStubs(plan, []string{text}); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if _, _, err := openJournal(dir, true); !errors.Is(err, errNoJournal) {
		t.Errorf("nothing to resume: %v", err)
	}
	j, entries, err := openJournal(dir, false)
	if err != nil || len(entries) != 0 {
		t.Fatal(entries, err)
	}
	code := 7
	written := []entry{
		{Begin: &header{Ref: recourse.Ref{Execution: "x"}, Fingerprint: "f", Mark: "m"}},
		{Start: &attemptID{recourse.Node{Path: "a/b", Section: recourse.RollbackSteps}, 2}},
		{End: &ended{attemptID: attemptID{recourse.Node{Path: "a/b"}, 2}, Failure: &failure{recourse.ErrorTypesOf(recourse.Timeout), "slow", &code}}},
		{Record: &recourse.Record{Version: 3, Decision: recourse.Decision{Reason: recourse.RetryDue}}},
		{Stop: "interrupted"},
	}
	for i := range written {
		if err := j.append(&written[i]); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := openJournal(dir, true); err == nil {
		t.Error("a journal that is in use was opened again")
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openJournal(dir, false); !errors.Is(err, errJournal) {
		t.Errorf("run again without resume: %v", err)
	}
	path := filepath.Join(dir, journalName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(whole, `{"end":{"node":"a`...), 0o600); err != nil {
		t.Fatal(err)
	}
	j, entries, err = openJournal(dir, true)
	if err != nil || len(entries) != len(written) {
		t.Fatal(len(entries), err)
	}
	defer j.close()
	if e := entries[2].End; e == nil || e.Node.Path != "a/b" || e.Failure == nil || *e.Failure.ExitCode != 7 || e.Failure.Errors != recourse.ErrorTypesOf(recourse.Timeout) {
		t.Errorf("%+v", entries[2])
	}
	if e := entries[1].Start; e == nil || e.Section != recourse.RollbackSteps {
		t.Errorf("%+v", entries[1])
	}
	if e := entries[3].Record; e == nil || e.Reason != recourse.RetryDue {
		t.Errorf("%+v", entries[3])
	}
	if left, err := os.ReadFile(path); err != nil || string(left) != string(whole) {
		t.Errorf("what was cut off is still there: %s, %v", left, err)
	}
}
