package pipeline

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/nearest"
	"github.com/recourse-dev/recourse/internal/retry"
)

const (
	maxRetryCount     = 10_000
	defaultMultiplier = 2.0
	defaultMaxBackoff = time.Hour
)

// strategy is a strategy of the plan with its places.
type strategy struct {
	decide.Strategy
	at     *cursor // the entry of failureStrategies
	errors *cursor
	action *cursor // the mapping with type and spec
}

// listed reports whether the strategy names t itself.
func (s *strategy) listed(t recourse.ErrorType) bool { return s.Errors.Has(t) }

// always reports whether the strategy applies to any failure of its types.
func (s *strategy) always() bool { return s.Condition == nil }

// strategies reads what stands at a failureStrategies key. One that cannot be decided by is reported and left out.
func (l *loader) strategies(e *element, list *cursor) {
	switch {
	case list.missing() || list.is(placeholder):
		return
	case list.unresolved():
		e.unresolved = true
		l.warn(list, "unresolved-input", fmt.Sprintf("%s is not resolved: it counts as no strategy", quote(list.text)), "give its inputs with --inputs")
		return
	case list.is(mapping):
		l.fail(list, "strategies-not-a-list", "failureStrategies is a list", "begin the strategy with \"- onFailure:\"")
		l.strategy(e, list, 0)
		return
	case !list.is(sequence):
		l.fail(list, "strategies-not-a-list", "failureStrategies is a list", "")
		e.broken = true
		return
	}
	for i := range list.items {
		if i == MaxStrategies {
			l.fail(list.item(i), "too-many-strategies", fmt.Sprintf("a node has at most %d strategies; what follows is left out", MaxStrategies), "")
			return
		}
		l.strategy(e, list.item(i), i)
	}
}

func (l *loader) strategy(e *element, at *cursor, index int) {
	errorsBefore := l.errors
	s := &strategy{at: at}
	s.Path, s.Index = at.path(), index
	if at.unresolved() {
		e.unresolved = true
		l.warn(at, "unresolved-input", fmt.Sprintf("%s is not resolved: it counts as no strategy", quote(at.text)), "give its inputs with --inputs")
		return
	}
	body := at.get("onFailure")
	if !body.is(mapping) {
		l.fail(at, "missing-on-failure", "a strategy has the key onFailure, with errors and action below it", l.nearKey(at, "onFailure"))
		e.broken = true
		return
	}
	usable := l.errorTypes(e, s, body)
	s.action = body.get("action")
	do, ok := l.action(e, s, s.action, body, top)
	s.Do = do
	if usable && ok {
		e.strategies = append(e.strategies, s)
	} else if l.errors > errorsBefore {
		e.broken = true
	}
}

// nearKey is the fix where a key is missing and one like it is there.
func (l *loader) nearKey(at *cursor, want string) string {
	if at.is(mapping) {
		for _, e := range at.entries {
			if nearest.Name(e.key, []string{want}) != "" {
				return fmt.Sprintf("did you mean %s instead of %s?", want, quote(e.key))
			}
		}
	}
	return ""
}

// errorTypes reads errors and reports whether there is a type to go by.
func (l *loader) errorTypes(e *element, s *strategy, body *cursor) bool {
	list := body.get("errors")
	s.errors = list
	switch {
	case list.missing():
		l.fail(orElse(list, body), "missing-errors", "the strategy does not say for which errors it is", either(l.nearKey(body, "errors"), "add errors: [AllErrors], or the types it is for"))
		return false
	case list.unresolved():
		e.unresolved = true
		l.warn(list, "unresolved-input", fmt.Sprintf("%s is not resolved: the strategy does not count", quote(list.text)), "")
		return false
	case list.is(scalar):
		l.warn(list, "errors-not-a-list", "errors is a list", "write errors: ["+list.text+"]")
		l.errorType(e, s, list)
	case list.is(sequence) && len(list.items) > 0:
		for i := range list.items {
			l.errorType(e, s, list.item(i))
		}
	case list.is(sequence):
		l.warn(list, "empty-errors", "the list of errors is empty: the strategy never applies", "add errors: [AllErrors], or the types it is for")
	default:
		l.fail(list, "errors-not-a-list", "errors is a list of error types", "")
	}
	return s.Errors != 0
}

