package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
)

// Decision is a decision as people and their programs see it, whether it was recorded or worked out offline.
type Decision struct {
	Action recourse.Action `json:"action"`
	Reason recourse.Reason `json:"reason"`
	Detail string          `json:"detail,omitzero"`
	// Level and Strategy are where the strategy stands that decided: none and "" where no strategy did.
	Level    recourse.Level `json:"level"`
	Strategy string         `json:"strategy"`
	// Delay is the wait before a retry; absent on everything else.
	Delay *recourse.Duration `json:"delay,omitzero"`
	// Command is what an orchestrator carries out: of a scheduled retry the one that follows the wait. It is absent where the decision
	// is none to carry out.
	Command *Command        `json:"command,omitzero"`
	Effect  recourse.Effect `json:"effect"`

	Node    string           `json:"node"`
	Section recourse.Section `json:"section"`
	Attempt int              `json:"attempt,omitzero"`
	// Errors are those the decision counted with (R1); absent where it is not about a failure.
	Errors    recourse.ErrorTypes `json:"errors,omitzero"`
	Semantics recourse.Semantics  `json:"semantics"`

	Trail []recourse.TrailEntry `json:"trail"`

	// What follows is there of a recorded decision only.

	// Execution is account/org/project/pipeline/execution.
	Execution string `json:"execution,omitzero"`
	// Version is that of the record, 1-based.
	Version uint64    `json:"version,omitzero"`
	At      time.Time `json:"at,omitzero"`
	// Sequence is that of the input in the inbox; absent where the input is a wait that came due.
	Sequence uint64 `json:"sequence,omitzero"`
	Kind     string `json:"kind,omitzero"` // of a decision without a command
	// DueAt is when the wait of the decision ends.
	DueAt time.Time `json:"dueAt,omitzero"`
}

// Command is the command of a decision.
type Command struct {
	Verb recourse.Verb `json:"verb"`
	// Scope is the path of the node, step group or stage it is about, "" for the whole execution.
	Scope string `json:"scope"`
	// Attempt is the one that a retry starts, 1-based; absent on other verbs.
	Attempt      int           `json:"attempt,omitzero"`
	Intervention *Intervention `json:"intervention,omitzero"`
}

// Intervention is what a pause asks.
type Intervention struct {
	// ID is absent offline.
	ID      uint64           `json:"id,omitzero"`
	Allowed recourse.Actions `json:"allowed"`
	// Timeout is how long it stays open; Deadline is when that is over, absent offline.
	Timeout   recourse.Duration `json:"timeout"`
	Deadline  time.Time         `json:"deadline,omitzero"`
	OnTimeout recourse.Action   `json:"onTimeout"`
	// AnswerBy is who may answer, principals joined by commas; absent where only the broker's permissions decide.
	AnswerBy string `json:"answerBy,omitzero"`
}

// Offline returns the view of a decision that nobody recorded.
func Offline(rec *recourse.Record) *Decision {
	d := &Decision{
		Action: rec.Action, Reason: rec.Reason, Detail: rec.Detail, Level: rec.Level, Strategy: rec.Strategy, Effect: rec.Effect,
		Node: rec.Path, Section: rec.Section, Attempt: rec.Attempt, Semantics: rec.Semantics, Trail: rec.Trail,
		Command: commandOf(rec),
	}
	if f := rec.Input.Failure; f != nil {
		d.Errors = f.Errors.Normalize()
	}
	if d.Command != nil && (d.Command.Verb == recourse.VerbRetry || d.Command.Verb == recourse.VerbRetryGroup) {
		d.Delay = &rec.Delay
	}
	return d
}

// Recorded returns the view of a record.
func Recorded(rec *recourse.Record) *Decision {
	d := Offline(rec)
	d.Execution, d.Version, d.At, d.Kind, d.Sequence = rec.Ref.String(), rec.Version, rec.At, rec.Kind, rec.Input.Sequence
	d.DueAt = rec.Wait.DueAt
	if i := rec.Command.Intervention; i.ID != 0 {
		d.Command.Intervention.ID, d.Command.Intervention.Deadline = i.ID, i.Deadline
	}
	return d
}

