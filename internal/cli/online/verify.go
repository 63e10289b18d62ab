package online

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/history"
	"github.com/recourse-dev/recourse/internal/verify"
)

// Verify returns the command that checks the streams.
func Verify(g *Global) *cobra.Command {
	v := &verifyCommand{}
	cmd := &cobra.Command{
		Use:   "verify [EXECUTION]",
		Short: "Check from the streams that nothing was lost, forked, decided twice or fired early",
		Long: `Verify reads the inbox, the journal, the rejected inputs and the schedules, and checks what must hold whatever failed meanwhile:

  I1  every input has exactly one record or one rejection, every record an input
  I2  every command is the one its record lists
  I3  every wait ends exactly once, and does not fire before it is due
  I4  after an abort or the end nothing but plain records follows
  I5  deciding again reproduces every record byte for byte
  I6  one unforked chain per execution
  I7  retries and waits are within what the strategy allows
  I8  ids in subject, body and input agree
  I9  no input undecided, no wait overdue

It may run beside working workers: what is in flight is not held against them. Each violation is one line; the exit code is 1 where there
is one. It needs permission to read all four streams and the bucket of pipelines. I5 is about the version of the workers that decided: after
an update, look at what was decided since (--since), or leave it out (--skip I5).`,
		Example: `  recourse verify
  recourse verify --since 1d -o json
  recourse verify ex42`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: g.completeExecutions,
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, err := v.scope(time.Now())
			if err != nil {
				return err
			}
			s, err := g.connect(cmd)
			if err != nil {
				return err
			}
			defer s.close()
			return v.run(cmd, s, args, scope)
		},
	}
	v.filter.registerFilter(cmd)
	f := cmd.Flags()
	f.StringVar(&v.since, "since", "", "check what was stored from `then` on: so long ago (1h30m, 2d) or a time (2026-01-31T08:00:00Z)")
	f.DurationVar(&v.grace, "grace", time.Minute, "how long an input may be undecided, and a wait be due")
	f.DurationVar(&v.skew, "skew", time.Second, "how far the clocks of workers and server may lie apart")
	f.StringSliceVar(&v.skip, "skip", nil, "leave `invariants` out: I1 to I9")
	f.IntVar(&v.limit, "limit", 100, "print at most so many violations, and count the others; 0 for all")
	return cmd
}

type verifyCommand struct {
	filter      ids
	since       string
	grace, skew time.Duration
	skip        []string
	limit       int
}

var invariants = []string{"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9"}

func (v *verifyCommand) scope(now time.Time) (scope verify.Scope, err error) {
	scope = verify.Scope{Grace: v.grace, Skew: v.skew}
	if v.since != "" {
		if scope.Since, err = parseSince(v.since, now); err != nil {
			return scope, err
		}
	}
	for _, name := range v.skip {
		if !slices.Contains(invariants, name) {
			return scope, cli.Usagef("--skip %q: want I1 to I9", name)
		}
	}
	switch {
	case v.grace < 0 || v.skew < 0:
		return scope, cli.Usagef("--grace and --skew: want 0 or more")
	case v.limit < 0:
		return scope, cli.Usagef("--limit: want 0 or more, got %d", v.limit)
	}
	return scope, nil
}

// Verified is what a run of verify found.
type Verified struct {
	verify.Result
	// Found is how many violations there are, List those that --limit lets through.
	Found int                `json:"found"`
	List  []verify.Violation `json:"violations"`
}

func (v *verifyCommand) run(cmd *cobra.Command, s *session, args []string, scope verify.Scope) error {
	ctx, done := s.guarded(cmd.Context())
	defer done()
	if scope.Prefix = prefix(v.filter.Ref); len(args) == 1 {
		journal, err := s.js.Stream(ctx, recourse.StreamJournal)
		if err != nil {
			return why(ctx, explain(recourse.StreamJournal, err))
		}
		scope.Prefix, err = history.Find(ctx, journal, v.filter.Ref, args[0])
		if ref, bad := v.filter.named(args[0]); errors.Is(err, history.ErrNotFound) && bad == nil && complete(ref) {
			scope.Prefix, err = ref.Prefix(), nil // its inputs may be there, undecided
		}
		if err != nil {
			return why(ctx, err)
		}
	}
	found := Verified{List: []verify.Violation{}}
	progress := newProgress(s.Printer)
	scope.Progress = progress.show
	scope.Report = func(violation verify.Violation) {
		if slices.Contains(v.skip, violation.Invariant) {
			return
		}
		if found.Found++; v.limit > 0 && found.Found > v.limit {
			return
		}
		if s.Format == cli.JSON {
			found.List = append(found.List, violation)
			return
		}
		progress.clear()
		fmt.Fprintln(s.Out, cli.Clean(violation.String()))
	}
	var err error
	found.Result, err = verify.Run(ctx, s.js, scope)
	progress.clear()
	if err != nil {
		return why(ctx, err)
	}
	if s.Format == cli.JSON {
		err = s.JSON(&found)
	} else {
		v.summary(s.Printer, &found)
	}
	if err == nil && found.Found > 0 {
		return cli.Failed()
	}
	return err
}

func (v *verifyCommand) summary(p *cli.Printer, found *Verified) {
	c := &found.Result.Counts
	p.Note("%s, %s of %s with %s, %s, up to %s", cli.Count(c.Inputs, "input"), cli.Count(c.Records, "record"), cli.Count(c.Executions, "execution"),
		cli.Count(c.Commands, "command"), cli.Count(c.Rejected, "rejection"), cli.Time(found.At))
	if c.Pending > 0 || c.Undecided > 0 {
		p.Note("in flight: %s undecided, %s pending", cli.Count(c.Undecided, "input"), cli.Count(c.Pending, "wait"))
	}
	if n := found.Unscheduled; n > 0 {
		p.Note("%s without a schedule at the server: a sweeper arms them once they are overdue", cli.Count(n, "wait"))
	}
	if c.Unseen > 0 {
		p.Note("%s whose input is not kept any more, or before --since", cli.Count(c.Unseen, "record"))
	}
	if c.Unfolded > 0 {
		p.Note("%s not decided again: the revision of the pipeline, or what came before, is not kept any more or before --since", cli.Count(c.Unfolded, "record"))
	}
	if len(v.skip) > 0 {
		p.Note("not looked at: %s", strings.Join(v.skip, ", "))
	}
	switch {
	case found.Found == 0:
		p.Note("everything holds")
	case v.limit > 0 && found.Found > v.limit:
		p.Note("%s, of which %d are shown", cli.Count(found.Found, "violation"), v.limit)
	default:
		p.Note("%s", cli.Count(found.Found, "violation"))
	}
}

// progress is a line on a terminal that is written over.
type progress struct {
	out   *os.File // nil where there is no terminal
	last  time.Time
	shown bool
}

func newProgress(p *cli.Printer) *progress {
	if f, ok := p.Err.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return &progress{out: f}
		}
	}
	return &progress{}
}

func (p *progress) show(done, of uint64) {
	if now := time.Now(); p.out != nil && now.Sub(p.last) > 200*time.Millisecond {
		p.last, p.shown = now, true
		fmt.Fprintf(p.out, "\r%d of %d messages, %d%% ", done, of, 100*done/max(of, 1))
	}
}

func (p *progress) clear() {
	if p.shown {
		p.shown = false
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
