package online

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/run"
	"github.com/recourse-dev/recourse/internal/simulate"
)

// Run returns the command that runs a pipeline.
func Run(g *Global) *cobra.Command {
	r := &runner{apply: apply{Global: g}}
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Run a pipeline of scripts, and do what is decided about its failures",
		Long: `Run is the reference orchestrator: it runs the steps of the types ShellScript and Run as processes of this machine, reports those
that fail and carries out what the workers decide, until the pipeline has ended. docs/orchestrators.md says what that takes.

Without --server or --context (or NATS_URL, NATS_CONTEXT), a server and a worker run in this process; a context chosen by
"nats context select" does not count here. The pipeline is registered, as --templates and --inputs resolve it; one with errors is not run.

Steps of other types have no effect on this machine: they are listed, and nothing is run, unless --stub gives them results. A stub for a
node or a type counts for scripts too, one for * for what cannot be run. Attempts beyond its outcomes succeed:

  --stub prod/canary/rollout=Timeout,ok     the first attempt times out, the second succeeds
  --stub Type:K8sRollingDeploy=ok           all steps of the type
  --stub '*=ok'                             all that cannot be run here

A failed process counts as Unknown with its exit code; as Timeout after the step's timeout; as ConfigurationFailure where there is no such
command (127) or it cannot be executed (126); as Connectivity, Timeout, Authentication, Authorization or ResourceLimitsFailure where the
end of its output says so, or the exit code of curl, wget, ssh or timeout. Steps of the type Run end with the first command that fails.

The condition of a when is evaluated where all its expressions are known: variables, fields of the YAML, matrix, repeat and iteration.
--var with a dot in the name gives the value of any other expression: --var trigger.branch=main.

With --data-dir, journal, logs and streams are kept there, and a run that was killed goes on with the same command line and --resume. What
was running then counts as DelegateRestart, unless it went on and succeeded. An interrupt aborts the execution.`,
		Example: `  recourse run deploy.yaml --stub '*=ok'
  recourse run deploy.yaml --var version=1.4 --data-dir ./runs --execution ex42
  recourse run deploy.yaml --var version=1.4 --data-dir ./runs --execution ex42 --resume
  recourse run deploy.yaml --server nats://nats:4222 -o json

Exit codes of run:
  0    succeeded; failures that were ignored count as that
  1    failed, rolled back, aborted by a decision, or not run
  2    a command line that cannot be, or a file that cannot be read
  130  interrupted, and so aborted`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return []cobra.Completion{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	r.as = registerAs(cmd, g)
	f := cmd.Flags()
	f.StringVar(&r.account, "account", defaultID, "account")
	f.StringVar(&r.org, "org", "", "organisation, instead of that of the YAML")
	f.StringVar(&r.project, "project", "", "project, instead of that of the YAML")
	f.StringVar(&r.execution, "execution", "", "execution (default a new one)")
	f.TextVar(&r.semantics, "semantics", r.semantics, "documented or engine, where they disagree: as the workers have it")
	f.StringArrayVar(&r.vars, "var", nil, "`NAME=VALUE` of a variable of the pipeline or its stages; can be given many times")
	f.StringArrayVar(&r.stubs, "stub", nil, "`WHAT=OUTCOME,…` in place of running it; can be given many times")
	f.StringVar(&r.dir, "data-dir", "", "`directory` that keeps journal, logs and streams (default one that is removed)")
	f.StringVar(&r.listen, "listen", "127.0.0.1:0", "server of this process: host:port; port 0 takes a free one")
	f.BoolVar(&r.resume, "resume", false, "go on with an execution that was killed")
	cli.FromEnvironment(f, "account", "execution", "semantics", "data-dir")
	r.resolution.Register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return r.run(cmd, args[0]) }
	return cmd
}

// runner is one call of run.
type runner struct {
	apply
	as          *string
	execution   string
	vars, stubs []string
	dir, listen string
	resume      bool
	widest      int // node so far
}

func (r *runner) run(cmd *cobra.Command, file string) error {
	p := cli.NewPrinter(cmd, r.Format)
	if r.resume && (r.dir == "" || r.execution == "") {
		return cli.Usagef("--resume: name the run with --data-dir and --execution")
	}
	content, err := cli.Read(file, cmd.InOrStdin(), client.MaxPipelineSize)
	if err != nil {
		return cli.Usagef("%w", err)
	}
	if r.options, err = r.resolution.Require(p, r.semantics); err != nil {
		return err
	}
	prepared := r.prepare(p, file, content)
	if prepared.Status == statusRefused {
		return fmt.Errorf("%s is refused: %s", file, prepared.Why)
	}
	cfg := run.Config{
		Ref: prepared.ref, File: file, YAML: prepared.content, Vars: make(map[string]string), Stubs: r.stubs, Semantics: r.semantics, Connection: r.connection.FromEnv(r.Getenv),
		Listen: r.listen, Dir: r.dir, Resume: r.resume, Principal: *r.as,
		Tell: func(e run.Event) { r.tell(p, &e) },
	}
	if cfg.Execution = r.execution; cfg.Execution == "" {
		cfg.Execution = newExecution(time.Now())
	}
	for _, text := range r.vars {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return cli.Usagef("--var %q: want NAME=VALUE", text)
		}
		cfg.Vars[name] = value
	}
	result, err := run.Run(cmd.Context(), cfg)
	var wrong *run.ConfigError
	switch {
	case errors.As(err, &wrong):
		return cli.Usagef("%w", err)
	case err != nil:
		return err
	}
	if p.Format == cli.Table {
		if err := printStages(p, result); err != nil {
			return err
		}
	}
	switch {
	case result.Outcome == simulate.Succeeded, result.Outcome == simulate.Ignored:
		return nil
	case result.Interrupted:
		return &cli.Error{Code: cli.ExitInterrupted}
	}
	return cli.Failed()
}

// newExecution names an execution by when it began, and by chance.
func newExecution(now time.Time) string {
	var chance [3]byte
	_, _ = rand.Read(chance[:]) // it never fails
	return now.UTC().Format("20060102-150405-") + hex.EncodeToString(chance[:])
}

// tell writes what happens: for people the time since the beginning, the node and what, and the lines of its output behind a bar.
func (r *runner) tell(p *cli.Printer, e *run.Event) {
	if p.Format == cli.JSON {
		if err := p.JSONLine(e); err != nil {
			p.Note("%v", err)
		}
		return
	}
	name := recourse.Node{Path: e.Node, Section: e.Section}.String()
	if e.Node == "" {
		name = ""
	}
	r.widest = max(r.widest, utf8.RuneCountInString(name))
	name += strings.Repeat(" ", r.widest-utf8.RuneCountInString(name))
	if e.Line != nil {
		fmt.Fprintf(p.Out, "%10s  %s  | %s\n", "", cli.Clean(name), cli.Clean(*e.Line))
		return
	}
	line := fmt.Sprintf("%9.3fs  %s  %s", time.Duration(e.Since).Seconds(), cli.Clean(name), cli.Clean(e.Text()))
	fmt.Fprintln(p.Out, strings.TrimRight(line, " "))
	if e.Answer != "" {
		fmt.Fprintf(p.Out, "%10s  %s\n", "", e.Answer)
	}
}

func printStages(p *cli.Printer, result *run.Result) error {
	fmt.Fprintln(p.Out)
	rows := p.Rows("STAGE", "OUTCOME", "WHY")
	for _, s := range result.Stages {
		rows.Add(s.Stage, s.Status.String(), s.Reason)
	}
	rows.Add("(pipeline)", result.Outcome.String(), result.Why)
	return rows.Flush()
}
