package client

import (
	"context"
	"sync"

	"github.com/recourse-dev/recourse"
)

// batchWriters bounds what is said side by side.
const batchWriters = 16

// Outcome is what became of one of many answers or controls.
type Outcome struct {
	// Record is the decision; nil where Err is set.
	Record *recourse.Record
	// Err is that of [Operator.Answer] or [Operator.Control].
	Err error
}

// AnswerAll gives each answer as [Operator.Answer] does, several at once, and returns the outcome of each in the same order. Each is
// decided and recorded by itself; one that is refused does not stop the others.
func (o *Operator) AnswerAll(ctx context.Context, answers []recourse.Answer) []Outcome {
	return all(ctx, answers, o.Answer)
}

// ControlAll is [Operator.AnswerAll] for controls.
func (o *Operator) ControlAll(ctx context.Context, controls []recourse.Control) []Outcome {
	return all(ctx, controls, o.Control)
}

func all[T any](ctx context.Context, said []T, say func(context.Context, T) (*recourse.Record, error)) []Outcome {
	outcomes := make([]Outcome, len(said))
	next := make(chan int)
	var group sync.WaitGroup
	for range min(batchWriters, len(said)) {
		group.Go(func() {
			for i := range next {
				outcomes[i].Record, outcomes[i].Err = say(ctx, said[i])
			}
		})
	}
	for i := range said {
		next <- i
	}
	close(next)
	group.Wait()
	return outcomes
}
