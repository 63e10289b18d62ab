package online

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
)

// Reported is what report prints where it does not wait.
type Reported struct {
	Sequence  uint64 `json:"sequence"` // in the inbox
	Execution string `json:"execution"`
	Node      string `json:"node"`
	Attempt   int    `json:"attempt"`
	Subject   string `json:"subject"`
}

// Report returns the command that reports a failure.
func Report(g *Global) *cobra.Command {
	var (
		of    ids
		how   cli.FailureFlags
		phase recourse.Section
		node  string
		wait  bool
		limit time.Duration
	)
	cmd := &cobra.Command{
		Use:   "report --pipeline ID --execution ID --node STAGE/GROUP…/STEP --errors TYPE,…",
		Short: "Report that a node failed, as a delegate does",
		Long: `Report publishes the failure of one attempt of a node and says under which sequence the inbox has stored it. With --wait it
waits for the decision and prints it. The same attempt decides once: a repeat is answered with the first decision.`,
		Example: `  recourse report --pipeline deploy_web --execution ex42 --node prod/rollout/apply --errors Timeout --wait`,
		Args:    cobra.NoArgs,
	}
	as := registerAs(cmd, g)
	of.register(cmd)
	f := cmd.Flags()
	f.StringVar(&node, "node", "", "the `path` that failed: STAGE/GROUP…/STEP (required)")
	f.TextVar(&phase, "phase", recourse.Steps, "steps, or rollback for a node under rollbackSteps")
	how.Register(cmd)
	f.BoolVar(&wait, "wait", false, "wait for the decision and print it")
	registerWithin(cmd, &limit)
	_ = cmd.RegisterFlagCompletionFunc("execution", g.completeExecutions)
	_ = cmd.RegisterFlagCompletionFunc("phase", cobra.FixedCompletions([]string{"steps", "rollback"}, cobra.ShellCompDirectiveNoFileComp))

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ref, err := of.execution()
		if err != nil {
			return err
		}
		if node == "" {
			return cli.Usagef("--node is required: which stage, step group or step failed")
		}
		if limit <= 0 {
			return errWithin
		}
		failure := recourse.Failure{Ref: ref, Node: recourse.Node{Path: node, Section: phase}}
		if err := how.Fill(cmd, &failure); err != nil {
			return err
		}
		failure.Clean() // as it will be stored: by its digest the decision is found
		if err := failure.Validate(); err != nil {
			return cli.Usagef("%w", err)
		}
		s, err := g.connect(cmd)
		if err != nil {
			return err
		}
		defer s.close()
		delegate, err := client.NewDelegate(s.nc, *as)
		if err != nil {
			return cli.Usagef("--as: %w", err)
		}
		sequence, err := delegate.Report(cmd.Context(), failure)
		if err != nil {
			return err
		}
		if wait {
			return s.printDecision(cmd.Context(), &failure, sequence, limit)
		}
		if s.Format == cli.JSON {
			return s.JSON(Reported{sequence, ref.String(), failure.Node.String(), failure.Attempt, ref.Subject(recourse.FamilyFailure, *as)})
		}
		_, err = fmt.Fprintf(s.Out, "reported %s, attempt %d, as %d in the inbox\n", cli.Clean(failure.Node.String()), failure.Attempt, sequence)
		return err
	}
	return cmd
}

// registerWithin adds the flag that bounds the wait for a decision.
func registerWithin(cmd *cobra.Command, limit *time.Duration) {
	cmd.Flags().DurationVar(limit, "within", 30*time.Second, "how long to wait for the decision at most")
}

var errWithin = cli.Usagef("--within: want more than 0")

// printDecision waits for the decision on a failure and prints it.
func (s *session) printDecision(ctx context.Context, failure *recourse.Failure, sequence uint64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	key, digest := failure.Key(), failure.Digest()
	rec, err := s.await(ctx, failure.Ref, func(rec *recourse.Record) bool {
		return rec.Input.Key == key && rec.Input.Digest == digest
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("stored as %d in the inbox, but not decided within %s: is a worker running?", sequence, limit)
	case err != nil:
		return fmt.Errorf("stored as %d in the inbox: %w", sequence, err)
	}
	if rec.Input.Sequence != sequence {
		s.Note("this attempt was decided before; that decision stands (R12)")
	}
	return s.Decision(cli.Recorded(rec))
}
