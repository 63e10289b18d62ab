package decide_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
)

// The oracle is a second implementation of the rules, written to be obvious: it keeps every decision it ever made in a list and scans
// that list for every question. It shares nothing with the package but the names of actions, types and reasons.

// What the oracle reads: a tree, not the compiled plan.

type oracleNode struct {
	path       string
	rollback   bool
	level      recourse.Level
	strategies []oracleStrategy
}

type oracleStrategy struct {
	name     string
	types    []recourse.ErrorType
	exitCode int // 0: no condition
	do       *oracleAction
}

type oracleAction struct {
	action     recourse.Action
	count      int
	intervals  []time.Duration
	initial    time.Duration // backoff, 0: none
	multiplier float64
	max        time.Duration
	then       *oracleAction // after exhausted retries, or after a time-out
	timeout    time.Duration
	allowed    []recourse.Action
}

// verdict is one decision of the oracle, and its memory of it.
type verdict struct {
	result  decide.Result
	version int // that a repeat repeats, or that is too early

	kind     string // "failure", "answer", "control", "due", "lifecycle"
	node     string
	rollback bool
	attempt  int
	digest   string
	key      string

	action   recourse.Action
	reason   recourse.Reason
	plain    string // kind of a plain decision
	strategy string
	level    recourse.Level

	verb        string
	scope       string
	nextAttempt int

	delay     time.Duration
	waits     recourse.WaitKind
	waitScope string
	due       time.Time
	then      *oracleAction
	allowed   []recourse.Action
	retry, of int    // which retry it waits for
	group     string // the group its strategy means

	ends      int
	cancelled []int

	status string
	stage  recourse.StageOutcome
	runs   []string
	failed bool
}

type oracle struct {
	nodes   []oracleNode
	known   bool // the pipeline is known
	engine  bool
	records []*verdict // record i has version i+1
	now     time.Time
}

func contains(scope, path string) bool {
	return scope == "" || path == scope || strings.HasPrefix(path, scope+"/")
}

// levels returns the listed nodes on a path, closest first, that count for a node of the section (R2, R5, R6).
func (o *oracle) levels(path string, rollback bool) (found []oracleNode, paths []string) {
	segments := strings.Split(path, "/")
	for n := len(segments); n > 0 && o.known; n-- {
		plain := make([]string, n)
		for i := range plain {
			plain[i], _, _ = strings.Cut(segments[i], "[")
		}
		for _, node := range o.nodes {
			if node.path == strings.Join(plain, "/") && node.rollback == rollback {
				found = append(found, node)
				paths = append(paths, strings.Join(segments[:n], "/"))
			}
		}
	}
	return found, paths
}

func (o *oracle) groupAround(path string, rollback bool) string {
	if !o.known {
		if s := strings.Split(path, "/"); len(s) > 2 {
			return strings.Join(s[:len(s)-1], "/")
		}
		return ""
	}
	nodes, paths := o.levels(path, rollback)
	for i, n := range nodes {
		if n.level == recourse.LevelStepGroup {
			return paths[i]
		}
	}
	return ""
}

// normalize is R1.
func oracleTypes(types []recourse.ErrorType) []recourse.ErrorType {
	if len(types) == 0 {
		return []recourse.ErrorType{recourse.Unknown}
	}
	if slices.Contains(types, recourse.Authentication) {
		types = slices.DeleteFunc(slices.Clone(types), func(t recourse.ErrorType) bool { return t == recourse.Authorization })
	}
	return types
}

