package online

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
)

// Retrying is one pending retry.
type Retrying struct {
	// ID is what `recourse retries run-now` takes: EXECUTION/VERSION.
	ID        string           `json:"id"`
	Execution string           `json:"execution"` // account/org/project/pipeline/execution
	Wait      uint64           `json:"wait"`
	Node      string           `json:"node"`
	Section   recourse.Section `json:"section"`
	// Group is the step group that is run again; absent where it is the node alone.
	Group   string              `json:"group,omitzero"`
	Attempt int                 `json:"attempt"` // that failed
	Errors  recourse.ErrorTypes `json:"errors"`
	Message string              `json:"message"`
	// Retry is the number of the retry, of Of that there are; Then follows the last. They are absent where the record does not say.
	Retry    int             `json:"retry,omitzero"`
	Of       int             `json:"of,omitzero"`
	Then     recourse.Action `json:"then,omitzero"`
	Since    time.Time       `json:"since"`
	DueAt    time.Time       `json:"dueAt"`
	Level    recourse.Level  `json:"level"`
	Strategy string          `json:"strategy"`
	// PostponedBy and PostponedWhy are of the person who postponed it last.
	PostponedBy  string `json:"postponedBy,omitzero"`
	PostponedWhy string `json:"postponedWhy,omitzero"`

	ref recourse.Ref
}

func (r *Retrying) matched() *matched {
	kind := recourse.WaitRetry
	if r.Group != "" {
		kind = recourse.WaitRetryGroup
	}
	return &matched{
		Ref: r.ref, Node: recourse.Node{Path: r.Node, Section: r.Section}, version: r.Wait, attempt: r.Attempt, errors: r.Errors,
		message: r.Message, level: r.Level, strategy: r.Strategy, then: r.Then, kind: kind.String(),
	}
}

func (r *Retrying) ofMany() OfMany {
	return OfMany{ID: r.ID, Execution: r.Execution, Node: recourse.Node{Path: r.Node, Section: r.Section}.String()}
}

