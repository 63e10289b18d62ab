package decide_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
)

// exitCodeIs is the condition of the scripts: the failure has this exit code. Without an exit code it cannot be evaluated.
type exitCodeIs string

func (c exitCodeIs) Holds(f *decide.FailureView) (bool, string) {
	if f.ExitCode == nil {
		return false, "condition: the failure has no exit code (R4)"
	}
	return strconv.Itoa(*f.ExitCode) == strings.TrimPrefix(string(c), "exit="), fmt.Sprintf("condition: exit code is %d (R4)", *f.ExitCode)
}

// parseAction reads an action with its settings:
//
//	Abort
//	Retry 3 [1s 5s] then Abort               RetryStepGroup 2 [10s]
//	Retry 3 backoff 1s x2 max 10s jitter 0.5
//	ManualIntervention 1h allow Retry,Abort then MarkAsSuccess
func parseAction(words *[]string) (*decide.ActionSpec, error) {
	next := func() string {
		if len(*words) == 0 {
			return ""
		}
		w := (*words)[0]
		*words = (*words)[1:]
		return w
	}
	peek := func(word string) bool {
		if len(*words) > 0 && (*words)[0] == word {
			next()
			return true
		}
		return false
	}
	action, err := recourse.ParseAction(next())
	if err != nil {
		return nil, err
	}
	spec := &decide.ActionSpec{Action: action}
	switch action {
	case recourse.Retry, recourse.RetryStepGroup:
		count, err := strconv.Atoi(next())
		if err != nil {
			return nil, err
		}
		spec.Retry = &retry.Policy{Count: count}
		if peek("backoff") {
			b := &retry.Backoff{Initial: span(next())}
			b.Multiplier, _ = strconv.ParseFloat(strings.TrimPrefix(next(), "x"), 64)
			if peek("max") {
				b.Max = span(next())
			}
			if peek("jitter") {
				b.Jitter, _ = strconv.ParseFloat(next(), 64)
			}
			spec.Retry.Backoff = b
		}
		for len(*words) > 0 && (strings.HasPrefix((*words)[0], "[") || len(spec.Retry.Intervals) > 0 && (*words)[0] != "then") {
			w := next()
			spec.Retry.Intervals = append(spec.Retry.Intervals, span(strings.Trim(w, "[]")))
			if strings.HasSuffix(w, "]") {
				break
			}
		}
		if peek("then") {
			if spec.OnRetryFailure, err = parseAction(words); err != nil {
				return nil, err
			}
		}
	case recourse.ManualIntervention:
		i := &decide.InterventionSpec{Timeout: decide.DefaultInterventionTimeout, Allowed: recourse.DefaultInterventionActions}
		if len(*words) > 0 && (*words)[0] != "allow" && (*words)[0] != "by" && (*words)[0] != "then" {
			i.Timeout = span(next())
		}
		if peek("allow") {
			i.Allowed = 0
			for name := range strings.SplitSeq(next(), ",") {
				a, err := recourse.ParseAction(name)
				if err != nil {
					return nil, err
				}
				i.Allowed |= recourse.ActionsOf(a)
			}
		}
		if peek("by") {
			i.AnswerBy = next()
		}
		if peek("then") {
			if i.OnTimeout, err = parseAction(words); err != nil {
				return nil, err
			}
		}
		spec.Intervention = i
	}
	return spec, nil
}

