package run

import (
	"fmt"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/simulate"
)

// The kinds of an event.
const (
	KindBegin     = "begin"     // the execution
	KindResumed   = "resumed"   // the execution goes on
	KindNote      = "note"      // something to know
	KindStarted   = "started"   // a stage or step group, or what has a `when` of its own
	KindSkipped   = "skipped"   // by its `when`
	KindRunning   = "running"   // an attempt
	KindOutput    = "output"    // a line of an attempt
	KindSucceeded = "succeeded" // an attempt
	KindFailed    = "failed"    // an attempt
	KindKilled    = "killed"    // an attempt
	KindDecision  = "decision"  // a record of the chain, with or without a command
	KindRollback  = "rollback"  // the rollbackSteps of a stage or group begin
	KindEnded     = "ended"     // a stage
	KindFinished  = "finished"  // the execution
)

// Event is something that happened in a run.
type Event struct {
	At time.Time `json:"at"`
	// Since is the time since the run began, or went on.
	Since   recourse.Duration `json:"since"`
	Kind    string            `json:"kind"`
	Node    string            `json:"node,omitzero"`
	Section recourse.Section  `json:"section,omitzero"`
	Attempt int               `json:"attempt,omitzero"`

	// Execution is account/org/project/pipeline/execution, Server where the workers are, Dir where journal and logs are.
	Execution string `json:"execution,omitzero"`
	Server    string `json:"server,omitzero"`
	Dir       string `json:"dir,omitzero"`

	// Line is one of an output.
	Line *string `json:"line,omitzero"`

	// Of a failure:

	Errors   recourse.ErrorTypes `json:"errors,omitzero"`
	ExitCode *int                `json:"exitCode,omitzero"`
	Message  string              `json:"message,omitzero"`

	// Of a decision; Decision is the kind of one without a command.

	Version  uint64          `json:"version,omitzero"`
	Decision string          `json:"decision,omitzero"`
	Verb     recourse.Verb   `json:"verb,omitzero"`
	Scope    string          `json:"scope,omitzero"`
	Action   recourse.Action `json:"action,omitzero"`
	Reason   recourse.Reason `json:"reason,omitzero"`
	Level    recourse.Level  `json:"level,omitzero"`
	Strategy string          `json:"strategy,omitzero"`
	Who      string          `json:"who,omitzero"`
	// Next is the attempt that a retry starts, Delay how long it waits before, Until when that or an intervention is over.
	Next  int               `json:"next,omitzero"`
	Delay recourse.Duration `json:"delay,omitzero"`
	Until time.Time         `json:"until,omitzero"`
	// Allowed are the answers to an intervention, OnTimeout is what follows without one, Answer is a command line that answers.
	Allowed   recourse.Actions `json:"allowed,omitzero"`
	OnTimeout recourse.Action  `json:"onTimeout,omitzero"`
	Answer    string           `json:"answer,omitzero"`

	// Status is that of a stage or of the execution that ended, Stages are those of all stages then.
	Status simulate.Status `json:"status,omitzero"`
	Stages []Stage         `json:"stages,omitzero"`
	// Why, in words.
	Why string `json:"why,omitzero"`
}

// Text says in words what happened, without time and node.
func (e *Event) Text() string {
	switch e.Kind {
	case KindBegin:
		return fmt.Sprintf("execution %s, %s", e.Execution, e.Server)
	case KindResumed:
		return fmt.Sprintf("execution %s goes on, %s: %s", e.Execution, e.Server, e.Why)
	case KindNote:
		return e.Why
	case KindStarted:
		return because("starts", e.Why)
	case KindSkipped:
		return because("skipped", e.Why)
	case KindRunning:
		return fmt.Sprintf("attempt %d", e.Attempt)
	case KindSucceeded:
		return fmt.Sprintf("attempt %d succeeded", e.Attempt)
	case KindKilled:
		return fmt.Sprintf("attempt %d was killed", e.Attempt)
	case KindFailed:
		return because(fmt.Sprintf("attempt %d failed, %s", e.Attempt, strings.ReplaceAll(e.Errors.String(), ",", "+")), e.Message)
	case KindDecision:
		return e.decision()
	case KindRollback:
		return because("rollbackSteps begin", e.Why)
	case KindEnded:
		return because("stage "+e.Status.String(), e.Why)
	case KindFinished:
		return because("execution "+e.Status.String(), e.Why)
	}
	return e.Kind
}

// decision says what was decided, by whom and for what reason.
func (e *Event) decision() string {
	var b strings.Builder
	fmt.Fprintf(&b, "→ ")
	switch {
	case e.Decision == recourse.KindRetryScheduled, e.Decision == recourse.KindGroupRetryScheduled, e.Decision == recourse.KindRetryPostponed:
		fmt.Fprintf(&b, "%s in %s", strings.TrimSuffix(e.Action.Verb().String(), "-"), e.Delay)
	case e.Decision != "":
		b.WriteString(e.Decision)
	case e.Verb == recourse.VerbRetry:
		fmt.Fprintf(&b, "retry, attempt %d", e.Next)
	case e.Verb == recourse.VerbPause:
		fmt.Fprintf(&b, "pause until %s, then %s", e.Until.Local().Format(time.DateTime), e.OnTimeout)
	default:
		b.WriteString(e.Verb.String())
		if e.Scope != "" && e.Scope != e.Node {
			b.WriteString(" " + e.Scope)
		}
	}
	parts := []string{e.Reason.String()}
	if e.Level != recourse.LevelNone {
		parts = append(parts, e.Level.String())
	}
	if e.Who != "" {
		parts = append(parts, "by "+e.Who)
	}
	fmt.Fprintf(&b, " (%s)", strings.Join(parts, ", "))
	if e.Why != "" {
		b.WriteString(": " + e.Why)
	}
	return b.String()
}

// because joins what happens and why.
func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}
