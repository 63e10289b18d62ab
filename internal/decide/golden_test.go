package decide_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what comes out into testdata")

// A script has a plan, then what happens to an execution of it:
//
//	plan [engine|unknown]           and indented: stage, group, step, rollback, "<types> [when exit=n] -> <action>" (see parseAction)
//	fail <path>[@rollback] [#attempt] [types] [exit=n] [after=d] [msg=…]
//	answer <intervention> <action> <who> [id=…]
//	control <wait> run-now|postpone=d|cancel <who> [id=…]
//	due <version>, finished, aborted
//	+10s                            the clock goes on
//	new                             another execution of the plan; without it the next case goes on with this one
//	trail                           the trail of this case is printed too

// TestGolden runs the scripts of testdata. A file has one rule; a case is its lines, "----", and what comes out, up to an empty line.
// What is expected was written from the rule, not from the code: read it that way before -update.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 13 {
		t.Fatalf("%d files (%v), want one for each rule", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &session{}
			s.fresh = func(s *session) *chain { return newChain(t, s.plan, s.semantics) }
			var out strings.Builder
			cases := strings.Split(strings.TrimRight(string(content), "\n"), "\n\n")
			for _, c := range cases {
				input, want, isCase := strings.Cut(c+"\n", "\n----\n")
				if !isCase { // a comment
					out.WriteString(c + "\n\n")
					continue
				}
				got, err := s.run(strings.Split(input, "\n"))
				if err != nil {
					t.Fatalf("%v in\n%s", err, input)
				}
				if got != want && !*update {
					t.Errorf("%s\n---- got\n%s---- want\n%s", input, got, want)
				}
				out.WriteString(input + "\n----\n" + got + "\n")
			}
			s.c.replay()
			if *update {
				if err := os.WriteFile(file, []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
