package decide

import (
	"strings"

	"github.com/recourse-dev/recourse"
)

// Why a strategy did or did not apply. Fixed texts, so that a trail costs no memory.
const (
	whyAllErrors    = "AllErrors matches every failure (R4)"
	whyNoSharedType = "shares no error type with the failure (R4)"
	whyEarlier      = "not reached: an earlier strategy of this level decided (R3)"
	whySpecific     = "not reached: a specific type of this level comes before AllErrors (R3, engine)"
	whyCloser       = "not reached: a closer level decided (R2)"
	whyRollback     = "does not count for a node under rollbackSteps (R5)"
	whyNotListed    = "the plan does not list it: generated, or from a template that was not resolved (R6)"
	whyNoStage      = "the plan does not list this stage (R6)"
	whyNoPipeline   = "the pipeline is not known (R6)"
)

// whyShares has a text for each error type.
var whyShares = func() (texts [32]string) {
	for _, name := range recourse.ErrorTypeNames() {
		t, _ := recourse.ParseErrorType(name)
		texts[t] = "lists " + name + ", which the failure has (R4)"
	}
	return texts
}()

// resolve finds the strategy that decides a failure and writes the trail (R1 to R6).
//
// It walks from the step outwards to the stage. The first level with a strategy that applies decides; what lies behind it is
// written down as not reached.
func (d *decider) resolve(f *recourse.FailureInput) {
	node := d.rec.Node
	if d.plan == nil {
		d.remark(recourse.LevelStage, node.Stage(), whyNoPipeline)
		return
	}
	view := FailureView{
		Attempt: d.rec.Attempt, Errors: f.Errors.Normalize(), Message: f.Message, Target: f.Target, ExitCode: f.ExitCode,
	}
	at := d.listed(node)
	d.group = d.plan.groupAt(at, node)
	for ; at >= 0; at = d.plan.nodes[at].parent {
		n := &d.plan.nodes[at]
		switch {
		case node.Section == recourse.RollbackSteps && n.Section != recourse.RollbackSteps:
			d.noteAll(n, whyRollback)
		case d.strategy != nil:
			d.noteAll(n, whyCloser)
		default:
			d.resolveLevel(n, &view)
		}
	}
}

// listed returns the position of the closest level of the path that the plan lists, -1 where it lists none, and remarks on the levels
// it does not list.
func (d *decider) listed(node recourse.Node) int32 {
	plain := recourse.Node{Path: recourse.PlainPath(node.Path), Section: node.Section}
	level := recourse.LevelStep
	for {
		if at := d.plan.at(plain); at >= 0 {
			return at
		}
		parent := recourse.Parent(plain.Path)
		if parent == "" {
			// A stage stands under steps; so does the group or stage that a rollbackSteps belongs to.
			at := d.plan.find(plain)
			if at < 0 {
				d.remark(recourse.LevelStage, plain.Path, whyNoStage)
			}
			return at
		}
		if level == recourse.LevelStepGroup {
			if at := d.plan.find(plain); at >= 0 {
				return at
			}
		}
		d.remark(level, plain.Path, whyNotListed)
		plain.Path, level = parent, recourse.LevelStepGroup
	}
}

// resolveLevel looks for the strategy of one level that decides (R3, R4).
func (d *decider) resolveLevel(n *PlanNode, view *FailureView) {
	all := recourse.ErrorTypesOf(recourse.AllErrors)
	first := -1
	if d.semantics == recourse.Engine {
		first = d.firstSpecific(n, view)
	}
	for i := range n.Strategies {
		s := &n.Strategies[i]
		shared := s.Errors & view.Errors &^ all
		switch {
		case first >= 0 && i < first:
			d.note(n.Level, s, false, d.whyPassedOver(s, view))
		case d.strategy != nil:
			d.note(n.Level, s, false, d.whyBehind(s, view))
		case shared == 0 && !s.Errors.Has(recourse.AllErrors):
			d.note(n.Level, s, false, whyNoSharedType)
		default:
			why := whyAllErrors
			if shared != 0 {
				why = whyShares[shared.First()]
			}
			if s.Condition != nil {
				hold, because := holds(s, view)
				if !hold {
					d.note(n.Level, s, false, because)
					continue
				}
				why = because
			}
			d.note(n.Level, s, true, why)
			d.strategy = s
			d.rec.Level, d.rec.Strategy = n.Level, s.Path
			if n.Level == recourse.LevelStepGroup {
				d.group = d.withIterations(n.Path)
			}
		}
	}
}

