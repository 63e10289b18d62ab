package recourse

import "bytes"

// plainReader reads the messages that nearly all are, without reflection: JSON of known keys, each once, texts without escapes in ASCII,
// and small numbers. It knows no errors: what is written in another way is left to the strict decoder, which then says what is wrong
// with it, or nothing. What it does take, that decoder takes too, with the same result.
type plainReader struct {
	b   []byte
	i   int    // of the next byte
	ids []byte // the texts that are kept as long as the execution is: one piece of memory, without the message
}

// The keys of a failure, in the order of their bits.
var failureKeys = [...]string{
	"account", "org", "project", "pipeline", "execution", "node", // the ids, of which a string is made together
	"schema", "section", "attempt", "errors", "message", "exitCode", "target", "retryAfter", "at",
}

// failure reads a failure, and reports whether it could. Where it could not, f is as it happens to be.
func (r *plainReader) failure(f *Failure) bool {
	ids := [6]*string{&f.Account, &f.Org, &f.Project, &f.Pipeline, &f.Execution, &f.Path}
	var at [6][2]int
	var seen uint32
	if !r.take('{') {
		return false
	}
	for first := true; !r.take('}'); first = false {
		if !first && !r.take(',') {
			return false
		}
		key, ok := r.text()
		if !ok || !r.take(':') {
			return false
		}
		n := failureKey(key)
		if n < 0 || seen&(1<<n) != 0 {
			return false
		}
		seen |= 1 << n
		if n < len(ids) {
			text, ok := r.text()
			if !ok {
				return false
			}
			at[n][0] = len(r.ids)
			r.ids = append(r.ids, text...)
			at[n][1] = len(r.ids)
			continue
		}
		if !r.member(f, failureKeys[n]) {
			return false
		}
	}
	if r.blank(); r.i != len(r.b) || f.Schema > Schema {
		return false
	}
	all := string(r.ids)
	for n, id := range ids {
		*id = all[at[n][0]:at[n][1]]
	}
	return true
}

func failureKey(key []byte) int {
	for n, known := range failureKeys {
		if string(key) == known {
			return n
		}
	}
	return -1
}

// member reads the value of a key that is not an id.
func (r *plainReader) member(f *Failure, key string) (ok bool) {
	switch key {
	case "schema":
		f.Schema, ok = r.number()
		return ok
	case "attempt":
		f.Attempt, ok = r.number()
		return ok
	case "exitCode":
		n, ok := r.number()
		f.ExitCode = &n
		return ok
	case "errors":
		return r.errors(&f.Errors)
	}
	text, ok := r.text()
	if !ok {
		return false
	}
	switch key {
	case "section":
		return f.Section.UnmarshalText(text) == nil
	case "message":
		f.Message = string(text)
	case "target":
		f.Target = string(text)
	case "retryAfter":
		return f.RetryAfter.UnmarshalText(text) == nil
	case "at":
		return isInstant(text) && f.At.UnmarshalText(text) == nil
	}
	return true
}

// isInstant reports whether a text is an instant in UTC with all its digits: 2006-01-02T15:04:05Z, or with a fraction of a second.
func isInstant(text []byte) bool {
	const layout = "dddd-dd-ddTdd:dd:dd"
	if len(text) <= len(layout) || text[len(text)-1] != 'Z' {
		return false
	}
	for i, want := range []byte(layout) {
		if want == 'd' && !isDigit(text[i]) || want != 'd' && text[i] != want {
			return false
		}
	}
	fraction := text[len(layout) : len(text)-1]
	return len(fraction) == 0 || fraction[0] == '.' && len(fraction) > 1 && skip(string(fraction), 1, isDigit) == len(fraction)
}

// errors reads a list of names of error types as they are written.
func (r *plainReader) errors(set *ErrorTypes) bool {
	if !r.take('[') {
		return false
	}
	for first := true; !r.take(']'); first = false {
		if !first && !r.take(',') {
			return false
		}
		name, ok := r.text()
		if !ok {
			return false
		}
		n, ok := errorTypesByName[string(name)]
		if !ok {
			return false
		}
		*set |= 1 << n
	}
	return true
}

func (r *plainReader) blank() {
	for r.i < len(r.b) && (r.b[r.i] == ' ' || r.b[r.i] == '\n' || r.b[r.i] == '\t' || r.b[r.i] == '\r') {
		r.i++
	}
}

// take passes over blanks and a byte, if that is the next.
func (r *plainReader) take(c byte) bool {
	if r.blank(); r.i == len(r.b) || r.b[r.i] != c {
		return false
	}
	r.i++
	return true
}

// text reads a text that needs no escapes.
func (r *plainReader) text() ([]byte, bool) {
	if !r.take('"') {
		return nil, false
	}
	n := bytes.IndexByte(r.b[r.i:], '"')
	if n < 0 || !plain(r.b[r.i:r.i+n]) {
		return nil, false
	}
	text := r.b[r.i : r.i+n]
	r.i += n + 1
	return text, true
}

// number reads a number from 0 to 999,999,999.
func (r *plainReader) number() (n int, ok bool) {
	r.blank()
	start := r.i
	for r.i < len(r.b) && isDigit(r.b[r.i]) && r.i-start < 10 {
		n = n*10 + int(r.b[r.i]-'0')
		r.i++
	}
	digits := r.i - start
	return n, digits == 1 || digits > 1 && digits < 10 && r.b[start] != '0'
}
