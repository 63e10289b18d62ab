package history

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
)

// Line is one thing to say about a record.
type Line struct {
	// Label is what it is: failure, due, answer, control, finished, aborted, decision, command, wait, ends, effect or trail.
	Label string
	// Text may have any character that was in a message or an id: whoever lays it out cleans it.
	Text string
	// Chosen marks the strategy of a trail that decided.
	Chosen bool
}

// Lines are what there is to say about the record of an entry, first what came, then what was decided and what became of it. With
// why every candidate strategy is among them. zone is that in which times of day are written.
func (e *Entry) Lines(why bool, zone *time.Location) []Line {
	rec := e.Record
	lines := []Line{e.input()}
	add := func(label, text string) {
		if text != "" {
			lines = append(lines, Line{Label: label, Text: text})
		}
	}
	add("decision", e.decision())
	add("command", e.command(zone))
	add("wait", e.wait(zone))
	if len(rec.Cancelled) > 0 {
		var versions []string
		for _, v := range rec.Cancelled {
			versions = append(versions, strconv.FormatUint(v, 10))
		}
		how := "supersedes what waited"
		if rec.Input.Lifecycle != 0 {
			how = "nothing waits any more"
		}
		add("ends", how+": "+plural(len(versions), "record")+" "+strings.Join(versions, ", "))
	}
	if rec.Effect.Stage != "" || why {
		add("effect", effect(&rec.Effect))
	}
	if why {
		for _, t := range rec.Trail {
			lines = append(lines, Line{Label: "trail", Text: trail(&t), Chosen: t.Applies})
		}
	}
	return lines
}

// input says what came.
func (e *Entry) input() Line {
	rec := e.Record
	switch in := &rec.Input; {
	case in.Failure != nil:
		return Line{Label: "failure", Text: failure(rec)}
	case in.Answer != nil:
		return Line{Label: "answer", Text: fmt.Sprintf("%s to intervention %d: %s: %s", who(in.Answer.Who, in.Principal), in.Answer.Intervention, in.Answer.Action, in.Answer.Why)}
	case in.Control != nil:
		c := in.Control
		by := ""
		if c.For > 0 {
			by = " by " + Span(time.Duration(c.For))
		}
		return Line{Label: "control", Text: fmt.Sprintf("%s to the wait of record %d: %s%s: %s", who(c.Who, in.Principal), c.Wait, c.Do, by, c.Why)}
	case in.Due != 0:
		if e.waited != nil && e.waited.Kind == recourse.WaitIntervention {
			return Line{Label: "due", Text: fmt.Sprintf("nobody answered intervention %d in time", in.Due)}
		}
		return Line{Label: "due", Text: fmt.Sprintf("the wait of record %d is over%s", in.Due, late(e.lateness()))}
	default:
		text := "by " + in.Principal
		if in.Why != "" {
			text += ": " + in.Why
		}
		return Line{Label: in.Lifecycle.String(), Text: text}
	}
}

func (e *Entry) lateness() time.Duration {
	if e.waited == nil {
		return 0
	}
	return e.Record.At.Sub(e.waited.DueAt)
}

func late(d time.Duration) string {
	if d < time.Millisecond {
		return ""
	}
	return ", " + Span(d) + " late"
}

func failure(rec *recourse.Record) string {
	f := rec.Input.Failure
	text := fmt.Sprintf("%s, attempt %d: %s", rec.Node, rec.Attempt, f.Errors.Normalize())
	if f.Message != "" {
		text += ": " + f.Message
	}
	var more []string
	if f.ExitCode != nil {
		more = append(more, "exit code "+strconv.Itoa(*f.ExitCode))
	}
	if f.Target != "" {
		more = append(more, "on "+f.Target)
	}
	if f.RetryAfter > 0 {
		more = append(more, "asks to wait "+Span(time.Duration(f.RetryAfter)))
	}
	return text + " (" + strings.Join(append(more, "by "+rec.Input.Principal), ", ") + ")"
}

// who names a person, and the principal where that is another: the broker vouches for the principal alone.
func who(name, principal string) string {
	if name == principal || principal == "" {
		return name
	}
	return name + " (as " + principal + ")"
}

