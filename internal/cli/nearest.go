package cli

import (
	"fmt"
	"slices"
	"strings"
)

// DidYouMean is what to add to a message about a name nobody knows: the nearest known one, or all of them.
func DidYouMean(text string, known []string) string {
	if name := nearest(text, known); name != "" {
		return fmt.Sprintf("did you mean %s?", name)
	}
	const most = 30
	if len(known) > most {
		return fmt.Sprintf("known are %s and %d more", strings.Join(known[:most], ", "), len(known)-most)
	}
	return "known are " + strings.Join(known, ", ")
}

// nearest returns the known name with the fewest edits, up to a third of its length and at least two; "" where none is as close.
func nearest(text string, known []string) string {
	text = strings.ToLower(text)
	best, fewest := "", 0
	for _, name := range known {
		lower := strings.ToLower(name)
		most := max(2, len(name)/3)
		if len(text) > len(lower)+most || len(lower) > len(text)+most {
			continue
		}
		if n := edits([]rune(text), []rune(lower)); n <= most && n < max(len(text), 1) && (best == "" || n < fewest) {
			best, fewest = name, n
		}
	}
	return best
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
			row[j] = slices.Min([]int{replace, last[j] + 1, row[j-1] + 1})
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