// resolve is R2 to R5.
func (o *oracle) resolve(path string, rollback bool, types []recourse.ErrorType, exitCode int) (s *oracleStrategy, level recourse.Level, levelPath string) {
	types = oracleTypes(types)
	nodes, paths := o.levels(path, rollback)
	for i, n := range nodes {
		var specific, any []oracleStrategy
		for _, s := range n.strategies {
			if s.exitCode != 0 && s.exitCode != exitCode {
				continue
			}
			shares := slices.ContainsFunc(types, func(t recourse.ErrorType) bool { return slices.Contains(s.types, t) })
			if shares {
				specific = append(specific, s)
			}
			if shares || slices.Contains(s.types, recourse.AllErrors) {
				any = append(any, s)
			}
		}
		if o.engine && len(specific) > 0 {
			return &specific[0], n.level, paths[i]
		}
		if len(any) > 0 {
			return &any[0], n.level, paths[i]
		}
	}
	return nil, recourse.LevelNone, ""
}

// restarts reports whether record r runs a group again that the node stands in.
func restarts(r *verdict, path string, rollback bool) bool {
	return r.verb == "retry-group" && r.scope != path && contains(r.scope, path) && (rollback || !r.rollback)
}

// used is R8: attempts since the last group retry, less one.
func (o *oracle) used(path string, rollback bool, attempt int) int {
	first := 1
	for i, r := range o.records {
		if !restarts(r, path, rollback) {
			continue
		}
		first = attempt
		for _, later := range o.records[i+1:] {
			if later.kind == "failure" && later.node == path && later.rollback == rollback && later.reason != recourse.Stale && later.reason != recourse.Conflicting {
				first = later.attempt
				break
			}
		}
	}
	return attempt - first
}

func (o *oracle) usedByGroup(group string, rollback bool) (n int) {
	for _, r := range o.records {
		switch {
		case restarts(r, group, rollback):
			n = 0
		case r.verb == "retry-group" && r.scope == group && r.rollback == rollback:
			n++
		}
	}
	return n
}

// pending returns the records that wait, oldest first.
func (o *oracle) pending() (out []*verdict) {
	for i, r := range o.records {
		over := r.waits == 0
		for _, later := range o.records[i+1:] {
			over = over || later.ends == i+1 || slices.Contains(later.cancelled, i+1)
		}
		if !over {
			out = append(out, r)
		}
	}
	return out
}

func (o *oracle) versionOf(r *verdict) int { return slices.Index(o.records, r) + 1 }

var oracleStrength = map[string]int{"abort": 4, "rollback-pipeline": 3, "rollback-stage": 2, "rollback-group": 1}

// cover returns the strongest rollback or abort that covers a node; a group that is run again is not rolled back any more (R11).
func (o *oracle) cover(path string, rollback bool) (strongest int) {
	for i, r := range o.records {
		strength := oracleStrength[r.verb]
		if strength == 0 || !contains(r.scope, path) || rollback && r.verb != "abort" {
			continue
		}
		over := false
		for _, later := range o.records[i+1:] {
			over = over || later.verb == "retry-group" && r.scope != "" && contains(later.scope, r.scope)
		}
		if !over {
			strongest = max(strongest, strength)
		}
	}
	return strongest
}

func (o *oracle) ended() bool {
	return slices.ContainsFunc(o.records, func(r *verdict) bool { return r.kind == "lifecycle" })
}

func (o *oracle) failedBefore() bool {
	return slices.ContainsFunc(o.records, func(r *verdict) bool { return r.failed })
}

func (o *oracle) plain(v *verdict, reason recourse.Reason, kind string) {
	v.reason, v.plain, v.failed = reason, kind, o.failedBefore()
}

