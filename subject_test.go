package recourse

import (
	"fmt"
	"strings"
	"testing"
)

func TestToken(t *testing.T) {
	long := strings.Repeat("a", MaxTokenLength)
	for id, want := range map[string]string{
		"deploy_1-A$": "deploy_1-A$",
		"a.b":         "a=2Eb",
		"*":           "=2A",
		">":           "=3E",
		"a b":         "a=20b",
		"=":           "=3D",
		"=2E":         "=3D2E",
		"é":           "=C3=A9",
		"":            "=",
		long:          long,
		long[1:]:      long[1:],
	} {
		if got := Token(id); got != want {
			t.Errorf("Token(%q) = %q, want %q", id, got, want)
		}
	}
	if got := Token(long + "a"); len(got) != MaxTokenLength || !strings.HasPrefix(got, strings.Repeat("a", 30)+"==") {
		t.Errorf("a long id becomes %q", got)
	}
	ref := Ref{Account: "a$b", Org: "o.o", Project: "p", Pipeline: "x/y", Execution: "e"}
	if got := ref.PipelineKey(); got != "a=24b.o=2Eo.p.x=2Fy" {
		t.Errorf("key %q", got)
	}
	if got := ref.Subject(FamilyFailure, "delegate.1"); got != "recourse.a$b.o=2Eo.p.x=2Fy.e.failure.delegate=2E1" {
		t.Errorf("subject %q", got)
	}
}

func checkToken(t *testing.T, id, token string, key bool) {
	t.Helper()
	if token == "" || len(token) > MaxTokenLength {
		t.Fatalf("%q becomes %d bytes", id, len(token))
	}
	for i := range len(token) {
		switch c := token[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-', c == '=':
		case c == '$' && !key:
		default:
			t.Fatalf("%q becomes %q", id, token)
		}
	}
}

// decodeToken is the inverse for tokens that were not shortened.
func decodeToken(token string) (string, bool) {
	if token == "=" {
		return "", true
	}
	if strings.Contains(token, "==") {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		if token[i] != '=' {
			b.WriteByte(token[i])
			continue
		}
		var c byte
		fmt.Sscanf(token[i+1:i+3], "%02X", &c)
		b.WriteByte(c)
		i += 2
	}
	return b.String(), true
}

func FuzzToken(f *testing.F) {
	for _, s := range [][2]string{
		{"a", "b"}, {"a.b", "a=2Eb"}, {"", "="}, {strings.Repeat("a", 64), strings.Repeat("a", 65)}, {strings.Repeat("é", 40), strings.Repeat("é", 41)},
		{"$", "=24"}, {"\x00", "\xff"}, {strings.Repeat("x", 5000), strings.Repeat("x", 5001)},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		ra, rb := Ref{Account: a}, Ref{Account: b}
		ka, _, _ := strings.Cut(ra.PipelineKey(), ".")
		kb, _, _ := strings.Cut(rb.PipelineKey(), ".")
		checkToken(t, a, Token(a), false)
		checkToken(t, a, ka, true)
		if (Token(a) == Token(b)) != (a == b) || (ka == kb) != (a == b) {
			t.Fatalf("%q and %q become %q and %q, %q and %q", a, b, Token(a), Token(b), ka, kb)
		}
		for _, token := range []string{Token(a), ka} {
			if id, whole := decodeToken(token); whole && id != a {
				t.Fatalf("%q becomes %q, which stands for %q", a, token, id)
			}
		}
		ref := Ref{a, b, a, b, a}
		s, err := ParseSubject(ref.Subject(FamilyCommand, b))
		if err != nil || s.Prefix != ref.Prefix() || s.Family != FamilyCommand || s.Detail != Token(b) {
			t.Fatalf("%+v, %v", s, err)
		}
	})
}

func TestParseSubject(t *testing.T) {
	for subject, ok := range map[string]bool{
		"recourse.a.o.p.l.e.failure.x":     true,
		"recourse.a.o.p.l.e.failure":       false,
		"recourse.a.o.p.l.e.failure.x.y":   false,
		"recourses.a.o.p.l.e.failure.x":    false,
		"":                                 false,
		"recourse":                         false,
		"recourse......x":                  false,
		"RECOURSE.a.o.p.l.e.failure.x":     false,
		"$JS.API.recourse.o.p.l.failure.x": false,
	} {
		if _, err := ParseSubject(subject); (err == nil) != ok {
			t.Errorf("%q: %v", subject, err)
		}
	}
}

