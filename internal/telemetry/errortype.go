package telemetry

import (
	"context"
	"errors"
	"os"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/recourse-dev/recourse/internal/decide"
)

// errorType is the error.type of what we failed at: one of few, since it is a label. "jetstream.<code>" is what the server refused for.
func errorType(err error) string {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api):
		return "jetstream." + strconv.Itoa(int(api.ErrorCode))
	case errors.Is(err, nats.ErrPermissionViolation), errors.Is(err, nats.ErrAuthorization):
		return "permission"
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrNoStreamResponse):
		return "no_responders"
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrStaleConnection),
		errors.Is(err, nats.ErrConnectionDraining):
		return "disconnected"
	case errors.Is(err, decide.ErrUnknownOutcome):
		return "unknown_outcome"
	case errors.Is(err, decide.ErrConflict):
		return "conflict"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout), errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, jetstream.ErrNoHeartbeat):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	default:
		return semconv.ErrorTypeOther.Value.AsString()
	}
}
