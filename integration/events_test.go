package integration

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/recourse-dev/recourse"
)

// events: failures come as CloudEvents in both modes and as CDEvents, an answer is known by its event, and what is written is a CloudEvent.
func events(t *testing.T, e *env, account string) {
	e.register(t, e.ref(account, "p", ""), pipelineYAML(`[`+on("Connectivity", `{type: Ignore}`)+`, `+on("AllErrors", ask("1h", "Abort"))+`]`))
	c := e.orchestrate(t, account)
	binary := func(id string, family recourse.Family) nats.Header {
		return nats.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {id}, "Ce-Source": {"/ci"}, "Ce-Type": {recourse.EventType(family)}}
	}
	body := func(ref recourse.Ref, node string, kind recourse.ErrorType) []byte {
		f := failure(ref, node, 1, kind)
		return must(recourse.Encode(&f))(t)
	}
	taskRun := func(execution, outcome string) []byte {
		return fmt.Appendf(nil, `{"context":{"version":"0.4.1","id":"1","source":"/ci","type":"dev.cdevents.taskrun.finished.0.2.0","timestamp":"2026-01-02T03:04:05Z"},`+
			`"subject":{"id":"run-7","type":"taskRun","content":{"taskName":"s/a","pipelineRun":{"id":%q},"outcome":%q,"errors":"Connectivity: no route"}}}`, execution, outcome)
	}
	ref := e.ref(account, "p", "binary")
	for range 2 {
		e.raw(t, ref.Subject(recourse.FamilyFailure, "delegate"), binary("1", recourse.FamilyFailure), body(ref, "s/ä b", recourse.Connectivity))
	}
	c.want(t, ref.Execution, "ignore")

	ref = e.ref(account, "p", "structured")
	e.raw(t, ref.Subject(recourse.FamilyFailure, "delegate"), nats.Header{"Content-Type": {"application/cloudevents+json"}},
		fmt.Appendf(nil, `{"specversion":"1.0","id":"1","source":"/ci","type":"dev.recourse.failure.v1","data":%s}`, body(ref, "s/a", recourse.Timeout)))
	pause := c.want(t, ref.Execution, "pause")[0]
	answer := recourse.Answer{Ref: ref, Intervention: pause.Command.Intervention.ID, Action: recourse.Ignore, Why: "because"}
	for range 2 {
		e.raw(t, ref.Subject(recourse.FamilyIntervention, "operator"), binary("m-17", recourse.FamilyIntervention), must(recourse.Encode(&answer))(t))
	}
	want := "intervention/" + recourse.Event{ID: "m-17", Source: "/ci"}.Key()
	if rec := c.want(t, ref.Execution, "pause ignore")[1]; rec.Input.Key != want {
		t.Errorf("the answer is %s, want %s", rec.Input.Key, want)
	}

	// The event of a run that succeeded is rejected, the one that follows is decided.
	ref = e.ref(account, "p", "tenant/run 1")
	at := ref.Subject(recourse.FamilyFailure, "tekton")
	e.raw(t, at, nil, taskRun(ref.Execution, "success"))
	e.raw(t, at, nil, taskRun("another", "failure"))
	e.raw(t, at, nil, taskRun(ref.Execution, "failure"))
	if rec := c.want(t, ref.Execution, "ignore")[0]; rec.Input.Failure == nil || rec.Input.Failure.Message != "taskRun run-7: Connectivity: no route" || rec.Ref != ref {
		t.Errorf("decided on %+v of %s", rec.Input.Failure, rec.Ref)
	}

	h := checkJournal(t, e.js, account)
	if len(h.Journal) != 4 {
		t.Errorf("%d records, want 4: what comes twice is decided once", len(h.Journal))
	}
	var rejected []string
	for _, msg := range h.Rejected {
		rejected = append(rejected, msg.Subject)
	}
	slices.Sort(rejected) // the workers reject side by side
	if wanted := []string{ref.Subject(recourse.FamilyRejected, string(recourse.ReasonNotAFailure)), ref.Subject(recourse.FamilyRejected, string(recourse.ReasonWrongSubject))}; !slices.Equal(rejected, wanted) {
		t.Errorf("rejected %s, want %s", rejected, wanted)
	}
	for _, msg := range h.Journal {
		rec := must(recourse.DecodeRecord(msg.Data))(t)
		header := nats.Header(msg.Header)
		event := rec.Event(rec.Prefix())
		for name, value := range map[string]string{
			"ce-specversion": "1.0", "ce-datacontenttype": "application/json", "ce-type": event.Type, "ce-id": fmt.Sprint(rec.Version),
			"ce-source": "/" + strings.ReplaceAll(rec.Prefix(), ".", "/"), "ce-subject": rec.Path, "ce-time": event.Time.Format("2006-01-02T15:04:05.999999999Z"),
		} {
			if got, err := url.PathUnescape(header.Get(name)); err != nil || got != value || len(header[name]) != 1 {
				t.Errorf("%s: %q (%v), want %q", name, header[name], err, value)
			}
		}
	}
}
