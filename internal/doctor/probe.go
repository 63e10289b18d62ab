package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// probe is the body and the stream of what is published only to see whether it may be: no stream has that name, so none stores it, and
// no request of the API is like that, so none is carried out.
const probe = "recourse-doctor-probe"

// mayPublish reports whether the user of the connection may publish on a subject. What the server forbids it says before it answers a
// flush. It is tried once.
func (e *examination) mayPublish(ctx context.Context, subject string) (bool, error) {
	if may, known := e.tried[subject]; known {
		return may, nil
	}
	msg := &nats.Msg{Subject: subject, Header: nats.Header{jetstream.ExpectedStreamHeader: {probe}}, Data: []byte(probe)}
	if strings.HasPrefix(subject, "$JS.API.") || strings.HasPrefix(subject, "$JS.ACK.") {
		msg.Header = nil // what answers there stores nothing
	}
	if err := e.nc.PublishMsg(msg); err != nil {
		return false, err
	}
	may, err := e.allowed(ctx, "publish", subject)
	if err == nil {
		e.tried[subject] = may
	}
	return may, err
}

// maySubscribe is mayPublish for a subscription.
func (e *examination) maySubscribe(ctx context.Context, subject string) (bool, error) {
	sub, err := e.nc.SubscribeSync(subject)
	if err != nil {
		return false, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // of one that was refused
	return e.allowed(ctx, "subscription", subject)
}

// allowed reports whether the server let pass what was tried last: a publish or a subscription, as its refusals say.
func (e *examination) allowed(ctx context.Context, tried, subject string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	if err := e.nc.FlushWithContext(ctx); err != nil {
		return false, fmt.Errorf("no answer to a ping: %w", err)
	}
	err := e.nc.LastError()
	return !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(strings.ToLower(err.Error()), tried+` to "`+strings.ToLower(subject)+`"`), nil
}

// may is mayPublish for a look at something: who may not, or hears no reply, cannot look.
func (e *examination) may(ctx context.Context, subject string) bool {
	if e.deaf {
		return false
	}
	may, err := e.mayPublish(ctx, subject)
	return err == nil && may
}

// dead is a finding that ends the examination: the server does not answer any more.
func (e *examination) dead(check string, err error) {
	e.silent = true
	e.fail(check, "see whether the server is overloaded or the network broken; nothing else could be looked at", "%v", err)
}

// notAllowed says why something could not be looked at.
func (e *examination) notAllowed() string {
	if e.deaf {
		return "no reply would reach this connection"
	}
	return "this user may not look at it"
}

// inbox looks whether replies reach this connection.
func (e *examination) inbox(ctx context.Context) {
	subject := e.nc.NewInbox()
	may, err := e.maySubscribe(ctx, subject)
	switch {
	case err != nil:
		e.dead("replies", err)
	case !may:
		e.deaf = true
		prefix := subject[:strings.LastIndexByte(subject, '.')]
		e.fail("replies", "set NATS_INBOX_PREFIX (--inbox-prefix) to what the user may subscribe to, like _INBOX.<user>",
			"this user may not subscribe to %s.>, so no request is answered: only permissions to publish can be looked at", prefix)
	default:
		e.ok("replies", "reach this connection")
	}
}
