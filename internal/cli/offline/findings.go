package offline

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// check is one call of validate or lint.
type check struct {
	format     findingsFormat
	resolution cli.Resolution
	semantics  recourse.Semantics
	strict     bool
	disabled   []string // codes
}

// register adds the flags of both commands.
func (c *check) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.TextVarP(&c.format, "output", "o", c.format, "`format`: table, json or sarif")
	cli.FromEnvironment(flags, "output")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(append(slices.Clone(cli.FormatNames), sarifName), cobra.ShellCompDirectiveNoFileComp))
	flags.BoolVar(&c.strict, "strict", false, "count warnings as errors")
	c.resolution.Register(cmd)
	registerSemantics(cmd, &c.semantics)
}

// findingsFormat is a format of findings: one of all commands, or SARIF.
type findingsFormat struct {
	*cli.Format
	sarif bool
}

const sarifName = "sarif"

// MarshalText writes the name.
func (f findingsFormat) MarshalText() ([]byte, error) {
	if f.sarif {
		return []byte(sarifName), nil
	}
	return f.Format.MarshalText()
}

// UnmarshalText reads a name.
func (f *findingsFormat) UnmarshalText(text []byte) error {
	if f.sarif = string(text) == sarifName; f.sarif {
		return nil
	}
	if err := f.Format.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w, %s", err, sarifName)
	}
	return nil
}

// run looks at files and prints what is found.
func (c *check) run(cmd *cobra.Command, args []string) error {
	p := cli.NewPrinter(cmd, c.format.Format)
	opt, findings, err := c.resolution.Options(c.semantics)
	if err != nil {
		return err
	}
	files, unreadable := cli.Files(args)
	read := 0
	for _, file := range files {
		content, err := cli.Read(file, cmd.InOrStdin(), pipeline.MaxSize)
		if err != nil {
			unreadable = errors.Join(unreadable, err)
			continue
		}
		read++
		_, found := pipeline.Load(file, content, opt)
		findings = append(findings, found...)
	}
	findings = c.tidy(findings)
	if c.format.sarif {
		err = p.JSON(sarif(findings, c.disabled, unreadable))
	} else {
		err = printFindings(p, findings)
	}
	if err != nil {
		return err
	}
	if !c.format.sarif && p.Format == cli.Table && read > 0 {
		p.Note("%s: %s", cli.Count(read, "file"), count(findings))
	}
	switch {
	case unreadable != nil:
		return cli.Usagef("%w", unreadable)
	case findings.HasErrors() || c.strict && len(findings) > 0:
		return cli.Failed()
	}
	return nil
}

// tidy leaves out what is disabled, and what was found before: a template that two pipelines use is looked at twice.
func (c *check) tidy(findings pipeline.Diagnostics) pipeline.Diagnostics {
	type place struct {
		file          string
		line, column  int
		code, message string
		path          string
	}
	seen := make(map[place]bool)
	kept := pipeline.Diagnostics{}
	for _, d := range findings {
		at := place{d.File, d.Line, d.Column, d.Code, d.Message, d.Path}
		if !seen[at] && !slices.Contains(c.disabled, d.Code) {
			kept = append(kept, d)
		}
		seen[at] = true
	}
	return kept
}

func printFindings(p *cli.Printer, findings pipeline.Diagnostics) error {
	if p.Format == cli.JSON {
		return p.JSON(findings)
	}
	rows := p.Rows()
	for _, d := range findings {
		rows.Add(fmt.Sprintf("%s:%d:%d", d.File, d.Line, d.Column), d.Severity.String(), d.Code, d.Message)
		if d.Path != "" {
			rows.Beneath("at " + d.Path)
		}
		if d.Fix != "" {
			rows.Beneath("fix: " + d.Fix)
		}
	}
	return rows.Flush()
}

// count says how many findings there are of each severity.
func count(findings pipeline.Diagnostics) string {
	errors := 0
	for _, d := range findings {
		if d.Severity == pipeline.SeverityError {
			errors++
		}
	}
	switch warnings := len(findings) - errors; {
	case len(findings) == 0:
		return "nothing to report"
	case warnings == 0:
		return cli.Count(errors, "error")
	case errors == 0:
		return cli.Count(warnings, "warning")
	default:
		return cli.Count(errors, "error") + ", " + cli.Count(warnings, "warning")
	}
}
