package online

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
)

// Many is what became of one answer or control given to many.
type Many struct {
	// What was said: an action, or run-now, postpone, cancel.
	What string `json:"what"`
	// Matched are those it was meant for: Yes were accepted, No refused, Failed have no decision.
	Matched int      `json:"matched"`
	Yes     int      `json:"yes"`
	No      int      `json:"no"`
	Failed  int      `json:"failed"`
	Each    []OfMany `json:"each"`
}

// OfMany is what became of one of them.
type OfMany struct {
	ID        string `json:"id"`
	Execution string `json:"execution"` // account/org/project/pipeline/execution
	Node      string `json:"node"`
	Outcome   string `json:"outcome"` // yes, no or failed
	// Version is that of the record that decided, 0 where nothing was decided.
	Version uint64 `json:"version,omitzero"`
	// Reason and Why are those of a no; Why is also what failed.
	Reason recourse.Reason `json:"reason,omitzero"`
	Why    string          `json:"why,omitzero"`
}

// add counts one outcome.
func (m *Many) add(each OfMany, o client.Outcome) {
	m.Matched++
	var refused *client.RefusedError
	switch {
	case o.Err == nil:
		m.Yes++
		each.Outcome, each.Version = "yes", o.Record.Version
	case errors.Is(o.Err, client.ErrDenied):
		m.No++
		each.Outcome, each.Why = "no", "not permitted: "+o.Err.Error()
	case errors.As(o.Err, &refused):
		m.No++
		each.Outcome, each.Version, each.Reason, each.Why = "no", refused.Record.Version, refused.Reason, refused.Detail
	default:
		m.Failed++
		each.Outcome, each.Why = "failed", o.Err.Error()
	}
	m.Each = append(m.Each, each)
}

// skip counts one that was not even asked, since the answer is known.
func (m *Many) skip(each OfMany, why string) {
	m.Matched++
	m.No++
	each.Outcome, each.Why = "no", why
	m.Each = append(m.Each, each)
}

// print writes the summary, with each that was not accepted. The error makes the exit code of those.
func (m *Many) print(p *cli.Printer) error {
	if p.Format == cli.JSON {
		if err := p.JSON(m); err != nil {
			return err
		}
	} else {
		rest := ""
		if m.Failed > 0 {
			rest = fmt.Sprintf(", %d failed", m.Failed)
		}
		fmt.Fprintf(p.Out, "%s: %d yes, %d no%s\n", m.What, m.Yes, m.No, rest)
		if m.Yes < m.Matched {
			rows := p.Rows("ID", "NODE", "OUTCOME", "WHY")
			for _, e := range m.Each {
				if e.Outcome != "yes" {
					rows.Add(e.ID, e.Node, e.Outcome, strings.TrimSpace(e.Reason.String()+" "+e.Why))
				}
			}
			if err := rows.Flush(); err != nil {
				return err
			}
		}
	}
	if m.Yes < m.Matched {
		return cli.Failed()
	}
	return nil
}

// consent is how somebody agrees to what is meant for many.
type consent struct{ yes, dryRun bool }

func (c *consent) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&c.yes, "yes", "y", false, "with --match: do not ask")
	f.BoolVar(&c.dryRun, "dry-run", false, "with --match: only show what matches")
}

// previewRows are shown of what matches before somebody is asked; --dry-run shows all.
const previewRows = 20

// inTurn says something to many, first to one of each pipeline: where that is not permitted, it is not for the others either, and these need
// not wait for the broker not to answer.
func inTurn[T any](said []T, ref func(T) recourse.Ref, say func([]T) []client.Outcome) []client.Outcome {
	outcomes := make([]client.Outcome, len(said))
	firstOf := make(map[string]int)
	var turns [2][]int
	for i := range said {
		key := ref(said[i]).PipelineKey()
		turn := 1
		if _, met := firstOf[key]; !met {
			firstOf[key], turn = i, 0
		}
		turns[turn] = append(turns[turn], i)
	}
	for turn, all := range turns {
		var asked []int
		var batch []T
		for _, i := range all {
			if first := firstOf[ref(said[i]).PipelineKey()]; turn > 0 && errors.Is(outcomes[first].Err, client.ErrDenied) {
				outcomes[i] = outcomes[first]
				continue
			}
			asked, batch = append(asked, i), append(batch, said[i])
		}
		for n, o := range say(batch) {
			outcomes[asked[n]] = o
		}
	}
	return outcomes
}

// denied says who may not do what, where that is why it came to nothing.
func denied(err error, as, what string) error {
	if errors.Is(err, client.ErrDenied) {
		return fmt.Errorf("%s may not %s here: %w; --as names the principal that the permission is for", as, what, err)
	}
	return err
}

var (
	errWhy     = cli.Usagef("--why is required: the next person reads it")
	errConsent = cli.Usagef("--yes and --dry-run go with --match")
)

// andMore says of how many a preview shows only the first.
func (s *session) andMore(n int) {
	if n > previewRows {
		fmt.Fprintf(s.Out, "… and %d more; --dry-run shows all\n", n-previewRows)
	}
}

// orNothingDone is the end of a command that nobody agreed to.
func orNothingDone(err error) error {
	if err != nil {
		return err
	}
	return errors.New("nothing was done")
}

// ask lets somebody look at what is about to be done, and returns whether to go on. Where nobody can be asked, it is an error not to have
// agreed beforehand.
func (c *consent) ask(cmd *cobra.Command, p *cli.Printer, question string) (bool, error) {
	if c.yes {
		return true, nil
	}
	if !terminal(cmd.InOrStdin()) {
		return false, cli.Usagef("%s Nobody can be asked here: agree with --yes, or look with --dry-run", question)
	}
	return confirm(cmd.InOrStdin(), p.Err, question)
}

// confirm asks. Everything but a clear yes is a no; an input that is at its end is nobody.
func confirm(in io.Reader, out io.Writer, question string) (bool, error) {
	fmt.Fprintf(out, "%s [y/N] ", question)
	line, err := bufio.NewReader(in).ReadString('\n')
	switch {
	case errors.Is(err, io.EOF) && line == "":
		fmt.Fprintln(out)
		return false, cli.Usagef("nobody answered: agree with --yes, or look with --dry-run")
	case err != nil && !errors.Is(err, io.EOF):
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

// terminal reports whether a person may sit at the other end.
func terminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
