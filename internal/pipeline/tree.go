package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// The bounds of what Load reads.
const (
	MaxSize   = 1 << 20 // bytes of YAML
	MaxDepth  = 200     // nested mappings and sequences, aliases followed
	MaxValues = 200_000 // values of the tree, aliases and merge keys written out
	MaxNodes  = 10_000  // stages, step groups and steps

	MaxStrategies = 64 // of one node
)

// value is one value of the YAML with aliases and merge keys resolved. Values are shared where an alias is used, but the tree
// has at most MaxValues values and MaxDepth levels however it is walked, so no walk needs a bound of its own.
type value struct {
	kind   valueKind
	text   string // of a scalar
	quoted bool   // the scalar stands in quotes or in a block
	offset int    // columns between the value's position and the first character of text, -1 where they do not line up
	origin
	entries []entry  // of a mapping, in order, keys unique
	items   []*value // of a sequence
	size    int      // values in this one, itself included
	height  int      // levels in this one, itself included
}

// origin is where a value or key is written: in the pipeline, in a template or among the inputs. Lines and columns are 1-based.
type origin struct {
	file         string
	line, column int
}

type valueKind uint8

const (
	null valueKind = iota + 1
	scalar
	mapping
	sequence
	placeholder // {{ … }}: somebody else's template syntax, already reported
)

type entry struct {
	key string
	origin
	value *value
}

// cursor is a value together with the way to it. A nil cursor is an absent value: every method of it may be called.
type cursor struct {
	*value
	up    *cursor
	key   string // where up is a mapping
	keyAt origin // of the key, zero where up is a sequence
	index int    // where up is a sequence
}

// get returns the value of a key, nil where c is no mapping or does not have it.
func (c *cursor) get(key string) *cursor {
	if c == nil || c.kind != mapping {
		return nil
	}
	for i := range c.entries {
		if c.entries[i].key == key {
			return c.entry(i)
		}
	}
	return nil
}

func (c *cursor) entry(i int) *cursor {
	e := &c.entries[i]
	return &cursor{value: e.value, up: c, key: e.key, keyAt: e.origin}
}

func (c *cursor) item(i int) *cursor { return &cursor{value: c.items[i], up: c, index: i} }

// is reports whether the value is there and of a kind.
func (c *cursor) is(kind valueKind) bool { return c != nil && c.kind == kind }

// missing reports whether there is nothing: no key, or a key without a value.
func (c *cursor) missing() bool { return c == nil || c.kind == null }

// scalarText returns the text of a scalar, "" for anything else.
func (c *cursor) scalarText() string {
	if !c.is(scalar) {
		return ""
	}
	return c.text
}

// unresolved reports whether the value is an expression that only a running execution knows: <+input>, <+stage.…>.
func (c *cursor) unresolved() bool {
	return c.is(scalar) && strings.HasPrefix(strings.TrimSpace(c.text), "<+")
}

// place returns where a diagnostic about the value points: to the value, or to its key where there is nothing to see.
func (c *cursor) place() origin {
	if c.kind == null && c.keyAt.line > 0 {
		return c.keyAt
	}
	return c.origin
}

// position is the place without its file.
func (c *cursor) position() (line, column int) {
	at := c.place()
	return at.line, at.column
}

// path returns the YAML path. Keys are cut where they are long and the whole is: both come from the input.
func (c *cursor) path() string {
	const mostKey, most = 64, 1024
	var steps []string
	length := 0
	for ; c != nil && c.up != nil; c = c.up {
		step := "." + c.key
		if c.up.kind == sequence {
			step = "[" + strconv.Itoa(c.index) + "]"
		} else if len(step) > mostKey {
			step = strings.ToValidUTF8(step[:mostKey], "") + "…"
		}
		if length += len(step); length > most {
			steps = append(steps, "…")
			break
		}
		steps = append(steps, step)
	}
	var b strings.Builder
	for i := len(steps) - 1; i >= 0; i-- {
		b.WriteString(steps[i])
	}
	return strings.TrimPrefix(b.String(), ".")
}

// parse reads the first document. It returns nil where the text is not YAML, or is nothing at all.
func parse(text []byte, found *findings) *value {
	if len(text) <= MaxSize {
		if v := plain(text, found); v != nil {
			return v
		}
	}
	return parseAny(text, found)
}

// parseAny is parse for YAML of any kind.
func parseAny(text []byte, found *findings) *value {
	loader := open(text, found)
	if loader == nil {
		return nil
	}
	var document, next yaml.Node
	switch err := loader.Load(&document); {
	case err != nil && !errors.Is(err, io.EOF):
		syntaxError(err, text, found)
		return nil
	case err != nil || document.Kind != yaml.DocumentNode || len(document.Content) == 0:
		found.report(SeverityError, "no-pipeline", found.at(1, 1), "", "the file is empty", "")
		return nil
	}
	if err := loader.Load(&next); err == nil {
		found.report(SeverityWarning, "extra-documents", found.at(next.Line, next.Column), "", "the file has more than one document; only the first is read", "put each pipeline into a file of its own")
	} else if !errors.Is(err, io.EOF) {
		found.report(SeverityWarning, "extra-documents", found.at(errorPosition(err)), "", "what follows the first document is not read, and is not YAML", "")
	}
	b := builder{found: found, anchors: make(map[*yaml.Node]*value)}
	return b.build(document.Content[0], 1, false)
}

