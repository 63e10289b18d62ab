package pipeline

import (
	"bytes"
	"slices"
	"strings"
)

// plain reads YAML that is written the way nearly all pipelines are: ASCII without tabs, one document, keys that are identifiers, each once
// in its mapping, scalars, {…} and […] that end on their line, and blocks after | or |-. It returns nil for everything else, and for
// whatever is wrong, since the library can say what. What it returns is what the library's nodes would make (TestPlainYAML and
// FuzzPlainYAML hold it to that), some twenty times as fast: reading YAML was a quarter of what a new worker did (docs/adr/0007).
//
// The strings of the tree are parts of one copy of the text, so whoever keeps one for long keeps a copy.
func plain(text []byte, found *findings) *value {
	for _, c := range text {
		if (c < ' ' || c > '~') && c != '\n' {
			return nil
		}
	}
	var lines strings.Builder
	lines.Grow(len(text) + 1)
	lines.Write(text)
	lines.WriteByte('\n')
	r := &plainReader{text: lines.String(), found: found, line: 1, ended: bytes.HasSuffix(text, []byte("\n"))}
	if r.advance(); r.indent == 0 && strings.HasPrefix(r.text[r.pos:], "---\n") {
		r.pos += len("---")
		r.endLine()
	}
	if r.indent < 0 {
		return nil
	}
	if v := r.block(1); v != nil && r.indent < 0 {
		return v
	}
	return nil
}

// plainReader is where plain is in the text, which ends with a line break of its own. Its methods read what is at pos and leave pos behind
// it; nil and false mean that it is not plain.
type plainReader struct {
	text   string
	found  *findings
	ended  bool // the text had a line break at its end before
	pos    int
	line   int // 1-based
	start  int // of the line
	indent int // spaces before what the line says, set by advance; -1 at the end

	count   int
	values  []value  // that are not used yet
	entries []entry  // of the mappings that are being read, one behind another
	items   []*value // likewise
}

// mostKeys of one mapping are looked through for each key.
const mostKeys = 64

// advance moves to what the next line says that says something, from the start of a line.
func (r *plainReader) advance() {
	for r.start = r.pos; r.pos < len(r.text); r.start = r.pos {
		r.spaces()
		if c := r.text[r.pos]; c != '\n' && c != '#' {
			r.indent = r.pos - r.start
			return
		}
		r.skipLine()
	}
	r.indent = -1
}

func (r *plainReader) skipLine() {
	r.pos += strings.IndexByte(r.text[r.pos:], '\n') + 1
	r.line++
}

func (r *plainReader) spaces() {
	for r.text[r.pos] == ' ' {
		r.pos++
	}
}

// endLine moves on from what must be the last of its line.
func (r *plainReader) endLine() bool {
	before := r.pos
	r.spaces()
	if c := r.text[r.pos]; c != '\n' && (c != '#' || r.pos == before) {
		return false
	}
	r.skipLine()
	r.advance()
	return true
}

// make makes the value that begins at pos, nil where it is out of bounds.
func (r *plainReader) make(kind valueKind, depth int) *value {
	if r.count++; r.count > MaxValues || depth > MaxDepth {
		return nil
	}
	if len(r.values) == 0 {
		r.values = make([]value, 128)
	}
	v := &r.values[0]
	r.values = r.values[1:]
	v.kind, v.origin, v.size, v.height = kind, r.at(), 1, 1
	return v
}

func (r *plainReader) at() origin { return r.found.at(r.line, r.pos-r.start+1) }

// dash reports whether an entry of a sequence begins at pos.
func (r *plainReader) dash() bool {
	return r.text[r.pos] == '-' && (r.text[r.pos+1] == ' ' || r.text[r.pos+1] == '\n')
}

// block reads the mapping or sequence that begins with this line.
func (r *plainReader) block(depth int) *value {
	if r.dash() {
		return r.sequence(depth)
	}
	return r.mapping(depth)
}

func (r *plainReader) sequence(depth int) *value {
	v, indent, from := r.make(sequence, depth), r.indent, len(r.items)
	if v == nil {
		return nil
	}
	for r.indent == indent && r.dash() {
		r.pos++
		item := r.entry(indent, depth+1)
		if item == nil {
			return nil
		}
		r.items = append(r.items, v.hold(item))
	}
	if r.indent > indent {
		return nil
	}
	v.items, r.items = slices.Clone(r.items[from:]), r.items[:from]
	return v
}

