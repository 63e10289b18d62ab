package recourse

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	refJSON       = `"account":"acme","org":"o","project":"p","pipeline":"pl","execution":"ex1"`
	failureJSON   = `{"schema":1,` + refJSON + `,"node":"prod/deploy","attempt":2,"errors":["Timeout"],"message":"m","exitCode":3,"target":"t","retryAfter":"1m30s","at":"2026-01-02T03:04:05Z"}`
	answerJSON    = `{` + refJSON + `,"id":"x","intervention":3,"action":"Retry","who":"jane","why":"flaky","at":"2026-01-02T03:04:05.5Z"}`
	controlJSON   = `{` + refJSON + `,"id":"x","wait":3,"do":"postpone","for":"5m0s","who":"jane","why":"maintenance","at":"2026-01-02T03:04:05.5Z"}`
	lifecycleJSON = `{` + refJSON + `,"event":"aborted","why":"stop"}`
	recordJSON    = `{"schema":1,` + refJSON + `,"version":2,"previous":7,"at":"2026-01-02T03:04:05Z","input":{"key":"failure/prod/a/1","failure":{"errors":["Timeout"]}},` +
		`"node":"prod/a","attempt":1,"action":"Retry","reason":"StrategyMatched","level":"step","command":{"verb":"retry","scope":"prod/a","attempt":2},` +
		`"effect":{"node":"Retrying","pipelineFailed":false},"trail":[{"level":"step","path":"p","index":0,"errors":["AllErrors"],"action":"Retry","applies":true,"why":"w"}],` +
		`"state":{"nodes":[{"node":"prod/a","attempt":1,"seen":[{"attempt":1,"version":2}]}],"waits":[{"version":1,"kind":"retry","node":"prod/b","attempt":1,"dueAt":"2026-01-02T03:04:05Z","level":"none"}],"covers":[{"scope":"","action":"Abort","version":1}]}}`
)

// message is one kind of message with its decoder.
type message struct {
	name   string
	valid  string
	limit  int // the most bytes
	decode func([]byte) (any, error)
}

var messages = []message{
	{"failure", failureJSON, MaxSize, func(b []byte) (any, error) { return DecodeFailure(b) }},
	{"answer", answerJSON, MaxSize, func(b []byte) (any, error) { return DecodeAnswer(b) }},
	{"lifecycle", lifecycleJSON, MaxSize, func(b []byte) (any, error) { return DecodeLifecycle(b) }},
	{"record", recordJSON, MaxRecordSize, func(b []byte) (any, error) { return DecodeRecord(b) }},
	{"control", controlJSON, MaxSize, func(b []byte) (any, error) { return DecodeControl(b) }},
}

func reasonFor(t testing.TB, err error) DecodeReason {
	t.Helper()
	if err == nil {
		return ""
	}
	var d *DecodeError
	if !errors.As(err, &d) || d.Err == nil || d.Unwrap() != d.Err || !strings.HasPrefix(err.Error(), string(d.Reason)) {
		t.Fatalf("%v (%T) is no *DecodeError as it should be", err, err)
	}
	return d.Reason
}

