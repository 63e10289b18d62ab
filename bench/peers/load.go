package main

import (
	"fmt"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/bench/workload"
)

// load is that of recourse bench, but for the failures that wait. Those would be two commands, and here it is one for each.
type load struct{ *workload.Load }

func newLoad(seed uint64, pipelines int) *load {
	return &load{workload.New(seed, pipelines, workload.FewestSteps, workload.MostSteps, mix)}
}

// mix is the types of failures, as often as they come. Each is decided by one command at once.
var mix = []recourse.ErrorType{
	recourse.Timeout, recourse.Timeout, recourse.Timeout, recourse.Timeout, recourse.Unknown, recourse.Unknown,
	recourse.Authorization, recourse.Verification,
}

// single makes n first failures, each of an execution of its own.
func (l *load) single(run string, n int) []*recourse.Failure {
	failures := l.First(run, n)
	for i, f := range failures {
		f.Execution = fmt.Sprintf("%s-%d", run, i)
	}
	return failures
}

// delayed makes n first failures, each of an execution of its own, that are to be retried after a while.
func (l *load) delayed(run string, n int, after time.Duration) []*recourse.Failure {
	failures := l.single(run, n)
	for _, f := range failures {
		f.Errors, f.RetryAfter = recourse.ErrorTypesOf(recourse.Timeout), recourse.Duration(after)
	}
	return failures
}

// encode returns the bodies of failures.
func encode(failures []*recourse.Failure) ([][]byte, error) {
	bodies := make([][]byte, 0, len(failures))
	for _, f := range failures {
		body, err := recourse.Encode(f)
		if err != nil {
			return nil, err
		}
		bodies = append(bodies, body)
	}
	return bodies, nil
}
