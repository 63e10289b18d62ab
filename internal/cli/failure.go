package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
)

// FailureFlags are the flags that say how a node failed, beside which one.
type FailureFlags struct {
	errors   []string
	exitCode int
	failure  recourse.Failure
}

// Register adds the flags to a command.
func (f *FailureFlags) Register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.errors, "errors", nil, "error `types`, joined by commas; none is Unknown")
	flags.IntVar(&f.failure.Attempt, "attempt", 1, "which run of the node in its execution failed, from 1")
	flags.IntVar(&f.exitCode, "exit-code", 0, "exit code of the process")
	flags.StringVar(&f.failure.Message, "message", "", "what went wrong")
	flags.StringVar(&f.failure.Target, "target", "", "host, cluster or service the step worked on")
	flags.TextVar(&f.failure.RetryAfter, "retry-after", recourse.Duration(0), "`duration` that a retry waits at least, up to 1h")
	_ = cmd.RegisterFlagCompletionFunc("errors", completeErrors)
}

// Fill puts the flags that were given into a failure. The error is one of usage.
func (f *FailureFlags) Fill(cmd *cobra.Command, failure *recourse.Failure) error {
	for _, name := range f.errors {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		t, err := recourse.ParseErrorType(name)
		switch {
		case err != nil:
			return Usagef("--errors: unknown error type %q; %s", name, DidYouMean(name, failureTypes()))
		case t == recourse.AllErrors:
			return Usagef("--errors: AllErrors is what a strategy lists, a failure has a type of its own: %s", strings.Join(failureTypes(), ", "))
		}
		failure.Errors = failure.Errors.Add(t)
	}
	if f.failure.Attempt < 1 || f.failure.Attempt > recourse.MaxAttempt {
		return Usagef("--attempt: want 1 to %d, got %d", recourse.MaxAttempt, f.failure.Attempt)
	}
	if cmd.Flags().Changed("exit-code") {
		failure.ExitCode = &f.exitCode
	}
	failure.Attempt, failure.Message, failure.Target = f.failure.Attempt, f.failure.Message, f.failure.Target
	failure.RetryAfter = f.failure.RetryAfter
	return nil
}

// failureTypes are the names of the types that a failure may have.
func failureTypes() []string {
	var names []string
	for _, name := range recourse.ErrorTypeNames() {
		if name != recourse.AllErrors.String() {
			names = append(names, name)
		}
	}
	return names
}

// completeErrors offers the error types that are not in the list yet.
func completeErrors(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndexByte(typed, ',')+1]
	var offers []cobra.Completion
	for _, name := range failureTypes() {
		if !strings.Contains(strings.ToLower(","+before), strings.ToLower(","+name+",")) {
			offers = append(offers, before+name)
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
