package pipeline

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// everyAction has each setting of an action that can differ, in pipelines that differ in one of them at a time.
func everyAction() (pipelines []string) {
	retry := func(count, wait, after, more string) string {
		return fmt.Sprintf("{type: Retry, spec: {retryCount: %s, %s, onRetryFailure: {action: %s}%s}}", count, wait, after, more)
	}
	ask := func(timeout, after, more string) string {
		return fmt.Sprintf("{type: ManualIntervention, spec: {timeout: %s, onTimeout: {action: %s}%s}}", timeout, after, more)
	}
	abort := "{type: Abort}"
	for _, action := range []string{
		abort, "{type: Ignore}",
		retry("1", "retryIntervals: []", abort, ""), retry("2", "retryIntervals: []", abort, ""), retry("2", "other: 1", abort, ""),
		retry("2", "retryIntervals: [1s]", abort, ""), retry("2", "retryIntervals: [2s]", abort, ""), retry("2", "retryIntervals: [1s, 1s]", abort, ""),
		retry("2", "retryIntervals: [1s]", "{type: MarkAsFailure}", ""), retry("2", "retryIntervals: [1s]", ask("1d", abort, ""), ""),
		retry("2", "backoff: {initial: 1s}", abort, ""), retry("2", "backoff: {initial: 2s}", abort, ""), retry("2", "backoff: {initial: 1s, max: 5s}", abort, ""),
		retry("2", "backoff: {initial: 1s, multiplier: 3}", abort, ""), retry("2", "backoff: {initial: 1s, jitter: 0.5}", abort, ""),
		retry("2", "retryIntervals: [1s]", abort, ", condition: <+step.exitCode> == 1"), retry("2", "retryIntervals: [1s]", abort, ", condition: <+step.exitCode> == 2"),
		ask("1d", abort, ""), ask("2d", abort, ""), ask("1d", "{type: Ignore}", ""), ask("1d", abort, ", availableActions: [Ignore]"),
		ask("1d", abort, ", answerBy: [ann]"), ask("1d", abort, ", answerBy: [bob]"),
	} {
		for _, errors := range []string{"Timeout", "Timeout, Connectivity"} {
			pipelines = append(pipelines, in(onStep, one(errors, action)), in(onGroup, one(errors, action)), in(onStage, one("Unknown", "{type: Ignore}"), one(errors, action)))
		}
	}
	return pipelines
}

// TestShared: plans that share say what plans say that do not, whatever else is shared with.
func TestShared(t *testing.T) {
	all := everyAction()
	all = append(all, string(ordinary(30)), strings.Replace(string(ordinary(30)), "retryCount: 5", "retryCount: 6", 1))
	for _, most := range []int{8 << 20, 2000, 0} {
		shared := NewShared()
		shared.most = most
		for range 2 {
			for _, yaml := range all {
				opt := Options{Semantics: engine}
				want, alone, found := LoadBytes("p", []byte(yaml), opt)
				opt.Shared = shared
				got, bytes, again := LoadBytes("p", []byte(yaml), opt)
				if !reflect.DeepEqual(got.Nodes(), want.Nodes()) && !sameButConditions(got, want) || !reflect.DeepEqual(found, again) {
					t.Fatalf("sharing changes the plan of\n%s", yaml)
				}
				if alone <= 0 || bytes <= 0 {
					t.Fatalf("%d and %d bytes", alone, bytes)
				}
			}
		}
		if shared.bytes > most {
			t.Errorf("%d bytes are held, at most %d", shared.bytes, most)
		}
	}
}

// sameButConditions compares plans whose conditions are compiled apart: programs are not comparable.
func sameButConditions(a, b *decide.Plan) bool {
	bare := func(p *decide.Plan) (nodes []decide.PlanNode) {
		for _, n := range p.Nodes() {
			list := append([]decide.Strategy(nil), n.Strategies...)
			for i := range list {
				if c, ok := list[i].Condition.(*condition); ok {
					list[i].Condition = &condition{text: c.text, uses: c.uses}
				}
			}
			n.Strategies = list
			nodes = append(nodes, n)
		}
		return nodes
	}
	return reflect.DeepEqual(bare(a), bare(b))
}

// TestSharedOnce: what is alike is there once, and costs the second plan nothing.
func TestSharedOnce(t *testing.T) {
	opt := Options{Semantics: engine, Shared: NewShared()}
	yaml := ordinary(30)
	first, most, _ := LoadBytes("p", yaml, opt)
	second, least, _ := LoadBytes("p", yaml, opt)
	lists := 0
	for i, n := range first.Nodes() {
		other := second.Nodes()[i].Strategies
		if len(n.Strategies) != len(other) {
			t.Fatalf("%v: %d and %d strategies", n.Node, len(n.Strategies), len(other))
		}
		if len(other) > 0 {
			lists++
			if &other[0] != &n.Strategies[0] {
				t.Errorf("%v: its strategies are there twice", n.Node)
			}
		}
	}
	if lists < 10 || least*2 > most {
		t.Errorf("%d lists; %d bytes for the first, %d for the second", lists, most, least)
	}
	// The same strategies in another place: what they do is shared.
	moved, _ := Load("p", []byte(strings.Replace(string(yaml), "stages:\n", "stages:\n    - stage: {identifier: before, type: Custom}\n", 1)), opt)
	a, b := strategiesOf(t, first, "stage0", recourse.Steps), strategiesOf(t, moved, "stage0", recourse.Steps)
	for i := range a {
		if a[i].Path == b[i].Path || a[i].Do != b[i].Do || a[i].Condition != b[i].Condition {
			t.Errorf("%+v and %+v", a[i], b[i])
		}
	}
}

func TestSharedTogether(t *testing.T) {
	shared := NewShared()
	shared.most = 4000
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for _, yaml := range everyAction() {
				if plan, _ := Load("p", []byte(yaml), Options{Semantics: engine, Shared: shared}); plan == nil {
					t.Error("no plan")
				}
			}
		})
	}
	all.Wait()
}

// TestBytes: what LoadBytes says is about what the memory says.
func TestBytes(t *testing.T) {
	const plans = 300
	for _, steps := range []int{10, 50} {
		for _, shared := range []*Shared{nil, NewShared()} {
			var kept [plans]*decide.Plan
			var before, after runtime.MemStats
			yaml := string(ordinary(steps))
			runtime.GC()
			runtime.ReadMemStats(&before)
			said := 0
			for i := range kept {
				// Other names in each, and other conditions.
				text := strings.ReplaceAll(strings.ReplaceAll(yaml, "identifier: step", fmt.Sprintf("identifier: step%d_", i)), "!= 2", fmt.Sprintf("!= %d", 1000+i))
				plan, bytes, found := LoadBytes("p", []byte(text), Options{Semantics: engine, Shared: shared})
				if len(found) > 0 {
					t.Fatal(found)
				}
				kept[i] = plan
				said += bytes
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			is := int(after.HeapAlloc) - int(before.HeapAlloc)
			t.Logf("%d steps, shared %t: a plan takes %d bytes, %d are said", steps, shared != nil, is/plans, said/plans)
			if ratio := float64(said) / float64(is); ratio < 0.85 || ratio > 1.15 {
				t.Errorf("%d steps, shared %t: %d bytes are said, %d are taken", steps, shared != nil, said, is)
			}
			runtime.KeepAlive(&kept)
			runtime.KeepAlive(shared)
		}
	}
}
