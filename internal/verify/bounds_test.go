package verify

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// checked feeds a checker of its own configuration.
func checked(t *testing.T, h History, change func(*Config)) (found []Violation, c *Checker) {
	t.Helper()
	next := 0
	cfg := Config{Plan: h.Plan, Now: h.Now, Grace: h.Grace, Skew: h.Skew, Settled: ^uint64(0), Report: func(v Violation) { found = append(found, v) }}
	cfg.Advance = func(sequence uint64) error {
		for ; next < len(h.Inbox) && h.Inbox[next].Sequence <= sequence; next++ {
			c.Input(h.Inbox[next])
		}
		return nil
	}
	cfg.Chain = func(prefix string, sequence uint64) (chain []Message, _ error) {
		for i := range slices.Backward(h.Journal) {
			if rec, err := recourse.DecodeRecord(h.Journal[i].Data); err == nil && h.Journal[i].Sequence == sequence {
				chain = append(chain, h.Journal[i])
				sequence = rec.Previous
			}
		}
		slices.Reverse(chain)
		return chain, nil
	}
	if change != nil {
		change(&cfg)
	}
	c = New(cfg)
	for _, msg := range h.Rejected {
		if err := c.Rejected(msg); err != nil {
			t.Fatal(err)
		}
	}
	for _, msg := range h.Journal {
		if err := c.Record(msg); err != nil {
			t.Fatal(err)
		}
	}
	_ = cfg.Advance(^uint64(0))
	state := func(prefix string) (*recourse.State, error) {
		for _, msg := range slices.Backward(h.Journal) {
			if rec, err := recourse.DecodeRecord(msg.Data); err == nil && rec.Prefix() == prefix {
				return rec.State, nil
			}
		}
		return nil, nil
	}
	if err := c.Finish(state); err != nil {
		t.Fatal(err)
	}
	return found, c
}

// many are streams of many executions in a random order.
func many(t *testing.T, executions int) *streams {
	s := newStreams(t)
	random := rand.New(rand.NewPCG(3, 5))
	steps := map[int]int{}
	for len(steps) < executions || slices.ContainsFunc(keys(steps), func(e int) bool { return steps[e] < 6 }) {
		e := random.IntN(executions)
		name := fmt.Sprintf("ex%d", e)
		switch steps[e]++; steps[e] {
		case 1:
			s.fail(name, "s/a", 1, recourse.Timeout)
		case 2:
			s.wait(time.Minute)
			s.due(name, 1)
		case 3:
			s.fail(name, "s/a", 2, recourse.Verification)
		case 4:
			s.answer(name, 3, recourse.Retry)
		case 5:
			s.fail(name, "s/a", 3, recourse.Verification)
			f := s.failure(name, "s/a", 1, recourse.Timeout) // a repeat, of what was decided long ago
			s.put(f.Subject(recourse.FamilyFailure, "ci"), f)
		case 6:
			if e%2 == 0 {
				s.end(name, recourse.Finished)
			}
		}
	}
	s.Now = s.now
	return s
}

func keys(m map[int]int) (k []int) {
	for key := range m {
		k = append(k, key)
	}
	return k
}

// TestReleased: executions that are not remembered in full are read again, and nothing else changes.
func TestReleased(t *testing.T) {
	s := many(t, 24)
	s.Grace = 24 * time.Hour
	for _, live := range []int{0, 1, 7, 100} {
		v, c := checked(t, s.History, func(cfg *Config) { cfg.Live = live })
		if len(v) > 0 {
			t.Fatalf("%d live; violated:%s", live, Join(v, 5))
		}
		if live > 0 && (len(c.live) > live || c.order.Len() > live || len(c.live)+len(c.released) != 24) {
			t.Errorf("%d are live, %d released, at most %d may be", len(c.live), len(c.released), live)
		}
		want := Counts{Inputs: len(s.Inbox), Records: len(s.Journal), Commands: 24 * 4, Executions: 24, Pending: 12}
		if c.Counts != want {
			t.Errorf("%d live: %+v, want %+v", live, c.Counts, want)
		}
	}
	// What is wrong is found all the same, once.
	s.edit(len(s.Journal)-3, func(r *recourse.Record) { r.Version += 2 })
	s.Grace = 0
	s.Now = s.Now.Add(time.Hour)
	want, _ := checked(t, s.History, nil)
	got, _ := checked(t, s.History, func(cfg *Config) { cfg.Live = 1 })
	if len(want) != len(got) || !slices.Equal(found(want), found(got)) || !slices.Equal(found(got), []string{"I2", "I6", "I9"}) {
		t.Errorf("of all:%s\nof one at a time:%s", Join(want, 5), Join(got, 5))
	}
}

