package pipeline

import (
	"fmt"
	"slices"
	"strings"
)

// Inputs are the values for what is <+input> in a pipeline. They do not change once they are loaded, and serve any number of loads.
type Inputs struct {
	pipeline *cursor   // all of them laid over each other; nil where there are none
	of       []*cursor // the identifiers of the pipelines that they say they are for
}

// maxLaid is how many values may be looked at to lay inputs over each other.
const maxLaid = 5 * MaxValues

// InputFile is a file with inputs, by the name that diagnostics use.
type InputFile struct {
	Name string
	YAML []byte
}

// inputLayer is one inputSet or pipeline.
type inputLayer struct {
	id       string // of an inputSet
	pipeline *cursor
}

// LoadInputs reads files with inputs: documents with the key inputSet, overlayInputSet or pipeline. Where two give a value for the
// same, the later one counts; an overlay stands for the sets it lists, in their order, which are looked for in all of the files.
func LoadInputs(files []InputFile) (*Inputs, Diagnostics) {
	found := &findings{}
	if len(files) > 0 {
		found.file = files[0].Name
	}
	var layers []inputLayer // an overlay has none of its own, and its cursor in overlays
	overlays := make(map[int]*cursor)
	byID := make(map[string]*cursor)
	for _, file := range files {
		own := &findings{file: file.Name}
		documents := parseAll(file.YAML, own)
		for _, document := range documents {
			root := &cursor{value: document}
			set, overlay, bare := root.get("inputSet"), root.get("overlayInputSet"), root.get("pipeline")
			switch {
			case set.is(mapping) && set.get("pipeline").is(mapping):
				id := set.get("identifier").scalarText()
				layers = append(layers, inputLayer{id, set.get("pipeline")})
				byID[id] = set.get("pipeline")
			case overlay.is(mapping):
				overlays[len(layers)] = overlay
				layers = append(layers, inputLayer{})
			case bare.is(mapping):
				layers = append(layers, inputLayer{"", bare})
			default:
				own.report(SeverityError, "no-inputs", root.place(), "", "there are no inputs here: they stand under inputSet, overlayInputSet or pipeline", "")
			}
		}
		if len(documents) == 0 && !own.sorted().HasErrors() {
			own.report(SeverityError, "no-inputs", own.at(1, 1), "", "the file is empty", "")
		}
		for _, d := range own.sorted() {
			found.add(d)
		}
	}
	in := &Inputs{}
	work := 0 // an overlay may list a set any number of times
	add := func(layer *cursor) {
		if id := layer.get("identifier"); id.scalarText() != "" && !slices.ContainsFunc(in.of, func(c *cursor) bool { return c.value == id.value }) {
			in.of = append(in.of, id)
		}
		switch {
		case in.pipeline == nil:
			in.pipeline = layer
		case in.pipeline.size+layer.size > MaxValues:
			found.report(SeverityError, "yaml-limits", layer.place(), layer.path(), fmt.Sprintf("the inputs have more than %d values together", MaxValues), "")
		case work > maxLaid: // said below
		default:
			work += in.pipeline.size + layer.size
			in.pipeline = &cursor{value: lay(in.pipeline.value, layer.value), key: "pipeline", up: &cursor{value: &value{kind: mapping}}}
		}
	}
	for i, layer := range layers {
		if overlays[i] == nil {
			add(layer.pipeline)
			continue
		}
		references := overlays[i].get("inputSetReferences")
		if !references.is(sequence) {
			found.report(SeverityError, "input-set-unresolved", orElse(references, overlays[i]).place(), overlays[i].path(), "the overlay has no inputSetReferences: a list of input sets", "")
			continue
		}
		for j := range references.items {
			at := references.item(j)
			if set := byID[at.scalarText()]; set != nil && at.text != "" {
				add(set)
				continue
			}
			found.report(SeverityError, "input-set-unresolved", at.place(), at.path(), fmt.Sprintf("the overlay lists input set %s, and no file has it", quote(at.scalarText())), "give its file with --inputs, too")
		}
	}
	if work > maxLaid {
		found.report(SeverityError, "yaml-limits", in.pipeline.place(), in.pipeline.path(), "too many inputs are laid over each other", "")
	}
	return in, found.sorted()
}

// lay lays one set of inputs over another.
func lay(below, above *value) *value {
	switch {
	case above.kind == null || isInput(above) && !isInput(below) && below.kind != null:
		return below
	case below.kind == mapping && above.kind == mapping:
		out := below.shallow()
		index := below.index()
		for _, e := range above.entries {
			if i, ok := index[e.key]; ok {
				out.entries[i].value = lay(out.entries[i].value, e.value)
			} else {
				out.entries = append(out.entries, e)
			}
		}
		return out.measured()
	case below.kind == sequence && above.kind == sequence:
		names := identities(below)
		if len(names) == 0 {
			return above
		}
		out := below.shallow()
		for _, item := range above.items {
			if i, ok := counterpart(names, item); ok {
				out.items[i] = lay(out.items[i], item)
			} else {
				out.items = append(out.items, item)
			}
		}
		return out.measured()
	}
	return above
}

