package verify

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
)

// chain is what is remembered of an execution.
type chain struct {
	prefix   string
	version  uint64 // of the last record
	previous uint64 // sequence of the one before it
	sequence uint64 // of the last record
	waits    map[uint64]recourse.Wait
	retries  map[retryKey]int
	ended    bool
	head     decide.Head
	foldable bool // whether head is where the chain stands
}

// retryKey counts the retries of a node by a strategy.
type retryKey struct {
	recourse.Node
	strategy string
}

func newChain(prefix string) *chain {
	return &chain{prefix: prefix, waits: map[uint64]recourse.Wait{}, retries: map[retryKey]int{}, foldable: true}
}

// at is a record with its place, while it is checked.
type at struct {
	*Checker
	*chain
	msg *Message
	rec *recourse.Record
}

func (a *at) fail(invariant, format string, args ...any) {
	a.Checker.fail(invariant, a.msg.Subject, recourse.StreamJournal, a.msg.Sequence, format, args...)
}

// next checks a record against the chain so far: I2 to I8; then the chain ends with it.
func (c *Checker) next(ch *chain, msg *Message, rec *recourse.Record) {
	a := &at{c, ch, msg, rec}
	if ch.prefix == "" {
		ch.prefix = rec.Prefix()
	}
	begins := ch.sequence == 0
	linked, forked := a.linked()
	a.ids()
	a.command()
	if forked {
		return // the chain goes on from the first, which came in its turn
	}
	ends := rec.Input.Lifecycle != 0 || rec.Command.Verb == recourse.VerbAbort && rec.Command.Scope == ""
	if begins && !linked {
		ch.adopt(msg, rec) // the beginning is gone: what waits is what this record says
	} else {
		a.ends(linked)
		if ends && linked && len(ch.waits) > 0 {
			a.fail("I3", "the execution ends with record %d, and the waits of records %v neither fired nor are cancelled", rec.Version, slices.Sorted(maps.Keys(ch.waits)))
		}
		if ch.ended && (rec.Command.Verb != 0 || rec.Wait.Version != 0) {
			a.fail("I4", "record %d (%s%s) follows the end", rec.Version, rec.Command.Verb, rec.Kind)
		}
		plan, known := a.plan()
		a.bounds(plan)
		a.fold(plan, known, linked)
	}
	if ch.ended = ch.ended || ends; ends {
		clear(ch.waits) // told above, and nothing else will end them
	}
	ch.version, ch.previous, ch.sequence = rec.Version, ch.sequence, msg.Sequence
}

// linked checks I6: whether the record follows the last one, or has the place of the last one too.
func (a *at) linked() (linked, forked bool) {
	switch {
	case a.rec.Version == a.version+1 && a.rec.Previous == a.sequence:
		return true, false
	case a.sequence == 0 && a.rec.Previous != 0 && a.rec.Previous < a.cfg.JournalFrom:
		return false, false // its beginning cannot be seen
	case a.sequence != 0 && a.rec.Previous == a.previous && a.rec.Version == a.version:
		a.fail("I6", "the chain forks: record %d has the predecessor (%d) that the record at %d has", a.rec.Version, a.rec.Previous, a.sequence)
		return false, true
	default:
		a.fail("I6", "record has version %d and predecessor %d, want %d and %d", a.rec.Version, a.rec.Previous, a.version+1, a.sequence)
		return false, false
	}
}

// ids checks I8.
func (a *at) ids() {
	if a.rec.Prefix() != a.chain.prefix {
		a.fail("I8", "record %d is of %s, and stands under another execution", a.rec.Version, a.rec.Ref)
	}
}

// command checks I2.
func (a *at) command() {
	rec := a.rec
	if want := rec.SubjectUnder(a.chain.prefix); a.msg.Subject != want {
		a.fail("I2", "record %d stands under %s, want %s", rec.Version, a.msg.Subject, want)
	}
	if (rec.Command.Verb == 0) == (rec.Kind == "") {
		a.fail("I2", "record %d has verb %q and kind %q", rec.Version, rec.Command.Verb, rec.Kind)
	}
	if v := rec.Command.Verb; v != 0 && v != rec.Action.Verb() {
		a.fail("I2", "record %d does %s and commands %s", rec.Version, rec.Action, v)
	}
	if got := first(a.msg.Header, recourse.HeaderVersion); got != strconv.FormatUint(rec.Version, 10) {
		a.fail("I2", "record %d says version %q in its header", rec.Version, got)
	}
}

// ends checks I3: what a record ends was pending, and was due where it fired. Where the chain is broken, what waits is not known.
func (a *at) ends(linked bool) {
	rec := a.rec
	over := slices.Clone(rec.Cancelled)
	if rec.Ends != 0 {
		over = append(over, rec.Ends)
	}
	if rec.Input.Due != rec.Ends && rec.Input.Due != 0 {
		a.fail("I3", "record %d is of %s and ends %d", rec.Version, rec.Input.Key, rec.Ends)
	}
	for _, version := range over {
		w, pending := a.waits[version]
		if !pending {
			if linked {
				a.fail("I3", "record %d ends %d, which does not wait", rec.Version, version)
			}
			continue
		}
		delete(a.waits, version)
		if rec.Input.Due != version {
			continue
		}
		if rec.At.Before(w.DueAt) || a.msg.Stored.Before(w.DueAt.Add(-a.cfg.Skew)) {
			a.fail("I3", "the wait of record %d fired at %s (stored %s), due at %s", version, rec.At, a.msg.Stored.UTC(), w.DueAt)
		}
	}
	if rec.Wait.Version != 0 {
		if rec.Wait.Version != rec.Version {
			a.fail("I3", "record %d has the wait of %d", rec.Version, rec.Wait.Version)
		}
		a.waits[rec.Wait.Version] = rec.Wait
	}
}

