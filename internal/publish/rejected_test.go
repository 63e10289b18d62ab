package publish

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// input is a message as a worker receives it.
type input struct {
	jetstream.Msg
	subject string
	header  nats.Header
	data    []byte
}

func (i *input) Subject() string      { return i.subject }
func (i *input) Headers() nats.Header { return i.header }
func (i *input) Data() []byte         { return i.data }

func TestReject(t *testing.T) {
	_, _, js, journal := provisioned(t, Config{})
	stream, err := js.Stream(t.Context(), recourse.StreamRejected)
	if err != nil {
		t.Fatal(err)
	}
	reject := func(sequence uint64, in *input, cause string) {
		t.Helper()
		if err := journal.Reject(t.Context(), in, sequence, recourse.ReasonBadJSON, errors.New(cause)); err != nil {
			t.Fatal(err)
		}
	}
	first := &input{
		subject: ref.Subject(recourse.FamilyFailure, "delegate"), data: []byte("\x00\xff not JSON \r\n"),
		header: nats.Header{
			"Two": {"one", "two"}, "ce-id": {"7"}, "Nats-Rollup": {"all"}, "nats-msg-id": {"squatted"}, "Nats-Msg-Id": {"inbox-2"},
			"Nats-Expected-Last-Sequence": {"999"}, "Nats-TTL": {"1s"}, "Status": {"404"}, "Recourse-Sequence": {"99"},
		},
	}
	reject(7, first, "password=hunter2hunter2 at\nline 1\x00")
	reject(7, first, "again") // a worker that repeats itself
	reject(8, &input{subject: first.subject}, "empty")
	// What comes due has sequences of its own: the same number is another message.
	reject(7, &input{subject: ref.Subject(recourse.FamilyDue, "x")}, "no version")

	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs != 3 {
		t.Fatalf("%d rejected inputs are kept, want 3", info.State.Msgs)
	}
	msg, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if want := ref.Subject(recourse.FamilyRejected, string(recourse.ReasonBadJSON)); msg.Subject != want || string(msg.Data) != string(first.data) {
		t.Errorf("kept %q under %s, want %s", msg.Data, msg.Subject, want)
	}
	want := nats.Header{
		"Two": {"one", "two"}, "ce-id": {"7"}, "Nats-Msg-Id": {"failure-7"},
		HeaderOriginal + "Nats-Rollup": {"all"}, HeaderOriginal + "nats-msg-id": {"squatted"}, HeaderOriginal + "Nats-Msg-Id": {"inbox-2"},
		HeaderOriginal + "Nats-Expected-Last-Sequence": {"999"}, HeaderOriginal + "Nats-TTL": {"1s"}, HeaderOriginal + "Status": {"404"},
		HeaderOriginal + "Recourse-Sequence": {"99"},
		HeaderReason:                         {"bad-json"}, HeaderError: {"password=[redacted] at line 1 "}, HeaderSubject: {first.subject}, HeaderSequence: {"7"},
	}
	for name, values := range want {
		if got := msg.Header[name]; len(got) != len(values) || strings.TrimSpace(strings.Join(got, "|")) != strings.TrimSpace(strings.Join(values, "|")) {
			t.Errorf("header %s: %q, want %q", name, got, values)
		}
	}
	for _, name := range []string{"Nats-Subject", "Nats-Stream", "Nats-Time-Stamp", "Nats-Sequence"} {
		delete(msg.Header, name) // of the answer to the direct get
	}
	for name := range msg.Header {
		if _, ok := want[name]; !ok {
			t.Errorf("header %s: %q", name, msg.Header[name])
		}
	}
	if err := journal.Reject(t.Context(), &input{subject: "elsewhere"}, 1, recourse.ReasonBadJSON, errors.New("x")); err == nil {
		t.Error("a message from elsewhere was rejected")
	}
}

// TestRejectLargest: the largest input the inbox takes can be rejected, with all its headers under longer names.
func TestRejectLargest(t *testing.T) {
	_, nc, js, journal := provisioned(t, Config{})
	header := nats.Header{"Recourse-A": {strings.Repeat("x", 1000)}}
	for i := range 1000 {
		header["Recourse-"+strings.Repeat("h", 3)+string(rune('a'+i%26))+strings.Repeat("n", i/26)] = []string{"v"}
	}
	subject := ref.Subject(recourse.FamilyFailure, "delegate")
	size := 0
	for name, values := range header {
		size += len(name) + len(values[0]) + 4
	}
	body := []byte(strings.Repeat("z", recourse.MaxSize-size-64))
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: header, Data: body}); err != nil {
		t.Fatal(err)
	}
	if int64(len(body)) > nc.MaxPayload() {
		t.Fatal("not a fair test")
	}
	if err := journal.Reject(t.Context(), &input{subject: subject, header: header, data: body}, 1, recourse.ReasonBadJSON, errors.New(strings.Repeat("e", 10_000))); err != nil {
		t.Error(err)
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"a\r\nNats-Rollup: all\x7f\tb": "a  Nats-Rollup: all  b",
		strings.Repeat("é", 1000):      strings.Repeat("é", 256),
		"x" + strings.Repeat("é", 999): "x" + strings.Repeat("é", 255),
	} {
		got := oneLine(in)
		if got != want || !utf8.ValidString(got) {
			t.Errorf("%.40q: %.60q, want %.60q", in, got, want)
		}
	}
	if !meaningful("STATUS") || meaningful("Statuses") || meaningful("ce-id") || !meaningful("nAtS-x") {
		t.Error("headers that mean something are not told apart")
	}
}
