package online

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
)

func TestMatch(t *testing.T) {
	what := &matched{
		Ref:  recourse.Ref{Account: "acme", Org: "retail", Project: "web", Pipeline: "deploy_web", Execution: "ex42"},
		Node: recourse.Node{Path: "prod/canary[2]/check"}, version: 3, attempt: 2,
		errors: recourse.ErrorTypesOf(recourse.Timeout, recourse.Verification), message: "dial tcp: i/o timeout, gave up", level: recourse.LevelStage,
		strategy: "pipeline.stages[0].stage.failureStrategies[1]", then: recourse.Abort, kind: "intervention",
		allowed: recourse.ActionsOf(recourse.Retry, recourse.Abort),
	}
	for text, want := range map[string]bool{
		"":                                    true, // none was given
		"pipeline=deploy_web,error=Timeout":   true,
		"pipeline=deploy_web , error=Timeout": true,
		"pipeline=deploy,error=Timeout":       false,
		"pipeline=deploy*":                    true, "pipeline=*web": true, "pipeline=*": true, "pipeline=d*y*b": true, "pipeline=d*y*c": false, "pipeline=*eb*b": false,
		"pipeline=DEPLOY_WEB": false,
		"error=timeout":       true, "error=Connectivity": false, "error=Connectivity,error=Timeout": true, "error!=Timeout": false, "error!=Connectivity": true,
		"error=AllErrors": false,
		"account=acme,org=retail,project=web,execution=ex42": true, "org=wholesale": false,
		"id=ex42/3": true, "id=acme/retail/web/deploy_web/ex42/3": true, "id=ex42/4": false,
		"stage=prod": true, "stage=prod/canary": false,
		"node=prod/canary/check": true, "node=prod/canary[2]/check": true, "node=prod/canary[1]/check": false, "node=prod/*": true, "node=prod": false,
		"section=steps": true, "section=rollbackSteps": false, "attempt=2": true, "attempt=1": false,
		"message=*i/o timeout*": true, "message=timeout": false, "level=stage": true, "level=step": false,
		"strategy=*failureStrategies[1]": true, "then=abort": true, "then=Ignore": false, "then=*Rollback": false,
		"allows=Retry": true, "allows=MarkAsSuccess": false, "kind=intervention": true, "kind=retry*": false,
	} {
		m := match{}
		if text != "" {
			m.texts = []string{text}
		}
		if err := m.parse(); err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := m.matches(what); got != want {
			t.Errorf("%q: %t, want %t", text, got, want)
		}
	}
	m := match{texts: []string{"pipeline=deploy_web", "stage=prod,error=Verification"}} // given twice
	if err := m.parse(); err != nil || !m.matches(what) {
		t.Errorf("%v", err)
	}
	for _, k := range matchKeys {
		if !regexp.MustCompile(`\b` + k.name + `\b`).MatchString(matchHelp) {
			t.Errorf("the help does not have %s", k.name)
		}
	}
}

func TestMatchThatCannotBe(t *testing.T) {
	for text, want := range map[string]string{
		"ppeline=x": "did you mean pipeline?", "x=y": "known are account, org", "error=Tmeout": "did you mean Timeout?", "then=Retyr": "did you mean Retry?",
		"kind=x": "known are intervention, retry, retry-group", "pipeline": "want KEY=VALUE", "pipeline=": "want KEY=VALUE", "pipeline=a,": "want KEY=VALUE", "": "want KEY=VALUE",
		"level=stag": "did you mean stage?", "section=rolback": "known are steps, rollbackSteps",
	} {
		m := match{texts: []string{text}}
		if err := m.parse(); err == nil || !strings.Contains(err.Error(), want) || cli.Code(err) != cli.ExitUsage {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestMatchNarrows(t *testing.T) {
	for text, want := range map[string]recourse.Ref{
		"pipeline=p,org=o,error=Timeout": {Account: "given", Org: "o", Pipeline: "p"},
		"pipeline=p*,execution!=e":       {Account: "given"},
		"pipeline=p,pipeline=q":          {Account: "given"},
		"account=other,execution=e":      {Account: "given", Execution: "e"},
	} {
		m := match{texts: []string{text}}
		if err := m.parse(); err != nil {
			t.Fatal(err)
		}
		if got := m.narrow(recourse.Ref{Account: "given"}); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func TestConfirm(t *testing.T) {
	for typed, want := range map[string]bool{"y\n": true, "Yes\n": true, "y": true, "n\n": false, "\n": false, "yes please\n": false} {
		var out bytes.Buffer
		got, err := confirm(strings.NewReader(typed), &out, "Answer 3 interventions with Retry?")
		if got != want || err != nil || out.String() != "Answer 3 interventions with Retry? [y/N] " {
			t.Errorf("%q: %t, %v, %q", typed, got, err, &out)
		}
	}
	if _, err := confirm(strings.NewReader(""), new(bytes.Buffer), "?"); cli.Code(err) != cli.ExitUsage {
		t.Errorf("nobody there: %v", err)
	}
	if terminal(strings.NewReader("y\n")) {
		t.Error("a reader is no terminal")
	}
}
