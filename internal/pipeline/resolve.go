package pipeline

import (
	"fmt"
	"regexp"
	"strings"
)

// The bounds of what templates may become; those of a file hold as well.
const (
	MaxTemplateDepth = 16         // templates in templates
	maxCheckWork     = 20_000_000 // bytes of values times bytes of what they are checked against
	maxPatterns      = 1000       // regular expressions of inputs
	maxSuggestions   = 20         // references that cannot be found and get a suggestion
)

// Resolve returns the text of a pipeline with its templates and inputs in it, as Load with the same options understands it: the same
// text gives the same plan without them. Where nothing is to be resolved it is the text itself, and so resolving once more changes
// nothing; otherwise comments and the way it was laid out are lost. It is nil where the text is not YAML, or the result would be
// longer than MaxSize.
//
// Diagnostics are about resolving only; Load has these and all others.
func Resolve(file string, yaml []byte, opt Options) ([]byte, Diagnostics) {
	found := &findings{file: file}
	tree := parse(yaml, found)
	if tree == nil || found.sorted().HasErrors() {
		return nil, found.sorted()
	}
	if !opt.resolves() {
		return yaml, found.sorted()
	}
	resolved := newResolver(found, opt).resolve(tree)
	switch {
	case found.sorted().HasErrors():
		return nil, found.sorted()
	case resolved == tree:
		return yaml, found.sorted()
	}
	text := render(resolved)
	if text == nil {
		found.report(SeverityError, "yaml-limits", found.at(1, 1), "", fmt.Sprintf("with its templates written out the pipeline has more than %d bytes", MaxSize), "")
	}
	return text, found.sorted()
}

// resolver makes one tree of a pipeline, its templates and its inputs. Trees do not change: what differs is made anew, and what is
// made anew differs.
type resolver struct {
	*findings
	templates *Templates
	inputs    *Inputs

	org, project string
	lookups      map[reference]*lookup
	missing      int                // references that were not found
	told         map[*template]bool // findings in it were told
	written      int                // values of the templates that were put in so far
	full         bool               // a bound was reported
	failed       bool               // an error was reported
	once         map[finding]bool   // what was reported, in whatever round
	parsed       map[*value]*input  // what is <+input>
	patterns     map[string]*regexp.Regexp
	work         int                  // of checks so far
	given        map[*value]givenness // of the values of the inputs that are laid over the pipeline
}

type lookup struct {
	template *template
	chosen   string
	bad      *lookupError
}

// givenness is what became of a value that was given.
type givenness uint8

const (
	met  givenness = iota + 1 // what it is for is there
	used                      // it was used, or is there already
)

func newResolver(found *findings, opt Options) *resolver {
	return &resolver{
		findings: found, templates: opt.Templates, inputs: opt.Inputs,
		lookups: make(map[reference]*lookup), told: make(map[*template]bool), parsed: make(map[*value]*input),
		patterns: make(map[string]*regexp.Regexp), given: make(map[*value]givenness), once: make(map[finding]bool),
	}
}

func (r *resolver) say(severity Severity, at *cursor, code, message, fix string) {
	r.failed = r.failed || severity == SeverityError
	if key := (finding{at.place(), code, message}); !r.once[key] && len(r.once) < 4*MaxDiagnostics {
		r.once[key] = true
		r.report(severity, code, key.origin, at.path(), message, fix)
	}
}

// resolve returns the tree as it runs: inputs are filled in, templates put in place, inputs of what came with them filled in, and
// what is still open gets its default. A result out of bounds is refused, and the tree returned as it was.
func (r *resolver) resolve(tree *value) *value {
	root := &cursor{value: tree}
	inputs := r.inputsFor(root)
	filled := r.fill(tree, inputs)
	pipeline := (&cursor{value: filled}).get("pipeline")
	if pipeline == nil {
		pipeline = (&cursor{value: filled}).get("template")
	}
	r.org, r.project = pipeline.get("orgIdentifier").scalarText(), pipeline.get("projectIdentifier").scalarText()
	resolved := filled
	// Templates bring what inputs fill in, and inputs bring what uses templates. A round fills in below what the one before it filled
	// in, and inputs are at most MaxDepth high.
	for rounds := 0; r.templates != nil && !r.failed; rounds++ {
		if rounds > MaxDepth {
			r.limit(root, fmt.Sprintf("templates and inputs bring each other more than %d times", MaxDepth))
			break
		}
		round := r.fill(r.root(&cursor{value: resolved}), inputs)
		if round == resolved {
			break
		}
		resolved = round
	}
	if inputs != nil {
		r.reportUnused(inputs)
	}
	resolved = r.defaults(&cursor{value: resolved})
	if resolved.size > MaxValues || resolved.height > MaxDepth {
		r.limit(root, fmt.Sprintf("with its templates written out the pipeline has more than %d values or %d levels", MaxValues, MaxDepth))
		return tree
	}
	return resolved
}

