package recourse

import (
	"bytes"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

var failureSubject = Subject{Prefix: "recourse.acme.o.p.pl.ex1", Family: FamilyFailure, Detail: "ci"}

// binary returns the headers of an event in binary mode, changed.
func inBinaryMode(change map[string][]string) map[string][]string {
	header := map[string][]string{
		"ce-specversion": {"1.0"}, "ce-id": {"7"}, "ce-source": {"/ci"}, "ce-type": {"dev.recourse.failure.v1"}, "ce-time": {"2026-01-02T03:04:05Z"},
		"ce-datacontenttype": {"application/json"}, "ce-traceparent": {"00-x"}, "content-type": {"application/json"},
	}
	for name, values := range change {
		if header[name] = values; values == nil {
			delete(header, name)
		}
	}
	return header
}

// structuredEvent returns an event in structured mode with one member replaced; "" removes it.
func structuredEvent(name, value string) string {
	members := []string{"specversion", `"1.0"`, "id", `"7"`, "source", `"/ci"`, "type", `"dev.recourse.failure.v1"`, "time", `"2026-01-02T03:04:05Z"`,
		"datacontenttype", `"application/json"`, "traceparent", `"00-x"`, "data", failureJSON}
	var b strings.Builder
	found := false
	for i := 0; i < len(members); i += 2 {
		if members[i] == name {
			found, members[i+1] = true, value
		}
		if members[i+1] != "" {
			b.WriteString(`,"` + members[i] + `":` + members[i+1])
		}
	}
	if !found && name != "" {
		b.WriteString(`,"` + name + `":` + value)
	}
	return "{" + b.String()[1:] + "}"
}

var structuredHeader = map[string][]string{"Content-Type": {"application/cloudevents+json; charset=UTF-8"}}

func TestOpenInput(t *testing.T) {
	want := Event{ID: "7", Source: "/ci", Type: "dev.recourse.failure.v1", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	unversioned, escaped := want, want
	unversioned.Type, escaped.Source = "dev.recourse.failure", "/c%69"
	for _, row := range []struct {
		name   string
		header map[string][]string
		data   string
		want   Event
		reason DecodeReason
	}{
		{"plain", nil, failureJSON, Event{}, ""},
		{"plain with headers", map[string][]string{"content-type": {"text/plain"}, "ce-traceparent": {"a", "b"}, "ce-time": {"x"}, "traceparent": {"x"}}, failureJSON, Event{}, ""},
		{"not looked at", nil, "{", Event{}, ""},
		{"plain texts that look like more", nil, `{"message":"specversion","target":"dev.cdevents.x","x":"\"specversion\":"}`, Event{}, ""},

		{"binary", inBinaryMode(nil), failureJSON, want, ""},
		{"binary, other letters", map[string][]string{"CE-SpecVersion": {"1.0"}, "Ce-Id": {"7"}, "ce-Source": {"/ci"}, "Ce-Type": {"dev.recourse.failure.v1"}, "CE-TIME": {"2026-01-02T03:04:05Z"}}, failureJSON, want, ""},
		{"binary, least", inBinaryMode(map[string][]string{"ce-datacontenttype": nil, "content-type": nil, "ce-traceparent": nil}), failureJSON, want, ""},
		{"binary, quoted", inBinaryMode(map[string][]string{"ce-source": {`"/ci"`}, "ce-id": {`"\7"`}}), failureJSON, want, ""},
		{"binary, needlessly encoded", inBinaryMode(map[string][]string{"ce-id": {" %37\t"}}), failureJSON, want, ""},
		{"binary, json of another kind", inBinaryMode(map[string][]string{"ce-datacontenttype": {"application/vnd.x+JSON;%20charset=utf-8"}}), failureJSON, want, ""},
		{"binary, a type without a version", inBinaryMode(map[string][]string{"ce-type": {"dev.recourse.failure"}}), failureJSON, unversioned, ""},
		// A percent sign of the source is encoded itself: one that is not means a space here.
		{"binary, an escape in the source", inBinaryMode(map[string][]string{"ce-source": {"/c%2569"}}), failureJSON, escaped, ""},
		{"a space in the source", inBinaryMode(map[string][]string{"ce-source": {"/c%20i"}}), failureJSON, Event{}, ReasonInvalid},
		{"no specversion", inBinaryMode(map[string][]string{"ce-specversion": nil}), failureJSON, Event{}, ReasonInvalid},
		{"no id", inBinaryMode(map[string][]string{"ce-id": nil}), failureJSON, Event{}, ReasonInvalid},
		{"empty id", inBinaryMode(map[string][]string{"ce-id": {""}}), failureJSON, Event{}, ReasonInvalid},
		{"no values", inBinaryMode(map[string][]string{"ce-id": {}}), failureJSON, Event{}, ReasonInvalid},
		{"no source", inBinaryMode(map[string][]string{"ce-source": nil}), failureJSON, Event{}, ReasonInvalid},
		{"no type", inBinaryMode(map[string][]string{"ce-type": nil}), failureJSON, Event{}, ReasonInvalid},
		{"only an id", map[string][]string{"ce-id": {"7"}}, failureJSON, Event{}, ReasonInvalid},
		{"another specversion", inBinaryMode(map[string][]string{"ce-specversion": {"0.3"}}), failureJSON, Event{}, ReasonInvalid},
		{"two ids", inBinaryMode(map[string][]string{"ce-id": {"7", "7"}}), failureJSON, Event{}, ReasonDuplicateKey},
		{"two spellings", inBinaryMode(map[string][]string{"Ce-Id": {"7"}}), failureJSON, Event{}, ReasonDuplicateKey},
		{"half a percent", inBinaryMode(map[string][]string{"ce-id": {"7%2"}}), failureJSON, Event{}, ReasonBadValue},
		{"overlong UTF-8", inBinaryMode(map[string][]string{"ce-id": {"%C0%A0"}}), failureJSON, Event{}, ReasonBadValue},
		{"not UTF-8", inBinaryMode(map[string][]string{"ce-id": {"\xff"}}), failureJSON, Event{}, ReasonBadValue},
		{"control character", inBinaryMode(map[string][]string{"ce-id": {"7%0A"}}), failureJSON, Event{}, ReasonInvalid},
		{"open quote", inBinaryMode(map[string][]string{"ce-id": {`"7`}}), failureJSON, Event{}, ReasonBadValue},
		{"behind the quote", inBinaryMode(map[string][]string{"ce-id": {`"7"7"`}}), failureJSON, Event{}, ReasonBadValue},
		{"no time", inBinaryMode(map[string][]string{"ce-time": {"yesterday"}}), failureJSON, Event{}, ReasonInvalid},
		{"not quite a time", inBinaryMode(map[string][]string{"ce-time": {"2026-01-02T03:04:05,5Z"}}), failureJSON, Event{}, ReasonInvalid},
		{"no JSON", inBinaryMode(map[string][]string{"ce-datacontenttype": {"application/xml"}}), failureJSON, Event{}, ReasonInvalid},
		{"another type", inBinaryMode(map[string][]string{"ce-type": {"com.example.failure"}}), failureJSON, Event{}, ReasonUnknownType},
		{"the type of another family", inBinaryMode(map[string][]string{"ce-type": {EventType(FamilyLifecycle)}}), failureJSON, Event{}, ReasonUnknownType},
		{"nearly the type", inBinaryMode(map[string][]string{"ce-type": {"dev.recourse.failure.v1x"}}), failureJSON, Event{}, ReasonUnknownType},
		{"version 0", inBinaryMode(map[string][]string{"ce-type": {"dev.recourse.failure.v0"}}), failureJSON, Event{}, ReasonUnknownType},
		{"a later type", inBinaryMode(map[string][]string{"ce-type": {"dev.recourse.failure.v2"}}), failureJSON, Event{}, ReasonFutureSchema},

		{"structured", structuredHeader, structuredEvent("", ""), want, ""},
		{"structured wins", inBinaryMode(map[string][]string{"content-type": {"application/cloudevents"}, "ce-id": {"x", "y"}}), structuredEvent("", ""), want, ""},
		{"structured without a header", nil, structuredEvent("", ""), want, ""},
		{"structured, base64", structuredHeader, strings.Replace(structuredEvent("data", ""), "{", `{"data_base64":"`+base64.StdEncoding.EncodeToString([]byte(failureJSON))+`",`, 1), want, ""},
		{"structured, extensions", structuredHeader, structuredEvent("n1", `3`), want, ""},
		{"structured, null is absent", structuredHeader, structuredEvent("subject", `null`), want, ""},
		{"structured, bad base64", structuredHeader, strings.Replace(structuredEvent("data", ""), "{", `{"data_base64":"?",`, 1), Event{}, ReasonBadValue},
		{"structured, both data", structuredHeader, structuredEvent("data_base64", `""`), Event{}, ReasonInvalid},
		{"structured, no data", structuredHeader, structuredEvent("data", ""), Event{}, ReasonInvalid},
		{"structured, no id", structuredHeader, structuredEvent("id", ""), Event{}, ReasonInvalid},
		{"structured, null id", structuredHeader, structuredEvent("id", "null"), Event{}, ReasonInvalid},
		{"structured, empty id", structuredHeader, structuredEvent("id", `""`), Event{}, ReasonInvalid},
		{"structured, id of a number", structuredHeader, structuredEvent("id", `7`), Event{}, ReasonBadValue},
		{"structured, control character", structuredHeader, structuredEvent("id", `"\u0085"`), Event{}, ReasonInvalid},
		{"structured, specversion", structuredHeader, structuredEvent("specversion", `"1.1"`), Event{}, ReasonInvalid},
		{"structured, no specversion", structuredHeader, structuredEvent("specversion", ""), Event{}, ReasonInvalid},
		{"structured, source", structuredHeader, structuredEvent("source", `"a b"`), Event{}, ReasonInvalid},
		{"structured, source with a bad escape", structuredHeader, structuredEvent("source", `"/%zz"`), Event{}, ReasonInvalid},
		{"structured, twice", structuredHeader, strings.Replace(structuredEvent("", ""), "{", `{"id":"8",`, 1), Event{}, ReasonDuplicateKey},
		{"structured, twice in the data", structuredHeader, structuredEvent("data", `{"a":1,"a":2}`), Event{}, ReasonDuplicateKey},
		{"structured, a key nobody knows", structuredHeader, structuredEvent("dataContentType", `"x"`), Event{}, ReasonUnknownKey},
		{"structured, a key without a name", structuredHeader, strings.Replace(structuredEvent("", ""), "{", `{"":"x",`, 1), Event{}, ReasonUnknownKey},
		{"structured, an extension with members", structuredHeader, structuredEvent("ext", `{}`), Event{}, ReasonBadValue},
		{"structured, not JSON", structuredHeader, `{"specversion":`, Event{}, ReasonBadJSON},
		{"structured, plain", structuredHeader, failureJSON, Event{}, ReasonUnknownKey},
		{"structured, null", structuredHeader, "null", Event{}, ReasonInvalid},
		{"structured, deep", structuredHeader, structuredEvent("data", strings.Repeat("[", 100)+strings.Repeat("]", 100)), Event{}, ReasonTooDeep},
		{"structured, large", structuredHeader, structuredEvent("x", `"`+strings.Repeat("x", MaxSize)+`"`), Event{}, ReasonTooLarge},
		{"batch", map[string][]string{"content-type": {"application/cloudevents-batch+json"}}, "[]", Event{}, ReasonUnknownType},
		{"avro", map[string][]string{"content-type": {"application/cloudevents+avro"}}, "x", Event{}, ReasonUnknownType},
	} {
		body, event, err := OpenInput(failureSubject, row.header, []byte(row.data))
		if got := reasonFor(t, err); got != row.reason || event != row.want {
			t.Errorf("%s: %q (%v), %+v; want %q, %+v", row.name, got, err, event, row.reason, row.want)
		}
		wantBody := row.data
		if row.want.ID != "" {
			wantBody = failureJSON
		}
		if row.reason == "" && string(body) != wantBody {
			t.Errorf("%s: body %s", row.name, body)
		}
	}
}

func TestEventKey(t *testing.T) {
	seen := map[string]Event{}
	for _, e := range []Event{{ID: "1", Source: "/a"}, {ID: "2", Source: "/a"}, {ID: "1", Source: "/b"}, {ID: "11", Source: "/"}, {ID: "1", Source: "1/"}, {ID: "1/a", Source: "/a"}} {
		key := e.Key()
		if other, ok := seen[key]; ok || ValidateID(key) != nil || len(key) != len("event-")+32 {
			t.Errorf("%+v has %q, as %+v", e, key, other)
		}
		seen[key] = e
		e.Time, e.Subject, e.Type = time.Now(), "x", "y"
		if e.Key() != key {
			t.Errorf("what is neither source nor id changes the key of %+v", e)
		}
	}
	if key := (Event{}).Key(); key != "" {
		t.Errorf("no event has %q", key)
	}
}

// TestRecordEvent: a record's headers say what it is, and read back as that.
func TestRecordEvent(t *testing.T) {
	at := time.Date(2026, 1, 2, 4, 4, 5, 600, time.FixedZone("", 3600))
	ref := Ref{Account: "a b", Org: "ö", Project: "p$", Pipeline: strings.Repeat("x.", 60), Execution: "ex/42"}
	command := &Record{Ref: ref, Version: 12, At: at, Decision: Decision{Node: Node{Path: `prod/canary["ä 1%"]`}, Command: Command{Verb: VerbRollbackStage}}}
	plain := &Record{Ref: ref, Version: 1, At: at, Decision: Decision{Kind: KindClosed}}
	for _, row := range []struct {
		rec                    *Record
		id, eventType, subject string
	}{
		{command, "12", "dev.recourse.command.rollback-stage.v1", `prod/canary["ä 1%"]`},
		{plain, "1", "dev.recourse.decision.closed.v1", ""},
	} {
		header := map[string][]string{}
		SetEventHeader(header, row.rec.Event(ref.Prefix()))
		if _, ok := header[HeaderEventSubject]; ok != (row.subject != "") {
			t.Errorf("%s: a subject: %v", row.eventType, ok)
		}
		for name, values := range header {
			if len(values) != 1 || values[0] == "" || strings.ContainsFunc(values[0], func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' }) {
				t.Errorf("%s: %q", name, values)
			}
		}
		a, ok, err := openEvent(header, []byte("{}"))
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		got, err := a.event()
		want := Event{ID: row.id, Source: "/" + strings.ReplaceAll(ref.Prefix(), ".", "/"), Type: row.eventType, Subject: row.subject, Time: at.UTC()}
		if err != nil || got != want {
			t.Errorf("%+v (%v), want %+v", got, err, want)
		}
		if _, err := url.Parse(got.Source); err != nil {
			t.Error(err)
		}
		if a.text[dataContentType] != "application/json" {
			t.Errorf("datacontenttype %q", a.text[dataContentType])
		}
	}
	first, second := map[string][]string{}, map[string][]string{}
	SetEventHeader(first, plain.Event("p"))
	SetEventHeader(second, plain.Event("p"))
	for name := range first {
		http.Header(first).Add(name, "x")
	}
	if len(second[HeaderEventSpecVersion]) != 1 || second[HeaderEventSpecVersion][0] != "1.0" || headerSpecVersion[0] != "1.0" {
		t.Error("what is added to one header shows in another")
	}
}

// fuzzOpened: whatever came, it is refused with a reason or gives a body, always the same; a body that decodes and is encoded again is a
// plain message.
func fuzzOpened(t *testing.T, header map[string][]string, data []byte) {
	t.Helper()
	body, event, err := OpenInput(failureSubject, header, data)
	if reasonFor(t, err) != "" {
		if body != nil || event != (Event{}) {
			t.Fatalf("refused, and yet %s, %+v", body, event)
		}
		return
	}
	if (event == Event{}) && !bytes.Equal(body, data) {
		t.Fatalf("no event, but another body: %s", body)
	}
	if event != (Event{}) && (event.ID == "" || event.Type == "" || !isURIReference(event.Source) || ValidateID(event.Key()) != nil) {
		t.Fatalf("%+v", event)
	}
	again, sameEvent, err := OpenInput(failureSubject, maps.Clone(header), bytes.Clone(data))
	if err != nil || sameEvent != event || !bytes.Equal(again, body) {
		t.Fatalf("another result the second time: %v", err)
	}
	f, err := DecodeFailure(body)
	if reasonFor(t, err) != "" {
		return
	}
	plain, err := Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	if opened, e, err := OpenInput(failureSubject, nil, plain); err != nil || e != (Event{}) || !bytes.Equal(opened, plain) {
		t.Fatalf("a failure is taken for an event: %s", plain)
	}
}

func FuzzOpenBinary(f *testing.F) {
	f.Add("1.0", "7", "/ci", "dev.recourse.failure.v1", "2026-01-02T03:04:05Z", "application/json", "application/json", []byte(failureJSON))
	f.Add("1.0", `"7\""`, "%2Fci%25", "dev.recourse.failure", "", "", "application/cloudevents+json", []byte(structuredEvent("", "")))
	f.Add("1.0", "%ff", "/ci", "dev.cdevents.taskrun.finished.0.3.0", "", "", "", []byte(cdEventJSON))
	f.Fuzz(func(t *testing.T, specVersion, id, source, eventType, at, dataType, contentType string, data []byte) {
		fuzzOpened(t, map[string][]string{
			"ce-specversion": {specVersion}, "Ce-Id": {id}, "ce-source": {source}, "CE-TYPE": {eventType}, "ce-time": {at}, "ce-datacontenttype": {dataType},
			"Content-Type": {contentType},
		}, data)
	})
}

func FuzzOpenStructured(f *testing.F) {
	f.Add([]byte(structuredEvent("", "")))
	f.Add([]byte(structuredEvent("data", `"x"`)))
	f.Add([]byte(structuredEvent("type", `"dev.cdevents.taskrun.finished.0.2.0"`)))
	f.Add([]byte(`{"specversion":"1.0","data_base64":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzOpened(t, structuredHeader, data)
		fuzzOpened(t, nil, data)
	})
}

// FuzzHeaderValue: what is encoded is printable and decodes to itself.
func FuzzHeaderValue(f *testing.F) {
	f.Add("Euro € 😀")
	f.Add(`"100%"`)
	f.Fuzz(func(t *testing.T, s string) {
		encoded := EncodeHeaderValue(s)
		for i := range len(encoded) {
			if c := encoded[i]; c <= ' ' || c >= 0x7f || c == '"' {
				t.Fatalf("%q is encoded as %q", s, encoded)
			}
		}
		decoded, err := decodeHeaderValue(encoded)
		if strings.ToValidUTF8(s, "") == s && (err != nil || decoded != s) || err == nil && decoded != s {
			t.Fatalf("%q is encoded as %q, which is %q, %v", s, encoded, decoded, err)
		}
		if want, err := url.PathUnescape(encoded); err != nil || want != s {
			t.Fatalf("%q is encoded as %q: %v", s, encoded, err)
		}
	})
}

func TestHeaderValueOfTheBinding(t *testing.T) {
	if got := EncodeHeaderValue("Euro € 😀"); got != "Euro%20%E2%82%AC%20%F0%9F%98%80" {
		t.Errorf("got %s", got)
	}
}

func BenchmarkOpenInput(b *testing.B) {
	header := map[string][]string{"Nats-Expected-Stream": {StreamInbox}, "traceparent": {"00-x"}, "ce-traceparent": {"00-x"}, "content-type": {"application/json"}}
	SetEventHeader(header, Event{ID: "failure/prod/deploy/2", Source: EventSource(failureSubject.Prefix), Type: EventType(FamilyFailure), Time: time.Unix(1, 0)})
	for name, header := range map[string]map[string][]string{"plain": nil, "binary": header} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := OpenInput(failureSubject, header, []byte(failureJSON)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSetEventHeader(b *testing.B) {
	rec := &Record{Version: 12, At: time.Unix(1, 0), Decision: Decision{Node: Node{Path: "prod/canary/rollout"}, Command: Command{Verb: VerbRetry}}}
	b.ReportAllocs()
	for b.Loop() {
		header := make(map[string][]string, 16)
		SetEventHeader(header, rec.Event(failureSubject.Prefix))
	}
}

// TestMentions compares with the plain search, over texts in which nearly the text stands.
func TestMentions(t *testing.T) {
	const text = `"specversion"`
	whole := `v "specversio" v"specversion" vv"spec` + text + `"specversionv`
	found := 0
	for i := range whole {
		for j := i; j <= len(whole); j++ {
			want := strings.Contains(whole[i:j], text)
			if got := mentions([]byte(whole[i:j]), text, 'v'); got != want {
				t.Fatalf("%q: %v", whole[i:j], got)
			}
			if want {
				found++
			}
		}
	}
	if found == 0 {
		t.Fatal("it is never there")
	}
}