// shallow copies a value, but not what is in it.
func (v *value) shallow() *value {
	out := *v
	out.entries, out.items = slices.Clone(v.entries), slices.Clone(v.items)
	return &out
}

// measured counts a value again whose children were changed.
func (v *value) measured() *value {
	v.size, v.height = 1, 1
	for _, e := range v.entries {
		v.hold(e.value)
	}
	for _, item := range v.items {
		v.hold(item)
	}
	return v
}

// index returns where each key of a mapping is.
func (v *value) index() map[string]int {
	index := make(map[string]int, len(v.entries))
	for i, e := range v.entries {
		index[e.key] = i
	}
	return index
}

// wrappers are the keys under which an item of a list says what it is.
var wrappers = [...]string{"stage", "step", "stepGroup", "insert"}

// identity names an item of a list, "" where nothing does.
func identity(item *value) string {
	at := &cursor{value: item}
	for _, key := range wrappers {
		if id := at.get(key).get("identifier").scalarText(); id != "" {
			return key + "/" + id
		}
	}
	for _, key := range [...]string{"identifier", "name", "key"} {
		if id := at.get(key).scalarText(); id != "" {
			return key + "//" + id
		}
	}
	return ""
}

// identities returns where the named items of a list are. What runs in parallel has no name of its own: each of its items names it.
func identities(list *value) map[string]int {
	names := make(map[string]int)
	for i, item := range list.items {
		for _, name := range namesOf(item) {
			if _, taken := names[name]; !taken {
				names[name] = i
			}
		}
	}
	return names
}

func namesOf(item *value) []string {
	parallel := (&cursor{value: item}).get("parallel")
	if !parallel.is(sequence) {
		if name := identity(item); name != "" {
			return []string{name}
		}
		return nil
	}
	var names []string
	for _, inner := range parallel.items {
		if name := identity(inner); name != "" {
			names = append(names, "parallel/"+name)
		}
	}
	return names
}

// counterpart finds an item of another list.
func counterpart(names map[string]int, item *value) (int, bool) {
	for _, name := range namesOf(item) {
		if i, ok := names[name]; ok {
			return i, true
		}
	}
	return 0, false
}

// input is what <+input> and what follows it say: <+input>.default(3).allowedValues(1,2,3).
type input struct {
	bare        bool // nothing follows
	defaultText string
	hasDefault  bool
	allowed     []string // nil for any
	pattern     string
	hasPattern  bool
	late        bool // it is asked for while the pipeline runs
}

const (
	inputMark = "<+input>"
	maxInput  = 16 << 10 // bytes of an input with what follows it; a longer text is none
)

// isInput reports whether a value is to be filled in.
func isInput(v *value) bool {
	if v.kind != scalar {
		return false
	}
	if len(v.text) > maxInput {
		return false
	}
	rest, ok := strings.CutPrefix(strings.TrimSpace(v.text), inputMark)
	return ok && (rest == "" || rest[0] == '.')
}

// parseInput reads the text of an input. What it does not know it passes over.
func parseInput(text string) (in input) {
	rest := strings.TrimPrefix(strings.TrimSpace(text), inputMark)
	in.bare = rest == ""
	for strings.HasPrefix(rest, ".") {
		name, after, ok := strings.Cut(rest[1:], "(")
		if !ok {
			return in
		}
		var argument string
		argument, rest = closing(after)
		switch name {
		case "default":
			in.defaultText, in.hasDefault = unquote(argument), true
		case "allowedValues", "selectOneFrom", "selectManyFrom":
			in.allowed = []string{}
			for one := range strings.SplitSeq(argument, ",") {
				in.allowed = append(in.allowed, unquote(one))
			}
		case "regex":
			in.pattern, in.hasPattern = argument, true
		case "executionInput":
			in.late = true
		}
	}
	return in
}

// closing cuts a text where the bracket that was opened before it closes. Brackets behind a backslash do not count; where none closes,
// the last one does.
func closing(text string) (inside, rest string) {
	depth := 1
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return text[:i], text[i+1:]
			}
		}
	}
	if i := strings.LastIndexByte(text, ')'); i >= 0 {
		return text[:i], text[i+1:]
	}
	return text, ""
}

func unquote(text string) string {
	text = strings.TrimSpace(text)
	if n := len(text); n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n-1] == text[0] {
		return text[1 : n-1]
	}
	return text
}

// open reports whether the allowed values are not all known.
func (in *input) open() bool {
	return slices.ContainsFunc(in.allowed, func(s string) bool { return strings.Contains(s, "<+") || strings.HasPrefix(s, "jexl(") })
}