// limit reports that a bound was reached, once.
func (r *resolver) limit(at *cursor, message string) {
	if !r.full {
		r.full = true
		r.say(SeverityError, at, "yaml-limits", message, "")
	}
}

// inputsFor returns the inputs in the place of the document that they are for.
func (r *resolver) inputsFor(root *cursor) *cursor {
	if r.inputs == nil || r.inputs.pipeline == nil || !root.get("pipeline").is(mapping) {
		return nil
	}
	id := root.get("pipeline").get("identifier")
	for _, of := range r.inputs.of {
		if id.scalarText() != "" && !id.unresolved() && !of.unresolved() && of.text != id.text {
			r.say(SeverityWarning, of, "input-set-pipeline", fmt.Sprintf("these inputs are for pipeline %s, and used for %s", quote(of.text), quote(id.text)), "")
		}
		r.given[of.value] = used
	}
	at := r.inputs.pipeline
	document := &value{kind: mapping, origin: at.origin, entries: []entry{{"pipeline", at.origin, at.value}}, size: at.size + 1, height: at.height + 1}
	return &cursor{value: document}
}

// fill lays inputs over a tree: what is <+input> takes the value that stands in the same place, and everything else stays. Items of
// lists are in the same place where their identifiers are the same, or where they have none and are as far from the beginning.
func (r *resolver) fill(base *value, over *cursor) *value {
	if over == nil {
		return base
	}
	r.mark(over, met)
	switch {
	case over.kind == null:
		r.mark(over, used)
	case isInput(base):
		r.mark(over, used)
		return r.fillIn(base, over)
	case base.kind == scalar && over.kind == scalar && base.text == over.text:
		r.mark(over, used)
	case base.kind == mapping && over.kind == mapping:
		out := base
		index := base.index()
		for i := range over.entries {
			at, ok := index[over.entries[i].key]
			if !ok {
				continue
			}
			if child := r.fill(base.entries[at].value, over.entry(i)); child != base.entries[at].value {
				if out == base {
					out = base.shallow()
				}
				out.entries[at].value = child
			}
		}
		return r.remeasured(base, out)
	case base.kind == sequence && over.kind == sequence:
		out := base
		names := identities(base)
		taken := make(map[int]bool) // of two that are given for one item the first counts
		for i := range over.items {
			item := over.item(i)
			at, ok := counterpart(names, item.value)
			if !ok && len(namesOf(item.value)) == 0 && i < len(base.items) && len(namesOf(base.items[i])) == 0 {
				at, ok = i, true
			}
			if !ok || taken[at] {
				continue
			}
			taken[at] = true
			if child := r.fill(base.items[at], item); child != base.items[at] {
				if out == base {
					out = base.shallow()
				}
				out.items[at] = child
			}
		}
		return r.remeasured(base, out)
	}
	return base
}

func (r *resolver) remeasured(base, out *value) *value {
	if out == base {
		return base
	}
	return out.measured()
}

// mark notes what became of a given value. Only more becomes of it.
func (r *resolver) mark(c *cursor, g givenness) { r.given[c.value] = max(r.given[c.value], g) }

// fillIn returns what an input becomes that has a value given.
func (r *resolver) fillIn(base *value, over *cursor) *value {
	if !isInput(over.value) {
		r.check(base, over)
		return over.value
	}
	// It is handed on: to be filled further out, which was tried before.
	handed := r.input(over.value)
	switch {
	case handed.hasDefault && !handed.late:
		text := over.value.defaulted(handed)
		if text.text == base.text {
			return base // a default that is an input itself was filled in before
		}
		r.check(over.value, &cursor{value: text, up: over.up, key: over.key, index: over.index})
		r.check(base, &cursor{value: text, up: over.up, key: over.key, index: over.index})
		return text
	case r.input(base).bare && !handed.bare:
		return over.value
	}
	return base
}

// input returns what a value says that is an input.
func (r *resolver) input(v *value) *input {
	in, known := r.parsed[v]
	if !known {
		parsed := parseInput(v.text)
		in = &parsed
		r.parsed[v] = in
	}
	return in
}

// defaulted is the value of an input for which nothing is given.
func (v *value) defaulted(in *input) *value {
	return &value{kind: scalar, text: in.defaultText, quoted: isNull(in.defaultText), offset: -1, origin: v.origin, size: 1, height: 1}
}

// defaults gives what is still an input its default, where it has one.
func (r *resolver) defaults(at *cursor) *value {
	v := at.value
	switch v.kind {
	case scalar:
		for isInput(v) { // a default may be an input again, and is shorter then
			in := r.input(v)
			if !in.hasDefault || in.late {
				break
			}
			next := v.defaulted(in)
			if len(next.text) >= len(v.text) {
				break
			}
			r.check(v, &cursor{value: next, up: at.up, key: at.key, index: at.index})
			v = next
		}
		return v
	case mapping, sequence:
		return r.each(at, r.defaults)
	}
	return v
}