// decision says what was decided and by which strategy and rule.
func (e *Entry) decision() string {
	rec := e.Record
	var b strings.Builder
	switch {
	case rec.Kind == recourse.KindClosed:
		return "" // the input says it all
	case rec.Kind == recourse.KindRetryPostponed:
		fmt.Fprintf(&b, "%s, waits again for %s", rec.Action, Span(time.Duration(rec.Delay)))
	case rec.Kind == recourse.KindRetryScheduled, rec.Kind == recourse.KindGroupRetryScheduled:
		fmt.Fprintf(&b, "%s in %s", rec.Action, Span(time.Duration(rec.Delay)))
	case rec.Kind != "":
		fmt.Fprintf(&b, "%s (%s): %s", rec.Kind, e.Rule, rec.Detail)
		if rec.Action != 0 {
			fmt.Fprintf(&b, "; %s is not done", rec.Action)
		}
		return b.String()
	default:
		b.WriteString(rec.Action.String())
	}
	fmt.Fprintf(&b, ", %s (%s)", rec.Reason, e.Rule)
	if rec.Detail != "" {
		b.WriteString(": " + rec.Detail)
	}
	if rec.Level != recourse.LevelNone {
		fmt.Fprintf(&b, ", by the %s's %s", rec.Level, rec.Strategy)
	}
	return b.String()
}

// command says what an orchestrator is told.
func (e *Entry) command(zone *time.Location) string {
	c := e.Record.Command
	if c.Verb == 0 {
		return ""
	}
	text := c.Verb.String() + " "
	if c.Scope == "" {
		text += "the execution"
	} else {
		text += c.Scope
	}
	if c.Attempt != 0 {
		text += fmt.Sprintf(", attempt %d", c.Attempt)
	}
	if i := c.Intervention; i.ID != 0 {
		text += fmt.Sprintf(", intervention %d: one of %s until %s, else %s", i.ID, i.Allowed, clock(i.Deadline, zone), i.OnTimeout)
	}
	return text
}

// wait says what is waited for and what became of it.
func (e *Entry) wait(zone *time.Location) string {
	w := &e.Record.Wait
	if w.Version == 0 {
		return ""
	}
	var purpose string
	switch w.Kind {
	case recourse.WaitRetry:
		purpose = fmt.Sprintf("attempt %d of %s%s", w.Attempt+1, w.Node, retries(w))
	case recourse.WaitRetryGroup:
		purpose = "a retry of the step group " + w.Scope + retries(w)
	default:
		purpose = fmt.Sprintf("an answer to intervention %d", w.Version)
	}
	return fmt.Sprintf("for %s, until %s: %s", purpose, clock(w.DueAt, zone), e.Ended)
}

// retries says which retry of how many waits, "" where the record does not.
func retries(w *recourse.Wait) string {
	if w.Retry == 0 {
		return ""
	}
	text := fmt.Sprintf(" (retry %d of %d", w.Retry, w.Of)
	if w.Then != 0 {
		text += ", then " + w.Then.String()
	}
	return text + ")"
}

// String says what became of a wait.
func (e *End) String() string {
	after := " after " + Span(time.Duration(e.Waited))
	by := fmt.Sprintf(" by record %d", e.Version)
	switch e.How {
	case Fired:
		return fmt.Sprintf("came due in record %d%s", e.Version, late(time.Duration(e.Late)))
	case Answered:
		return "answered" + by + after
	case RunNow:
		return "run at once" + by + after
	case Postponed:
		return "postponed" + by + after
	case GivenUp:
		return "given up" + by + after
	case Closed:
		return "ended with the execution, record " + strconv.FormatUint(e.Version, 10) + after
	case Overdue:
		return "OVERDUE for " + Span(time.Duration(e.Late))
	case Pending:
		return "still waits"
	default:
		return "superseded" + by + after
	}
}

func effect(e *recourse.Effect) string {
	var parts []string
	if e.Node != "" {
		parts = append(parts, "the node becomes "+string(e.Node))
	}
	if e.Stage != "" {
		next := "nothing is started any more"
		if len(e.Runs) > 0 {
			next = "the next stage runs with when " + strings.Join(e.Runs, ", ")
		}
		parts = append(parts, "the stage ends "+string(e.Stage), next)
	}
	if e.PipelineFailed {
		parts = append(parts, "the pipeline counts as failed")
	} else {
		parts = append(parts, "the pipeline does not count as failed")
	}
	return strings.Join(parts, "; ")
}