func (l *loader) errorType(e *element, s *strategy, at *cursor) {
	name := strings.TrimSpace(at.scalarText())
	switch t, err := recourse.ParseErrorType(name); {
	case at.unresolved():
		e.unresolved = true
		l.warn(at, "unresolved-input", fmt.Sprintf("%s is not resolved: it does not count", quote(at.text)), "")
	case name == "":
		l.fail(at, "unknown-error-type", "an error type is missing here", "name one of "+strings.Join(recourse.ErrorTypeNames(), ", "))
	case strings.EqualFold(name, "AnyOther"):
		// What pipelines of the early days say for AllErrors.
		l.warn(at, "old-error-type", "AnyOther is an old name of AllErrors and is read as that", "write AllErrors")
		s.Errors = s.Errors.Add(recourse.AllErrors)
	case err != nil:
		l.fail(at, "unknown-error-type", "unknown error type "+quote(name), nearest.Hint(name, recourse.ErrorTypeNames()))
	default:
		s.Errors = s.Errors.Add(t)
	}
}

// nesting says where an action stands.
type nesting uint8

const (
	top            nesting = iota + 1 // onFailure.action
	afterRetry                        // onRetryFailure.action
	afterTimeout                      // onTimeout.action of a strategy's own intervention
	lateAfterRetry                    // onTimeout.action of an intervention that follows a retry
	answer                            // an entry of availableActions
)

func (n nesting) key() string {
	switch n {
	case afterRetry:
		return "onRetryFailure"
	case afterTimeout, lateAfterRetry:
		return "onTimeout"
	default:
		return "onFailure"
	}
}

// action reads the action at a cursor, nil where the key is absent from holder. It reports whether there is one to go by.
func (l *loader) action(e *element, s *strategy, at, holder *cursor, where nesting) (decide.ActionSpec, bool) {
	var none decide.ActionSpec
	kind := at.get("type")
	switch {
	case at.missing():
		l.fail(orElse(at, holder), "missing-action", where.key()+" does not say what to do", either(l.nearKey(holder, "action"), "add action: {type: …}"))
		return none, false
	case at.unresolved() || kind.unresolved():
		e.unresolved = true
		l.warn(at, "unresolved-input", "the action is not resolved: it does not count", "")
		return none, false
	case at.is(scalar):
		l.fail(at, "action-not-a-mapping", "an action is a mapping with the key type", "write action: {type: "+at.text+"}")
		kind = at
	case kind.missing() || !kind.is(scalar):
		l.fail(orElse(kind, at), "missing-action", "the action has no type", either(l.nearKey(at, "type"), "name one of "+strings.Join(recourse.ActionNames(), ", ")))
		return none, false
	}
	action, err := recourse.ParseAction(strings.TrimSpace(kind.text))
	if err != nil {
		l.fail(kind, "unknown-action", "unknown action "+quote(kind.text), nearest.Hint(kind.text, recourse.ActionNames()))
		return none, false
	}
	do := decide.ActionSpec{Action: action}
	if !l.placed(e, kind, action, where) {
		return none, false
	}
	spec := at.get("spec")
	ok := true
	switch action {
	case recourse.Retry:
		ok = l.retry(e, s, &do, at, spec, where)
	case recourse.RetryStepGroup:
		do.Retry, ok = l.policy(at, spec)
	case recourse.ManualIntervention:
		ok = l.intervention(e, s, &do, at, spec, where)
	}
	if c := spec.get("condition"); !c.missing() && (action != recourse.Retry || where != top) {
		l.warn(c, "condition-ignored", fmt.Sprintf("a condition under %s has no effect: only a strategy's own Retry has one", action), "")
	}
	return do, ok
}

