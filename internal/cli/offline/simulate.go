package offline

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
	"github.com/recourse-dev/recourse/internal/simulate"
)

// Simulate returns the command that runs a whole pipeline in virtual time.
func Simulate(format *cli.Format) *cobra.Command {
	s := &simulation{format: format}
	cmd := &cobra.Command{
		Use:   "simulate FILE --fail NODE=OUTCOME,… --answer NODE=ACTION@AFTER",
		Short: "Run a whole pipeline in virtual time and show what is decided when",
		Long: `Simulate runs the pipeline in FILE from its first stage to its last, in virtual time, with the engine itself: retries and their
waits, interventions and their timeouts, rollbacks, and which stages run after a failure. It needs no server and records nothing. -
is standard input.

--fail says how the attempts 1, 2, 3 … of a node end, joined by commas; all others succeed:

  Timeout               the attempt fails with this error type
  Timeout+Connectivity  with several
  Timeout:137           and an exit code
  ok                    it succeeds
  Timeout*3             three attempts in a row
  Timeout*              this attempt and all that follow

A node is a step, step group or stage, named by the identifiers from the stage inwards; a step group or stage that fails itself does
so before its first step. One under rollbackSteps is written as the timeline shows it, "prod/undo (rollbackSteps)"; the suffix is
needed only where the same path stands under steps as well. A path without iterations stands for all iterations of a matrix.

--answer answers the next intervention of a node, AFTER its opening (at once where it is left out); an intervention without an answer
times out.`,
		Example: `  recourse simulate deploy.yaml --fail 'prod/canary/rollout=Timeout*'
  recourse simulate deploy.yaml --fail prod/smoke=Verification,ok --answer prod/smoke=Retry@5m
  recourse simulate deploy.yaml --fail prod/apply=Verification --fail prod/undo=Connectivity:7 -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeYAML,
		RunE:              func(cmd *cobra.Command, args []string) error { return s.run(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&s.failures, "fail", nil, "`NODE=OUTCOME,…`: how the attempts of a node end; can be given many times")
	f.StringArrayVar(&s.answers, "answer", nil, "`NODE=ACTION@AFTER`: answer to the next intervention of a node; can be given many times")
	f.TextVar(&s.step, "step-duration", recourse.Duration(0), "virtual `time` that an attempt of a step takes")
	s.resolution.Register(cmd)
	registerSemantics(cmd, &s.semantics)
	_ = cmd.RegisterFlagCompletionFunc("fail", completeNodeValue)
	_ = cmd.RegisterFlagCompletionFunc("answer", completeNodeValue)
	return cmd
}

// completeNodeValue offers the nodes with the = that follows them.
func completeNodeValue(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	nodes, directive := completeNode(cmd, args, typed)
	for i := range nodes {
		nodes[i] += "="
	}
	return nodes, directive | cobra.ShellCompDirectiveNoSpace
}

// simulation is one call of simulate.
type simulation struct {
	format            *cli.Format
	failures, answers []string
	step              recourse.Duration
	semantics         recourse.Semantics
	resolution        cli.Resolution
}

func (s *simulation) run(cmd *cobra.Command, file string) error {
	p := cli.NewPrinter(cmd, s.format)
	opt, err := s.resolution.Require(p, s.semantics)
	if err != nil {
		return err
	}
	plan, structure, err := readPipeline(p, file, cmd.InOrStdin(), opt)
	if err != nil {
		return err
	}
	scenario, err := s.scenario(plan)
	if err != nil {
		return err
	}
	result, err := simulate.Run(plan, structure, scenario)
	for _, note := range result.Notes {
		p.Note("%s", note)
	}
	return errors.Join(printResult(p, result), err)
}

// readPipeline reads a pipeline with its structure. Errors in it are told; it is nil with an error only where nothing can be read.
func readPipeline(p *cli.Printer, file string, stdin io.Reader, opt pipeline.Options) (*decide.Plan, *pipeline.Structure, error) {
	content, err := cli.Read(file, stdin, pipeline.MaxSize)
	if err != nil {
		return nil, nil, cli.Usagef("%w", err)
	}
	plan, structure, findings := pipeline.LoadStructure(file, content, opt)
	count := 0
	for _, d := range findings {
		if d.Severity == pipeline.SeverityError {
			p.Note("%s", d)
			count++
		}
	}
	if plan == nil {
		return nil, nil, cli.Failed()
	}
	if count > 0 {
		p.Note("%s has %s; simulated by what can be read of it", file, cli.Count(count, "error"))
	}
	return plan, structure, nil
}

func (s *simulation) scenario(plan *decide.Plan) (*simulate.Scenario, error) {
	scenario := &simulate.Scenario{Failures: make(map[recourse.Node][]simulate.Outcome), StepDuration: time.Duration(s.step)}
	for _, text := range s.failures {
		node, value, err := nodeValue(plan, "--fail", text, "OUTCOME,…")
		if err != nil {
			return nil, err
		}
		outcomes, err := simulate.ParseOutcomes(value)
		if err != nil {
			return nil, cli.Usagef("--fail %q: %w", text, err)
		}
		if scenario.Failures[node] != nil {
			return nil, cli.Usagef("--fail: %s is there twice; join its outcomes by commas", node)
		}
		scenario.Failures[node] = outcomes
	}
	for _, text := range s.answers {
		node, value, err := nodeValue(plan, "--answer", text, "ACTION@AFTER")
		if err != nil {
			return nil, err
		}
		name, after, timed := strings.Cut(value, "@")
		a := simulate.Answer{Node: node}
		if a.Action, err = recourse.ParseAction(strings.TrimSpace(name)); err != nil {
			return nil, cli.Usagef("--answer %q: unknown action %q; %s", text, name, cli.DidYouMean(name, recourse.ActionNames()))
		}
		if timed {
			var wait recourse.Duration
			if err := wait.UnmarshalText([]byte(strings.TrimSpace(after))); err != nil {
				return nil, cli.Usagef("--answer %q: %w", text, err)
			}
			a.After = time.Duration(wait)
		}
		scenario.Answers = append(scenario.Answers, a)
	}
	return scenario, nil
}

// nodeValue takes NODE=VALUE apart. An identifier may have a =, a value has none.
func nodeValue(plan *decide.Plan, flag, text, form string) (recourse.Node, string, error) {
	at := strings.LastIndexByte(text, '=')
	if at < 0 {
		return recourse.Node{}, "", cli.Usagef("%s %q: want NODE=%s", flag, text, form)
	}
	node, err := simulate.ParseNode(plan, text[:at])
	var unknown *simulate.UnknownNodeError
	switch {
	case errors.As(err, &unknown):
		err = cli.Usagef("%s: %w; %s", flag, err, cli.DidYouMean(unknown.Path, unknown.Known))
	case err != nil:
		err = cli.Usagef("%s %q: %w", flag, text, err)
	}
	return node, text[at+1:], err
}

func printResult(p *cli.Printer, result *simulate.Result) error {
	if p.Format == cli.JSON {
		return p.JSON(result)
	}
	rows := p.Rows("TIME", "NODE", "WHAT")
	for i := range result.Events {
		e := &result.Events[i]
		rows.Add("t+"+e.At.String(), recourse.Node{Path: e.Node, Section: e.Section}.String(), e.Text())
	}
	if err := rows.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(p.Out)
	rows = p.Rows("STAGE", "STATUS", "REASON")
	for _, s := range result.Stages {
		rows.Add(s.Stage, s.Status.String(), s.Reason)
	}
	if err := rows.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.Out, "\nthe pipeline %s after %s\n", outcomeText(result.Outcome), result.Duration)
	return err
}

func outcomeText(s simulate.Status) string {
	switch s {
	case simulate.Ignored:
		return "succeeded, with a failure ignored,"
	case simulate.RolledBack:
		return "was rolled back"
	case simulate.Aborted:
		return "was aborted"
	default:
		return s.String()
	}
}
