package online

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/doctor"
)

// Examined is what the doctor found.
type Examined struct {
	// Failed and Warnings are how many findings are so.
	Failed   int              `json:"failed"`
	Warnings int              `json:"warnings"`
	Findings []doctor.Finding `json:"findings"`
}

// Doctor returns the command that examines what Recourse needs of the server.
func Doctor(g *Global) *cobra.Command {
	var (
		cfg    doctor.Config
		filter ids
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check server, streams, permissions, clocks, durability and backlog, and say how to mend what is wrong",
		Long: `Doctor looks from the outside whether all is there that delegates, workers and people need: the server, its version and JetStream, the
streams, the bucket and the durable consumers as they should be, the permissions of the user that connects, the clocks of this machine, the
server and the workers, whether a power cut could lose what was acknowledged, space, whether workers pull, and what lies about: undecided
inputs, overdue waits, rejected inputs.

Each check is one line, with what to do where it is not ok. What this user may not look at is skipped: to see everything, connect as the
admin. With --role the permissions of the user are held against what that role needs, each that is missing is a failure; without it the
roles they suffice for are listed. Where the permissions are for one account, organisation, project or pipeline, name it. The exit code is 1 where a check failed; warnings and what was skipped do not count.

It changes nothing: what it tries no server carries out. The server logs that as invalid requests, and as violations what is not permitted.`,
		Example: `  recourse doctor --monitor-url http://127.0.0.1:8222
  NATS_USER=worker NATS_INBOX_PREFIX=_INBOX.worker recourse doctor --role worker
  recourse doctor --role delegate --account acme -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Scope = filter.Ref
			return g.examine(cmd, cfg)
		},
	}
	filter.registerFilter(cmd)
	f := cmd.Flags()
	f.TextVar(&cfg.Role, "role", doctor.Role(0), "`role` whose permissions this user must have: delegate, orchestrator, operator, viewer, worker or admin")
	f.StringVar(&cfg.Principal, "as", "", "in whose name the role reports, as the broker's permissions have it (default the user of the connection)")
	f.StringVar(&cfg.MonitorURL, "monitor-url", "", "the server's monitoring endpoint, like http://host:8222; it tells the sync mode and the space")
	cli.FromEnvironment(f, "role", "as", "monitor-url")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(doctor.RoleNames, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (g *Global) examine(cmd *cobra.Command, cfg doctor.Config) error {
	p := cli.NewPrinter(cmd, g.Format)
	found := Examined{Findings: []doctor.Finding{}}
	tell := func(f doctor.Finding) {
		found.Findings = append(found.Findings, f)
		switch f.Status {
		case doctor.Failed:
			found.Failed++
		case doctor.Warning:
			found.Warnings++
		}
	}
	s, err := g.connect(cmd)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case err != nil:
		tell(doctor.Unreachable(err))
	default:
		defer s.close()
		if err := doctor.Examine(cmd.Context(), s.nc, cfg, tell); err != nil {
			return err
		}
	}
	if err := printExamined(p, &found); err != nil {
		return err
	}
	if found.Failed > 0 {
		return cli.Failed()
	}
	return nil
}

func printExamined(p *cli.Printer, found *Examined) error {
	if p.Format == cli.JSON {
		return p.JSON(found)
	}
	rows := p.Rows()
	for _, f := range found.Findings {
		says := f.Says
		if f.Mend != "" {
			says += " — " + f.Mend
		}
		rows.Add(f.Status.String(), f.Check, says)
	}
	if err := rows.Flush(); err != nil {
		return err
	}
	if found.Failed+found.Warnings > 0 {
		p.Note("%d failed, %s", found.Failed, cli.Count(found.Warnings, "warning"))
	}
	return nil
}
