package recourse

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// MaxIDLength is the most bytes an id may have before it is encoded into a subject.
const MaxIDLength = 256

// Ref names one execution of one pipeline. All five ids are required, 1 to [MaxIDLength] bytes of UTF-8 without control
// characters; anything else about them is free, the subject encoding copes ([Ref.Prefix]).
type Ref struct {
	Account   string `json:"account"`
	Org       string `json:"org"`
	Project   string `json:"project"`
	Pipeline  string `json:"pipeline"`
	Execution string `json:"execution"`
}

// Validate reports the first id that is out of bounds.
func (r Ref) Validate() error {
	for _, id := range [...]struct{ name, value string }{
		{"account", r.Account}, {"org", r.Org}, {"project", r.Project}, {"pipeline", r.Pipeline}, {"execution", r.Execution},
	} {
		if err := ValidateID(id.value); err != nil {
			return fmt.Errorf("%s: %w", id.name, err)
		}
	}
	return nil
}

// String returns the ids joined by slashes, for people; it is not injective.
func (r Ref) String() string {
	return r.Account + "/" + r.Org + "/" + r.Project + "/" + r.Pipeline + "/" + r.Execution
}

// ValidateID reports why an id is out of bounds: empty, longer than [MaxIDLength] bytes, not UTF-8, or with a control
// character.
func ValidateID(id string) error {
	switch {
	case id == "":
		return errors.New("an id is required")
	case len(id) > MaxIDLength:
		return fmt.Errorf("an id has at most %d bytes, this one has %d", MaxIDLength, len(id))
	}
	return validateText(id)
}

func validateText(s string) error {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f {
			return validateUnicode(s)
		}
	}
	return nil
}

func validateUnicode(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("an id is UTF-8")
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return fmt.Errorf("an id has no control character, this one has %U", r)
		}
	}
	return nil
}
