package worker

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/telemetry"
)

// observe puts what the worker sees of the streams on gauges.
func (w *worker) observe() error {
	if !w.tell.Measures() {
		return nil
	}
	w.observed = telemetry.NewInterventions(func(ctx context.Context, prefix string) ([]recourse.Wait, error) {
		head, err := w.journal.Load(ctx, prefix)
		if err != nil {
			return nil, err
		}
		return head.State.Waits, nil
	}, w.cfg.Log)
	// A user that may not listen is told so in the log, and counts what others pause once the journal is read again.
	_, err := w.nc.Subscribe(recourse.FilterDetail(recourse.FamilyCommand, recourse.VerbPause.String()), func(msg *nats.Msg) {
		if subject, err := recourse.ParseSubject(msg.Subject); err == nil {
			w.observed.Heard(subject, msg.Header)
		}
	})
	if err != nil {
		return err
	}
	w.sweeper.Observe(w.observed.Read, w.observed.ReadAll)
	return w.tell.Observe(telemetry.Sources{
		Ready:         func() bool { return w.readiness.working.Load() && !w.readiness.stopping.Load() && w.nc.IsConnected() },
		Look:          w.look,
		Interventions: w.observed,
	})
}

// look asks the server for the backlogs and for the pending waits: a wait is a schedule among the timers, and what else is there came due and
// is the backlog of its consumer. Without a connection it asks nothing: an answer could not come in time.
func (w *worker) look(ctx context.Context) (look telemetry.Look) {
	if !w.nc.IsConnected() {
		return look
	}
	due, known := 0, false
	for _, durable := range w.durables {
		info, err := durable.Info(ctx)
		if err != nil {
			continue // absent from the metrics; what it means for the work, the work says
		}
		look.Backlogs = append(look.Backlogs, telemetry.Backlog{Consumer: info.Name, Pending: info.NumPending, AckPending: info.NumAckPending})
		if info.Name == broker.ConsumerDue {
			due, known = int(info.NumPending)+info.NumAckPending, true
		}
	}
	if !known {
		return look
	}
	if state, err := streamState(ctx, w.js, recourse.StreamTimers); err == nil {
		look.Waits, look.WaitsKnown = max(int64(state.State.Msgs)-int64(due), 0), true
	}
	return look
}

// streamState asks for a stream anew.
func streamState(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.StreamInfo, error) {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	return stream.CachedInfo(), nil
}
