package decide_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

var (
	epoch   = time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	testRef = recourse.Ref{Account: "acme", Org: "org", Project: "project", Pipeline: "release", Execution: "ex1"}
)

// chain is an execution's journal in memory: it decides, appends, and checks what must hold of every record and of the chain.
type chain struct {
	t        tester
	pipeline decide.Pipeline
	head     decide.Head
	rec      recourse.Record // used again by every decision
	bodies   [][]byte        // body i stands at sequence seqOf(i)
	inputs   int             // sequence of the last input
}

// tester is what testing.TB and rapid.TB have in common here.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// seqOf is the stream sequence of the i-th record (0-based): other executions write between.
func seqOf(i int) uint64 { return uint64(10 + 3*i) }

func newChain(t tester, plan *decide.Plan, semantics recourse.Semantics) *chain {
	c := &chain{t: t, pipeline: decide.Pipeline{Plan: plan, Semantics: semantics}}
	if plan != nil {
		c.pipeline.Revision = recourse.PipelineRevision{Revision: 7, Digest: "0123456789abcdef"}
	}
	return c
}

// step decides on one input and appends the record; the record is nil where none was made.
func (c *chain) step(in *decide.Input, now time.Time) (*recourse.Record, decide.Result, uint64) {
	c.t.Helper()
	before := stateBytes(c.t, &c.head.State)
	result, version := decide.Decide(&c.rec, c.pipeline, &c.head, in, now)
	if after := stateBytes(c.t, &c.head.State); !bytes.Equal(before, after) {
		c.t.Fatalf("Decide changed the state:\n%s\n%s", before, after)
	}
	if result != decide.Decided {
		return nil, result, version
	}
	c.check(&c.rec)
	waits := versions(c.head.State.Waits)
	ended := len(c.head.State.Ended) > 0 || slices.ContainsFunc(c.head.State.Covers, func(v recourse.Cover) bool { return v.Action == recourse.Abort })
	body, err := decide.Seal(&c.rec, &c.head)
	if err != nil {
		c.t.Fatalf("seal %+v: %v", c.rec, err)
	}
	c.checkWaits(waits, &c.rec)
	if ended && (c.rec.Command.Verb != 0 || c.rec.Wait.Version != 0) {
		c.t.Fatalf("I4: a command or a wait after the end: %s", body)
	}
	c.bodies = append(c.bodies, body)
	c.head.Appended(&c.rec, seqOf(len(c.bodies)-1))
	decoded, err := recourse.DecodeRecord(body)
	if err != nil {
		c.t.Fatalf("decode %s: %v", body, err)
	}
	again, err := recourse.Encode(decoded)
	if err != nil || !bytes.Equal(body, again) {
		c.t.Fatalf("decoded and encoded again it is another (%v):\n%s\n%s", err, body, again)
	}
	return decoded, result, version
}

// check is what holds of every record (totality).
func (c *chain) check(rec *recourse.Record) {
	c.t.Helper()
	switch {
	case rec.Reason == 0 || rec.Reason.String() == "":
		c.t.Fatalf("no reason: %+v", rec)
	case rec.Action == 0 && !slices.Contains([]recourse.Reason{recourse.Stale, recourse.Conflicting, recourse.LifecycleReported}, rec.Reason) &&
		(rec.Input.Control == nil || rec.Reason != recourse.AnswerRefused):
		c.t.Fatalf("no action: %+v", rec)
	case (rec.Command.Verb == 0) == (rec.Kind == ""):
		c.t.Fatalf("a record is either a command or a plain decision: %+v", rec)
	case rec.Command.Verb != 0 && rec.Command.Verb != rec.Action.Verb():
		c.t.Fatalf("the command is not that of the action: %+v", rec)
	case rec.Input.Failure != nil && (rec.Path == "" || rec.Attempt == 0):
		c.t.Fatalf("not about the node that failed: %+v", rec)
	case rec.Wait.Version != 0 && (rec.Wait.Version != rec.Version || rec.Wait.DueAt.Before(rec.At)):
		c.t.Fatalf("a wait that cannot be: %+v", rec)
	}
}

// checkWaits is I3 for one record: each wait it ends was pending, none ends twice, and the pending waits are what they were less these,
// plus its own.
func (c *chain) checkWaits(before []uint64, rec *recourse.Record) {
	c.t.Helper()
	want := slices.Clone(before)
	ends := slices.Clone(rec.Cancelled)
	if rec.Ends != 0 {
		ends = append(ends, rec.Ends)
	}
	for _, v := range ends {
		i := slices.Index(want, v)
		if i < 0 {
			c.t.Fatalf("I3: record %d ends wait %d, which is not pending: %v", rec.Version, v, before)
		}
		want = slices.Delete(want, i, i+1)
	}
	if rec.Wait.Version != 0 {
		want = append(want, rec.Version)
	}
	if got := versions(c.head.State.Waits); !slices.Equal(got, want) {
		c.t.Fatalf("I3: record %d leaves the waits %v, want %v", rec.Version, got, want)
	}
}