// failure decides on a failed attempt.
func (o *oracle) failure(path string, rollback bool, attempt int, digest string, types []recourse.ErrorType, exitCode int, retryAfter time.Duration) *verdict {
	v := &verdict{result: decide.Decided, kind: "failure", node: path, rollback: rollback, attempt: attempt, digest: digest}
	newest, differs := 0, false
	for i, r := range o.records {
		if r.kind != "failure" || r.node != path || r.rollback != rollback {
			continue
		}
		if r.attempt == attempt && r.digest == digest {
			return &verdict{result: decide.Repeated, version: i + 1}
		}
		differs = differs || r.attempt == attempt
		if r.reason != recourse.Stale && r.reason != recourse.Conflicting {
			newest = max(newest, r.attempt)
		}
	}
	switch {
	case differs:
		o.plain(v, recourse.Conflicting, "conflicting")
	case attempt < newest:
		o.plain(v, recourse.Stale, "stale")
	default:
		do := &oracleAction{action: recourse.MarkAsFailure}
		v.reason = recourse.NoStrategy
		v.group = o.groupAround(path, rollback)
		if s, level, levelPath := o.resolve(path, rollback, types, exitCode); s != nil {
			do, v.reason, v.strategy, v.level = s.do, recourse.StrategyMatched, s.name, level
			if level == recourse.LevelStepGroup {
				v.group = levelPath
			}
		}
		o.carryOut(v, do, retryAfter)
	}
	o.records = append(o.records, v)
	return v
}

// carryOut finds the action after exhausted retries and does it, where nothing that came first covers the node.
func (o *oracle) carryOut(v *verdict, do *oracleAction, retryAfter time.Duration) {
	fail := &oracleAction{action: recourse.MarkAsFailure}
	for {
		if (do.action == recourse.RetryStepGroup || do.action == recourse.StepGroupRollback) && v.group == "" {
			do = fail
		}
		used := 0
		switch do.action {
		case recourse.Retry:
			used = o.used(v.node, v.rollback, v.attempt)
		case recourse.RetryStepGroup:
			used = o.usedByGroup(v.group, v.rollback)
		}
		if (do.action != recourse.Retry && do.action != recourse.RetryStepGroup) || used < do.count {
			break
		}
		v.reason = recourse.RetriesExhausted
		if do = do.then; do == nil {
			do = fail
		}
	}
	v.action = do.action
	strength := map[recourse.Action]int{recourse.Abort: 4, recourse.PipelineRollback: 3, recourse.StageRollback: 2, recourse.StepGroupRollback: 1}[do.action]
	if o.ended() {
		o.plain(v, recourse.ExecutionEnded, "superseded")
		return
	}
	if c := o.cover(v.node, v.rollback); c > 0 && c >= strength {
		o.plain(v, recourse.Superseded, "superseded")
		return
	}
	for _, p := range o.pending() {
		runsAgain := p.waits == recourse.WaitRetryGroup && contains(p.waitScope, v.node) && o.versionOf(p) != v.ends // not one that is given up
		wantsToo := do.action == recourse.Retry || do.action == recourse.ManualIntervention || do.action == recourse.RetryStepGroup && contains(p.waitScope, v.group)
		if runsAgain && wantsToo {
			o.plain(v, recourse.Superseded, "superseded")
			return
		}
	}
	o.do(v, do, retryAfter, false)
}

