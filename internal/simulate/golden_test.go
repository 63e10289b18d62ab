package simulate

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
)

var update = flag.Bool("update", false, "write what comes out into testdata")

// TestGolden runs the scripts of testdata. A case is its lines, "----", and the timeline that comes out, up to an empty line; the lines
// are "pipeline FILE", "semantics NAME", "step DURATION", "fail NODE=OUTCOME,…" and "answer NODE=ACTION@AFTER". A "pipeline"
// or "semantics" line holds for the cases behind it too. Read what comes out against the rules before -update.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files (%v)", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			name, semantics := "", recourse.Documented
			for _, c := range strings.Split(strings.TrimRight(string(content), "\n"), "\n\n") {
				input, want, isCase := strings.Cut(c+"\n", "\n----\n")
				if !isCase && !*update { // a comment
					out.WriteString(c + "\n\n")
					continue
				}
				got := script(t, strings.TrimSpace(input), &name, &semantics)
				if got != want && !*update {
					t.Errorf("%s\n---- got\n%s---- want\n%s", input, got, want)
				}
				out.WriteString(strings.TrimSpace(input) + "\n----\n" + got + "\n")
			}
			if *update {
				if err := os.WriteFile(file, []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func script(t *testing.T, input string, name *string, semantics *recourse.Semantics) string {
	t.Helper()
	var rest [][2]string
	for line := range strings.SplitSeq(input, "\n") {
		verb, value, _ := strings.Cut(line, " ")
		switch verb {
		case "#":
		case "pipeline":
			*name = value
		case "semantics":
			if err := semantics.UnmarshalText([]byte(value)); err != nil {
				t.Fatal(err)
			}
		default:
			rest = append(rest, [2]string{verb, value})
		}
	}
	w := loadFile(t, *name, *semantics)
	for _, line := range rest {
		switch line[0] {
		case "fail":
			w.fail(t, line[1])
		case "answer":
			w.answer(t, line[1])
		case "step":
			var d recourse.Duration
			if err := d.UnmarshalText([]byte(line[1])); err != nil {
				t.Fatal(err)
			}
			w.scenario.StepDuration = time.Duration(d)
		default:
			t.Fatalf("unknown line %q", line)
		}
	}
	return w.run(t).text()
}
