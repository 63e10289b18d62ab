package cli

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// Resolution are the flags that say what a pipeline is resolved with: a directory of templates, and files with inputs.
type Resolution struct {
	templates string
	inputs    []string
}

// Register adds the flags to a command.
func (r *Resolution) Register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&r.templates, "templates", "", "put the templates of this `directory` in place of what refers to them")
	flags.StringArrayVar(&r.inputs, "inputs", nil, "fill <+input> from this `file` with an input set, an overlay or a pipeline; the last one wins")
	_ = cmd.MarkFlagDirname("templates")
	_ = cmd.MarkFlagFilename("inputs", "yaml", "yml")
}

// Options reads what the flags name. The error is one of usage: something cannot be read at all. Diagnostics are about what was read.
func (r *Resolution) Options(semantics recourse.Semantics) (pipeline.Options, pipeline.Diagnostics, error) {
	opt := pipeline.Options{Semantics: semantics}
	var findings pipeline.Diagnostics
	if r.templates != "" {
		switch info, err := os.Stat(r.templates); {
		case err != nil:
			return opt, nil, Usagef("--templates: %w", err)
		case !info.IsDir():
			return opt, nil, Usagef("--templates: %s is not a directory", r.templates)
		}
		var found pipeline.Diagnostics
		opt.Templates, found = pipeline.LoadTemplates(r.templates, os.DirFS(r.templates))
		findings = append(findings, found...)
	}
	if len(r.inputs) > 0 {
		var files []pipeline.InputFile
		for _, name := range r.inputs {
			content, err := Read(name, nil, pipeline.MaxSize)
			if err != nil {
				return opt, nil, Usagef("--inputs: %w", err)
			}
			files = append(files, pipeline.InputFile{Name: name, YAML: content})
		}
		var found pipeline.Diagnostics
		opt.Inputs, found = pipeline.LoadInputs(files)
		findings = append(findings, found...)
	}
	return opt, findings, nil
}

// Require is Options for a command that goes on only where there are no errors. What was found is told.
func (r *Resolution) Require(p *Printer, semantics recourse.Semantics) (pipeline.Options, error) {
	opt, findings, err := r.Options(semantics)
	for _, d := range findings {
		p.Note("%s", d)
	}
	if err == nil && findings.HasErrors() {
		err = Failed()
	}
	return opt, err
}