// Retries returns the command that lists the pending retries, and those beneath it that step in.
func Retries(g *Global) *cobra.Command {
	var (
		filter ids
		only   match
	)
	cmd := &cobra.Command{
		Use:   "retries",
		Short: "List the retries that wait; run-now, postpone or cancel them",
		Long: `Retries lists the retries that wait for their interval, the next one due first: why, which of how many, when, and what follows the last one.
Step in with ` + "`recourse retries run-now ID…`, `postpone ID… --for 10m` or `cancel ID…`" + `.

` + matchHelp,
		Example: `  recourse retries
  recourse retries run-now ex42/3 --why "the registry is back"
  recourse retries postpone --match 'pipeline=deploy_web' --for 30m --why "maintenance until noon"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return cli.Usagef("unknown command %q; %s", args[0], cli.DidYouMean(args[0], controlNames))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := only.parse(); err != nil {
				return err
			}
			s, err := g.connect(cmd)
			if err != nil {
				return err
			}
			defer s.close()
			pending, err := s.retrying(cmd.Context(), filter.Ref, &only)
			if err != nil {
				return err
			}
			return printRetrying(s.Printer, pending, time.Now())
		},
	}
	filter.registerFilter(cmd)
	only.register(cmd, "only those that match")
	cmd.AddCommand(
		control(g, recourse.RunNow, "Run pending retries at once", "The orchestrator gets the command at once; the retry counts as any other."),
		control(g, recourse.Postpone, "Let pending retries wait longer, or less long",
			"The retry comes due after --for from now on, whenever it was due before. It gets a new ID, since the record that postpones it waits in its place."),
		control(g, recourse.Cancel, "Give pending retries up", "What follows the last retry follows now, as if all of them had been used. Where it is a step group that is not run again, what else failed in it and waited for that stays failed."),
	)
	return cmd
}

var controlNames = []string{recourse.RunNow.String(), recourse.Postpone.String(), recourse.Cancel.String()}

// retrying returns the pending retries of a filter that match.
func (s *session) retrying(ctx context.Context, filter recourse.Ref, only *match) ([]Retrying, error) {
	operator, err := client.NewOperator(s.nc, reader)
	if err != nil {
		return nil, err
	}
	found, err := operator.Retries(ctx, only.narrow(filter))
	if err != nil {
		return nil, forOneAccount(err)
	}
	pending := make([]Retrying, 0, len(found))
	for _, p := range found {
		r := Retrying{
			ID: answerID(p.Ref.Execution, p.ID), Execution: p.Ref.String(), Wait: p.ID, Node: p.Path, Section: p.Section, Group: p.Group,
			Attempt: p.Attempt, Errors: p.Errors, Message: p.Message, Retry: p.Retry, Of: p.Of, Then: p.Then, Since: p.WaitsSince,
			DueAt: p.DueAt, Level: p.Level, Strategy: p.Strategy, PostponedBy: p.PostponedBy, PostponedWhy: p.PostponedWhy, ref: p.Ref,
		}
		if only.matches(r.matched()) {
			pending = append(pending, r)
		}
	}
	return pending, nil
}

func printRetrying(p *cli.Printer, pending []Retrying, now time.Time) error {
	if p.Format == cli.JSON {
		return p.JSON(pending)
	}
	if len(pending) == 0 {
		p.Note("no retry is pending")
		return nil
	}
	rows := p.Rows("ID", "PIPELINE", "NODE", "RETRY", "DUE", "IN", "THEN", "ERROR")
	for _, r := range pending {
		rows.Add(r.ID, r.ref.Pipeline, recourse.Node{Path: r.Node, Section: r.Section}.String(), r.which(), cli.Time(r.DueAt), until(r.DueAt, now),
			r.Then.String(), whatFailed(r.Errors, r.Message))
		if r.PostponedBy != "" {
			rows.Beneath("postponed by " + r.PostponedBy + ": " + short(r.PostponedWhy))
		}
	}
	return rows.Flush()
}

// which says which retry it is: "2 of 3", "1 of 2 of group prod/canary".
func (r *Retrying) which() string {
	text := fmt.Sprintf("%d of %d", r.Retry, r.Of)
	if r.Of == 0 {
		text = ""
	}
	if r.Group != "" {
		text = strings.TrimSpace(text + " of group " + r.Group)
	}
	return text
}

// until is how long it is until then, in whole seconds.
func until(then, now time.Time) string {
	if wait := then.Sub(now).Round(time.Second); wait > 0 {
		return wait.String()
	}
	return "now"
}

// stepIn is a command that does something to pending retries.
type stepIn struct {
	do     recourse.ControlVerb
	as     *string
	filter ids
	only   match
	consent
	why   string
	by    recourse.Duration
	limit time.Duration
}

// control returns the command of a verb.
func control(g *Global, do recourse.ControlVerb, short, long string) *cobra.Command {
	c := &stepIn{do: do}
	needs, given := "", ""
	if do == recourse.Postpone {
		needs, given = " --for DURATION", " --for 30m"
	}
	cmd := &cobra.Command{
		Use:   do.String() + " {ID… | --match KEY=VALUE,…}" + needs + " --why TEXT",
		Short: short,
		Long: long + ` It is recorded with who and why, and decided like everything else: where the retry is not pending any more, who or what came first is
printed and the exit code is 1.

An ID is EXECUTION/VERSION, as ` + "`recourse retries`" + ` lists it, or account/org/project/pipeline/EXECUTION/VERSION where several executions have
the same id. With --match it is done to all pending retries that match: they are shown, and on a terminal you are asked (--yes agrees beforehand,
--dry-run only looks).

` + matchHelp,
		Example: "  recourse retries " + do.String() + " ex42/3" + given + " --why \"the registry is back\"\n" +
			"  recourse retries " + do.String() + " --match 'pipeline=deploy_web,error=Connectivity'" + given + " --why \"the registry is back\" --yes",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case c.only.given() && len(args) > 0:
				return cli.Usagef("either IDs or --match, not both")
			case !c.only.given() && len(args) == 0:
				return cli.Usagef("which? Name their IDs, as `recourse retries` lists them, or say --match")
			}
			return nil
		},
		ValidArgsFunction: g.completeRetry,
	}
	c.as = registerAs(cmd, g)
	c.filter.registerFilter(cmd)
	c.only.register(cmd, "all that match")
	c.consent.register(cmd)
	f := cmd.Flags()
	f.StringVar(&c.why, "why", "", "why; the next person reads it (required)")
	if do == recourse.Postpone {
		f.TextVar(&c.by, "for", recourse.Duration(0), "how long they wait from now on: `30m`, 1h30m, 2d (required)")
	}
	registerWithin(cmd, &c.limit)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.run(cmd, g, args) }
	return cmd
}

func (c *stepIn) run(cmd *cobra.Command, g *Global, args []string) error {
	if err := c.only.parse(); err != nil {
		return err
	}
	switch {
	case c.do == recourse.Postpone && c.by <= 0:
		return cli.Usagef("--for is required: how long to wait from now on")
	case strings.TrimSpace(c.why) == "":
		return errWhy
	case c.limit <= 0:
		return errWithin
	case !c.only.given() && (c.yes || c.dryRun):
		return errConsent
	}
	names := make([]waitName, len(args))
	for i, arg := range args {
		var err error
		if names[i].ref, names[i].version, err = c.filter.waiting(arg, retryNames.what, retryNames.list); err != nil {
			return err
		}
	}
	s, err := g.connect(cmd)
	if err != nil {
		return err
	}
	defer s.close()
	operator, err := client.NewOperator(s.nc, *c.as)
	if err != nil {
		return cli.Usagef("--as: %w", err)
	}
	if c.only.given() {
		return c.many(cmd, s, operator)
	}
	for i := range names {
		if names[i].ref, err = s.named(cmd.Context(), retryNames, names[i].ref, names[i].version); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), c.limit)
	defer cancel()
	if len(names) == 1 {
		record, err := operator.Control(ctx, c.of(names[0].ref, names[0].version))
		return s.decided(record, denied(err, *c.as, c.do.String()+" a retry"))
	}
	controls, each := make([]recourse.Control, len(names)), make([]OfMany, len(names))
	for i, n := range names {
		controls[i] = c.of(n.ref, n.version)
		each[i] = OfMany{ID: args[i], Execution: n.ref.String()}
	}
	return c.all(ctx, s, operator, controls, each)
}

// waitName is a name of a wait taken apart.
type waitName struct {
	ref     recourse.Ref
	version uint64
}

func (c *stepIn) of(ref recourse.Ref, version uint64) recourse.Control {
	return recourse.Control{Ref: ref, Wait: version, Do: c.do, For: c.by, Who: *c.as, Why: c.why}
}

// many does it to all pending retries that match, each by itself.
func (c *stepIn) many(cmd *cobra.Command, s *session, operator *client.Operator) error {
	pending, err := s.retrying(cmd.Context(), c.filter.Ref, &c.only)
	switch {
	case err != nil:
		return err
	case c.dryRun:
		return printRetrying(s.Printer, pending, time.Now())
	case len(pending) == 0:
		return errors.New("no pending retry matches; `recourse retries` lists what is pending")
	}
	if !c.yes && s.Format != cli.JSON {
		if err := printRetrying(s.Printer, pending[:min(len(pending), previewRows)], time.Now()); err != nil {
			return err
		}
		s.andMore(len(pending))
	}
	count := cli.Count(len(pending), "pending retry")
	if len(pending) != 1 {
		count = fmt.Sprintf("%d pending retries", len(pending))
	}
	agreed, err := c.ask(cmd, s.Printer, fmt.Sprintf("%s: %s?", c.do, count))
	if err != nil || !agreed {
		return orNothingDone(err)
	}
	controls, each := make([]recourse.Control, len(pending)), make([]OfMany, len(pending))
	for i := range pending {
		controls[i], each[i] = c.of(pending[i].ref, pending[i].Wait), pending[i].ofMany()
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), c.limit)
	defer cancel()
	return c.all(ctx, s, operator, controls, each)
}

func (c *stepIn) all(ctx context.Context, s *session, operator *client.Operator, controls []recourse.Control, each []OfMany) error {
	result := Many{What: c.do.String()}
	outcomes := inTurn(controls, func(c recourse.Control) recourse.Ref { return c.Ref }, func(some []recourse.Control) []client.Outcome {
		return operator.ControlAll(ctx, some)
	})
	for i, o := range outcomes {
		if o.Record != nil && each[i].Node == "" {
			each[i].Node = o.Record.Node.String()
		}
		result.add(each[i], o)
	}
	return result.print(s.Printer)
}