// entry reads what follows on a dash: a mapping may begin on its line.
func (r *plainReader) entry(indent, depth int) *value {
	behind := r.pos
	r.spaces()
	if _, n := r.key(); n > 0 {
		r.indent = r.pos - r.start
		return r.mapping(depth)
	}
	r.pos = behind
	return r.value(indent, depth, false)
}

// mapping reads a mapping whose first key is at pos, indented as far as r.indent says.
func (r *plainReader) mapping(depth int) *value {
	v, indent, from := r.make(mapping, depth), r.indent, len(r.entries)
	if v == nil {
		return nil
	}
	for {
		key, n := r.key()
		if n == 0 || !r.fresh(key, from) {
			return nil
		}
		at := r.at()
		r.pos += n
		child := r.value(indent, depth+1, true)
		if child == nil {
			return nil
		}
		r.entries = append(r.entries, entry{key, at, v.hold(child)})
		if r.indent != indent || r.dash() {
			break
		}
	}
	if r.indent > indent {
		return nil
	}
	v.entries, r.entries = slices.Clone(r.entries[from:]), r.entries[:from]
	return v
}

// fresh reports whether a mapping has room for a key, and does not have it.
func (r *plainReader) fresh(key string, from int) bool {
	if len(r.entries)-from == mostKeys {
		return false
	}
	for i := from; i < len(r.entries); i++ {
		if r.entries[i].key == key {
			return false
		}
	}
	return true
}

// key returns the key at pos and how far it goes, its colon included; 0 where there is none. It moves nothing.
func (r *plainReader) key() (key string, length int) {
	rest := r.text[r.pos:]
	n := 0
	for isKey[rest[n]] && (n > 0 || rest[n] != '-' && rest[n] != '.' && rest[n] != '/') {
		n++
	}
	if n == 0 || n > 128 || rest[n] != ':' || rest[n+1] != ' ' && rest[n+1] != '\n' {
		return "", 0
	}
	return rest[:n], n + 1
}

