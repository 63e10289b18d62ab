package decide_test

import (
	"fmt"
	"testing"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// wide returns the nodes of a plan with that many steps, ten in a stage.
func wide(steps int) (nodes []decide.PlanNode) {
	for i := range steps {
		stage := fmt.Sprintf("stage%d", i/10)
		if i%10 == 0 {
			nodes = append(nodes, decide.PlanNode{Node: recourse.Node{Path: stage}, Level: recourse.LevelStage})
		}
		nodes = append(nodes, decide.PlanNode{Node: recourse.Node{Path: fmt.Sprintf("%s/step%d", stage, i)}, Level: recourse.LevelStep})
	}
	return nodes
}

// TestLookup: each node is found under its own path and section, of two alike the first, and nothing else is found.
func TestLookup(t *testing.T) {
	nodes := append(wide(57),
		decide.PlanNode{Node: recourse.Node{Path: "stage3", Section: recourse.RollbackSteps}, Level: recourse.LevelStepGroup},
		decide.PlanNode{Node: recourse.Node{Path: "stage3/step31", Section: recourse.RollbackSteps}, Level: recourse.LevelStep},
		decide.PlanNode{Node: recourse.Node{Path: "stage3/step31"}, Level: recourse.LevelStep}, // there twice
	)
	for i := range nodes {
		nodes[i].Strategies = []decide.Strategy{{Index: i}}
	}
	plan := decide.NewPlan("p", recourse.Documented, nodes)
	for i, n := range plan.Nodes() {
		want := i
		if i == len(nodes)-1 {
			for want = 0; nodes[want].Node != n.Node; want++ {
			}
		}
		found, ok := plan.Lookup(n.Node)
		if !ok || found.Strategies[0].Index != want {
			t.Errorf("%v: found %v, %v; want node %d", n.Node, found, ok, want)
		}
		if found, ok := plan.Lookup(recourse.Node{Path: n.Path + "[2]", Section: n.Section}); !ok || found.Strategies[0].Index != want {
			t.Errorf("iteration of %v: found %v, %v; want node %d", n.Node, found, ok, want)
		}
	}
	for _, path := range []string{"", "stage", "stage9", "stage3/", "stage3/step3", "stage3/step99", "stage3/step31/x", "zzz"} {
		if n, ok := plan.Lookup(recourse.Node{Path: path}); ok {
			t.Errorf("%q: found %v", path, n)
		}
	}
	if n, ok := plan.Lookup(recourse.Node{Path: "stage4", Section: recourse.RollbackSteps}); ok {
		t.Errorf("found %v in a section where it is not", n)
	}
	if _, ok := decide.NewPlan("p", recourse.Documented, nil).Lookup(recourse.Node{Path: "s"}); ok {
		t.Error("an empty plan finds something")
	}
}

// TestEnclosing: what encloses a node stands before it. The u here stands under the rollbackSteps of the first g, whose strategies do not
// count for it; the g after it is another one.
func TestEnclosing(t *testing.T) {
	strategy := func(name string) []decide.Strategy {
		return []decide.Strategy{{Path: name, Errors: recourse.ErrorTypesOf(recourse.AllErrors), Do: decide.ActionSpec{Action: recourse.Ignore}}}
	}
	plan := decide.NewPlan("p", recourse.Documented, []decide.PlanNode{
		{Node: recourse.Node{Path: "s"}, Level: recourse.LevelStage},
		{Node: recourse.Node{Path: "s/g"}, Level: recourse.LevelStepGroup, Strategies: strategy("first")},
		{Node: recourse.Node{Path: "s/g/u", Section: recourse.RollbackSteps}, Level: recourse.LevelStep},
		{Node: recourse.Node{Path: "s/g", Section: recourse.RollbackSteps}, Level: recourse.LevelStepGroup, Strategies: strategy("second")},
		{Node: recourse.Node{Path: "s/g/v", Section: recourse.RollbackSteps}, Level: recourse.LevelStep},
	})
	for path, want := range map[string]string{"s/g/u": "", "s/g/v": "second"} {
		c := newChain(t, plan, recourse.Documented)
		f := &recourse.Failure{Attempt: 1, Errors: recourse.ErrorTypesOf(recourse.Timeout)}
		f.Node = recourse.Node{Path: path, Section: recourse.RollbackSteps}
		if rec, _, _ := c.step(c.failure(f), epoch); rec.Strategy != want {
			t.Errorf("%s: strategy %q decides, want %q", path, rec.Strategy, want)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, steps := range []int{50, 200, 5000} {
		plan := decide.NewPlan("p", recourse.Documented, wide(steps))
		nodes := plan.Nodes()
		b.Run(fmt.Sprintf("steps=%d", steps), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, ok := plan.Lookup(nodes[i].Node); !ok {
					b.Fatal(nodes[i])
				}
				if i++; i == len(nodes) {
					i = 0
				}
			}
		})
	}
}

func BenchmarkNewPlan(b *testing.B) {
	nodes := wide(50)
	b.ReportAllocs()
	for b.Loop() {
		decide.NewPlan("p", recourse.Documented, nodes)
	}
}
