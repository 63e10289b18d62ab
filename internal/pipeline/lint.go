package pipeline

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
)

// The thresholds of lint.
const (
	manyRetries  = 10 // more retries than these are reported
	manyMultiply = 12 // so is a product of step and group retries above this
	manyRuns     = 30 // and so are more executions, which that product misses where retries stand on three levels: 3, 2 and 2 are 4·3·3
)

// authTypes are the errors that running again does not mend.
var authTypes = [...]recourse.ErrorType{recourse.Authentication, recourse.Authorization}

// approvalSteps are the types of steps that end in a rejection where somebody says no.
var approvalSteps = map[string]bool{
	"HarnessApproval": true, "JiraApproval": true, "ServiceNowApproval": true, "CustomApproval": true,
}

// lint runs the rules that look at more than one value. They are warnings, but for those that the engine refuses.
func (l *loader) lint() {
	for _, e := range l.elements {
		l.lintSharedAllErrors(e)
		l.lintRepeatedTypes(e)
		l.lintAllErrorsNotLast(e)
		l.lintCloserAllErrors(e)
		l.lintDeploymentWithoutAllErrors(e)
		l.lintGroupRetries(e)
		for _, s := range e.strategies {
			l.lintSurplusIntervals(s)
			l.lintManyRetries(s)
			l.lintRetryOnAuth(s)
			l.lintRetryAfterRejection(e, s)
			l.lintRetryStepGroup(e, s)
			l.lintWaitTooLong(e, s)
			l.lintInterventionTooLong(e, s)
			l.lintDefaultValues(s)
		}
	}
	l.lintNothingToRollBack()
}

// strict is error under the engine's semantics, else warning.
func (l *loader) strict() Severity {
	if l.opt.Semantics == recourse.Engine {
		return SeverityError
	}
	return SeverityWarning
}

// lintSharedAllErrors: AllErrors makes the other types of its list meaningless.
func (l *loader) lintSharedAllErrors(e *element) {
	for _, s := range e.strategies {
		if s.listed(recourse.AllErrors) && s.Errors.Len() > 1 {
			l.say(l.strict(), s.errors, "all-errors-shared", "AllErrors shares its list with other types, which it includes", "leave AllErrors alone in the list, or list the types only")
		}
	}
}

// lintRepeatedTypes: one type twice on one level. The first strategy wins; the engine refuses two different actions, and
// AllErrors twice. A strategy all of whose types were taken before never applies.
func (l *loader) lintRepeatedTypes(e *element) {
	var taken recourse.ErrorTypes
	var first [32]*strategy // by type, of those that always apply
	for _, s := range e.strategies {
		again := s.Errors & taken
		var other *strategy // an earlier one with a different action
		var clash recourse.ErrorType
		for t := range again.All {
			if earlier := first[t]; other == nil && earlier.Do.Action != s.Do.Action && s.always() {
				other, clash = earlier, t
			}
		}
		never := again == s.Errors
		switch {
		case again.Has(recourse.AllErrors):
			l.say(l.strict(), s.at, "all-errors-twice", "AllErrors is there twice on one level; the first strategy wins", "keep one of them")
		case other != nil:
			message := fmt.Sprintf("%s has two actions on one level, %s and %s; the first wins", clash, other.Do.Action, s.Do.Action)
			if never {
				message += ", so this strategy never applies"
			}
			l.say(l.strict(), s.at, "conflicting-actions", message, "keep one of them")
		case never:
			l.warn(s.at, "never-applies", fmt.Sprintf("this strategy never applies: an earlier one takes %s", s.Errors), "remove one of them")
		}
		if s.always() {
			for t := range s.Errors.All {
				if first[t] == nil {
					first[t] = s
				}
			}
			taken |= s.Errors
		}
	}
}

