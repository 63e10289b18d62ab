package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
)

// get asks an admin endpoint.
func get(t *testing.T, address, path string, header ...string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestAdmin(t *testing.T) {
	checks := []check{{name: "a", says: "ok"}, {name: "b", says: "ok, 3 apart"}}
	failing := []check{{name: "a", says: "ok"}, {name: "b", err: errors.New("gone")}, {name: "c", err: errors.New("off")}}
	metrics := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "recourse_ready 1") })
	for _, tc := range []struct {
		name           string
		checks         []check
		metrics        http.Handler
		pprof          bool
		method, path   string
		code           int
		body, excludes string
	}{
		{"alive", failing, nil, false, "GET", "/livez", 200, "ok\n", "gone"},
		{"ready", checks, nil, false, "GET", "/readyz", 200, "ok\n", "a:"},
		{"ready, verbose", checks, nil, false, "GET", "/readyz?verbose", 200, "[+] a: ok\n[+] b: ok, 3 apart\nok\n", "[-]"},
		{"not ready", failing, nil, false, "GET", "/readyz", 503, "[-] b: gone\n[-] c: off\n", "[+]"},
		{"not ready, verbose", failing, nil, false, "GET", "/readyz?verbose=1", 503, "[+] a: ok\n[-] b: gone\n[-] c: off\n", "\nok"},
		{"metrics", checks, metrics, false, "GET", "/metrics", 200, "recourse_ready 1", ""},
		{"no metrics", checks, nil, false, "GET", "/metrics", 404, "", ""},
		{"no profiles unless asked for", checks, nil, false, "GET", "/debug/pprof/", 404, "", ""},
		{"profiles", checks, nil, true, "GET", "/debug/pprof/", 200, "goroutine", ""},
		{"nothing is changed here", checks, metrics, true, "POST", "/readyz", 405, "", ""},
		{"nothing else", checks, metrics, true, "GET", "/", 404, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newAdmin(func(context.Context) []check { return tc.checks }, tc.metrics, tc.pprof)
			rw := httptest.NewRecorder()
			a.ServeHTTP(rw, httptest.NewRequest(tc.method, tc.path, nil))
			body := rw.Body.String()
			if rw.Code != tc.code || !strings.Contains(body, tc.body) || tc.excludes != "" && strings.Contains(body, tc.excludes) {
				t.Errorf("%d %q; want %d, with %q, without %q", rw.Code, body, tc.code, tc.body, tc.excludes)
			}
		})
	}
}

func TestAdminAddress(t *testing.T) {
	for listen, want := range map[string]string{
		"8080": "127.0.0.1:8080", ":8080": ":8080", "0.0.0.0:8080": "0.0.0.0:8080", "127.0.0.1:0": "127.0.0.1:0", "[::1]:80": "[::1]:80",
	} {
		if got := adminAddress(listen); got != want {
			t.Errorf("%q: %q, want %q", listen, got, want)
		}
	}
}

// TestReadinessWhileStarting: who asks before there is a connection gets an answer.
func TestReadinessWhileStarting(t *testing.T) {
	var r readiness
	checks := r.look(t.Context())
	if len(checks) != 2 || checks[0].err == nil || checks[1].err == nil {
		t.Errorf("%v", checks)
	}
	r.working.Store(true)
	if checks = r.look(t.Context()); checks[0].err != nil || checks[1].err == nil {
		t.Errorf("%v", checks)
	}
	r.stopping.Store(true)
	if checks = r.look(t.Context()); checks[0].err == nil || !strings.Contains(checks[0].err.Error(), "stopping") {
		t.Errorf("%v", checks)
	}
}

