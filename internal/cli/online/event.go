package online

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/publish"
)

// Event is one thing that happened to an execution.
type Event struct {
	Time time.Time `json:"time"` // when the broker stored it
	// What is failure, answer, control, lifecycle, command, decision, rejected or unreadable.
	What string `json:"what"`
	// Kind is the verb of a command, the kind of a decision, what a control does, the event of a lifecycle or the reason of a rejection.
	Kind string `json:"kind,omitzero"`
	// Execution is account/org/project/pipeline/execution; of what could not be read, its ids as they stand in the subject.
	Execution string `json:"execution"`
	Sequence  uint64 `json:"sequence"`         // in its stream
	Version   uint64 `json:"version,omitzero"` // of a record

	Node    string              `json:"node,omitzero"`
	Section recourse.Section    `json:"section,omitzero"`
	Attempt int                 `json:"attempt,omitzero"`
	Errors  recourse.ErrorTypes `json:"errors,omitzero"`
	Message string              `json:"message,omitzero"`

	Action   recourse.Action    `json:"action,omitzero"`
	Reason   recourse.Reason    `json:"reason,omitzero"`
	Detail   string             `json:"detail,omitzero"`
	Level    recourse.Level     `json:"level,omitzero"`
	Strategy string             `json:"strategy,omitzero"`
	Delay    *recourse.Duration `json:"delay,omitzero"`
	DueAt    time.Time          `json:"dueAt,omitzero"`

	// Principal published an input; Who answered and Why.
	Principal    string `json:"principal,omitzero"`
	Intervention uint64 `json:"intervention,omitzero"`
	// Wait is the version of the record whose wait a control is about.
	Wait  uint64 `json:"wait,omitzero"`
	Who   string `json:"who,omitzero"`
	Why   string `json:"why,omitzero"`
	Error string `json:"error,omitzero"` // of a rejection

	short string // pipeline/execution
	rank  int    // of its stream: what causes stands before what follows
}

const unreadable = "unreadable"

// eventOf makes an event of a message of the inbox, the journal or the rejected inputs.
func eventOf(msg jetstream.Msg, meta *jetstream.MsgMetadata) *Event {
	e := &Event{Time: meta.Timestamp.UTC(), Sequence: meta.Sequence.Stream}
	subject, err := recourse.ParseSubject(msg.Subject())
	if err != nil {
		e.What, e.Error, e.Execution = unreadable, err.Error(), msg.Subject()
		return e
	}
	tokens := strings.Split(subject.Prefix, ".")[1:]
	e.Execution, e.short = strings.Join(tokens, "/"), strings.Join(tokens[3:], "/")
	switch subject.Family {
	case recourse.FamilyCommand, recourse.FamilyDecision:
		err = e.record(msg.Data())
	case recourse.FamilyRejected:
		e.What, e.Kind, e.rank = "rejected", subject.Detail, 2
		e.Error = msg.Headers().Get(publish.HeaderError)
	default:
		e.Principal = subject.Detail
		var body []byte
		if body, _, err = recourse.OpenInput(subject, msg.Headers(), msg.Data()); err == nil {
			err = e.input(subject.Family, body)
		}
	}
	if err != nil {
		e.What, e.Kind, e.Error = unreadable, string(subject.Family), err.Error()
	}
	return e
}

