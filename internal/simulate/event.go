package simulate

import (
	"fmt"
	"strings"

	"github.com/recourse-dev/recourse"
)

// The kinds of an event that is no decision. A decision has its own kind (recourse.KindRetryScheduled …), or KindCommand.
const (
	KindStarted   = "started"   // a stage, or what has a `when` of its own
	KindSucceeded = "succeeded" // an attempt of a step
	KindSkipped   = "skipped"   // by its `when`
	KindRollback  = "rollback"  // the rollbackSteps of a stage or group begin
	KindEnded     = "ended"     // a stage
	KindCommand   = "command"   // a decision with a command
)

// EventKinds are the kinds that an event can have.
func EventKinds() []string {
	return []string{
		KindStarted, KindSucceeded, KindSkipped, KindRollback, KindEnded, KindCommand,
		recourse.KindRetryScheduled, recourse.KindGroupRetryScheduled, recourse.KindSuperseded, recourse.KindRefused, recourse.KindClosed,
	}
}

// Event is one line of the timeline.
type Event struct {
	// At is the virtual time since the start.
	At recourse.Duration `json:"at"`
	// Node is the path with iterations; a failure's, or of what the event is about.
	Node    string           `json:"node"`
	Section recourse.Section `json:"section,omitzero"`
	// Attempt is 1-based, 0 where the event is not about one.
	Attempt int    `json:"attempt"`
	Kind    string `json:"kind"`
	// Action, Reason and Verb are those of a decision; "" on other events, Verb also on a decision without a command.
	Action recourse.Action `json:"action"`
	Reason recourse.Reason `json:"reason"`
	Verb   recourse.Verb   `json:"verb"`

	// Scope is that of the command.
	Scope string `json:"scope,omitzero"`
	// Errors are those the decision counted with; absent where it is not about a new failure.
	Errors   recourse.ErrorTypes `json:"errors,omitzero"`
	ExitCode *int                `json:"exitCode,omitzero"`
	Level    recourse.Level      `json:"level,omitzero"`
	Strategy string              `json:"strategy,omitzero"`
	// Delay is the wait before a retry; absent for at once.
	Delay recourse.Duration `json:"delay,omitzero"`
	// Retry is which retry it is, 1-based, of how many; absent on everything else.
	Retry   int `json:"retry,omitzero"`
	Retries int `json:"retries,omitzero"`
	// Until is when an intervention times out, OnTimeout what follows then.
	Until     recourse.Duration `json:"until,omitzero"`
	OnTimeout recourse.Action   `json:"onTimeout,omitzero"`
	// Supersedes are the nodes whose waits the decision ends, for a retry or an answer (R11).
	Supersedes []string `json:"supersedes,omitzero"`
	// Version is that of the record, 1-based; absent on events that are no decision.
	Version uint64 `json:"version,omitzero"`
	// Status is that of a stage that ended.
	Status Status `json:"status,omitzero"`
	// Why, in words.
	Why string `json:"why,omitzero"`

	answered recourse.Action // that was answered; 0 where it is no answer
}

// Text says in words what happened, without time and node.
func (e *Event) Text() string {
	switch e.Kind {
	case KindStarted:
		return because("runs", e.Why)
	case KindSucceeded:
		return fmt.Sprintf("attempt %d succeeded", e.Attempt)
	case KindSkipped:
		return because("skipped", e.Why)
	case KindRollback:
		return because("rollbackSteps begin", e.Why)
	case KindEnded:
		return because("stage "+e.Status.String(), e.Why)
	}
	var b strings.Builder
	switch {
	case e.answered != 0:
		fmt.Fprintf(&b, "somebody answers %s", e.answered)
	case e.Reason == recourse.RetryDue:
		b.WriteString("the wait is over")
	case e.Reason == recourse.InterventionTimedOut, e.Errors == 0:
		b.WriteString("nobody answered")
	default:
		fmt.Fprintf(&b, "attempt %d failed: %s", e.Attempt, strings.ReplaceAll(e.Errors.String(), ",", "+"))
		if e.ExitCode != nil {
			fmt.Fprintf(&b, ", exit code %d", *e.ExitCode)
		}
	}
	b.WriteString(" → ")
	b.WriteString(e.outcome())
	b.WriteString(e.basis())
	if len(e.Supersedes) > 0 {
		b.WriteString("; supersedes the wait of " + strings.Join(e.Supersedes, ", "))
	}
	return b.String()
}

// outcome is what the decision comes to.
func (e *Event) outcome() string {
	var s string
	switch {
	case e.Kind == recourse.KindRetryScheduled:
		s = fmt.Sprintf("%s in %s", recourse.VerbRetry, e.Delay)
	case e.Kind == recourse.KindGroupRetryScheduled:
		s = fmt.Sprintf("%s in %s", recourse.VerbRetryGroup, e.Delay)
	case e.Kind != KindCommand:
		return e.Kind + ": " + e.Why
	case e.Verb == recourse.VerbRetry && e.Retries != 0:
		return fmt.Sprintf("retry %d of %d, attempt %d", e.Retry, e.Retries, e.Attempt+1)
	case e.Verb == recourse.VerbRetry:
		s = fmt.Sprintf("retry, attempt %d", e.Attempt+1)
	case e.Verb == recourse.VerbPause:
		return fmt.Sprintf("pause until t+%s, then %s", e.Until, e.OnTimeout)
	default:
		s = e.Verb.String()
		if e.Scope != "" && e.Scope != e.Node {
			s += " " + e.Scope
		}
	}
	if e.Retry != 0 && e.Retries != 0 {
		s += fmt.Sprintf(", retry %d of %d", e.Retry, e.Retries)
	}
	if e.Why != "" {
		s += ", " + e.Why
	}
	return s
}

// basis is reason and level.
func (e *Event) basis() string {
	if e.Kind != KindCommand && e.Kind != recourse.KindRetryScheduled && e.Kind != recourse.KindGroupRetryScheduled {
		return ""
	}
	if e.Level == recourse.LevelNone {
		return " (" + e.Reason.String() + ")"
	}
	return " (" + e.Reason.String() + ", " + e.Level.String() + ")"
}

// because joins what happens and why.
func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}
