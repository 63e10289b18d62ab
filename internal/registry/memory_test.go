package registry

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// store is a bucket in memory, with the two requests that a registry makes.
type store struct {
	jetstream.KeyValue
	gets, revisions atomic.Int64 // requests so far

	mu     sync.Mutex
	values []entry // by revision, which begins at 1
	hold   map[uint64]chan struct{}
}

type entry struct {
	jetstream.KeyValueEntry
	key      string
	revision uint64
	value    []byte
	deleted  bool
}

func (e entry) Key() string      { return e.key }
func (e entry) Revision() uint64 { return e.revision }
func (e entry) Value() []byte    { return e.value }
func (e entry) Operation() jetstream.KeyValueOp {
	if e.deleted {
		return jetstream.KeyValueDelete
	}
	return jetstream.KeyValuePut
}

// put stores a value, nil for a deletion, and returns its entry.
func (s *store) put(key string, value []byte) entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := entry{key: key, revision: uint64(len(s.values) + 1), value: value, deleted: value == nil}
	s.values = append(s.values, e)
	return e
}

// holdBack makes requests for a revision wait until release is called.
func (s *store) holdBack(revision uint64) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold == nil {
		s.hold = make(map[uint64]chan struct{})
	}
	held := make(chan struct{})
	s.hold[revision] = held
	return func() { close(held) }
}

func (s *store) Get(_ context.Context, key string) (jetstream.KeyValueEntry, error) {
	s.gets.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.values) - 1; i >= 0; i-- {
		if e := s.values[i]; e.key == key && !e.deleted {
			return e, nil
		} else if e.key == key {
			break
		}
	}
	return nil, jetstream.ErrKeyNotFound
}

func (s *store) GetRevision(ctx context.Context, key string, revision uint64) (jetstream.KeyValueEntry, error) {
	s.revisions.Add(1)
	s.mu.Lock()
	held := s.hold[revision]
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision == 0 || revision > uint64(len(s.values)) || s.values[revision-1].key != key || s.values[revision-1].deleted {
		return nil, jetstream.ErrKeyNotFound
	}
	return s.values[revision-1], nil
}

func inMemory(s *store) *Registry {
	r := newRegistry(recourse.Engine, zap.NewNop())
	r.kv = s
	return r
}

// of is an execution of one of many pipelines.
func of(i int) recourse.Ref {
	return recourse.Ref{Account: "acme", Org: "default", Project: "shop", Pipeline: fmt.Sprintf("p%d", i), Execution: "e"}
}

