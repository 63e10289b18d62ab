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

// Answer returns the command that answers one intervention, or many.
func Answer(g *Global) *cobra.Command {
	a := &answer{}
	cmd := &cobra.Command{
		Use:   "answer {ID | --match KEY=VALUE,…} ACTION --why TEXT",
		Short: "Answer one intervention, or all that match",
		Long: `Answer answers an open intervention in your name and prints the decision that follows. The ID is EXECUTION/VERSION, as
` + "`recourse interventions`" + ` lists it, or account/org/project/pipeline/EXECUTION/VERSION where several executions have the same id.

With --match it answers all open interventions that match: it shows them, asks on a terminal (--yes agrees beforehand, --dry-run only looks), gives
each an answer of its own, and says how many were accepted and why others were not.

Where an answer is refused, since somebody answered before or the action is not allowed, the reason is printed and the exit code
is 1.

` + matchHelp,
		Example: `  recourse answer ex42/3 Retry --why "the registry is back"
  recourse answer --match 'pipeline=deploy_web,error=Timeout' Retry --why "the registry is back"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if a.only.given() {
				return cobra.ExactArgs(1)(cmd, args)
			}
			return cobra.ExactArgs(2)(cmd, args)
		},
		ValidArgsFunction: g.completeAnswer,
	}
	a.as = registerAs(cmd, g)
	a.filter.registerFilter(cmd)
	a.only.register(cmd, "answer all that match")
	a.consent.register(cmd)
	cmd.Flags().StringVar(&a.why, "why", "", "why; the next person reads it (required)")
	registerWithin(cmd, &a.limit)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.run(cmd, g, args) }
	return cmd
}

type answer struct {
	as     *string
	filter ids
	only   match
	consent
	why   string
	limit time.Duration
}

func (a *answer) run(cmd *cobra.Command, g *Global, args []string) error {
	if err := a.only.parse(); err != nil {
		return err
	}
	name := args[len(args)-1]
	action, err := recourse.ParseAction(name)
	switch {
	case err != nil:
		return cli.Usagef("unknown action %q; %s", name, cli.DidYouMean(name, recourse.ActionNames()))
	case strings.TrimSpace(a.why) == "":
		return errWhy
	case a.limit <= 0:
		return errWithin
	case !a.only.given() && (a.yes || a.dryRun):
		return errConsent
	}
	if a.only.given() {
		return a.many(cmd, g, action)
	}
	ref, version, err := a.filter.waiting(args[0], "intervention", "interventions")
	if err != nil {
		return err
	}
	s, err := g.connect(cmd)
	if err != nil {
		return err
	}
	defer s.close()
	if ref, err = s.named(cmd.Context(), interventionNames, ref, version); err != nil {
		return err
	}
	operator, err := client.NewOperator(s.nc, *a.as)
	if err != nil {
		return cli.Usagef("--as: %w", err)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), a.limit)
	defer cancel()
	record, err := operator.Answer(ctx, a.of(ref, version, action))
	return s.decided(record, denied(err, *a.as, "answer"))
}

func (a *answer) of(ref recourse.Ref, version uint64, action recourse.Action) recourse.Answer {
	return recourse.Answer{Ref: ref, Intervention: version, Action: action, Who: *a.as, Why: a.why}
}

// many answers all open interventions that match, each by itself.
func (a *answer) many(cmd *cobra.Command, g *Global, action recourse.Action) error {
	s, err := g.connect(cmd)
	if err != nil {
		return err
	}
	defer s.close()
	operator, err := client.NewOperator(s.nc, *a.as)
	if err != nil {
		return cli.Usagef("--as: %w", err)
	}
	waiting, err := s.waiting(cmd.Context(), a.filter.Ref, &a.only)
	switch {
	case err != nil:
		return err
	case a.dryRun:
		return printWaiting(s.Printer, waiting)
	case len(waiting) == 0:
		return errors.New("no open intervention matches; `recourse interventions` lists what is open")
	}
	if !a.yes && s.Format != cli.JSON {
		if err := printWaiting(s.Printer, waiting[:min(len(waiting), previewRows)]); err != nil {
			return err
		}
		s.andMore(len(waiting))
	}
	agreed, err := a.ask(cmd, s.Printer, fmt.Sprintf("Answer %s with %s?", cli.Count(len(waiting), "intervention"), action))
	if err != nil || !agreed {
		return orNothingDone(err)
	}
	result := Many{What: action.String()}
	var asked []Waiting
	var answers []recourse.Answer
	for _, w := range waiting {
		// What would be refused is not sent: nothing is gained by a record of that.
		if !recourse.MayAnswer(w.AnswerBy, recourse.Token(*a.as)) {
			result.skip(w.ofMany(), fmt.Sprintf("%s may not answer here; who may: %s (R9)", *a.as, w.AnswerBy))
			continue
		}
		if !w.Allowed.Has(action) {
			result.skip(w.ofMany(), fmt.Sprintf("%s is not allowed here; allowed are %s (R9)", action, w.Allowed))
			continue
		}
		asked = append(asked, w)
		answers = append(answers, a.of(w.ref, w.Intervention, action))
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), a.limit)
	defer cancel()
	outcomes := inTurn(answers, func(a recourse.Answer) recourse.Ref { return a.Ref }, func(some []recourse.Answer) []client.Outcome {
		return operator.AnswerAll(ctx, some)
	})
	for i, o := range outcomes {
		result.add(asked[i].ofMany(), o)
	}
	return result.print(s.Printer)
}

func (w *Waiting) ofMany() OfMany {
	return OfMany{ID: w.ID, Execution: w.Execution, Node: recourse.Node{Path: w.Node, Section: w.Section}.String()}
}

// decided prints the decision on an answer or a control.
func (s *session) decided(record *recourse.Record, err error) error {
	var refused *client.RefusedError
	if errors.As(err, &refused) {
		if s.Format == cli.JSON {
			if err := s.Decision(cli.Recorded(refused.Record)); err != nil {
				return err
			}
		}
		return refused
	}
	if err != nil {
		return err
	}
	return s.Decision(cli.Recorded(record))
}
