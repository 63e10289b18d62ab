package decide

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/retry"
)

// Plan is what a pipeline says about failures, compiled so that resolving a node is one look-up and a walk. It is immutable once
// built and safe for concurrent use. internal/pipeline builds it from YAML.
type Plan struct {
	// Pipeline is the identifier in the YAML, "" where it has none.
	Pipeline string
	// Semantics is the setting the plan was loaded under; decisions follow it.
	Semantics recourse.Semantics

	nodes []PlanNode
	order []int32 // positions of nodes in the order of lookupOrder; of two with the same path and section only the first
}

// PlanNode is a stage, step group or step of a plan.
type PlanNode struct {
	// Node is the path without iterations, and the section: RollbackSteps for everything under any rollbackSteps.
	recourse.Node
	// Level is LevelStep, LevelStepGroup or LevelStage.
	Level recourse.Level

	parent int32 // position in Plan.nodes, -1 for a stage; stands here because here it costs no memory

	// Strategies in listed order. Plans may share them.
	Strategies []Strategy
}

// Strategy is one entry of a failureStrategies list.
type Strategy struct {
	// Path is where it stands in the YAML: pipeline.stages[0].stage.failureStrategies[1].
	Path string
	// Index is its position in the list, 0-based.
	Index int
	// Errors are the types it lists, AllErrors among them where it does.
	Errors recourse.ErrorTypes
	// Condition must hold for it to apply; nil where it always does (R4).
	Condition Condition
	// Do is what it does.
	Do ActionSpec
}

// Condition is an expression over a failure.
type Condition interface {
	// Holds evaluates it. On false, or where it cannot be evaluated, which counts as false, why says so with the values it
	// looked at; on true it says that too.
	Holds(f *FailureView) (holds bool, why string)
}

// FailureView is what a condition sees.
type FailureView struct {
	Attempt  int
	Errors   recourse.ErrorTypes // normalized (R1)
	Message  string
	Target   string
	ExitCode *int // nil where the failure has none: a condition on it cannot be evaluated
}

// ActionSpec is an action with its settings. Nested actions (R10) are of the same type.
type ActionSpec struct {
	Action recourse.Action
	// Retry is set for Retry and RetryStepGroup.
	Retry *retry.Policy
	// OnRetryFailure is what follows the last retry; nil counts as MarkAsFailure.
	OnRetryFailure *ActionSpec
	// Intervention is set for ManualIntervention.
	Intervention *InterventionSpec
}

// InterventionSpec are the settings of a ManualIntervention (R9).
type InterventionSpec struct {
	// Timeout is how long it stays open, > 0.
	Timeout time.Duration
	// OnTimeout is what follows; nil counts as MarkAsFailure.
	OnTimeout *ActionSpec
	// Allowed are the answers it takes.
	Allowed recourse.Actions
	// AnswerBy is who may answer; see [recourse.MayAnswer].
	AnswerBy string
}

// DefaultInterventionTimeout is how long an intervention stays open when its strategy does not say (R9).
const DefaultInterventionTimeout = 24 * time.Hour

// NewPlan compiles nodes into a plan. A node stands after the node that encloses it, and its Node.Path is the path of that node and its own
// identifier. Where two nodes have the same path and section the first counts. A group inside a rollbackSteps has the section
// RollbackSteps; the group or stage that owns the rollbackSteps has its own.
func NewPlan(pipeline string, semantics recourse.Semantics, nodes []PlanNode) *Plan {
	p := &Plan{Pipeline: pipeline, Semantics: semantics, nodes: nodes, order: make([]int32, len(nodes))}
	for i := range nodes {
		p.order[i] = int32(i)
	}
	slices.SortFunc(p.order, func(a, b int32) int {
		return cmp.Or(lookupOrder(nodes[a].Node, nodes[b].Node), cmp.Compare(a, b))
	})
	first := slices.CompactFunc(p.order, func(a, b int32) bool { return nodes[a].Node == nodes[b].Node })
	if len(first) < len(nodes) {
		first = slices.Clone(first)
	}
	p.order = first
	for i := range nodes {
		n := &nodes[i]
		n.parent = -1
		if n.Level != recourse.LevelStage {
			n.parent = p.findBefore(int32(i), recourse.Node{Path: recourse.Parent(n.Path), Section: n.Section})
		}
	}
	return p
}

// lookupOrder orders nodes for Plan.at. Lengths come first because they differ more often than the beginnings of paths do.
func lookupOrder(a, b recourse.Node) int {
	if len(a.Path) != len(b.Path) {
		return len(a.Path) - len(b.Path)
	}
	if c := strings.Compare(a.Path, b.Path); c != 0 {
		return c
	}
	return cmp.Compare(a.Section, b.Section)
}

// at returns the position of the first node of a path and section, -1 where there is none. A sorted list of positions takes 4 bytes of
// memory for a node where a map takes 40, and no choice of names makes it slow.
func (p *Plan) at(n recourse.Node) int32 {
	low, high := 0, len(p.order)
	for low < high {
		middle := int(uint(low+high) / 2)
		switch c := lookupOrder(p.nodes[p.order[middle]].Node, n); {
		case c == 0:
			return p.order[middle]
		case c < 0:
			low = middle + 1
		default:
			high = middle
		}
	}
	return -1
}

// Nodes returns the nodes in the order of the YAML; the caller does not change them.
func (p *Plan) Nodes() []PlanNode { return p.nodes }

// Lookup returns the node of a path, iterations ignored, and false where the plan does not list it.
func (p *Plan) Lookup(n recourse.Node) (*PlanNode, bool) {
	i := p.at(recourse.Node{Path: recourse.PlainPath(n.Path), Section: n.Section})
	if i < 0 {
		return nil, false
	}
	return &p.nodes[i], true
}

// find returns the position of a node, or of the same path under steps: the group or stage that a rollbackSteps belongs to. It is
// -1 where there is neither.
func (p *Plan) find(n recourse.Node) int32 { return p.findBefore(int32(len(p.nodes)), n) }

// findBefore is find among the nodes that stand before a position.
func (p *Plan) findBefore(end int32, n recourse.Node) int32 {
	if i := p.at(n); i >= 0 && i < end {
		return i
	}
	if i := p.at(recourse.Node{Path: n.Path, Section: recourse.Steps}); i >= 0 && i < end {
		return i
	}
	return -1
}
