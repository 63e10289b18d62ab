package recourse

import (
	"fmt"
	"time"
)

// Level is where a strategy stands. The zero value means at none.
type Level uint8

// The levels, closest first.
const (
	LevelNone Level = iota
	LevelStep
	LevelStepGroup
	LevelStage
)

var levelNames = [...]string{"none", "step", "step-group", "stage"}

// String returns "step", "step-group", "stage" or "none".
func (l Level) String() string { return enumName(levelNames[:], int(l)) }

// MarshalText writes the name.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a name.
func (l *Level) UnmarshalText(text []byte) error {
	for i, name := range levelNames {
		if name == string(text) {
			*l = Level(i)
			return nil
		}
	}
	return fmt.Errorf("unknown level %q", text)
}

// Reason is why a record decides as it does. The zero value means not set.
type Reason uint8

// The reasons.
const (
	StrategyMatched      Reason = iota + 1 // a strategy applies (R2, R3, R4)
	NoStrategy                             // none applies, or the pipeline or stage is not known (R6)
	RetriesExhausted                       // the retries of the strategy are used up (R8)
	RetryDue                               // the wait before a retry is over (R8)
	HumanDecision                          // somebody answered (R9)
	InterventionTimedOut                   // nobody answered in time (R9)
	Superseded                             // a rollback, an abort or a group retry covers the node already (R11)
	ExecutionEnded                         // the execution has ended (R11)
	Stale                                  // a newer attempt of the node was decided before (R12)
	Conflicting                            // another body was decided under the same key before (R12)
	AnswerRefused                          // the intervention is not open, or does not allow the action (R9)
	LifecycleReported                      // the orchestrator said that the execution ended (R11)
	reasonEnd
)

var reasonNames = [reasonEnd]string{
	"", "StrategyMatched", "NoStrategy", "RetriesExhausted", "RetryDue", "HumanDecision", "InterventionTimedOut",
	"Superseded", "ExecutionEnded", "Stale", "Conflicting", "AnswerRefused", "LifecycleReported",
}

var reasonsByName = enumByName(reasonNames[:])

// String returns the name, "" for the zero value.
func (r Reason) String() string { return enumName(reasonNames[:], int(r)) }

// MarshalText writes the name.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a name.
func (r *Reason) UnmarshalText(text []byte) error {
	n, ok := enumLookup(reasonsByName, string(text))
	if !ok {
		return fmt.Errorf("unknown reason %q", text)
	}
	*r = Reason(n)
	return nil
}

// The kinds of a record without a command; the detail of its subject under [FamilyDecision].
const (
	KindRetryScheduled      = "retry-scheduled"
	KindGroupRetryScheduled = "group-retry-scheduled"
	KindSuperseded          = "superseded"
	KindStale               = "stale"
	KindConflicting         = "conflicting"
	KindRefused             = "refused"
	KindClosed              = "closed"
	KindRetryPostponed      = "retry-postponed"
)

// Semantics chooses between the published reference and the engine where they disagree. The zero value is Documented.
type Semantics uint8

// The semantics.
const (
	Documented Semantics = iota // the published reference for failure strategies
	Engine                      // how the last public backend behaves
)

// String returns "documented" or "engine".
func (s Semantics) String() string {
	if s == Engine {
		return "engine"
	}
	return "documented"
}

// MarshalText writes the name.
func (s Semantics) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads "documented" or "engine".
func (s *Semantics) UnmarshalText(text []byte) error {
	switch string(text) {
	case "documented", "":
		*s = Documented
	case "engine":
		*s = Engine
	default:
		return fmt.Errorf("unknown semantics %q, known are documented, engine", text)
	}
	return nil
}

// Record is one decision as the journal keeps it, and where it has a command, the command as the orchestrator receives it: one
// message is both, so they cannot part.
type Record struct {
	Schema int `json:"schema"`
	Ref
	// Version counts the records of the execution: 1, 2, 3 …
	Version uint64 `json:"version"`
	// Previous is the stream sequence of the record before this one, 0 for the first.
	Previous uint64 `json:"previous"`
	// At is the clock value the decision used (UTC).
	At time.Time `json:"at"`
	// Input is what was decided on.
	Input Input `json:"input"`
	// Pipeline is the revision the decision used; absent where the pipeline was not known.
	Pipeline PipelineRevision `json:"pipelineRevision,omitzero"`
	// Semantics is the setting the decision used.
	Semantics Semantics `json:"semantics,omitzero"`
	Decision
	// State is what the execution's next decision builds on; absent where StateBase names the record that has it.
	State *State `json:"state,omitzero"`
	// StateBase is the stream sequence of the last record with a state; the records since then are folded onto it.
	StateBase uint64 `json:"stateBase,omitzero"`
}

