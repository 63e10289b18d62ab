package suite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/nearest"
	"github.com/recourse-dev/recourse/internal/simulate"
)

// The bounds of a test file.
const (
	MaxSize   = 1 << 20 // bytes
	maxValues = 200_000 // aliases written out
)

// Problem is something that makes a test file unusable.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // 1-based
	Column  int    `json:"column"` // 1-based
	Message string `json:"message"`
}

// Error returns "file:line:column: message".
func (p *Problem) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// File is a test file.
type File struct {
	// Name is what was given to Read.
	Name string
	// Pipeline is the path of the pipeline as the file has it, relative to the directory of the file.
	Pipeline string
	Tests    []Test

	pipelineAt *yaml.Node
}

// Test is a scenario or a single decision with what is expected of it.
type Test struct {
	Name      string
	Line      int // 1-based
	Semantics recourse.Semantics

	step    time.Duration
	fail    []nodeList[simulate.Outcome]
	answers []answer
	single  *single
	expect  expect
}

// nodeList is a list about a node that is looked up once the pipeline is known.
type nodeList[T any] struct {
	node *yaml.Node
	list []T
}

type answer struct {
	node   *yaml.Node
	action recourse.Action
	after  time.Duration
}

// single is a failed attempt to decide.
type single struct {
	node    *yaml.Node
	attempt int
	outcome simulate.Outcome
}

// expect is what a test expects. What is nil or empty is not looked at.
type expect struct {
	// Of a scenario:
	actions  []nodeList[string]
	delays   []nodeList[time.Duration]
	attempts []nodeList[int] // of one element
	stages   []stageStatus
	events   []pattern
	outcome  *simulate.Status
	duration *time.Duration
	// Of a single decision, in order:
	fields []field
}

type stageStatus struct {
	stage  *yaml.Node
	status simulate.Status
}

// pattern is an event that must come about: each of its fields.
type pattern struct {
	at     *yaml.Node
	fields []field
}

type field struct{ key, want string }

// Read reads a test file. The error joins every *[Problem].
func Read(name string, content []byte) (*File, error) {
	r := &reader{file: &File{Name: name}}
	root := r.document(content)
	if root != nil {
		r.root(root)
	}
	if len(r.problems) > 0 {
		return nil, errors.Join(r.problems...)
	}
	return r.file, nil
}

type reader struct {
	file     *File
	problems []error
	values   int
}

func (r *reader) problem(at *yaml.Node, format string, args ...any) {
	r.problems = append(r.problems, problemAt(r.file.Name, at, format, args...))
}

func problemAt(file string, at *yaml.Node, format string, args ...any) error {
	return &Problem{File: file, Line: max(at.Line, 1), Column: max(at.Column, 1), Message: fmt.Sprintf(format, args...)}
}

func (r *reader) document(content []byte) *yaml.Node {
	top := &yaml.Node{}
	if len(content) > MaxSize {
		r.problem(top, "a test file has at most %d bytes", MaxSize)
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(content))
	if err == nil {
		err = loader.Load(top)
	}
	var syntax *yaml.LoadError
	switch {
	case errors.Is(err, io.EOF), err == nil && len(top.Content) == 0:
		r.problem(top, "the file is empty")
		return nil
	case errors.As(err, &syntax):
		r.problem(&yaml.Node{Line: syntax.Mark.Line, Column: syntax.Mark.Column}, "the file is not YAML: %s", syntax.Message)
		return nil
	case err != nil:
		r.problem(top, "the file is not YAML: %v", err)
		return nil
	}
	if err := loader.Load(&yaml.Node{}); !errors.Is(err, io.EOF) {
		r.problem(top.Content[0], "the file has more than one document")
		return nil
	}
	return top.Content[0]
}

// read returns what stands at a node, an alias followed; false where the file has too many values.
func (r *reader) read(n *yaml.Node) (*yaml.Node, bool) {
	if r.values++; r.values > maxValues {
		if r.values == maxValues+1 {
			r.problem(n, "the file has more than %d values once aliases are written out", maxValues)
		}
		return n, false
	}
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias, true
	}
	return n, true
}

