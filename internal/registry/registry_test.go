package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/decide"
)

func TestMain(m *testing.M) {
	// The embedded server looks at the machine once in a while for as long as the process lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/pse.periodic"))
}

// patience is how long a test waits for what must happen; it is not what it takes.
const patience = time.Minute

var ref = recourse.Ref{Account: "acme", Org: "a.b", Project: "$x", Pipeline: "deploy web", Execution: "ex42"}

// yaml is a pipeline whose identifier tells the revisions apart.
func yaml(n int) []byte {
	return fmt.Appendf(nil, `{pipeline: {identifier: v%d, stages: [{stage: {identifier: s, type: Custom, spec: {execution: {steps: [{step: {identifier: a}}]}}}}]}}`, n)
}

// bucket returns the bucket of pipelines on a server, and what stops the server.
func bucket(t *testing.T) (js jetstream.JetStream, kv jetstream.KeyValue, stop func()) {
	t.Helper()
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Sync: broker.SyncInterval})
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	if kv, err = js.KeyValue(t.Context(), recourse.BucketPipelines); err != nil {
		t.Fatal(err)
	}
	return js, kv, stop
}

func open(t *testing.T, js jetstream.JetStream) *Registry {
	t.Helper()
	r, err := New(t.Context(), js, recourse.Engine, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func put(t *testing.T, kv jetstream.KeyValue, content []byte) uint64 {
	t.Helper()
	revision, err := kv.Put(t.Context(), ref.PipelineKey(), content)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// get returns a plan; want is the identifier of its pipeline, "" where there is to be no plan.
func get(t *testing.T, r *Registry, pinned uint64, want string, revision uint64) decide.Pipeline {
	t.Helper()
	p, err := r.Pipeline(t.Context(), ref, pinned)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	if p.Plan != nil {
		got = p.Plan.Pipeline
	}
	if got != want || p.Revision.Revision != revision || p.Semantics != recourse.Engine {
		t.Errorf("pinned %d: plan %q, revision %d (%s); want %q, %d", pinned, got, p.Revision.Revision, p.Semantics, want, revision)
	}
	return p
}

// seen waits until the watch knows the newest revision, 0 for none.
func seen(t *testing.T, r *Registry, revision uint64) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		r.mu.Lock()
		newest := r.newest[ref.PipelineKey()]
		r.mu.Unlock()
		if newest == revision {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the watch knows revision %d, want %d", newest, revision)
		}
		<-time.After(time.Millisecond)
	}
}

func TestPipeline(t *testing.T) {
	js, kv, _ := bucket(t)
	r := open(t, js)
	get(t, r, 0, "", 0) // not registered
	first := put(t, kv, yaml(1))
	p := get(t, r, 0, "v1", first) // right after its registration, whether the watch has seen it or not
	if len(p.Revision.Digest) != 16 {
		t.Errorf("digest %q", p.Revision.Digest)
	}
	seen(t, r, first)
	if again := get(t, r, 0, "v1", first); again.Plan != p.Plan {
		t.Error("compiled twice")
	}
	second := put(t, kv, yaml(2))
	seen(t, r, second)
	if newer := get(t, r, 0, "v2", second); newer.Revision.Digest == p.Revision.Digest {
		t.Error("two revisions with the same digest")
	}
	get(t, r, first, "v1", first) // pinned

	// Another worker, that starts later, knows both.
	other := open(t, js)
	seen(t, other, second)
	get(t, other, first, "v1", first)
	get(t, other, 0, "v2", second)

	// Deleted: unknown to who asks anew, and known to who has it pinned.
	if err := kv.Delete(t.Context(), ref.PipelineKey()); err != nil {
		t.Fatal(err)
	}
	seen(t, r, 0)
	get(t, r, 0, "", 0)
	get(t, r, first, "v1", first)
	third := put(t, kv, yaml(3))
	seen(t, r, third)
	get(t, r, 0, "v3", third)
}

func TestInvalidYAML(t *testing.T) {
	js, kv, _ := bucket(t)
	r := open(t, js)
	revision := put(t, kv, []byte("\t{["))
	if p := get(t, r, 0, "", revision); p.Revision.Digest == "" {
		t.Error("YAML that cannot be read has no digest")
	}
	// What can be read of a pipeline with errors is used.
	revision = put(t, kv, []byte(`{pipeline: {identifier: half, stages: [{stage: {identifier: s, type: Custom, failureStrategies: [{onFailure: {errors: [Nonsense], action: {type: Fly}}}], spec: {execution: {steps: [{step: {identifier: a}}]}}}}]}}`))
	seen(t, r, revision)
	get(t, r, 0, "half", revision)
}

// TestAgedOut: a pinned revision that the bucket does not keep any more gives way to the newest.
func TestAgedOut(t *testing.T) {
	js, kv, _ := bucket(t)
	first := put(t, kv, yaml(0))
	r := open(t, js)
	get(t, r, first, "v0", first)
	var newest uint64
	for n := range jetstream.KeyValueMaxHistory {
		newest = put(t, kv, yaml(n+1))
	}
	get(t, r, first, "v0", first) // still in memory
	fresh := open(t, js)
	get(t, fresh, first, fmt.Sprintf("v%d", jetstream.KeyValueMaxHistory), newest)
	if err := kv.Purge(t.Context(), ref.PipelineKey()); err != nil {
		t.Fatal(err)
	}
	get(t, open(t, js), first, "", 0)
}

// TestTogether: many ask for the same plan at once, and it is compiled once.
func TestTogether(t *testing.T) {
	js, kv, _ := bucket(t)
	revision := put(t, kv, yaml(1))
	r := open(t, js)
	plans := make([]*decide.Plan, 32)
	var all sync.WaitGroup
	for i := range plans {
		all.Go(func() {
			p, err := r.Pipeline(t.Context(), ref, revision)
			if err != nil {
				t.Error(err)
			}
			plans[i] = p.Plan
		})
	}
	all.Wait()
	for _, plan := range plans {
		if plan == nil || plan != plans[0] {
			t.Fatal("compiled more than once")
		}
	}
}

// TestImpatientFirst: who asks first and goes leaves no error behind.
func TestImpatientFirst(t *testing.T) {
	js, kv, _ := bucket(t)
	revision := put(t, kv, yaml(1))
	r := open(t, js)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Pipeline(gone, ref, revision); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	get(t, r, revision, "v1", revision)
}

func TestErrors(t *testing.T) {
	js, kv, stop := bucket(t)
	revision := put(t, kv, yaml(1))
	r := open(t, js)
	get(t, r, revision, "v1", revision)
	if err := js.DeleteKeyValue(t.Context(), "other"); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Fatal(err)
	}
	stop()
	get(t, r, revision, "v1", revision) // from memory
	if _, err := r.Pipeline(t.Context(), ref, revision+1); err == nil {
		t.Error("a plan without a server, that is not in memory")
	}
	if _, err := New(t.Context(), js, recourse.Documented, zap.NewNop()); err == nil {
		t.Error("a registry without a server")
	}
}

func TestNoBucket(t *testing.T) {
	js, _, _ := bucket(t)
	if err := js.DeleteKeyValue(t.Context(), recourse.BucketPipelines); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), js, recourse.Documented, zap.NewNop()); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("error %v", err)
	}
}