var isKey = func() (is [256]bool) {
	for c := range is {
		is[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '$' || c == '-' || c == '.' || c == '/'
	}
	return is
}()

// value reads what follows on a key or dash that is indented as far as indent says, and moves on to the next line that says something. What
// follows on a key may be a sequence that is indented as the key is.
func (r *plainReader) value(indent, depth int, ofKey bool) *value {
	nothing := r.pos
	r.spaces()
	var v *value
	switch r.text[r.pos] {
	case '\n', '#':
		r.pos = nothing
		empty := r.make(null, depth)
		if empty == nil || !r.endLine() {
			return nil
		}
		if r.indent > indent || ofKey && r.indent == indent && r.dash() {
			r.count-- // there is something after all
			return r.block(depth)
		}
		return empty
	case '|':
		return r.literal(indent, depth)
	case '{':
		v = r.flowMapping(depth)
	case '[':
		v = r.flowSequence(depth)
	case '"', '\'':
		v = r.quoted(depth)
	default:
		v = r.bare(r.text[r.pos:r.pos+strings.IndexByte(r.text[r.pos:], '\n')], depth)
	}
	if v == nil || !r.endLine() {
		return nil
	}
	return v
}

// bare reads a scalar without quotes, up to a comment or the end of what may belong to it.
func (r *plainReader) bare(s string, depth int) *value {
	if before, _, comment := strings.Cut(s, " #"); comment {
		s = before
	}
	s = strings.TrimRight(s, " ")
	if s == "" || !mayBegin(s) || s[len(s)-1] == ':' || strings.Contains(s, ": ") {
		return nil
	}
	v := r.make(scalar, depth)
	if v == nil {
		return nil
	}
	switch v.text = s; s {
	case "~", "null", "Null", "NULL":
		v.kind = null
	}
	r.pos += len(s)
	return v
}

// mayBegin reports whether the first character of a scalar means nothing but itself.
func mayBegin(s string) bool {
	if s[0] == '-' {
		return len(s) > 1 && s[1] != ' '
	}
	return strings.IndexByte("?:,[]{}#&*!|>'\"%@`", s[0]) < 0
}

// quoted reads a scalar in quotes without anything that is escaped.
func (r *plainReader) quoted(depth int) *value {
	quote := r.text[r.pos]
	s := r.text[r.pos+1:]
	end := strings.IndexByte(s, quote)
	if end < 0 || quote == '\'' && s[end+1] == quote {
		return nil
	}
	s = s[:end]
	if strings.IndexByte(s, '\n') >= 0 || quote == '"' && strings.IndexByte(s, '\\') >= 0 {
		return nil
	}
	v := r.make(scalar, depth)
	if v == nil {
		return nil
	}
	v.text, v.quoted, v.offset = s, true, 1
	r.pos += len(s) + 2
	return v
}

// literal reads a block after | or |-.
func (r *plainReader) literal(indent, depth int) *value {
	v := r.make(scalar, depth)
	if v == nil {
		return nil
	}
	r.pos++
	strip := r.text[r.pos] == '-'
	if strip {
		r.pos++
	}
	if r.spaces(); r.text[r.pos] != '\n' {
		return nil
	}
	r.skipLine()
	var content strings.Builder
	within, blank := -1, 0
	for r.pos < len(r.text) {
		line := r.text[r.pos : r.pos+strings.IndexByte(r.text[r.pos:], '\n')]
		n := 0
		for n < len(line) && line[n] == ' ' {
			n++
		}
		if within < 0 {
			if within = n; n == len(line) || n <= indent {
				return nil
			}
		}
		switch {
		case n == len(line) && n > within:
			return nil
		case n == len(line):
			blank++
			r.skipLine()
			continue
		case n <= indent:
		case n < within:
			return nil
		default:
			for ; blank > 0; blank-- {
				content.WriteByte('\n')
			}
			content.WriteString(line[within:])
			content.WriteByte('\n')
			r.skipLine()
			continue
		}
		break
	}
	if r.pos == len(r.text) && !strip && !r.ended {
		return nil // the block has no line break at its end, then
	}
	if v.text = content.String(); strip {
		v.text = v.text[:len(v.text)-1]
	}
	v.quoted, v.offset = true, -1
	r.advance()
	return v
}

// flow reads a value inside of {…} or […].
func (r *plainReader) flow(depth int) *value {
	switch r.text[r.pos] {
	case '{':
		return r.flowMapping(depth)
	case '[':
		return r.flowSequence(depth)
	case '"', '\'':
		return r.quoted(depth)
	}
	s := r.text[r.pos:]
	end := strings.IndexAny(s, ",]}\n")
	if s = s[:end]; strings.ContainsAny(s, "[{?#") {
		return nil
	}
	return r.bare(s, depth)
}

// more moves on behind a comma, or to what closes, and reports which; ok is false for anything else.
func (r *plainReader) more(closing byte) (more, ok bool) {
	r.spaces()
	switch r.text[r.pos] {
	case ',':
		r.pos++
		r.spaces()
		return true, true
	case closing:
		r.pos++
		return false, true
	}
	return false, false
}

func (r *plainReader) flowSequence(depth int) *value {
	v, from := r.make(sequence, depth), len(r.items)
	if v == nil {
		return nil
	}
	r.pos++
	r.spaces()
	if r.text[r.pos] == ']' {
		r.pos++
		v.items = []*value{}
		return v
	}
	for more := true; more; {
		item := r.flow(depth + 1)
		if item == nil {
			return nil
		}
		r.items = append(r.items, v.hold(item))
		var ok bool
		if more, ok = r.more(']'); !ok {
			return nil
		}
	}
	v.items, r.items = slices.Clone(r.items[from:]), r.items[:from]
	return v
}

func (r *plainReader) flowMapping(depth int) *value {
	v, from := r.make(mapping, depth), len(r.entries)
	if v == nil {
		return nil
	}
	r.pos++
	r.spaces()
	if r.text[r.pos] == '}' {
		r.pos++
		v.entries = []entry{}
		return v
	}
	for more := true; more; {
		key, n := r.key()
		if n == 0 || !r.fresh(key, from) {
			return nil
		}
		at := r.at()
		r.pos += n
		r.spaces()
		child := r.flow(depth + 1)
		if child == nil {
			return nil
		}
		r.entries = append(r.entries, entry{key, at, v.hold(child)})
		var ok bool
		if more, ok = r.more('}'); !ok {
			return nil
		}
	}
	v.entries, r.entries = slices.Clone(r.entries[from:]), r.entries[:from]
	return v
}