// placed reports whether an action may stand where it does (R5, R10, StepGroupRollback).
func (l *loader) placed(e *element, at *cursor, action recourse.Action, where nesting) bool {
	engine := l.opt.Semantics == recourse.Engine
	switch refused := action; where {
	case afterRetry:
		if refused == recourse.Retry || refused == recourse.RetryStepGroup || refused == recourse.ProceedWithDefaultValues {
			l.fail(at, "nested-action", fmt.Sprintf("%s cannot follow the last retry", action), "use MarkAsFailure, StageRollback, ManualIntervention or another action that ends it")
			return false
		}
	case afterTimeout, lateAfterRetry:
		if refused == recourse.ManualIntervention || refused == recourse.ProceedWithDefaultValues || engine && refused == recourse.Retry {
			l.fail(at, "nested-action", fmt.Sprintf("%s cannot follow the timeout of an intervention", action), "use MarkAsFailure, StageRollback, Abort or another action that ends it")
			return false
		}
	}
	if !isRollback(action) {
		return true
	}
	if e.node.Section == recourse.RollbackSteps {
		l.fail(at, "rollback-in-rollback", fmt.Sprintf("%s cannot stand under rollbackSteps: there is no rollback of a rollback", action), "use Ignore, Retry, MarkAsFailure, ManualIntervention or Abort")
		return false
	}
	if action != recourse.StepGroupRollback || e.level == recourse.LevelStepGroup || e.detached {
		return true
	}
	inGroup := e.level == recourse.LevelStep && e.parent != nil && e.parent.level == recourse.LevelStepGroup
	if where != top && inGroup {
		l.warn(at, "group-rollback-misplaced", "StepGroupRollback of a step rolls back the innermost group, "+quote(e.parent.node.Path), "put the strategy on the group to make that plain")
		return true
	}
	l.fail(at, "group-rollback-misplaced", fmt.Sprintf("StepGroupRollback does not exist on a %s: only a step group's own strategy can have it", e.level), "move the strategy to the step group, or use StageRollback")
	return false
}

func isRollback(a recourse.Action) bool {
	return a == recourse.StageRollback || a == recourse.StepGroupRollback || a == recourse.PipelineRollback
}

// retry reads the spec of a Retry (R8).
func (l *loader) retry(e *element, s *strategy, do *decide.ActionSpec, at, spec *cursor, where nesting) bool {
	var ok bool
	do.Retry, ok = l.policy(at, spec)
	do.OnRetryFailure = l.nested(e, s, at, spec, "onRetryFailure", afterRetry)
	if next := do.OnRetryFailure; next != nil && next.Action == recourse.ManualIntervention && (where == afterTimeout || where == lateAfterRetry) {
		l.fail(spec.get("onRetryFailure"), "nested-action", "the Retry after an intervention's timeout leads back to an intervention: it would never end", "let onRetryFailure end it, with MarkAsFailure or StageRollback")
		do.OnRetryFailure = nil
	}
	text := spec.get("condition")
	if where != top || text.missing() {
		return ok
	}
	if !text.is(scalar) {
		l.fail(text, "bad-condition", "a condition is text", "")
		return false
	}
	c, bytes, err := l.opt.Shared.compile(text.text)
	if err != nil {
		where := text.place()
		var bad *conditionError
		if errors.As(err, &bad) && text.offset >= 0 {
			where.column += text.offset + bad.offset
		}
		l.reportAt(SeverityError, where, text, "bad-condition", "condition: "+err.Error(), "")
		return false
	}
	s.Condition = c
	l.bytes += bytes
	return ok
}

