package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/peers"
)

// patience bounds whatever a test waits for.
const patience = 30 * time.Second

// site is a server with the streams.
type site struct {
	t   *testing.T
	url string
	nc  *nats.Conn
	js  jetstream.JetStream
}

// bare starts a server without streams.
func bare(t *testing.T, change func(*server.Options)) *site {
	t.Helper()
	options := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()}
	if change != nil {
		change(options)
	}
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	b := &site{t: t, url: s.ClientURL()}
	if len(options.Users) == 0 {
		b.nc = b.connect()
		b.js = b.jetStream(b.nc)
	}
	return b
}

func (s *site) connect(options ...nats.Option) *nats.Conn {
	s.t.Helper()
	nc, err := nats.Connect(s.url, append(options, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

func (s *site) jetStream(nc *nats.Conn) jetstream.JetStream {
	s.t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	return js
}

// provisioned starts a server with the streams, and two pulls as a worker has them.
func provisioned(t *testing.T) *site {
	t.Helper()
	s := bare(t, nil)
	s.provision()
	for _, d := range broker.Durables() {
		s.pull(d)
	}
	return s
}

func (s *site) provision() {
	s.t.Helper()
	if _, err := broker.Provision(s.t.Context(), s.js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		s.t.Fatal(err)
	}
}

// pull settles what comes, on a connection of its own, until the function it returns is called.
func (s *site) pull(d broker.Durable) (stop func()) {
	s.t.Helper()
	nc := s.connect()
	consumer, err := s.jetStream(nc).Consumer(s.t.Context(), d.Stream, d.Name)
	if err != nil {
		s.t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		for {
			msg, err := messages.Next()
			if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
				return
			}
			if err == nil {
				_ = msg.Ack()
			}
		}
	}()
	s.t.Cleanup(messages.Stop)
	return func() { messages.Stop(); nc.Close() }
}

// findings of one run, by check.
type findings map[string][]Finding

func examine(t *testing.T, nc *nats.Conn, cfg Config) findings {
	t.Helper()
	found := findings{}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := Examine(ctx, nc, cfg, func(f Finding) { found[f.Check] = append(found[f.Check], f) }); err != nil {
		t.Fatal(err)
	}
	return found
}

// want wants a finding of a check, with a status and with parts of what it says and how to mend it.
func (f findings) want(t *testing.T, check string, status Status, says, mend string) {
	t.Helper()
	for _, finding := range f[check] {
		if finding.Status == status && strings.Contains(finding.Says, says) && strings.Contains(finding.Mend, mend) {
			return
		}
	}
	t.Errorf("%s: want %v, %q, to be mended by %q; got %+v", check, status, says, mend, f[check])
}

// failed returns the checks that failed, and wants each to say how to mend it.
func (f findings) failed(t *testing.T) []string {
	t.Helper()
	var checks []string
	for check, all := range f {
		for _, finding := range all {
			if finding.Status >= Warning && finding.Mend == "" || finding.Status < Warning && finding.Mend != "" {
				t.Errorf("%+v: a way to mend it is said where there is something to mend", finding)
			}
			if finding.Status == Failed && !slices.Contains(checks, check) {
				checks = append(checks, check)
			}
		}
	}
	slices.Sort(checks)
	return checks
}

func (f findings) wantFailed(t *testing.T, checks ...string) {
	t.Helper()
	slices.Sort(checks)
	if failed := f.failed(t); !slices.Equal(failed, checks) {
		t.Errorf("failed: %q, want %q\n%+v", failed, checks, f)
	}
}

func TestHealthy(t *testing.T) {
	s := provisioned(t)
	found := examine(t, s.nc, Config{})
	found.wantFailed(t)
	for _, check := range []string{
		"server", "version", "features", "replies", "JetStream", "stream RECOURSE_INBOX", "stream RECOURSE_JOURNAL", "stream RECOURSE_TIMERS",
		"stream RECOURSE_REJECTED", "bucket RECOURSE_PIPELINES", "consumer RECOURSE_INBOX/recourse-worker", "consumer RECOURSE_TIMERS/recourse-due",
		"clock of this machine", "space", "workers on recourse-worker", "workers on recourse-due", "undecided inputs", "waits", "rejected inputs",
	} {
		found.want(t, check, OK, "", "")
	}
	found.want(t, "permissions", OK, "delegate, orchestrator, operator, viewer, worker, admin", "")
	found.want(t, "clocks of the workers", Skipped, "nothing was decided", "")
	found.want(t, "durability", Warning, "sync not known", "sync_interval: always")
}

// TestNothingIsLeftBehind: with permission to do everything, trying the permissions of all roles stores nothing, creates nothing and
// settles nothing.
func TestNothingIsLeftBehind(t *testing.T) {
	s := provisioned(t)
	seen, err := s.connect().SubscribeSync("recourse.>")
	if err != nil {
		t.Fatal(err)
	}
	before := s.state()
	for role := Delegate; role <= Admin; role++ {
		examine(t, s.nc, Config{Role: role, Scope: recourse.Ref{Account: "acme"}, Principal: "ann"}).want(t, "permissions of "+role.String(), OK, "all there, in account acme", "")
	}
	if after := s.state(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	for { // what is tried is no message of anybody: its execution has no id, and workers listen to no header
		msg, err := seen.NextMsg(10 * time.Millisecond)
		if err != nil {
			break
		}
		if !strings.Contains(msg.Subject, ".=.=.=.=.") && (msg.Subject != peers.SubjectClaims || len(msg.Header) == 0) && msg.Subject != literal(peers.SubjectInputs) {
			t.Errorf("published on %s", msg.Subject)
		}
	}
}

// state is what the streams hold, for people.
func (s *site) state() string {
	s.t.Helper()
	var text strings.Builder
	streams := s.js.ListStreams(s.t.Context())
	for info := range streams.Info() {
		fmt.Fprintf(&text, "%s: %d to %d, %d consumers, created %v\n", info.Config.Name, info.State.FirstSeq, info.State.LastSeq, info.State.Consumers, info.Created)
	}
	if err := streams.Err(); err != nil {
		s.t.Fatal(err)
	}
	for _, d := range broker.Durables() {
		c, err := s.js.Consumer(s.t.Context(), d.Stream, d.Name)
		if err != nil {
			s.t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s: delivered %d, settled %d\n", d, c.CachedInfo().Delivered.Consumer, c.CachedInfo().AckFloor.Consumer)
	}
	return text.String()
}

// TestFaults has one fault each, and wants what it breaks to be named and nothing else.
func TestFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		fault             func(t *testing.T, s *site)
		failed            []string
		check, says, mend string
	}{
		"a stream deleted": {
			func(t *testing.T, s *site) { must(t, s.js.DeleteStream(t.Context(), recourse.StreamRejected)) },
			[]string{"stream RECOURSE_REJECTED"}, "stream RECOURSE_REJECTED", "missing", "provisioning mode create",
		},
		"the bucket deleted": {
			func(t *testing.T, s *site) { must(t, s.js.DeleteStream(t.Context(), broker.PipelinesStream)) },
			[]string{"bucket RECOURSE_PIPELINES"}, "bucket RECOURSE_PIPELINES", "missing", "provisioning mode create",
		},
		"a stream changed": {
			func(t *testing.T, s *site) {
				s.change(recourse.StreamJournal, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 })
			},
			[]string{"stream RECOURSE_JOURNAL"}, "stream RECOURSE_JOURNAL", "max messages per subject is 5, want -1", "provisioning mode create",
		},
		"a stream nearly full": {
			func(t *testing.T, s *site) {
				s.change(recourse.StreamRejected, func(c *jetstream.StreamConfig) { c.MaxMsgs = 2 })
				for range 2 {
					_, err := s.js.Publish(t.Context(), recourse.Ref{Account: "a"}.Subject(recourse.FamilyRejected, "bad-json"), []byte("{"))
					must(t, err)
				}
			},
			[]string{"stream RECOURSE_REJECTED"}, "stream RECOURSE_REJECTED", "100 % of its limit of 2 messages", "nats stream edit",
		},
		"a consumer deleted": {
			func(t *testing.T, s *site) {
				must(t, s.js.DeleteConsumer(t.Context(), recourse.StreamInbox, broker.ConsumerInbox))
			},
			[]string{"consumer RECOURSE_INBOX/recourse-worker"}, "consumer RECOURSE_INBOX/recourse-worker", "missing", "provisioning mode create",
		},
		"a consumer changed": {
			func(t *testing.T, s *site) {
				c, err := s.js.Consumer(t.Context(), recourse.StreamTimers, broker.ConsumerDue)
				must(t, err)
				cfg := c.CachedInfo().Config
				cfg.MaxDeliver = 3
				_, err = s.js.UpdateConsumer(t.Context(), recourse.StreamTimers, cfg)
				must(t, err)
			},
			[]string{"consumer RECOURSE_TIMERS/recourse-due"}, "consumer RECOURSE_TIMERS/recourse-due", "max deliver is 3, want -1", "provisioning mode create",
		},
		"a consumer paused": {
			func(t *testing.T, s *site) {
				_, err := s.js.PauseConsumer(t.Context(), recourse.StreamInbox, broker.ConsumerInbox, time.Now().Add(time.Hour))
				must(t, err)
			},
			[]string{"consumer RECOURSE_INBOX/recourse-worker"}, "consumer RECOURSE_INBOX/recourse-worker", "paused", "nats consumer resume RECOURSE_INBOX recourse-worker",
		},
		"a wait overdue": {
			func(t *testing.T, s *site) { s.append(time.Now().Add(-2*overdueAfter), time.Now()) },
			[]string{"waits"}, "waits", "1 overdue, by up to 2m", "start a worker",
		},
		"a worker's clock ahead": {
			func(t *testing.T, s *site) {
				s.append(time.Now().Add(time.Hour), time.Now().Add(time.Minute))
			},
			[]string{"clocks of the workers"}, "clocks of the workers", "ahead of the server's", "chrony",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := provisioned(t)
			tc.fault(t, s)
			found := examine(t, s.nc, Config{})
			found.wantFailed(t, tc.failed...)
			found.want(t, tc.check, Failed, tc.says, tc.mend)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) change(name string, change func(*jetstream.StreamConfig)) {
	s.t.Helper()
	stream, err := s.js.Stream(s.t.Context(), name)
	must(s.t, err)
	cfg := stream.CachedInfo().Config
	change(&cfg)
	_, err = s.js.UpdateStream(s.t.Context(), cfg)
	must(s.t, err)
}

// append appends a record of a retry that is due at some time.
func (s *site) append(due, at time.Time) {
	s.t.Helper()
	wait := recourse.Wait{
		Version: 1, Kind: recourse.WaitRetry, Node: recourse.Node{Path: "prod/check"}, Attempt: 1, DueAt: due.UTC(),
		Retry: 1, Level: recourse.LevelStep, Strategy: "failureStrategies[0]",
	}
	record := &recourse.Record{
		Schema: recourse.Schema, Ref: recourse.Ref{Account: "acme", Org: "o", Project: "p", Pipeline: "pl", Execution: "e"}, Version: 1, At: at.UTC(),
		Input:    recourse.Input{Key: "failure/prod/check/1", Sequence: 1, Failure: &recourse.FailureInput{Errors: recourse.ErrorTypesOf(recourse.Timeout)}},
		Decision: recourse.Decision{Node: wait.Node, Attempt: 1, Action: recourse.Retry, Reason: recourse.StrategyMatched, Kind: recourse.KindRetryScheduled, Wait: wait},
		State:    &recourse.State{Waits: []recourse.Wait{wait}},
	}
	body, err := recourse.Encode(record)
	must(s.t, err)
	_, err = s.js.Publish(s.t.Context(), record.Subject(), body)
	must(s.t, err)
}

func TestWarnings(t *testing.T) {
	s := provisioned(t)
	_, err := s.js.Publish(t.Context(), recourse.Ref{Account: "a"}.Subject(recourse.FamilyRejected, "bad-json"), []byte("{"))
	must(t, err)
	s.append(time.Now().Add(time.Hour), time.Now().Add(-time.Minute))
	found := examine(t, s.nc, Config{})
	found.wantFailed(t)
	found.want(t, "rejected inputs", Warning, "1, the last one", "recourse rejected")
	found.want(t, "clocks of the workers", Warning, "its clock is behind, or storing is slow", "chrony")
	found.want(t, "waits", OK, "none overdue", "")
}

func TestNoWorker(t *testing.T) {
	s := bare(t, nil)
	s.provision()
	var stops []func()
	for _, d := range broker.Durables() {
		stops = append(stops, s.pull(d))
	}
	examine(t, s.nc, Config{}).wantFailed(t)
	for _, stop := range stops {
		stop()
	}
	for _, d := range broker.Durables() { // until the server noticed
		for deadline := time.Now().Add(patience); ; {
			c, err := s.js.Consumer(t.Context(), d.Stream, d.Name)
			must(t, err)
			if c.CachedInfo().NumWaiting == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s still has requests of a closed connection", d)
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	_, err := s.js.Publish(t.Context(), recourse.Ref{Account: "a"}.Subject(recourse.FamilyFailure, "ann"), []byte("{"))
	must(t, err)
	found := examine(t, s.nc, Config{})
	found.wantFailed(t, "workers on recourse-worker", "workers on recourse-due")
	found.want(t, "workers on recourse-worker", Failed, "no worker pulls, 1 pending, 0 unsettled", "start a worker")
	found.want(t, "undecided inputs", OK, "1, the oldest for", "")
}

func TestJudge(t *testing.T) {
	now := time.Now()
	before, longAgo := now.Add(-time.Second), now.Add(-time.Hour)
	for name, tc := range map[string]struct {
		watched watched
		want    Status
		says    string
	}{
		"idle":          {watched{info(0, 0, now, nil), true, false}, OK, "pull, 0 pending"},
		"busy":          {watched{info(9, 3, now, &before), true, true}, OK, "9 pending, 3 unsettled"},
		"all in hand":   {watched{info(9, 3, now, &before), false, true}, OK, "9 pending"},
		"nobody":        {watched{info(9, 0, now, &longAgo), false, false}, Failed, "no worker pulls"},
		"nobody yet":    {watched{info(0, 0, now, nil), false, false}, Failed, "no worker pulls"},
		"ended or busy": {watched{info(9, 3, now, &before), false, false}, Warning, "busy, or ended"},
		"died":          {watched{info(9, 3, now, &longAgo), false, false}, Failed, "no worker pulls"},
		"stalled":       {watched{info(9, 3, now, &before), true, false}, Failed, "stalled"},
		"full":          {watched{info(9, broker.MaxAckPending, now, &before), true, true}, Failed, "the limit of unsettled"},
		"again":         {watched{&jetstream.ConsumerInfo{NumAckPending: 2, NumRedelivered: 2, TimeStamp: now}, true, true}, Warning, "2 were delivered more than once"},
	} {
		if f := tc.watched.judge(); f.Status != tc.want || !strings.Contains(f.Says, tc.says) || (f.Mend == "") != (tc.want == OK) {
			t.Errorf("%s: %+v, want %v, %q", name, f, tc.want, tc.says)
		}
	}
}

func info(pending uint64, unsettled int, now time.Time, delivered *time.Time) *jetstream.ConsumerInfo {
	return &jetstream.ConsumerInfo{NumPending: pending, NumAckPending: unsettled, TimeStamp: now, Delivered: jetstream.SequenceInfo{Last: delivered}}
}

func TestNoJetStream(t *testing.T) {
	s := bare(t, func(o *server.Options) { o.JetStream = false })
	for _, cfg := range []Config{{}, {Role: Delegate}} {
		found := examine(t, s.nc, cfg)
		found.wantFailed(t, "JetStream")
		found.want(t, "JetStream", Failed, "not enabled", "jetstream {}")
	}
}

// TestNothingProvisioned: a delegate may ask for nothing, but nobody takes what it reports.
func TestNothingProvisioned(t *testing.T) {
	s := bare(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "d", Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"recourse.acme.*.*.*.*.failure.d"}}, Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}}}
	})
	found := examine(t, s.connect(nats.UserInfo("d", "p")), Config{Role: Delegate, Scope: recourse.Ref{Account: "acme"}})
	found.wantFailed(t, "JetStream")
	found.want(t, "JetStream", Failed, "no stream takes what is published on recourse.acme.", "--provision create")
	found.want(t, "permissions of delegate", OK, "all there", "")
}