// lintAllErrorsNotLast: by the reference the first strategy that applies wins, so what follows an AllErrors never does. For the
// engine a specific type beats AllErrors wherever it stands.
func (l *loader) lintAllErrorsNotLast(e *element) {
	if l.opt.Semantics == recourse.Engine {
		return
	}
	covered := false
	for _, s := range e.strategies {
		if covered && !s.listed(recourse.AllErrors) {
			l.warn(s.at, "all-errors-not-last", fmt.Sprintf("the strategy for %s never applies: AllErrors stands before it", s.Errors), "put the strategy for AllErrors last")
		}
		covered = covered || s.always() && s.listed(recourse.AllErrors)
	}
}

// lintCloserAllErrors: a strategy that no failure reaches, since each step below has strategies of its own for its types. Stages
// with steps of their own making (their service, infrastructure or container) are left out, as are groups in containers.
func (l *loader) lintCloserAllErrors(e *element) {
	if e.level == recourse.LevelStep || e.opaque || e.level == recourse.LevelStage && e.kind != "Custom" && e.kind != "Approval" ||
		e.at.get("stepGroupInfra") != nil {
		return
	}
	for _, s := range e.strategies {
		if steps, reached := reaches(e, e, s.Errors); steps > 0 && !reached {
			l.warn(s.at, "never-applies", fmt.Sprintf("this strategy never applies: every step of %s decides %s closer by", quote(e.node.Path), s.Errors), "remove it, or the ones on the steps")
		}
	}
}

// reaches counts the steps below e in the section of outer, and reports whether a failure of one of them with one of the types
// gets past the strategies of e and what is below it. Strategies of outer itself do not count.
func reaches(outer, e *element, types recourse.ErrorTypes) (steps int, reached bool) {
	if e != outer {
		if e.unresolved || e.broken {
			return 1, true // who knows
		}
		types = e.leaves(types)
	}
	if e.level == recourse.LevelStep {
		return 1, types != 0
	}
	if e != outer && e.opaque {
		return 1, types != 0
	}
	for _, child := range e.children {
		if child.node.Section != outer.node.Section {
			continue // R5: not this strategy's to decide
		}
		n, r := reaches(outer, child, types)
		steps, reached = steps+n, reached || r
	}
	return steps, reached
}

// covered returns the types that e decides itself whatever else a failure says; with AllErrors among them that is all types.
func (e *element) covered() recourse.ErrorTypes {
	if e.taken != nil {
		return *e.taken
	}
	e.taken = new(recourse.ErrorTypes)
	for _, s := range e.strategies {
		if s.always() {
			*e.taken |= s.Errors
		}
	}
	return *e.taken
}

// leaves returns which of the types e leaves to the levels outside.
func (e *element) leaves(types recourse.ErrorTypes) recourse.ErrorTypes {
	if e.covered().Has(recourse.AllErrors) {
		return 0
	}
	return types &^ e.covered()
}

// lintDeploymentWithoutAllErrors: a Deployment stage needs a strategy for AllErrors; the engine wants it alone in its list.
func (l *loader) lintDeploymentWithoutAllErrors(e *element) {
	if e.level != recourse.LevelStage || e.kind != "Deployment" || e.unresolved || e.broken {
		return
	}
	for _, s := range e.strategies {
		if s.listed(recourse.AllErrors) && (l.opt.Semantics != recourse.Engine || s.Errors.Len() == 1) {
			return
		}
	}
	l.say(l.strict(), e.at, "deployment-without-all-errors", "Deployment stage "+quote(e.node.Path)+" has no strategy for AllErrors", "add one: {onFailure: {errors: [AllErrors], action: {type: StageRollback}}}")
}

// eachAction yields an action and the ones nested in it.
func eachAction(do *decide.ActionSpec, yield func(*decide.ActionSpec)) {
	for do != nil {
		yield(do)
		if do.Intervention != nil {
			eachAction(do.Intervention.OnTimeout, yield)
		}
		do = do.OnRetryFailure
	}
}

// lintSurplusIntervals: intervals that no retry uses.
func (l *loader) lintSurplusIntervals(s *strategy) {
	eachAction(&s.Do, func(do *decide.ActionSpec) {
		if p := do.Retry; p != nil && p.Count > 0 && len(p.Intervals) > p.Count {
			l.warn(s.action, "surplus-intervals", fmt.Sprintf("there are %d intervals for %d retries: the last %d are never used", len(p.Intervals), p.Count, len(p.Intervals)-p.Count), "raise retryCount or remove them")
		}
	})
}