func versions(waits []recourse.Wait) []uint64 {
	var out []uint64
	for i := range waits {
		out = append(out, waits[i].Version)
	}
	return out
}

func stateBytes(t tester, s *recourse.State) []byte {
	t.Helper()
	b, err := recourse.Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// replay is I5: it decides on the recorded inputs with the recorded clock values and compares every byte. After every record it also
// loads the head as a worker does that starts there: the last record, its base, and the records between.
func (c *chain) replay() {
	c.t.Helper()
	var head decide.Head
	for i, body := range c.bodies {
		recorded, err := recourse.DecodeRecord(body)
		if err != nil {
			c.t.Fatal(err)
		}
		in := &decide.Input{Ref: recorded.Ref, Input: recorded.Input}
		if recorded.Input.Failure != nil {
			in.Node, in.Attempt = recorded.Node, recorded.Attempt
		}
		p := c.pipeline
		p.Revision, p.Semantics = recorded.Pipeline, recorded.Semantics
		var rec recourse.Record
		if result, _ := decide.Decide(&rec, p, &head, in, recorded.At); result != decide.Decided {
			c.t.Fatalf("I5: record %d is not decided again, but %d", recorded.Version, result)
		}
		again, err := decide.Seal(&rec, &head)
		if err != nil || !bytes.Equal(body, again) {
			c.t.Fatalf("I5: record %d is another when it is decided again (%v):\n%s\n%s", recorded.Version, err, body, again)
		}
		head.Appended(&rec, seqOf(i))
		if loaded := c.load(i); i == len(c.bodies)-1 || i%61 == 0 || len(c.bodies) < 70 {
			if a, b := stateBytes(c.t, &head.State), stateBytes(c.t, &loaded.State); !bytes.Equal(a, b) {
				c.t.Fatalf("loaded after record %d the state is another:\n%s\n%s", recorded.Version, a, b)
			}
			if head.Version != loaded.Version || head.Sequence != loaded.Sequence || head.Base != loaded.Base {
				c.t.Fatalf("loaded after record %d the head is another: %+v, %+v", recorded.Version, head, loaded)
			}
		}
		if i > 0 && recorded.Previous != seqOf(i-1) || recorded.Version != uint64(i+1) {
			c.t.Fatalf("I6: record %d after %d names %d", recorded.Version, i, recorded.Previous)
		}
		// A worker that starts here goes on from what it loaded.
		if i%2 == 1 {
			head = c.load(i)
		}
	}
}

// load reads the head after record i from the bodies alone.
func (c *chain) load(i int) decide.Head {
	c.t.Helper()
	decode := func(i int) *recourse.Record {
		r, err := recourse.DecodeRecord(c.bodies[i])
		if err != nil {
			c.t.Fatal(err)
		}
		return r
	}
	last := decode(i)
	head := decide.Head{Version: last.Version, Sequence: seqOf(i)}
	if last.State != nil {
		head.Base, head.State = head.Sequence, *last.State
		return head
	}
	head.Base = last.StateBase
	base := int(last.StateBase-10) / 3
	from := decode(base)
	if seqOf(base) != last.StateBase || from.State == nil {
		c.t.Fatalf("record %d names %d as the one with the state, which has none", last.Version, last.StateBase)
	}
	if last.Version-from.Version >= 64 {
		c.t.Fatalf("record %d has its state %d records before", last.Version, last.Version-from.Version)
	}
	head.State = *from.State
	for j := base + 1; j <= i; j++ {
		decide.Fold(&head.State, decode(j))
	}
	return head
}

// The inputs, as a worker makes them.

func (c *chain) failure(f *recourse.Failure) *decide.Input {
	f.Ref = testRef
	f.Clean()
	c.inputs++
	in := &decide.Input{Ref: f.Ref, Node: f.Node, Attempt: f.Attempt}
	in.Input = recourse.Input{Key: f.Key(), Sequence: uint64(c.inputs), Digest: f.Digest(), Principal: "delegate-1"}
	in.Input.Failure = &recourse.FailureInput{
		Errors: f.Errors, Message: f.Message, ExitCode: f.ExitCode, Target: f.Target, RetryAfter: f.RetryAfter, At: f.At,
	}
	return in
}

func (c *chain) answer(a *recourse.Answer) *decide.Input {
	a.Ref = testRef
	a.Clean()
	c.inputs++
	if a.ID == "" {
		a.ID = fmt.Sprint(c.inputs)
	}
	in := &decide.Input{Ref: a.Ref}
	in.Input = recourse.Input{Key: "intervention/" + a.ID, Sequence: uint64(c.inputs), Digest: a.Digest(), Principal: "operator-1"}
	in.Input.Answer = &recourse.AnswerInput{Intervention: a.Intervention, Action: a.Action, Who: a.Who, Why: a.Why, At: a.At}
	return in
}

func (c *chain) control(k *recourse.Control) *decide.Input {
	k.Ref = testRef
	k.Clean()
	c.inputs++
	if k.ID == "" {
		k.ID = fmt.Sprint(c.inputs)
	}
	in := &decide.Input{Ref: k.Ref}
	in.Input = recourse.Input{Key: "control/" + k.ID, Sequence: uint64(c.inputs), Digest: k.Digest(), Principal: "operator-1"}
	in.Input.Control = &recourse.ControlInput{Wait: k.Wait, Do: k.Do, For: k.For, Who: k.Who, Why: k.Why, At: k.At}
	return in
}

func (c *chain) due(version uint64) *decide.Input {
	in := &decide.Input{Ref: testRef}
	in.Input = recourse.Input{Key: "due/" + recourse.VersionDetail(version), Due: version}
	return in
}

func (c *chain) lifecycle(l *recourse.Lifecycle) *decide.Input {
	l.Ref = testRef
	l.Clean()
	c.inputs++
	in := &decide.Input{Ref: l.Ref}
	in.Input = recourse.Input{Key: l.Key(), Sequence: uint64(c.inputs), Principal: "orchestrator-1", Lifecycle: l.Event, Why: l.Why}
	return in
}

// parsePlan reads the plan of a script: indented nodes, "rollback" before those of a rollbackSteps, and strategies "types [when exit=n] -> action".
func parsePlan(lines []string, semantics recourse.Semantics) (*decide.Plan, error) {
	type open struct {
		indent int
		path   string
		node   int // position in nodes, -1 for a rollback line
		rolled bool
	}
	var nodes []decide.PlanNode
	var stack []open
	for _, line := range lines {
		text := strings.TrimSpace(line)
		indent := len(line) - len(strings.TrimLeft(line, " "))
		for len(stack) > 0 && stack[len(stack)-1].indent >= indent {
			stack = stack[:len(stack)-1]
		}
		at := open{node: -1}
		if len(stack) > 0 {
			at = stack[len(stack)-1]
		}
		word, rest, _ := strings.Cut(text, " ")
		if errors, action, ok := strings.Cut(text, " -> "); ok {
			if at.node < 0 {
				return nil, fmt.Errorf("%q stands on nothing", text)
			}
			n := &nodes[at.node]
			s := decide.Strategy{Index: len(n.Strategies)}
			s.Path = fmt.Sprintf("%s[%d]", n.Path, s.Index)
			if n.Section == recourse.RollbackSteps {
				s.Path = "rollback:" + s.Path
			}
			errors, condition, conditional := strings.Cut(errors, " when ")
			if conditional {
				s.Condition = exitCodeIs(condition)
			}
			for name := range strings.SplitSeq(errors, ",") {
				e, err := recourse.ParseErrorType(name)
				if err != nil {
					return nil, err
				}
				s.Errors = s.Errors.Add(e)
			}
			words := strings.Fields(action)
			do, err := parseAction(&words)
			if err != nil || len(words) > 0 {
				return nil, fmt.Errorf("%q: %v, left %q", text, err, words)
			}
			s.Do = *do
			n.Strategies = append(n.Strategies, s)
			continue
		}
		if word == "rollback" {
			stack = append(stack, open{indent, at.path, -1, true})
			continue
		}
		level, ok := map[string]recourse.Level{"stage": recourse.LevelStage, "group": recourse.LevelStepGroup, "step": recourse.LevelStep}[word]
		if !ok {
			return nil, fmt.Errorf("%q is neither a node nor a strategy", text)
		}
		path := strings.TrimPrefix(at.path+"/"+rest, "/")
		section := recourse.Steps
		if at.rolled {
			section = recourse.RollbackSteps
		}
		nodes = append(nodes, decide.PlanNode{Node: recourse.Node{Path: path, Section: section}, Level: level})
		stack = append(stack, open{indent, path, len(nodes) - 1, at.rolled})
	}
	return decide.NewPlan("release", semantics, nodes), nil
}
