package recourse

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

const cdEventJSON = `{"context":{"specversion":"0.5.0","id":"271069a8","chainId":"4c8cb7dd","source":"/ci/tekton","type":"dev.cdevents.taskrun.finished.0.3.0",` +
	`"timestamp":"2026-01-02T03:04:05.5Z","schemaUri":"https://example.com/s","links":[{"linkType":"END","from":{"contextId":"5328c37f"}}]},` +
	`"subject":{"id":"run-77","source":"/ci/tekton","type":"taskRun","content":{"taskName":"prod/deploy","uri":"https://example.com/run-77",` +
	`"pipelineRun":{"id":"ex1","source":"/ci"},"outcome":"failure","errors":"Timeout, Connectivity: no answer\nin 30s"}},` +
	`"customData":{"team":"web","recourse":{"attempt":2,"exitCode":3,"target":"cluster-1","retryAfter":"1m30s","section":"rollbackSteps"}}}`

func TestCDEventFailure(t *testing.T) {
	three := 3
	ref := Ref{Account: "acme", Org: "o", Project: "p", Pipeline: "pl", Execution: "ex1"}
	full := Failure{
		Schema: 1, Ref: ref, Node: Node{Path: "prod/deploy", Section: RollbackSteps}, Attempt: 2, Errors: ErrorTypesOf(Timeout, Connectivity),
		Message: "taskRun run-77: Timeout, Connectivity: no answer\nin 30s", ExitCode: &three, Target: "cluster-1", RetryAfter: Duration(90 * time.Second),
		At: time.Date(2026, 1, 2, 3, 4, 5, 5e8, time.UTC),
	}
	subject := func(ref Ref) Subject {
		s, err := ParseSubject(ref.Subject(FamilyFailure, "ci"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	with := func(change func(*Failure)) Failure { f := full; change(&f); return f }
	custom := cdEventJSON[strings.Index(cdEventJSON, `,"customData"`):]
	odd := Ref{Account: "a b", Org: "ö", Project: "*.>", Pipeline: "a=b==c", Execution: "tenant/ex"}
	long := Ref{Account: "acme", Org: "o", Project: strings.Repeat("p.", 60), Pipeline: "pl", Execution: strings.Repeat("e", 200)}
	at := func(ref Ref, change func(*Failure)) func(*Failure) {
		return func(f *Failure) { f.Ref = ref; change(f) }
	}
	asIs := func(*Failure) {}
	for _, row := range []struct {
		name     string
		ref      Ref
		old, new string
		want     Failure
	}{
		{"all of it", ref, "", "", full},
		{"CDEvents 0.4", ref, `"specversion":"0.5.0"`, `"version":"0.4.1"`, full},
		{"no custom data: the first attempt", ref, custom, "}", with(func(f *Failure) {
			f.Section, f.Attempt, f.ExitCode, f.Target, f.RetryAfter = Steps, 1, nil, "", 0
		})},
		{"custom data that is not JSON", ref, custom, `,"customData":"eyJyZWNvdXJzZSI6e319","customDataContentType":"text/plain"}`, with(func(f *Failure) {
			f.Section, f.Attempt, f.ExitCode, f.Target, f.RetryAfter = Steps, 1, nil, "", 0
		})},
		{"outcome error", ref, `"failure"`, `"error"`, full},
		{"no errors", ref, `,"errors":"Timeout, Connectivity: no answer\nin 30s"`, ``, with(func(f *Failure) { f.Errors, f.Message = 0, "taskRun run-77" })},
		{"errors in words", ref, "Timeout, Connectivity: no", "There was no", with(func(f *Failure) { f.Errors, f.Message = 0, "taskRun run-77: There was no answer\nin 30s" })},
		{"a list with a word", ref, "Timeout, Connectivity", "Timeout, Surprise", with(func(f *Failure) {
			f.Errors, f.Message = 0, "taskRun run-77: Timeout, Surprise: no answer\nin 30s"
		})},
		{"all errors is no error", ref, "Timeout, Connectivity", "AllErrors", with(func(f *Failure) { f.Errors, f.Message = 0, "taskRun run-77: AllErrors: no answer\nin 30s" })},
		{"one type and no more", ref, `"Timeout, Connectivity: no answer\nin 30s"`, `"timeout"`, with(func(f *Failure) { f.Errors, f.Message = ErrorTypesOf(Timeout), "taskRun run-77: timeout" })},
		{"types in the custom data", ref, `"attempt":2`, `"attempt":2,"errors":["Verification"],"node":"prod/smoke"`, with(func(f *Failure) { f.Errors, f.Path = ErrorTypesOf(Verification), "prod/smoke" })},
		{"no pipeline run", ref, `"pipelineRun":{"id":"ex1","source":"/ci"},`, ``, full},
		{"an execution other than the pipeline run", ref, `"id":"ex1","source":"/ci"},`, `"id":"namespace/run-9"},`, with(func(f *Failure) { f.Execution = "namespace/run-9" })},
		{"which the custom data says", ref, `"attempt":2`, `"attempt":2,"execution":"ex2"`, with(func(f *Failure) { f.Execution = "ex2" })},
		{"ids from the subject", odd, `"id":"ex1"`, `"id":"tenant/ex"`, with(at(odd, asIs))},
		{"no task name", ref, `"taskName":"prod/deploy",`, ``, Failure{}},
		{"secrets", ref, "no answer", "password=hunter2", with(func(f *Failure) { f.Message = "taskRun run-77: Timeout, Connectivity: password=[redacted]\nin 30s" })},
		{"shortened ids", long, `"id":"ex1"`, `"id":"` + long.Execution + `"`, Failure{}},
		{"shortened ids in full", long, `"attempt":2`, `"attempt":2,"project":"` + long.Project + `","execution":"` + long.Execution + `"`, with(at(long, asIs))},
	} {
		event := strings.Replace(cdEventJSON, row.old, row.new, 1)
		if event == cdEventJSON && row.old != "" {
			t.Fatalf("%s: not in the event: %s", row.name, row.old)
		}
		for mode, message := range map[string]struct {
			header map[string][]string
			data   string
		}{
			"bare":       {nil, event},
			"binary":     {inBinaryMode(map[string][]string{"ce-type": {"dev.cdevents.taskrun.finished.0.3.0"}, "ce-datacontenttype": {"application/cdevents+json"}}), event},
			"structured": {structuredHeader, `{"specversion":"1.0","id":"7","source":"/ci","type":"dev.cdevents.taskrun.finished.0.3.0","data":` + event + `}`},
		} {
			body, opened, err := OpenInput(subject(row.ref), message.header, []byte(message.data))
			if row.want.Attempt == 0 {
				if got := reasonFor(t, err); got != ReasonInvalid || row.name == "shortened ids" && !strings.Contains(err.Error(), "customData.recourse must have it") {
					t.Errorf("%s, %s: %q (%v), %s", row.name, mode, got, err, body)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s, %s: %v", row.name, mode, err)
				continue
			}
			got, err := DecodeFailure(body)
			if err != nil || !reflect.DeepEqual(*got, row.want) {
				t.Errorf("%s, %s: %+v (%v), want %+v", row.name, mode, got, err, row.want)
			}
			if want := map[bool]string{true: "271069a8", false: "7"}[mode == "bare"]; opened.ID != want || opened.Type != "dev.cdevents.taskrun.finished.0.3.0" {
				t.Errorf("%s, %s: %+v", row.name, mode, opened)
			}
		}
	}
}

func TestCDEventRefused(t *testing.T) {
	for _, row := range []struct {
		old, new string
		want     DecodeReason
	}{
		{`"failure"`, `"success"`, ReasonNotAFailure},
		{`"failure"`, `"cancel"`, ReasonNotAFailure},
		{`"failure"`, `"Failure"`, ReasonInvalid},
		{`"failure"`, `""`, ReasonInvalid},
		{`"failure"`, `7`, ReasonBadValue},
		{`"outcome":"failure",`, ``, ReasonInvalid},
		{`taskrun.finished.0.3.0`, `taskrun.finished.1.0.0`, ReasonFutureSchema},
		{`taskrun.finished.0.3.0`, `taskrun.started.0.3.0`, ReasonUnknownType},
		{`taskrun.finished.0.3.0`, `pipelinerun.finished.0.3.0`, ReasonUnknownType},
		{`"specversion":"0.5.0",`, ``, ReasonInvalid},
		{`"id":"271069a8",`, ``, ReasonInvalid},
		{`"source":"/ci/tekton","type":"dev`, `"type":"dev`, ReasonInvalid},
		{`"source":"/ci/tekton","type":"dev`, `"source":"a b","type":"dev`, ReasonInvalid},
		{`"timestamp":"2026-01-02T03:04:05.5Z",`, ``, ReasonInvalid},
		{`2026-01-02T03:04:05.5Z`, `noon`, ReasonBadValue},
		{`"id":"run-77",`, ``, ReasonInvalid},
		{`"type":"taskRun"`, `"type":"pipelineRun"`, ReasonInvalid},
		{`"taskName":"prod/deploy"`, `"taskName":"prod//deploy"`, ReasonInvalid},
		{`"id":"ex1"`, `"id":"\u0000"`, ReasonInvalid},
		{`"attempt":2`, `"attempt":0`, ReasonInvalid},
		{`"attempt":2`, `"attempt":"2"`, ReasonBadValue},
		{`"attempt":2`, `"attempts":2`, ReasonUnknownKey},
		{`"attempt":2`, `"attempt":2,"attempt":3`, ReasonDuplicateKey},
		{`"attempt":2`, `"errors":["AllErrors"]`, ReasonInvalid},
		{`"attempt":2`, `"errors":["Surprise"]`, ReasonBadValue},
		{`"recourse":{`, `"recourse":3,"x":{`, ReasonBadValue},
	} {
		event := strings.Replace(cdEventJSON, row.old, row.new, 1)
		if event == cdEventJSON {
			t.Fatalf("not in the event: %s", row.old)
		}
		_, _, err := OpenInput(failureSubject, nil, []byte(event))
		if got := reasonFor(t, err); got != row.want {
			t.Errorf("%s: %q (%v), want %q", row.new, got, err, row.want)
		}
	}
	for family, want := range map[Family]DecodeReason{FamilyLifecycle: ReasonUnknownType, FamilyIntervention: ReasonUnknownType} {
		s := failureSubject
		s.Family = family
		if _, _, err := OpenInput(s, inBinaryMode(map[string][]string{"ce-type": {"dev.cdevents.taskrun.finished.0.3.0"}}), []byte(cdEventJSON)); reasonFor(t, err) != want {
			t.Errorf("on a subject of the family %s: %v", family, err)
		}
	}
	if _, _, err := OpenInput(failureSubject, inBinaryMode(map[string][]string{"ce-type": {"dev.cdevents.taskrun.finished.0.2.0"}}), []byte(cdEventJSON)); reasonFor(t, err) != ReasonInvalid {
		t.Errorf("an envelope of another type: %v", err)
	}
}

// FuzzCDEvent: what is accepted is a failure of the subject, and the same one each time.
func FuzzCDEvent(f *testing.F) {
	f.Add([]byte(cdEventJSON), "recourse.acme.o.p.pl.ex1")
	f.Add([]byte(strings.Replace(cdEventJSON, `"customData":{`, `"customData":{"recourse":{"section":null},`, 1)), "recourse.=41.=.==.a=.ex1")
	f.Add([]byte(`{"context":{"type":"dev.cdevents.taskrun.finished.0.3.0"},"subject":null}`), "")
	f.Fuzz(func(t *testing.T, data []byte, prefix string) {
		fuzzOpened(t, nil, data)
		body, event, err := OpenInput(Subject{Prefix: prefix, Family: FamilyFailure, Detail: "ci"}, nil, data)
		if reasonFor(t, err) != "" || event.ID == "" || !strings.HasPrefix(event.Type, cdEventTypePrefix) {
			return
		}
		if len(body) > MaxSize {
			t.Fatalf("%d bytes", len(body))
		}
		failure, err := DecodeFailure(body)
		if err != nil {
			t.Fatalf("%s is mapped to %s: %v", data, body, err)
		}
		if failure.Message == "" || failure.At.IsZero() || len(failure.Message) > MaxMessageLength {
			t.Fatalf("%+v", failure)
		}
	})
}

// FuzzUntoken: an id that is not shortened comes back from its token.
func FuzzUntoken(f *testing.F) {
	f.Add("my.app")
	f.Add("a=b==c")
	f.Fuzz(func(t *testing.T, id string) {
		token := Token(id)
		got, err := untoken(token)
		if id != "" && !strings.Contains(token, "==") && (err != nil || got != id) {
			t.Fatalf("%q has the token %q, which is of %q, %v", id, token, got, err)
		}
		if err == nil && id != "" && got != id {
			t.Fatalf("%q has the token %q, which is of %q", id, token, got)
		}
		_, _ = untoken(id) // whatever stands in a subject
	})
}
