package simulate

import (
	"errors"
	"fmt"

	"github.com/recourse-dev/recourse"
)

// MaxWork is the most attempts, inputs and skipped blocks of one run.
const MaxWork = 100_000

// ErrTooLong ends a run that has more than [MaxWork]: retries within retries, or loops within loops.
var ErrTooLong = errors.New("the run is too long to simulate")

// Status is how a stage or the pipeline ended. The zero value means not set.
type Status uint8

// The statuses.
const (
	Succeeded  Status = iota + 1
	Failed            // also where the rollback failed
	Ignored           // a failure was ignored, and nothing else failed
	RolledBack        // by its own rollback or by that of the pipeline
	Aborted
	Skipped    // by its `when`
	NotStarted // an abort or a pipeline rollback came first
	statusEnd
)

var statusNames = [statusEnd]string{"", "succeeded", "failed", "ignored", "rolled-back", "aborted", "skipped", "not-started"}

// StatusNames are the names of the statuses.
func StatusNames() []string { return append([]string(nil), statusNames[1:]...) }

// String returns the name, "" for the zero value.
func (s Status) String() string {
	if s >= statusEnd {
		return ""
	}
	return statusNames[s]
}

// MarshalText writes the name.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name.
func (s *Status) UnmarshalText(text []byte) error {
	for i := Succeeded; i < statusEnd; i++ {
		if statusNames[i] == string(text) {
			*s = i
			return nil
		}
	}
	return fmt.Errorf("unknown status %q", text)
}

// Stage is how one stage, or one iteration of it, ended.
type Stage struct {
	Stage  string `json:"stage"`
	Status Status `json:"status"`
	// Reason says why, in words; "" where it succeeded without more ado.
	Reason string `json:"reason"`
}

// Result is what came of a run.
type Result struct {
	Stages []Stage `json:"stages"`
	// Events in the order in which they happened.
	Events []Event `json:"events"`
	// Outcome is that of the pipeline: aborted, rolled-back by a pipeline rollback, failed where a stage failed or was rolled back, ignored
	// where a failure was ignored, else succeeded.
	Outcome Status `json:"outcome"`
	// PipelineFailed says whether the pipeline counts as failed for a `when`, by the last decision.
	PipelineFailed bool `json:"pipelineFailed"`
	// Duration is the virtual time until the last stage ended.
	Duration  recourse.Duration  `json:"duration"`
	Semantics recourse.Semantics `json:"semantics"`
	// Notes are what the run took for granted, and what of the scenario never came about.
	Notes []string `json:"notes"`

	// Records are the decisions as the journal would have them, in order.
	Records []*recourse.Record `json:"-"`
	// Attempts are how often each node ran, with iterations.
	Attempts map[recourse.Node]int `json:"-"`
}

// StatusOf returns the status of a stage that ended with an outcome (R13).
func StatusOf(o recourse.StageOutcome) Status {
	switch o {
	case recourse.OutcomeSucceeded:
		return Succeeded
	case recourse.OutcomeIgnored:
		return Ignored
	case recourse.OutcomeRolledBack, recourse.OutcomePipelineRolledBack:
		return RolledBack
	case recourse.OutcomeAborted:
		return Aborted
	default:
		return Failed
	}
}

// stage is one stage, or one iteration of it, during a run.
type stage struct {
	path  string
	frame *frame // nil until it starts
	// settled are the decisions that counted for its outcome, in order.
	settled []*recourse.Record
	outcome recourse.StageOutcome // "" until it ended, and where it was skipped
	status  Status
	reason  string

	byPipeline bool // its rollbackSteps run for a rollback of the pipeline
}

// soFar is the outcome of the stage if it ended now, not counting a rollback, and the decision that made it.
func (s *stage) soFar() (recourse.StageOutcome, *recourse.Record) {
	var failed, ignored *recourse.Record
	for _, rec := range s.settled {
		switch {
		case rec.Effect.Stage == recourse.OutcomeFailed && failed == nil:
			failed = rec
		case rec.Effect.Node == recourse.StatusIgnoreFailed && ignored == nil:
			ignored = rec
		}
	}
	switch {
	case failed != nil:
		return recourse.OutcomeFailed, failed
	case ignored != nil:
		return recourse.OutcomeIgnored, ignored
	}
	return recourse.OutcomeSucceeded, nil
}

// last returns the last decision that ended the stage in a way.
func (s *stage) last(outcome recourse.StageOutcome) *recourse.Record {
	for i := len(s.settled) - 1; i >= 0; i-- {
		if s.settled[i].Effect.Stage == outcome {
			return s.settled[i]
		}
	}
	return nil
}

// Cause says in words which decision made an outcome.
func Cause(rec *recourse.Record) string {
	if rec == nil {
		return ""
	}
	return fmt.Sprintf("%s of %s, attempt %d (%s)", rec.Action, rec.Node, rec.Attempt, rec.Reason)
}

// OutcomeText says what became of a stage, for a `when`.
func OutcomeText(o recourse.StageOutcome) string {
	switch o {
	case recourse.OutcomeIgnored:
		return "had a failure ignored"
	case recourse.OutcomeRolledBack:
		return "was rolled back"
	case recourse.OutcomeRollbackFailed:
		return "failed to roll back"
	default:
		return string(o)
	}
}