func ask(t *testing.T, r *Registry, ref recourse.Ref, pinned uint64) decide.Pipeline {
	t.Helper()
	p, err := r.Pipeline(t.Context(), ref, pinned)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// until waits until something is so.
func until(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// consistent checks what a registry counts against what it holds.
func consistent(t *testing.T, r *Registry) (plans int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	bytes := 0
	for l := r.used.next; l != &r.used; l = l.next {
		if r.plans[l.planKey] != l || l.next.previous != l || l.previous.next != l {
			t.Fatalf("%v is out of place", l.planKey)
		}
		bytes += l.bytes
		plans++
	}
	if plans != len(r.plans) || bytes != r.bytes {
		t.Errorf("%d plans with %d bytes in order, %d and %d counted", plans, bytes, len(r.plans), r.bytes)
	}
	return plans
}

// TestBound: the bound is kept, and what was used least recently goes first.
func TestBound(t *testing.T) {
	s := &store{}
	r := inMemory(s)
	for i := range 5 {
		r.note(s.put(of(i).PipelineKey(), yaml(i)))
	}
	ask(t, r, of(0), 0)
	r.most = r.bytes*3 + r.bytes/2 // three of them, all alike
	ask(t, r, of(1), 0)
	ask(t, r, of(2), 0)
	ask(t, r, of(0), 0)
	if n := consistent(t, r); n != 3 || s.revisions.Load() != 3 {
		t.Fatalf("%d plans, %d requests; want 3 and 3", n, s.revisions.Load())
	}
	ask(t, r, of(3), 0) // 1 goes
	if n := consistent(t, r); n != 3 || r.bytes > r.most {
		t.Errorf("%d plans of %d bytes, at most %d", n, r.bytes, r.most)
	}
	for _, i := range []int{2, 0, 3} {
		ask(t, r, of(i), 0)
	}
	if n := s.revisions.Load(); n != 4 {
		t.Errorf("%d requests, want 4: one that was used is gone", n)
	}
	if p := ask(t, r, of(1), 0); p.Plan.Pipeline != "v1" || s.revisions.Load() != 5 { // 2 goes
		t.Errorf("plan %s, %d requests, want v1 and 5", p.Plan.Pipeline, s.revisions.Load())
	}
	if ask(t, r, of(0), 0); s.revisions.Load() != 5 {
		t.Errorf("%d requests, want 5", s.revisions.Load())
	}
	consistent(t, r)
}

// TestBoundOfOne: a plan that is larger than the bound is kept until another one is needed.
func TestBoundOfOne(t *testing.T) {
	s := &store{}
	r := inMemory(s)
	r.most = 1
	for i := range 2 {
		r.note(s.put(of(i).PipelineKey(), yaml(i)))
	}
	for i := range 2 {
		for range 3 {
			ask(t, r, of(i), 0)
		}
	}
	if n := consistent(t, r); n != 1 || s.revisions.Load() != 2 {
		t.Errorf("%d plans, %d requests; want 1 and 2", n, s.revisions.Load())
	}
}

// TestUnseen: what the watch has not told is asked for, by one request.
func TestUnseen(t *testing.T) {
	s := &store{}
	r := inMemory(s)
	s.put(of(0).PipelineKey(), yaml(1))
	e := s.put(of(0).PipelineKey(), yaml(2))
	if p := ask(t, r, of(0), 0); p.Plan == nil || p.Plan.Pipeline != "v2" || p.Revision.Revision != 2 {
		t.Errorf("%+v", p)
	}
	if s.gets.Load() != 1 || s.revisions.Load() != 0 {
		t.Errorf("%d and %d requests, want 1 and 0", s.gets.Load(), s.revisions.Load())
	}
	r.note(e)
	ask(t, r, of(0), 0)
	if s.gets.Load() != 1 || s.revisions.Load() != 0 {
		t.Errorf("%d and %d requests, want 1 and 0", s.gets.Load(), s.revisions.Load())
	}
	if p := ask(t, r, of(1), 0); p.Plan != nil || p.Revision.Revision != 0 {
		t.Errorf("%+v", p)
	}
}

// TestNewRevisionMeanwhile: a revision that comes while an older one is being compiled does not wait for it, and neither takes the other's
// place.
func TestNewRevisionMeanwhile(t *testing.T) {
	s := &store{}
	r := inMemory(s)
	first := s.put(of(0).PipelineKey(), yaml(1))
	release := s.holdBack(first.revision)
	r.note(first)
	var old decide.Pipeline
	var asked sync.WaitGroup
	asked.Go(func() { old = ask(t, r, of(0), 0) })
	until(t, func() bool { return s.revisions.Load() > 0 })
	second := s.put(of(0).PipelineKey(), yaml(2))
	r.note(second)
	if p := ask(t, r, of(0), 0); p.Plan.Pipeline != "v2" || p.Revision.Revision != 2 {
		t.Errorf("%+v", p)
	}
	r.note(s.put(of(0).PipelineKey(), nil)) // deleted: unknown to who asks anew
	if p := ask(t, r, of(0), 0); p.Plan != nil {
		t.Errorf("%+v", p)
	}
	release()
	asked.Wait()
	if old.Plan == nil || old.Plan.Pipeline != "v1" || old.Revision.Revision != 1 {
		t.Errorf("%+v", old)
	}
	if p := ask(t, r, of(0), 1); p.Plan != old.Plan {
		t.Error("compiled twice")
	}
	if n := consistent(t, r); n != 2 {
		t.Errorf("%d plans, want 2", n)
	}
}

// BenchmarkPipeline is what a decision pays to find its plan.
func BenchmarkPipeline(b *testing.B) {
	for _, registered := range []int{1, 100, 10_000} {
		s := &store{}
		r := inMemory(s)
		refs := make([]recourse.Ref, registered)
		for i := range refs {
			refs[i] = of(i)
			r.note(s.put(refs[i].PipelineKey(), yaml(i)))
			if _, err := r.Pipeline(b.Context(), refs[i], 0); err != nil {
				b.Fatal(err)
			}
		}
		for _, pinned := range []bool{false, true} {
			b.Run(fmt.Sprintf("registered=%d/pinned=%t", registered, pinned), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					revision := uint64(0)
					if pinned {
						revision = uint64(i + 1)
					}
					if p, err := r.Pipeline(b.Context(), refs[i], revision); err != nil || p.Plan == nil {
						b.Fatal(err)
					}
					if i++; i == registered {
						i = 0
					}
				}
			})
		}
	}
}
