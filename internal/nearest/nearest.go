// Package nearest says which known name somebody most likely meant: a pure function of the text and the names, for messages alone.
package nearest

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// maxText is the length, in runes, of the longest text that is compared.
const maxText = 256

// Name returns the known name that is closest to the text, and "" where none is close. Case does not count. A name is close that the
// text is a beginning of, or that is a beginning of the text (Auth, AuthenticationError): of three letters at least, and within a word. So
// is one with few edits: up to a third of its length, two at least, and fewer than the text is long.
func Name(text string, known []string) string {
	letters := []rune(strings.ToLower(text))
	if len(letters) == 0 || len(letters) > maxText {
		return ""
	}
	best, fewest, lowest := "", 0, 0
	for _, name := range known {
		lower := []rune(strings.ToLower(name))
		most := max(2, len(lower)/3)
		begins := begins(letters, lower) || begins(lower, letters)
		if !begins && max(len(letters)-len(lower), len(lower)-len(letters)) > most {
			continue // more edits than most
		}
		all := edits(letters, lower)
		n := all
		if begins {
			n = min(n, 2)
		}
		if n <= most && n < len(letters) && (best == "" || n < fewest || n == fewest && all < lowest) {
			best, fewest, lowest = name, n, all
		}
	}
	return best
}

// begins reports whether a word of text goes on where prefix ends.
func begins(text, prefix []rune) bool {
	n := len(prefix)
	return n >= 3 && n < len(text) && slices.Equal(text[:n], prefix) && unicode.IsLetter(text[n])
}

// Hint is what to add to a message about a name nobody knows: the nearest known one, or all of them where they are not too many.
func Hint(text string, known []string) string {
	if name := Name(text, known); name != "" {
		return fmt.Sprintf("did you mean %s?", name)
	}
	const most = 30
	if len(known) > most {
		return fmt.Sprintf("known are %s and %d more", strings.Join(known[:most], ", "), len(known)-most)
	}
	return "known are " + strings.Join(known, ", ")
}

// edits counts the insertions, removals, replacements and swaps of neighbours that turn a into b.
func edits(a, b []rune) int {
	var before, last []int // the rows for a[:i-1] and a[:i]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
