package decide_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse"
)

// engineFacts play known behaviour of the engine: a strategy on a step of a group, the inputs, and what the output has or has not ("!").
// Facts speak of retries; the attempt that failed is one more.
var engineFacts = map[string]struct {
	strategy, inputs, want string
}{
	"match-01":  {"Unknown -> Ignore", "fail s/g/a", "Ignore, StrategyMatched"},
	"match-05":  {"Unknown -> Ignore", "fail s/g/a", "Ignore, StrategyMatched"},
	"match-08":  {"Authentication -> Ignore", "fail s/g/a Verification", "MarkAsFailure, NoStrategy"},
	"match-09":  {"Authentication -> Retry 1", "fail s/g/a", "NoStrategy"},
	"match-10":  {"Verification -> Retry 1", "fail s/g/a", "NoStrategy"},
	"match-14":  {"Authentication -> Ignore", "fail s/g/a Authentication", "StrategyMatched"},
	"match-16":  {"Authentication -> Ignore", "fail s/g/a", "NoStrategy"},
	"match-19":  {"Verification -> MarkAsSuccess", "fail s/g/a Verification", "MarkAsSuccess, StrategyMatched"},
	"match-23":  {"Connectivity,Authentication -> Abort", "fail s/g/a Timeout", "NoStrategy"},
	"match-28":  {"Verification -> StageRollback", "fail s/g/a Verification", "StageRollback, StrategyMatched"},
	"match-31":  {"AllErrors -> ManualIntervention", "fail s/g/a Verification", "ManualIntervention, StrategyMatched"},
	"match-35":  {"Authentication -> ManualIntervention", "fail s/g/a Authentication", "ManualIntervention, StrategyMatched"},
	"retry-05":  {"AllErrors -> Retry 5 then Abort", "fail s/g/a #7 Timeout", "command.abort"},
	"retry-06":  {"AllErrors -> Retry 5 then MarkAsFailure", "fail s/g/a #7 Timeout", "command.mark-failure"},
	"retry-08":  {"AllErrors -> Retry 1 [10s] then ManualIntervention", "fail s/g/a #1 Timeout", "waits 10s"},
	"retry-10":  {"AllErrors -> Retry 1", "fail s/g/a #1 Timeout", "retry s/g/a as #2"},
	"retry-11":  {"AllErrors -> Retry 1 then ManualIntervention 120h", "fail s/g/a #3 Timeout", "intervention 1 until 120h0m0s"},
	"retry-12":  {"AllErrors -> Retry 1 then Abort", "fail s/g/a #3 Timeout", "command.abort"},
	"retry-14":  {"AllErrors -> Retry 1 then StageRollback", "fail s/g/a #3 Timeout", "rollback-stage s"},
	"retry-15":  {"AllErrors -> Retry 1 then StepGroupRollback", "fail s/g/a #3 Timeout", "rollback-group s/g"},
	"retry-17":  {"AllErrors -> Retry 1 then MarkAsSuccess", "fail s/g/a #3 Timeout", "command.mark-success"},
	"retry-19":  {"AllErrors -> RetryStepGroup 1 [10s]", "fail s/g/a Timeout", "waits 10s until 10s for retry-group of s/g"},
	"retry-21":  {"Verification -> RetryStepGroup 1", "fail s/g/a Verification", "retry-group s/g"},
	"manual-03": {"AllErrors -> ManualIntervention 1m then StepGroupRollback", "fail s/g/a;+1m;due 1", "rollback-group s/g"},
	"manual-04": {"AllErrors -> ManualIntervention 1m then StageRollback", "fail s/g/a;+1m;due 1", "rollback-stage s"},
	"manual-06": {"AllErrors -> ManualIntervention 1m then MarkAsSuccess", "fail s/g/a;+1m;due 1", "command.mark-success"},
	"manual-08": {"AllErrors -> ManualIntervention 1m then MarkAsFailure", "fail s/g/a;+1m;due 1", "command.mark-failure"},
	"manual-10": {"AllErrors -> ManualIntervention 1m then StepGroupRollback", "fail s/g/a;+1m;due 1", "command.rollback-group"},
	"manual-19": {"AllErrors -> ManualIntervention 1m", "fail s/g/a;answer 1 MarkAsSuccess jane", "node Succeeded"},
	"manual-21": {"AllErrors -> ManualIntervention 1m", "fail s/g/a;answer 1 Ignore jane", "node IgnoreFailed"},
}

