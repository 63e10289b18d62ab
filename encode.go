package recourse

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Encode returns the JSON of a message of this package. The error says that a text is not UTF-8, or a time has no year of four digits;
// nothing that was decoded has either.
//
// A record and a failure are written without reflection, since each decision writes the one and takes the digest of the other. The bytes
// are the same.
func Encode(v any) ([]byte, error) {
	var w writer
	switch v := v.(type) {
	case *Record:
		return AppendRecord(nil, v)
	case *Failure:
		w.b = make([]byte, 0, 512+len(v.Message))
		w.failure(v)
	default:
		return json.Marshal(v, deterministic)
	}
	return w.b, w.err
}

// AppendRecord appends the JSON of a record, the same as [Encode] returns.
func AppendRecord(dst []byte, r *Record) ([]byte, error) {
	w := writer{b: slices.Grow(dst, sizeHint(r))}
	w.record(r)
	return w.b, w.err
}

// sizeHint is what the encoding of a record is likely to need, in bytes.
func sizeHint(r *Record) int {
	size := 1024 + 256*len(r.Trail)
	if r.State != nil {
		size += 192*len(r.State.Nodes) + 256*len(r.State.Waits)
	}
	if f := r.Input.Failure; f != nil {
		size += len(f.Message)
	}
	return size
}

// writer appends JSON. Its methods for members take a key, which needs no escapes; those that end in If leave out a zero value.
type writer struct {
	b   []byte
	err error // the first
}

func (w *writer) begin() { w.b = append(w.b, '{') }
func (w *writer) end()   { w.b = append(w.b, '}') }

// next begins an element of an array, or a member.
func (w *writer) next() {
	if last := w.b[len(w.b)-1]; last != '{' && last != '[' {
		w.b = append(w.b, ',')
	}
}

func (w *writer) key(key string) {
	w.next()
	w.b = append(w.b, '"')
	w.b = append(w.b, key...)
	w.b = append(w.b, '"', ':')
}

func (w *writer) quote(s string) {
	if plain(s) {
		w.b = append(w.b, '"')
		w.b = append(w.b, s...)
		w.b = append(w.b, '"')
		return
	}
	var err error
	w.b, err = jsontext.AppendQuote(w.b, s)
	w.err = errors.Join(w.err, err)
}