// plan returns the plan that decided, and whether it is known.
func (a *at) plan() (*decide.Plan, bool) {
	if a.cfg.Plan == nil {
		return nil, false
	}
	if a.rec.Pipeline.Revision == 0 {
		return nil, true
	}
	plan := a.cfg.Plan(a.rec.Ref, a.rec.Pipeline.Revision, a.rec.Semantics)
	return plan, plan != nil
}

// fold checks I5.
func (a *at) fold(plan *decide.Plan, known, linked bool) {
	rec := a.rec
	if !linked || !a.foldable {
		a.Counts.Unfolded++
		a.adopt(a.msg, rec)
		return
	}
	again := new(recourse.Record)
	if known {
		in := &decide.Input{Ref: rec.Ref, Input: rec.Input}
		if rec.Input.Failure != nil {
			in.Node, in.Attempt = rec.Node, rec.Attempt
		}
		p := decide.Pipeline{Plan: plan, Revision: rec.Pipeline, Semantics: rec.Semantics}
		if result, version := decide.Decide(again, p, &a.head, in, rec.At); result != decide.Decided {
			a.fail("I5", "record %d folds to %s (%d)", rec.Version, result, version)
			a.adopt(a.msg, rec)
			return
		}
	} else { // the decision is taken as it is; its state must follow from it all the same
		*again = *rec
		a.Counts.Unfolded++
	}
	body, err := decide.Seal(again, &a.head)
	if err != nil || !bytes.Equal(body, a.msg.Data) {
		a.fail("I5", "record %d folds to something else (%v): %s", rec.Version, err, difference(a.msg.Data, body))
		a.adopt(a.msg, rec)
		return
	}
	a.head.Appended(again, a.msg.Sequence)
}

// difference shows where two bodies part.
func difference(have, want []byte) string {
	const before, after = 40, 120
	n := 0
	for n < len(have) && n < len(want) && have[n] == want[n] {
		n++
	}
	cut := func(b []byte) string {
		return strconv.Quote(string(b[min(max(n-before, 0), len(b)):min(n+after, len(b))]))
	}
	return "at byte " + strconv.Itoa(n) + " it has " + cut(have) + ", want " + cut(want)
}

// adopt goes on from a record whatever came before: what it says of its state is believed.
func (ch *chain) adopt(msg *Message, rec *recourse.Record) {
	if ch.foldable = rec.State != nil; !ch.foldable {
		if rec.Wait.Version != 0 {
			ch.waits[rec.Wait.Version] = rec.Wait
		}
		return
	}
	ch.head = decide.Head{Ref: rec.Ref, Version: rec.Version, Sequence: msg.Sequence, Base: msg.Sequence, State: *rec.State}
	clear(ch.waits)
	for _, w := range rec.State.Waits {
		ch.waits[w.Version] = w
	}
	ch.ended = ch.ended || len(rec.State.Ended) > 0
}

// bounds checks I7.
func (a *at) bounds(plan *decide.Plan) {
	rec := a.rec
	if rec.Wait.Version != 0 && (rec.Wait.DueAt.Before(rec.At) || rec.Wait.DueAt.After(rec.At.Add(recourse.MaxWait))) {
		a.fail("I7", "record %d waits from %s to %s", rec.Version, rec.At, rec.Wait.DueAt)
	}
	if rec.Command.Verb == recourse.VerbRetryGroup {
		for k := range a.retries { // the counters inside start again
			if k.Within(rec.Command.Scope) {
				delete(a.retries, k)
			}
		}
	}
	if plan == nil || rec.Input.Failure == nil || rec.Action != recourse.Retry || rec.Reason != recourse.StrategyMatched {
		return
	}
	policy := policyOf(plan, rec.Strategy)
	if policy == nil {
		a.fail("I7", "record %d retries by %q, which does not", rec.Version, rec.Strategy)
		return
	}
	k := retryKey{rec.Node, rec.Strategy}
	if a.retries[k]++; a.retries[k] > policy.Count {
		a.fail("I7", "record %d is retry %d of %s, allowed are %d", rec.Version, a.retries[k], rec.Node, policy.Count)
	}
	most := max(slices.Max(append(slices.Clone(policy.Intervals), 0)), min(time.Duration(rec.Input.Failure.RetryAfter), retry.MaxRetryAfter))
	if policy.Backoff != nil {
		most = max(most, policy.Backoff.Max)
	}
	if d := time.Duration(rec.Delay); d < 0 || d > most {
		a.fail("I7", "record %d waits %s, at most %s is allowed", rec.Version, d, most)
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