// lintManyRetries: more retries than anybody waits for.
func (l *loader) lintManyRetries(s *strategy) {
	eachAction(&s.Do, func(do *decide.ActionSpec) {
		if do.Retry != nil && do.Retry.Count > manyRetries {
			l.warn(s.action, "many-retries", fmt.Sprintf("%d retries are a lot: they wait %s in total", do.Retry.Count, span(totalWait(do.Retry))), "")
		}
	})
}

// lintRetryOnAuth: credentials do not mend by trying again.
func (l *loader) lintRetryOnAuth(s *strategy) {
	if s.Do.Action != recourse.Retry && s.Do.Action != recourse.RetryStepGroup {
		return
	}
	for _, t := range authTypes {
		if s.listed(t) {
			l.warn(s.errors, "retry-on-auth", fmt.Sprintf("running again does not mend %s, and may lock an account", t), "use ManualIntervention or MarkAsFailure for it")
			return
		}
	}
}

// lintRetryAfterRejection: who rejects an approval is asked again.
func (l *loader) lintRetryAfterRejection(e *element, s *strategy) {
	if s.Do.Action != recourse.Retry && s.Do.Action != recourse.RetryStepGroup || s.Do.Retry.Count == 0 {
		return
	}
	implicit := s.listed(recourse.AllErrors)
	for _, earlier := range e.strategies {
		if earlier == s {
			break
		}
		implicit = implicit && !(earlier.always() && (earlier.listed(recourse.ApprovalRejection) || earlier.listed(recourse.AllErrors)))
	}
	if s.listed(recourse.ApprovalRejection) || implicit && asks(e, e) {
		l.warn(s.errors, "retry-after-rejection", "a rejected approval is asked for again", "decide ApprovalRejection by another strategy, before this one")
	}
}

// asks reports whether e is an approval, or has one in it whose rejection no strategy below outer decides (R2, R5).
func asks(outer, e *element) bool {
	if e.level == recourse.LevelStep && !approvalSteps[e.kind] ||
		e != outer && e.leaves(recourse.ErrorTypesOf(recourse.ApprovalRejection)) == 0 || e != outer && (e.unresolved || e.broken) {
		return false
	}
	return e.level == recourse.LevelStep || slices.ContainsFunc(e.children, func(child *element) bool {
		return child.node.Section == outer.node.Section && asks(outer, child)
	})
}

// lintRetryStepGroup: only a step group can be run again as one.
func (l *loader) lintRetryStepGroup(e *element, s *strategy) {
	if e.level == recourse.LevelStepGroup || e.detached && e.parent == nil {
		return
	}
	eachAction(&s.Do, func(do *decide.ActionSpec) {
		if do.Action == recourse.RetryStepGroup {
			l.warn(s.action, "retry-group-misplaced", fmt.Sprintf("RetryStepGroup stands on a %s: it belongs on a step group", e.level), "move it to the step group, or use Retry")
		}
	})
}

// enclosingTimeout returns the shortest timeout of e and what encloses it, and whose it is.
func enclosingTimeout(e *element) (time.Duration, *element) {
	shortest, whose := time.Duration(0), (*element)(nil)
	for ; e != nil; e = e.parent {
		if e.timeout > 0 && (shortest == 0 || e.timeout < shortest) {
			shortest, whose = e.timeout, e
		}
	}
	return shortest, whose
}

// lintWaitTooLong: retries that outlast the timeout of the step or of what encloses it.
func (l *loader) lintWaitTooLong(e *element, s *strategy) {
	limit, whose := enclosingTimeout(e)
	if limit == 0 || s.Do.Retry == nil {
		return
	}
	if total := totalWait(s.Do.Retry); total > limit {
		l.warn(s.action, "wait-too-long", fmt.Sprintf("the retries wait %s in total, longer than the timeout %s of %s", span(total), span(limit), quote(whose.node.Path)), "wait less, or raise the timeout")
	}
}

