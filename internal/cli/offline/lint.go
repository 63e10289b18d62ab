package offline

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// Lint returns the command that is validate with a say in which rules count.
func Lint(format *cli.Format) *cobra.Command {
	c := &check{format: findingsFormat{Format: format}}
	rules := false
	cmd := &cobra.Command{
		Use:   "lint FILE…",
		Short: "Check pipelines by rules that can be listed and disabled",
		Long: `Lint finds what validate finds. --rules lists the rules, --disable leaves one out. -o sarif writes SARIF 2.1.0, which tools for
code review read; paths in it are relative to the working directory. - is standard input; a directory stands for all *.yaml and *.yml
files in and below it.

The exit code is 1 where a finding is an error, with --strict also where one is a warning, and 2 where a file cannot be read.`,
		Example: `  recourse lint --rules
  recourse lint --disable many-retries,retry-on-auth .harness
  recourse lint -o sarif .harness > recourse.sarif`,
		Args: func(cmd *cobra.Command, args []string) error {
			if rules {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.MinimumNArgs(1)(cmd, args)
		},
		ValidArgsFunction: completeYAML,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, code := range c.disabled {
				if _, known := pipeline.RuleOf(code); !known {
					return cli.Usagef("--disable: unknown rule %q; %s", code, cli.DidYouMean(code, ruleCodes()))
				}
			}
			if rules {
				return c.printRules(cmd)
			}
			return c.run(cmd, args)
		},
	}
	cmd.Flags().BoolVar(&rules, "rules", false, "list the rules, and look at no file")
	cmd.Flags().StringSliceVar(&c.disabled, "disable", nil, "leave out what the rules with these `codes` find")
	_ = cmd.RegisterFlagCompletionFunc("disable", func(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		before := typed[:strings.LastIndexByte(typed, ',')+1]
		var offers []cobra.Completion
		for _, code := range ruleCodes() {
			offers = append(offers, before+code)
		}
		return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	c.register(cmd)
	return cmd
}

func ruleCodes() []string {
	var codes []string
	for _, rule := range pipeline.Rules() {
		codes = append(codes, rule.Code)
	}
	return codes
}

// printRules prints the rules that are not disabled.
func (c *check) printRules(cmd *cobra.Command) error {
	p := cli.NewPrinter(cmd, c.format.Format)
	switch {
	case c.format.sarif:
		return p.JSON(sarif(nil, c.disabled, nil))
	case p.Format == cli.JSON:
		return p.JSON(c.enabled())
	}
	rows := p.Rows("CODE", "SEVERITY", "WHAT IS FOUND")
	for _, rule := range c.enabled() {
		severity := rule.Severity.String()
		if rule.Strict {
			severity += " (engine: error)"
		}
		rows.Add(rule.Code, severity, rule.Summary)
		if rule.Help != "" {
			rows.Beneath(rule.Help)
		}
	}
	return rows.Flush()
}

func (c *check) enabled() []pipeline.Rule { return withoutRules(pipeline.Rules(), c.disabled) }
