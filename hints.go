package recourse

import (
	"math/bits"
	"strings"
)

// hinted finds which of the secrets a text may have.
var hinted = newHintFinder(secrets)

// shapeSet is a set of places in a list of secrets, up to 64.
type shapeSet uint64

// hintFinder finds the hints of secrets in a text, in either case, in one pass: it looks at each two neighbouring bytes, and compares
// further only where a hint begins with these.
type hintFinder struct {
	secrets []secret
	hints   []hint
	class   [256]uint8    // of a byte, the same for both cases; 0 for what no hint has
	pair    [64][64]uint8 // of two classes, where a hint begins with them
	begins  [64][]uint8   // the hints that begin with a pair
}

type hint struct {
	text string
	of   shapeSet
}

func newHintFinder(secrets []secret) *hintFinder {
	f := &hintFinder{secrets: secrets}
	places := make(map[string]int)
	for i, s := range secrets {
		for _, text := range s.hints {
			at, known := places[text]
			if !known {
				at = len(f.hints)
				places[text] = at
				f.hints = append(f.hints, hint{text: text})
			}
			f.hints[at].of |= 1 << i
		}
	}
	classes, pairs := uint8(0), uint8(0)
	for i, h := range f.hints {
		for _, c := range []byte(h.text) {
			if f.class[c] == 0 {
				classes++
				f.class[c] = classes
				if 'a' <= c && c <= 'z' {
					f.class[c-'a'+'A'] = classes
				}
			}
		}
		pair := &f.pair[f.class[h.text[0]]][f.class[h.text[1]]]
		if *pair == 0 {
			pairs++
			*pair = pairs
		}
		f.begins[*pair] = append(f.begins[*pair], uint8(i))
	}
	return f
}

// find returns the secrets that a text may have. Where letters outside ASCII fold to ones inside it, these are all.
func (f *hintFinder) find(text string) (found shapeSet) {
	var before, all uint8
	for i := 0; i < len(text); i++ {
		all |= text[i]
		class := f.class[text[i]] & 63
		if pair := f.pair[before&63][class]; pair != 0 {
			for _, n := range f.begins[pair&63] {
				found |= f.at(text, i-1, &f.hints[n], found)
			}
		}
		before = class
	}
	if all >= 0x80 && strings.ContainsAny(text, "\u212a\u017f") { // the Kelvin sign and the long s
		return 1<<len(f.secrets) - 1
	}
	return found
}

// at returns the secrets that a text may have for a hint that may begin at start, without those that were found before.
func (f *hintFinder) at(text string, start int, h *hint, found shapeSet) shapeSet {
	left := h.of &^ found
	if left == 0 || !hasPrefixFold(text[start:], h.text) {
		return 0
	}
	may := left
	for ; left != 0; left &= left - 1 {
		i := bits.TrailingZeros64(uint64(left))
		if near := f.secrets[i].near; near != nil && !near(text, start, start+len(h.text)) {
			may &^= 1 << i
		}
	}
	return may
}

// hasPrefixFold reports whether a text begins with a prefix that is in lower case.
func hasPrefixFold(text, prefix string) bool {
	if len(text) < len(prefix) {
		return false
	}
	for i := 0; i < len(prefix); i++ {
		if lower(text[i]) != prefix[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func isLetter(c byte) bool { c = lower(c); return 'a' <= c && c <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isBlank(c byte) bool  { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' }

// skip returns the first place from i on whose byte is not one of those wanted.
func skip(text string, i int, wanted func(byte) bool) int {
	for i < len(text) && wanted(text[i]) {
		i++
	}
	return i
}

// assignedFrom reports whether an assignment follows at i: backslashes, a quote, blanks, and then a colon or an equals sign.
func assignedFrom(text string, i int) bool {
	i = skip(text, i, func(c byte) bool { return c == '\\' })
	if i < len(text) && (text[i] == '"' || text[i] == '\'') {
		i++
	}
	i = skip(text, i, isBlank)
	return i < len(text) && (text[i] == ':' || text[i] == '=')
}

// assigned reports whether the name that the hint is part of is given a value. A key must be one of those that are secret.
func assigned(text string, start, end int) bool {
	end = skip(text, end, func(c byte) bool { return isLetter(c) || isDigit(c) || c == '_' || c == '.' || c == '-' })
	if !assignedFrom(text, end) {
		return false
	}
	return !hasPrefixFold(text[start:], "key") || isSecretKey(text[:start])
}

// isSecretKey reports whether a key is a secret by what stands before the word.
func isSecretKey(before string) bool {
	if n := len(before); n > 0 && (before[n-1] == '.' || before[n-1] == '_' || before[n-1] == '-') {
		before = before[:n-1]
	}
	for _, kind := range [...]string{
		"api", "access", "account", "private", "signing", "encryption", "master", "shared", "auth", "client", "deploy", "license", "subscription",
	} {
		if n := len(before) - len(kind); n >= 0 && hasPrefixFold(before[n:], kind) {
			return true
		}
	}
	return false
}

// assignedWord reports whether the hint is a word, or begins "signature", that is given a value.
func assignedWord(text string, start, end int) bool {
	if start > 0 && isLetter(text[start-1]) {
		return false
	}
	if hasPrefixFold(text[start:], "signature") {
		end = start + len("signature")
	}
	return assignedFrom(text, end)
}

// beforeToken reports whether something that is not a word follows the hint.
func beforeToken(text string, _, end int) bool {
	from := skip(text, end, isBlank)
	to := skip(text, from, func(c byte) bool { return isLetter(c) || isDigit(c) || strings.IndexByte("._~+/=-", c) >= 0 })
	return from > end && (to-from >= 24 || strings.ContainsAny(text[from:to], "0123456789=_~+/"))
}

// inOption reports whether the hint is part of an option of a command that is followed by a value.
func inOption(text string, start, end int) bool {
	inName := func(c byte) bool { return isLetter(c) || isDigit(c) || c == '-' }
	end = skip(text, end, inName)
	if end == len(text) || !isBlank(text[end]) {
		return false
	}
	for start > 0 && inName(text[start-1]) {
		start--
		if text[start] == '-' {
			return true
		}
	}
	return false
}

// atWord reports whether the hint stands at the beginning of a word, or behind another hyphen.
func atWord(text string, start, _ int) bool {
	return start == 0 || isBlank(text[start-1]) || text[start-1] == '-'
}

// hasUser reports whether an at sign follows the hint before the host of a URL ends.
func hasUser(text string, _, end int) bool {
	for i := end; i < len(text); i++ {
		switch c := text[i]; {
		case c == '@' && i > end:
			return true
		case isBlank(c), strings.IndexByte(`/?#"'<>`, c) >= 0:
			return false
		}
	}
	return false
}
