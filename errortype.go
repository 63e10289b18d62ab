package recourse

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrorType is one kind of failure, as the failure strategies of a pipeline name it. The zero value means not set.
// AllErrors is a matcher: a strategy may list it, a failure never carries it (R1).
type ErrorType uint8

// The error types, in the order in which an [ErrorTypes] is written.
const (
	Unknown ErrorType = iota + 1
	AllErrors
	Authentication
	Connectivity
	Timeout
	Authorization
	Verification
	DelegateProvisioning
	PolicyEvaluationFailure
	InputTimeoutError
	ApprovalRejection
	DelegateRestart
	UserMarkedFailure
	InfrastructureFailure
	PluginImageFailure
	ResourceLimitsFailure
	ConfigurationFailure
	RetryableTransientFailure
	errorTypeEnd
)

var errorTypeNames = [errorTypeEnd]string{
	"", "Unknown", "AllErrors", "Authentication", "Connectivity", "Timeout", "Authorization", "Verification",
	"DelegateProvisioning", "PolicyEvaluationFailure", "InputTimeoutError", "ApprovalRejection", "DelegateRestart",
	"UserMarkedFailure", "InfrastructureFailure", "PluginImageFailure", "ResourceLimitsFailure", "ConfigurationFailure",
	"RetryableTransientFailure",
}

var errorTypesByName = enumByName(errorTypeNames[:])

// String returns the name as pipelines write it, "" for the zero value.
func (t ErrorType) String() string { return enumName(errorTypeNames[:], int(t)) }

// ParseErrorType returns the error type of a name; case does not matter.
func ParseErrorType(name string) (ErrorType, error) {
	if t, ok := enumLookup(errorTypesByName, name); ok {
		return ErrorType(t), nil
	}
	return 0, fmt.Errorf("unknown error type %q, known are %s", name, strings.Join(errorTypeNames[1:], ", "))
}

// ErrorTypeNames returns the names of all error types in their written form.
func ErrorTypeNames() []string { return append([]string(nil), errorTypeNames[1:]...) }

// ErrorTypes is a set of error types. The zero value is the empty set. As JSON it is an array of names in the order of the
// constants, without repeats.
type ErrorTypes uint32

// ErrorTypesOf returns the set of the given types.
func ErrorTypesOf(types ...ErrorType) ErrorTypes {
	var set ErrorTypes
	for _, t := range types {
		set |= 1 << t
	}
	return set
}

// Has reports whether t is in the set.
func (s ErrorTypes) Has(t ErrorType) bool { return s&(1<<t) != 0 }

// Add returns the set with t in it.
func (s ErrorTypes) Add(t ErrorType) ErrorTypes { return s | 1<<t }

// Len returns how many types are in the set.
func (s ErrorTypes) Len() int { return bits.OnesCount32(uint32(s)) }

// First returns the first type of the set in the order of the constants, zero for the empty set.
func (s ErrorTypes) First() ErrorType {
	if s == 0 {
		return 0
	}
	return ErrorType(bits.TrailingZeros32(uint32(s)))
}

// All yields the types of the set in the order of the constants.
func (s ErrorTypes) All(yield func(ErrorType) bool) {
	for rest := s; rest != 0; rest &= rest - 1 {
		if !yield(rest.First()) {
			return
		}
	}
}

// String returns the names joined by a comma.
func (s ErrorTypes) String() string {
	names := make([]string, 0, s.Len())
	for t := range s.All {
		names = append(names, t.String())
	}
	return strings.Join(names, ",")
}

// Normalize returns the types a failure counts with (R1): an empty set is Unknown, and Authentication together with
// Authorization (undetermined) is Authentication alone.
func (s ErrorTypes) Normalize() ErrorTypes {
	if s == 0 {
		return 1 << Unknown
	}
	if s.Has(Authentication) && s.Has(Authorization) {
		s &^= 1 << Authorization
	}
	return s
}

// MarshalJSONTo writes the set as an array of names.
func (s ErrorTypes) MarshalJSONTo(enc *jsontext.Encoder) error {
	return writeNames(enc, errorTypeNames[:], uint32(s))
}

// UnmarshalJSONFrom reads an array of names; case does not matter, a repeat is harmless, an unknown name is an error.
func (s *ErrorTypes) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	set, err := readNames(dec, func(name string) (uint8, error) {
		t, err := ParseErrorType(name)
		return uint8(t), err
	})
	*s = ErrorTypes(set)
	return err
}
