package run

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// The types of steps that run as processes.
const (
	typeShellScript = "ShellScript"
	typeRun         = "Run"
)

// node is a value of the YAML; nil is one that is absent, and every method may be called on it.
type node struct{ *yaml.Node }

func wrap(n *yaml.Node) *node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil {
		return nil
	}
	return &node{n}
}

// get returns the value of a key; what the mapping says itself beats what it merges.
func (n *node) get(key string) *node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := wrap(n.Content[i]); k.Value == key && k.Tag != "!!merge" {
			return wrap(n.Content[i+1])
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag != "!!merge" {
			continue
		}
		merged := wrap(n.Content[i+1])
		if found := merged.get(key); found != nil {
			return found
		}
		for _, one := range merged.items() {
			if found := one.get(key); found != nil {
				return found
			}
		}
	}
	return nil
}

func (n *node) items() (items []*node) {
	if n != nil && n.Kind == yaml.SequenceNode {
		for _, item := range n.Content {
			items = append(items, wrap(item))
		}
	}
	return items
}

// text returns a scalar as it is written, "" for anything else.
func (n *node) text() string {
	if n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return ""
	}
	return n.Value
}

// keys returns the keys of a mapping in their order, merged ones left out.
func (n *node) keys() (keys []string) {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag != "!!merge" {
			keys = append(keys, wrap(n.Content[i]).Value)
		}
	}
	return keys
}

// program is a pipeline with what its steps do: the structure says in which order, the YAML at the place of each block what.
type program struct {
	ref       recourse.Ref
	structure *pipeline.Structure
	root      *node
	text      string
	file      string
	at        map[[2]int]*node // mappings by line and column where they begin
	vars      map[string]string
	stubs     stubs
}

func newProgram(ref recourse.Ref, file string, yamlText []byte, structure *pipeline.Structure, vars map[string]string, stubs stubs) (*program, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(yamlText, &document); err != nil {
		return nil, err
	}
	p := &program{ref: ref, structure: structure, text: string(yamlText), file: file, at: make(map[[2]int]*node), vars: vars, stubs: stubs}
	p.index(&document)
	if len(document.Content) > 0 {
		p.root = wrap(document.Content[0]).get("pipeline")
	}
	return p, nil
}

func (p *program) index(n *yaml.Node) {
	if n.Kind == yaml.MappingNode {
		place := [2]int{n.Line, n.Column}
		if p.at[place] == nil { // else a key that is a mapping itself
			p.at[place] = &node{n}
		}
	}
	for _, child := range n.Content {
		p.index(child)
	}
}

// spec returns the YAML of a block, nil where it stands in another file.
func (p *program) spec(b *pipeline.Block) *node {
	if b.File != p.file {
		return nil
	}
	return p.at[[2]int{b.Line, b.Column}]
}

// Unsupported is a block that cannot be run.
type Unsupported struct {
	recourse.Node
	Type string `json:"type"`
	Line int    `json:"line"`
	Why  string `json:"why"`
}

// UnsupportedError says which blocks of a pipeline cannot be run, and have no stub.
type UnsupportedError struct{ Blocks []Unsupported }

func (e *UnsupportedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of the steps cannot be run here:", len(e.Blocks))
	for _, u := range e.Blocks {
		fmt.Fprintf(&b, "\n  line %d: %s: %s", u.Line, u.Node, u.Why)
	}
	b.WriteString("\ngive them results with --stub, like --stub '*=ok'")
	return b.String()
}

// check returns what cannot be run, and what is left out of what can.
func (p *program) check() (unsupported []Unsupported, notes []string) {
	ignored := make(map[string][]string)
	var order []string
	note := func(what string, n recourse.Node) {
		if ignored[what] == nil {
			order = append(order, what)
		}
		ignored[what] = append(ignored[what], n.String())
	}
	var walk func([]*pipeline.Block)
	walk = func(blocks []*pipeline.Block) {
		for _, b := range blocks {
			if b.Level != recourse.LevelNone {
				at := p.spec(b)
				if why := p.whyNot(b, at); why != "" && !p.stubs.covers(b.Node, at.get("type").text()) {
					unsupported = append(unsupported, Unsupported{b.Node, at.get("type").text(), b.Line, why})
				}
				p.leftOut(b, at, note)
			}
			walk(b.Steps)
			walk(b.Rollback)
		}
	}
	walk(p.structure.Stages)
	for _, d := range p.structure.Notes {
		notes = append(notes, fmt.Sprintf("line %d: %s", d.Line, d.Message))
	}
	for _, what := range order {
		notes = append(notes, what+": "+list(ignored[what]))
	}
	return unsupported, notes
}

// stages returns the stages, also those beside each other, in the order of the YAML.
func (p *program) stages() (all []*node) {
	var walk func([]*pipeline.Block)
	walk = func(blocks []*pipeline.Block) {
		for _, b := range blocks {
			if b.Level == recourse.LevelStage {
				all = append(all, p.spec(b))
			} else {
				walk(b.Steps)
			}
		}
	}
	walk(p.structure.Stages)
	return all
}