func (o *oracle) do(v *verdict, do *oracleAction, retryAfter time.Duration, human bool) {
	if (do.action == recourse.RetryStepGroup || do.action == recourse.StepGroupRollback) && v.group == "" {
		do = &oracleAction{action: recourse.MarkAsFailure}
	}
	v.action = do.action
	stage, _, _ := strings.Cut(v.node, "/")
	scope, covers := v.node, false
	switch do.action {
	case recourse.StageRollback:
		scope, covers = stage, true
	case recourse.StepGroupRollback:
		scope, covers = v.group, true
	case recourse.PipelineRollback, recourse.Abort:
		scope, covers = "", true
	case recourse.RetryStepGroup:
		scope = v.group
	}
	for _, p := range o.pending() {
		version := o.versionOf(p)
		if version == v.ends {
			continue
		}
		what := p.node
		if p.waits == recourse.WaitRetryGroup {
			what = p.waitScope
		}
		own := p.node == v.node && p.rollback == v.rollback
		covered := covers && contains(scope, what) && (!p.rollback || do.action == recourse.Abort)
		rerun := do.action == recourse.RetryStepGroup && contains(scope, p.node)
		if own || covered || rerun {
			v.cancelled = append(v.cancelled, version)
		}
	}
	v.verb, v.scope = map[recourse.Action]string{
		recourse.Ignore: "ignore", recourse.Retry: "retry", recourse.RetryStepGroup: "retry-group", recourse.MarkAsSuccess: "mark-success",
		recourse.MarkAsFailure: "mark-failure", recourse.Abort: "abort", recourse.StageRollback: "rollback-stage",
		recourse.StepGroupRollback: "rollback-group", recourse.PipelineRollback: "rollback-pipeline",
		recourse.ManualIntervention: "pause", recourse.ProceedWithDefaultValues: "proceed-with-defaults",
	}[do.action], scope
	switch do.action {
	case recourse.Retry, recourse.RetryStepGroup:
		used := o.used(v.node, v.rollback, v.attempt)
		kind, plain := recourse.WaitRetry, "retry-scheduled"
		if do.action == recourse.RetryStepGroup {
			used = o.usedByGroup(v.group, v.rollback)
			kind, plain = recourse.WaitRetryGroup, "group-retry-scheduled"
		} else {
			v.nextAttempt = v.attempt + 1
		}
		if !human {
			v.delay = oracleDelay(do, used+1, retryAfter)
		}
		if v.delay > 0 {
			v.plain, v.waits, v.due = plain, kind, o.now.Add(v.delay)
			v.retry, v.of, v.then = used+1, do.count, do.then
			v.waitScope = ""
			if kind == recourse.WaitRetryGroup {
				v.waitScope = v.group
			}
			v.verb, v.scope, v.nextAttempt = "", "", 0
		}
	case recourse.ManualIntervention:
		v.waits, v.then, v.allowed = recourse.WaitIntervention, do.then, do.allowed
		if v.rollback { // R5: there is no rollback under rollbackSteps
			v.allowed = slices.DeleteFunc(slices.Clone(do.allowed), func(a recourse.Action) bool {
				return a == recourse.StageRollback || a == recourse.StepGroupRollback || a == recourse.PipelineRollback
			})
		}
		v.due = o.now.Add(do.timeout)
	}
	o.effect(v)
}

func oracleDelay(do *oracleAction, i int, retryAfter time.Duration) (wait time.Duration) {
	switch {
	case do.initial > 0:
		wait = time.Duration(math.Min(float64(do.max), float64(do.initial)*math.Pow(do.multiplier, float64(i-1))))
	case i <= len(do.intervals):
		wait = do.intervals[i-1]
	case len(do.intervals) > 0:
		wait = do.intervals[len(do.intervals)-1]
	}
	return max(wait, min(retryAfter, time.Hour))
}

// effect is the tables of the actions and of R13.
func (o *oracle) effect(v *verdict) {
	v.status = map[recourse.Action]string{
		recourse.Ignore: "IgnoreFailed", recourse.Retry: "Retrying", recourse.RetryStepGroup: "Retrying", recourse.MarkAsSuccess: "Succeeded",
		recourse.MarkAsFailure: "Failed", recourse.Abort: "Aborted", recourse.StageRollback: "Failed", recourse.StepGroupRollback: "Failed",
		recourse.PipelineRollback: "Failed", recourse.ManualIntervention: "InterventionWaiting", recourse.ProceedWithDefaultValues: "ProceedingWithDefaultValues",
	}[v.action]
	v.failed = o.failedBefore()
	switch v.action {
	case recourse.Ignore:
		v.failed = v.failed || !o.engine
	case recourse.MarkAsFailure:
		v.stage, v.runs = "failed", []string{"Failure", "All"}
		if v.rollback && o.ofStage(v.node) {
			v.stage = "rollback-failed"
		}
	case recourse.StepGroupRollback:
		v.stage, v.runs = "failed", []string{"Failure", "All"}
	case recourse.StageRollback:
		v.stage, v.runs = "rolled-back", []string{"All"}
		if o.engine {
			v.runs = []string{"Failure", "All"}
		}
	case recourse.PipelineRollback:
		v.stage = "pipeline-rolled-back"
	case recourse.Abort:
		v.stage = "aborted"
	}
	for _, r := range o.records {
		if r.verb == "rollback-pipeline" || r.verb == "abort" {
			v.runs = nil
		}
	}
	v.failed = v.failed || v.stage != ""
}