func trail(t *recourse.TrailEntry) string {
	if t.Index < 0 {
		return fmt.Sprintf("%s: %s (%s)", t.Level, t.Why, t.Path)
	}
	return fmt.Sprintf("%s: %s → %s: %s (%s)", t.Level, t.Errors, t.Action, t.Why, t.Path)
}

// Span writes a duration for people, to three places or so: 3ms, 1.25s, 4m10s, 26h0m0s.
func Span(d time.Duration) string {
	switch {
	case d < time.Second:
		d = d.Round(time.Millisecond)
	case d < time.Minute:
		d = d.Round(10 * time.Millisecond)
	default:
		d = d.Round(time.Second)
	}
	return d.String()
}

// clock is an instant for people, in their zone.
func clock(t time.Time, zone *time.Location) string { return t.In(zone).Format(time.DateTime) }

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// Summary says what an execution came to: "3 failures, 1 retry, 1 intervention".
func (t *Timeline) Summary() string {
	var parts []string
	for _, c := range []struct {
		n          int
		one, other string
	}{
		{t.Counts.Failures, "failure", "failures"}, {t.Counts.Retries, "retry", "retries"},
		{t.Counts.Interventions, "intervention", "interventions"}, {t.Counts.Answers, "answer", "answers"},
		{t.Counts.Commands, "command", "commands"},
	} {
		switch c.n {
		case 0:
		case 1:
			parts = append(parts, "1 "+c.one)
		default:
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.other))
		}
	}
	if len(parts) == 0 {
		return "nothing failed"
	}
	return strings.Join(parts, ", ")
}

// Facts are what stands above the timeline, as pairs of a name and a text.
func (t *Timeline) Facts(now time.Time, zone *time.Location) [][2]string {
	facts := [][2]string{{"execution", t.Execution}}
	for _, p := range t.Pipelines {
		facts = append(facts, [2]string{"pipeline", fmt.Sprintf("revision %d (%s), %s semantics", p.Revision, p.Digest, t.Semantics)})
	}
	if len(t.Pipelines) == 0 {
		facts = append(facts, [2]string{"pipeline", "not registered when this was decided"})
	}
	facts = append(facts, [2]string{"began", clock(t.Began, zone)})
	if t.Missing > 0 {
		facts = append(facts, [2]string{"missing", fmt.Sprintf("the first %d records are not kept any more", t.Missing)})
	}
	last := t.Last.Sub(t.Began)
	if t.End == "open" {
		facts = append(facts, [2]string{"open", fmt.Sprintf("the last record is %s old", Span(max(now.Sub(t.Last), 0)))})
	} else {
		facts = append(facts, [2]string{t.End, "the last record came after " + Span(max(last, 0))})
	}
	failed := "the pipeline does not count as failed"
	if t.Failed {
		failed = "the pipeline counts as failed"
	}
	facts = append(facts, [2]string{"so far", t.Summary() + "; " + failed})
	for _, w := range t.Pending {
		facts = append(facts, [2]string{"waiting", waiting(&w, now, zone)})
	}
	return facts
}

func waiting(w *recourse.Wait, now time.Time, zone *time.Location) string {
	var text string
	switch w.Kind {
	case recourse.WaitIntervention:
		text = fmt.Sprintf("intervention %d at %s: one of %s until %s, else %s", w.Version, w.Node, w.Allowed, clock(w.DueAt, zone), w.OnTimeout)
	case recourse.WaitRetryGroup:
		text = fmt.Sprintf("a retry of the step group %s at %s", w.Scope, clock(w.DueAt, zone))
	default:
		text = fmt.Sprintf("attempt %d of %s at %s", w.Attempt+1, w.Node, clock(w.DueAt, zone))
	}
	if over := now.Sub(w.DueAt); over > 0 {
		text += ", OVERDUE for " + Span(over)
	}
	return text
}