// Input is what a record decides on. Exactly one of Failure, Answer, Control, Lifecycle and Due is set.
type Input struct {
	// Key identifies the input within the execution: failure/<node>/<attempt>, intervention/<id>, control/<id>,
	// lifecycle/<event> or due/<version>.
	Key string `json:"key"`
	// Sequence is the position in the inbox; 0 for a wait that came due.
	Sequence uint64 `json:"sequence,omitzero"`
	// Digest identifies the content.
	Digest string `json:"digest,omitzero"`
	// Principal published the input; the broker's permissions bind it to the subject.
	Principal string         `json:"principal,omitzero"`
	Failure   *FailureInput  `json:"failure,omitzero"`
	Answer    *AnswerInput   `json:"answer,omitzero"`
	Control   *ControlInput  `json:"control,omitzero"`
	Lifecycle LifecycleEvent `json:"lifecycle,omitzero"`
	Why       string         `json:"why,omitzero"` // of a lifecycle event
	Due       uint64         `json:"due,omitzero"` // version of the record whose wait came due
}

// FailureInput is a [Failure] without what the record says already: ids, node and attempt.
type FailureInput struct {
	Errors     ErrorTypes `json:"errors,omitzero"`
	Message    string     `json:"message,omitzero"`
	ExitCode   *int       `json:"exitCode,omitzero"`
	Target     string     `json:"target,omitzero"`
	RetryAfter Duration   `json:"retryAfter,omitzero"`
	At         time.Time  `json:"at,omitzero"`
}

// AnswerInput is an [Answer] without the ids the record says already.
type AnswerInput struct {
	Intervention uint64    `json:"intervention"`
	Action       Action    `json:"action,omitzero"`
	Who          string    `json:"who"`
	Why          string    `json:"why"`
	At           time.Time `json:"at,omitzero"`
}

// PipelineRevision pins the YAML that decided.
type PipelineRevision struct {
	Revision uint64 `json:"revision"` // of the key in the bucket
	Digest   string `json:"digest"`   // 16 hexadecimal digits of the SHA-256 of the YAML
}

// Decision is action, reason and trail: what is done, why, and what was looked at.
type Decision struct {
	// Node and attempt are those of the failure this decision is about; empty for a lifecycle event and a refused answer to an
	// intervention nobody opened.
	Node
	Attempt int    `json:"attempt,omitzero"`
	Action  Action `json:"action,omitzero"`
	Reason  Reason `json:"reason"`
	// Detail says in words what the reason leaves open.
	Detail string `json:"detail,omitzero"`
	// Level and Strategy are where the strategy stands; Strategy is its path in the YAML.
	Level    Level  `json:"level"`
	Strategy string `json:"strategy,omitzero"`
	// Delay is the wait before a retry, 0 for at once.
	Delay Duration `json:"delay,omitzero"`
	// Command is what the orchestrator must carry out; absent on a plain decision.
	Command Command `json:"command,omitzero"`
	// Kind names a plain decision; absent on a command.
	Kind string `json:"kind,omitzero"`
	// Effect is what becomes of the node, the stage and the pipeline.
	Effect Effect `json:"effect,omitzero"`
	// Wait is what this record waits for.
	Wait Wait `json:"wait,omitzero"`
	// Ends is the version of the record whose wait ended with this one, by coming due or by an answer.
	Ends uint64 `json:"ends,omitzero"`
	// Cancelled are the versions of the records whose waits this one supersedes (R11).
	Cancelled []uint64 `json:"cancelled,omitempty"`
	// Trail has every strategy that was a candidate, closest level first, with why it did or did not apply.
	Trail []TrailEntry `json:"trail,omitempty"`
}

// Command is what an orchestrator must carry out.
type Command struct {
	Verb Verb `json:"verb,omitzero"`
	// Scope is the path of the node, step group or stage the command is about, "" for the whole execution.
	Scope string `json:"scope,omitzero"`
	// Attempt is the attempt that a retry starts, 1-based; absent on other verbs.
	Attempt int `json:"attempt,omitzero"`
	// Intervention is what a pause asks.
	Intervention Intervention `json:"intervention,omitzero"`
}