// parseAll reads all documents, up to the first that is not YAML. The bounds hold for all of them together.
func parseAll(text []byte, found *findings) []*value {
	loader := open(text, found)
	if loader == nil {
		return nil
	}
	var documents []*value
	b := builder{found: found, anchors: make(map[*yaml.Node]*value)}
	for !b.full {
		var document yaml.Node
		switch err := loader.Load(&document); {
		case errors.Is(err, io.EOF):
			return documents
		case err != nil:
			syntaxError(err, text, found)
			return documents
		case document.Kind == yaml.DocumentNode && len(document.Content) > 0:
			documents = append(documents, b.build(document.Content[0], 1, false))
		}
	}
	return documents
}

// open begins to read, nil where the text is too long or cannot be YAML.
func open(text []byte, found *findings) *yaml.Loader {
	if len(text) > MaxSize {
		found.report(SeverityError, "yaml-limits", found.at(1, 1), "", fmt.Sprintf("a file has at most %d bytes, this one has %d", MaxSize, len(text)), "")
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		syntaxError(err, text, found)
		return nil
	}
	return loader
}

// builder makes the tree.
type builder struct {
	found   *findings
	anchors map[*yaml.Node]*value // nil while the anchored value is being built
	count   int                   // values so far, written out
	full    bool                  // a bound was reported; what remains is null
	braces  bool                  // a placeholder was reported
}

// build makes one value. A value that would leave the bounds is null, and reported once.
func (b *builder) build(n *yaml.Node, depth int, inFailure bool) *value {
	v := &value{kind: null, origin: b.found.at(n.Line, n.Column), size: 1, height: 1}
	if n.Kind == yaml.AliasNode {
		return b.alias(n, v, depth)
	}
	if !b.spend(n, 1, depth) {
		return v
	}
	if n.Anchor != "" {
		b.anchors[n] = nil
	}
	switch n.Kind {
	case yaml.ScalarNode:
		b.scalar(n, v)
	case yaml.SequenceNode:
		v.kind = sequence
		v.items = make([]*value, 0, len(n.Content))
		for _, item := range n.Content {
			v.items = append(v.items, v.hold(b.build(item, depth+1, inFailure)))
		}
	case yaml.MappingNode:
		b.mapping(n, v, depth, inFailure)
	}
	if n.Anchor != "" {
		b.anchors[n] = v
	}
	return v
}

// hold counts a child and returns it.
func (v *value) hold(child *value) *value {
	v.size += child.size
	v.height = max(v.height, child.height+1)
	return child
}

// spend takes n values at a depth from the bounds and reports the first time there are none left.
func (b *builder) spend(at *yaml.Node, n, depth int) bool {
	b.count += n
	if b.count <= MaxValues && depth <= MaxDepth {
		return true
	}
	if !b.full {
		b.full = true
		message := fmt.Sprintf("the file has more than %d values once aliases are written out", MaxValues)
		if depth > MaxDepth {
			message = fmt.Sprintf("the file nests deeper than %d levels once aliases are written out", MaxDepth)
		}
		b.found.report(SeverityError, "yaml-limits", b.found.at(at.Line, at.Column), "", message, "")
	}
	return false
}

func (b *builder) alias(n *yaml.Node, nothing *value, depth int) *value {
	target, known := b.anchors[n.Alias]
	if known && target == nil || !known {
		b.found.report(SeverityError, "yaml-limits", b.found.at(n.Line, n.Column), "", fmt.Sprintf("anchor %s contains itself", quote(n.Value)), "")
		return nothing
	}
	if !b.spend(n, target.size, depth+target.height-1) {
		return nothing
	}
	return target
}

func (b *builder) scalar(n *yaml.Node, v *value) {
	v.text, v.quoted = n.Value, n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	switch {
	case strings.Contains(n.Value, "\n"), n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		v.offset = -1
	case v.quoted:
		v.offset = 1
	}
	if v.kind = scalar; n.Tag == "!!null" && !v.quoted {
		v.kind = null
	}
}

// failureKeys are the keys of which two in one mapping leave open what a failure does, or which node it is.
var failureKeys = map[string]bool{
	"failureStrategies": true, "onFailure": true, "rollbackSteps": true, "steps": true, "stages": true, "stage": true, "step": true,
	"stepGroup": true, "parallel": true, "identifier": true, "pipeline": true,
}