// stage returns the stage with an identifier, nil where there is none.
func (p *program) stage(id string) *node {
	for _, at := range p.stages() {
		if at.get("identifier").text() == id {
			return at
		}
	}
	return nil
}

// open returns the variables that have no value, and that the pipeline names.
func (p *program) open() (names []string) {
	for _, at := range append([]*node{p.root}, p.stages()...) {
		for _, v := range at.get("variables").items() {
			name := v.get("name").text()
			_, given := p.vars[name]
			_, has := declared(v)
			if !given && !has && strings.Contains(p.text, "variables."+name+">") && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// list names a few of many.
func list(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// whyNot says why a block cannot be run, "" where it can.
func (p *program) whyNot(b *pipeline.Block, at *node) string {
	kind := at.get("type").text()
	switch {
	case at == nil:
		return "its YAML was not found"
	case at.get("template") != nil:
		return "a template, which is not resolved"
	case b.Level == recourse.LevelStage && kind == "Pipeline":
		return "a stage that runs another pipeline"
	case b.Level != recourse.LevelStep:
		return ""
	}
	spec := at.get("spec")
	switch kind {
	case typeShellScript:
		source := spec.get("source")
		switch {
		case spec.get("onDelegate").text() == "false":
			return "a ShellScript for another host (onDelegate: false)"
		case source.get("type").text() != "" && !strings.EqualFold(source.get("type").text(), "Inline"):
			return "a ShellScript from " + source.get("type").text()
		case source.get("spec").get("script").text() == "":
			return "a ShellScript without spec.source.spec.script"
		case isInput(source.get("spec").get("script")):
			return "a ShellScript whose script is an input, which --inputs fills"
		}
	case typeRun:
		switch {
		case spec.get("command").text() == "":
			return "a Run without spec.command"
		case isInput(spec.get("command")):
			return "a Run whose command is an input, which --inputs fills"
		}
	default:
		return "a step of the type " + kind
	}
	if name := spec.get("shell").text(); shellOf(name) == "" {
		return "a " + kind + " for the shell " + name
	}
	return ""
}

func isInput(n *node) bool { return strings.HasPrefix(strings.TrimSpace(n.text()), "<+input>") }

// shellOf returns the program for a shell's name, "" for one that is not known here. Sh is the default.
func shellOf(name string) string {
	switch strings.ToLower(name) {
	case "bash":
		return "bash"
	case "", "sh":
		return "sh"
	}
	return ""
}

// leftOut notes what a block says that has no effect here.
func (p *program) leftOut(b *pipeline.Block, at *node, note func(what string, n recourse.Node)) {
	spec := at.get("spec")
	if b.Level != recourse.LevelStep {
		if at.get("timeout").text() != "" {
			note("timeouts are enforced on steps only, not on", b.Node)
		}
		return
	}
	for _, key := range [...]string{"outputVariables", "image"} {
		if v := spec.get(key); v.text() != "" || len(v.items()) > 0 {
			note("spec."+key+" has no effect here", b.Node)
		}
	}
	if timeout := at.get("timeout").text(); timeout != "" && !strings.Contains(timeout, "<+") {
		if _, err := recourse.ParseDuration(timeout); err != nil {
			note("no timeout, since it is no duration", b.Node)
		}
	}
}

// iterations returns the values of each iteration of a block that loops: its own expressions, by name. It is nil where they are not
// known; the structure says how many there are.
func (p *program) iterations(b *pipeline.Block) []map[string]string {
	at := p.spec(b).get("strategy")
	all := []map[string]string{{}}
	switch matrix, repeat := at.get("matrix"), at.get("repeat"); {
	case at.get("parallelism") != nil, repeat.get("times") != nil:
		all = make([]map[string]string, b.Loop.Count)
	case repeat != nil:
		all = nil
		for _, item := range repeat.get("items").items() {
			all = append(all, map[string]string{"repeat.item": item.text()})
		}
	case matrix != nil:
		all = combinations(matrix)
	}
	if len(all) != b.Loop.Count {
		return nil
	}
	return all
}

// combinations returns the iterations of a matrix in the order in which the structure counts them: the first axis turns slowest.
func combinations(matrix *node) []map[string]string {
	all := []map[string]string{{}}
	for _, axis := range matrix.keys() {
		switch axis {
		case "maxConcurrency", "exclude", "nodeName", "include":
			continue
		}
		var next []map[string]string
		for _, one := range all {
			for _, item := range matrix.get(axis).items() {
				with := map[string]string{"matrix." + axis: item.text()}
				for key, value := range one {
					with[key] = value
				}
				next = append(next, with)
			}
		}
		all = next
	}
	var kept []map[string]string
	for _, one := range all {
		if !excluded(one, matrix.get("exclude").items()) {
			kept = append(kept, one)
		}
	}
	return kept
}

func excluded(one map[string]string, exclude []*node) bool {
	for _, out := range exclude {
		keys := out.keys()
		hit := len(keys) > 0
		for _, key := range keys {
			hit = hit && one["matrix."+key] == out.get(key).text()
		}
		if hit {
			return true
		}
	}
	return false
}
