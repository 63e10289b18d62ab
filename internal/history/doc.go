// Package history tells the story of one execution from the journal alone: what failed, what was decided and why, what was waited for
// and what became of each wait, which commands went out, who answered.
//
// [Find] turns what a person typed into an execution, [Read] reads its chain, and [Of] makes the timeline, which is pure. [Entry.Lines]
// has the wording; the table and the page ([WriteHTML]) only lay it out.
//
// It does not check the journal (internal/verify does), and it knows nothing of rejected inputs, which have no record, nor of what an
// orchestrator made of a command: that shows in the next failure, or in its absence.
package history