func (b *builder) mapping(n *yaml.Node, v *value, depth int, inFailure bool) {
	v.kind = mapping
	v.entries = make([]entry, 0, len(n.Content)/2)
	position := make(map[string]int, len(n.Content)/2)
	var merges []*value
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, child := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			if n.Style&yaml.FlowStyle != 0 && key.Kind == yaml.MappingNode {
				v.kind = placeholder
				b.placeholder(n)
				return
			}
			continue // such a key means nothing to a pipeline
		}
		below := inFailure || key.Value == "failureStrategies"
		if key.Tag == "!!merge" {
			merged := b.build(child, depth+1, below)
			if merged.kind == sequence {
				merges = append(merges, merged.items...)
			} else {
				merges = append(merges, merged)
			}
			continue
		}
		if first, twice := position[key.Value]; twice {
			b.duplicate(key, v.entries[first], inFailure)
			continue
		}
		position[key.Value] = len(v.entries)
		v.entries = append(v.entries, entry{key.Value, b.found.at(key.Line, key.Column), v.hold(b.build(child, depth+1, below))})
	}
	// What the mapping says itself beats what it merges; of two merged ones the first counts. Building the merged ones has spent
	// what they put in here.
	for _, merged := range merges {
		for _, e := range merged.entries {
			if _, taken := position[e.key]; taken {
				continue
			}
			position[e.key] = len(v.entries)
			v.entries = append(v.entries, e)
			v.hold(e.value)
		}
	}
}

func (b *builder) duplicate(key *yaml.Node, first entry, inFailure bool) {
	severity := SeverityWarning
	if inFailure || failureKeys[key.Value] {
		severity = SeverityError
	}
	b.found.report(severity, "duplicate-key", b.found.at(key.Line, key.Column), "",
		fmt.Sprintf("key %s is in this mapping twice, first in line %d; the first is used", quote(key.Value), first.line), "keep one of them")
}

const bracesFix = "render the template first and load the result"

func (b *builder) placeholder(n *yaml.Node) {
	if !b.braces {
		b.braces = true
		b.found.report(SeverityError, "yaml-syntax", b.found.at(n.Line, n.Column), "", "{{ … }} is a placeholder of a template, not YAML", bracesFix)
	}
}

// errorPosition returns where the parser stopped, 1:1 where it does not say.
func errorPosition(err error) (line, column int) {
	var at *yaml.LoadError
	if errors.As(err, &at) {
		return max(at.Mark.Line, 1), max(at.Mark.Column, 1)
	}
	return 1, 1
}

var (
	conflictMark = regexp.MustCompile(`^(<<<<<<<|=======|>>>>>>>)( |$)`)
	plainColon   = regexp.MustCompile(`^\s*(?:- )*[^\s"'#|>][^"']*?:\s+[^"'|>\s].*:(\s|$)`)
)

// syntaxError reports what the parser could not read, and for the common causes what to do about it. A parser often stops lines
// after the cause, so the lines before are looked at too.
func syntaxError(err error, text []byte, found *findings) {
	message := err.Error()
	var at *yaml.LoadError
	if errors.As(err, &at) {
		message = at.Message
		if at.ContextMsg != "" {
			message += " " + at.ContextMsg
			if at.ContextMark.Line > 0 && at.ContextMark.Line < at.Mark.Line {
				message += fmt.Sprintf(" that begins in line %d", at.ContextMark.Line)
			}
		}
	}
	code := "yaml-syntax"
	if strings.Contains(message, "exceeded max depth") {
		code, message = "yaml-limits", "the file nests too deep"
	}
	line, column := errorPosition(err)
	fix := syntaxFix(text, line)
	if fix == "" && at != nil && strings.Contains(at.Message, "did not find expected key") {
		fix = fmt.Sprintf("line %d is indented otherwise than the lines it belongs to, or the one before it is", line)
	}
	found.report(SeverityError, code, found.at(line, column), "", "the file is not YAML: "+message, fix)
}

func syntaxFix(text []byte, line int) string {
	lines := bytes.Split(text, []byte("\n"))
	for n := min(line, len(lines)); n >= max(1, line-2); n-- {
		s := strings.TrimRight(string(lines[n-1]), "\r")
		indent := s[:len(s)-len(strings.TrimLeft(s, " \t"))]
		switch {
		case conflictMark.MatchString(s):
			return fmt.Sprintf("line %d is left over from a merge conflict: resolve it", n)
		case strings.Contains(indent, "\t"):
			return fmt.Sprintf("line %d is indented with a tab: use spaces", n)
		case strings.Contains(s, "{{"), strings.Contains(s, "<%"), strings.Contains(s, "{%"):
			return fmt.Sprintf("line %d has a placeholder of a template: %s", n, bracesFix)
		case n == line && plainColon.MatchString(s):
			return fmt.Sprintf("line %d has a colon inside a value: put the value into quotes", n)
		}
	}
	return ""
}