// TestDecodeRefuses is what every message is refused for; with is put in front of what is valid.
func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1)
	fits := strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1)
	for _, m := range messages {
		with := func(member string) string { return "{" + member + "," + strings.TrimPrefix(m.valid, "{") }
		bare := strings.Replace(m.valid, `"schema":1,`, "", 1)
		withSchema := func(n string) string { return `{"schema":` + n + "," + strings.TrimPrefix(bare, "{") }
		padding := strings.Repeat(" ", m.limit-len(m.valid))
		for name, row := range map[string]struct {
			body string
			want DecodeReason
		}{
			"valid":                         {m.valid, ""},
			"without a schema":              {bare, ""},
			"as large as allowed":           {m.valid + padding, ""},
			"too large":                     {m.valid + padding + " ", ReasonTooLarge},
			"too deep":                      {with(`"x":` + deep), ReasonTooDeep},
			"as deep as allowed":            {with(`"x":` + fits), ReasonUnknownKey},
			"too deep and cut off":          {`{"x":` + strings.Repeat("[", 5000), ReasonTooDeep},
			"empty":                         {"", ReasonBadJSON},
			"no JSON":                       {"hello", ReasonBadJSON},
			"cut off":                       {m.valid[:len(m.valid)-1], ReasonBadJSON},
			"something behind":              {m.valid + "x", ReasonBadJSON},
			"two values":                    {m.valid + m.valid, ReasonBadJSON},
			"not UTF-8":                     {strings.Replace(m.valid, "acme", "a\xffme", 1), ReasonBadJSON},
			"half a surrogate pair":         {strings.Replace(m.valid, "acme", `a\ud800me`, 1), ReasonBadJSON},
			"duplicate key":                 {with(`"org":"o"`), ReasonDuplicateKey},
			"unknown key":                   {with(`"unknown":1`), ReasonUnknownKey},
			"a key in another case":         {strings.Replace(m.valid, `"org"`, `"Org"`, 1), ReasonUnknownKey},
			"a wrong type":                  {strings.Replace(m.valid, `"acme"`, `1`, 1), ReasonBadValue},
			"an array":                      {"[]", ReasonBadValue},
			"a string":                      {`"x"`, ReasonBadValue},
			"null":                          {"null", ReasonInvalid},
			"nothing in it":                 {"{}", ReasonInvalid},
			"a later schema":                {withSchema("2"), ReasonFutureSchema},
			"a later schema, unknown keys":  {withSchema(`99,"new":{"a":[]}`), ReasonFutureSchema},
			"a later schema, other types":   {strings.Replace(withSchema("2"), `"acme"`, `["acme"]`, 1), ReasonFutureSchema},
			"a negative schema":             {withSchema("-1"), ReasonInvalid},
			"a schema that is no number":    {withSchema(`"2"`), ReasonBadValue},
			"an old schema, unknown keys":   {withSchema(`1,"new":1`), ReasonUnknownKey},
			"a schema that is not a whole":  {withSchema("1.5"), ReasonBadValue},
			"a control character in the id": {strings.Replace(m.valid, "acme", `a\u0000me`, 1), map[bool]DecodeReason{true: "", false: ReasonInvalid}[m.name == "record"]},
		} {
			_, err := m.decode([]byte(row.body))
			if got := reasonFor(t, err); got != row.want {
				t.Errorf("%s, %s: %q (%v), want %q", m.name, name, got, err, row.want)
			}
		}
	}
}