// verbose waits until the verbose answer has a line.
func verbose(t *testing.T, admin string, code int, line string) string {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got, body := get(t, admin, "/readyz?verbose")
		if got == code && strings.Contains(body, line) {
			return body
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz?verbose is %d %s; want %d and %q", got, body, code, line)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// TestReadinessFindsFaults: what a worker needs is taken away, one after the other.
func TestReadinessFindsFaults(t *testing.T) {
	own, js := provisioned(t)
	admin := freeAddress(t)
	w := launch(t, Config{Connection: client.Settings{Server: own.URL()}, AdminListen: admin, Provision: broker.ModeVerify})
	body := verbose(t, admin, 200, "\nok\n")
	for _, line := range []string{
		"[+] not draining: ok\n", "[+] connected: ok, nats://", "[+] streams: ok\n",
		"[+] consumers bound: ok, recourse-worker has 0 pending and 0 unsettled, recourse-due has 0 pending and 0 unsettled\n",
		"[+] permissions: ok\n", "[+] clock: ok, ",
	} {
		if !strings.Contains(body, line) {
			t.Errorf("%q is not in\n%s", line, body)
		}
	}
	// Looking leaves nothing behind.
	for _, name := range []string{recourse.StreamInbox, recourse.StreamJournal, recourse.StreamTimers, recourse.StreamRejected} {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.LastSeq; n != 0 {
			t.Errorf("%s has had %d messages", name, n)
		}
	}
	asks := ask(t, js.Conn())
	says := func(name string) string {
		t.Helper()
		for _, c := range asks.look(t.Context()) {
			if c.name == name && c.err != nil {
				return c.err.Error()
			}
		}
		return ""
	}
	pause := time.Now().Add(time.Hour)
	if _, err := js.PauseConsumer(t.Context(), recourse.StreamTimers, broker.ConsumerDue, pause); err != nil {
		t.Fatal(err)
	}
	if got := says("consumers bound"); !strings.HasPrefix(got, "consumer recourse-due of RECOURSE_TIMERS is paused for ") {
		t.Errorf("of a paused consumer it says %q", got)
	}
	if _, err := js.ResumeConsumer(t.Context(), recourse.StreamTimers, broker.ConsumerDue); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), recourse.StreamRejected); err != nil {
		t.Fatal(err)
	}
	if got := says("streams"); !strings.HasPrefix(got, "RECOURSE_REJECTED: nats: API error: code=404") {
		t.Errorf("of a stream that is not there it says %q", got)
	}
	if got := says("consumers bound") + says("permissions") + says("clock"); got != "" {
		t.Errorf("of the rest it says %q", got)
	}
	w.stop()
	if err := w.end(t); err != nil {
		t.Error(err)
	}
}