// ofStage reports whether a rollbackSteps is that of the stage: no group under steps stands between.
func (o *oracle) ofStage(path string) bool {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		path = path[:i]
	}
	nodes, _ := o.levels(path, false)
	return len(nodes) > 0 && nodes[0].level == recourse.LevelStage
}

// answer is R9.
func (o *oracle) answer(key, digest string, intervention int, action recourse.Action) *verdict {
	v := &verdict{result: decide.Decided, kind: "answer", key: key, digest: digest, action: action}
	for i, r := range o.records {
		if r.kind == "answer" && r.key == key {
			if r.digest == digest {
				return &verdict{result: decide.Repeated, version: i + 1}
			}
			v.reason = recourse.Conflicting
		}
	}
	var open *verdict
	for _, p := range o.pending() {
		if p.waits == recourse.WaitIntervention && o.versionOf(p) == intervention {
			open = p
		}
	}
	switch {
	case v.reason == recourse.Conflicting:
		// A repeat may stand behind the first one that differs; the loop above has seen to that.
		o.plain(v, recourse.Conflicting, "conflicting")
	case open == nil:
		o.plain(v, recourse.AnswerRefused, "refused")
	case !slices.Contains(open.allowed, action):
		v.node, v.rollback, v.attempt = open.node, open.rollback, open.attempt
		o.plain(v, recourse.AnswerRefused, "refused")
	default:
		o.goOn(v, open)
		v.reason = recourse.HumanDecision
		o.do(v, &oracleAction{action: action, timeout: 24 * time.Hour, allowed: oracleDefaultAnswers}, 0, true)
	}
	o.records = append(o.records, v)
	return v
}

var oracleDefaultAnswers = []recourse.Action{
	recourse.MarkAsSuccess, recourse.Ignore, recourse.Retry, recourse.Abort, recourse.StageRollback, recourse.MarkAsFailure,
}

func (o *oracle) goOn(v, from *verdict) {
	v.node, v.rollback, v.attempt = from.node, from.rollback, from.attempt
	v.strategy, v.level = from.strategy, from.level
	v.ends = o.versionOf(from)
	v.group = from.group
	if from.level != recourse.LevelStepGroup {
		v.group = o.groupAround(from.node, from.rollback)
	}
}

func (o *oracle) due(version int) *verdict {
	v := &verdict{result: decide.Decided, kind: "due"}
	for _, p := range o.pending() {
		if o.versionOf(p) != version {
			continue
		}
		if o.now.Before(p.due) {
			return &verdict{result: decide.Early, version: version}
		}
		o.goOn(v, p)
		v.reason = recourse.RetryDue
		switch p.waits {
		case recourse.WaitRetry:
			v.action, v.verb, v.scope, v.nextAttempt = recourse.Retry, "retry", p.node, p.attempt+1
			o.effect(v)
		case recourse.WaitRetryGroup:
			v.action, v.verb, v.scope = recourse.RetryStepGroup, "retry-group", p.waitScope
			o.effect(v)
		default:
			v.reason = recourse.InterventionTimedOut
			then := p.then
			if then == nil {
				then = &oracleAction{action: recourse.MarkAsFailure}
			}
			o.carryOut(v, then, 0)
		}
		o.records = append(o.records, v)
		return v
	}
	return &verdict{result: decide.NotWaiting}
}