// TestDecodeValues is what single members are refused for.
func TestDecodeValues(t *testing.T) {
	long := strings.Repeat("x", MaxIDLength)
	for _, row := range []struct {
		message  int
		old, new string
		want     DecodeReason
	}{
		{0, `"attempt":2`, `"attempt":1`, ""},
		{0, `"attempt":2`, `"attempt":0`, ReasonInvalid},
		{0, `"attempt":2`, `"attempt":-1`, ReasonInvalid},
		{0, `"attempt":2`, fmt.Sprintf(`"attempt":%d`, MaxAttempt), ""},
		{0, `"attempt":2`, fmt.Sprintf(`"attempt":%d`, MaxAttempt+1), ReasonInvalid},
		{0, `"attempt":2`, `"attempt":99999999999999999999`, ReasonBadValue},
		{0, `"attempt":2`, `"attempt":"2"`, ReasonBadValue},
		{0, `"acme"`, `""`, ReasonInvalid},
		{0, `"acme"`, `"` + long + `"`, ""},
		{0, `"acme"`, `"` + long + `x"`, ReasonInvalid},
		{0, `"acme"`, `"a.*>$ /é"`, ""},
		{0, `"prod/deploy"`, `""`, ReasonInvalid},
		{0, `"prod/deploy"`, `"prod//deploy"`, ReasonInvalid},
		{0, `"prod/deploy"`, `"/prod"`, ReasonInvalid},
		{0, `"prod/deploy"`, `"prod/"`, ReasonInvalid},
		{0, `"prod/deploy"`, `"prod/a[1]"`, ""},
		{0, `"prod/deploy"`, `"prod/a[]"`, ReasonInvalid},
		{0, `"prod/deploy"`, `"prod/a[1"`, ReasonInvalid},
		{0, `"prod/deploy"`, `"prod/[1]"`, ReasonInvalid},
		{0, `"prod/deploy"`, `"prod/a[1]b"`, ReasonInvalid},
		{0, `"prod/deploy"`, `"` + strings.Repeat("a/", MaxNodeDepth-1) + `a"`, ""},
		{0, `"prod/deploy"`, `"` + strings.Repeat("a/", MaxNodeDepth) + `a"`, ReasonInvalid},
		{0, `"prod/deploy"`, `"` + strings.Repeat(long+"/", 14) + long + `"`, ""},
		{0, `"prod/deploy"`, `"` + strings.Repeat(long+"/", 15) + long + `"`, ReasonInvalid},
		{0, `"prod/deploy"`, `"prod","section":"rollbackSteps"`, ""},
		{0, `"prod/deploy"`, `"prod","section":"finally"`, ReasonBadValue},
		{0, `["Timeout"]`, `[]`, ""},
		{0, `["Timeout"]`, `["timeout","TIMEOUT"]`, ""},
		{0, `["Timeout"]`, `["AllErrors"]`, ReasonInvalid},
		{0, `["Timeout"]`, `["Time"]`, ReasonBadValue},
		{0, `["Timeout"]`, `"Timeout"`, ReasonBadValue},
		{0, `["Timeout"]`, `[1]`, ReasonBadValue},
		{0, `["Timeout"]`, `[["Timeout"]]`, ReasonBadValue},
		{0, `"1m30s"`, `"1h"`, ""},
		{0, `"1m30s"`, `"366d"`, ""},
		{0, `"1m30s"`, `"367d"`, ReasonBadValue},
		{0, `"1m30s"`, `"-1s"`, ReasonBadValue},
		{0, `"1m30s"`, `""`, ReasonBadValue},
		{0, `"1m30s"`, `90`, ReasonBadValue},
		{0, `"2026-01-02T03:04:05Z"`, `"yesterday"`, ReasonBadValue},
		{1, `"intervention":3`, `"intervention":0`, ReasonInvalid},
		{1, `"intervention":3`, `"intervention":-3`, ReasonBadValue},
		{1, `"Retry"`, `"retry"`, ""},
		{1, `"Retry"`, `"Explode"`, ReasonBadValue},
		{1, `"Retry"`, `""`, ReasonBadValue},
		{1, `"why":"flaky"`, `"why":""`, ReasonInvalid},
		{1, `"id":"x"`, `"id":"` + long + `"`, ""},
		{1, `"id":"x"`, `"id":"` + long + `x"`, ReasonInvalid},
		{2, `"aborted"`, `"finished"`, ""},
		{2, `"aborted"`, `"exploded"`, ReasonBadValue},
		{4, `"wait":3`, `"wait":0`, ReasonInvalid},
		{4, `"for":"5m0s",`, ``, ReasonInvalid},
		{4, `"postpone"`, `"run-now"`, ReasonInvalid},
		{4, `"postpone","for":"5m0s"`, `"cancel"`, ""},
		{4, `"postpone"`, `"forget"`, ReasonBadValue},
		{4, `"why":"maintenance"`, `"why":""`, ReasonInvalid},
		{3, `"version":2`, `"version":0`, ReasonInvalid},
		{3, `"reason":"StrategyMatched",`, ``, ReasonInvalid},
		{3, `"reason":"StrategyMatched"`, `"reason":"Whim"`, ReasonBadValue},
		{3, `"verb":"retry"`, `"verb":"sing"`, ReasonBadValue},
	} {
		m := messages[row.message]
		body := strings.Replace(m.valid, row.old, row.new, 1)
		if body == m.valid && row.old != row.new {
			t.Fatalf("%s has no %s", m.name, row.old)
		}
		_, err := m.decode([]byte(body))
		if got := reasonFor(t, err); got != row.want {
			t.Errorf("%s with %.80s: %q (%v), want %q", m.name, row.new, got, err, row.want)
		}
	}
}

// roundTrip: what decodes, encodes, and that decodes and encodes as the same.
func roundTrip(t testing.TB, m message, body []byte) any {
	t.Helper()
	v, err := m.decode(body)
	if reasonFor(t, err) != "" {
		return nil
	}
	first, err := Encode(v)
	if err != nil {
		t.Fatalf("%s: encode: %v", body, err)
	}
	if len(first) > m.limit { // escapes may have been shorter than what they stand for
		return v
	}
	again, err := m.decode(first)
	if err != nil {
		t.Fatalf("%s is encoded as %s, which does not decode: %v", body, first, err)
	}
	second, err := Encode(again)
	if err != nil || !bytes.Equal(first, second) {
		t.Fatalf("%s is encoded as %s and then as %s (%v)", body, first, second, err)
	}
	return v
}

