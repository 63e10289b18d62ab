package verify

import (
	"container/list"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// Message is a stored message.
type Message struct {
	Sequence uint64
	Subject  string
	Header   map[string][]string
	Data     []byte
	Stored   time.Time // by the broker's clock
}

// Violation is one thing that must not be.
type Violation struct {
	Invariant string `json:"invariant"` // I1 … I9
	// Where is the subject of the message it shows at, or the subject prefix of the execution.
	Where string `json:"subject"`
	// Stream and Sequence are those of the message; absent where it is about none in particular.
	Stream   string `json:"stream,omitzero"`
	Sequence uint64 `json:"sequence,omitzero"`
	What     string `json:"what"`
}

// String returns the violation on one line.
func (v Violation) String() string {
	at := ""
	if v.Sequence != 0 {
		at = fmt.Sprintf(" (%s %d)", v.Stream, v.Sequence)
	}
	return v.Invariant + " " + v.Where + at + ": " + v.What
}

// Config says what a [Checker] checks with.
type Config struct {
	// Plan returns the plan of a revision, nil where that could not be read. It is not asked for revision 0. Where Plan is nil, I5 and I7
	// are not checked.
	Plan func(ref recourse.Ref, revision uint64, semantics recourse.Semantics) *decide.Plan
	// Now is when it is read. A wait that was due before Now less Grace and has not ended is overdue; an input that is older than Grace
	// and neither decided nor settled is late (I9).
	Now   time.Time
	Grace time.Duration
	// Skew is how far the clocks of workers and broker may lie apart.
	Skew time.Duration
	// Settled is the inbox sequence up to which the workers have acknowledged everything: what has no record there is lost. The zero
	// value is none.
	Settled uint64
	// InboxFrom and JournalFrom are the first sequences that can be seen: what lies before is gone, or is not read.
	InboxFrom, JournalFrom uint64
	// Advance feeds the checker with inputs until one with this sequence, or a later one, or the last was fed. Nil where all inputs were fed
	// before.
	Advance func(sequence uint64) error
	// Chain reads the records of an execution from its first to the one at the sequence. Nil where Live is 0.
	Chain func(prefix string, sequence uint64) ([]Message, error)
	// Live is how many executions are remembered in full; 0 is all of them.
	Live int
	// Report is told each violation.
	Report func(Violation)
	// Waits is told each wait that is pending at the end and not overdue, of the executions that are remembered in full; it may be nil.
	Waits func(prefix string, w recourse.Wait)
}

// Counts are what was looked at.
type Counts struct {
	Inputs     int `json:"inputs"`
	Records    int `json:"records"`
	Commands   int `json:"commands"`
	Rejected   int `json:"rejected"`
	Executions int `json:"executions"`
	// Pending are the waits that nothing has ended yet.
	Pending int `json:"pending"`
	// Undecided are the inputs that have no record yet and are not late.
	Undecided int `json:"undecided"`
	// Unseen are the records whose input lies before what can be seen.
	Unseen int `json:"unseen"`
	// Unfolded are the records that could not be decided again for want of the pipeline's revision, or of what came before.
	Unfolded   int `json:"unfolded"`
	Violations int `json:"-"` // told to Report
}

// Checker checks messages as they come. Use [New]; feed each stream in its order, a record or a rejection no earlier than what Advance can
// bring of the inbox; then call [Checker.Finish]. It is not safe for concurrent use.
type Checker struct {
	Counts Counts
	cfg    Config

	live     map[string]*list.Element // of *chain, by prefix
	order    *list.List               // the last used in front
	released map[[16]byte]released

	inputs      map[uint64]*input      // by sequence: decidable, and no record has named it yet
	undecidable map[uint64]undecidable // by sequence: no rejection has named it yet
	muted       bool
}

// released is what is remembered of an execution that is not remembered in full.
type released struct {
	sequence uint64    // of its last record
	pending  int       // waits
	due      time.Time // of the first of them
}

func (ch *chain) release() released {
	r := released{sequence: ch.sequence, pending: len(ch.waits)}
	for _, w := range ch.waits {
		if r.due.IsZero() || w.DueAt.Before(r.due) {
			r.due = w.DueAt
		}
	}
	return r
}

// New returns a checker.
func New(cfg Config) *Checker {
	return &Checker{
		cfg: cfg, live: map[string]*list.Element{}, order: list.New(), released: map[[16]byte]released{},
		inputs: map[uint64]*input{}, undecidable: map[uint64]undecidable{},
	}
}

func (c *Checker) fail(invariant string, where, stream string, sequence uint64, format string, args ...any) {
	if c.muted {
		return
	}
	c.Counts.Violations++
	if c.cfg.Report != nil {
		c.cfg.Report(Violation{Invariant: invariant, Where: where, Stream: stream, Sequence: sequence, What: fmt.Sprintf(format, args...)})
	}
}

// Record checks a message of the journal. The error is that of Advance or Chain.
func (c *Checker) Record(msg Message) error {
	c.Counts.Records++
	subject, err := recourse.ParseSubject(msg.Subject)
	if err != nil {
		c.fail("I8", msg.Subject, recourse.StreamJournal, msg.Sequence, "in the journal: %v", err)
		return nil
	}
	rec, err := recourse.DecodeRecord(msg.Data)
	if err != nil {
		c.fail("I5", msg.Subject, recourse.StreamJournal, msg.Sequence, "cannot be read: %v", err)
		return nil
	}
	ch, err := c.chain(subject.Prefix)
	if err != nil {
		return err
	}
	if err := c.named(&msg, subject.Prefix, rec, ch); err != nil {
		return err
	}
	if rec.Command.Verb != 0 {
		c.Counts.Commands++
	}
	c.next(ch, &msg, rec)
	return nil
}

// chain returns what is known of an execution, and remembers it as used.
func (c *Checker) chain(prefix string) (*chain, error) {
	if e, ok := c.live[prefix]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*chain), nil
	}
	ch := newChain(strings.Clone(prefix))
	key := digest(prefix)
	if r, ok := c.released[key]; ok {
		delete(c.released, key)
		if err := c.replay(ch, r.sequence); err != nil {
			return nil, err
		}
	} else {
		c.Counts.Executions++
	}
	c.live[ch.prefix] = c.order.PushFront(ch)
	if c.cfg.Live > 0 && c.order.Len() > c.cfg.Live {
		last := c.order.Remove(c.order.Back()).(*chain)
		delete(c.live, last.prefix)
		c.released[digest(last.prefix)] = last.release()
	}
	return ch, nil
}

