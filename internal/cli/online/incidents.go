package online

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/incident"
)

// Incidents returns the command that says what goes wrong across executions.
func Incidents(g *Global) *cobra.Command {
	var (
		filter ids
		since  string
		limit  int
	)
	cmd := &cobra.Command{
		Use:   "incidents",
		Short: "Show what goes wrong across executions, worst first",
		Long: `Incidents groups the failures since a time by pipeline, error types, node and what was decided. Worst is what hit the most executions.
WAITING are the retries that wait, OPEN the interventions that are open, of those that began since then. The iterations of a matrix count as
one node. LAST is an execution to look at with ` + "`recourse history`" + `.`,
		Example: `  recourse incidents
  recourse incidents --since 1d --pipeline deploy_web -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, err := parseSince(since, time.Now())
			if err != nil {
				return err
			}
			if limit < 0 {
				return cli.Usagef("--limit: want 0 or more, got %d", limit)
			}
			s, err := g.connect(cmd)
			if err != nil {
				return err
			}
			defer s.close()
			ctx, done := s.guarded(cmd.Context())
			defer done()
			report, err := incident.Read(ctx, s.nc, s.js, prefix(filter.Ref), from)
			if err != nil {
				return why(ctx, explain(recourse.StreamJournal, err))
			}
			return printIncidents(s.Printer, report, limit)
		},
	}
	filter.registerFilter(cmd)
	cmd.Flags().StringVar(&since, "since", "1h", "from `then` on: so long ago (1h30m, 2d) or a time (2026-01-31T08:00:00Z)")
	cmd.Flags().IntVar(&limit, "limit", 20, "show at most so many groups; 0 for all")
	return cmd
}

func printIncidents(p *cli.Printer, r *incident.Report, limit int) error {
	shown := r.Incidents
	if limit > 0 && len(shown) > limit {
		shown = shown[:limit]
	}
	if p.Format == cli.JSON {
		report := *r
		report.Incidents = shown
		return p.JSON(&report)
	}
	p.Note("%s, %s since %s; %s, %s", cli.Count(r.Failures, "failure"), cli.Count(r.Executions, "execution"), cli.Time(r.Since),
		verb(r.Waiting, "retry waits", "retries wait"), verb(r.Open, "intervention is open", "interventions are open"))
	if len(shown) == 0 {
		return nil
	}
	rows := p.Rows("EXECUTIONS", "FAILURES", "WAITING", "OPEN", "PIPELINE", "NODE", "ERRORS", "ACTION", "FIRST", "LAST", "")
	for _, i := range shown {
		rows.Add(fmt.Sprint(i.Executions), fmt.Sprint(i.Failures), some(i.Waiting), some(i.Open), i.Pipeline,
			recourse.Node{Path: i.Node, Section: i.Section}.String(), i.Errors, i.Action, cli.Time(i.First), cli.Time(i.Last), i.Example)
	}
	if err := rows.Flush(); err != nil {
		return err
	}
	if left := len(r.Incidents) - len(shown); left > 0 {
		p.Note("%s not shown; --limit 0 shows all", cli.Count(left, "group"))
	}
	if r.Others > 0 {
		p.Note("%s in more groups than can be told apart; --pipeline narrows it down", cli.Count(r.Others, "failure"))
	}
	return nil
}

// verb is a number with its noun and verb.
func verb(n int, one, other string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, other)
}

// some is a number, "" for none, so that what counts stands out.
func some(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
