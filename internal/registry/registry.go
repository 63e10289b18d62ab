// Package registry finds the plan of an execution's pipeline: the YAML in the bucket, compiled once per revision and kept in memory.
//
// A watch of the bucket's keys tells which revision is the newest, so that a known pipeline costs no request. A pipeline the watch does
// not know is asked for before it counts as unknown: a failure right after its registration finds it.
package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
	"go.uber.org/zap"
)

// maxPlans is how many compiled plans are kept. A plan of 50 nodes takes about 20 KiB.
const maxPlans = 4096

// Registry holds plans. It is safe for concurrent use.
type Registry struct {
	kv        jetstream.KeyValue
	semantics recourse.Semantics
	log       *zap.Logger

	mu     sync.Mutex
	newest map[string]uint64 // revision by key
	plans  map[planKey]*loading
}

type planKey struct {
	key      string
	revision uint64
}

// loading is a plan that is there once done is closed. Whoever asks meanwhile waits: a pipeline is compiled once.
type loading struct {
	done     chan struct{}
	pipeline decide.Pipeline
	err      error
}

// New returns a registry over the bucket and knows the newest revision of every key when it returns. The watch ends with ctx.
func New(ctx context.Context, js jetstream.JetStream, semantics recourse.Semantics, log *zap.Logger) (*Registry, error) {
	kv, err := js.KeyValue(ctx, recourse.BucketPipelines)
	if err != nil {
		return nil, fmt.Errorf("pipelines: bucket %s: %w", recourse.BucketPipelines, err)
	}
	watcher, err := kv.WatchAll(ctx, jetstream.MetaOnly())
	if err != nil {
		return nil, fmt.Errorf("pipelines: watch: %w", err)
	}
	r := &Registry{kv: kv, semantics: semantics, log: log, newest: make(map[string]uint64), plans: make(map[planKey]*loading)}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case update, open := <-watcher.Updates():
			if !open {
				return nil, errors.New("pipelines: the watch ended before it began")
			}
			if update == nil { // all keys that were there have been seen
				go r.follow(watcher)
				return r, nil
			}
			r.note(update)
		}
	}
}

func (r *Registry) follow(watcher jetstream.KeyWatcher) {
	for update := range watcher.Updates() {
		if update != nil {
			r.note(update)
		}
	}
}

func (r *Registry) note(update jetstream.KeyValueEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if update.Operation() == jetstream.KeyValuePut {
		r.newest[update.Key()] = max(update.Revision(), r.newest[update.Key()])
	} else {
		delete(r.newest, update.Key())
	}
}

// Pipeline returns the plan of an execution: of the pinned revision, or of the newest where none is pinned (0) or the pinned one is not
// kept any more. A pipeline that is not registered is no error: the result has no plan (R6). YAML that cannot be read has a revision and
// no plan.
func (r *Registry) Pipeline(ctx context.Context, ref recourse.Ref, pinned uint64) (decide.Pipeline, error) {
	key := ref.PipelineKey()
	revision := pinned
	if revision == 0 {
		r.mu.Lock()
		revision = r.newest[key]
		r.mu.Unlock()
	}
	if revision != 0 {
		p, err := r.compiled(ctx, planKey{key, revision})
		if !errors.Is(err, jetstream.ErrKeyNotFound) {
			return p, err
		}
		r.log.Warn("the pinned revision of a pipeline is not kept any more, the newest is used",
			zap.String("pipeline", key), zap.Uint64("revision", revision))
	}
	entry, err := r.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return decide.Pipeline{Semantics: r.semantics}, nil
	}
	if err != nil {
		return decide.Pipeline{}, fmt.Errorf("pipeline %s: %w", key, err)
	}
	return r.compiled(ctx, planKey{key, entry.Revision()})
}

// compiled returns the plan of a revision, from memory or from the bucket.
func (r *Registry) compiled(ctx context.Context, key planKey) (decide.Pipeline, error) {
	r.mu.Lock()
	l, ok := r.plans[key]
	if !ok {
		if len(r.plans) >= maxPlans {
			r.evict()
		}
		l = &loading{done: make(chan struct{})}
		r.plans[key] = l
	}
	r.mu.Unlock()
	if !ok {
		l.pipeline, l.err = r.load(ctx, key)
		if l.err != nil {
			r.mu.Lock()
			delete(r.plans, key) // asked for again next time
			r.mu.Unlock()
		}
		close(l.done)
	}
	select {
	case <-l.done:
		return l.pipeline, l.err
	case <-ctx.Done():
		return decide.Pipeline{}, ctx.Err()
	}
}

// evict drops some plan; which one does not matter much, a plan is compiled again in well under a millisecond.
func (r *Registry) evict() {
	for key := range r.plans {
		delete(r.plans, key)
		return
	}
}

func (r *Registry) load(ctx context.Context, key planKey) (decide.Pipeline, error) {
	entry, err := r.kv.GetRevision(ctx, key.key, key.revision)
	if err != nil {
		return decide.Pipeline{}, fmt.Errorf("pipeline %s revision %d: %w", key.key, key.revision, err)
	}
	plan, diagnostics := pipeline.Load(key.key, entry.Value(), pipeline.Options{Semantics: r.semantics})
	if diagnostics.HasErrors() {
		r.log.Warn("a registered pipeline has errors, what can be read of it is used",
			zap.String("pipeline", key.key), zap.Uint64("revision", key.revision), zap.Int("errors", countErrors(diagnostics)))
	}
	sum := sha256.Sum256(entry.Value())
	return decide.Pipeline{
		Plan:      plan,
		Revision:  recourse.PipelineRevision{Revision: key.revision, Digest: hex.EncodeToString(sum[:8])},
		Semantics: r.semantics,
	}, nil
}

func countErrors(diagnostics pipeline.Diagnostics) (n int) {
	for _, d := range diagnostics {
		if d.Severity == pipeline.SeverityError {
			n++
		}
	}
	return n
}
