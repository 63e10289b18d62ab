package recourse

import (
	"errors"
	"fmt"
	"time"
)

// ControlVerb is what a person does to a pending retry. The zero value means not set.
type ControlVerb uint8

// The verbs.
const (
	RunNow   ControlVerb = iota + 1 // the retry runs at once
	Postpone                        // the retry comes due later, or sooner
	Cancel                          // the retry is given up: what follows the last retry follows now
)

var controlNames = [...]string{"", "run-now", "postpone", "cancel"}

var controlByName = enumByName(controlNames[:])

// String returns the name, "" for the zero value.
func (v ControlVerb) String() string { return enumName(controlNames[:], int(v)) }

// MarshalText writes the name.
func (v ControlVerb) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads a name.
func (v *ControlVerb) UnmarshalText(text []byte) error {
	n, ok := enumLookup(controlByName, string(text))
	if !ok {
		return fmt.Errorf("unknown control %q, known are run-now, postpone, cancel", text)
	}
	*v = ControlVerb(n)
	return nil
}

// Control is what a person does to a pending retry of a node or step group. An operator publishes it on the execution's subject
// control.<principal>.
type Control struct {
	Schema int `json:"schema,omitzero"`
	Ref
	// ID identifies the control, so that a repeat is recognised and the outcome found. Absent: the sequence in the stream.
	ID string `json:"id,omitzero"`
	// Wait is the version of the record that waits.
	Wait uint64 `json:"wait"`
	// Do is what is to be done with it.
	Do ControlVerb `json:"do"`
	// For is how long from the decision on a postponed retry waits, up to MaxWait; only for Postpone, and required there.
	For Duration `json:"for,omitzero"`
	// Who does it, for people; absent: the principal of the subject.
	Who string `json:"who,omitzero"`
	// Why is required: it is what the next person reads.
	Why string `json:"why"`
	// At is when it was said, by the operator's clock.
	At time.Time `json:"at,omitzero"`
}

// Validate reports the first thing about the control that makes it undecidable.
func (c *Control) Validate() error {
	if err := c.Ref.Validate(); err != nil {
		return err
	}
	if c.ID != "" {
		if err := ValidateID(c.ID); err != nil {
			return fmt.Errorf("id: %w", err)
		}
	}
	switch {
	case c.Wait == 0:
		return errors.New("wait: the version of the record that waits is required")
	case c.Do == 0:
		return errors.New("do: required, run-now, postpone or cancel")
	case c.Why == "":
		return errors.New("why: required")
	case (c.Do == Postpone) != (c.For > 0):
		return errors.New("for: how long to wait from now on; required for postpone, and for nothing else")
	}
	return nil
}

// Clean cuts and redacts the free text, in place.
func (c *Control) Clean() {
	c.Why = Redact(c.Why)
	c.Who = Redact(c.Who)
}

// Digest identifies the content of a cleaned control. At does not count.
func (c *Control) Digest() string {
	content := *c
	content.At, content.Schema = time.Time{}, 0
	return digest(&content)
}

func (c *Control) schema() int { return c.Schema }

// ControlInput is a [Control] without the ids the record says already.
type ControlInput struct {
	Wait uint64      `json:"wait"`
	Do   ControlVerb `json:"do"`
	For  Duration    `json:"for,omitzero"`
	Who  string      `json:"who"`
	Why  string      `json:"why"`
	At   time.Time   `json:"at,omitzero"`
}
