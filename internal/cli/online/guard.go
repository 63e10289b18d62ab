package online

import (
	"context"
	"errors"

	"github.com/recourse-dev/recourse/client"
)

// guarded is a ctx for several requests, which ends when the broker denies one of them; see [denials.request] for a single one.
func (d *denials) guarded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pending == nil {
		d.pending = make(map[*context.CancelCauseFunc]struct{})
	}
	d.pending[&cancel] = struct{}{}
	return ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.pending, &cancel)
		cancel(nil)
	}
}

// why returns what was denied where that ended a guarded ctx, else the error.
func why(ctx context.Context, err error) error {
	if denied := context.Cause(ctx); err != nil && errors.Is(denied, client.ErrDenied) {
		return forOneAccount(denied)
	}
	return err
}