// otherFacts cannot be said to this package: why is beside each.
var otherFacts = map[string]string{
	"match-04":  "failure types and failure data: a failure has one set",
	"match-12":  "a strategy without types is refused when it is read",
	"match-13":  "statuses are the orchestrator's; an input is a failure",
	"match-24":  "statuses are the orchestrator's; an input is a failure",
	"match-29":  "a strategy without types is refused when it is read",
	"match-30":  "statuses are the orchestrator's; an input is a failure",
	"match-32":  "a strategy without types is refused when it is read",
	"match-34":  "statuses are the orchestrator's; an input is a failure",
	"match-37":  "statuses are the orchestrator's; an input is a failure",
	"match-38":  "an input that expired is reported as a failure with InputTimeoutError",
	"retry-20":  "statuses are the orchestrator's; an input is a failure",
	"manual-12": "a time-out action that is not known is refused when it is read",
	"manual-18": "statuses are the orchestrator's; an intervention is open or not",
}

func TestEngineFacts(t *testing.T) {
	path := os.Getenv("RECOURSE_VECTORS")
	if path == "" {
		path = "../../../shared/vectors/engine-facts.json"
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("SKIP: no vectors at %s (RECOURSE_VECTORS names another place)", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	var facts []struct {
		ID, Kind, Expected string
		Input              json.RawMessage
	}
	if err := json.Unmarshal(content, &facts); err != nil {
		t.Fatal(err)
	}
	played := 0
	for _, fact := range facts {
		if fact.Kind == "merge" {
			if playMerge(t, fact.ID, fact.Input, fact.Expected) {
				played++
			}
			continue
		}
		if !slices.Contains([]string{"match", "retry", "manual"}, fact.Kind) || otherFacts[fact.ID] != "" {
			continue
		}
		f, known := engineFacts[fact.ID]
		if !known {
			t.Errorf("%s (%s) is neither played nor excused", fact.ID, fact.Input)
			continue
		}
		played++
		out := playScript(t, []string{"  stage s", "    group g", "      step a", "        " + f.strategy}, f.inputs)
		if !strings.Contains(out, f.want) {
			t.Errorf("%s: %s, want %s:\n%s", fact.ID, fact.Input, fact.Expected, out)
		}
	}
	if played < 25 {
		t.Errorf("%d facts were played", played)
	}
}

func playScript(t *testing.T, plan []string, inputs string) string {
	t.Helper()
	s := &session{}
	s.fresh = func(s *session) *chain { return newChain(t, s.plan, s.semantics) }
	out, err := s.run(append(append([]string{"plan engine"}, plan...), strings.Split(inputs, ";")...))
	if err != nil {
		t.Fatal(err)
	}
	s.c.replay()
	return out
}

// playMerge plays a fact about strategies on several levels: which one takes the failure.
func playMerge(t *testing.T, id string, raw json.RawMessage, expected string) bool {
	type entry struct {
		Errors []string
		Action string
	}
	var in struct {
		Step, StepGroup, Stage []entry
		Failure                string
	}
	if json.Unmarshal(raw, &in) != nil || in.Failure == "" {
		return false
	}
	var plan []string
	add := func(indent, node string, entries []entry) {
		plan = append(plan, indent+node)
		for _, e := range entries {
			plan = append(plan, fmt.Sprintf("%s  %s -> %s", indent, strings.Join(e.Errors, ","), e.Action))
		}
	}
	add("  ", "stage s", in.Stage)
	add("    ", "group g", in.StepGroup)
	add("      ", "step a", in.Step)
	out := playScript(t, plan, "fail s/g/a "+in.Failure)
	action, rest, _ := strings.Cut(expected, " ")
	if !strings.Contains(out, ": "+action+", StrategyMatched") {
		t.Errorf("%s: want %s:\n%s", id, expected, out)
	}
	for _, level := range []recourse.Level{recourse.LevelStep, recourse.LevelStage} {
		if rest == "("+level.String()+")" && !strings.Contains(out, "of "+level.String()+" ") {
			t.Errorf("%s: want %s:\n%s", id, expected, out)
		}
	}
	return true
}