// each returns a mapping or sequence of which each value is replaced.
func (r *resolver) each(at *cursor, replace func(*cursor) *value) *value {
	base := at.value
	out := base
	for i := range base.entries {
		if child := replace(at.entry(i)); child != base.entries[i].value {
			if out == base {
				out = base.shallow()
			}
			out.entries[i].value = child
		}
	}
	for i := range base.items {
		if child := replace(at.item(i)); child != base.items[i] {
			if out == base {
				out = base.shallow()
			}
			out.items[i] = child
		}
	}
	return r.remeasured(base, out)
}

// check reports where a value that is given is none that its input lets pass. It is used all the same: the error says enough.
func (r *resolver) check(base *value, given *cursor) {
	in := r.input(base)
	if in.allowed == nil && !in.hasPattern {
		return
	}
	switch {
	case given.is(sequence):
		for i := range given.items {
			r.check(base, given.item(i))
		}
		return
	case given.is(mapping):
		r.say(SeverityError, given, "input-not-allowed", "a single value is wanted here", "")
		return
	case !given.is(scalar) || given.unresolved():
		return
	}
	text := strings.TrimSpace(given.text)
	if r.work += len(base.text) * max(len(text), 1); r.work > maxCheckWork {
		r.say(SeverityWarning, given, "input-unchecked", "there are too many and too long inputs: this one and those after it are not checked", "")
		return
	}
	if in.allowed != nil && !in.open() {
		allowed := false
		for _, one := range in.allowed {
			allowed = allowed || one == text
		}
		if !allowed {
			r.say(SeverityError, given, "input-not-allowed", quote(text)+" is not among the allowed values", "allowed are "+quote(strings.Join(in.allowed, ", ")))
		}
	}
	if !in.hasPattern {
		return
	}
	switch re := r.pattern(in.pattern); {
	case re == nil:
		r.report(SeverityWarning, "input-unchecked", base.origin, given.path(), fmt.Sprintf("the pattern %s is no regular expression of Go, or one too many: what is given is not checked", quote(in.pattern)), "")
	case !re.MatchString(text):
		r.say(SeverityError, given, "input-not-allowed", fmt.Sprintf("%s does not match %s", quote(text), quote(in.pattern)), "")
	}
}

// pattern compiles a regular expression that has to match all of a value; nil where it is not one.
func (r *resolver) pattern(text string) *regexp.Regexp {
	re, known := r.patterns[text]
	if !known && len(r.patterns) < maxPatterns {
		re, _ = regexp.Compile("^(?:" + text + ")$") // nil with an error
		r.patterns[text] = re
	}
	return re
}

// reportUnused reports what was given and not used: for something that is not there, or that has a value already.
func (r *resolver) reportUnused(at *cursor) {
	switch {
	case r.given[at.value] == used:
	case r.given[at.value] == 0:
		r.say(SeverityWarning, at, "input-unused", "this is given for something that is not there, or that is no input: it does not count", "")
	case at.kind == scalar:
		if at.key != "name" && at.key != "description" {
			r.say(SeverityWarning, at, "input-unused", quote(at.text)+" is given for something that is no input: it does not count", "write <+input> where it should count")
		}
	default:
		for i := range at.entries {
			r.reportUnused(at.entry(i))
		}
		for i := range at.items {
			r.reportUnused(at.item(i))
		}
	}
}

// use is a template that is being put in, and those around it.
type use struct {
	template *template
	outer    *use
	depth    int
}

// root puts templates in place in a whole document.
func (r *resolver) root(root *cursor) *value {
	at := root.get("template")
	if root.get("pipeline") != nil || !at.get("spec").is(mapping) || at.get("templateRef") != nil {
		return r.expand(root, nil)
	}
	// A template file: what its spec is, its type says.
	kind := at.get("type").scalarText()
	return r.each(root, func(c *cursor) *value {
		if c.key != "template" {
			return c.value
		}
		return r.each(c, func(c *cursor) *value {
			if c.key != "spec" {
				return c.value
			}
			return r.body(c, kind, nil)
		})
	})
}

// nodeKinds are the types of templates by the key under which they are used.
var nodeKinds = map[string]string{"pipeline": "Pipeline", "stage": "Stage", "stepGroup": "StepGroup", "step": "Step"}

// expand puts templates in place below a value. Those of anything but a node are not about failures and stay.
func (r *resolver) expand(at *cursor, within *use) *value {
	if at.kind != mapping && at.kind != sequence {
		return at.value
	}
	return r.each(at, func(c *cursor) *value {
		if kind := nodeKinds[c.key]; kind != "" && c.is(mapping) {
			return r.body(c, kind, within)
		}
		if c.key == "template" && at.kind == mapping {
			return c.value
		}
		return r.expand(c, within)
	})
}