func (e *Event) input(family recourse.Family, body []byte) error {
	switch family {
	case recourse.FamilyFailure:
		f, err := recourse.DecodeFailure(body)
		if err != nil {
			return err
		}
		f.Clean()
		e.What = "failure"
		e.of(f.Ref)
		e.Node, e.Section, e.Attempt, e.Errors, e.Message = f.Path, f.Section, f.Attempt, f.Errors.Normalize(), f.Message
	case recourse.FamilyIntervention:
		a, err := recourse.DecodeAnswer(body)
		if err != nil {
			return err
		}
		a.Clean()
		e.What = "answer"
		e.of(a.Ref)
		e.Intervention, e.Action, e.Who, e.Why = a.Intervention, a.Action, a.Who, a.Why
	case recourse.FamilyControl:
		c, err := recourse.DecodeControl(body)
		if err != nil {
			return err
		}
		c.Clean()
		e.What, e.Kind = "control", c.Do.String()
		e.of(c.Ref)
		e.Wait, e.Who, e.Why = c.Wait, c.Who, c.Why
		if c.For > 0 {
			e.Delay = &c.For
		}
	case recourse.FamilyLifecycle:
		l, err := recourse.DecodeLifecycle(body)
		if err != nil {
			return err
		}
		l.Clean()
		e.What, e.Kind = "lifecycle", l.Event.String()
		e.of(l.Ref)
		e.Why = l.Why
	default:
		return fmt.Errorf("unknown family %q", family)
	}
	return nil
}

func (e *Event) record(body []byte) error {
	e.rank = 1
	rec, err := recourse.DecodeRecord(body)
	if err != nil {
		return err
	}
	e.of(rec.Ref)
	d := cli.Recorded(rec)
	e.What, e.Kind = "decision", rec.Kind
	if rec.Command.Verb != 0 {
		e.What, e.Kind = "command", rec.Command.Verb.String()
	}
	e.Version, e.Node, e.Section, e.Attempt = rec.Version, rec.Path, rec.Section, rec.Attempt
	e.Action, e.Reason, e.Detail, e.Level, e.Strategy = rec.Action, rec.Reason, rec.Detail, rec.Level, rec.Strategy
	e.Delay, e.DueAt = d.Delay, d.DueAt
	e.Errors = d.Errors
	if rec.Command.Verb == recourse.VerbPause {
		e.Intervention = rec.Version
	}
	if a := rec.Input.Answer; a != nil {
		e.Intervention, e.Who, e.Why = a.Intervention, a.Who, a.Why
	}
	if c := rec.Input.Control; c != nil {
		e.Wait, e.Who, e.Why = c.Wait, c.Who, c.Why
	}
	return nil
}

func (e *Event) of(ref recourse.Ref) {
	e.Execution, e.short = ref.String(), ref.Pipeline+"/"+ref.Execution
}

// eventColumns are the columns of an event's line.
var eventColumns = []string{"TIME", "EXECUTION", "WHAT", "NODE", "ATTEMPT", "ACTION", "REASON", "DELAY", "ABOUT"}

// cells are an event's, in the order of the columns.
func (e *Event) cells() []string {
	node, attempt, delay := "", "", ""
	if e.Node != "" {
		node = recourse.Node{Path: e.Node, Section: e.Section}.String()
	}
	if e.Attempt != 0 {
		attempt = fmt.Sprint(e.Attempt)
	}
	if e.Delay != nil && *e.Delay > 0 {
		delay = e.Delay.String()
	}
	return []string{
		e.Time.Local().Format("01-02 15:04:05.000"), e.short, strings.TrimSpace(e.What + " " + e.Kind), node, attempt, e.Action.String(),
		e.Reason.String(), delay, e.about(),
	}
}

// about is what else there is to say in words.
func (e *Event) about() string {
	switch e.What {
	case "failure":
		if e.Message == "" {
			return e.Errors.String()
		}
		return e.Errors.String() + ": " + short(e.Message)
	case "answer":
		return fmt.Sprintf("intervention %d, %s: %s", e.Intervention, e.Who, short(e.Why))
	case "control":
		return fmt.Sprintf("wait of record %d, %s: %s", e.Wait, e.Who, short(e.Why))
	case "lifecycle":
		return short(e.Why)
	case "command", "decision":
		if e.Kind == recourse.VerbPause.String() {
			return fmt.Sprintf("intervention %d, until %s", e.Intervention, cli.Time(e.DueAt))
		}
		return e.Detail
	default:
		return short(e.Error)
	}
}