// TestReadinessFindsMissingPermissions: each thing a worker may not do is named.
func TestReadinessFindsMissingPermissions(t *testing.T) {
	options := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()}
	denied := []string{}
	user := func(name string) *server.User {
		permissions := &server.Permissions{Publish: &server.SubjectPermission{Deny: denied}}
		return &server.User{Username: name, Password: "p", Permissions: permissions}
	}
	denied = []string{"nothing"}
	all := user("admin")
	denied = []string{"recourse.*.*.*.*.*.command.*", "$JS.ACK.RECOURSE_TIMERS.recourse-due.>"}
	some := user("some")
	denied = []string{"$JS.API.CONSUMER.MSG.NEXT.RECOURSE_INBOX.recourse-worker"}
	pull := user("pull")
	options.Users = []*server.User{all, some, pull}
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("no server")
	}
	connect := func(user string) *nats.Conn {
		nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(user, "p"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	js, err := jetstream.New(connect("admin"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	for user, wants := range map[string][]string{
		"admin": nil,
		"some":  {"recourse.=.=.=.=.=.command.*", "$JS.ACK.RECOURSE_TIMERS.recourse-due.*"},
		"pull":  {"may not pull from consumer recourse-worker of RECOURSE_INBOX"},
	} {
		t.Run(user, func(t *testing.T) {
			nc := connect(user)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for range 2 { // and it is not the answer of the last time
				_, err := ask(t, nc).permissions(ctx)
				if (err != nil) != (wants != nil) {
					t.Errorf("error %v, want %v", err, wants)
				}
				for _, want := range wants {
					if err != nil && !strings.Contains(err.Error(), want) {
						t.Errorf("%v does not name %s", err, want)
					}
				}
			}
		})
	}
}

// ask returns what asks the server of a connection.
func ask(t *testing.T, nc *nats.Conn) *asking {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &asking{nc: nc, js: js, now: time.Now}
}

func TestClock(t *testing.T) {
	own, _ := provisioned(t)
	nc, err := nats.Connect(own.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for off, want := range map[time.Duration]string{0: "", time.Hour: "the worker's is ahead", -time.Hour: "the worker's is behind"} {
		s := ask(t, nc)
		s.now = func() time.Time { return time.Now().Add(off) }
		says, err := s.clock(t.Context())
		switch {
		case want == "" && (err != nil || !strings.HasPrefix(says, "ok, ")):
			t.Errorf("%s: %q, %v", off, says, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "1h0m")):
			t.Errorf("%s: %v, want %q", off, err, want)
		}
	}
}

// TestAdminListens: a port alone is on the loopback interface, and one that is taken is an error.
func TestAdminListens(t *testing.T) {
	_, port, err := net.SplitHostPort(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("OTEL_SDK_DISABLED", "true")
	w := launch(t, Config{Embedded: embeddedConfig(t), AdminListen: port, Log: zap.NewNop()})
	code, body := get(t, "127.0.0.1:"+port, "/metrics")
	if code != 200 || !strings.Contains(body, "go_goroutines") || strings.Contains(body, "recourse_") {
		t.Errorf("with the SDK disabled /metrics is %d %s", code, body)
	}
	w.stop()
	if err := w.end(t); err != nil {
		t.Error(err)
	}
}

// TestShippedPermissions: with the role of deploy/nats a worker is ready, knows what its gauges show, and is refused nothing.
func TestShippedPermissions(t *testing.T) {
	for _, role := range []string{"DELEGATE", "ORCHESTRATOR", "OPERATOR", "VIEWER", "WORKER", "ADMIN", "SYS"} {
		t.Setenv("RECOURSE_"+role+"_PASSWORD", "secret")
	}
	options, err := server.ProcessConfigFile("../../deploy/nats/accounts.conf")
	if err != nil {
		t.Fatal(err)
	}
	options.Host, options.Port, options.NoSigs, options.NoLog, options.JetStream, options.StoreDir = "127.0.0.1", server.RANDOM_PORT, true, true, true, t.TempDir()
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("no server")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("admin", "secret"), nats.CustomInboxPrefix("_INBOX.admin"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	admin := freeAddress(t)
	core, logs := observer.New(zap.WarnLevel)
	w := launch(t, Config{
		Connection:  client.Settings{Server: s.ClientURL(), User: "worker", Password: "secret", InboxPrefix: "_INBOX.worker"},
		AdminListen: admin, Provision: broker.ModeVerify, Log: zap.New(core),
	})
	verbose(t, admin, 200, "[+] permissions: ok\n")
	deadline := time.Now().Add(patience)
	shows := func(series string) {
		t.Helper()
		for {
			_, body := get(t, admin, "/metrics")
			if strings.Contains(body, series) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is not in\n%s", series, body)
			}
			<-time.After(50 * time.Millisecond)
		}
	}
	for _, series := range []string{
		"recourse_interventions_open 0", "recourse_waits 0", `recourse_consumer_pending{messaging_consumer_group_name="recourse-worker"} 0`,
		`recourse_consumer_ack_pending{messaging_consumer_group_name="recourse-due"} 0`,
	} {
		shows(series)
	}
	// It hears of what other workers pause.
	other, err := nats.Connect(s.ClientURL(), nats.UserInfo("worker", "secret"), nats.CustomInboxPrefix("_INBOX.worker"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ref := recourse.Ref{Account: "acme", Org: "o", Project: "p", Pipeline: "p", Execution: "e"}
	pause := nats.NewMsg(ref.Subject(recourse.FamilyCommand, recourse.VerbPause.String()))
	pause.Header[recourse.HeaderVersion], pause.Header[recourse.HeaderDueAt] = []string{"1"}, []string{time.Now().Add(time.Hour).Format(time.RFC3339Nano)}
	if err := errors.Join(other.PublishMsg(pause), other.Flush()); err != nil {
		t.Fatal(err)
	}
	shows("recourse_interventions_open 1")
	w.stop()
	if err := w.end(t); err != nil {
		t.Error(err)
	}
	for _, line := range logs.All() {
		if line.LoggerName == "nats" {
			t.Errorf("%s %v", line.Message, line.ContextMap())
		}
	}
}
