package offline

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// Explain returns the command that decides a failure without a server.
func Explain(format *cli.Format) *cobra.Command {
	q := &question{format: format}
	cmd := &cobra.Command{
		Use:   "explain FILE --node STAGE/GROUP…/STEP --errors TYPE,…",
		Short: "Decide a failure offline and show why it is decided so",
		Long: `Explain decides what happens when a node of the pipeline in FILE fails, and prints the decision with everything that was looked
at. It needs no server and records nothing. - is standard input.

The node is a step, step group or stage, named by the identifiers from the stage inwards; iterations of a matrix may stand in it
(prod/canary[2]/rollout). Attempt N is decided as if the attempts before it had failed in the same way and had been retried.
Without --errors the failure is Unknown.

What stands only under rollbackSteps is decided there, also without --phase. A step or group that the file does not list is decided
by those levels of its path that it does list, with a warning; an unknown stage ends with exit code 3. A file with errors is decided
by what can be read of it, with a warning; where nothing can be read the exit code is 1.`,
		Example: `  recourse explain deploy.yaml --node prod/rollout/apply --errors Timeout
  recourse explain deploy.yaml --node prod/rollout/apply --errors Timeout,Connectivity --attempt 3 -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeYAML,
		RunE: func(cmd *cobra.Command, args []string) error {
			q.phaseGiven = cmd.Flags().Changed("phase")
			return q.answer(cmd, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.failure.Path, "node", "", "the `path` that fails: STAGE/GROUP…/STEP (required)")
	q.flags.Register(cmd)
	f.TextVar(&q.failure.Section, "phase", recourse.Steps, "steps, or rollback for a node under rollbackSteps")
	q.resolution.Register(cmd)
	registerSemantics(cmd, &q.semantics)
	_ = cmd.RegisterFlagCompletionFunc("node", completeNode)
	_ = cmd.RegisterFlagCompletionFunc("phase", cobra.FixedCompletions([]string{"steps", "rollback"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// question is one call of explain.
type question struct {
	format     *cli.Format
	flags      cli.FailureFlags
	failure    recourse.Failure
	semantics  recourse.Semantics
	phaseGiven bool
	resolution cli.Resolution
}

func (q *question) answer(cmd *cobra.Command, file string) error {
	p := cli.NewPrinter(cmd, q.format)
	f := &q.failure
	if f.Path == "" {
		return cli.Usagef("--node is required: which stage, step group or step fails")
	}
	if err := q.flags.Fill(cmd, f); err != nil {
		return err
	}
	// The ids only spread the jitter of a backoff.
	f.Ref = recourse.Ref{Account: "default", Org: "default", Project: "default", Pipeline: "pipeline", Execution: "explain"}
	f.Clean()
	if err := f.Validate(); err != nil {
		return cli.Usagef("%w", err)
	}

	content, err := cli.Read(file, cmd.InOrStdin(), pipeline.MaxSize)
	if err != nil {
		return cli.Usagef("%w", err)
	}
	opt, err := q.resolution.Require(p, q.semantics)
	if err != nil {
		return err
	}
	plan, findings := pipeline.Load(file, content, opt)
	errors := 0
	for _, d := range findings {
		if d.Severity == pipeline.SeverityError {
			p.Note("%s", d)
			errors++
		}
	}
	if plan == nil {
		return cli.Failed()
	}
	if errors > 0 {
		p.Note("%s has %s; decided by what can be read of it", file, cli.Count(errors, "error"))
	}
	if err := q.locate(p, file, plan); err != nil {
		return err
	}
	rec := q.decide(plan)
	if s := strategyAt(plan, rec.Strategy); s != nil && s.Do.Retry != nil && s.Do.Retry.Backoff != nil && s.Do.Retry.Backoff.Jitter > 0 && rec.Delay > 0 {
		p.Note("the delay has a jitter that differs from execution to execution")
	}
	return p.Decision(cli.Offline(rec))
}

// locate looks whether the plan lists the node, and settles its section.
func (q *question) locate(p *cli.Printer, file string, plan *decide.Plan) error {
	f := &q.failure
	if _, ok := plan.Lookup(recourse.Node{Path: f.Stage()}); !ok {
		return unknownStage(file, f.Stage(), plan)
	}
	if _, ok := plan.Lookup(f.Node); ok {
		return nil
	}
	other := f.Node
	other.Section = recourse.RollbackSteps - f.Section
	switch _, elsewhere := plan.Lookup(other); {
	case elsewhere && !q.phaseGiven:
		p.Note("%s stands under rollbackSteps and is decided there; --phase rollback says so", f.Path)
		f.Section = other.Section
	case elsewhere:
		p.Note("%s does not stand under %s but under %s; decided as asked", f.Path, f.Section, other.Section)
	default:
		p.Note("%s does not list %s; decided by the levels of the path that it lists (R6); %s", file, f.Path, nearestNode(plan, f.Node))
	}
	return nil
}

func unknownStage(file, stage string, plan *decide.Plan) error {
	var stages []string
	for _, n := range plan.Nodes() {
		if n.Level == recourse.LevelStage {
			stages = append(stages, n.Path)
		}
	}
	err := fmt.Errorf("%s has no stages", file)
	if len(stages) > 0 {
		err = fmt.Errorf("%s has no stage %q; it has %s", file, stage, strings.Join(stages, ", "))
	}
	return &cli.Error{Code: cli.ExitUnknownStage, Err: err}
}

func nearestNode(plan *decide.Plan, node recourse.Node) string {
	var paths []string
	for _, n := range plan.Nodes() {
		if n.Section == node.Section && n.Within(recourse.PlainPath(node.Stage())) {
			paths = append(paths, n.Path)
		}
	}
	return cli.DidYouMean(recourse.PlainPath(node.Path), paths)
}

// decide decides the failure in an execution of which nothing else is known.
func (q *question) decide(plan *decide.Plan) *recourse.Record {
	f := &q.failure
	in := &decide.Input{Ref: f.Ref, Node: f.Node, Attempt: f.Attempt, Input: recourse.Input{
		Key: f.Key(), Digest: f.Digest(),
		Failure: &recourse.FailureInput{Errors: f.Errors, Message: f.Message, ExitCode: f.ExitCode, Target: f.Target, RetryAfter: f.RetryAfter},
	}}
	known := decide.Pipeline{Plan: plan, Semantics: q.semantics}
	now := time.Now()
	// The attempts before this one count as retries of the node (R8).
	rec, head := new(recourse.Record), new(decide.Head)
	decide.Decide(rec, known, head, in, now)
	if rec.Action == recourse.RetryStepGroup && f.Attempt > 1 {
		// They were retries of the group.
		group := rec.Command.Scope
		if rec.Wait.Kind == recourse.WaitRetryGroup {
			group = rec.Wait.Scope
		}
		head.State.Groups = []recourse.GroupState{{Path: group, Section: f.Section, Retries: f.Attempt - 1, Restarted: true}}
		decide.Decide(rec, known, head, in, now)
	}
	return rec
}

func strategyAt(plan *decide.Plan, path string) *decide.Strategy {
	for _, n := range plan.Nodes() {
		if i := slices.IndexFunc(n.Strategies, func(s decide.Strategy) bool { return s.Path == path }); i >= 0 {
			return &n.Strategies[i]
		}
	}
	return nil
}
