package pipeline

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// TestExamples: the examples load without a finding under both semantics, and use every action wherever it may stand.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("examples: %v %v", files, err)
	}
	type place struct {
		level   recourse.Level
		section recourse.Section
		action  recourse.Action
	}
	used := make(map[place]bool)
	var backoff, condition, answers, nested bool
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, semantics := range []recourse.Semantics{documented, engine} {
			plan, ds := Load(file, text, Options{Semantics: semantics})
			if len(ds) != 0 {
				t.Errorf("%s: %v", semantics, ds)
			}
			if name := filepath.Base(file); plan.Pipeline+".yaml" != name {
				t.Errorf("%s: identifier %s", name, plan.Pipeline)
			}
			for _, n := range plan.Nodes() {
				for i := range n.Strategies {
					s := &n.Strategies[i]
					used[place{n.Level, n.Section, s.Do.Action}] = true
					condition = condition || s.Condition != nil
					eachAction(&s.Do, func(do *decide.ActionSpec) {
						backoff = backoff || do.Retry != nil && do.Retry.Backoff != nil
						answers = answers || do.Intervention != nil && do.Intervention.Allowed != recourse.DefaultInterventionActions && n.Section == recourse.Steps
						nested = nested || do.OnRetryFailure != nil && do.OnRetryFailure.Action == recourse.ManualIntervention
					})
				}
			}
		}
	}
	for _, name := range recourse.ActionNames() {
		action, _ := recourse.ParseAction(name)
		group := action == recourse.RetryStepGroup || action == recourse.StepGroupRollback
		for _, want := range []struct {
			place
			allowed bool
		}{
			{place{recourse.LevelStep, recourse.Steps, action}, !group},
			{place{recourse.LevelStepGroup, recourse.Steps, action}, true},
			{place{recourse.LevelStage, recourse.Steps, action}, !group},
			{place{recourse.LevelStep, recourse.RollbackSteps, action}, !group && !isRollback(action)},
			{place{recourse.LevelStepGroup, recourse.RollbackSteps, action}, !isRollback(action)},
		} {
			if used[want.place] != want.allowed {
				t.Errorf("%s on a %s in %s: used %v, allowed %v", action, want.level, want.section, used[want.place], want.allowed)
			}
		}
	}
	if !backoff || !condition || !answers || !nested {
		t.Errorf("backoff %v, condition %v, availableActions %v, intervention after retries %v", backoff, condition, answers, nested)
	}
}

// TestDeployWeb holds the example to what the documentation tells about it.
func TestDeployWeb(t *testing.T) {
	text, err := os.ReadFile("../../examples/deploy_web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plan, _ := Load("deploy_web.yaml", text, Options{})
	var stages []string
	for _, n := range plan.Nodes() {
		if n.Level == recourse.LevelStage {
			stages = append(stages, n.Path)
		}
	}
	if !slices.Equal(stages, []string{"build", "prod", "notify"}) {
		t.Errorf("stages %v", stages)
	}
	rollout := strategiesOf(t, plan, "prod/canary/rollout", recourse.Steps)[0]
	if rollout.Do.Retry.Count != 3 || rollout.Do.OnRetryFailure.Action != recourse.StageRollback {
		t.Errorf("rollout %+v", rollout.Do)
	}
	smoke := strategiesOf(t, plan, "prod/canary/smoke", recourse.Steps)
	if len(smoke) != 2 || smoke[0].Do.Intervention.OnTimeout.Action != recourse.StageRollback || smoke[1].Do.Action != recourse.Abort {
		t.Errorf("smoke %+v", smoke)
	}
	if stage := strategiesOf(t, plan, "prod", recourse.Steps); len(stage) != 1 || stage[0].Do.Action != recourse.StageRollback {
		t.Errorf("prod %+v", stage)
	}
}
