// Package invariant checks what must hold of the streams of Recourse whatever failed meanwhile, from the streams alone. It reads the
// inputs in its own way and decides nothing, except that it folds the decisions again; so it can tell a worker that is wrong.
//
//	I1  every input has exactly one record or one rejection; every record has an input
//	I2  every command is the one its record lists
//	I3  every wait ends exactly once: fired and not before it was due, superseded, or cancelled by the end
//	I4  after an abort or the end of an execution nothing but plain records follows
//	I5  folding the decisions over recorded inputs, clock values and revisions reproduces every record byte for byte
//	I6  one chain per execution: versions 1 … m, each naming its predecessor
//	I7  retries per node at most what the strategy allows, waits within its bounds
//	I8  ids in subject, body and input agree
//	I9  nothing undecided, no wait overdue
package invariant

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
)

// Message is a stored message.
type Message struct {
	Sequence uint64
	Subject  string
	Header   map[string][]string
	Data     []byte
	Stored   time.Time // by the broker's clock
}

// History is what the streams hold. Nothing is left out at the beginning.
type History struct {
	Inbox, Journal, Rejected []Message
	// Plan returns the plan of a revision, nil where that could not be read. It is not asked for revision 0.
	Plan func(ref recourse.Ref, revision uint64, semantics recourse.Semantics) *decide.Plan
	// Now is when it was read. A wait that was due before Now less Grace and has not ended is overdue (I9).
	Now   time.Time
	Grace time.Duration
	// Skew is how far the clocks of workers and broker may lie apart.
	Skew time.Duration
}

// Violation is one thing that must not be.
type Violation struct {
	Invariant string // "I1" … "I9"
	Where     string // subject prefix of the execution
	What      string
}

// String returns the violation on one line.
func (v Violation) String() string { return v.Invariant + " " + v.Where + ": " + v.What }

// Check returns what is violated, in order.
func Check(h History) []Violation {
	c := &checker{h: h, chains: map[string][]entry{}}
	c.journal()
	c.inputs()
	for _, prefix := range slices.Sorted(maps.Keys(c.chains)) {
		c.chain(prefix, c.chains[prefix])
	}
	return c.found
}

// entry is a record in the journal.
type entry struct {
	Message
	rec *recourse.Record
}

type checker struct {
	h      History
	chains map[string][]entry // by prefix, in order of the stream
	found  []Violation
}

func (c *checker) fail(invariant, where, format string, args ...any) {
	c.found = append(c.found, Violation{invariant, where, fmt.Sprintf(format, args...)})
}

func (c *checker) journal() {
	for _, msg := range c.h.Journal {
		subject, err := recourse.ParseSubject(msg.Subject)
		if err != nil {
			c.fail("I8", msg.Subject, "in the journal: %v", err)
			continue
		}
		rec, err := recourse.DecodeRecord(msg.Data)
		if err != nil {
			c.fail("I5", subject.Prefix, "record at %d: %v", msg.Sequence, err)
			continue
		}
		c.chains[subject.Prefix] = append(c.chains[subject.Prefix], entry{msg, rec})
	}
}

// key is what makes inputs the same.
type key struct{ prefix, key, digest string }

// input is one of the inbox, read.
type input struct {
	Message
	key
	ref       recourse.Ref
	principal string
}

