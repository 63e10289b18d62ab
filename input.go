package recourse

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Schema is the version of the message formats in this package. A message without one counts as this version.
const Schema = 1

// Failure says that one attempt of one node failed. A delegate publishes it on the execution's subject
// failure.<principal>. Account to execution, node and attempt are required.
type Failure struct {
	Schema int `json:"schema,omitzero"`
	Ref
	Node
	// Attempt is which run of the node in this execution failed: 1-based, never reset, also not by a retry of its group.
	Attempt int `json:"attempt"`
	// Errors are the types of the failure; none means Unknown (R1). AllErrors is refused.
	Errors ErrorTypes `json:"errors,omitzero"`
	// Message is what went wrong, for people. It is cut to MaxMessageLength and redacted before it is stored.
	Message string `json:"message,omitzero"`
	// ExitCode is the exit code of the process, where there was one.
	ExitCode *int `json:"exitCode,omitzero"`
	// Target is the host, cluster or service the step worked on.
	Target string `json:"target,omitzero"`
	// RetryAfter asks for a wait of at least this long before a retry, up to an hour (R8).
	RetryAfter Duration `json:"retryAfter,omitzero"`
	// At is when the attempt failed, by the delegate's clock. It is kept, not used.
	At time.Time `json:"at,omitzero"`
}

// MaxAttempt bounds the attempts of a node.
const MaxAttempt = 1_000_000

// Validate reports the first thing about the failure that makes it undecidable.
func (f *Failure) Validate() error {
	if err := f.Ref.Validate(); err != nil {
		return err
	}
	if err := f.Node.Validate(); err != nil {
		return err
	}
	if f.Attempt < 1 || f.Attempt > MaxAttempt {
		return fmt.Errorf("attempt: want 1 to %d, got %d", MaxAttempt, f.Attempt)
	}
	if f.Errors.Has(AllErrors) {
		return errors.New("errors: AllErrors is a matcher for strategies, a failure has a type of its own")
	}
	return nil
}

// Key returns the input key of the failure: one per node and attempt (R12).
func (f *Failure) Key() string { return "failure/" + f.Node.String() + "/" + strconv.Itoa(f.Attempt) }

// Clean cuts and redacts the free text, in place. What is decided, stored and logged is the cleaned failure.
func (f *Failure) Clean() {
	f.Message = Redact(f.Message)
	f.Target = Redact(f.Target)
}

// Digest identifies the content of a cleaned failure; a later failure with the same key and another digest conflicts (R12).
// At does not count: a report that is sent again may carry a new one.
func (f *Failure) Digest() string {
	content := *f
	content.At, content.Schema = time.Time{}, 0
	w := writers.Get().(*writer)
	defer writers.Put(w)
	w.b, w.err = w.b[:0], nil
	w.failure(&content)
	if w.err != nil {
		return "" // never: see digest
	}
	return digestOf(w.b)
}

// writers are for what is digested and forgotten: a digest of a failure is taken for each that is handled.
var writers = sync.Pool{New: func() any { return new(writer) }}

// Answer is a person's answer to an open intervention (R9). An operator publishes it on the execution's subject
// intervention.<principal>.
type Answer struct {
	Schema int `json:"schema,omitzero"`
	Ref
	// ID identifies the answer, so that a repeat is recognised and the outcome found. Absent: the sequence in the stream.
	ID string `json:"id,omitzero"`
	// Intervention is the version of the record that opened the intervention, as its command states it.
	Intervention uint64 `json:"intervention"`
	// Action is what is to be done, one of those the intervention allows.
	Action Action `json:"action"`
	// Who answers, for people; absent: the principal of the subject.
	Who string `json:"who,omitzero"`
	// Why is required: it is what the next person reads.
	Why string `json:"why"`
	// At is when the answer was given, by the operator's clock.
	At time.Time `json:"at,omitzero"`
}

// Validate reports the first thing about the answer that makes it undecidable.
func (a *Answer) Validate() error {
	if err := a.Ref.Validate(); err != nil {
		return err
	}
	if a.ID != "" {
		if err := ValidateID(a.ID); err != nil {
			return fmt.Errorf("id: %w", err)
		}
	}
	switch {
	case a.Intervention == 0:
		return errors.New("intervention: the version of the intervention is required, its command states it")
	case a.Action == 0:
		return errors.New("action: required")
	case a.Why == "":
		return errors.New("why: required")
	}
	return nil
}

// Clean cuts and redacts the free text, in place.
func (a *Answer) Clean() {
	a.Why = Redact(a.Why)
	a.Who = Redact(a.Who)
}

// Digest identifies the content of a cleaned answer. At does not count.
func (a *Answer) Digest() string {
	content := *a
	content.At, content.Schema = time.Time{}, 0
	return digest(&content)
}

// LifecycleEvent is what became of an execution. The zero value means not set.
type LifecycleEvent uint8

// The events.
const (
	Finished LifecycleEvent = iota + 1 // the execution ended, however
	Aborted                            // somebody aborted the execution
)

var lifecycleNames = [...]string{"", "finished", "aborted"}

var lifecycleByName = enumByName(lifecycleNames[:])

// String returns the name, "" for the zero value.
func (e LifecycleEvent) String() string { return enumName(lifecycleNames[:], int(e)) }

// MarshalText writes the name.
func (e LifecycleEvent) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads a name.
func (e *LifecycleEvent) UnmarshalText(text []byte) error {
	n, ok := enumLookup(lifecycleByName, string(text))
	if !ok {
		return fmt.Errorf("unknown lifecycle event %q, known are finished, aborted", text)
	}
	*e = LifecycleEvent(n)
	return nil
}

// Lifecycle says that an execution ended. An orchestrator publishes it on the execution's subject lifecycle.<principal>.
type Lifecycle struct {
	Schema int `json:"schema,omitzero"`
	Ref
	Event LifecycleEvent `json:"event"`
	// Why, for people.
	Why string `json:"why,omitzero"`
	// At is when it ended, by the orchestrator's clock.
	At time.Time `json:"at,omitzero"`
}

// Validate reports the first thing about the event that makes it undecidable.
func (l *Lifecycle) Validate() error {
	if l.Event == 0 {
		return errors.New("event: required, finished or aborted")
	}
	return l.Ref.Validate()
}

// Key returns the input key of the event: one per kind.
func (l *Lifecycle) Key() string { return "lifecycle/" + l.Event.String() }

// Clean cuts and redacts the free text, in place.
func (l *Lifecycle) Clean() { l.Why = Redact(l.Why) }

// digest returns 16 hexadecimal digits (64 bits) of the SHA-256 of a value's encoding.
func digest(v any) string {
	b, err := Encode(v)
	if err != nil {
		return "" // a value of this package always encodes: its strings were decoded from UTF-8
	}
	return digestOf(b)
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
