package pipeline

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// render writes a tree as YAML, in blocks and indented by two. Equal trees give equal text; what was in quotes stays in quotes, so that
// "1" does not become a number. It is nil where the text would be longer than MaxSize: values that an alias or a template shares are
// written out each time.
func render(v *value) []byte {
	r := &renderer{}
	r.block(v, 0)
	if r.full() {
		return nil
	}
	return r.text
}

type renderer struct{ text []byte }

func (r *renderer) full() bool { return len(r.text) > MaxSize }

func (r *renderer) add(parts ...string) {
	for _, part := range parts {
		if len(part) > MaxSize {
			part = part[:MaxSize+1] // what follows is not looked at any more
		}
		r.text = append(r.text, part...)
	}
}

func (r *renderer) indent(depth int) {
	for range depth {
		r.text = append(r.text, "  "...)
	}
}

// block writes a value whose line has begun, up to the end of its last line.
func (r *renderer) block(v *value, depth int) {
	if r.full() {
		return
	}
	switch {
	case v.kind == mapping && len(v.entries) > 0:
		for i := range v.entries {
			if i > 0 {
				r.indent(depth)
			}
			r.key(v.entries[i].key, depth)
			r.child(v.entries[i].value, depth+1)
		}
	case v.kind == sequence && len(v.items) > 0:
		for i, item := range v.items {
			if i > 0 {
				r.indent(depth)
			}
			r.add("- ")
			r.block(item, depth+1)
		}
	case v.kind == mapping:
		r.add("{}\n")
	case v.kind == sequence:
		r.add("[]\n")
	case v.kind == scalar:
		r.scalar(v, depth)
	default:
		r.add("null\n")
	}
}

// child writes the value of a key that has just been written.
func (r *renderer) child(v *value, depth int) {
	switch {
	case v.kind == mapping && len(v.entries) > 0, v.kind == sequence && len(v.items) > 0:
		r.add("\n")
		r.indent(depth)
	default:
		r.add(" ")
	}
	r.block(v, depth)
}

// key writes a key with its colon. A long one is not recognised as a key unless a mark says so.
func (r *renderer) key(key string, depth int) {
	const short = 256
	text := keyText(key)
	if len(text) > short {
		r.add("? ", text, "\n")
		r.indent(depth)
		text = ""
	}
	r.add(text, ":")
}

func (r *renderer) scalar(v *value, depth int) {
	switch {
	case !v.quoted && isPlain(v.text):
		r.add(v.text, "\n")
	case isLiteral(v.text):
		// The break at the end of the last line is kept only where there is one.
		lines, mark := v.text, "|-"
		if cut, ok := strings.CutSuffix(lines, "\n"); ok {
			lines, mark = cut, "|"
		}
		r.add(mark, "\n")
		for line := range strings.SplitSeq(lines, "\n") {
			if line != "" {
				r.indent(max(depth, 1))
			}
			if r.add(line, "\n"); r.full() {
				return
			}
		}
	default:
		r.add(inQuotes(v.text), "\n")
	}
}

// keyText writes a key. One that means something else to YAML than its text stands in quotes.
func keyText(key string) string {
	if isPlain(key) && !isNull(key) {
		return key
	}
	return inQuotes(key)
}

// isNull reports whether a plain scalar means nothing.
func isNull(text string) bool {
	switch text {
	case "", "~", "null", "Null", "NULL":
		return true
	}
	return false
}

// isPlain reports whether a text is the same text without quotes. It knows fewer such texts than YAML does.
func isPlain(text string) bool {
	for i, c := range []byte(text) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', isDigit(c), c == '_', c == '/', c == '.', c == '(', c == '$':
		case c == '<' && strings.HasPrefix(text, "<+"): // an expression
		case (c == '-' || c == '+') && i+1 < len(text) && isDigit(text[i+1]): // a number
		case i == 0:
			return false
		case c == ' ' || c == ':':
			if i+1 == len(text) || text[i+1] == ' ' || c == ' ' && text[i+1] == '#' {
				return false
			}
		case strings.IndexByte("-+<>=,;()[]{}'\"!?&|*@%^~#", c) < 0:
			return false
		}
	}
	// Documents end and begin with three of these.
	return text != "" && !strings.HasPrefix(text, "...")
}

// isLiteral reports whether a text of several lines can stand as it is.
func isLiteral(text string) bool {
	if !strings.Contains(text, "\n") || strings.HasSuffix(text, "\n\n") || strings.TrimLeft(text, " \n") != text || !utf8.ValidString(text) {
		return false
	}
	for _, c := range text {
		if c != '\n' && !unicode.IsPrint(c) {
			return false
		}
	}
	return true
}

// inQuotes writes a text in double quotes.
func inQuotes(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == ' ' || unicode.IsPrint(c):
			b.WriteRune(c)
		case c < 0x100:
			b.WriteString(`\x` + hex(c, 2))
		case c < 0x10000:
			b.WriteString(`\u` + hex(c, 4))
		default:
			b.WriteString(`\U` + hex(c, 8))
		}
	}
	b.WriteByte('"')
	return b.String()
}

func hex(c rune, width int) string {
	s := strconv.FormatInt(int64(c), 16)
	return strings.Repeat("0", width-len(s)) + s
}