func TestClock(t *testing.T) {
	s := provisioned(t)
	for off, which := range map[time.Duration]string{time.Hour: "1h0m0s ahead", -time.Hour: "1h0m0s behind"} {
		found := examine(t, s.nc, Config{Now: func() time.Time { return time.Now().Add(off) }})
		found.wantFailed(t, "clock of this machine")
		found.want(t, "clock of this machine", Failed, which, "chrony")
	}
}

// TestOldServer sees a server through a relay that makes it older.
func TestOldServer(t *testing.T) {
	s := provisioned(t)
	s.url = "nats://" + relay(t, strings.TrimPrefix(s.url, "nats://"), `"version":"`+server.VERSION+`"`, `"version":"2.11.4"`)
	found := examine(t, s.connect(), Config{})
	found.wantFailed(t, "version")
	found.want(t, "version", Failed, "version 2.11.4", "2.14 or later")
}

// relay passes connections on, with a word of the server replaced.
func relay(t *testing.T, to, old, by string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(server, client)
				_ = server.Close()
			}()
			go func() {
				defer client.Close()
				for lines := bufio.NewReader(server); ; { // the server says it again after the greeting
					line, err := lines.ReadString('\n')
					if _, broken := io.WriteString(client, strings.ReplaceAll(line, old, by)); err != nil || broken != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// TestSilentServer: one that took the connection and then says nothing more is one failure, soon.
func TestSilentServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = fmt.Fprintf(conn, "INFO {\"server_id\":\"S\",\"version\":%q,\"headers\":true,\"max_payload\":1048576}\r\n", server.VERSION)
		for line := bufio.NewReader(conn); ; {
			if said, err := line.ReadString('\n'); err != nil || strings.HasPrefix(said, "PING") {
				break
			}
		}
		_, _ = io.WriteString(conn, "PONG\r\n")
		_, _ = io.Copy(io.Discard, conn)
	}()
	s := &site{t: t, url: "nats://" + listener.Addr().String()}
	start := time.Now()
	found := examine(t, s.connect(), Config{Role: Worker})
	found.wantFailed(t, "replies")
	found.want(t, "replies", Failed, "no answer to a ping", "nothing else could be looked at")
	if len(found) != 4 {
		t.Errorf("looked at %v", found)
	}
	if took := time.Since(start); took > patience/2 {
		t.Errorf("took %v", took)
	}
}

