// Package registry finds the plan of an execution's pipeline: the YAML in the bucket, compiled once per revision and kept in memory.
//
// A watch of the bucket's keys tells which revision is the newest, so that a known pipeline costs no request. A pipeline the watch does
// not know, or not yet, is asked for before it counts as unknown: a failure right after its registration, or right after the start of the
// worker, finds it. One that has to be compiled costs one more request.
//
// Plans are kept up to a bound in bytes, see [MaxBytes]; what was not used for longest goes first, and is compiled again when it is needed.
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

// MaxBytes is about how much memory compiled plans take, in bytes; with what the garbage collector needs beside them, a process has about
// twice as much. A plan of 50 nodes and 60 strategies takes 4 to 15 KiB, the less the more it has in common with others.
const MaxBytes = 96 << 20

// Registry holds plans. It is safe for concurrent use.
type Registry struct {
	kv        jetstream.KeyValue
	semantics recourse.Semantics
	log       *zap.Logger
	shared    *pipeline.Shared
	most      int // bytes

	mu     sync.Mutex
	newest map[string]uint64 // revision by key
	plans  map[planKey]*loading
	used   loading // of plans that are there, used.next was used last and used.previous is the first to go
	bytes  int     // of these
}

type planKey struct {
	key      string
	revision uint64
}

// loading is a plan that is there once done is closed. Whoever asks meanwhile waits: a pipeline is compiled once.
type loading struct {
	planKey
	done     chan struct{}
	pipeline decide.Pipeline
	err      error

	next, previous *loading // nil while it is not there
	bytes          int
}

// entryBytes is about what a plan takes in the registry, beside the bytes of its key.
const entryBytes = 500

// New returns a registry over the bucket. The watch has begun when it returns, and ends with ctx; what it has not told yet is asked for,
// so that a start takes as long with many pipelines as with few.
func New(ctx context.Context, js jetstream.JetStream, semantics recourse.Semantics, log *zap.Logger) (*Registry, error) {
	kv, err := js.KeyValue(ctx, recourse.BucketPipelines)
	if err != nil {
		return nil, fmt.Errorf("pipelines: bucket %s: %w", recourse.BucketPipelines, err)
	}
	watcher, err := kv.WatchAll(ctx, jetstream.MetaOnly())
	if err != nil {
		return nil, fmt.Errorf("pipelines: watch: %w", err)
	}
	r := newRegistry(semantics, log)
	r.kv = kv
	go r.follow(watcher)
	return r, nil
}

func newRegistry(semantics recourse.Semantics, log *zap.Logger) *Registry {
	r := &Registry{
		semantics: semantics, log: log, shared: pipeline.NewShared(), most: MaxBytes,
		newest: make(map[string]uint64), plans: make(map[planKey]*loading),
	}
	r.used.next, r.used.previous = &r.used, &r.used
	return r
}

func (r *Registry) follow(watcher jetstream.KeyWatcher) {
	for update := range watcher.Updates() {
		if update != nil { // nil: all keys that were there have been told
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
		p, err := r.compiled(ctx, planKey{key, revision}, nil)
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
	return r.compiled(ctx, planKey{key, entry.Revision()}, entry)
}

// compiled returns the plan of a revision: from memory, or compiled from its entry, which is got from the bucket where it is nil.
func (r *Registry) compiled(ctx context.Context, key planKey, entry jetstream.KeyValueEntry) (decide.Pipeline, error) {
	r.mu.Lock()
	l, ok := r.plans[key]
	if !ok {
		l = &loading{planKey: key, done: make(chan struct{})}
		r.plans[key] = l
	} else if l.next != nil {
		r.use(l)
		r.mu.Unlock()
		return l.pipeline, nil
	}
	r.mu.Unlock()
	if !ok {
		l.bytes, l.err = r.load(ctx, l, entry)
		r.mu.Lock()
		if l.err != nil {
			delete(r.plans, key) // asked for again next time
		} else {
			r.use(l)
			r.evict()
		}
		r.mu.Unlock()
		close(l.done)
	}
	select {
	case <-l.done:
		return l.pipeline, l.err
	case <-ctx.Done():
		return decide.Pipeline{}, ctx.Err()
	}
}

// use makes a plan the one that was used last.
func (r *Registry) use(l *loading) {
	if l.next == nil {
		r.bytes += l.bytes
	} else {
		l.next.previous, l.previous.next = l.previous, l.next
	}
	l.next, l.previous = r.used.next, &r.used
	l.next.previous, l.previous.next = l, l
}

// evict drops what was used least recently until the rest is within the bound. The last one stays however large it is.
func (r *Registry) evict() {
	for r.bytes > r.most && r.used.next != r.used.previous {
		l := r.used.previous
		l.previous.next, r.used.previous = &r.used, l.previous
		r.bytes -= l.bytes
		delete(r.plans, l.planKey)
	}
}

// load compiles a plan and returns about how many bytes it takes.
func (r *Registry) load(ctx context.Context, l *loading, entry jetstream.KeyValueEntry) (bytes int, err error) {
	if entry == nil {
		if entry, err = r.kv.GetRevision(ctx, l.key, l.revision); err != nil {
			return 0, fmt.Errorf("pipeline %s revision %d: %w", l.key, l.revision, err)
		}
	}
	plan, bytes, diagnostics := pipeline.LoadBytes(l.key, entry.Value(), pipeline.Options{Semantics: r.semantics, Shared: r.shared})
	if diagnostics.HasErrors() {
		r.log.Warn("a registered pipeline has errors, what can be read of it is used",
			zap.String("pipeline", l.key), zap.Uint64("revision", l.revision), zap.Int("errors", countErrors(diagnostics)))
	}
	sum := sha256.Sum256(entry.Value())
	l.pipeline = decide.Pipeline{
		Plan:      plan,
		Revision:  recourse.PipelineRevision{Revision: l.revision, Digest: hex.EncodeToString(sum[:8])},
		Semantics: r.semantics,
	}
	return bytes + entryBytes + len(l.key), nil
}

func countErrors(diagnostics pipeline.Diagnostics) (n int) {
	for _, d := range diagnostics {
		if d.Severity == pipeline.SeverityError {
			n++
		}
	}
	return n
}
