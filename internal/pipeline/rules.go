package pipeline

import "slices"

// Rule is what a code of a diagnostic stands for.
type Rule struct {
	// Code is that of the diagnostics.
	Code string `json:"code"`
	// Severity is that of the documented semantics; where a rule has both, the worse.
	Severity Severity `json:"severity"`
	// Strict rules are errors under the engine's semantics.
	Strict bool `json:"strict"`
	// Summary says in one sentence what is found.
	Summary string `json:"summary"`
	// Help says why it matters, or what to do.
	Help string `json:"help"`
	// Clause is the part of the Lint section of the semantics that the rule implements, "" for a rule that is no lint.
	Clause string `json:"clause"`
}

// Rules returns all rules by their code.
func Rules() []Rule { return slices.Clone(rules) }

// RuleOf returns the rule of a code.
func RuleOf(code string) (Rule, bool) {
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.Code == code })
	if i < 0 {
		return Rule{}, false
	}
	return rules[i], true
}

const warns, fails = SeverityWarning, SeverityError

var rules = []Rule{
	{"action-not-a-mapping", fails, false, "An action is text where a mapping belongs.", "Write action: {type: Abort}.", ""},
	{"all-errors-not-last", warns, false, "A strategy stands behind one for AllErrors and never applies.", "The first strategy that applies wins (R3): put the one for AllErrors last.", "AllErrors not last, or sharing its list"},
	{"all-errors-shared", warns, true, "AllErrors shares its list with other types.", "AllErrors includes the others, so they mean nothing; the engine refuses the list. Leave AllErrors alone in it, or list the types only.", "AllErrors not last, or sharing its list"},
	{"all-errors-twice", warns, true, "AllErrors is there twice on one level.", "The first strategy wins (R3), the other never applies.", "same type twice with different actions on one level"},
	{"backoff-and-intervals", fails, false, "The waits of a retry are given twice, by retryIntervals and by backoff.", "Keep one of them.", ""},
	{"bad-answer-by", fails, false, "answerBy does not say who may answer.", "Write the principals, as the subjects of their answers have them: [ann, release-*] (R9).", ""},
	{"bad-available-actions", fails, false, "availableActions has something in it that is no answer.", "An answer is the name of an action other than ManualIntervention (R9).", ""},
	{"bad-backoff", fails, false, "The backoff of a retry cannot be read.", "Write backoff: {initial: 10s, multiplier: 2, max: 5m, jitter: 0.1}.", ""},
	{"bad-condition", fails, false, "The condition of a retry cannot be read.", "A condition that cannot be evaluated would be false (R4): the strategy is left out.", ""},
	{"bad-identifier", fails, false, "An identifier cannot be one, or the path it makes is too long.", "Without it no failure can name the node.", ""},
	{"bad-retry-count", fails, false, "retryCount is no whole number from 0 to 10000.", "Write a number; the engine needs one when the pipeline is registered.", ""},
	{"bad-retry-intervals", fails, false, "A retry interval is no duration.", "Write durations with a unit: [10s, 1m20s].", ""},
	{"bad-timeout", fails, false, "The timeout of an intervention is no duration.", "Write a duration with a unit: 1h, 1d.", ""},
	{"condition-ignored", warns, false, "A condition stands where it has no effect.", "Only the Retry of a strategy itself can have one (R4).", ""},
	{"conflicting-actions", warns, true, "One error type has two actions on one level.", "The first strategy wins (R3); the engine refuses the pipeline.", "same type twice with different actions on one level"},
	{"default-values-misplaced", warns, false, "ProceedWithDefaultValues is for other errors than InputTimeoutError.", "Only an input that did not come has a default to go on with.", "ProceedWithDefaultValues on other types"},
	{"deployment-without-all-errors", warns, true, "A Deployment stage has no strategy for AllErrors.", "What none of its strategies takes fails the stage without a rollback (R6).", "Deployment stage without an AllErrors strategy"},
	{"duplicate-key", fails, false, "A key is in one mapping twice.", "The first is used; where it is about failures or about which node it is, that is an error.", ""},
	{"duplicate-node", warns, false, "Two nodes have the same path.", "Their failures cannot be told apart, and are decided by the first.", ""},
	{"empty-errors", warns, false, "A strategy lists no error types and never applies.", "Write errors: [AllErrors], or the types it is for.", ""},
	{"errors-not-a-list", fails, false, "errors is no list.", "A single name is read as a list of one, with a warning.", ""},
	{"extra-documents", warns, false, "A file has more than one document.", "Only the first is read.", ""},
	{"fragment", fails, false, "The file is a part of a pipeline.", "What it says about failures was checked; it cannot be registered.", ""},
	{"group-rollback-misplaced", fails, false, "StepGroupRollback stands where there is no group to roll back.", "It belongs to the strategy of a step group.", ""},
	{"input-not-allowed", fails, false, "A value that is given for an input is not one that the input allows.", "allowedValues lists them, regex has to match all of the value.", ""},
	{"input-set-pipeline", warns, false, "Inputs are used for another pipeline than they name.", "", ""},
	{"input-set-unresolved", fails, false, "An overlay lists an input set that no file has.", "Give the files of its input sets, too.", ""},
	{"input-unchecked", warns, false, "A value that is given cannot be checked.", "The pattern of its input is no regular expression of Go, or the inputs are too many.", ""},
	{"input-unused", warns, false, "A value is given for something that is no input, or is not there.", "Only what is <+input> can be filled in.", ""},
	{"intervals-not-a-list", warns, false, "retryIntervals is a single duration.", "It is read as a list of one.", ""},
	{"intervention-too-long", warns, false, "An intervention stays open longer than its stage may run.", "The stage ends before somebody has to answer.", "intervention without timeout, or longer than the stage timeout"},
	{"many-retries", warns, false, "A retry has a retryCount of more than 10.", "Look at how long they wait together: who waits for the last of them?", "retryCount > 10"},
	{"misplaced-strategies", warns, false, "failureStrategies stands where nothing reads it.", "Strategies belong to stages, step groups and steps.", ""},
	{"missing-action", fails, false, "A strategy does not say what to do.", "", ""},
	{"missing-errors", fails, false, "A strategy does not say for which errors it is.", "", ""},
	{"missing-identifier", fails, false, "A node has no identifier.", "One that has a name gets one made of it, with a warning. Without either no failure can name it.", ""},
	{"missing-on-failure", fails, false, "An entry of failureStrategies is no strategy.", "A strategy has the key onFailure, with errors and action below it.", ""},
	{"missing-on-retry-failure", warns, false, "A retry does not say what follows the last attempt.", "MarkAsFailure follows (R8).", ""},
	{"missing-on-timeout", warns, false, "An intervention does not say what follows when nobody answers.", "MarkAsFailure follows (R9).", ""},
	{"missing-retry-count", fails, false, "A retry has no retryCount.", "", ""},
	{"missing-timeout", warns, false, "An intervention has no timeout.", "It stays open for a day (R9).", "intervention without timeout, or longer than the stage timeout"},
	{"nested-action", fails, false, "An action cannot follow the last retry, or the timeout of an intervention.", "R10 says which can.", ""},
	{"never-applies", warns, false, "A strategy never applies: an earlier one, or one closer to each step, takes all of its types.", "Somebody who reads it believes that it does something.", "Strategy that can never apply (shadowed by an earlier one or by a closer AllErrors)"},
	{"no-inputs", fails, false, "A file that is given as inputs has none.", "Inputs stand under inputSet, overlayInputSet or pipeline.", ""},
	{"no-pipeline", fails, false, "There is no pipeline in the file.", "", ""},
	{"no-retries", warns, false, "A retry has the retryCount 0.", "It goes on with onRetryFailure at once.", ""},
	{"nothing-to-roll-back", warns, false, "A rollback has no rollbackSteps to run.", "It undoes nothing. Add rollbackSteps, or use MarkAsFailure.", "rollback action in a stage with nothing to roll back"},
	{"old-error-type", warns, false, "AnyOther is an old name of AllErrors.", "It is read as AllErrors.", ""},
	{"retries-multiply", warns, false, "The retries of a step and of the groups around it multiply to more than 12, or make it run more than 30 times.", "A retry of a group starts the counters in it again. The message says how often the step may run, and for how long.", "product of step and group retries above 12 (show the number of executions and the worst-case time)"},
	{"retry-after-rejection", warns, false, "A rejected approval is asked for again.", "Who said no is asked once more; decide ApprovalRejection by a strategy of its own.", "retry after ApprovalRejection"},
	{"retry-group-misplaced", warns, false, "RetryStepGroup stands on something else than a step group.", "Only a group can be run again as one.", "RetryStepGroup on anything but a step group"},
	{"retry-on-auth", warns, false, "A retry is for Authentication or Authorization.", "Running again does not mend credentials, and may lock an account.", "Retry on Authentication or Authorization"},
	{"rollback-in-rollback", fails, false, "A rollback stands under rollbackSteps.", "There is no rollback of a rollback (R5).", ""},
	{"same-action-again", warns, false, "The timeout of an intervention retries what has just used up its retries.", "Let onTimeout end it.", "timeout action equal to the action that just failed"},
	{"strategies-not-a-list", fails, false, "failureStrategies is no list.", "Begin each strategy with \"- onFailure:\".", ""},
	{"surplus-intervals", warns, false, "A retry has more intervals than retries.", "The last ones are never used (R8).", "more intervals than retries"},
	{"template-cycle", fails, false, "A template contains itself, or templates stand in each other too deep.", "", ""},
	{"template-duplicate", warns, false, "A version of a template is in the directory twice.", "The first is used, by the names of the files.", ""},
	{"template-override", warns, false, "Failure strategies beside a template stand in place of those in it.", "What a node says itself counts.", ""},
	{"template-unreadable", warns, false, "A file that seems to have a template cannot be read.", "What refers to it will not find it.", ""},
	{"template-unresolved", fails, false, "A template is not there.", "Without --templates it is a warning: strategies in it are not known, and do not count.", ""},
	{"template-version", fails, false, "A template does not have the version that is named.", "The finding lists those there are.", ""},
	{"template-version-chosen", warns, false, "A template is used without its version, and none is stable.", "The highest is used; another one tomorrow, perhaps.", ""},
	{"template-wrong-type", fails, false, "A template is used as something else than it is.", "", ""},
	{"templates-unreadable", fails, false, "The directory of the templates cannot be read, or has too many.", "", ""},
	{"too-many-diagnostics", fails, false, "There are more findings than are shown.", "As severe as the worst of those that are not shown.", ""},
	{"too-many-nodes", fails, false, "A pipeline has too many stages, step groups and steps.", "", ""},
	{"too-many-strategies", fails, false, "A node has too many strategies.", "", ""},
	{"unknown-action", fails, false, "An action is none that is known.", "", ""},
	{"unknown-error-type", fails, false, "An error type is none that is known.", "", ""},
	{"unresolved-input", warns, false, "Something about failures is <+input> or another expression.", "It counts as if it were not there. Fill it with --inputs.", "unresolved `<+input>`"},
	{"unresolved-strategy", warns, false, "How often a node runs is not known before it runs.", "The simulation takes one iteration for all.", ""},
	{"unresolved-when", warns, false, "The condition under which a node runs is not known before it runs.", "The simulation takes Success for it.", ""},
	{"v1-yaml", fails, false, "The file is a v1 pipeline.", "v0 is supported.", ""},
	{"wait-too-long", warns, false, "Retries wait longer than the step or what is around it may run.", "The last of them never happen. Wait less, or raise the timeout.", "total wait longer than the step or stage timeout"},
	{"yaml-limits", fails, false, "The file, or what its templates make of it, is too large or nests too deep.", "", ""},
	{"yaml-syntax", fails, false, "The file is not YAML.", "", ""},
}
