package history

import (
	"slices"
	"time"

	"github.com/recourse-dev/recourse"
)

// Timeline is the story of one execution.
type Timeline struct {
	// Execution is account/org/project/pipeline/execution.
	Execution string       `json:"execution"`
	Ref       recourse.Ref `json:"ids"`
	// Pipelines are the revisions that decided, in the order of their use; nearly always one.
	Pipelines []recourse.PipelineRevision `json:"pipelineRevisions"`
	Semantics recourse.Semantics          `json:"semantics"`
	// Began and Last are the clock values of the first and the last record (UTC).
	Began time.Time `json:"began"`
	Last  time.Time `json:"last"`
	// End is finished, aborted or open.
	End string `json:"end"`
	// Failed says whether the pipeline counts as failed for a `when`.
	Failed bool `json:"failed"`
	// Missing is how many records before the first one are not kept any more.
	Missing uint64 `json:"missing"`
	Counts  Counts `json:"counts"`
	// Pending are the waits nothing has ended yet.
	Pending []recourse.Wait `json:"pending"`
	Entries []Entry         `json:"entries"`
}

// Counts are what an execution came to.
type Counts struct {
	Failures      int `json:"failures"`
	Retries       int `json:"retries"` // commands retry and retry-group
	Interventions int `json:"interventions"`
	Answers       int `json:"answers"`
	Commands      int `json:"commands"`
}

// Entry is one record and what became of it.
type Entry struct {
	Sequence uint64 `json:"sequence"` // in the journal
	// After is how long after the first record it was decided, ≥ 0.
	After recourse.Duration `json:"after"`
	// Rule names the rules the reason stands for: R2 to R12.
	Rule  string `json:"rule"`
	Trace string `json:"trace,omitzero"`
	// Ended is what became of the record's wait; absent where it has none.
	Ended *End `json:"ended,omitzero"`
	// Record is as the journal has it, without the state.
	Record *recourse.Record `json:"record"`

	waited *recourse.Wait // that the record ends, nil where it ends none or that is not known
}

// How a wait ended.
const (
	Fired      = "fired"      // it came due: the retry ran, or nobody had answered in time
	Answered   = "answered"   // by a person
	RunNow     = "run-now"    // by a person, before it was due
	Postponed  = "postponed"  // by a person: another wait took its place
	GivenUp    = "given-up"   // by a person: what follows the last retry followed
	Superseded = "superseded" // by a rollback, an abort, a group retry or a newer failure (R11)
	Closed     = "closed"     // with the execution
	Pending    = "pending"    // not yet due
	Overdue    = "overdue"    // due, and nothing has ended it
)

// End is what became of a wait.
type End struct {
	How string `json:"how"`
	// Version is that of the record that ended it; absent while it is pending.
	Version uint64 `json:"version,omitzero"`
	// Waited is how long it has waited, until it ended or until now; Late how long after it was due that was, 0 where it was not.
	Waited recourse.Duration `json:"waited"`
	Late   recourse.Duration `json:"late,omitzero"`
}

// rules of the reasons.
var rules = map[recourse.Reason]string{
	recourse.StrategyMatched: "R2, R3, R4", recourse.NoStrategy: "R6", recourse.RetriesExhausted: "R8", recourse.RetryDue: "R8",
	recourse.HumanDecision: "R9", recourse.InterventionTimedOut: "R9", recourse.Superseded: "R11", recourse.ExecutionEnded: "R11",
	recourse.Stale: "R12", recourse.Conflicting: "R12", recourse.AnswerRefused: "R9", recourse.LifecycleReported: "R11",
}