func TestFeatures(t *testing.T) {
	s := bare(t, func(o *server.Options) { o.MaxPayload = 64 << 10 })
	s.provision()
	examine(t, s.nc, Config{}).want(t, "features", Warning, "max_payload is 65536 bytes", "max_payload: 1MB")
}

func TestReplicas(t *testing.T) {
	for name, tc := range map[string]struct {
		cluster *jetstream.ClusterInfo
		want    []string
	}{
		"one server":  {nil, nil},
		"all current": {&jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{{Name: "b", Current: true}}}, nil},
		"no leader":   {&jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{{Name: "b", Current: true}}}, []string{"failed it has no leader"}},
		"one offline": {&jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{{Name: "b", Offline: true}, {Name: "c", Lag: 7}}}, []string{"warning b is offline, c lags by 7"}},
	} {
		var got []string
		e := &examination{tell: func(f Finding) { got = append(got, f.Status.String()+" "+f.Says) }}
		if e.replicas("stream", tc.cluster, 3); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestDurabilityAndSpace asks a monitoring endpoint that says what a server would.
func TestDurabilityAndSpace(t *testing.T) {
	s := provisioned(t)
	for name, tc := range map[string]struct {
		varz, jsz  string
		durability Status
		synced     string
		space      Status
		used       string
	}{
		"safe": {
			`{"jetstream":{"config":{"sync_always":true}}}`, `{"storage":1048576,"config":{"max_storage":10485760}}`,
			OK, "synced before each acknowledgement (monitor)", OK, "server: 1 MiB of 10 MiB used",
		},
		"lazy": {
			`{"jetstream":{"config":{"sync_interval":120000000000}}}`, `{"storage":9,"config":{"max_storage":10}}`,
			Warning, "synced every 2m0s (monitor)", Warning, "server: 9 B of 10 B used: at the limit nothing can be stored",
		},
		"full": {
			`{"jetstream":{}}`, `{"storage":96,"config":{"max_storage":100}}`,
			Warning, "sync not known", Failed, "server: 96 B of 100 B used",
		},
		"silent": {`{`, `{`, Warning, "sync not known: monitoring endpoint", Warning, "monitoring endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			answers := map[string]string{"/varz": tc.varz, "/jsz": tc.jsz}
			monitor := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(rw, answers[r.URL.Path]) }))
			defer monitor.Close()
			found := examine(t, s.nc, Config{MonitorURL: monitor.URL})
			found.want(t, "durability", tc.durability, tc.synced, "")
			found.want(t, "space", tc.space, tc.used, "")
			found.failed(t)
		})
	}
}