// entries yields the keys and values of a mapping. A key that is there twice is a problem.
func (r *reader) entries(n *yaml.Node, what string, each func(key, value *yaml.Node)) {
	n, ok := r.read(n)
	if !ok {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n, "%s is a mapping", what)
		return
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, _ := r.read(n.Content[i])
		switch {
		case key.Kind != yaml.ScalarNode:
			r.problem(key, "a key of %s is text", what)
		case seen[key.Value]:
			r.problem(key, "%q is in %s twice", key.Value, what)
		default:
			seen[key.Value] = true
			each(key, n.Content[i+1])
		}
	}
}

// object reads a mapping with known keys.
func (r *reader) object(n *yaml.Node, what string, known map[string]func(*yaml.Node)) {
	r.entries(n, what, func(key, value *yaml.Node) {
		if read := known[key.Value]; read != nil {
			read(value)
			return
		}
		r.problem(key, "%s does not know %q; %s", what, key.Value, nearest.Hint(key.Value, slices.Sorted(maps.Keys(known))))
	})
}

func (r *reader) list(n *yaml.Node, what string, each func(*yaml.Node)) {
	n, ok := r.read(n)
	if !ok {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.problem(n, "%s is a list", what)
		return
	}
	for _, item := range n.Content {
		each(item)
	}
}

// scalar returns a text, false where there is none.
func (r *reader) scalar(n *yaml.Node, what string) (string, bool) {
	n, ok := r.read(n)
	if !ok {
		return "", false
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || strings.TrimSpace(n.Value) == "" {
		r.problem(n, "%s is missing its value", what)
		return "", false
	}
	return strings.TrimSpace(n.Value), true
}

// text reads a text with a parser, whose error is a problem.
func text[T any](r *reader, n *yaml.Node, what string, parse func(string) (T, error)) (v T) {
	s, ok := r.scalar(n, what)
	if !ok {
		return v
	}
	v, err := parse(s)
	if err != nil {
		r.problem(n, "%s: %v", what, err)
	}
	return v
}

func asIs(s string) (string, error) { return s, nil }

func parseDuration(s string) (time.Duration, error) {
	var d recourse.Duration
	err := d.UnmarshalText([]byte(s))
	return time.Duration(d), err
}

func parseInt(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return n, nil
}

func parseSemantics(s string) (v recourse.Semantics, err error) {
	err = v.UnmarshalText([]byte(s))
	return v, err
}

func parseStatus(s string) (v simulate.Status, err error) {
	if v.UnmarshalText([]byte(s)) != nil {
		err = unknown("status", s, simulate.StatusNames())
	}
	return v, err
}

func parseAction(s string) (recourse.Action, error) {
	a, err := recourse.ParseAction(s)
	if err != nil {
		err = unknown("action", s, recourse.ActionNames())
	}
	return a, err
}

func unknown(what, name string, known []string) error {
	return fmt.Errorf("unknown %s %q; %s", what, name, nearest.Hint(name, known))
}

// oneOf reads one of some names as it is.
func oneOf(what string, known []string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(known, s) {
			return "", unknown(what, s, known)
		}
		return s, nil
	}
}