// body puts templates in place in a node and below it.
func (r *resolver) body(at *cursor, kind string, within *use) *value {
	ref := at.get("template")
	switch {
	case ref.is(mapping) && ref.get("templateRef") != nil:
		return r.put(at, ref, kind, within)
	case !ref.missing():
		r.say(SeverityError, ref, "template-unresolved", "which template this is, is not said", "write template: {templateRef: …}")
	}
	if kind == "Stage" && at.get("type").scalarText() == "Pipeline" {
		return at.value // what is below are the inputs of another pipeline
	}
	return r.expand(at, within)
}

// put returns a node with its template in it. Where that is not possible it says why, and the node stays as it is.
func (r *resolver) put(at, ref *cursor, kind string, within *use) *value {
	one := r.find(ref, kind)
	if one == nil {
		return at.value
	}
	next := &use{template: one, outer: within, depth: 1}
	if within != nil {
		next.depth = within.depth + 1
	}
	for u := within; u != nil; u = u.outer {
		if u.template == one {
			r.say(SeverityError, ref.get("templateRef"), "template-cycle", "this template contains itself: "+next.chain(), "")
			return at.value
		}
	}
	if next.depth > MaxTemplateDepth {
		r.say(SeverityError, ref.get("templateRef"), "template-cycle", fmt.Sprintf("templates stand in each other deeper than %d levels: %s", MaxTemplateDepth, next.chain()), "")
		return at.value
	}
	if r.written += one.spec.size; r.full || r.written > MaxValues {
		r.limit(at, fmt.Sprintf("with its templates written out the pipeline has more than %d values", MaxValues))
		return at.value
	}
	if !r.told[one] {
		r.told[one] = true
		for _, d := range one.found {
			r.report(d.Severity, d.Code, origin{d.File, d.Line, d.Column}, d.Path, d.Message, d.Fix)
		}
	}
	spec := one.spec.value
	if inputs := ref.get("templateInputs"); inputs.is(mapping) {
		spec = r.fill(spec, inputs)
		r.reportUnused(inputs)
	}
	made := *at
	made.value = r.adopt(at, spec)
	return r.body(&made, kind, next)
}

// chain lists the templates that stand in each other, outermost first.
func (u *use) chain() string {
	names := ""
	for ; u != nil; u = u.outer {
		if names != "" {
			names = " → " + names
		}
		names = quote(u.template.id) + names
	}
	return names
}

// adopt lays a node over the spec of its template: what the node says itself counts.
func (r *resolver) adopt(at *cursor, spec *value) *value {
	out := &value{kind: mapping, origin: at.origin, entries: make([]entry, 0, len(at.entries)+len(spec.entries))}
	index := make(map[string]int)
	for _, e := range at.entries {
		if e.key != "template" {
			index[e.key] = len(out.entries)
			out.entries = append(out.entries, e)
		}
	}
	for _, e := range spec.entries {
		i, own := index[e.key]
		switch {
		case !own:
			out.entries = append(out.entries, e)
		case out.entries[i].value.kind == null:
			out.entries[i] = e
		case e.key == "failureStrategies" && e.value.kind == sequence && len(e.value.items) > 0:
			r.say(SeverityWarning, at.get(e.key), "template-override", fmt.Sprintf("these failure strategies stand in place of those of the template, in %s line %d", e.file, e.line), "")
		}
	}
	return out.measured()
}

// find looks a template up, and reports where that fails.
func (r *resolver) find(ref *cursor, kind string) *template {
	id, version := ref.get("templateRef"), ref.get("versionLabel")
	switch {
	case id.scalarText() == "" || id.unresolved():
		r.say(SeverityError, id, "template-unresolved", "which template this is, is not known", "write its identifier")
		return nil
	case version.unresolved():
		r.say(SeverityError, version, "template-version", fmt.Sprintf("which version of template %s this is, is not known", quote(id.text)), "write the version, or give it as an input")
		return nil
	}
	key := reference{ref: id.text, version: version.scalarText(), org: r.org, project: r.project, kind: kind}
	l, known := r.lookups[key]
	if !known {
		l = &lookup{}
		l.template, l.chosen, l.bad = r.templates.find(key, r.missing < maxSuggestions)
		r.lookups[key] = l
		if l.bad != nil {
			r.missing++
		}
	}
	switch {
	case l.bad != nil:
		at := id
		if l.bad.code == "template-version" {
			at = version
		}
		r.say(SeverityError, at, l.bad.code, l.bad.message, l.bad.fix)
	case l.chosen != "":
		r.say(SeverityWarning, id, "template-version-chosen", l.chosen, "name it: versionLabel: "+l.template.version)
	}
	return l.template
}
