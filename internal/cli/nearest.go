package cli

import "github.com/recourse-dev/recourse/internal/nearest"

// DidYouMean is what to add to a message about a name nobody knows: the nearest known one, or all of them.
func DidYouMean(text string, known []string) string { return nearest.Hint(text, known) }