// TestToldOnce: reading an execution again does not tell of its violations again.
func TestToldOnce(t *testing.T) {
	s := many(t, 5)
	s.Grace = 24 * time.Hour
	s.Journal[3].Header = nil
	if v, _ := checked(t, s.History, func(cfg *Config) { cfg.Live = 1 }); len(v) != 1 || v[0].Sequence != 4 || v[0].Invariant != "I2" {
		t.Errorf("%s", Join(v, 10))
	}
}

// TestFork: the records that go on from the first of two are not blamed for the second.
func TestFork(t *testing.T) {
	s := sound(t)
	broken[0].do(s)
	if v := Check(s.History); len(v) != 2 || v[0].Sequence != 11 || v[1].Sequence != 11 {
		t.Errorf("%s", Join(v, 10))
	}
}

// TestMixedUp: two copies of an input that both have a record, and records that name each other's input.
func TestMixedUp(t *testing.T) {
	s := newStreams(t)
	s.Grace = time.Hour
	f := s.failure("ex1", "s/a", 1, recourse.Timeout)
	s.put(f.Subject(recourse.FamilyFailure, "ci"), f)
	s.fail("ex2", "s/a", 1, recourse.Timeout) // both copies are read with this one's input
	s.put(f.Subject(recourse.FamilyFailure, "ci"), f)
	s.fail("ex2", "s/a", 2, recourse.Timeout)
	s.Now = s.now
	s.Inbox = s.Inbox[:4]
	s.decide(&decide.Input{Ref: f.Ref, Node: f.Node, Attempt: 1, Input: recourse.Input{Key: f.Key(), Sequence: 1, Digest: f.Digest(), Principal: "ci",
		Failure: &recourse.FailureInput{Errors: f.Errors, Message: f.Message}}})
	if v := Check(s.History); len(v) > 0 {
		t.Fatalf("sound:%s", Join(v, 10))
	}
	rec, err := recourse.DecodeRecord(s.Journal[2].Data)
	if err != nil {
		t.Fatal(err)
	}
	rec.Version, rec.Previous, rec.Input.Sequence, rec.Wait = 2, 3, 3, recourse.Wait{}
	body, err := recourse.Encode(rec)
	if err != nil {
		t.Fatal(err)
	}
	s.Journal = append(s.Journal, s.message(4, rec, body))
	if v := Check(s.History); !slices.ContainsFunc(v, func(v Violation) bool {
		return v.Invariant == "I1" && strings.Contains(v.What, "which an earlier record has decided")
	}) {
		t.Errorf("%s", Join(v, 10))
	}

	s = newStreams(t)
	s.end("ex1", recourse.Finished)
	s.end("ex2", recourse.Finished)
	for i := range 2 {
		s.edit(i, func(r *recourse.Record) { r.Input.Sequence = uint64(2 - i) })
	}
	if v := Check(s.History); len(v) != 2 || !slices.Equal(found(v), []string{"I8"}) {
		t.Errorf("%s", Join(v, 10))
	}
}