// read reads an input; an error is why it must be rejected.
func read(msg Message) (input, error) {
	in := input{Message: msg}
	subject, err := recourse.ParseSubject(msg.Subject)
	if err != nil {
		return in, err
	}
	in.prefix, in.principal = subject.Prefix, subject.Detail
	switch subject.Family {
	case recourse.FamilyFailure:
		f, err := recourse.DecodeFailure(msg.Data)
		if err != nil {
			return in, err
		}
		f.Clean()
		in.ref, in.key.key, in.digest = f.Ref, f.Key(), f.Digest()
	case recourse.FamilyIntervention:
		a, err := recourse.DecodeAnswer(msg.Data)
		if err != nil {
			return in, err
		}
		a.Clean()
		a.ID = cmp.Or(a.ID, "sequence-"+strconv.FormatUint(msg.Sequence, 10))
		a.Who = cmp.Or(a.Who, subject.Detail)
		in.ref, in.key.key, in.digest = a.Ref, "intervention/"+a.ID, a.Digest()
	case recourse.FamilyControl:
		o, err := recourse.DecodeControl(msg.Data)
		if err != nil {
			return in, err
		}
		o.Clean()
		o.ID = cmp.Or(o.ID, "sequence-"+strconv.FormatUint(msg.Sequence, 10))
		o.Who = cmp.Or(o.Who, subject.Detail)
		in.ref, in.key.key, in.digest = o.Ref, "control/"+o.ID, o.Digest()
	case recourse.FamilyLifecycle:
		l, err := recourse.DecodeLifecycle(msg.Data)
		if err != nil {
			return in, err
		}
		in.ref, in.key.key = l.Ref, l.Key()
	default:
		return in, fmt.Errorf("family %q", subject.Family)
	}
	if in.ref.Prefix() != in.prefix {
		return in, fmt.Errorf("the body is for %s", in.ref.Prefix())
	}
	return in, nil
}

// inputs checks I1, and of I8 what is about inputs.
func (c *checker) inputs() {
	records := map[key][]*entry{}
	for prefix, chain := range c.chains {
		for i := range chain {
			if rec := chain[i].rec; rec.Input.Due == 0 {
				k := key{prefix, rec.Input.Key, rec.Input.Digest}
				records[k] = append(records[k], &chain[i])
			}
		}
	}
	rejected := map[uint64][]Message{}
	for _, msg := range c.h.Rejected {
		sequence, err := strconv.ParseUint(first(msg.Header, "Recourse-Sequence"), 10, 64)
		if err != nil {
			c.fail("I1", msg.Subject, "a rejection without a sequence")
			continue
		}
		rejected[sequence] = append(rejected[sequence], msg)
	}
	inputs := map[key][]input{}
	for _, msg := range c.h.Inbox {
		in, err := read(msg)
		rejections := rejected[msg.Sequence]
		delete(rejected, msg.Sequence)
		switch {
		case err == nil && len(rejections) > 0:
			c.fail("I1", in.prefix, "input %d can be decided and was rejected", msg.Sequence)
		case err == nil:
			inputs[in.key] = append(inputs[in.key], in)
		case len(rejections) != 1:
			c.fail("I1", in.prefix, "input %d (%v) has %d rejections, want 1", msg.Sequence, err, len(rejections))
		case !bytes.Equal(rejections[0].Data, msg.Data) || first(rejections[0].Header, "Recourse-Subject") != msg.Subject:
			c.fail("I1", in.prefix, "the rejection of input %d is not what came", msg.Sequence)
		}
	}
	for sequence := range rejected {
		c.fail("I1", "rejected", "the rejection of %d has no input", sequence)
	}
	for k, copies := range inputs {
		found := records[k]
		delete(records, k)
		if len(found) != 1 {
			c.fail("I1", k.prefix, "input %s (inbox %d, %d times) has %d records, want 1", k.key, copies[0].Sequence, len(copies), len(found))
			continue
		}
		rec := found[0].rec
		at := slices.IndexFunc(copies, func(in input) bool { return in.Sequence == rec.Input.Sequence })
		switch {
		case at < 0:
			c.fail("I1", k.prefix, "record %d of %s names input %d, which is another", rec.Version, k.key, rec.Input.Sequence)
		case copies[at].ref != rec.Ref:
			c.fail("I8", k.prefix, "record %d is of %s, its input of %s", rec.Version, rec.Ref, copies[at].ref)
		case copies[at].principal != rec.Input.Principal:
			c.fail("I8", k.prefix, "record %d cites %q, its input is from %q", rec.Version, rec.Input.Principal, copies[at].principal)
		}
	}
	for k, found := range records {
		c.fail("I1", k.prefix, "record %d of %s has no input", found[0].rec.Version, k.key)
	}
	slices.SortFunc(c.found, func(a, b Violation) int { return cmp.Compare(a.String(), b.String()) })
}