// firstSpecific returns the first strategy that shares a specific type with the failure and whose condition holds, -1 for none: under
// engine semantics it comes before an AllErrors, whatever the order (R3).
func (d *decider) firstSpecific(n *PlanNode, view *FailureView) int {
	for i := range n.Strategies {
		s := &n.Strategies[i]
		if s.Errors&view.Errors == 0 {
			continue
		}
		if s.Condition != nil {
			if hold, _ := holds(s, view); !hold {
				continue
			}
		}
		return i
	}
	return -1
}

// holds evaluates the condition of a strategy. The view is copied only here: what goes into a Condition escapes.
func holds(s *Strategy, view *FailureView) (bool, string) {
	v := *view
	return s.Condition.Holds(&v)
}

// whyPassedOver says why a strategy before the first specific one is not taken: it matches by AllErrors only, its condition does not
// hold, or it shares no type.
func (d *decider) whyPassedOver(s *Strategy, view *FailureView) string {
	if s.Condition != nil {
		if hold, why := holds(s, view); !hold {
			return why
		}
	}
	if s.Errors.Has(recourse.AllErrors) {
		return whySpecific
	}
	return whyNoSharedType
}

// whyBehind says why a strategy behind the chosen one is not taken. Under engine semantics a specific one would have come before an
// AllErrors, so its condition was evaluated and did not hold (R3).
func (d *decider) whyBehind(s *Strategy, view *FailureView) string {
	if d.semantics == recourse.Engine && s.Condition != nil && s.Errors&view.Errors != 0 && d.strategy.Errors&view.Errors == 0 {
		if hold, why := holds(s, view); !hold {
			return why
		}
	}
	return whyEarlier
}

// withIterations returns the part of the failed node's path that stands for a plain path: the plan knows no iterations.
func (d *decider) withIterations(plain string) string {
	return outer(d.rec.Path, strings.Count(plain, "/")+1)
}

// outer returns the first n segments of a path.
func outer(path string, n int) string {
	for i := 0; i < len(path); i++ {
		if path[i] == '/' {
			if n--; n == 0 {
				return path[:i]
			}
		}
	}
	return path
}

func (d *decider) note(level recourse.Level, s *Strategy, applies bool, why string) {
	d.rec.Trail = append(d.rec.Trail, recourse.TrailEntry{
		Level: level, Path: s.Path, Index: s.Index, Errors: s.Errors, Action: s.Do.Action, Applies: applies, Why: why,
	})
}

func (d *decider) noteAll(n *PlanNode, why string) {
	for i := range n.Strategies {
		d.note(n.Level, &n.Strategies[i], false, why)
	}
}

func (d *decider) remark(level recourse.Level, path, why string) {
	d.rec.Trail = append(d.rec.Trail, recourse.TrailEntry{Level: level, Path: path, Index: -1, Why: why})
}

// groupAt returns the path, with iterations, of the innermost step group around a node, given the closest listed level; "" where
// there is none. A group that failed itself counts; the group whose rollbackSteps the node stands under does not (R5).
func (p *Plan) groupAt(at int32, node recourse.Node) string {
	for ; at >= 0; at = p.nodes[at].parent {
		if n := &p.nodes[at]; n.Level == recourse.LevelStepGroup && n.Section == node.Section {
			return outer(node.Path, strings.Count(n.Path, "/")+1)
		}
	}
	return ""
}

// groupOf is groupAt for a node that was resolved earlier. Without a plan, what stands between stage and step is a group.
func groupOf(p *Plan, node recourse.Node) string {
	if p != nil {
		d := decider{plan: p, rec: &recourse.Record{}}
		return p.groupAt(d.listed(node), node)
	}
	if parent := recourse.Parent(node.Path); strings.Contains(parent, "/") {
		return parent
	}
	return ""
}

// strategy returns the strategy of a YAML path, nil where there is none.
func (p *Plan) strategy(path string) *Strategy {
	for i := range p.nodes {
		for j := range p.nodes[i].Strategies {
			if s := &p.nodes[i].Strategies[j]; s.Path == path {
				return s
			}
		}
	}
	return nil
}

// intervention returns the settings of the manual intervention that an action leads to, nil where it leads to none.
func (a *ActionSpec) intervention() *InterventionSpec {
	for ; a != nil; a = a.OnRetryFailure {
		if a.Intervention != nil {
			return a.Intervention
		}
	}
	return nil
}