// Of makes the timeline of a chain, which has at least one record; now is what pending waits are measured with.
func Of(chain []Message, now time.Time) *Timeline {
	first, last := chain[0], chain[len(chain)-1]
	t := &Timeline{
		Execution: last.Ref.String(), Ref: last.Ref, Semantics: last.Semantics, Began: first.At, Last: last.At, End: "open",
		Missing: first.Version - 1, Pipelines: []recourse.PipelineRevision{}, Pending: []recourse.Wait{},
	}
	byVersion := map[uint64]int{}
	for _, msg := range chain {
		rec := *msg.Record
		rec.State = nil
		e := Entry{
			Sequence: msg.Sequence, After: recourse.Duration(max(rec.At.Sub(t.Began), 0)), Rule: rules[rec.Reason], Trace: msg.Trace, Record: &rec,
		}
		if rec.Input.Control != nil && rec.Reason == recourse.HumanDecision {
			e.Rule = "R8"
		}
		t.count(&rec)
		if p := rec.Pipeline; p.Revision != 0 && !slices.Contains(t.Pipelines, p) {
			t.Pipelines = append(t.Pipelines, p)
		}
		for _, version := range rec.Cancelled {
			if i, known := byVersion[version]; known {
				t.Entries[i].Ended = ended(&rec, t.Entries[i].Record)
			}
		}
		if i, known := byVersion[rec.Ends]; known {
			e.waited = &t.Entries[i].Record.Wait
			t.Entries[i].Ended = ended(&rec, t.Entries[i].Record)
		}
		t.Entries = append(t.Entries, e)
		if rec.Wait.Version != 0 {
			byVersion[rec.Version] = len(t.Entries) - 1
		}
	}
	for i := range t.Entries {
		if e := &t.Entries[i]; e.Record.Wait.Version != 0 && e.Ended == nil {
			e.Ended = pending(e.Record, now)
			t.Pending = append(t.Pending, e.Record.Wait)
		}
	}
	if state := last.State; state != nil { // also those whose records are not kept any more
		for _, w := range state.Waits {
			if w.Version < first.Version {
				t.Pending = append(t.Pending, w)
			}
		}
	}
	return t
}

func (t *Timeline) count(rec *recourse.Record) {
	if rec.Input.Failure != nil {
		t.Counts.Failures++
	}
	if rec.Input.Answer != nil {
		t.Counts.Answers++
	}
	switch rec.Command.Verb {
	case 0:
	case recourse.VerbRetry, recourse.VerbRetryGroup:
		t.Counts.Retries++
		t.Counts.Commands++
	case recourse.VerbPause:
		t.Counts.Interventions++
		t.Counts.Commands++
	default:
		t.Counts.Commands++
	}
	t.Failed = t.Failed || rec.Effect.PipelineFailed
	if event := rec.Input.Lifecycle; event != 0 && t.End == "open" {
		t.End = event.String()
	}
	if rec.Command.Verb == recourse.VerbAbort && rec.Command.Scope == "" && t.End == "open" {
		t.End = recourse.Aborted.String()
	}
}

// ended says how a record ended the wait of another.
func ended(by, of *recourse.Record) *End {
	e := &End{How: Superseded, Version: by.Version, Waited: recourse.Duration(max(by.At.Sub(of.At), 0))}
	switch {
	case by.Ends != of.Version && by.Input.Lifecycle != 0:
		e.How = Closed
	case by.Ends != of.Version:
	case by.Input.Due != 0:
		e.How, e.Late = Fired, recourse.Duration(max(by.At.Sub(of.Wait.DueAt), 0))
	case by.Input.Answer != nil:
		e.How = Answered
	case by.Input.Control != nil:
		e.How = controls[by.Input.Control.Do]
	}
	return e
}

var controls = map[recourse.ControlVerb]string{recourse.RunNow: RunNow, recourse.Postpone: Postponed, recourse.Cancel: GivenUp}

func pending(rec *recourse.Record, now time.Time) *End {
	e := &End{How: Pending, Waited: recourse.Duration(max(now.Sub(rec.At), 0))}
	if late := now.Sub(rec.Wait.DueAt); late > 0 {
		e.How, e.Late = Overdue, recourse.Duration(late)
	}
	return e
}