// plain reports whether a text needs no escapes in JSON and is ASCII: nearly every text. It looks at eight bytes at once.
func plain[text string | []byte](s text) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for len(s) >= 8 {
		v := binary.LittleEndian.Uint64([]byte(s[:8]))
		quote, slash := v^ones*'"', v^ones*'\\'
		// The high bit of a byte is set: in v where it is not ASCII, in the others where it was a control character, a quote or a backslash. A
		// borrow may set it wrongly above such a byte alone.
		if (v|(v-ones*0x20)|(quote-ones)|(slash-ones))&high != 0 {
			return false
		}
		s = s[8:]
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x80 || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func (w *writer) text(key, s string) {
	w.key(key)
	w.quote(s)
}

func (w *writer) textIf(key, s string) {
	if s != "" {
		w.text(key, s)
	}
}

func (w *writer) number(key string, n uint64) {
	w.key(key)
	w.b = strconv.AppendUint(w.b, n, 10)
}

func (w *writer) numberIf(key string, n uint64) {
	if n != 0 {
		w.number(key, n)
	}
}

func (w *writer) count(key string, n int) {
	w.key(key)
	w.b = strconv.AppendInt(w.b, int64(n), 10)
}

func (w *writer) countIf(key string, n int) {
	if n != 0 {
		w.count(key, n)
	}
}

func (w *writer) bool(key string, v bool) {
	w.key(key)
	w.b = strconv.AppendBool(w.b, v)
}

func (w *writer) boolIf(key string, v bool) {
	if v {
		w.bool(key, v)
	}
}

func (w *writer) time(key string, t time.Time) {
	w.key(key)
	w.b = append(w.b, '"')
	var err error
	if w.b, err = t.AppendText(w.b); err != nil {
		w.err = errors.Join(w.err, err)
	}
	w.b = append(w.b, '"')
}

func (w *writer) timeIf(key string, t time.Time) {
	if !t.IsZero() {
		w.time(key, t)
	}
}

func (w *writer) durationIf(key string, d Duration) {
	if d != 0 {
		w.text(key, d.String())
	}
}

// names writes the members of a bit set, lowest bit first.
func (w *writer) names(key string, names []string, set uint32) {
	w.key(key)
	w.b = append(w.b, '[')
	for ; set != 0; set &= set - 1 {
		w.next()
		w.quote(enumName(names, bits.TrailingZeros32(set)))
	}
	w.b = append(w.b, ']')
}

// list writes an array of objects.
func list[T any](w *writer, key string, items []T, write func(*T)) {
	w.key(key)
	w.b = append(w.b, '[')
	for i := range items {
		w.next()
		w.begin()
		write(&items[i])
		w.end()
	}
	w.b = append(w.b, ']')
}

// listIf is list for an array that is left out where it is empty.
func listIf[T any](w *writer, key string, items []T, write func(*T)) {
	if len(items) > 0 {
		list(w, key, items, write)
	}
}

func (w *writer) ref(r *Ref) {
	w.text("account", r.Account)
	w.text("org", r.Org)
	w.text("project", r.Project)
	w.text("pipeline", r.Pipeline)
	w.text("execution", r.Execution)
}

func (w *writer) node(n *Node) {
	w.text("node", n.Path)
	w.sectionIf(n.Section)
}

func (w *writer) sectionIf(s Section) {
	if s != 0 {
		w.text("section", s.String())
	}
}

func (w *writer) failure(f *Failure) {
	w.begin()
	w.countIf("schema", f.Schema)
	w.ref(&f.Ref)
	w.node(&f.Node)
	w.count("attempt", f.Attempt)
	w.what(f.Errors, f.Message, f.ExitCode, f.Target, f.RetryAfter, f.At)
	w.end()
}

// what writes the members that a [Failure] and a [FailureInput] share.
func (w *writer) what(types ErrorTypes, message string, exitCode *int, target string, retryAfter Duration, at time.Time) {
	if types != 0 {
		w.names("errors", errorTypeNames[:], uint32(types))
	}
	w.textIf("message", message)
	if exitCode != nil {
		w.count("exitCode", *exitCode)
	}
	w.textIf("target", target)
	w.durationIf("retryAfter", retryAfter)
	w.timeIf("at", at)
}

func (w *writer) record(r *Record) {
	w.begin()
	w.count("schema", r.Schema)
	w.ref(&r.Ref)
	w.number("version", r.Version)
	w.number("previous", r.Previous)
	w.time("at", r.At)
	w.input(&r.Input)
	w.revisionIf(r.Pipeline)
	if r.Semantics != 0 {
		w.text("semantics", r.Semantics.String())
	}
	w.decision(&r.Decision)
	if r.State != nil {
		w.state(r.State)
	}
	w.numberIf("stateBase", r.StateBase)
	w.end()
}

func (w *writer) input(in *Input) {
	w.key("input")
	w.begin()
	w.text("key", in.Key)
	w.numberIf("sequence", in.Sequence)
	w.textIf("digest", in.Digest)
	w.textIf("principal", in.Principal)
	if f := in.Failure; f != nil {
		w.key("failure")
		w.begin()
		w.what(f.Errors, f.Message, f.ExitCode, f.Target, f.RetryAfter, f.At)
		w.end()
	}
	if a := in.Answer; a != nil {
		w.key("answer")
		w.begin()
		w.number("intervention", a.Intervention)
		w.textIf("action", a.Action.String())
		w.text("who", a.Who)
		w.text("why", a.Why)
		w.timeIf("at", a.At)
		w.end()
	}
	if c := in.Control; c != nil {
		w.key("control")
		w.begin()
		w.number("wait", c.Wait)
		w.text("do", c.Do.String())
		w.durationIf("for", c.For)
		w.text("who", c.Who)
		w.text("why", c.Why)
		w.timeIf("at", c.At)
		w.end()
	}
	w.textIf("lifecycle", in.Lifecycle.String())
	w.textIf("why", in.Why)
	w.numberIf("due", in.Due)
	w.end()
}

func (w *writer) revisionIf(p PipelineRevision) {
	if p == (PipelineRevision{}) {
		return
	}
	w.key("pipelineRevision")
	w.begin()
	w.number("revision", p.Revision)
	w.text("digest", p.Digest)
	w.end()
}

func (w *writer) decision(d *Decision) {
	w.node(&d.Node)
	w.countIf("attempt", d.Attempt)
	w.textIf("action", d.Action.String())
	w.text("reason", d.Reason.String())
	w.textIf("detail", d.Detail)
	w.text("level", d.Level.String())
	w.textIf("strategy", d.Strategy)
	w.durationIf("delay", d.Delay)
	if d.Command != (Command{}) {
		w.command(&d.Command)
	}
	w.textIf("kind", d.Kind)
	if e := &d.Effect; e.Node != "" || e.Stage != "" || e.PipelineFailed || e.Runs != nil {
		w.effect(e)
	}
	if d.Wait != (Wait{}) {
		w.key("wait")
		w.begin()
		w.wait(&d.Wait)
		w.end()
	}
	w.numberIf("ends", d.Ends)
	if len(d.Cancelled) > 0 {
		w.key("cancelled")
		w.b = append(w.b, '[')
		for _, version := range d.Cancelled {
			w.next()
			w.b = strconv.AppendUint(w.b, version, 10)
		}
		w.b = append(w.b, ']')
	}
	listIf(w, "trail", d.Trail, func(e *TrailEntry) {
		w.text("level", e.Level.String())
		w.text("path", e.Path)
		w.count("index", e.Index)
		w.names("errors", errorTypeNames[:], uint32(e.Errors))
		w.textIf("action", e.Action.String())
		w.bool("applies", e.Applies)
		w.text("why", e.Why)
	})
}

func (w *writer) command(c *Command) {
	w.key("command")
	w.begin()
	w.textIf("verb", c.Verb.String())
	w.textIf("scope", c.Scope)
	w.countIf("attempt", c.Attempt)
	if i := &c.Intervention; *i != (Intervention{}) {
		w.key("intervention")
		w.begin()
		w.number("id", i.ID)
		w.names("allowed", actionNames[:], uint32(i.Allowed))
		w.time("deadline", i.Deadline)
		w.textIf("onTimeout", i.OnTimeout.String())
		w.textIf("answerBy", i.AnswerBy)
		w.end()
	}
	w.end()
}

func (w *writer) effect(e *Effect) {
	w.key("effect")
	w.begin()
	w.text("node", string(e.Node))
	w.textIf("stage", string(e.Stage))
	w.bool("pipelineFailed", e.PipelineFailed)
	if len(e.Runs) > 0 {
		w.key("runs")
		w.b = append(w.b, '[')
		for _, status := range e.Runs {
			w.next()
			w.quote(status)
		}
		w.b = append(w.b, ']')
	}
	w.end()
}

// wait writes the members of a wait.
func (w *writer) wait(t *Wait) {
	w.number("version", t.Version)
	w.textIf("kind", t.Kind.String())
	w.node(&t.Node)
	w.count("attempt", t.Attempt)
	w.textIf("scope", t.Scope)
	w.time("dueAt", t.DueAt)
	w.text("level", t.Level.String())
	w.textIf("strategy", t.Strategy)
	if t.Allowed != 0 {
		w.names("allowed", actionNames[:], uint32(t.Allowed))
	}
	w.textIf("onTimeout", t.OnTimeout.String())
	w.textIf("answerBy", t.AnswerBy)
	w.countIf("retry", t.Retry)
	w.countIf("of", t.Of)
	w.textIf("then", t.Then.String())
}

func (w *writer) state(s *State) {
	w.key("state")
	w.begin()
	w.revisionIf(s.Pipeline)
	w.boolIf("failed", s.Failed)
	listIf(w, "nodes", s.Nodes, func(n *NodeState) {
		w.node(&n.Node)
		w.count("attempt", n.Attempt)
		w.countIf("base", n.Base)
		w.boolIf("rebase", n.Rebase)
		list(w, "seen", n.Seen, func(a *SeenAttempt) {
			w.count("attempt", a.Attempt)
			w.number("version", a.Version)
			w.textIf("digest", a.Digest)
		})
	})
	listIf(w, "groups", s.Groups, func(g *GroupState) {
		w.text("path", g.Path)
		w.sectionIf(g.Section)
		w.count("retries", g.Retries)
		w.boolIf("restarted", g.Restarted)
	})
	listIf(w, "waits", s.Waits, w.wait)
	listIf(w, "covers", s.Covers, func(c *Cover) {
		w.text("scope", c.Scope)
		w.textIf("action", c.Action.String())
		w.number("version", c.Version)
	})
	listIf(w, "interventions", s.Interventions, func(c *ClosedIntervention) {
		w.number("id", c.ID)
		w.number("version", c.Version)
		w.timeIf("at", c.At)
		w.textIf("who", c.Who)
		w.textIf("action", c.Action.String())
		w.textIf("reason", c.Reason.String())
		w.textIf("do", c.Do.String())
	})
	listIf(w, "answers", s.Answers, w.seen)
	listIf(w, "ended", s.Ended, w.seen)
	w.end()
}

func (w *writer) seen(s *SeenInput) {
	w.text("key", s.Key)
	w.number("version", s.Version)
	w.textIf("digest", s.Digest)
}
