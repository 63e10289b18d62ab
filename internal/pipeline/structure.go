package pipeline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// MaxIterations is the most iterations of a looping strategy that count as known.
const MaxIterations = 256

// Structure is the order in which a pipeline runs: what a [decide.Plan] leaves out, because no decision looks at it.
type Structure struct {
	Stages []*Block
	// Strategies has the place of each strategy of the plan, by its YAML path.
	Strategies map[string]Place
	// Notes are what only a running execution knows and what the structure does instead.
	Notes Diagnostics
}

// Place is where something is written.
type Place struct {
	// File is the name of the pipeline's, or that of a template.
	File string
	// Line and Column are 1-based.
	Line, Column int
}

func placeOf(c *cursor) Place {
	at := c.place()
	return Place{at.file, at.line, at.column}
}

// Block is a stage, step group or step, or several of them beside each other.
type Block struct {
	// Node is the path without iterations, and the section; empty for blocks beside each other.
	recourse.Node
	// Level is LevelNone for blocks beside each other.
	Level recourse.Level
	Place
	When When
	Loop Loop
	// Steps run one after the other in a stage or step group, all at once where they stand beside each other.
	Steps []*Block
	// Rollback are the rollbackSteps of a stage or step group.
	Rollback []*Block

	beside *value // what the blocks beside each other are listed in
}

// The statuses that a `when` may ask for (R13).
const (
	WhenSuccess = "Success"
	WhenFailure = "Failure"
	WhenAll     = "All"
)

// When is the conditional execution of a block: of a stage by the pipeline's status so far, of a step or step group by its stage's.
type When struct {
	// Status is Success, Failure or All; Success where nothing is said.
	Status string
	// Given says whether something was said.
	Given bool
	// Condition is the expression beside the status, "" where there is none. It is not evaluated.
	Condition string
}

// Loop is the looping strategy of a block: matrix, repeat or parallelism.
type Loop struct {
	// Count is how many iterations there are, 0 where the block does not loop. It is 1 where only a running execution knows.
	Count int
	// MaxConcurrency is how many run at the same time, 0 for all.
	MaxConcurrency int
}

// LoadStructure is [Load] that also returns the structure, read in the same walk. The structure is nil where the plan is. A node that
// is there twice, and what stands in the second, is left out: its failures could not be told apart.
func LoadStructure(file string, yaml []byte, opt Options) (*decide.Plan, *Structure, Diagnostics) {
	l, ok := walk(file, yaml, opt)
	if !ok {
		return nil, nil, l.sorted()
	}
	return l.plan(), l.structure(), l.sorted()
}

// structure makes the structure of the elements that were listed, the enclosing one first.
func (l *loader) structure() *Structure {
	s := &Structure{Strategies: make(map[string]Place)}
	notes := &loader{findings: findings{file: l.file}}
	type lists struct{ steps, rollback, early, late []*Block } // early and late: of the provisioners of a stage
	of := make(map[*element]*lists)
	blocks := make(map[*element]*Block)
	for _, e := range l.elements {
		for _, strategy := range e.strategies {
			s.Strategies[strategy.Path] = placeOf(strategy.at)
		}
		outer := of[e.parent]
		if e.parent != nil && outer == nil {
			continue // in one that was left out
		}
		if l.seen[e.node] != e {
			notes.warn(e.at, "duplicate-node", quote(e.node.String())+" is there twice; the second is left out, with what stands in it", "")
			continue
		}
		b := &Block{Node: e.node, Level: e.level, Place: placeOf(e.at), When: notes.when(e), Loop: notes.loop(e)}
		blocks[e], of[e] = b, new(lists)
		at := stands(e)
		list := &s.Stages
		if outer != nil {
			switch {
			case at.rollback && at.provisioner:
				list = &outer.late
			case at.rollback:
				list = &outer.rollback
			case at.provisioner:
				list = &outer.early
			default:
				list = &outer.steps
			}
		}
		for _, parallel := range slices.Backward(at.parallel) {
			last := len(*list) - 1
			if last < 0 || (*list)[last].beside != parallel {
				*list = append(*list, &Block{beside: parallel})
				last++
			}
			list = &(*list)[last].Steps
		}
		*list = append(*list, b)
	}
	for e, own := range of {
		blocks[e].Steps = append(own.early, own.steps...)
		blocks[e].Rollback = append(own.rollback, own.late...)
	}
	s.Notes = notes.sorted()
	return s
}

