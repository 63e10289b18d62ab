package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/bench/workload"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// decider decides for the engines that are not Recourse: it decodes a failure, makes the decision that Recourse makes of the first failure
// of an execution, and encodes the record that Recourse writes. It knows nothing of earlier failures: what it decides depends on the one
// at hand. It is safe for concurrent use.
type decider struct {
	pipelines map[string]func() decide.Pipeline // by key, compiled when first needed, as a worker does
}

// record is a decision as an engine stores it for whoever carries it out.
type record struct {
	prefix  string    // of the execution
	key     string    // one for each decision, and the same when it is made again
	command bool      // else it is a decision to wait
	due     time.Time // of a decision to wait
	body    []byte
}

// savePipelines writes what [loadDecider] reads.
func savePipelines(file string, l *load) error {
	yamls := make(map[string][]byte, len(l.Pipelines))
	for _, p := range l.Pipelines {
		yamls[p.Ref.PipelineKey()] = p.YAML
	}
	data, err := json.Marshal(yamls)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

func loadDecider(file string) (*decider, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var yamls map[string][]byte
	if err := json.Unmarshal(data, &yamls); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	d := &decider{pipelines: make(map[string]func() decide.Pipeline, len(yamls))}
	for key, yaml := range yamls {
		d.pipelines[key] = sync.OnceValue(func() decide.Pipeline {
			plan, _ := pipeline.Load(key, yaml, pipeline.Options{})
			return decide.Pipeline{Plan: plan, Revision: recourse.PipelineRevision{Revision: 1, Digest: "0123456789abcdef"}}
		})
	}
	return d, nil
}

func (d *decider) pipeline(ref recourse.Ref) decide.Pipeline {
	if compiled := d.pipelines[ref.PipelineKey()]; compiled != nil {
		return compiled()
	}
	return decide.Pipeline{}
}

// failure decides on the body of a failure.
func (d *decider) failure(body []byte) (*record, error) {
	f, err := recourse.DecodeFailure(body)
	if err != nil {
		return nil, err
	}
	f.Clean()
	in := &decide.Input{Ref: f.Ref, Node: f.Node, Attempt: f.Attempt, Input: recourse.Input{
		Key: f.Key(), Digest: f.Digest(), Principal: workload.Delegate,
		Failure: &recourse.FailureInput{
			Errors: f.Errors, Message: f.Message, ExitCode: f.ExitCode, Target: f.Target, RetryAfter: f.RetryAfter, At: f.At,
		},
	}}
	return d.decide(in, new(decide.Head))
}

// due decides that a wait is over, from the body of the record that waits.
func (d *decider) due(waits []byte) (*record, error) {
	rec, err := recourse.DecodeRecord(waits)
	if err != nil {
		return nil, err
	}
	in := &decide.Input{Ref: rec.Ref, Input: recourse.Input{Key: "due/" + strconv.FormatUint(rec.Wait.Version, 10), Due: rec.Wait.Version}}
	return d.decide(in, &decide.Head{Ref: rec.Ref, Version: rec.Version, State: *rec.State})
}

func (d *decider) decide(in *decide.Input, head *decide.Head) (*record, error) {
	rec := new(recourse.Record)
	if result, _ := decide.Decide(rec, d.pipeline(in.Ref), head, in, time.Now()); result != decide.Decided {
		return nil, fmt.Errorf("%s %s: %s", in.Prefix(), in.Key, result)
	}
	body, err := decide.Seal(rec, head)
	if err != nil {
		return nil, err
	}
	prefix := in.Prefix()
	return &record{prefix: prefix, key: prefix + "/" + in.Key, command: rec.Command.Verb != 0, due: rec.Wait.DueAt, body: body}, nil
}
