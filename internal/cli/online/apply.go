package online

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// The outcomes of applying a file.
const (
	statusRegistered = "registered"
	statusUnchanged  = "unchanged"
	statusRefused    = "refused"
)

// Applied is what became of one file.
type Applied struct {
	File string `json:"file"`
	// Status is registered, unchanged or refused.
	Status string `json:"status"`
	// Why it is refused.
	Why string `json:"why,omitzero"`
	// Key, Revision and Digest are those in the bucket; Digest is 16 hexadecimal digits of the YAML's SHA-256.
	Key      string `json:"key,omitzero"`
	Account  string `json:"account,omitzero"`
	Org      string `json:"org,omitzero"`
	Project  string `json:"project,omitzero"`
	Pipeline string `json:"pipeline,omitzero"`
	Revision uint64 `json:"revision,omitzero"`
	Digest   string `json:"digest,omitzero"`

	ref     recourse.Ref
	content []byte
}

// Apply returns the command that registers pipelines.
func Apply(g *Global) *cobra.Command {
	a := &apply{Global: g}
	cmd := &cobra.Command{
		Use:   "apply FILE…",
		Short: "Register pipelines, so that workers decide by them",
		Long: `Apply stores pipelines in the bucket the workers read. A file with errors is refused and nothing of it is registered, the others
are; the exit code is 1 then. A pipeline that is registered with the same content already stays as it is. - is standard input; a
directory stands for all *.yaml and *.yml files in and below it.

With --templates and --inputs the pipeline is registered as they resolve it, so that what is decided by is what was checked. Its text
is written anew then, always in the same way.

Executions that have begun keep the revision of their first decision.

Org and project are those of the YAML (orgIdentifier, projectIdentifier), unless the flags name others; where neither says, they are
those of RECOURSE_ORG and RECOURSE_PROJECT, else "default".`,
		Example: `  recourse apply deploy.yaml
  recourse apply --account acme .harness`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return []cobra.Completion{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: a.run,
	}
	f := cmd.Flags()
	f.StringVar(&a.account, "account", defaultID, "account")
	cli.FromEnvironment(f, "account")
	f.StringVar(&a.org, "org", "", "organisation, instead of that of the YAML")
	f.StringVar(&a.project, "project", "", "project, instead of that of the YAML")
	f.TextVar(&a.semantics, "semantics", a.semantics, "documented or engine, where they disagree: as the workers have it")
	cli.FromEnvironment(f, "semantics")
	a.resolution.Register(cmd)
	return cmd
}

type apply struct {
	*Global
	account, org, project string
	semantics             recourse.Semantics
	resolution            cli.Resolution
	options               pipeline.Options // what a pipeline is read with
}

func (a *apply) run(cmd *cobra.Command, args []string) error {
	files, unreadable := cli.Files(args)
	p := cli.NewPrinter(cmd, a.Format)
	var err error
	if a.options, err = a.resolution.Require(p, a.semantics); err != nil {
		return err
	}
	results := make([]Applied, 0, len(files))
	taken := make(map[string]string)
	ready := 0
	for _, file := range files {
		content, err := cli.Read(file, cmd.InOrStdin(), client.MaxPipelineSize)
		if err != nil {
			unreadable = errors.Join(unreadable, err)
			continue
		}
		result := a.prepare(p, file, content)
		if other, twice := taken[result.Key]; twice && result.Status == "" {
			result.refuse("the same pipeline as " + other)
		}
		if result.Status == "" {
			taken[result.Key] = file
			ready++
		}
		results = append(results, result)
	}
	if ready > 0 {
		if err := a.register(cmd, results); err != nil {
			return err
		}
	}
	if err := printApplied(p, results); err != nil {
		return err
	}
	switch {
	case unreadable != nil:
		return cli.Usagef("%w", unreadable)
	case ready < len(results):
		return cli.Failed()
	}
	return nil
}

// prepare finds out where a file belongs. It has a status only where it is refused.
func (a *apply) prepare(p *cli.Printer, file string, content []byte) Applied {
	result := Applied{File: file, content: content}
	plan, findings := pipeline.Load(file, content, a.options)
	resolved, resolving := pipeline.Resolve(file, content, a.options)
	if resolved == nil && !findings.HasErrors() { // too long: Load has no text that could be
		findings = append(findings, resolving...)
	}
	wrong := 0
	for _, d := range findings {
		if d.Severity == pipeline.SeverityError {
			p.Note("%s", d)
			wrong++
		}
	}
	if warnings := len(findings) - wrong; warnings > 0 {
		p.Note("%s has %s; `recourse validate` shows them", file, cli.Count(warnings, "warning"))
	}
	if wrong > 0 || plan == nil {
		return *result.refuse(cli.Count(wrong, "error"))
	}
	content, result.content = resolved, resolved
	ids, err := identify(content)
	if err != nil {
		return *result.refuse(err.Error())
	}
	result.ref = recourse.Ref{
		Account: a.account,
		Org:     cmp.Or(a.org, ids.Org, a.Getenv(cli.Variable("org")), defaultID),
		Project: cmp.Or(a.project, ids.Project, a.Getenv(cli.Variable("project")), defaultID),
		// The plan's identifier is the YAML's, or what stands for it.
		Pipeline:  plan.Pipeline,
		Execution: "-", // of no matter, but required
	}
	for _, id := range []struct{ flag, value string }{{"org", result.ref.Org}, {"project", result.ref.Project}} {
		if strings.Contains(id.value, "<+") {
			return *result.refuse(fmt.Sprintf("its %sIdentifier %s is not resolved; name it with --%s", id.flag, id.value, id.flag))
		}
	}
	if err := result.ref.Validate(); err != nil {
		return *result.refuse(err.Error())
	}
	sum := sha256.Sum256(content)
	result.Digest = hex.EncodeToString(sum[:8])
	result.Key = result.ref.PipelineKey()
	result.Account, result.Org, result.Project, result.Pipeline = result.ref.Account, result.ref.Org, result.ref.Project, result.ref.Pipeline
	return result
}

func (r *Applied) refuse(why string) *Applied {
	r.Status, r.Why = statusRefused, why
	return r
}

// identifiers are those that stand in a pipeline.
type identifiers struct {
	Org     string `yaml:"orgIdentifier"`
	Project string `yaml:"projectIdentifier"`
}

// identify reads the identifiers of a pipeline. Whatever is not a pipeline is an error.
func identify(content []byte) (identifiers, error) {
	var file struct {
		Pipeline *identifiers `yaml:"pipeline"`
		Template any          `yaml:"template"`
	}
	switch err := yaml.Unmarshal(content, &file); {
	case err != nil:
		return identifiers{}, err
	case file.Pipeline == nil && file.Template != nil:
		return identifiers{}, errors.New("a template, not a pipeline; register the pipelines that use it")
	case file.Pipeline == nil:
		return identifiers{}, errors.New("there is no pipeline in it")
	}
	return *file.Pipeline, nil
}

// register stores what is not refused and not stored already.
func (a *apply) register(cmd *cobra.Command, results []Applied) error {
	s, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer s.close()
	for i := range results {
		r := &results[i]
		if r.Status != "" {
			continue
		}
		stored, revision, err := client.GetPipeline(cmd.Context(), s.js, r.ref)
		switch {
		case err == nil && string(stored) == string(r.content):
			r.Status, r.Revision = statusUnchanged, revision
			continue
		case err != nil && !errors.Is(err, client.ErrPipelineNotFound):
			return fmt.Errorf("%s: %w", r.File, err)
		}
		if r.Revision, err = client.PutPipeline(cmd.Context(), s.js, r.ref, r.content); err != nil {
			return fmt.Errorf("%s: %w", r.File, err)
		}
		r.Status = statusRegistered
	}
	return nil
}

func printApplied(p *cli.Printer, results []Applied) error {
	if p.Format == cli.JSON {
		return p.JSON(results)
	}
	rows := p.Rows("FILE", "STATUS", "KEY", "REVISION", "WHY")
	for _, r := range results {
		revision := ""
		if r.Revision > 0 {
			revision = fmt.Sprint(r.Revision)
		}
		rows.Add(r.File, r.Status, r.Key, revision, r.Why)
	}
	return rows.Flush()
}