// TestBroken again, with one execution at a time.
func TestBrokenReleased(t *testing.T) {
	for _, test := range broken {
		s := sound(t)
		test.do(s)
		v, _ := checked(t, s.History, func(cfg *Config) { cfg.Live = 1 })
		if !slices.ContainsFunc(v, func(v Violation) bool { return v.Sequence == test.at }) {
			t.Errorf("%s: none is at %d:%s", test.name, test.at, Join(v, 20))
		}
	}
}

// TestInFlight: what is on its way is counted, and held against nobody until it is late.
func TestInFlight(t *testing.T) {
	s := sound(t)
	f := s.failure("ex9", "s/a", 1, recourse.Timeout)
	sequence := s.put(f.Subject(recourse.FamilyFailure, "ci"), f)
	s.Inbox = append(s.Inbox, Message{Sequence: sequence + 1, Subject: f.Subject(recourse.FamilyFailure, "ci"), Data: []byte("{"), Stored: s.now})
	for _, test := range []struct {
		age     time.Duration
		settled uint64
		want    string
	}{
		{time.Minute, sequence - 1, "[]"}, {time.Minute + 1, sequence - 1, "[I9]"}, {0, sequence, "[I1]"}, {time.Hour, sequence, "[I1 I9]"}, {0, sequence + 1, "[I1]"},
	} {
		v, c := checked(t, s.History, func(cfg *Config) { cfg.Settled, cfg.Now = test.settled, s.now.Add(test.age) })
		v = slices.DeleteFunc(v, func(v Violation) bool { return v.Sequence == 0 }) // the wait of ex3
		if got := fmt.Sprint(found(v)); got != test.want {
			t.Errorf("%s old, %d settled: %s, want %s:%s", test.age, test.settled, got, test.want, Join(v, 5))
		}
		if test.want == "[]" && c.Counts.Undecided != 2 {
			t.Errorf("%d are undecided", c.Counts.Undecided)
		}
	}
}

// TestBeginning: a chain whose beginning cannot be seen is believed from where it can, and checked from there.
func TestBeginning(t *testing.T) {
	s := sound(t)
	s.Journal, s.Inbox, s.Rejected = s.Journal[3:], s.Inbox[4:], s.Rejected[:0]
	s.reject("ex1", "(")
	s.Inbox[len(s.Inbox)-1].Sequence = 13
	s.Rejected[0].Header[headerSequence] = []string{"13"}
	s.Inbox = slices.DeleteFunc(s.Inbox, func(m Message) bool { return m.Sequence == 12 })
	from := func(cfg *Config) { cfg.JournalFrom, cfg.InboxFrom = 4, 5 }
	v, c := checked(t, s.History, from)
	if len(v) > 0 || c.Counts.Unseen != 1 || c.Counts.Pending != 1 {
		t.Errorf("%+v%s", c.Counts, Join(v, 10))
	}
	// One that is said to be gone and is not is held against somebody.
	if v, _ = checked(t, s.History, func(cfg *Config) { cfg.JournalFrom, cfg.InboxFrom = 1, 5 }); !slices.Equal(found(v), []string{"I6"}) {
		t.Errorf("%s", Join(v, 10))
	}
	s.edit(len(s.Journal)-1, func(r *recourse.Record) { r.Input.Principal = "root" })
	if v, _ = checked(t, s.History, from); !slices.Equal(found(v), []string{"I8"}) {
		t.Errorf("%s", Join(v, 10))
	}
}

// TestPlanGone: where the revision is not kept any more, the state must follow from the decision all the same.
func TestPlanGone(t *testing.T) {
	s := sound(t)
	gone := func(cfg *Config) {
		cfg.Plan = nil
	}
	v, c := checked(t, s.History, gone)
	if len(v) > 0 || c.Counts.Unfolded != len(s.Journal) {
		t.Errorf("%+v%s", c.Counts, Join(v, 10))
	}
	s.edit(7, func(r *recourse.Record) { r.State.Failed = !r.State.Failed })
	if v, _ = checked(t, s.History, gone); !slices.Equal(found(v), []string{"I5"}) {
		t.Errorf("%s", Join(v, 10))
	}
}