// nested reads the action that follows; nil where there is none to go by, which counts as MarkAsFailure.
func (l *loader) nested(e *element, s *strategy, at, spec *cursor, key string, where nesting) *decide.ActionSpec {
	holder := spec.get(key)
	if holder.missing() {
		l.warn(orElse(holder, at), missingCode(key), fmt.Sprintf("%s is absent: MarkAsFailure follows", key), either(l.nearKey(spec, key), "add "+key+": {action: {type: MarkAsFailure}}"))
		return nil
	}
	if holder.unresolved() {
		l.warn(holder, "unresolved-input", fmt.Sprintf("%s is not resolved: MarkAsFailure follows", quote(holder.text)), "")
		return nil
	}
	do, ok := l.action(e, s, holder.get("action"), holder, where)
	if !ok {
		return nil
	}
	return &do
}

func missingCode(key string) string {
	if key == "onTimeout" {
		return "missing-on-timeout"
	}
	return "missing-on-retry-failure"
}

// policy reads retryCount and the waits (R8).
func (l *loader) policy(at, spec *cursor) (*retry.Policy, bool) {
	p := &retry.Policy{}
	count, ok := l.retryCount(at, spec)
	p.Count = count
	intervals, curve := spec.get("retryIntervals"), spec.get("backoff")
	if !intervals.missing() && !curve.missing() {
		l.fail(curve, "backoff-and-intervals", "the waits are given twice, by retryIntervals and by backoff", "keep one of them")
		return p, false
	}
	var good bool
	if !curve.missing() {
		p.Backoff, good = l.backoff(curve)
	} else {
		p.Intervals, good = l.intervals(intervals)
	}
	return p, ok && good
}

func (l *loader) retryCount(at, spec *cursor) (int, bool) {
	c := spec.get("retryCount")
	text := strings.TrimSpace(c.scalarText())
	n, err := strconv.Atoi(text)
	switch {
	case c.missing() || c.is(scalar) && text == "":
		l.fail(orElse(c, at), "missing-retry-count", "retryCount is required: how often is it run again?", either(l.nearKey(spec, "retryCount"), "add retryCount: 1"))
	case c.unresolved():
		l.fail(c, "bad-retry-count", fmt.Sprintf("retryCount %s is not resolved: the engine needs a number", quote(text)), "write a number")
	case !c.is(scalar) || err != nil && !errors.Is(err, strconv.ErrRange):
		l.fail(c, "bad-retry-count", "retryCount is a whole number, this is "+quote(text), "")
	case err != nil || n < 0 || n > maxRetryCount:
		l.fail(c, "bad-retry-count", fmt.Sprintf("retryCount is 0 to %d, this is %s", maxRetryCount, quote(text)), "")
	default:
		if n == 0 {
			l.warn(c, "no-retries", "retryCount is 0: it is never run again", "")
		}
		return n, true
	}
	return 0, false
}

func (l *loader) intervals(list *cursor) ([]time.Duration, bool) {
	switch {
	case list.missing():
		return nil, true
	case list.unresolved():
		l.fail(list, "bad-retry-intervals", fmt.Sprintf("retryIntervals %s is not resolved: the engine needs durations", quote(list.text)), "write a list of durations, like [10s, 30s]")
		return nil, false
	case list.is(scalar):
		wait, ok := l.duration(list, "bad-retry-intervals", "retryIntervals", 0)
		if ok {
			l.warn(list, "intervals-not-a-list", "retryIntervals is a list", "write retryIntervals: ["+list.text+"]")
		}
		return []time.Duration{wait}, ok
	case !list.is(sequence):
		l.fail(list, "bad-retry-intervals", "retryIntervals is a list of durations", "write a list of durations, like [10s, 30s]")
		return nil, false
	}
	waits, ok := make([]time.Duration, 0, len(list.items)), true
	for i := range list.items {
		wait, good := l.duration(list.item(i), "bad-retry-intervals", "a retry interval", 0)
		waits, ok = append(waits, wait), ok && good
	}
	return waits, ok
}

