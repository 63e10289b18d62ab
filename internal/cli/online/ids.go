package online

import (
	"cmp"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
)

// defaultID is the account, org and project of whoever has none.
const defaultID = "default"

// ids are the flags that name a pipeline or an execution, or filter by them.
type ids struct{ recourse.Ref }

// register adds the flags of a command that names an execution.
func (i *ids) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&i.Account, "account", defaultID, "account")
	f.StringVar(&i.Org, "org", defaultID, "organisation")
	f.StringVar(&i.Project, "project", defaultID, "project")
	f.StringVar(&i.Pipeline, "pipeline", "", "pipeline (required)")
	f.StringVar(&i.Execution, "execution", "", "execution (required)")
	cli.FromEnvironment(f, "account", "org", "project", "pipeline", "execution")
}

// registerFilter adds the flags of a command that looks at many.
func (i *ids) registerFilter(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&i.Account, "account", "", "only this account")
	f.StringVar(&i.Org, "org", "", "only this organisation")
	f.StringVar(&i.Project, "project", "", "only this project")
	f.StringVar(&i.Pipeline, "pipeline", "", "only this pipeline")
	cli.FromEnvironment(f, "account", "org", "project", "pipeline")
}

// execution returns the execution that is named.
func (i *ids) execution() (recourse.Ref, error) {
	switch {
	case i.Pipeline == "":
		return i.Ref, cli.Usagef("--pipeline is required")
	case i.Execution == "":
		return i.Ref, cli.Usagef("--execution is required")
	}
	if err := i.Ref.Validate(); err != nil {
		return i.Ref, cli.Usagef("%w", err)
	}
	return i.Ref, nil
}

// named returns the filter for an execution that is named by its id alone, or in full as account/org/project/pipeline/execution.
func (i *ids) named(name string) (recourse.Ref, error) {
	ref := i.Ref
	if parts := strings.Split(name, "/"); len(parts) == 5 {
		ref = recourse.Ref{Account: parts[0], Org: parts[1], Project: parts[2], Pipeline: parts[3], Execution: parts[4]}
		if err := ref.Validate(); err != nil {
			return ref, cli.Usagef("%s: %w", name, err)
		}
		return ref, nil
	}
	ref.Execution = name
	if err := recourse.ValidateID(name); err != nil {
		return ref, cli.Usagef("execution: %w", err)
	}
	return ref, nil
}

// prefix returns the subject prefix of the executions that a filter lets through; an empty id stands for all.
func prefix(filter recourse.Ref) string {
	prefix := "recourse"
	for _, id := range []string{filter.Account, filter.Org, filter.Project, filter.Pipeline, filter.Execution} {
		if id == "" {
			prefix += ".*"
		} else {
			prefix += "." + recourse.Token(id)
		}
	}
	return prefix
}

// complete reports whether a filter names one execution.
func complete(filter recourse.Ref) bool { return filter.Validate() == nil }

// registerAs adds the flag that says in whose name something is published.
func registerAs(cmd *cobra.Command, g *Global) *string {
	as := cmd.Flags().String("as", "", "in whose name, as the broker's permissions have it (default $USER)")
	cli.FromEnvironment(cmd.Flags(), "as")
	cmd.PreRun = func(*cobra.Command, []string) {
		if *as == "" {
			*as = g.Getenv("USER")
		}
		if *as == "" {
			if u, err := user.Current(); err == nil {
				*as = u.Username
			}
		}
		*as = cmp.Or(*as, "recourse")
	}
	return as
}
