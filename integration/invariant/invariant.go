// Package invariant is internal/verify for the tests that read streams: what must hold whatever failed meanwhile.
package invariant

import "github.com/recourse-dev/recourse/internal/verify"

// What the tests use of the checker.
type (
	Message   = verify.Message
	History   = verify.History
	Violation = verify.Violation
)

// Check returns what is violated, in order.
func Check(h History) []Violation { return verify.Check(h) }

// Join returns the violations on lines of their own, at most so many.
func Join(violations []Violation, most int) string { return verify.Join(violations, most) }
