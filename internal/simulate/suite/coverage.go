package suite

import (
	"cmp"
	"slices"

	"github.com/recourse-dev/recourse"
)

// Strategy is a failure strategy of a pipeline that is tested.
type Strategy struct {
	File   string              `json:"file"`   // of the pipeline, or of a template
	Line   int                 `json:"line"`   // 1-based
	Column int                 `json:"column"` // 1-based
	Path   string              `json:"path"`   // in the YAML
	Node   string              `json:"node"`
	Level  recourse.Level      `json:"level"`
	Errors recourse.ErrorTypes `json:"errors"`
	Action recourse.Action     `json:"action"`
}

// Coverage says which strategies have decided a failure of a test.
type Coverage struct {
	Strategies int `json:"strategies"`
	Reached    int `json:"reached"`
	// Percent is rounded down; 100 where there are no strategies.
	Percent int `json:"percent"`
	// Missed are in the order of the pipelines' paths and of the places in them.
	Missed []Strategy `json:"missed"`
}

// Cover joins what the tests of several files have reached, each pipeline once.
func Cover(reports []*Report) *Coverage {
	type key struct{ file, path string }
	reached := make(map[key]bool)
	for _, r := range reports {
		for path := range r.reached {
			reached[key{r.Pipeline, path}] = true
		}
	}
	c := &Coverage{Percent: 100, Missed: []Strategy{}}
	seen := make(map[key]bool)
	for _, r := range reports {
		for _, s := range r.strategies {
			at := key{r.Pipeline, s.Path}
			if seen[at] {
				continue
			}
			seen[at] = true
			if c.Strategies++; reached[at] {
				c.Reached++
			} else {
				c.Missed = append(c.Missed, s)
			}
		}
	}
	slices.SortFunc(c.Missed, func(a, b Strategy) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if c.Strategies > 0 {
		c.Percent = 100 * c.Reached / c.Strategies
	}
	return c
}