// Intervention is an open question to people (R9).
type Intervention struct {
	// ID is the version of the record that opened it; an answer names it.
	ID uint64 `json:"id"`
	// Allowed are the actions an answer may name.
	Allowed Actions `json:"allowed"`
	// Deadline is when OnTimeout is carried out (UTC).
	Deadline  time.Time `json:"deadline"`
	OnTimeout Action    `json:"onTimeout,omitzero"`
	// AnswerBy is who may answer, by principal, joined by commas; see [MayAnswer]. Empty: whoever the broker's permissions let.
	AnswerBy string `json:"answerBy,omitzero"`
}

// Effect is what a decision does to the node, its stage and the pipeline (R13).
type Effect struct {
	// Node is the status the node takes.
	Node NodeStatus `json:"node"`
	// Stage is the outcome of the stage, where this decision settles it.
	Stage StageOutcome `json:"stage,omitzero"`
	// PipelineFailed says whether the pipeline now counts as failed for a `when`.
	PipelineFailed bool `json:"pipelineFailed"`
	// Runs are the statuses of a `when` that let the next stage run, where the outcome is settled: Success, Failure, All. A
	// condition beside the status is the orchestrator's to evaluate.
	Runs []string `json:"runs,omitempty"`
}

// NodeStatus is the status a node takes by a decision. The values are fixed names.
type NodeStatus string

// The statuses.
const (
	StatusIgnoreFailed        NodeStatus = "IgnoreFailed"
	StatusSucceeded           NodeStatus = "Succeeded"
	StatusFailed              NodeStatus = "Failed"
	StatusRetrying            NodeStatus = "Retrying"
	StatusInterventionWaiting NodeStatus = "InterventionWaiting"
	StatusAborted             NodeStatus = "Aborted"
	StatusProceeding          NodeStatus = "ProceedingWithDefaultValues"
)

// StageOutcome is how a stage ended, as a `when` sees it (R13).
type StageOutcome string

// The outcomes.
const (
	OutcomeSucceeded          StageOutcome = "succeeded"
	OutcomeFailed             StageOutcome = "failed"
	OutcomeIgnored            StageOutcome = "ignored"
	OutcomeRolledBack         StageOutcome = "rolled-back"
	OutcomeRollbackFailed     StageOutcome = "rollback-failed"
	OutcomePipelineRolledBack StageOutcome = "pipeline-rolled-back"
	OutcomeAborted            StageOutcome = "aborted"
)

// TrailEntry is one strategy that was looked at.
type TrailEntry struct {
	Level Level `json:"level"`
	// Path is where the strategy stands in the YAML; for a level that is not listed, the path of the node.
	Path string `json:"path"`
	// Index is the position among the strategies of the level, 0-based; -1 for a remark on the level itself.
	Index  int        `json:"index"`
	Errors ErrorTypes `json:"errors"`
	Action Action     `json:"action,omitzero"`
	// Applies says whether the strategy was chosen.
	Applies bool `json:"applies"`
	// Why, in words, with the rule.
	Why string `json:"why"`
}

// WaitKind is what a record waits for. The zero value means for nothing.
type WaitKind uint8

// The kinds.
const (
	WaitRetry WaitKind = iota + 1
	WaitRetryGroup
	WaitIntervention
)

var waitKindNames = [...]string{"", "retry", "retry-group", "intervention"}

// String returns "retry", "retry-group", "intervention" or "".
func (k WaitKind) String() string { return enumName(waitKindNames[:], int(k)) }

