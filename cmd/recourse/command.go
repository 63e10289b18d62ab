package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/cli/measure"
	"github.com/recourse-dev/recourse/internal/cli/offline"
	"github.com/recourse-dev/recourse/internal/cli/online"
)

// command returns the command line.
func command(getenv func(string) string) *cobra.Command {
	format := new(cli.Format)
	global := &online.Global{Format: format, Getenv: getenv}
	root := &cobra.Command{
		Use:   "recourse",
		Short: "Check, explain, register, watch and answer",
		Long: `Recourse is the tool beside the worker. It checks the failure handling of pipelines and explains decisions offline; with a server
it registers pipelines, reports failures, shows what happens and answers interventions.

The connection follows the flags, variables and contexts of the nats command (NATS_URL, NATS_CONTEXT, NATS_CREDS, …). Without any it
is the server of this machine, where a worker without a server of its own listens.

The global flags and --account, --org, --project, --pipeline, --execution, --as and --semantics can also be set by an environment
variable, RECOURSE_ and the name in capitals (RECOURSE_ACCOUNT). Flags win over the environment.

` + cli.ExitHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			var names []string
			for _, c := range cmd.Commands() {
				if c.IsAvailableCommand() {
					names = append(names, c.Name())
				}
			}
			return fmt.Errorf("unknown command %q; %s", args[0], cli.DidYouMean(args[0], names))
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return usage(cmd, cli.Fill(cmd.Flags(), getenv))
		},
	}
	root.SetFlagErrorFunc(usage)
	flags := root.PersistentFlags()
	flags.TextVarP(format, "output", "o", cli.Table, "`format`: table or json")
	cli.FromEnvironment(flags, "output")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cli.FormatNames, cobra.ShellCompDirectiveNoFileComp))
	global.Register(flags)
	root.AddCommand(
		offline.Validate(format), offline.Lint(format), offline.Explain(format), offline.Simulate(format), offline.Test(format),
		online.Apply(global), online.Pipelines(global), online.Report(global), online.Watch(global), online.Interventions(global),
		online.Answer(global), online.Retries(global), online.Rejected(global), online.Run(global), measure.Bench(global),
		online.History(global), online.Incidents(global), online.Verify(global), online.Doctor(global),
		versionCommand(format),
	)
	for _, cmd := range append(root.Commands(), root) {
		pointToHelp(cmd)
	}
	return root
}

// pointToHelp makes every error of usage say where the help is.
func pointToHelp(cmd *cobra.Command) {
	if cmd.HasParent() {
		for _, beneath := range cmd.Commands() {
			pointToHelp(beneath)
		}
	}
	args, run := cmd.Args, cmd.RunE
	cmd.Args = func(cmd *cobra.Command, given []string) error { return usage(cmd, args(cmd, given)) }
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		err := run(cmd, given)
		if cli.Code(err) == cli.ExitUsage {
			return usage(cmd, err)
		}
		return err
	}
}

// usage is an error of usage of a command.
func usage(cmd *cobra.Command, err error) error {
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return err
	}
	return cli.Usagef("%w; see %s --help", err, cmd.CommandPath())
}