func first(header map[string][]string, name string) string {
	if values := header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// chain checks one execution: I2 to I8.
func (c *checker) chain(prefix string, chain []entry) {
	waits := map[uint64]recourse.Wait{}
	ended := false
	previous := uint64(0)
	head, foldable := &decide.Head{}, c.h.Plan != nil
	retries := map[retryKey]int{}
	for i := range chain {
		rec, version := chain[i].rec, uint64(i+1)
		if rec.Version != version || rec.Previous != previous {
			c.fail("I6", prefix, "record at %d has version %d and predecessor %d, want %d and %d", chain[i].Sequence, rec.Version, rec.Previous, version, previous)
			foldable = false
		}
		previous = chain[i].Sequence
		if rec.Prefix() != prefix {
			c.fail("I8", prefix, "record %d is of %s", rec.Version, rec.Prefix())
		}
		c.command(prefix, &chain[i])
		c.ends(prefix, &chain[i], waits)
		if ended && (rec.Command.Verb != 0 || rec.Wait.Version != 0) {
			c.fail("I4", prefix, "record %d (%s%s) after the end", rec.Version, rec.Command.Verb, rec.Kind)
		}
		ended = ended || rec.Input.Lifecycle != 0 || rec.Command.Verb == recourse.VerbAbort && rec.Command.Scope == ""
		plan := c.plan(rec)
		c.bounds(prefix, rec, plan, retries)
		if foldable {
			foldable = c.fold(prefix, &chain[i], plan, head)
		}
	}
	for version, w := range waits {
		if overdue := c.h.Now.Sub(w.DueAt); overdue > c.h.Grace {
			c.fail("I9", prefix, "wait %d (%s) is overdue by %s", version, w.Kind, overdue)
		}
	}
}

// command checks I2.
func (c *checker) command(prefix string, e *entry) {
	if want := e.rec.SubjectUnder(prefix); e.Subject != want {
		c.fail("I2", prefix, "record %d stands under %s, want %s", e.rec.Version, e.Subject, want)
	}
	if (e.rec.Command.Verb == 0) == (e.rec.Kind == "") {
		c.fail("I2", prefix, "record %d has verb %q and kind %q", e.rec.Version, e.rec.Command.Verb, e.rec.Kind)
	}
	if v := e.rec.Command.Verb; v != 0 && v != e.rec.Action.Verb() {
		c.fail("I2", prefix, "record %d does %s and commands %s", e.rec.Version, e.rec.Action, v)
	}
	if first(e.Header, recourse.HeaderVersion) != strconv.FormatUint(e.rec.Version, 10) {
		c.fail("I2", prefix, "record %d says version %q in its header", e.rec.Version, first(e.Header, recourse.HeaderVersion))
	}
}

// ends checks I3: what a record ends was pending, and was due where it fired.
func (c *checker) ends(prefix string, e *entry, waits map[uint64]recourse.Wait) {
	rec := e.rec
	over := slices.Clone(rec.Cancelled)
	if rec.Ends != 0 {
		over = append(over, rec.Ends)
	}
	if rec.Input.Due != rec.Ends && rec.Input.Due != 0 {
		c.fail("I3", prefix, "record %d is of %s and ends %d", rec.Version, rec.Input.Key, rec.Ends)
	}
	for _, version := range over {
		w, pending := waits[version]
		if !pending {
			c.fail("I3", prefix, "record %d ends %d, which does not wait", rec.Version, version)
			continue
		}
		delete(waits, version)
		if rec.Input.Due != version {
			continue
		}
		if rec.At.Before(w.DueAt) || e.Stored.Before(w.DueAt.Add(-c.h.Skew)) {
			c.fail("I3", prefix, "wait %d fired at %s (stored %s), due at %s", version, rec.At, e.Stored.UTC(), w.DueAt)
		}
	}
	if rec.Wait.Version != 0 {
		if rec.Wait.Version != rec.Version {
			c.fail("I3", prefix, "record %d has the wait of %d", rec.Version, rec.Wait.Version)
		}
		waits[rec.Wait.Version] = rec.Wait
	}
}

func (c *checker) plan(rec *recourse.Record) *decide.Plan {
	if rec.Pipeline.Revision == 0 || c.h.Plan == nil {
		return nil
	}
	return c.h.Plan(rec.Ref, rec.Pipeline.Revision, rec.Semantics)
}

// fold checks I5, and says whether the chain can be folded on.
func (c *checker) fold(prefix string, e *entry, plan *decide.Plan, head *decide.Head) bool {
	rec := e.rec
	in := &decide.Input{Ref: rec.Ref, Input: rec.Input}
	if rec.Input.Failure != nil {
		in.Node, in.Attempt = rec.Node, rec.Attempt
	}
	again := new(recourse.Record)
	p := decide.Pipeline{Plan: plan, Revision: rec.Pipeline, Semantics: rec.Semantics}
	if result, _ := decide.Decide(again, p, head, in, rec.At); result != decide.Decided {
		c.fail("I5", prefix, "record %d folds to %s", rec.Version, result)
		return false
	}
	body, err := decide.Seal(again, head)
	if err != nil || !bytes.Equal(body, e.Data) {
		c.fail("I5", prefix, "record %d folds to something else (%v):\n\t%s\n\t%s", rec.Version, err, e.Data, body)
		return false
	}
	head.Appended(again, e.Sequence)
	return true
}

// retryKey counts the retries of a node by a strategy.
type retryKey struct {
	recourse.Node
	strategy string
}

// bounds checks I7.
func (c *checker) bounds(prefix string, rec *recourse.Record, plan *decide.Plan, retries map[retryKey]int) {
	if rec.Wait.Version != 0 && (rec.Wait.DueAt.Before(rec.At) || rec.Wait.DueAt.After(rec.At.Add(recourse.MaxWait))) {
		c.fail("I7", prefix, "record %d waits from %s to %s", rec.Version, rec.At, rec.Wait.DueAt)
	}
	if rec.Command.Verb == recourse.VerbRetryGroup {
		for k := range retries { // the counters inside start again
			if k.Within(rec.Command.Scope) {
				delete(retries, k)
			}
		}
	}
	if plan == nil || rec.Input.Failure == nil || rec.Action != recourse.Retry || rec.Reason != recourse.StrategyMatched {
		return
	}
	policy := policyOf(plan, rec.Strategy)
	if policy == nil {
		c.fail("I7", prefix, "record %d retries by %q, which does not", rec.Version, rec.Strategy)
		return
	}
	k := retryKey{rec.Node, rec.Strategy}
	if retries[k]++; retries[k] > policy.Count {
		c.fail("I7", prefix, "record %d is retry %d of %s, allowed are %d", rec.Version, retries[k], rec.Node, policy.Count)
	}
	most := max(slices.Max(append(slices.Clone(policy.Intervals), 0)), min(time.Duration(rec.Input.Failure.RetryAfter), retry.MaxRetryAfter))
	if policy.Backoff != nil {
		most = max(most, policy.Backoff.Max)
	}
	if d := time.Duration(rec.Delay); d < 0 || d > most {
		c.fail("I7", prefix, "record %d waits %s, at most %s is allowed", rec.Version, d, most)
	}
}

func policyOf(plan *decide.Plan, path string) *retry.Policy {
	for _, n := range plan.Nodes() {
		for _, s := range n.Strategies {
			if s.Path == path {
				return s.Do.Retry
			}
		}
	}
	return nil
}

// Join returns the violations on lines of their own, at most so many.
func Join(violations []Violation, most int) string {
	var b strings.Builder
	for i, v := range violations {
		if i == most {
			fmt.Fprintf(&b, "\n… and %d more", len(violations)-most)
			break
		}
		fmt.Fprintf(&b, "\n%s", v)
	}
	return b.String()
}