func commandOf(rec *recourse.Record) *Command {
	switch rec.Wait.Kind {
	case recourse.WaitRetry:
		return &Command{Verb: recourse.VerbRetry, Scope: rec.Wait.Path, Attempt: rec.Wait.Attempt + 1}
	case recourse.WaitRetryGroup:
		return &Command{Verb: recourse.VerbRetryGroup, Scope: rec.Wait.Scope}
	}
	if rec.Command.Verb == 0 {
		return nil
	}
	c := &Command{Verb: rec.Command.Verb, Scope: rec.Command.Scope, Attempt: rec.Command.Attempt}
	if i := rec.Command.Intervention; i.ID != 0 {
		c.Intervention = &Intervention{Allowed: i.Allowed, Timeout: recourse.Duration(i.Deadline.Sub(rec.At)), OnTimeout: i.OnTimeout, AnswerBy: i.AnswerBy}
	}
	return c
}

// Decision writes a decision.
func (p *Printer) Decision(d *Decision) error {
	if p.Format == JSON {
		return p.JSON(d)
	}
	rows := p.Rows()
	add := func(name, value string) {
		if value != "" {
			rows.Add(name, value)
		}
	}
	add("execution", d.Execution)
	if d.Version != 0 {
		add("record", fmt.Sprintf("%d at %s", d.Version, Time(d.At)))
	}
	if d.Node != "" {
		add("node", fmt.Sprintf("%s, attempt %d", recourse.Node{Path: d.Node, Section: d.Section}, d.Attempt))
	}
	add("errors", d.Errors.String())
	add("action", d.Action.String())
	add("reason", d.Reason.String())
	add("detail", d.Detail)
	add("level", d.Level.String())
	add("strategy", d.Strategy)
	if d.Delay != nil {
		add("delay", delayText(d))
	}
	add("command", d.Command.text())
	if d.Command != nil && d.Command.Intervention != nil {
		add("", d.Command.Intervention.text())
	}
	for i, line := range effectText(&d.Effect) {
		add([]string{"effect", ""}[min(i, 1)], line)
	}
	add("semantics", d.Semantics.String())
	if err := rows.Flush(); err != nil || len(d.Trail) == 0 {
		return err
	}
	fmt.Fprintln(p.Out, "\ntrail, closest level first")
	rows = p.Rows("", "LEVEL", "ERRORS", "ACTION", "WHERE", "WHY")
	for _, e := range d.Trail {
		mark := ""
		if e.Applies {
			mark = "*"
		}
		rows.Add(mark, e.Level.String(), e.Errors.String(), e.Action.String(), e.Path, e.Why)
	}
	return rows.Flush()
}

func delayText(d *Decision) string {
	switch {
	case !d.DueAt.IsZero():
		return fmt.Sprintf("%s, until %s", d.Delay, Time(d.DueAt))
	case *d.Delay == 0:
		return "none"
	}
	return d.Delay.String()
}

func (c *Command) text() string {
	if c == nil {
		return ""
	}
	s := c.Verb.String()
	if c.Scope != "" {
		s += " " + c.Scope
	}
	if c.Attempt != 0 {
		s += fmt.Sprintf(", attempt %d", c.Attempt)
	}
	return s
}

func (i *Intervention) text() string {
	until := "within " + i.Timeout.String()
	if !i.Deadline.IsZero() {
		until = "until " + Time(i.Deadline)
	}
	by := ""
	if i.AnswerBy != "" {
		by = " by " + i.AnswerBy
	}
	return fmt.Sprintf("%s one of %s%s, else %s", until, i.Allowed, by, i.OnTimeout)
}

func effectText(e *recourse.Effect) []string {
	var lines []string
	if e.Node != "" {
		lines = append(lines, "the node becomes "+string(e.Node))
	}
	if e.Stage != "" {
		lines = append(lines, "the stage ends "+string(e.Stage))
		next := "nothing is started any more"
		if len(e.Runs) > 0 {
			next = "the next stage runs with when " + strings.Join(e.Runs, ", ")
		}
		lines = append(lines, next)
	}
	if e.PipelineFailed {
		lines = append(lines, "the pipeline counts as failed")
	} else {
		lines = append(lines, "the pipeline does not count as failed")
	}
	return lines
}
