package online

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
)

const (
	completeWithin = 2 * time.Second // a shell that waits longer is a shell that hangs
	completeRecent = 500             // records that are looked at for executions
)

// completing connects for a completion, which says nothing and gives up soon.
func (g *Global) completing(cmd *cobra.Command) (*session, context.Context, func(), error) {
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	_ = cli.Fill(cmd.Flags(), g.Getenv) // what is wrong there shows when the command runs
	ctx, cancel := context.WithTimeout(parent, completeWithin)
	s, err := g.dial(ctx, &cli.Printer{Out: io.Discard, Err: io.Discard})
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return s, ctx, func() { s.close(); cancel() }, nil
}

// completeExecutions offers the executions of the newest records.
func (g *Global) completeExecutions(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const done = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, done
	}
	s, ctx, stop, err := g.completing(cmd)
	if err != nil {
		return nil, done
	}
	defer stop()
	t, err := s.follow(ctx, recourse.StreamJournal, prefix(recourse.Ref{})+".>", since{last: completeRecent}, true)
	if err != nil {
		return nil, done
	}
	defer t.stop()
	var executions []cobra.Completion
	for range t.stored {
		msg, _, err := t.next(ctx)
		if err != nil {
			break
		}
		subject, err := recourse.ParseSubject(msg.Subject())
		if err != nil {
			continue
		}
		token := subject.Prefix[strings.LastIndexByte(subject.Prefix, '.')+1:]
		// An id that is encoded is not offered: it would have to be decoded, and a shortened one cannot be.
		if !strings.Contains(token, "=") && !slices.Contains(executions, token) {
			executions = append(executions, token)
		}
	}
	return executions, done
}

// completeAnswer offers the open interventions, then the actions that the named one allows.
func (g *Global) completeAnswer(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const done = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 1 {
		return nil, done
	}
	if cmd.Flags().Changed("match") {
		return recourse.ActionNames(), done
	}
	var waiting []Waiting
	if s, ctx, stop, err := g.completing(cmd); err == nil {
		waiting, _ = s.waiting(ctx, filterOf(cmd), new(match))
		stop()
	}
	if len(args) == 0 {
		var offers []cobra.Completion
		for _, w := range waiting {
			offers = append(offers, cobra.CompletionWithDesc(w.ID, cli.Clean(w.Node+" "+w.Errors.String())))
		}
		return offers, done
	}
	for _, w := range waiting {
		if w.ID == args[0] {
			return strings.Split(w.Allowed.String(), ","), done
		}
	}
	return recourse.ActionNames(), done
}

// filterOf returns the ids that the flags of a command let through.
func filterOf(cmd *cobra.Command) (filter recourse.Ref) {
	for name, id := range map[string]*string{
		"account": &filter.Account, "org": &filter.Org, "project": &filter.Project, "pipeline": &filter.Pipeline,
	} {
		*id, _ = cmd.Flags().GetString(name)
	}
	return filter
}

// completeRetry offers the pending retries that are not named yet.
func (g *Global) completeRetry(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const done = cobra.ShellCompDirectiveNoFileComp
	if cmd.Flags().Changed("match") {
		return nil, done
	}
	s, ctx, stop, err := g.completing(cmd)
	if err != nil {
		return nil, done
	}
	defer stop()
	pending, _ := s.retrying(ctx, filterOf(cmd), new(match))
	var offers []cobra.Completion
	for _, r := range pending {
		if !slices.Contains(args, r.ID) {
			offers = append(offers, cobra.CompletionWithDesc(r.ID, cli.Clean(r.Node+" "+r.Errors.String())))
		}
	}
	return offers, done
}
