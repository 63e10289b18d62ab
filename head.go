package recourse

import (
	"bytes"
	"errors"
)

// RecordHead is what a record says of where its chain stands: the members of [Record] of the same names.
type RecordHead struct {
	Schema int `json:"schema"`
	Ref
	Version  uint64 `json:"version"`
	Previous uint64 `json:"previous"`
	// State is what the next decision builds on, nil where StateBase is the stream sequence of the record that has it.
	State     *State `json:"state,omitzero"`
	StateBase uint64 `json:"stateBase,omitzero"`
}

func (h *RecordHead) schema() int { return h.Schema }

// The members of a record between which nothing of its head stands. Neither can be part of a text, where quotes are escaped, and no other
// object of a record has a member of these names first or after another.
var (
	afterHead   = []byte(`,"at":"`)
	beforeState = []byte(`,"state":{`)
	beforeBase  = []byte(`,"stateBase":`)
)

// DecodeRecordHead decodes the head of a record. Of one that is as [Encode] writes it, it reads only the two ends, in a third of the time of
// [DecodeRecord]: what lies between is not looked at, so only what workers wrote must be given to it. The error is a *[DecodeError].
func DecodeRecordHead(body []byte) (*RecordHead, error) {
	h := new(RecordHead)
	i, j := bytes.Index(body, afterHead), bytes.LastIndex(body, beforeState)
	if j < 0 {
		j = bytes.LastIndex(body, beforeBase)
	}
	if i < 0 || j < i {
		return wholeHead(body)
	}
	ends := make([]byte, 0, i+len(body)-j)
	ends = append(append(ends, body[:i]...), body[j:]...)
	if err := decode(ends, h, MaxRecordSize); err != nil {
		return nil, err
	}
	return h, h.check()
}

// wholeHead is DecodeRecordHead for any record.
func wholeHead(body []byte) (*RecordHead, error) {
	r, err := DecodeRecord(body)
	if err != nil {
		return nil, err
	}
	h := &RecordHead{r.Schema, r.Ref, r.Version, r.Previous, r.State, r.StateBase}
	return h, h.check()
}

func (h *RecordHead) check() error {
	if h.Version == 0 || h.State == nil && h.StateBase == 0 {
		return &DecodeError{ReasonInvalid, errors.New("a record has a version, and a state or the sequence of one")}
	}
	return nil
}
