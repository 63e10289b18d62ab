package offline

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// completeYAML offers the YAML files.
func completeYAML(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return []cobra.Completion{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

// completeNode offers the nodes of the pipeline in the file that stands on the command line already.
func completeNode(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 || args[0] == cli.Stdin {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	content, err := cli.Read(args[0], nil, pipeline.MaxSize)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	plan, _ := pipeline.Load(args[0], content, pipeline.Options{})
	if plan == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var paths []cobra.Completion
	for _, n := range plan.Nodes() {
		if !slices.Contains(paths, n.Path) {
			paths = append(paths, n.Path)
		}
	}
	return paths, cobra.ShellCompDirectiveNoFileComp
}
