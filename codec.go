package recourse

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The bounds of a message.
const (
	MaxSize       = 256 << 10 // bytes of an input's body
	MaxRecordSize = 1 << 20   // bytes of a record: it has a state, a trail and the input
	MaxDepth      = 64        // nested objects and arrays
)

// DecodeReason says why a message was refused. It is the detail of the subject under which the message is kept.
type DecodeReason string

// The reasons.
const (
	ReasonTooLarge     DecodeReason = "too-large"     // more than MaxSize bytes
	ReasonTooDeep      DecodeReason = "too-deep"      // nested deeper than MaxDepth
	ReasonBadJSON      DecodeReason = "bad-json"      // not JSON, or not UTF-8
	ReasonDuplicateKey DecodeReason = "duplicate-key" // an object has a key twice
	ReasonUnknownKey   DecodeReason = "unknown-key"   // an object has a key this message does not know
	ReasonBadValue     DecodeReason = "bad-value"     // a value of the wrong type, or a name nobody knows
	ReasonInvalid      DecodeReason = "invalid"       // well formed, but out of bounds or incomplete
	ReasonFutureSchema DecodeReason = "future-schema" // written by a later version of Recourse
	ReasonWrongSubject DecodeReason = "wrong-subject" // the ids of the body are not those of the subject
	ReasonUnknownType  DecodeReason = "unknown-type"  // an event of a type that its subject does not take
	ReasonNotAFailure  DecodeReason = "not-a-failure" // a task run that finished in another way
)

// DecodeReasons returns all reasons.
func DecodeReasons() []DecodeReason {
	return []DecodeReason{
		ReasonTooLarge, ReasonTooDeep, ReasonBadJSON, ReasonDuplicateKey, ReasonUnknownKey, ReasonBadValue, ReasonInvalid, ReasonFutureSchema,
		ReasonWrongSubject, ReasonUnknownType, ReasonNotAFailure,
	}
}

// DecodeError is why a message was refused.
type DecodeError struct {
	Reason DecodeReason
	Err    error
}

// Error returns the reason and what is wrong.
func (e *DecodeError) Error() string { return string(e.Reason) + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *DecodeError) Unwrap() error { return e.Err }

var (
	strict        = json.JoinOptions(json.RejectUnknownMembers(true), json.MatchCaseInsensitiveNames(false))
	deterministic = json.Deterministic(true)
)

// DecodeFailure decodes and validates a failure. The error is a *[DecodeError].
func DecodeFailure(body []byte) (*Failure, error) {
	f := new(Failure)
	if len(body) <= MaxSize {
		r := plainReader{b: body, ids: make([]byte, 0, 256)}
		if r.failure(f) {
			return f, validate(f)
		}
		*f = Failure{}
	}
	if err := decode(body, f, MaxSize); err != nil {
		return nil, err
	}
	return f, validate(f)
}

// DecodeAnswer decodes and validates an answer. The error is a *[DecodeError].
func DecodeAnswer(body []byte) (*Answer, error) {
	a := new(Answer)
	if err := decode(body, a, MaxSize); err != nil {
		return nil, err
	}
	return a, validate(a)
}

// DecodeControl decodes and validates a control. The error is a *[DecodeError].
func DecodeControl(body []byte) (*Control, error) {
	c := new(Control)
	if err := decode(body, c, MaxSize); err != nil {
		return nil, err
	}
	return c, validate(c)
}

// DecodeLifecycle decodes and validates a lifecycle event. The error is a *[DecodeError].
func DecodeLifecycle(body []byte) (*Lifecycle, error) {
	l := new(Lifecycle)
	if err := decode(body, l, MaxSize); err != nil {
		return nil, err
	}
	return l, validate(l)
}

// DecodeRecord decodes a record of the journal. The error is a *[DecodeError].
func DecodeRecord(body []byte) (*Record, error) {
	r := new(Record)
	if err := decode(body, r, MaxRecordSize); err != nil {
		return nil, err
	}
	if r.Version == 0 || r.Reason == 0 {
		return nil, &DecodeError{ReasonInvalid, errors.New("a record has a version and a reason")}
	}
	return r, nil
}

func validate(v interface{ Validate() error }) error {
	if err := v.Validate(); err != nil {
		return &DecodeError{ReasonInvalid, err}
	}
	return nil
}

// decode reads one message into v. The strict reading comes first since nearly every message passes it; only what fails is
// looked at again to say why.
func decode(body []byte, v any, limit int) error {
	if len(body) > limit {
		return &DecodeError{ReasonTooLarge, fmt.Errorf("a message has at most %d bytes, this one has %d", limit, len(body))}
	}
	err := json.Unmarshal(body, v, strict)
	if s, ok := v.(interface{ schema() int }); err == nil && ok {
		switch n := s.schema(); {
		case n > Schema:
			return futureSchema(n)
		case n < 0:
			return &DecodeError{ReasonInvalid, fmt.Errorf("schema %d: want 1 to %d", n, Schema)}
		}
	}
	if err == nil {
		return nil
	}
	if deep := checkDepth(body); deep != nil {
		return deep
	}
	if n, ok := peekSchema(body); ok && n > Schema {
		return futureSchema(n)
	}
	return &DecodeError{reasonOf(err), err}
}

func (f *Failure) schema() int   { return f.Schema }
func (a *Answer) schema() int    { return a.Schema }
func (l *Lifecycle) schema() int { return l.Schema }
func (r *Record) schema() int    { return r.Schema }

func futureSchema(n int) error {
	return &DecodeError{ReasonFutureSchema, fmt.Errorf("schema %d is of a later version, this one knows up to %d", n, Schema)}
}

func reasonOf(err error) DecodeReason {
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.Is(err, json.ErrUnknownName):
		return ReasonUnknownKey
	case errors.Is(err, jsontext.ErrDuplicateName):
		return ReasonDuplicateKey
	case errors.As(err, &syntactic), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return ReasonBadJSON
	}
	return ReasonBadValue
}

// peekSchema reads the top-level key "schema" of a message that could not be decoded otherwise.
func peekSchema(body []byte) (int, bool) {
	var head struct {
		Schema int            `json:"schema"`
		Rest   jsontext.Value `json:",embed"`
	}
	err := json.Unmarshal(body, &head)
	return head.Schema, err == nil
}

// checkDepth returns an error where the message nests deeper than MaxDepth.
func checkDepth(body []byte) error {
	dec := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true))
	for {
		if _, err := dec.ReadToken(); err != nil {
			return nil // not deep; the strict reading has its own word for it
		}
		if dec.StackDepth() > MaxDepth {
			return &DecodeError{ReasonTooDeep, fmt.Errorf("a message nests at most %d deep", MaxDepth)}
		}
	}
}