// MarshalText writes the name.
func (k WaitKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a name.
func (k *WaitKind) UnmarshalText(text []byte) error {
	for i, name := range waitKindNames {
		if i > 0 && name == string(text) {
			*k = WaitKind(i)
			return nil
		}
	}
	return fmt.Errorf("unknown kind of wait %q", text)
}

// Wait is a durable wait: of a retry for its interval, or of an intervention for its deadline.
type Wait struct {
	// Version is that of the record that waits.
	Version uint64   `json:"version"`
	Kind    WaitKind `json:"kind,omitzero"`
	Node
	Attempt int `json:"attempt"`
	// Scope is the step group of a group retry, or of the strategy where it stands on one.
	Scope string `json:"scope,omitzero"`
	// DueAt is when it comes due (UTC).
	DueAt time.Time `json:"dueAt"`
	// Level and Strategy are where the strategy stands.
	Level    Level  `json:"level"`
	Strategy string `json:"strategy,omitzero"`
	// Allowed, OnTimeout and AnswerBy are those of an intervention.
	Allowed   Actions `json:"allowed,omitzero"`
	OnTimeout Action  `json:"onTimeout,omitzero"`
	AnswerBy  string  `json:"answerBy,omitzero"`
	// Retry, Of and Then are those of a retry: which of its strategy's retries waits, 1-based, how many there are, and what follows the
	// last one (R8). They are zero where the plan did not say.
	Retry int    `json:"retry,omitzero"`
	Of    int    `json:"of,omitzero"`
	Then  Action `json:"then,omitzero"`
}

// State is what an execution's next decision builds on. It is the fold of its records (internal/decide).
type State struct {
	// Pipeline is pinned by the first decision that knew the pipeline.
	Pipeline PipelineRevision `json:"pipelineRevision,omitzero"`
	// Failed says whether the pipeline counts as failed for a `when`.
	Failed bool `json:"failed,omitzero"`
	// Nodes that failed, in order of path and section.
	Nodes []NodeState `json:"nodes,omitempty"`
	// Groups that are or were retried, in order of path.
	Groups []GroupState `json:"groups,omitempty"`
	// Waits that are pending, in order of version.
	Waits []Wait `json:"waits,omitempty"`
	// Covers are the scopes that a rollback or an abort covers, in order of version.
	Covers []Cover `json:"covers,omitempty"`
	// Interventions that are not open any more, and retries that a person ended, in the order they ended.
	Interventions []ClosedIntervention `json:"interventions,omitempty"`
	// Answers and controls that were decided, in order of the record.
	Answers []SeenInput `json:"answers,omitempty"`
	// Ended is the lifecycle events that were recorded.
	Ended []SeenInput `json:"ended,omitempty"`
}

// NodeState is what is remembered of a node that failed.
type NodeState struct {
	Node
	// Attempt is the newest that failed.
	Attempt int `json:"attempt"`
	// Base is the attempts before the node's current run of its group: retries used = Attempt − Base − 1 (R8).
	Base int `json:"base,omitzero"`
	// Rebase says that the group was retried since, so the next failure sets Base.
	Rebase bool `json:"rebase,omitzero"`
	// Seen are the decided failures of the node, in order of the record.
	Seen []SeenAttempt `json:"seen"`
}

// SeenAttempt is one decided failure.
type SeenAttempt struct {
	Attempt int    `json:"attempt"`
	Version uint64 `json:"version"`
	Digest  string `json:"digest,omitzero"`
}

// SeenInput is one decided answer or lifecycle event.
type SeenInput struct {
	Key     string `json:"key"`
	Version uint64 `json:"version"`
	Digest  string `json:"digest,omitzero"`
}

// GroupState counts the retries of a step group.
type GroupState struct {
	Path string `json:"path"`
	// Section is that of the group.
	Section Section `json:"section,omitzero"`
	// Retries used, 0-based: 1 after the first group retry was carried out.
	Retries int `json:"retries"`
	// Restarted says that a group retry was carried out: nodes inside count from there.
	Restarted bool `json:"restarted,omitzero"`
}

// Cover is a scope that a rollback or an abort covers (R11).
type Cover struct {
	Scope   string `json:"scope"` // "" is the whole execution
	Action  Action `json:"action,omitzero"`
	Version uint64 `json:"version"`
}

// ClosedIntervention is how an intervention ended, or a retry by a person: whoever comes second is told.
type ClosedIntervention struct {
	ID uint64 `json:"id"`
	// Version of the record that ended it.
	Version uint64 `json:"version"`
	// At is that record's (UTC).
	At time.Time `json:"at,omitzero"`
	// Who answered; empty where it timed out or was superseded.
	Who    string `json:"who,omitzero"`
	Action Action `json:"action,omitzero"`
	Reason Reason `json:"reason,omitzero"`
	// Do is what was done with a retry; absent of an intervention.
	Do ControlVerb `json:"do,omitzero"`
}

// Subject returns the subject the record is appended under.
func (r *Record) Subject() string { return r.SubjectUnder(r.Prefix()) }

// SubjectUnder is [Record.Subject] for a prefix that is known already.
func (r *Record) SubjectUnder(prefix string) string {
	if r.Command.Verb != 0 {
		return prefix + "." + string(FamilyCommand) + "." + r.Command.Verb.String()
	}
	return prefix + "." + string(FamilyDecision) + "." + r.Kind
}
