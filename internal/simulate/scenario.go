package simulate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/nearest"
)

// Scenario is what happens to a pipeline from outside. The zero value is a run in which nothing fails.
type Scenario struct {
	// Failures are the outcomes of the attempts of a node, in order; attempts beyond the list succeed, as do nodes that are not listed. A
	// path without iterations stands for all iterations that are not listed themselves, each with attempts of its own; so does one that
	// names some of them, see [Covers].
	Failures map[recourse.Node][]Outcome
	// Answers are given in order; each intervention of a node takes the next one for it, with or without iterations like Failures.
	Answers []Answer
	// StepDuration is how long an attempt of a step takes, 0 for no time at all.
	StepDuration time.Duration
}

// Outcome is how attempts end. The zero value is one that succeeds.
type Outcome struct {
	// Errors are the types of the failure; none is a success.
	Errors recourse.ErrorTypes
	// ExitCode, Message, Target and RetryAfter are those of the failure.
	ExitCode   *int
	Message    string
	Target     string
	RetryAfter time.Duration
	// Times is how many attempts in a row end like this; 0 counts as 1.
	Times int
	// Always says that all further attempts do; Times does not count then.
	Always bool
}

// Answer is what somebody answers to an intervention of a node.
type Answer struct {
	Node   recourse.Node
	Action recourse.Action
	// After is the time since the intervention opened. One that comes after its timeout is refused.
	After time.Duration
}

const (
	outcomeOK = "ok"
	maxTimes  = 10_000
)

// ParseOutcome reads "ok" or "Timeout", several types as "Timeout+Connectivity", an exit code as "Timeout:137", and how often: "ok*2"
// for two attempts, "Timeout*" for this and all further ones. Case does not matter.
func ParseOutcome(text string) (Outcome, error) {
	var o Outcome
	rest, times, repeated := strings.Cut(strings.TrimSpace(text), "*")
	if times = strings.TrimSpace(times); repeated && times == "" {
		o.Always = true
	} else if repeated {
		n, err := strconv.Atoi(times)
		if err != nil || n < 1 || n > maxTimes {
			return o, fmt.Errorf("outcome %q: what follows * is how often, from 1 to %d; nothing is always", text, maxTimes)
		}
		o.Times = n
	}
	rest, code, coded := strings.Cut(rest, ":")
	if coded {
		n, err := strconv.Atoi(strings.TrimSpace(code))
		if err != nil {
			return o, fmt.Errorf("outcome %q: what follows : is an exit code", text)
		}
		o.ExitCode = &n
	}
	if strings.EqualFold(strings.TrimSpace(rest), outcomeOK) {
		if coded {
			return o, fmt.Errorf("outcome %q: an attempt that is ok has no exit code", text)
		}
		return o, nil
	}
	for name := range strings.SplitSeq(rest, "+") {
		t, err := ParseErrorType(strings.TrimSpace(name))
		if err != nil {
			return o, fmt.Errorf("outcome %q: %w", text, err)
		}
		o.Errors = o.Errors.Add(t)
	}
	return o, nil
}

// ParseErrorType reads a type that a failure may have.
func ParseErrorType(name string) (recourse.ErrorType, error) {
	t, err := recourse.ParseErrorType(name)
	switch {
	case err != nil && name == "":
		return 0, errors.New("an error type or ok is wanted")
	case err != nil:
		return 0, fmt.Errorf("unknown error type %q; %s", name, nearest.Hint(name, recourse.ErrorTypeNames()))
	case t == recourse.AllErrors:
		return 0, errors.New("AllErrors is what a strategy lists, a failure has a type of its own")
	}
	return t, nil
}