func fuzzMessage(f *testing.F, i int) {
	m := messages[i]
	for _, seed := range []string{
		m.valid, "{}", "null", "", "[", `{"schema":2}`, `{"schema":2,"x":[]}`, `{"a":1,"a":1}`,
		strings.Replace(m.valid, "acme", `\u0041\n`, 1), strings.Replace(m.valid, "Timeout", "Connectivity", 1),
		strings.Replace(m.valid, "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456789+05:30", 1),
		strings.Replace(m.valid, "2026-01-02T03:04:05Z", "0001-01-01T00:00:00Z", 1),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		switch v := roundTrip(t, m, body).(type) {
		case *Failure:
			v.Clean()
			digest, key := v.Digest(), v.Key()
			if v.Clean(); v.Digest() != digest || v.Key() != key || len(digest) != 16 || len(v.Message) > MaxMessageLength {
				t.Fatalf("cleaned twice it is another: %+v", v)
			}
			if _, err := ParseSubject(v.Subject(FamilyFailure, v.Target)); err != nil {
				t.Fatal(err)
			}
		case *Answer:
			v.Clean()
			if v.Digest() == "" || len(v.Why) > MaxMessageLength {
				t.Fatalf("%+v", v)
			}
		case *Control:
			v.Clean()
			digest := v.Digest()
			if v.Clean(); v.Digest() != digest || len(digest) != 16 || len(v.Why) > MaxMessageLength || (v.Do == Postpone) != (v.For > 0) || time.Duration(v.For) > MaxWait {
				t.Fatalf("%+v", v)
			}
		case *Record:
			if strings.Count(v.SubjectUnder("p"), ".") != 2 && v.Command.Verb != 0 {
				t.Fatalf("subject %q", v.SubjectUnder("p"))
			}
		}
	})
}

func FuzzDecodeFailure(f *testing.F)   { fuzzMessage(f, 0) }
func FuzzDecodeAnswer(f *testing.F)    { fuzzMessage(f, 1) }
func FuzzDecodeLifecycle(f *testing.F) { fuzzMessage(f, 2) }
func FuzzDecodeRecord(f *testing.F)    { fuzzMessage(f, 3) }
func FuzzDecodeControl(f *testing.F)   { fuzzMessage(f, 4) }

// TestEmptyIsAbsent: an empty list and none are the same record.
func TestEmptyIsAbsent(t *testing.T) {
	none := Record{Version: 1, State: &State{}}
	none.Reason = NoStrategy
	empty := none
	empty.Trail, empty.Cancelled, empty.Effect.Runs = []TrailEntry{}, []uint64{}, nil
	empty.State = &State{
		Nodes: []NodeState{}, Groups: []GroupState{}, Waits: []Wait{}, Covers: []Cover{},
		Interventions: []ClosedIntervention{}, Answers: []SeenInput{}, Ended: []SeenInput{},
	}
	a, errA := Encode(&none)
	b, errB := Encode(&empty)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("%v %v\n%s\n%s", errA, errB, a, b)
	}
}

// TestDigest: what counts as another content under the same key (R12).
func TestDigest(t *testing.T) {
	base := func() *Failure {
		f, err := DecodeFailure([]byte(failureJSON))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	same := base()
	same.At, same.Schema = time.Time{}, 0
	if same.Digest() != base().Digest() {
		t.Error("the clock of the delegate or the schema counts")
	}
	code := 4
	for i, change := range []func(*Failure){
		func(f *Failure) { f.Errors = 0 }, func(f *Failure) { f.Message = "n" }, func(f *Failure) { f.ExitCode = &code },
		func(f *Failure) { f.ExitCode = nil }, func(f *Failure) { f.Target = "" }, func(f *Failure) { f.RetryAfter = 0 },
	} {
		f := base()
		if change(f); f.Digest() == base().Digest() {
			t.Errorf("change %d is not seen", i)
		}
	}
}

func BenchmarkDecodeFailure(b *testing.B) {
	body := []byte(failureJSON)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := DecodeFailure(body); err != nil {
			b.Fatal(err)
		}
	}
}

// TestDecodeReasons: all that are declared are listed.
func TestDecodeReasons(t *testing.T) {
	source, err := os.ReadFile("codec.go")
	if err != nil {
		t.Fatal(err)
	}
	var declared []DecodeReason
	for _, match := range regexp.MustCompile(`DecodeReason = "([a-z-]+)"`).FindAllSubmatch(source, -1) {
		declared = append(declared, DecodeReason(match[1]))
	}
	if got := DecodeReasons(); !slices.Equal(got, declared) {
		t.Errorf("%q, declared are %q", got, declared)
	}
}
