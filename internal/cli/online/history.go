package online

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/history"
)

// History returns the command that tells the story of one execution.
func History(g *Global) *cobra.Command {
	h := &historyCommand{}
	cmd := &cobra.Command{
		Use:   "history EXECUTION",
		Short: "Tell the story of one execution, from its first failure to its end",
		Long: `History tells from the journal alone what happened to an execution: what failed, what was decided and by which strategy, what was
waited for and what became of it, which commands went out, who answered and why. --why adds every strategy that was looked at, and why it
did or did not apply.

EXECUTION is the id of an execution, the end of account/org/project/pipeline/id, or the beginning of an id. Where that may mean several,
they are listed. --html writes the story as one page that needs nothing else, for a post-mortem.`,
		Example: `  recourse history ex42
  recourse history deploy_web/ex42 --why
  recourse history ex42 --why --html ex42.html`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeExecutions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return cli.Usagef("an execution is required")
			}
			s, err := g.connect(cmd)
			if err != nil {
				return err
			}
			defer s.close()
			return h.run(cmd, s, args[0])
		},
	}
	h.filter.registerFilter(cmd)
	f := cmd.Flags()
	f.BoolVar(&h.why, "why", false, "with every strategy that was looked at")
	f.StringVar(&h.html, "html", "", "write one page to `file`, - for the output")
	_ = cmd.MarkFlagFilename("html", "html")
	return cmd
}

type historyCommand struct {
	filter ids
	why    bool
	html   string
}

func (h *historyCommand) run(cmd *cobra.Command, s *session, name string) error {
	chain, err := h.chain(cmd.Context(), s, name)
	if err != nil {
		return err
	}
	now := time.Now()
	t := history.Of(chain, now)
	switch {
	case h.html != "":
		return h.page(s.Printer, t, now)
	case s.Format == cli.JSON:
		if !h.why {
			for i := range t.Entries {
				t.Entries[i].Record.Trail = nil
			}
		}
		return s.JSON(t)
	}
	return h.table(s.Printer, t, now)
}

// chain reads the records of the execution that is meant.
func (h *historyCommand) chain(ctx context.Context, s *session, name string) ([]history.Message, error) {
	ctx, done := s.guarded(ctx)
	defer done()
	journal, err := s.js.Stream(ctx, recourse.StreamJournal)
	if err != nil {
		return nil, why(ctx, explain(recourse.StreamJournal, err))
	}
	prefix, err := history.Find(ctx, journal, h.filter.Ref, name)
	if err != nil {
		return nil, why(ctx, err)
	}
	chain, err := history.Read(ctx, journal, prefix)
	return chain, why(ctx, err)
}

func (h *historyCommand) page(p *cli.Printer, t *history.Timeline, now time.Time) error {
	var page bytes.Buffer
	if err := t.WriteHTML(&page, h.why, now, time.Local); err != nil {
		return err
	}
	if h.html == "-" {
		_, err := p.Out.Write(page.Bytes())
		return err
	}
	if err := os.WriteFile(h.html, page.Bytes(), 0o644); err != nil {
		return &cli.Error{Code: cli.ExitUsage, Err: err}
	}
	p.Note("%s tells of %s in %s", h.html, t.Execution, cli.Count(len(t.Entries), "record"))
	return nil
}

func (h *historyCommand) table(p *cli.Printer, t *history.Timeline, now time.Time) error {
	facts := p.Rows()
	for _, fact := range t.Facts(now, time.Local) {
		facts.Add(fact[0], fact[1])
	}
	if err := facts.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(p.Out)
	rows := p.Rows("AFTER", "RECORD", "WHAT", "")
	for i := range t.Entries {
		e := &t.Entries[i]
		after, version := "+"+history.Span(time.Duration(e.After)), fmt.Sprint(e.Record.Version)
		for _, line := range e.Lines(h.why, time.Local) {
			label := line.Label
			switch {
			case line.Chosen:
				label = "  * looked at"
			case label == "trail":
				label = "    looked at"
			}
			rows.Add(after, version, label, line.Text)
			after, version = "", ""
		}
	}
	return rows.Flush()
}