// duration reads a duration of at least least and at most recourse.MaxWait.
func (l *loader) duration(c *cursor, code, what string, least time.Duration) (time.Duration, bool) {
	text := c.scalarText()
	if c.unresolved() {
		l.fail(c, code, fmt.Sprintf("%s %s is not resolved: the engine needs a duration", what, quote(text)), "write a duration like 30s, 1m20s or 1d 2h")
		return 0, false
	}
	d, err := recourse.ParseDuration(text)
	switch {
	case c.missing() || !c.is(scalar):
		l.fail(c, code, what+" is a duration", "write a duration like 30s, 1m20s or 1d 2h")
	case err != nil:
		fix := ""
		if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil && n >= 0 {
			fix = fmt.Sprintf("write %ds for seconds", n)
		}
		l.fail(c, code, fmt.Sprintf("%s %s is not a duration", what, quote(text)), either(fix, "write integers with a unit s, m, h, d or w, like 30s, 1m20s or 1d 2h"))
	case d < least:
		l.fail(c, code, fmt.Sprintf("%s is %s, and has to be more than 0", what, quote(text)), "")
	case d > recourse.MaxWait:
		l.fail(c, code, fmt.Sprintf("%s %s is longer than 366 days", what, quote(text)), "")
	default:
		return d, true
	}
	return 0, false
}

// backoff reads spec.backoff.
func (l *loader) backoff(c *cursor) (*retry.Backoff, bool) {
	const code = "bad-backoff"
	if !c.is(mapping) {
		l.fail(c, code, "backoff is a mapping with initial, multiplier, max and jitter", "write backoff: {initial: 10s, multiplier: 2, max: 5m, jitter: 0.1}")
		return nil, false
	}
	b, ok := &retry.Backoff{Multiplier: defaultMultiplier}, true
	for _, e := range c.entries {
		if known := []string{"initial", "multiplier", "max", "jitter"}; !slices.Contains(known, e.key) {
			l.reportAt(SeverityError, e.origin, c, code, "backoff does not know "+quote(e.key), nearest.Hint(e.key, known))
			ok = false
		}
	}
	good := false
	if initial := c.get("initial"); initial.missing() {
		l.fail(orElse(initial, c), code, "backoff has no initial: how long is the first wait?", "add initial: 10s")
	} else {
		b.Initial, good = l.duration(initial, code, "initial", 1)
	}
	ok = ok && good
	if m := c.get("multiplier"); !m.missing() {
		n, err := strconv.ParseFloat(strings.TrimSpace(m.scalarText()), 64)
		// The bound keeps the product of the series finite.
		if b.Multiplier = n; err != nil || !(n >= 1 && n <= 1000) {
			l.fail(m, code, fmt.Sprintf("multiplier is a number from 1 to 1000, this is %s", quote(m.scalarText())), "")
			ok = false
		}
	}
	b.Max = max(defaultMaxBackoff, b.Initial)
	if m := c.get("max"); !m.missing() {
		b.Max, good = l.duration(m, code, "max", 1)
		if good && b.Max < b.Initial {
			l.fail(m, code, fmt.Sprintf("max %s is less than initial %s", quote(m.text), quote(c.get("initial").scalarText())), "")
			good = false
		}
		ok = ok && good
	}
	if j := c.get("jitter"); !j.missing() {
		n, err := fraction(j.scalarText())
		if b.Jitter = n; err != nil || !(n >= 0 && n <= 1) {
			l.fail(j, code, fmt.Sprintf("jitter is a number from 0 to 1 or a percentage, this is %s", quote(j.scalarText())), "write 0.2 or 20%")
			ok = false
		}
	}
	return b, ok
}

