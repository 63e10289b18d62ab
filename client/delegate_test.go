package client

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/recourse-dev/recourse"
)

func failure() recourse.Failure {
	return recourse.Failure{
		Ref: ref, Node: recourse.Node{Path: "prod/canary[ä %]/rollout"}, Attempt: 2, Errors: recourse.ErrorTypesOf(recourse.Timeout),
		Message: "GET https://ann:hunter2@host: password=hunter2",
	}
}

func inbox(t *testing.T, js jetstream.JetStream, sequence uint64) *jetstream.RawStreamMsg {
	t.Helper()
	stream, err := js.Stream(t.Context(), recourse.StreamInbox)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), sequence)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestReport(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	d, err := NewDelegate(nc, "runner 1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := spanContext(t.Context())
	before := time.Now()
	for want := uint64(1); want <= 2; want++ { // a repeat is stored as well: the worker recognises it (R12)
		if sequence, err := d.Report(ctx, failure()); err != nil || sequence != want {
			t.Fatalf("sequence %d, %v; want %d", sequence, err, want)
		}
	}
	msg := inbox(t, js, 1)
	if want := ref.Prefix() + ".failure.runner=201"; msg.Subject != want {
		t.Errorf("subject %q, want %q", msg.Subject, want)
	}
	got, err := recourse.DecodeFailure(msg.Data)
	if err != nil {
		t.Fatal(err)
	}
	if got.Schema != recourse.Schema || got.At.Before(before.Add(-time.Second)) || got.At.After(time.Now()) || got.At.Location() != time.UTC {
		t.Errorf("schema %d, at %s", got.Schema, got.At)
	}
	if strings.Contains(string(msg.Data), "hunter2") {
		t.Errorf("the secret is stored: %s", msg.Data)
	}
	want := failure()
	want.Clean()
	if got.Digest() != want.Digest() {
		t.Errorf("got %+v", got)
	}
	header := HeaderCarrier(msg.Header)
	for key, want := range map[string]string{
		"ce-specversion": "1.0", "ce-type": "dev.recourse.failure.v1", "ce-datacontenttype": "application/json", "content-type": "application/json",
		"ce-source": "/recourse/acme/default/shop/deploy/ex42/failure/runner=201",
		"ce-time":   got.At.Format(time.RFC3339Nano), "Nats-Expected-Stream": recourse.StreamInbox,
		"ce-id": "failure/prod/canary[%C3%A4%20%25]/rollout/2",
	} {
		if header.Get(key) != want {
			t.Errorf("%s: got %q, want %q", key, header.Get(key), want)
		}
	}
	if id, err := url.PathUnescape(header.Get("ce-id")); err != nil || id != got.Key() {
		t.Errorf("ce-id decodes to %q, %v; want %q", id, err, got.Key())
	}
	if sc := trace.SpanContextFromContext(extractTrace(t.Context(), msg.Header)); sc.TraceID() != span.TraceID() {
		t.Errorf("trace %v, want %v", sc, span)
	}
	if header.Get("ce-traceparent") == "" {
		t.Error("the origin of the trace is missing")
	}
}

func TestReportRefusesWhatIsInvalid(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	d, _ := NewDelegate(nc, "runner")
	for _, change := range []func(*recourse.Failure){
		func(f *recourse.Failure) { f.Account = "" },
		func(f *recourse.Failure) { f.Attempt = 0 },
		func(f *recourse.Failure) { f.Path = "" },
		func(f *recourse.Failure) { f.Errors = recourse.ErrorTypesOf(recourse.AllErrors) },
		func(f *recourse.Failure) { f.Execution = strings.Repeat("x", recourse.MaxIDLength+1) },
	} {
		f := failure()
		change(&f)
		if _, err := d.Report(t.Context(), f); err == nil {
			t.Errorf("stored: %+v", f)
		}
	}
	// What only looks dangerous is escaped.
	f := failure()
	f.Execution, f.Pipeline = strings.Repeat("*.>\u2028", 40), "a b.c"
	if _, err := d.Report(t.Context(), f); err != nil {
		t.Errorf("%q: %v", f.Execution, err)
	}
	if msg := inbox(t, js, 1); !strings.HasPrefix(msg.Subject, f.Prefix()+".") || strings.ContainsAny(msg.Subject, "*> ") {
		t.Errorf("subject %q", msg.Subject)
	}
	if nc.IsClosed() {
		t.Error("the connection is closed")
	}
}

func TestNewDelegate(t *testing.T) {
	nc := newBroker(t).connect()
	for _, principal := range []string{"", strings.Repeat("p", 257), "a\n"} {
		if _, err := NewDelegate(nc, principal); err == nil || !strings.Contains(err.Error(), "principal") {
			t.Errorf("principal %q: %v", principal, err)
		}
	}
	if _, err := NewDelegate(nil, "p"); err == nil {
		t.Error("no connection")
	}
}

func TestReportOutlivesTheServer(t *testing.T) {
	b := newBroker(t)
	nc := b.connect()
	provision(t, nc)
	d, _ := NewDelegate(nc, "runner")
	b.stop()
	stored := make(chan error, 1)
	go func() {
		_, err := d.Report(soon(t, patience), failure())
		stored <- err
	}()
	eventually(t, "the connection is lost", func() bool { return nc.Status() == nats.RECONNECTING })
	b.start()
	if err := receive(t, "the report is stored", stored); err != nil {
		t.Error(err)
	}
}

func TestReportErrors(t *testing.T) {
	t.Run("no stream", func(t *testing.T) {
		nc := newBroker(t).connect()
		d, _ := NewDelegate(nc, "runner")
		_, err := d.Report(soon(t, 300*time.Millisecond), failure())
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, jetstream.ErrNoStreamResponse) || !strings.Contains(err.Error(), "provision") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another stream", func(t *testing.T) {
		nc := newBroker(t).connect()
		js, _ := jetstream.New(nc)
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"recourse.>"}}); err != nil {
			t.Fatal(err)
		}
		d, _ := NewDelegate(nc, "runner")
		var api *jetstream.APIError
		if _, err := d.Report(soon(t, patience), failure()); !errors.As(err, &api) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		nc := newBroker(t).connect()
		d, _ := NewDelegate(nc, "runner")
		nc.Close()
		if _, err := d.Report(soon(t, patience), failure()); !errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		nc := newBroker(t).connect()
		d, _ := NewDelegate(nc, "runner")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.Report(ctx, failure()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("denied", func(t *testing.T) {
		b := newBroker(t, func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "admin", Password: "admin-pw"},
				{Username: "runner", Password: "runner-pw", Permissions: &server.Permissions{
					Publish: &server.SubjectPermission{Allow: []string{"recourse.acme.*.*.*.*.failure.runner"}},
				}},
			}
		})
		provision(t, b.connect(nats.UserInfo("admin", "admin-pw")))
		nc := b.connect(nats.UserInfo("runner", "runner-pw"))
		mine, _ := NewDelegate(nc, "runner")
		if _, err := mine.Report(soon(t, patience), failure()); err != nil {
			t.Error(err)
		}
		other, _ := NewDelegate(nc, "somebody-else")
		_, err := other.Report(soon(t, patience), failure())
		if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "somebody-else") || strings.Contains(err.Error(), "not known to be stored") {
			t.Errorf("got %v", err)
		}
		if Classify(err) != recourse.ErrorTypesOf(recourse.Authorization) {
			t.Errorf("classified as %s", Classify(err))
		}
	})
}