// root reads the whole file.
func (r *reader) root(n *yaml.Node) {
	var semantics recourse.Semantics
	var step time.Duration
	var tests *yaml.Node
	r.object(n, "a test file", map[string]func(*yaml.Node){
		"pipeline": func(n *yaml.Node) {
			r.file.pipelineAt, r.file.Pipeline = n, text(r, n, "pipeline", asIs)
		},
		"semantics":    func(n *yaml.Node) { semantics = text(r, n, "semantics", parseSemantics) },
		"stepDuration": func(n *yaml.Node) { step = text(r, n, "stepDuration", parseDuration) },
		"tests":        func(n *yaml.Node) { tests = n },
	})
	if len(r.problems) == 0 && r.file.pipelineAt == nil {
		r.problem(n, "the file does not say which pipeline it tests: add pipeline: FILE, relative to this file")
	}
	if tests == nil {
		if len(r.problems) == 0 {
			r.problem(n, "the file has no tests")
		}
		return
	}
	names := make(map[string]int)
	r.list(tests, "tests", func(n *yaml.Node) {
		t := Test{Line: n.Line, Semantics: semantics, step: step}
		r.test(n, &t)
		if line, taken := names[t.Name]; taken && t.Name != "" {
			r.problem(n, "a test with the name %q stands in line %d already", t.Name, line)
		}
		names[t.Name] = t.Line
		r.file.Tests = append(r.file.Tests, t)
	})
	if len(r.file.Tests) == 0 && len(r.problems) == 0 {
		r.problem(tests, "the file has no tests")
	}
}

func (r *reader) test(n *yaml.Node, t *Test) {
	before := len(r.problems)
	var expected, ofScenario *yaml.Node
	scenario := func(read func(*yaml.Node)) func(*yaml.Node) {
		return func(n *yaml.Node) { ofScenario = n; read(n) }
	}
	r.object(n, "a test", map[string]func(*yaml.Node){
		"name":         func(n *yaml.Node) { t.Name = text(r, n, "name", asIs) },
		"semantics":    func(n *yaml.Node) { t.Semantics = text(r, n, "semantics", parseSemantics) },
		"stepDuration": scenario(func(n *yaml.Node) { t.step = text(r, n, "stepDuration", parseDuration) }),
		"fail":         scenario(func(n *yaml.Node) { t.fail = r.fail(n) }),
		"answers":      scenario(func(n *yaml.Node) { t.answers = r.answers(n) }),
		"decide":       func(n *yaml.Node) { t.single = r.single(n) },
		"expect":       func(n *yaml.Node) { expected = n },
	})
	if len(r.problems) > before {
		return
	}
	switch {
	case t.Name == "":
		r.problem(n, "the test has no name")
	case expected == nil:
		r.problem(n, "the test expects nothing: add expect")
	case t.single != nil && ofScenario != nil:
		r.problem(ofScenario, "a test is a scenario or a single decision; this one has decide, and what belongs to a scenario")
	case t.single != nil:
		r.expectDecision(expected, &t.expect)
	default:
		r.expectScenario(expected, &t.expect)
	}
}

func (r *reader) fail(n *yaml.Node) (all []nodeList[simulate.Outcome]) {
	r.entries(n, "fail", func(key, value *yaml.Node) {
		of := nodeList[simulate.Outcome]{node: key}
		add := func(n *yaml.Node) { of.list = append(of.list, r.outcome(n)) }
		if v, ok := r.read(value); ok && v.Kind == yaml.ScalarNode {
			for part := range strings.SplitSeq(v.Value, ",") {
				add(&yaml.Node{Kind: yaml.ScalarNode, Value: part, Line: v.Line, Column: v.Column})
			}
		} else {
			r.list(value, "the outcomes of "+key.Value, add)
		}
		if err := simulate.CheckOutcomes(of.list); err != nil {
			r.problem(value, "%v", err)
		}
		all = append(all, of)
	})
	return all
}

// outcome reads an outcome as on the command line, or as a mapping with all that a failure may have.
func (r *reader) outcome(n *yaml.Node) (o simulate.Outcome) {
	if v, _ := r.read(n); v.Kind != yaml.MappingNode {
		return text(r, n, "an outcome", simulate.ParseOutcome)
	}
	keys := r.failure(&o)
	keys["times"] = func(n *yaml.Node) {
		if s, ok := r.scalar(n, "times"); ok && s == "always" {
			o.Always = true
		} else if ok {
			o.Times = text(r, n, "times", parseInt)
			if o.Times < 1 {
				r.problem(n, "times is a number from 1, or always")
			}
		}
	}
	r.object(n, "an outcome", keys)
	if o.Errors == 0 {
		o.Errors = o.Errors.Normalize()
	}
	return o
}