// standing is how a node stands in the one that encloses it.
type standing struct {
	rollback    bool     // under its rollbackSteps
	provisioner bool     // of a stage, outside its execution: it runs before that, and is rolled back after it
	parallel    []*value // the lists of what runs beside it, innermost first
}

// stands looks at what stands between a node and the one that encloses it.
func stands(e *element) standing {
	var at standing
	execution := false
	for c := e.at.up; c != nil && (e.parent == nil || c.value != e.parent.at.value); c = c.up {
		switch {
		case c.key == "parallel" && c.is(sequence):
			at.parallel = append(at.parallel, c.value)
		case c.key == "rollbackSteps" && c.is(sequence):
			at.rollback = true
		case c.key == "execution":
			execution = true
		}
	}
	at.provisioner = e.parent != nil && e.parent.level == recourse.LevelStage && !e.parent.detached && !execution
	return at
}

// when reads the conditional execution of a node.
func (l *loader) when(e *element) When {
	w := When{Status: WhenSuccess}
	key := "stageStatus"
	if e.level == recourse.LevelStage {
		key = "pipelineStatus"
	}
	at := bodyOf(e.at).get("when")
	if at.missing() {
		return w
	}
	if at.unresolved() || !at.is(mapping) {
		l.warn(at, "unresolved-when", "this when is not resolved: Success is taken for it", "")
		return w
	}
	w.Condition = strings.TrimSpace(at.get("condition").scalarText())
	status := at.get(key)
	if status.missing() {
		return w
	}
	w.Given = true
	for _, known := range [...]string{WhenSuccess, WhenFailure, WhenAll} {
		if strings.EqualFold(strings.TrimSpace(status.scalarText()), known) {
			w.Status = known
			return w
		}
	}
	l.warn(status, "unresolved-when", fmt.Sprintf("%s %s is none of Success, Failure, All: Success is taken for it", key, quote(status.scalarText())), "")
	return w
}

// loop reads the looping strategy of a node.
func (l *loader) loop(e *element) Loop {
	at := bodyOf(e.at).get("strategy")
	if at.missing() {
		return Loop{}
	}
	loop := Loop{Count: 1}
	n, known := 0, false
	switch matrix, repeat, parallelism := at.get("matrix"), at.get("repeat"), at.get("parallelism"); {
	case parallelism != nil:
		n, known = number(parallelism)
	case repeat != nil:
		loop.MaxConcurrency, _ = number(repeat.get("maxConcurrency"))
		if n, known = number(repeat.get("times")); !known && repeat.get("items").is(sequence) {
			n, known = len(repeat.get("items").items), true
		}
	case matrix.is(mapping):
		loop.MaxConcurrency, _ = number(matrix.get("maxConcurrency"))
		n, known = combinations(matrix)
	}
	if !known || n < 1 || n > MaxIterations {
		l.warn(at, "unresolved-strategy", fmt.Sprintf("how often %s runs is not known, or more than %d times: one iteration is taken for all", quote(e.node.String()), MaxIterations), "")
		return loop
	}
	loop.Count = n
	return loop
}

func number(at *cursor) (int, bool) {
	n, err := strconv.Atoi(strings.TrimSpace(at.scalarText()))
	return n, err == nil && n > 0
}

// combinations counts the iterations of a matrix: each value of each axis with each of the others, without those that exclude lists.
func combinations(matrix *cursor) (int, bool) {
	all := []map[string]string{{}}
	for i := range matrix.entries {
		axis := matrix.entry(i)
		switch axis.key {
		case "maxConcurrency", "exclude", "nodeName", "include":
			continue
		}
		if !axis.is(sequence) || len(axis.items)*len(all) > 16*MaxIterations {
			return 0, false
		}
		var next []map[string]string
		for _, one := range all {
			for j := range axis.items {
				with := map[string]string{axis.key: axis.item(j).scalarText()}
				for key, text := range one {
					with[key] = text
				}
				next = append(next, with)
			}
		}
		all = next
	}
	exclude := matrix.get("exclude")
	if !exclude.missing() && !exclude.is(sequence) {
		return 0, false
	}
	for i := 0; exclude != nil && i < len(exclude.items); i++ {
		out := exclude.item(i)
		all = slices.DeleteFunc(all, func(one map[string]string) bool {
			for j := range out.entries {
				if e := out.entry(j); one[e.key] != e.scalarText() {
					return false
				}
			}
			return len(out.entries) > 0
		})
	}
	return len(all), true
}