// TestNodeScope: what is inside a scope is decided by segments, not by letters.
func TestNodeScope(t *testing.T) {
	for _, row := range []struct {
		path, scope string
		want        bool
	}{
		{"prod/a", "", true}, {"prod/a", "prod", true}, {"prod", "prod", true}, {"prod2/a", "prod", false}, {"prod", "prod/a", false},
		{"prod[1]/a", "prod", false}, {"prod[1]/a", "prod[1]", true}, {"prod[10]/a", "prod[1]", false}, {"prod/a/b", "prod/a", true},
	} {
		if got := (Node{Path: row.path}).Within(row.scope); got != row.want {
			t.Errorf("%q within %q: %v", row.path, row.scope, got)
		}
	}
	for path, plain := range map[string]string{
		"a": "a", "a[1]": "a", "a[1]/b": "a/b", "a/b[x.y]/c[0]": "a/b/c", "a[b[c]/d": "a/d", "a[]]/b": "a/b", "": "",
	} {
		if got := PlainPath(path); got != plain {
			t.Errorf("PlainPath(%q) = %q, want %q", path, got, plain)
		}
	}
	if got := (Node{Path: "a[1]/b"}).Stage(); got != "a[1]" {
		t.Errorf("stage %q", got)
	}
}

// TestNames: every name is read as it is written, in any case, and verbs are those of the actions (the table of the actions).
func TestNames(t *testing.T) {
	for _, name := range ErrorTypeNames() {
		for _, n := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			if e, err := ParseErrorType(n); err != nil || e.String() != name {
				t.Errorf("%q is read as %q, %v", n, e, err)
			}
		}
	}
	if len(ErrorTypeNames()) != 18 || len(ActionNames()) != 11 {
		t.Errorf("%d error types, %d actions", len(ErrorTypeNames()), len(ActionNames()))
	}
	verbs := map[Action]string{
		Ignore: "ignore", MarkAsSuccess: "mark-success", MarkAsFailure: "mark-failure", Retry: "retry", RetryStepGroup: "retry-group",
		ManualIntervention: "pause", Abort: "abort", StageRollback: "rollback-stage", StepGroupRollback: "rollback-group",
		PipelineRollback: "rollback-pipeline", ProceedWithDefaultValues: "proceed-with-defaults",
	}
	for action, verb := range verbs {
		if action.Verb().String() != verb {
			t.Errorf("%s becomes %q, want %q", action, action.Verb(), verb)
		}
	}
	for _, name := range ActionNames() {
		if a, err := ParseAction(strings.ToUpper(name)); err != nil || a.String() != name || verbs[a] == "" {
			t.Errorf("%q is read as %q, %v", name, a, err)
		}
	}
	for _, name := range []string{"", " Timeout", "random_123"} {
		if _, err := ParseErrorType(name); err == nil {
			t.Errorf("error type %q is read", name)
		}
		if _, err := ParseAction(name); err == nil {
			t.Errorf("action %q is read", name)
		}
	}
	for _, names := range [][3]string{{Action(200).String(), Verb(200).String(), ErrorType(200).String()}, {Reason(200).String(), Level(200).String(), WaitKind(200).String()}} {
		if names != [3]string{} {
			t.Errorf("values outside have the names %q", names)
		}
	}
}

// TestNormalize is R1.
func TestNormalize(t *testing.T) {
	for _, row := range [][2]ErrorTypes{
		{0, ErrorTypesOf(Unknown)},
		{ErrorTypesOf(Timeout), ErrorTypesOf(Timeout)},
		{ErrorTypesOf(Authentication, Authorization), ErrorTypesOf(Authentication)},
		{ErrorTypesOf(Authentication, Authorization, Timeout), ErrorTypesOf(Authentication, Timeout)},
		{ErrorTypesOf(Authorization), ErrorTypesOf(Authorization)},
		{ErrorTypesOf(Authorization, Timeout), ErrorTypesOf(Authorization, Timeout)},
	} {
		if got := row[0].Normalize(); got != row[1] {
			t.Errorf("%s counts as %s, want %s", row[0], got, row[1])
		}
	}
}