// failure are the keys of a failure.
func (r *reader) failure(o *simulate.Outcome) map[string]func(*yaml.Node) {
	return map[string]func(*yaml.Node){
		"errors": func(n *yaml.Node) {
			r.list(n, "errors", func(n *yaml.Node) { o.Errors = o.Errors.Add(text(r, n, "errors", simulate.ParseErrorType)) })
		},
		"exitCode":   func(n *yaml.Node) { code := text(r, n, "exitCode", parseInt); o.ExitCode = &code },
		"message":    func(n *yaml.Node) { o.Message = text(r, n, "message", asIs) },
		"target":     func(n *yaml.Node) { o.Target = text(r, n, "target", asIs) },
		"retryAfter": func(n *yaml.Node) { o.RetryAfter = text(r, n, "retryAfter", parseDuration) },
	}
}

func (r *reader) answers(n *yaml.Node) (all []answer) {
	r.list(n, "answers", func(n *yaml.Node) {
		var a answer
		before := len(r.problems)
		r.object(n, "an answer", map[string]func(*yaml.Node){
			"node":   func(n *yaml.Node) { a.node = r.node(n) },
			"action": func(n *yaml.Node) { a.action = text(r, n, "action", parseAction) },
			"after":  func(n *yaml.Node) { a.after = text(r, n, "after", parseDuration) },
		})
		if len(r.problems) == before && (a.node == nil || a.action == 0) {
			r.problem(n, "an answer has node and action, and after where it does not come at once")
		}
		all = append(all, a)
	})
	return all
}

// node reads the path of a node, which is looked up later.
func (r *reader) node(n *yaml.Node) *yaml.Node {
	if _, ok := r.scalar(n, "node"); !ok {
		return nil
	}
	v, _ := r.read(n)
	return v
}

func (r *reader) single(n *yaml.Node) *single {
	s := &single{attempt: 1}
	keys := r.failure(&s.outcome)
	keys["node"] = func(n *yaml.Node) { s.node = r.node(n) }
	keys["attempt"] = func(n *yaml.Node) {
		if s.attempt = text(r, n, "attempt", parseInt); s.attempt < 1 || s.attempt > recourse.MaxAttempt {
			r.problem(n, "attempt is a number from 1 to %d", recourse.MaxAttempt)
		}
	}
	before := len(r.problems)
	r.object(n, "decide", keys)
	if s.node == nil && len(r.problems) == before {
		r.problem(n, "decide does not say which node fails: add node")
	}
	return s
}

// reasonsAsActions are what a decision is listed as where it carries out no action.
var reasonsAsActions = []string{recourse.Superseded.String(), recourse.ExecutionEnded.String(), recourse.AnswerRefused.String()}

func parseDone(s string) (string, error) {
	for _, name := range reasonsAsActions {
		if strings.EqualFold(name, s) {
			return name, nil
		}
	}
	a, err := recourse.ParseAction(s)
	if err != nil {
		return "", unknown("action", s, append(recourse.ActionNames(), reasonsAsActions...))
	}
	return a.String(), nil
}

func (r *reader) expectScenario(n *yaml.Node, e *expect) {
	count, before := 0, len(r.problems)
	r.object(n, "expect", map[string]func(*yaml.Node){
		"actions":  func(n *yaml.Node) { e.actions = lists(r, n, "actions", parseDone); count += len(e.actions) },
		"delays":   func(n *yaml.Node) { e.delays = lists(r, n, "delays", parseDuration); count += len(e.delays) },
		"attempts": func(n *yaml.Node) { e.attempts = r.attempts(n); count += len(e.attempts) },
		"stages": func(n *yaml.Node) {
			r.entries(n, "stages", func(key, value *yaml.Node) {
				e.stages = append(e.stages, stageStatus{key, text(r, value, "the status of "+key.Value, parseStatus)})
				count++
			})
		},
		"outcome":  func(n *yaml.Node) { v := text(r, n, "outcome", parseStatus); e.outcome = &v; count++ },
		"duration": func(n *yaml.Node) { v := text(r, n, "duration", parseDuration); e.duration = &v; count++ },
		"events": func(n *yaml.Node) {
			r.list(n, "events", func(n *yaml.Node) { e.events = append(e.events, r.pattern(n)); count++ })
		},
	})
	if count == 0 && len(r.problems) == before {
		r.problem(n, "the test expects nothing")
	}
}

