package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// deniedAfter is how long an answer may take before it is looked whether the broker denied the request.
const deniedAfter = 20 * time.Millisecond

// unlessDenied is a ctx that ends when the connection notes that it may not publish on a subject with these beginning and end: nobody
// would answer. Its cause has [ErrDenied] then.
func unlessDenied(ctx context.Context, nc *nats.Conn, begin, end string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	before := nc.LastError() // may be the violation of an earlier attempt
	begin, end = `"`+strings.ToLower(begin), strings.ToLower(end)+`"`
	var look *time.Timer
	set := make(chan struct{})
	look = time.AfterFunc(deniedAfter, func() {
		<-set
		if ctx.Err() != nil {
			return
		}
		if violation := nc.LastError(); violation != before && errors.Is(violation, nats.ErrPermissionViolation) {
			if text := strings.ToLower(violation.Error()); strings.Contains(text, begin) && strings.Contains(text, end) {
				cancel(deniedError(violation))
				return
			}
		}
		look.Reset(deniedAfter)
	})
	close(set)
	return ctx, func() {
		look.Stop()
		cancel(nil)
	}
}

func deniedError(violation error) error {
	return fmt.Errorf("%w: %w: grant it to the user of this connection", ErrDenied, violation)
}
