package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

const (
	publishTimeout = 30 * time.Second      // for a publish whose ctx has no deadline
	answerTimeout  = 2 * time.Second       // for the broker's answer to one attempt
	requestTimeout = 5 * time.Second       // for the broker's answer to any other request
	firstPause     = 50 * time.Millisecond // between attempts; doubles each time
	longestPause   = 2 * time.Second
	jsonType       = "application/json"
)

// ErrDenied is in the error of a call that the broker's permissions do not allow. The broker does not answer a denied request,
// it only notes the violation on the connection, so the error comes after a time-out.
var ErrDenied = errors.New("not permitted")

// sender publishes inputs into the inbox, in the name of one principal.
type sender struct {
	nc        *nats.Conn
	js        jetstream.JetStream
	principal string
	now       func() time.Time
}

func newSender(nc *nats.Conn, principal string) (*sender, error) {
	if nc == nil {
		return nil, errors.New("a connection is required")
	}
	if err := recourse.ValidateID(principal); err != nil {
		return nil, fmt.Errorf("principal: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	return &sender{nc: nc, js: js, principal: principal, now: time.Now}, nil
}

// event is what the headers say of an input.
type event struct {
	id     string // unique within the subject; equal for a repeat
	family recourse.Family
	at     time.Time
}

// send encodes an input and publishes it until the inbox has stored it; see [Delegate.Report] for when it gives up.
func (s *sender) send(ctx context.Context, ref recourse.Ref, e event, input any) (sequence uint64, err error) {
	body, err := recourse.Encode(input)
	if err != nil {
		return 0, err
	}
	subject := ref.Subject(e.family, s.principal)
	header := nats.Header{
		"content-type": {jsonType},
		// Another stream that happens to take the subject must not pass for the inbox.
		jetstream.ExpectedStreamHeader: {recourse.StreamInbox},
	}
	recourse.SetEventHeader(header, recourse.Event{ID: e.id, Source: recourse.EventSource(subject), Type: recourse.EventType(e.family), Time: e.at})
	injectTrace(ctx, header)
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, publishTimeout)
		defer cancel()
	}
	return s.publish(ctx, &nats.Msg{Subject: subject, Header: header, Data: body})
}

// publish repeats until the message is stored, ctx ends, or the error is one that a repeat does not cure.
func (s *sender) publish(ctx context.Context, msg *nats.Msg) (uint64, error) {
	var last error
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		attempt, cancel := context.WithTimeout(ctx, answerTimeout)
		attempt, done := unlessDenied(attempt, s.nc, msg.Subject, msg.Subject)
		ack, err := s.js.PublishMsg(attempt, msg, jetstream.WithRetryAttempts(0)) // the loop is the retry
		denied := context.Cause(attempt)
		done()
		cancel()
		if err == nil {
			return ack.Sequence, nil
		}
		if err = noAnswer(s.nc, err); errors.Is(denied, ErrDenied) {
			err = denied
		}
		if permanent(err) {
			return 0, fmt.Errorf("publish %s: %w", msg.Subject, err)
		}
		if last == nil || ctx.Err() == nil { // the last attempt only ran into the end of ctx; the one before knows more
			last = err
		}
		// Jitter, so that a thousand delegates do not come back in the same instant.
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("publish %s: not known to be stored: %w: %w%s", msg.Subject, ctx.Err(), last, hint(last))
		}
	}
}

// bounded is the ctx of one request: a broker that does not answer must not take all the time there is.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, requestTimeout)
}

// permanent reports whether a repeat cannot help.
func permanent(err error) bool {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api):
		return api.Code >= 400 && api.Code < 500
	case errors.Is(err, ErrDenied), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining),
		errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrHeadersNotSupported):
		return true
	}
	return false
}

// hint says what to do about an error, "" where the error says it.
func hint(err error) string {
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return " (the account has no Recourse streams, or they have no leader: provision them, or wait for the cluster)"
	}
	return ""
}

// noAnswer adds the permissions violation that explains a time-out, where the connection knows of one.
func noAnswer(nc *nats.Conn, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
		return err
	}
	if violation := nc.LastError(); errors.Is(violation, nats.ErrPermissionViolation) {
		return deniedError(violation)
	}
	return err
}