func span(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

// session runs a script. An execution goes on from case to case of a file until "plan" or "new" starts another.
type session struct {
	c         *chain
	plan      *decide.Plan
	semantics recourse.Semantics
	now       time.Time
	trail     bool
	fresh     func(s *session) *chain
}

func (s *session) restart() {
	if s.c != nil {
		s.c.replay()
	}
	s.now = epoch
	s.c = s.fresh(s)
}

// run carries out the lines of one case and returns what comes out.
func (s *session) run(lines []string) (string, error) {
	var out strings.Builder
	s.trail = false
	for i := 0; i < len(lines); i++ {
		line, _, _ := strings.Cut(lines[i], "#!")
		line = strings.TrimRight(line, " ")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		switch verb := words[0]; verb {
		case "plan":
			s.semantics, s.plan = recourse.Documented, nil
			if slices.Contains(words, "engine") {
				s.semantics = recourse.Engine
			}
			from := i + 1
			for i+1 < len(lines) && strings.HasPrefix(lines[i+1], " ") {
				i++
			}
			if !slices.Contains(words, "unknown") {
				plan, err := parsePlan(lines[from:i+1], s.semantics)
				if err != nil {
					return "", err
				}
				s.plan = plan
			}
			s.restart()
		case "new":
			s.restart()
		case "trail":
			s.trail = true
		case "fail":
			f, err := parseFailure(words[1:])
			if err != nil {
				return "", fmt.Errorf("%s: %w", line, err)
			}
			s.step(&out, s.c.failure(f))
		case "answer": // answer <intervention> <action> <who> [id=…] [why=…]
			a := &recourse.Answer{Why: "because"}
			a.Intervention, _ = strconv.ParseUint(words[1], 10, 64)
			var err error
			if a.Action, err = recourse.ParseAction(words[2]); err != nil {
				return "", err
			}
			for _, w := range words[3:] {
				switch key, value, pair := strings.Cut(w, "="); {
				case !pair:
					a.Who = w
				case key == "id":
					a.ID = value
				case key == "why":
					a.Why = value
				}
			}
			s.step(&out, s.c.answer(a))
		case "control": // control <wait> <verb>[=duration] <who> [id=…]
			k := &recourse.Control{Why: "because"}
			k.Wait, _ = strconv.ParseUint(words[1], 10, 64)
			verb, by, postponed := strings.Cut(words[2], "=")
			if err := k.Do.UnmarshalText([]byte(verb)); err != nil {
				return "", err
			}
			if postponed {
				k.For = recourse.Duration(span(by))
			}
			for _, w := range words[3:] {
				if id, ok := strings.CutPrefix(w, "id="); ok {
					k.ID = id
				} else {
					k.Who = w
				}
			}
			s.step(&out, s.c.control(k))
		case "due":
			v, _ := strconv.ParseUint(words[1], 10, 64)
			s.step(&out, s.c.due(v))
		case "finished":
			s.step(&out, s.c.lifecycle(&recourse.Lifecycle{Event: recourse.Finished}))
		case "aborted":
			s.step(&out, s.c.lifecycle(&recourse.Lifecycle{Event: recourse.Aborted}))
		default:
			d, err := time.ParseDuration(strings.TrimPrefix(verb, "+"))
			if err != nil || verb[0] != '+' {
				return "", fmt.Errorf("%q is no line of a script", line)
			}
			s.now = s.now.Add(d)
		}
	}
	return out.String(), nil
}

// parseFailure reads "<path>[@rollback] [#attempt] [types] [exit=n] [after=d] [msg=…]".
func parseFailure(words []string) (*recourse.Failure, error) {
	f := &recourse.Failure{Attempt: 1}
	path, rollback := strings.CutSuffix(words[0], "@rollback")
	f.Path = path
	if rollback {
		f.Section = recourse.RollbackSteps
	}
	for _, w := range words[1:] {
		key, value, pair := strings.Cut(w, "=")
		switch {
		case strings.HasPrefix(w, "#"):
			f.Attempt, _ = strconv.Atoi(w[1:])
		case !pair:
			for name := range strings.SplitSeq(w, ",") {
				e, err := recourse.ParseErrorType(name)
				if err != nil {
					return nil, err
				}
				f.Errors = f.Errors.Add(e)
			}
		case key == "exit":
			n, _ := strconv.Atoi(value)
			f.ExitCode = &n
		case key == "after":
			f.RetryAfter = recourse.Duration(span(value))
		case key == "msg":
			f.Message = value
		}
	}
	return f, nil
}

func (s *session) step(out *strings.Builder, in *decide.Input) {
	rec, result, version := s.c.step(in, s.now)
	switch result {
	case decide.Repeated:
		fmt.Fprintf(out, "repeat of %d\n", version)
	case decide.NotWaiting:
		fmt.Fprintf(out, "nothing waits for this\n")
	case decide.Early:
		fmt.Fprintf(out, "too early for %d\n", version)
	default:
		s.print(out, rec)
	}
}

// print writes a record:
//
//	<version> <family>.<detail>  <node> #<attempt>: <action>, <reason>[ of <level> <strategy>]
//	  <what else it says>
func (s *session) print(out *strings.Builder, r *recourse.Record) {
	subject := strings.TrimPrefix(r.Subject(), testRef.Prefix()+".")
	fmt.Fprintf(out, "%d %s ", r.Version, subject)
	if r.Path != "" {
		fmt.Fprintf(out, " %s #%d:", r.Node, r.Attempt)
	}
	if r.Action != 0 {
		fmt.Fprintf(out, " %s,", r.Action)
	}
	fmt.Fprintf(out, " %s", r.Reason)
	if r.Level != recourse.LevelNone {
		fmt.Fprintf(out, " of %s %s", r.Level, r.Strategy)
	}
	out.WriteByte('\n')
	if c := r.Command; c.Verb != 0 {
		scope := c.Scope
		if scope == "" {
			scope = "the execution"
		}
		fmt.Fprintf(out, "  %s %s", c.Verb, scope)
		if c.Attempt != 0 {
			fmt.Fprintf(out, " as #%d", c.Attempt)
		}
		if i := c.Intervention; i.ID != 0 {
			fmt.Fprintf(out, ", intervention %d until %s allows %s, else %s", i.ID, i.Deadline.Sub(epoch), i.Allowed, i.OnTimeout)
		}
		out.WriteByte('\n')
	}
	if w := r.Wait; w.Version != 0 && w.Kind != recourse.WaitIntervention {
		fmt.Fprintf(out, "  waits %s until %s for %s", r.Delay, w.DueAt.Sub(epoch), w.Kind)
		if w.Scope != "" {
			fmt.Fprintf(out, " of %s", w.Scope)
		}
		out.WriteByte('\n')
	}
	if e := r.Effect; e.Node != "" || e.PipelineFailed {
		out.WriteString(" ")
		if e.Node != "" {
			fmt.Fprintf(out, " node %s;", e.Node)
		}
		if e.Stage != "" {
			fmt.Fprintf(out, " stage %s, next runs on [%s];", e.Stage, strings.Join(e.Runs, " "))
		}
		if e.PipelineFailed {
			out.WriteString(" pipeline failed")
		} else {
			out.WriteString(" pipeline not failed")
		}
		out.WriteByte('\n')
	}
	if r.Ends != 0 {
		fmt.Fprintf(out, "  ends %d\n", r.Ends)
	}
	if len(r.Cancelled) > 0 {
		fmt.Fprintf(out, "  cancels %v\n", r.Cancelled)
	}
	if r.Detail != "" {
		fmt.Fprintf(out, "  %s\n", r.Detail)
	}
	if s.trail {
		for _, t := range r.Trail {
			mark := "-"
			if t.Applies {
				mark = "*"
			}
			what := t.Errors.String() + " -> " + t.Action.String()
			if t.Index < 0 {
				what = "?"
			}
			fmt.Fprintf(out, "  %s %s %s: %s: %s\n", mark, t.Level, t.Path, what, t.Why)
		}
	}
}
