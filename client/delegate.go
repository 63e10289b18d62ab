package client

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/recourse-dev/recourse"
)

// Delegate reports failures. It is safe for concurrent use.
type Delegate struct {
	sender *sender
}

// NewDelegate returns a delegate that reports in the name of principal, which the broker's permissions bind to the connection:
// 1 to [recourse.MaxIDLength] bytes. It neither sends anything nor takes over the connection.
func NewDelegate(nc *nats.Conn, principal string) (*Delegate, error) {
	s, err := newSender(nc, principal)
	if err != nil {
		return nil, err
	}
	return &Delegate{s}, nil
}

// Report publishes a failure and returns its sequence in the inbox once the broker has stored it. The failure is redacted and
// validated first; an At that is not set becomes now.
//
// Where the broker does not answer, Report publishes again with growing pauses, until ctx ends, or for 30 s where ctx has no
// deadline. So the inbox may hold a failure more than once, which is harmless: one attempt of a node is decided once (R12).
// For the same reason an error does not say that the failure was not stored, and it is always right to call Report again
// with the same failure.
//
// The error has [ErrDenied] where the permissions do not allow it; it comes at once where the failure is invalid, the
// connection is closed or the broker refuses the message as such.
func (d *Delegate) Report(ctx context.Context, f recourse.Failure) (sequence uint64, err error) {
	f.Schema = recourse.Schema
	if f.At.IsZero() {
		f.At = d.sender.now().UTC()
	}
	f.Clean()
	if err := f.Validate(); err != nil {
		return 0, err
	}
	return d.sender.send(ctx, f.Ref, event{id: f.Key(), family: recourse.FamilyFailure, at: f.At}, &f)
}
