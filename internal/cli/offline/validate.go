package offline

import (
	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
)

// Validate returns the command that says what is wrong or doubtful about the failure handling of pipelines.
func Validate(format *cli.Format) *cobra.Command {
	c := &check{format: findingsFormat{Format: format}}
	cmd := &cobra.Command{
		Use:   "validate FILE…",
		Short: "Say what is wrong or doubtful about the failure handling of pipelines",
		Long: `Validate reads pipelines and prints every finding about their failure handling with its place: what cannot be taken as
written is an error, what somebody should know is a warning. - is standard input; a directory stands for all *.yaml and *.yml
files in and below it. docs/lint.md lists what can be found.

With --templates and --inputs the pipeline is looked at as it runs; findings in a template or an input set have their place there.

The exit code is 1 where a finding is an error, with --strict also where one is a warning, and 2 where a file cannot be read;
the other files are looked at all the same.`,
		Example: `  recourse validate deploy.yaml
  recourse validate --strict .harness
  cat deploy.yaml | recourse validate -o json -`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeYAML,
		RunE:              c.run,
	}
	c.register(cmd)
	return cmd
}

func registerSemantics(cmd *cobra.Command, semantics *recourse.Semantics) {
	cmd.Flags().TextVar(semantics, "semantics", *semantics, "documented or engine, where they disagree")
	cli.FromEnvironment(cmd.Flags(), "semantics")
	_ = cmd.RegisterFlagCompletionFunc("semantics", cobra.FixedCompletions([]string{"documented", "engine"}, cobra.ShellCompDirectiveNoFileComp))
}
