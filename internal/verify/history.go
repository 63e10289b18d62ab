package verify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// History is what the streams hold. Nothing is left out at the beginning, and all inputs are settled.
type History struct {
	Inbox, Journal, Rejected []Message
	// Plan, Now, Grace and Skew are as in [Config].
	Plan  func(ref recourse.Ref, revision uint64, semantics recourse.Semantics) *decide.Plan
	Now   time.Time
	Grace time.Duration
	Skew  time.Duration
}

// Check returns what is violated, in order.
func Check(h History) []Violation {
	var found []Violation
	next := 0
	var c *Checker
	c = New(Config{
		Plan: h.Plan, Now: h.Now, Grace: h.Grace, Skew: h.Skew, Settled: ^uint64(0),
		Report: func(v Violation) { found = append(found, v) },
		Advance: func(sequence uint64) error {
			for ; next < len(h.Inbox) && h.Inbox[next].Sequence <= sequence; next++ {
				c.Input(h.Inbox[next])
			}
			return nil
		},
	})
	err := func() error {
		for _, msg := range h.Rejected {
			if err := c.Rejected(msg); err != nil {
				return err
			}
		}
		for _, msg := range h.Journal {
			if err := c.Record(msg); err != nil {
				return err
			}
		}
		if err := c.cfg.Advance(^uint64(0)); err != nil {
			return err
		}
		return c.Finish(nil)
	}()
	if err != nil { // nothing is read here that could fail
		panic(err)
	}
	slices.SortStableFunc(found, func(a, b Violation) int {
		return cmp.Or(strings.Compare(a.Where, b.Where), cmp.Compare(a.Sequence, b.Sequence), strings.Compare(a.Invariant, b.Invariant))
	})
	return found
}

// Join returns the violations on lines of their own, at most so many.
func Join(violations []Violation, most int) string {
	var b strings.Builder
	for i, v := range violations {
		if i == most {
			fmt.Fprintf(&b, "\n… and %d more", len(violations)-most)
			break
		}
		fmt.Fprintf(&b, "\n%s", v)
	}
	return b.String()
}