// lintInterventionTooLong: an intervention that the stage does not outlive. A step's own timeout is for its work, not for the
// person who is asked afterwards.
func (l *loader) lintInterventionTooLong(e *element, s *strategy) {
	outer := e
	for outer.parent != nil {
		outer = outer.parent
	}
	if outer.timeout == 0 {
		return
	}
	eachAction(&s.Do, func(do *decide.ActionSpec) {
		if do.Intervention != nil && do.Intervention.Timeout > outer.timeout {
			l.warn(s.action, "intervention-too-long", fmt.Sprintf("the intervention stays open for %s, longer than the timeout %s of stage %s", span(do.Intervention.Timeout), span(outer.timeout), quote(outer.node.Path)), "give it less time, or the stage more")
		}
	})
}

// lintDefaultValues: only a missing input has a default value to go on with.
func (l *loader) lintDefaultValues(s *strategy) {
	if s.Do.Action == recourse.ProceedWithDefaultValues && s.Errors != recourse.ErrorTypesOf(recourse.InputTimeoutError) {
		l.warn(s.errors, "default-values-misplaced", "ProceedWithDefaultValues is for InputTimeoutError alone", "write errors: [InputTimeoutError]")
	}
}

// lintGroupRetries: step retries multiply with the retries of each group around them, and those with each other, since a group's retry
// starts the counters inside it again.
func (l *loader) lintGroupRetries(e *element) {
	at, retries := groupRetry(e)
	if retries == 0 || e.parent != nil && outerGroupRetry(e.parent) {
		return // said once, on the outermost
	}
	var worst worstCase
	worst.walk(e)
	if worst.product <= manyMultiply && worst.runs <= manyRuns {
		return
	}
	of := ""
	if worst.step.timeout == 0 {
		of = " of waiting alone"
	}
	l.warn(at.action, "retries-multiply", fmt.Sprintf("step and group retries multiply, %s: up to %d executions, %s%s, of %s", worst.factors, worst.runs, span(worst.time), of, quote(worst.step.node.Path)), "retry on one level only, or less often")
}

// groupRetry returns the RetryStepGroup of a group with the most retries.
func groupRetry(e *element) (*strategy, int) {
	var most *strategy
	count := 0
	if e.level == recourse.LevelStepGroup {
		for _, s := range e.strategies {
			if s.Do.Action == recourse.RetryStepGroup && s.Do.Retry.Count > count {
				most, count = s, s.Do.Retry.Count
			}
		}
	}
	return most, count
}

func outerGroupRetry(e *element) bool {
	for ; e != nil; e = e.parent {
		if _, n := groupRetry(e); n > 0 {
			return true
		}
	}
	return false
}

// worstCase is the step that is run most often. The zero value is none.
type worstCase struct {
	step          *element
	product, runs int           // of the retries, and of the runs that they make
	factors       string        // of runs, innermost first: 4·3·3
	time          time.Duration // of all runs and waits
}

// walk looks at the steps below e whose failures the groups around them decide.
func (w *worstCase) walk(e *element) {
	if e.level == recourse.LevelStep {
		w.weigh(e)
		return
	}
	for _, child := range e.children {
		if child.node.Section == e.node.Section {
			w.walk(child)
		}
	}
}

// weigh multiplies the most retries a step can have, its own or those of a level outside that its failures reach, with those of
// the groups that its failures reach.
func (w *worstCase) weigh(step *element) {
	var own *retry.Policy
	var groups []*retry.Policy
	for e := step; e != nil && e.node.Section == step.node.Section; e = e.parent {
		for _, s := range e.strategies {
			if s.Do.Action == recourse.Retry && (own == nil || s.Do.Retry.Count > own.Count) {
				own = s.Do.Retry
			}
		}
		if s, n := groupRetry(e); n > 0 {
			groups = append(groups, s.Do.Retry)
		}
		if e.covered().Has(recourse.AllErrors) {
			break
		}
	}
	policies := groups
	if own != nil && own.Count > 0 {
		policies = append([]*retry.Policy{own}, groups...)
	}
	if len(groups) == 0 || len(policies) < 2 {
		return
	}
	sum := worstCase{step: step, product: 1, runs: 1, time: step.timeout}
	var factors []string
	for _, p := range policies {
		sum.product = min(sum.product*p.Count, 1<<30)
		sum.runs = min(sum.runs*(p.Count+1), 1<<30)
		sum.time = saturate(sum.time, p.Count+1, totalWait(p))
		factors = append(factors, strconv.Itoa(p.Count+1))
	}
	sum.factors = strings.Join(factors, "·")
	if sum.runs > w.runs {
		*w = sum
	}
}

