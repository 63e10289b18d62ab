package online

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
)

// Answer returns the command that answers an intervention.
func Answer(g *Global) *cobra.Command {
	var (
		filter ids
		why    string
		limit  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "answer ID ACTION --why TEXT",
		Short: "Answer an intervention",
		Long: `Answer answers an open intervention in your name and prints the decision that follows. The ID is EXECUTION/VERSION, as
` + "`recourse interventions`" + ` lists it, or account/org/project/pipeline/EXECUTION/VERSION where several executions have the same id.

Where the answer is refused, since somebody answered before or the action is not allowed, the reason is printed and the exit code
is 1.`,
		Example:           `  recourse answer ex42/3 Retry --why "the registry is back"`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: g.completeAnswer,
	}
	as := registerAs(cmd, g)
	filter.registerFilter(cmd)
	cmd.Flags().StringVar(&why, "why", "", "why; the next person reads it (required)")
	registerWithin(cmd, &limit)

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ref, version, err := filter.intervention(args[0])
		if err != nil {
			return err
		}
		action, err := recourse.ParseAction(args[1])
		switch {
		case err != nil:
			return cli.Usagef("unknown action %q; %s", args[1], cli.DidYouMean(args[1], recourse.ActionNames()))
		case strings.TrimSpace(why) == "":
			return cli.Usagef("--why is required: the next person reads it")
		case limit <= 0:
			return errWithin
		}
		s, err := g.connect(cmd)
		if err != nil {
			return err
		}
		defer s.close()
		if ref, err = s.paused(cmd.Context(), ref, version); err != nil {
			return err
		}
		operator, err := client.NewOperator(s.nc, *as)
		if err != nil {
			return cli.Usagef("--as: %w", err)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), limit)
		defer cancel()
		record, err := operator.Answer(ctx, recourse.Answer{Ref: ref, Intervention: version, Action: action, Who: *as, Why: why})
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
	return cmd
}

// intervention takes the name of an intervention apart: the filter of its execution, and its version.
func (i *ids) intervention(name string) (recourse.Ref, uint64, error) {
	slash := strings.LastIndexByte(name, '/')
	version, err := strconv.ParseUint(name[slash+1:], 10, 64)
	if slash <= 0 || err != nil || version == 0 {
		return recourse.Ref{}, 0, cli.Usagef("%q is no intervention: want EXECUTION/VERSION, as `recourse interventions` lists them", name)
	}
	ref, err := i.named(name[:slash])
	return ref, version, err
}

// paused finds the execution that a name stands for among those that ever paused, also where the intervention is not open any more:
// the refusal says then who answered.
func (s *session) paused(ctx context.Context, filter recourse.Ref, version uint64) (recourse.Ref, error) {
	if complete(filter) {
		return filter, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestWithin)
	defer cancel()
	stream, err := s.js.Stream(ctx, recourse.StreamJournal)
	if err != nil {
		return filter, explain(recourse.StreamJournal, err)
	}
	pauses := prefix(filter) + "." + string(recourse.FamilyCommand) + "." + recourse.VerbPause.String()
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(pauses))
	if err != nil {
		return filter, explain(recourse.StreamJournal, err)
	}
	var found []recourse.Ref
	for subject := range info.State.Subjects {
		msg, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // it left the journal just now
		}
		if err != nil {
			return filter, explain(recourse.StreamJournal, err)
		}
		record, err := recourse.DecodeRecord(msg.Data)
		if err != nil {
			return filter, explain(recourse.StreamJournal, err)
		}
		found = append(found, record.Ref)
	}
	switch len(found) {
	case 0:
		return filter, fmt.Errorf("execution %s has no intervention; `recourse interventions` lists what is open", filter.Execution)
	case 1:
		return found[0], nil
	}
	return s.oneOpen(ctx, filter, version, found)
}

// oneOpen returns the one of several executions with the same id that has the intervention open.
func (s *session) oneOpen(ctx context.Context, filter recourse.Ref, version uint64, found []recourse.Ref) (recourse.Ref, error) {
	operator, err := client.NewOperator(s.nc, reader)
	if err != nil {
		return filter, err
	}
	open, err := operator.Open(ctx, filter)
	if err != nil {
		return filter, err
	}
	var candidates []recourse.Ref
	for _, o := range open {
		if o.ID == version {
			candidates = append(candidates, o.Ref)
		}
	}
	if len(candidates) == 1 {
		return candidates[0], nil
	}
	if len(candidates) == 0 {
		candidates = found
	}
	var names []string
	for _, c := range candidates {
		names = append(names, answerID(c.String(), version))
	}
	slices.Sort(names)
	return filter, fmt.Errorf("%s stands for several interventions; name one of\n  %s", answerID(filter.Execution, version), strings.Join(names, "\n  "))
}
