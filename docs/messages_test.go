package docs

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse"
)

// block is a block of code in a page: what is behind the fence, and what is inside.
type block struct{ info, text string }

var fence = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

func blocks(t *testing.T, page string) (found []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range fence.FindAllSubmatch(text, -1) {
		found = append(found, block{string(match[1]), string(match[2])})
	}
	return found
}

// TestExamples: each message that is shown is valid and taken, and each schema has one.
func TestExamples(t *testing.T) {
	shown := []string{}
	for _, b := range blocks(t, "messages.md") {
		schema, ok := strings.CutPrefix(b.info, "json ")
		if !ok {
			if b.info != "sh" {
				t.Errorf("nobody checks a block of %q", b.info)
			}
			continue
		}
		shown = append(shown, schema)
		if err := valid(t, compile(t, schema), []byte(b.text)); err != nil {
			t.Errorf("%s\n%v", b.text, err)
		}
		var err error
		if i := slices.IndexFunc(inputs, func(in input) bool { return in.schema == schema }); i >= 0 {
			err = inputs[i].code([]byte(b.text))
		} else {
			_, err = recourse.DecodeRecord([]byte(b.text))
		}
		if err != nil {
			t.Errorf("%s\n%v", b.text, err)
		}
		if schema == "record" {
			again(t, b.text)
		}
	}
	all := []string{}
	for name := range schemas(t) {
		all = append(all, name)
	}
	slices.Sort(shown)
	same(t, "examples", slices.Compact(shown), all)
}

// again: the record that is shown is written as it stands there, but for blanks.
func again(t *testing.T, text string) {
	t.Helper()
	rec, err := recourse.DecodeRecord([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	got, err := recourse.Encode(rec)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the record is written as\n%s\nnot as\n%s", got, want.Bytes())
	}
}

// TestCommands: what is published by the commands that are shown is taken. A function stands in for the nats command.
func TestCommands(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("SKIP no sh: the commands of the documents are not checked")
	}
	const stub = `nats() { printf '%s\0' "$@"; printf '\1\0'; }
`
	published := 0
	for _, b := range blocks(t, "messages.md") {
		if b.info != "sh" {
			continue
		}
		out, err := exec.CommandContext(t.Context(), sh, "-ec", stub+b.text).Output()
		if err != nil {
			t.Fatal(err)
		}
		for call := range strings.SplitSeq(string(out), "\x01\x00") {
			args := strings.Split(strings.TrimSuffix(call, "\x00"), "\x00")
			if args[0] != "pub" {
				continue
			}
			published++
			header := map[string][]string{}
			for i := 3; i < len(args); i += 2 {
				name, value, ok := strings.Cut(args[i+1], ":")
				if args[i] != "-H" || !ok {
					t.Fatalf("%q", args[i:])
				}
				header[name] = append(header[name], value)
			}
			subject, err := recourse.ParseSubject(args[1])
			if err != nil {
				t.Fatal(err)
			}
			if err := takenOn(subject, header, []byte(args[2])); err != nil {
				t.Errorf("%s\n%v", args[2], err)
				continue
			}
			body, _, err := recourse.OpenInput(subject, header, []byte(args[2]))
			var ref recourse.Ref
			if err == nil {
				err = json.Unmarshal(body, &ref)
			}
			if err != nil || ref.Prefix() != subject.Prefix {
				t.Errorf("%s: on %s, for %s (%v)", args[2], subject.Prefix, ref.Prefix(), err)
			}
		}
	}
	if published < 4 {
		t.Errorf("%d messages are published", published)
	}
}

// TestReasonsAreTold: each reason for which an input is rejected stands in the page.
func TestReasonsAreTold(t *testing.T) {
	text, err := os.ReadFile("messages.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range constantsOf(t, "../codec.go")["Reason"] {
		if !strings.Contains(string(text), "`"+reason+"`") {
			t.Errorf("%s is not told", reason)
		}
	}
	for _, names := range [][]string{
		without(recourse.ErrorTypeNames(), recourse.AllErrors.String()), namesOf[recourse.Reason](1), constantsOf(t, "../record.go")["Kind"], namesOf[recourse.Verb](1),
		constantsOf(t, "../subject.go")["Stream"][:2],
	} {
		for _, name := range names {
			if !strings.Contains(string(text), name) {
				t.Errorf("%s is not told", name)
			}
		}
	}
}