// longest is where sums of waits end.
const longest = 100 * 365 * 24 * time.Hour

// saturate returns d·n + more, at most longest.
func saturate(d time.Duration, n int, more time.Duration) time.Duration {
	if d > 0 && int64(n) > int64(longest/d) {
		return longest
	}
	return min(d*time.Duration(n)+more, longest)
}

// totalWait is what the retries of a policy wait together, jitter left out. It takes no loop over the retries: there may be many.
func totalWait(p *retry.Policy) time.Duration {
	if p.Backoff == nil {
		var total time.Duration
		used := p.Intervals[:min(p.Count, len(p.Intervals))]
		for _, wait := range used {
			total = saturate(wait, 1, total)
		}
		if len(used) == 0 {
			return 0
		}
		return saturate(used[len(used)-1], p.Count-len(used), total)
	}
	// The first rising waits are a geometric series, the rest are all Max.
	b := p.Backoff
	rising := p.Count
	sum := float64(b.Initial) * float64(rising)
	if b.Multiplier > 1 {
		rising = min(rising, int(math.Log(float64(b.Max)/float64(b.Initial))/math.Log(b.Multiplier))+1)
		sum = float64(b.Initial) * (math.Pow(b.Multiplier, float64(rising)) - 1) / (b.Multiplier - 1)
	}
	if sum > float64(longest) {
		return longest
	}
	return saturate(b.Max, p.Count-rising, time.Duration(sum).Round(time.Second))
}

// span writes a duration for people: 2h14m, 90d.
func span(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	var b strings.Builder
	for _, unit := range [...]struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if n := d / unit.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, unit.name)
			d -= n * unit.size
		}
	}
	if b.Len() == 0 {
		return d.String()
	}
	return b.String()
}

// lintNothingToRollBack: a rollback of what has no rollbackSteps undoes nothing. Said once for each stage or group.
func (l *loader) lintNothingToRollBack() {
	anywhere := false
	for i := len(l.elements) - 1; i >= 0; i-- { // what is inside comes before what encloses it
		e := l.elements[i]
		e.hasRollback = e.hasRollback || e.opaque
		if anywhere = anywhere || e.hasRollback; e.parent != nil {
			e.parent.hasRollback = e.parent.hasRollback || e.hasRollback
		}
	}
	said := make(map[*element]bool)
	for _, e := range l.elements {
		for _, s := range e.strategies {
			eachAction(&s.Do, func(do *decide.ActionSpec) {
				target := rollbackTarget(e, do.Action)
				if target == nil || said[target] || !isRollback(do.Action) || anywhere && (do.Action == recourse.PipelineRollback || target.hasRollback) {
					return
				}
				said[target] = true
				l.warn(s.action, "nothing-to-roll-back", fmt.Sprintf("%s undoes nothing: %s has no rollbackSteps", do.Action, quote(target.node.Path)), "add rollbackSteps, or use MarkAsFailure")
			})
		}
	}
}

// rollbackTarget is the stage or group that an action rolls back; nil where that cannot be told.
func rollbackTarget(e *element, action recourse.Action) *element {
	for ; e != nil; e = e.parent {
		if e.detached {
			return nil
		}
		if e.level == recourse.LevelStage || e.level == recourse.LevelStepGroup && action == recourse.StepGroupRollback {
			return e
		}
	}
	return nil
}