// control is R8 by hand: the retry that waits runs now, waits again, or is followed by what follows the last one.
func (o *oracle) control(key, digest string, wait int, do recourse.ControlVerb, by time.Duration) *verdict {
	v := &verdict{result: decide.Decided, kind: "control", key: key, digest: digest}
	for i, r := range o.records {
		if r.kind == "control" && r.key == key {
			if r.digest == digest {
				return &verdict{result: decide.Repeated, version: i + 1}
			}
			v.reason = recourse.Conflicting
		}
	}
	var pending *verdict
	for _, p := range o.pending() {
		if p.waits != recourse.WaitIntervention && o.versionOf(p) == wait {
			pending = p
		}
	}
	switch {
	case v.reason == recourse.Conflicting:
		o.plain(v, recourse.Conflicting, "conflicting")
	case pending == nil:
		o.plain(v, recourse.AnswerRefused, "refused")
	default:
		o.goOn(v, pending)
		v.reason = recourse.HumanDecision
		group := pending.waits == recourse.WaitRetryGroup
		v.action = recourse.Retry
		if group {
			v.action = recourse.RetryStepGroup
		}
		switch {
		case do == recourse.Cancel && pending.then == nil:
			o.carryOut(v, &oracleAction{action: recourse.MarkAsFailure}, 0)
		case do == recourse.Cancel:
			o.carryOut(v, pending.then, 0)
		case do == recourse.Postpone:
			v.plain, v.delay, v.due = "retry-postponed", by, o.now.Add(by)
			v.waits, v.waitScope, v.retry, v.of, v.then = pending.waits, pending.waitScope, pending.retry, pending.of, pending.then
			o.effect(v)
		case group:
			v.verb, v.scope = "retry-group", pending.waitScope
			o.effect(v)
		default:
			v.verb, v.scope, v.nextAttempt = "retry", pending.node, pending.attempt+1
			o.effect(v)
		}
	}
	o.records = append(o.records, v)
	return v
}

func (o *oracle) lifecycle(key string) *verdict {
	v := &verdict{result: decide.Decided, kind: "lifecycle", key: key}
	for i, r := range o.records {
		if r.kind == "lifecycle" && r.key == key {
			return &verdict{result: decide.Repeated, version: i + 1}
		}
	}
	for _, p := range o.pending() {
		v.cancelled = append(v.cancelled, o.versionOf(p))
	}
	o.plain(v, recourse.LifecycleReported, "closed")
	o.records = append(o.records, v)
	return v
}

// compile makes the plan that the package reads.
func (o *oracle) compile() *decide.Plan {
	if !o.known {
		return nil
	}
	var nodes []decide.PlanNode
	for _, n := range o.nodes {
		p := decide.PlanNode{Node: recourse.Node{Path: n.path}, Level: n.level}
		if n.rollback {
			p.Section = recourse.RollbackSteps
		}
		for i, s := range n.strategies {
			c := decide.Strategy{Path: s.name, Index: i, Errors: recourse.ErrorTypesOf(s.types...), Do: *compileAction(s.do)}
			if s.exitCode != 0 {
				c.Condition = exitCodeIs(fmt.Sprintf("exit=%d", s.exitCode))
			}
			p.Strategies = append(p.Strategies, c)
		}
		nodes = append(nodes, p)
	}
	semantics := recourse.Documented
	if o.engine {
		semantics = recourse.Engine
	}
	return decide.NewPlan("release", semantics, nodes)
}

func compileAction(a *oracleAction) *decide.ActionSpec {
	if a == nil {
		return nil
	}
	spec := &decide.ActionSpec{Action: a.action}
	switch a.action {
	case recourse.Retry, recourse.RetryStepGroup:
		spec.Retry = &retry.Policy{Count: a.count, Intervals: a.intervals}
		if a.initial > 0 {
			spec.Retry.Backoff = &retry.Backoff{Initial: a.initial, Multiplier: a.multiplier, Max: a.max}
		}
		spec.OnRetryFailure = compileAction(a.then)
	case recourse.ManualIntervention:
		spec.Intervention = &decide.InterventionSpec{
			Timeout: a.timeout, Allowed: recourse.ActionsOf(a.allowed...), OnTimeout: compileAction(a.then),
		}
	}
	return spec
}
