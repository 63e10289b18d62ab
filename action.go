package recourse

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Action is what a failure strategy does. The zero value means not set.
type Action uint8

// The actions of a failure strategy.
const (
	Ignore Action = iota + 1
	Retry
	RetryStepGroup
	MarkAsSuccess
	MarkAsFailure
	Abort
	StageRollback
	StepGroupRollback
	PipelineRollback
	ManualIntervention
	ProceedWithDefaultValues
	actionEnd
)

var actionNames = [actionEnd]string{
	"", "Ignore", "Retry", "RetryStepGroup", "MarkAsSuccess", "MarkAsFailure", "Abort", "StageRollback",
	"StepGroupRollback", "PipelineRollback", "ManualIntervention", "ProceedWithDefaultValues",
}

var actionsByName = enumByName(actionNames[:])

// String returns the name as pipelines write it, "" for the zero value.
func (a Action) String() string { return enumName(actionNames[:], int(a)) }

// ParseAction returns the action of a name; case does not matter.
func ParseAction(name string) (Action, error) {
	if a, ok := enumLookup(actionsByName, name); ok {
		return Action(a), nil
	}
	return 0, fmt.Errorf("unknown action %q, known are %s", name, strings.Join(actionNames[1:], ", "))
}

// ActionNames returns the names of all actions in their written form.
func ActionNames() []string { return append([]string(nil), actionNames[1:]...) }

// MarshalText writes the name.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads a name; case does not matter.
func (a *Action) UnmarshalText(text []byte) (err error) {
	*a, err = ParseAction(string(text))
	return err
}

// Strength orders the actions that cover a scope (R11): Abort 4, PipelineRollback 3, StageRollback 2, StepGroupRollback 1,
// everything else 0. Inside a covered scope only a stronger action is still carried out.
func (a Action) Strength() int {
	switch a {
	case Abort:
		return 4
	case PipelineRollback:
		return 3
	case StageRollback:
		return 2
	case StepGroupRollback:
		return 1
	default:
		return 0
	}
}

// Verb is the command that carries an action out; see [Action.Verb]. The zero value means no command.
type Verb uint8

// The verbs, in the order of the actions.
const (
	VerbIgnore Verb = iota + 1
	VerbRetry
	VerbRetryGroup
	VerbMarkSuccess
	VerbMarkFailure
	VerbAbort
	VerbRollbackStage
	VerbRollbackGroup
	VerbRollbackPipeline
	VerbPause
	VerbProceedWithDefaults
	verbEnd
)

var verbNames = [verbEnd]string{
	"", "ignore", "retry", "retry-group", "mark-success", "mark-failure", "abort", "rollback-stage", "rollback-group",
	"rollback-pipeline", "pause", "proceed-with-defaults",
}

var verbsByName = enumByName(verbNames[:])

// Verb returns the command verb of the action. Retry and RetryStepGroup become a command only when they are due.
func (a Action) Verb() Verb { return Verb(a) }

// String returns the verb as subjects carry it, "" for the zero value.
func (v Verb) String() string { return enumName(verbNames[:], int(v)) }

// MarshalText writes the verb.
func (v Verb) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads a verb.
func (v *Verb) UnmarshalText(text []byte) error {
	n, ok := enumLookup(verbsByName, string(text))
	if !ok {
		return fmt.Errorf("unknown verb %q", text)
	}
	*v = Verb(n)
	return nil
}

// Actions is a set of actions. The zero value is the empty set. As JSON it is an array of names in the order of the
// constants.
type Actions uint16

// ActionsOf returns the set of the given actions.
func ActionsOf(actions ...Action) Actions {
	var set Actions
	for _, a := range actions {
		set |= 1 << a
	}
	return set
}

// DefaultInterventionActions are the answers an intervention takes when its strategy does not list any (R9).
const DefaultInterventionActions = Actions(1<<MarkAsSuccess | 1<<Ignore | 1<<Retry | 1<<Abort | 1<<StageRollback | 1<<MarkAsFailure)

// Has reports whether a is in the set.
func (s Actions) Has(a Action) bool { return s&(1<<a) != 0 }

// All yields the actions of the set in the order of the constants.
func (s Actions) All(yield func(Action) bool) {
	for rest := s; rest != 0; rest &= rest - 1 {
		if !yield(Action(bits.TrailingZeros16(uint16(rest)))) {
			return
		}
	}
}

// String returns the names joined by a comma.
func (s Actions) String() string {
	var names []string
	for a := range s.All {
		names = append(names, a.String())
	}
	return strings.Join(names, ",")
}

// MarshalJSONTo writes the set as an array of names.
func (s Actions) MarshalJSONTo(enc *jsontext.Encoder) error {
	return writeNames(enc, actionNames[:], uint32(s))
}

// UnmarshalJSONFrom reads an array of names; case does not matter.
func (s *Actions) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	set, err := readNames(dec, func(name string) (uint8, error) {
		a, err := ParseAction(name)
		return uint8(a), err
	})
	*s = Actions(set)
	return err
}