// fraction reads "0.2" or "20%".
func fraction(text string) (float64, error) {
	percent, isPercent := strings.CutSuffix(strings.TrimSpace(text), "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(percent), 64)
	if isPercent {
		n /= 100
	}
	if math.IsNaN(n) {
		return 0, errors.New("not a number")
	}
	return n, err
}

// intervention reads the spec of a ManualIntervention (R9).
func (l *loader) intervention(e *element, s *strategy, do *decide.ActionSpec, at, spec *cursor, where nesting) bool {
	set := &decide.InterventionSpec{Timeout: decide.DefaultInterventionTimeout, Allowed: recourse.DefaultInterventionActions}
	do.Intervention = set
	ok := true
	if timeout := spec.get("timeout"); timeout.missing() || timeout.is(scalar) && timeout.text == "" {
		l.warn(orElse(timeout, at), "missing-timeout", "the intervention has no timeout: it stays open for 1d", either(l.nearKey(spec, "timeout"), "add timeout: 1d"))
	} else {
		set.Timeout, ok = l.duration(timeout, "bad-timeout", "timeout", 1)
	}
	next := afterTimeout
	if where == afterRetry {
		next = lateAfterRetry
	}
	set.OnTimeout = l.nested(e, s, at, spec, "onTimeout", next)
	if set.OnTimeout != nil && set.OnTimeout.Action == recourse.Retry && next == lateAfterRetry {
		l.warn(spec.get("onTimeout"), "same-action-again", "the timeout retries what has just used up its retries", "let onTimeout end it, with MarkAsFailure or StageRollback")
	}
	if e.node.Section == recourse.RollbackSteps {
		set.Allowed &^= recourse.ActionsOf(recourse.StageRollback, recourse.StepGroupRollback, recourse.PipelineRollback) // R5
	}
	l.availableActions(e, set, spec.get("availableActions"))
	return l.answerBy(set, spec.get("answerBy")) && ok
}

// answerBy reads who may answer. What cannot be read leaves the strategy out: it must not end with everybody.
func (l *loader) answerBy(set *decide.InterventionSpec, list *cursor) bool {
	if list.missing() {
		return true
	}
	if !list.is(sequence) || len(list.items) == 0 {
		l.fail(list, "bad-answer-by", "answerBy is a list of principals", "write answerBy: [ann, release-*]")
		return false
	}
	var names []string
	for i := range list.items {
		at := list.item(i)
		name := strings.TrimSpace(at.scalarText())
		if recourse.ValidateID(name) != nil || strings.ContainsAny(name, ", ") || at.unresolved() {
			l.fail(at, "bad-answer-by", quote(name)+" is no principal", "write the name that stands in the subject of an answer; a * stands for any characters")
			return false
		}
		names = append(names, name)
	}
	set.AnswerBy = strings.Clone(strings.Join(names, ",")) // of one name, a part of the whole text
	return true
}

func (l *loader) availableActions(e *element, set *decide.InterventionSpec, list *cursor) {
	switch {
	case list.missing():
		return
	case list.unresolved():
		l.warn(list, "unresolved-input", fmt.Sprintf("%s is not resolved: the answers are %s", quote(list.text), set.Allowed), "")
		return
	case !list.is(sequence):
		l.fail(list, "bad-available-actions", "availableActions is a list of actions", "write availableActions: [Retry, Abort]")
		return
	}
	var allowed recourse.Actions
	for i := range list.items {
		at := list.item(i)
		name := strings.TrimSpace(at.scalarText())
		action, err := recourse.ParseAction(name)
		switch {
		case err != nil:
			l.fail(at, "bad-available-actions", "unknown action "+quote(name), nearest.Hint(name, recourse.ActionNames()))
		case action == recourse.ManualIntervention:
			l.warn(at, "bad-available-actions", "ManualIntervention is not an answer to an intervention; it is left out", "")
		case l.placed(e, at, action, answer):
			allowed |= recourse.ActionsOf(action)
		}
	}
	if allowed == 0 {
		l.warn(list, "bad-available-actions", fmt.Sprintf("availableActions leaves no answer; the answers are %s", set.Allowed), "")
		return
	}
	set.Allowed = allowed
}

// orElse returns the first cursor that is there.
func orElse(c, other *cursor) *cursor {
	if c != nil {
		return c
	}
	return other
}

// either returns the first fix that says something.
func either(fix, other string) string {
	if fix != "" {
		return fix
	}
	return other
}
