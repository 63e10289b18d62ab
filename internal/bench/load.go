package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/bench/workload"
)

// maxInFlight is how many failures are published and not yet stored.
const maxInFlight = 8192

// load is a workload whose pipelines are registered.
type load struct{ *workload.Load }

// newLoad registers pipelines of so many steps and returns what makes failures in them.
func newLoad(ctx context.Context, js jetstream.JetStream, seed uint64, pipelines, fewest, most int) (*load, error) {
	l := &load{workload.New(seed, pipelines, fewest, most, mix)}
	for i := range l.Pipelines {
		p := &l.Pipelines[i]
		if _, err := client.PutPipeline(ctx, js, p.Ref, p.YAML); err != nil {
			return nil, fmt.Errorf("pipeline %s: %w", p.Ref.Pipeline, err)
		}
		p.YAML = nil // 10,000 of them are 100 MB
	}
	return l, nil
}

// mix is the types of failures, as often as they come.
var mix = []recourse.ErrorType{
	recourse.Timeout, recourse.Timeout, recourse.Timeout, recourse.Timeout, recourse.Unknown, recourse.Unknown,
	recourse.Authorization, recourse.Verification, recourse.Connectivity, recourse.Authentication,
}

// commanded makes n failures that are the first of their execution and are answered with a command at once.
func (l *load) commanded(run string, n int) []*recourse.Failure {
	failures := make([]*recourse.Failure, 0, n)
	for i := range n {
		p := l.Pipelines[l.IntN(len(l.Pipelines))]
		typ := l.Mix[l.IntN(len(l.Mix))]
		if typ == recourse.Connectivity { // waits an hour
			typ = recourse.Timeout
		}
		failures = append(failures, l.Failure(p, fmt.Sprintf("%s-%d", run, i), p.Nodes[l.IntN(len(p.Nodes))], 1, typ))
	}
	return failures
}

// second makes the failures of second attempts that follow on first ones.
func (l *load) second(first []*recourse.Failure) []*recourse.Failure {
	failures := make([]*recourse.Failure, 0, len(first))
	for _, f := range first {
		again := *f
		again.Attempt = 2
		failures = append(failures, &again)
	}
	return failures
}

// publish stores failures in the inbox, in order.
func publish(ctx context.Context, nc *nats.Conn, failures []*recourse.Failure) error {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxInFlight))
	if err != nil {
		return err
	}
	futures := make([]jetstream.PubAckFuture, 0, len(failures))
	for _, f := range failures {
		body, err := recourse.Encode(f)
		if err != nil {
			return err
		}
		future, err := js.PublishAsync(f.Prefix()+"."+string(recourse.FamilyFailure)+"."+workload.Delegate, body, jetstream.WithStallWait(time.Minute))
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		futures = append(futures, future)
	}
	for _, future := range futures {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			return fmt.Errorf("publish: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