// ParseOutcomes reads outcomes joined by commas.
func ParseOutcomes(text string) ([]Outcome, error) {
	var list []Outcome
	for part := range strings.SplitSeq(text, ",") {
		o, err := ParseOutcome(part)
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return list, CheckOutcomes(list)
}

// CheckOutcomes reports an outcome that can never come about, behind one that always does.
func CheckOutcomes(list []Outcome) error {
	for i := range list {
		if list[i].Always && i < len(list)-1 {
			return errors.New("an outcome that always comes is the last one")
		}
	}
	return nil
}

// String writes the outcome as [ParseOutcome] reads it; message, target and retryAfter are left out.
func (o *Outcome) String() string {
	text := outcomeOK
	if o.Errors != 0 {
		text = strings.ReplaceAll(o.Errors.String(), ",", "+")
	}
	if o.ExitCode != nil {
		text += ":" + strconv.Itoa(*o.ExitCode)
	}
	switch {
	case o.Always:
		text += "*"
	case o.Times > 1:
		text += "*" + strconv.Itoa(o.Times)
	}
	return text
}

// sectionSuffix is what recourse.Node.String adds to the path of a node under rollbackSteps.
const sectionSuffix = " (rollbackSteps)"

// UnknownNodeError says that the pipeline does not list a node.
type UnknownNodeError struct {
	Path string
	// Known are the nodes it lists.
	Known []string
}

func (e *UnknownNodeError) Error() string { return fmt.Sprintf("the pipeline has no node %q", e.Path) }

// ParseNode finds the node that is meant by a path, as decisions write it: followed by " (rollbackSteps)" for one there. A path that
// stands under rollbackSteps only needs no suffix. The error for a path that is well-formed is an *[UnknownNodeError].
func ParseNode(plan *decide.Plan, text string) (recourse.Node, error) {
	path, inRollback := strings.CutSuffix(strings.TrimSpace(text), sectionSuffix)
	node := recourse.Node{Path: path}
	if err := node.Validate(); err != nil {
		return node, err
	}
	if !inRollback {
		if _, ok := plan.Lookup(node); ok {
			return node, nil
		}
	}
	node.Section = recourse.RollbackSteps
	if _, ok := plan.Lookup(node); ok {
		return node, nil
	}
	unknown := &UnknownNodeError{Path: text}
	for _, n := range plan.Nodes() {
		unknown.Known = append(unknown.Known, n.String())
	}
	return node, unknown
}

// index has the nodes that a scenario gives outcomes for, by their paths without iterations.
type index map[recourse.Node][]recourse.Node

func (s *Scenario) index() index {
	in := make(index, len(s.Failures))
	for given := range s.Failures {
		in[plain(given)] = append(in[plain(given)], given)
	}
	return in
}

// closest returns what is given for a node: for itself, else for what names the most of its iterations, of several the greatest path; a
// node without a path where nothing is.
func (in index) closest(node recourse.Node) (best recourse.Node) {
	most := -1
	for _, given := range in[plain(node)] {
		if given == node {
			return given
		}
		if n := strings.Count(given.Path, "["); Covers(given, node) && (n > most || n == most && given.Path > best.Path) {
			best, most = given, n
		}
	}
	return best
}

// outcomeOf returns how an attempt (1-based) ends of which this is given.
func outcomeOf(list []Outcome, attempt int) Outcome {
	for i := range list {
		o := &list[i]
		if attempt -= max(o.Times, 1); attempt <= 0 || o.Always {
			return *o
		}
	}
	return Outcome{}
}

// Covers reports whether a node that is given stands for one that runs: it is that, or names fewer of its iterations.
func Covers(given, ran recourse.Node) bool {
	if given == ran {
		return true
	}
	if given.Section != ran.Section {
		return false
	}
	path := given.Path
	for part := range strings.SplitSeq(ran.Path, "/") {
		var want string
		want, path, _ = strings.Cut(path, "/")
		if want != part && want != recourse.PlainPath(part) {
			return false
		}
	}
	return path == ""
}

func plain(n recourse.Node) recourse.Node {
	return recourse.Node{Path: recourse.PlainPath(n.Path), Section: n.Section}
}
