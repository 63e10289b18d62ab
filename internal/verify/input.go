package verify

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/recourse-dev/recourse"
)

// The headers of a rejected input (internal/publish).
const (
	headerSubject  = "Recourse-Subject"
	headerSequence = "Recourse-Sequence"
)

// input is one of the inbox, read.
type input struct {
	subject     string
	prefix      string
	key, digest string
	ref         recourse.Ref
	principal   string
	attempt     int           // of a failure
	node        recourse.Node // of a failure
	family      recourse.Family
	stored      time.Time
}

// undecidable is an input that must be rejected.
type undecidable struct {
	subject string
	content [32]byte // SHA-256 of the body
	why     string
	stored  time.Time
}

// read reads an input; an error is why it must be rejected.
func read(msg *Message) (*input, error) {
	in := &input{subject: msg.Subject, stored: msg.Stored}
	subject, err := recourse.ParseSubject(msg.Subject)
	if err != nil {
		return in, err
	}
	in.prefix, in.principal, in.family = subject.Prefix, subject.Detail, subject.Family
	body, event, err := recourse.OpenInput(subject, msg.Header, msg.Data)
	if err != nil {
		return in, err
	}
	id := func(id string) string {
		return cmp.Or(id, event.Key(), "sequence-"+strconv.FormatUint(msg.Sequence, 10))
	}
	switch subject.Family {
	case recourse.FamilyFailure:
		f, err := recourse.DecodeFailure(body)
		if err != nil {
			return in, err
		}
		f.Clean()
		in.ref, in.key, in.digest, in.node, in.attempt = f.Ref, f.Key(), f.Digest(), f.Node, f.Attempt
	case recourse.FamilyIntervention:
		a, err := recourse.DecodeAnswer(body)
		if err != nil {
			return in, err
		}
		a.Clean()
		a.ID, a.Who = id(a.ID), cmp.Or(a.Who, subject.Detail)
		in.ref, in.key, in.digest = a.Ref, "intervention/"+a.ID, a.Digest()
	case recourse.FamilyControl:
		o, err := recourse.DecodeControl(body)
		if err != nil {
			return in, err
		}
		o.Clean()
		o.ID, o.Who = id(o.ID), cmp.Or(o.Who, subject.Detail)
		in.ref, in.key, in.digest = o.Ref, "control/"+o.ID, o.Digest()
	case recourse.FamilyLifecycle:
		l, err := recourse.DecodeLifecycle(body)
		if err != nil {
			return in, err
		}
		in.ref, in.key = l.Ref, l.Key()
	default:
		return in, fmt.Errorf("family %q", subject.Family)
	}
	if in.ref.Prefix() != in.prefix {
		return in, fmt.Errorf("the body is for %s", in.ref.Prefix())
	}
	return in, nil
}

// Input takes a message of the inbox.
func (c *Checker) Input(msg Message) {
	c.Counts.Inputs++
	in, err := read(&msg)
	if err != nil {
		c.undecidable[msg.Sequence] = undecidable{msg.Subject, sha256.Sum256(msg.Data), err.Error(), msg.Stored}
		return
	}
	if e, ok := c.live[in.prefix]; ok && in.seenIn(&e.Value.(*chain).head.State) {
		return // a repeat, whose first copy was decided
	}
	c.inputs[msg.Sequence] = in
}

// seenIn reports whether a state says that this input, or a copy of it, was decided.
func (in *input) seenIn(s *recourse.State) bool {
	is := func(seen recourse.SeenInput) bool { return seen.Key == in.key && seen.Digest == in.digest }
	switch in.family {
	case recourse.FamilyFailure:
		for i := range s.Nodes {
			if s.Nodes[i].Node == in.node {
				return slices.ContainsFunc(s.Nodes[i].Seen, func(seen recourse.SeenAttempt) bool {
					return seen.Attempt == in.attempt && seen.Digest == in.digest
				})
			}
		}
		return false
	case recourse.FamilyLifecycle:
		return slices.ContainsFunc(s.Ended, func(seen recourse.SeenInput) bool { return seen.Key == in.key })
	default:
		return slices.ContainsFunc(s.Answers, is)
	}
}