func lists[T any](r *reader, n *yaml.Node, what string, parse func(string) (T, error)) (all []nodeList[T]) {
	r.entries(n, what, func(key, value *yaml.Node) {
		of := nodeList[T]{node: key, list: []T{}}
		r.list(value, what+" of "+key.Value, func(n *yaml.Node) {
			of.list = append(of.list, text(r, n, what+" of "+key.Value, parse))
		})
		all = append(all, of)
	})
	return all
}

func (r *reader) attempts(n *yaml.Node) (all []nodeList[int]) {
	r.entries(n, "attempts", func(key, value *yaml.Node) {
		all = append(all, nodeList[int]{key, []int{text(r, value, "attempts of "+key.Value, parseInt)}})
	})
	return all
}

// written is the form in which a value is compared.
func written[T fmt.Stringer](parse func(string) (T, error)) func(string) (string, error) {
	return func(s string) (string, error) {
		v, err := parse(s)
		if err != nil {
			return "", err
		}
		return v.String(), nil
	}
}

// named reads one of the names of an enum, whose values begin at one.
func named[T interface {
	~uint8
	fmt.Stringer
}, P interface {
	*T
	UnmarshalText([]byte) error
}](what string) func(string) (string, error) {
	return func(s string) (string, error) {
		var v T
		if P(&v).UnmarshalText([]byte(s)) == nil {
			return v.String(), nil
		}
		var known []string
		for v = 1; v.String() != ""; v++ {
			known = append(known, v.String())
		}
		return "", unknown(what, s, known)
	}
}

var nodeStatuses = []string{
	string(recourse.StatusIgnoreFailed), string(recourse.StatusSucceeded), string(recourse.StatusFailed), string(recourse.StatusRetrying),
	string(recourse.StatusInterventionWaiting), string(recourse.StatusAborted), string(recourse.StatusProceeding),
}

var eventFields = map[string]func(string) (string, error){
	"at": written(parseDuration), "node": asIs, "attempt": asIs, "kind": oneOf("kind", simulate.EventKinds()),
	"action": named[recourse.Action]("action"), "reason": named[recourse.Reason]("reason"), "verb": named[recourse.Verb]("verb"),
}

var decisionFields = map[string]func(string) (string, error){
	"action": named[recourse.Action]("action"), "reason": named[recourse.Reason]("reason"), "level": named[recourse.Level]("level"),
	"strategy": asIs, "delay": written(parseDuration), "verb": named[recourse.Verb]("verb"), "scope": asIs, "status": oneOf("status", nodeStatuses),
	"onTimeout": named[recourse.Action]("action"), "timeout": written(parseDuration),
}

func (r *reader) fields(n *yaml.Node, what string, known map[string]func(string) (string, error)) (all []field) {
	keys := make(map[string]func(*yaml.Node))
	for key, parse := range known {
		keys[key] = func(n *yaml.Node) { all = append(all, field{key, text(r, n, key, parse)}) }
	}
	before := len(r.problems)
	r.object(n, what, keys)
	if len(all) == 0 && len(r.problems) == before {
		r.problem(n, "%s is empty", what)
	}
	return all
}

func (r *reader) pattern(n *yaml.Node) pattern {
	return pattern{at: n, fields: r.fields(n, "an event", eventFields)}
}

func (r *reader) expectDecision(n *yaml.Node, e *expect) {
	e.fields = r.fields(n, "expect of a single decision", decisionFields)
}