// replay brings a chain to where it was, by its records up to a sequence. What they violate was told before.
func (c *Checker) replay(ch *chain, sequence uint64) error {
	messages, err := c.cfg.Chain(ch.prefix, sequence)
	if err != nil {
		return fmt.Errorf("%s again, up to %d: %w", ch.prefix, sequence, err)
	}
	counts := c.Counts
	c.muted = true
	defer func() { c.muted, c.Counts = false, counts }()
	for i := range messages {
		rec, err := recourse.DecodeRecord(messages[i].Data)
		if err != nil {
			return fmt.Errorf("%s again: record at %d: %w", ch.prefix, messages[i].Sequence, err)
		}
		c.next(ch, &messages[i], rec)
	}
	return nil
}

func digest(prefix string) [16]byte {
	sum := sha256.Sum256([]byte(prefix))
	return [16]byte(sum[:16])
}

// Finish checks what only the end shows: inputs that nobody decided, waits that nothing ended. state returns where the chain under a prefix
// stands now, nil where there is none; it is asked for inputs that nothing remembered here has decided. It may be nil.
func (c *Checker) Finish(state func(prefix string) (*recourse.State, error)) error {
	if err := c.finishInputs(state); err != nil {
		return err
	}
	for e := c.order.Front(); e != nil; e = e.Next() {
		c.overdue(e.Value.(*chain))
	}
	for _, r := range c.released {
		if r.pending == 0 || c.cfg.Now.Sub(r.due) <= c.cfg.Grace {
			c.Counts.Pending += r.pending // none is overdue
			continue
		}
		ch := newChain("")
		if err := c.replay(ch, r.sequence); err != nil {
			return err
		}
		c.overdue(ch)
	}
	return nil
}

// overdue checks I9 for the waits of an execution.
func (c *Checker) overdue(ch *chain) {
	for version, w := range ch.waits {
		c.Counts.Pending++
		if late := c.cfg.Now.Sub(w.DueAt); late > c.cfg.Grace {
			c.fail("I9", ch.prefix, "", 0, "the wait of record %d (%s) is overdue by %s", version, w.Kind, late.Round(time.Millisecond))
		} else if c.cfg.Waits != nil {
			c.cfg.Waits(ch.prefix, w)
		}
	}
}