// named checks that a record names an input that is there and is its own (I1, I8).
func (c *Checker) named(msg *Message, prefix string, rec *recourse.Record, ch *chain) error {
	sequence := rec.Input.Sequence
	fail := func(invariant, format string, args ...any) {
		c.fail(invariant, msg.Subject, recourse.StreamJournal, msg.Sequence, format, args...)
	}
	if rec.Input.Due != 0 {
		if sequence != 0 {
			fail("I1", "record %d is of a wait and names input %d", rec.Version, sequence)
		}
		return nil
	}
	if sequence < c.cfg.InboxFrom && sequence != 0 {
		c.Counts.Unseen++
		return nil
	}
	if c.cfg.Advance != nil {
		if err := c.cfg.Advance(sequence); err != nil {
			return err
		}
	}
	in := c.inputs[sequence]
	if in == nil {
		fail("I1", "record %d names input %d (%s), which is not in the inbox, cannot be decided, or has a record already", rec.Version, sequence, rec.Input.Key)
		return nil
	}
	delete(c.inputs, sequence)
	if in.seenIn(&ch.head.State) {
		fail("I1", "record %d decides %s, which an earlier record has decided", rec.Version, in.key)
	}
	switch {
	case in.key != rec.Input.Key || in.digest != rec.Input.Digest:
		fail("I1", "record %d is of %s (%s), input %d is %s (%s)", rec.Version, rec.Input.Key, rec.Input.Digest, sequence, in.key, in.digest)
	case in.ref != rec.Ref || in.prefix != prefix:
		fail("I8", "record %d is of %s, its input %d of %s", rec.Version, rec.Ref, sequence, in.ref)
	case in.principal != rec.Input.Principal:
		fail("I8", "record %d cites %q, its input %d is from %q", rec.Version, rec.Input.Principal, sequence, in.principal)
	}
	return nil
}

// Rejected checks a message of the rejected inputs (I1). The error is that of Advance.
func (c *Checker) Rejected(msg Message) error {
	c.Counts.Rejected++
	fail := func(format string, args ...any) {
		c.fail("I1", msg.Subject, recourse.StreamRejected, msg.Sequence, format, args...)
	}
	of := first(msg.Header, headerSubject)
	if subject, err := recourse.ParseSubject(of); err == nil && subject.Family == recourse.FamilyDue {
		return nil // a wait that came due with a broken subject: no input of the inbox
	}
	sequence, err := strconv.ParseUint(first(msg.Header, headerSequence), 10, 64)
	if err != nil {
		fail("a rejection without a sequence")
		return nil
	}
	if sequence < c.cfg.InboxFrom {
		c.Counts.Unseen++
		return nil
	}
	if c.cfg.Advance != nil {
		if err := c.cfg.Advance(sequence); err != nil {
			return err
		}
	}
	in, ok := c.undecidable[sequence]
	switch decidable := c.inputs[sequence]; {
	case ok && (in.subject != of || in.content != sha256.Sum256(msg.Data)):
		fail("the rejection of input %d is not what came", sequence)
	case ok:
	case decidable != nil:
		fail("input %d can be decided and was rejected", sequence)
		delete(c.inputs, sequence)
	default:
		fail("the rejection of %d has no input, or is its second", sequence)
	}
	delete(c.undecidable, sequence)
	return nil
}

// finishInputs checks what is left of the inbox: repeats of what was decided, what is on its way, and what was lost.
func (c *Checker) finishInputs(state func(prefix string) (*recourse.State, error)) error {
	for _, sequence := range slices.Sorted(maps.Keys(c.inputs)) {
		in := c.inputs[sequence]
		var s *recourse.State
		if e, ok := c.live[in.prefix]; ok {
			s = &e.Value.(*chain).head.State
		}
		if (s == nil || !in.seenIn(s)) && state != nil {
			var err error
			if s, err = state(in.prefix); err != nil {
				return err
			}
		}
		if s == nil || !in.seenIn(s) {
			c.undecided(sequence, in.subject, in.stored, "input "+in.key+" has no record")
		}
	}
	for _, sequence := range slices.Sorted(maps.Keys(c.undecidable)) {
		in := c.undecidable[sequence]
		c.undecided(sequence, in.subject, in.stored, "input that cannot be decided ("+in.why+") has no rejection")
	}
	return nil
}

// undecided sorts an input without record or rejection: settled all the same (I1), late (I9), or on its way.
func (c *Checker) undecided(sequence uint64, subject string, stored time.Time, what string) {
	age := c.cfg.Now.Sub(stored)
	switch {
	case sequence <= c.cfg.Settled:
		c.fail("I1", subject, recourse.StreamInbox, sequence, "%s, and was settled", what)
	case age > c.cfg.Grace:
		c.fail("I9", subject, recourse.StreamInbox, sequence, "%s after %s", what, age.Round(time.Millisecond))
	default:
		c.Counts.Undecided++
	}
}

// first returns the last value of a header: where a publisher sent one of the same name, the broker's stands behind it.
func first(header map[string][]string, name string) string {
	if values := header[name]; len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}
