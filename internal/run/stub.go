package run

import (
	"fmt"
	"strings"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/simulate"
)

// stubs are results that were given, in place of running a step.
type stubs struct {
	nodes map[recourse.Node][]simulate.Outcome // with or without iterations; also stages and step groups
	types map[string][]simulate.Outcome
	rest  []simulate.Outcome // of what cannot be run; nil where none is given
}

const stubType = "Type:"

// parseStubs reads stubs: NODE=OUTCOMES, Type:NAME=OUTCOMES or *=OUTCOMES. Attempts beyond the outcomes of a list succeed.
func parseStubs(plan *decide.Plan, texts []string) (stubs, error) {
	s := stubs{nodes: make(map[recourse.Node][]simulate.Outcome), types: make(map[string][]simulate.Outcome)}
	for _, text := range texts {
		at := strings.LastIndexByte(text, '=')
		if at <= 0 {
			return s, fmt.Errorf("stub %q: want NODE=OUTCOME,…, Type:NAME=OUTCOME,… or *=OUTCOME,…", text)
		}
		what := strings.TrimSpace(text[:at])
		outcomes, err := simulate.ParseOutcomes(text[at+1:])
		if err != nil {
			return s, fmt.Errorf("stub %q: %w", text, err)
		}
		if what == "*" {
			s.rest = outcomes
			continue
		}
		if kind, ok := strings.CutPrefix(what, stubType); ok {
			s.types[strings.TrimSpace(kind)] = outcomes
			continue
		}
		node, err := simulate.ParseNode(plan, what)
		if err != nil {
			return s, fmt.Errorf("stub %q: %w", text, err)
		}
		s.nodes[node] = outcomes
	}
	return s, nil
}

// covers reports whether a step that cannot be run has a result.
func (s *stubs) covers(n recourse.Node, kind string) bool {
	return s.rest != nil || s.types[kind] != nil || s.nodes[n] != nil
}

// outcome returns the result of an attempt, nil where it is to be run: the node's own, else its type's, else, for what cannot be run,
// that of all.
func (s *stubs) outcome(n recourse.Node, kind string, runs bool, attempt int) *simulate.Outcome {
	list := s.nodes[n]
	if list == nil {
		list = s.nodes[recourse.Node{Path: recourse.PlainPath(n.Path), Section: n.Section}]
	}
	if list == nil {
		list = s.types[kind]
	}
	if list == nil && !runs {
		list = s.rest
	}
	if list == nil {
		return nil
	}
	for i := range list {
		o := &list[i]
		if attempt -= max(o.Times, 1); attempt <= 0 || o.Always {
			return o
		}
	}
	return &simulate.Outcome{}
}
