package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

const accountsFile = "../../deploy/nats/accounts.conf"

// The users of the file; each role has one, named like it.
const (
	delegate     = "delegate"
	orchestrator = "orchestrator"
	operator     = "operator"
	viewer       = "viewer"
	worker       = "worker"
	admin        = "admin"
)

var roles = []string{delegate, orchestrator, operator, viewer, worker, admin}

func setPasswords(t *testing.T) {
	t.Helper()
	for _, role := range append([]string{"sys"}, roles...) {
		t.Setenv("RECOURSE_"+strings.ToUpper(role)+"_PASSWORD", "secret-of-"+role)
	}
}

// securedTest starts a server with the permissions that are shipped and provisions it as the admin.
func securedTest(t *testing.T) (url string) {
	t.Helper()
	setPasswords(t)
	options, err := server.ProcessConfigFile(accountsFile)
	if err != nil {
		t.Fatal(err)
	}
	options.Host, options.Port, options.NoSigs, options.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	options.JetStream, options.StoreDir = true, t.TempDir()
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(testDeadline) {
		t.Fatal("server not ready")
	}
	as := connectAs(t, s.ClientURL(), admin)
	if _, err := Provision(t.Context(), as.js, ModeCreate, ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	as.checkNothingRefused(t)
	return s.ClientURL()
}

// user is a connection of a role that keeps what the server refused it.
type user struct {
	role string
	nc   *nats.Conn
	js   jetstream.JetStream

	mu      sync.Mutex
	refused []string
}

func connectAs(t *testing.T, url, role string) *user {
	t.Helper()
	u := &user{role: role}
	u.nc, u.js = connectTest(t, url, nats.UserInfo(role, "secret-of-"+role), nats.CustomInboxPrefix("_INBOX."+role),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.refused = append(u.refused, err.Error())
		}))
	return u
}

func (u *user) checkNothingRefused(t *testing.T) {
	t.Helper()
	if err := u.nc.Flush(); err != nil {
		t.Error(err)
	}
	if err := u.nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("%s: %v", u.role, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, err := range u.refused {
		t.Errorf("%s: %s", u.role, err)
	}
}

// allowed reports whether the server lets the connection do what do does; what it refuses it says before it answers the flush.
func (u *user) allowed(t *testing.T, subject string, do func() error) bool {
	t.Helper()
	if err := errors.Join(do(), u.nc.Flush()); err != nil {
		t.Fatal(err)
	}
	err := u.nc.LastError()
	return !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(strings.ToLower(err.Error()), `"`+strings.ToLower(subject)+`"`)
}

const acme, evil = "recourse.acme.o.p.pl.e", "recourse.evil.o.p.pl.e"

// publishMatrix has each subject with the roles that may publish on it; all others may not. API requests are sent with a body that
// no request accepts, so that those allowed have no effect.
var publishMatrix = []struct {
	subject string
	allowed []string
}{
	// inputs: in one's own name and account only
	{acme + ".failure.delegate", []string{delegate}},
	{acme + ".failure.somebody", nil},
	{evil + ".failure.delegate", nil},
	{acme + ".failure.delegate.more", nil},
	{acme + ".failure", nil},
	{acme + ".failure.operator", nil},
	{acme + ".failure.worker", nil},
	{acme + ".intervention.operator", []string{operator}},
	{acme + ".intervention.somebody", nil},
	{evil + ".intervention.operator", nil},
	{acme + ".intervention.delegate", nil},
	{acme + ".control.operator", []string{operator}},
	{acme + ".control.somebody", nil},
	{evil + ".control.operator", nil},
	{acme + ".lifecycle.orchestrator", []string{orchestrator}},
	{acme + ".lifecycle.somebody", nil},
	{evil + ".lifecycle.orchestrator", nil},
	// what only workers write
	{acme + ".command.retry", []string{worker}},
	{acme + ".decision.stale", []string{worker}},
	{acme + ".timer.1", []string{worker}},
	{acme + ".due.1", []string{worker}},
	{acme + ".rejected.bad-json", []string{worker}},
	{evil + ".command.retry", []string{worker}}, // workers serve all accounts
	{acme + ".anything.else", nil},
	{"recourse", nil},
	{"elsewhere", nil},
	// pipelines
	{"$KV.RECOURSE_PIPELINES.acme.o.p.pl", []string{admin}},
	{"$KV.OTHER.key", nil},
	// streams: how they are set up
	{"$JS.API.STREAM.INFO.RECOURSE_INBOX", []string{viewer, worker, admin}},
	{"$JS.API.STREAM.INFO.RECOURSE_JOURNAL", []string{operator, viewer, worker, admin}},
	{"$JS.API.STREAM.INFO.RECOURSE_TIMERS", []string{viewer, worker, admin}},
	{"$JS.API.STREAM.INFO.RECOURSE_REJECTED", []string{viewer, worker, admin}},
	{"$JS.API.STREAM.INFO.KV_RECOURSE_PIPELINES", []string{operator, viewer, worker, admin}},
	{"$JS.API.STREAM.INFO.OTHER", []string{admin}},
	{"$JS.API.STREAM.LIST", []string{admin}},
	{"$JS.API.STREAM.NAMES", []string{admin}},
	// reading
	{"$JS.API.DIRECT.GET.RECOURSE_JOURNAL", []string{operator, viewer, worker, admin}},
	{"$JS.API.DIRECT.GET.RECOURSE_JOURNAL." + acme + ".>", []string{operator, viewer, worker, admin}},
	{"$JS.API.STREAM.MSG.GET.RECOURSE_JOURNAL", []string{worker, admin}},
	{"$JS.API.DIRECT.GET.RECOURSE_INBOX", []string{admin}},
	{"$JS.API.STREAM.MSG.GET.RECOURSE_INBOX", []string{admin}},
	{"$JS.API.DIRECT.GET.RECOURSE_REJECTED", []string{admin}},
	{"$JS.API.DIRECT.GET.RECOURSE_TIMERS", []string{admin}},
	{"$JS.API.DIRECT.GET.KV_RECOURSE_PIPELINES.$KV.RECOURSE_PIPELINES.acme.o.p.pl", []string{operator, viewer, worker, admin}},
	{"$JS.API.DIRECT.GET.KV_RECOURSE_PIPELINES.$KV.RECOURSE_PIPELINES.evil.o.p.pl", []string{worker, admin}},
	{"$JS.API.DIRECT.GET.KV_RECOURSE_PIPELINES", []string{worker, admin}},
	// consumers on the journal
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.orchestrator.recourse.acme.*.*.*.*.command.>", []string{orchestrator, admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.orchestrator.recourse.acme.*.*.*.*.command.retry", []string{orchestrator, admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.orchestrator.recourse.evil.*.*.*.*.command.>", []string{admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.orchestrator.recourse.acme.>", []string{admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.orchestrator", []string{admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.mine.recourse.acme.>", []string{operator, viewer, worker, admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.mine.recourse.evil.>", []string{worker, admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.mine.recourse.*.*.*.*.*.command.>", []string{worker, admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.mine.>", []string{worker, admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.mine", []string{worker, admin}},
	{"$JS.API.CONSUMER.DURABLE.CREATE.RECOURSE_JOURNAL.mine", []string{admin}},
	{"$JS.API.CONSUMER.MSG.NEXT.RECOURSE_JOURNAL.mine", []string{operator, viewer, worker, admin}},
	{"$JS.API.CONSUMER.MSG.NEXT.RECOURSE_JOURNAL.orchestrator", []string{orchestrator, admin}},
	{"$JS.API.CONSUMER.INFO.RECOURSE_JOURNAL.orchestrator", []string{orchestrator, admin}},
	{"$JS.API.CONSUMER.DELETE.RECOURSE_JOURNAL.mine", []string{operator, viewer, worker, admin}},
	{"$JS.API.CONSUMER.DELETE.RECOURSE_JOURNAL.orchestrator", []string{admin}},
	{"$JS.ACK.RECOURSE_JOURNAL.orchestrator.1.1.1.1.0", []string{orchestrator}},
	{"$JS.ACK._.hash.RECOURSE_JOURNAL.orchestrator.1.1.1.1.0.token", []string{orchestrator}},
	// consumers of the workers
	{"$JS.API.CONSUMER.INFO.RECOURSE_INBOX.recourse-worker", []string{viewer, worker, admin}},
	{"$JS.API.CONSUMER.INFO.RECOURSE_TIMERS.recourse-due", []string{viewer, worker, admin}},
	{"$JS.API.CONSUMER.MSG.NEXT.RECOURSE_INBOX.recourse-worker", []string{worker, admin}},
	{"$JS.API.CONSUMER.MSG.NEXT.RECOURSE_TIMERS.recourse-due", []string{worker, admin}},
	{"$JS.API.CONSUMER.DELETE.RECOURSE_INBOX.recourse-worker", []string{admin}},
	{"$JS.API.CONSUMER.DELETE.RECOURSE_TIMERS.recourse-due", []string{admin}},
	{"$JS.API.CONSUMER.PAUSE.RECOURSE_INBOX.recourse-worker", []string{admin}},
	{"$JS.API.CONSUMER.RESET.RECOURSE_INBOX.recourse-worker", []string{admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_INBOX.recourse-worker", []string{admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_INBOX.mine", []string{admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_INBOX.mine.recourse.acme.>", []string{admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_TIMERS.mine", []string{admin}},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_REJECTED.mine", []string{admin}},
	{"$JS.API.CONSUMER.CREATE.KV_RECOURSE_PIPELINES.mine.$KV.RECOURSE_PIPELINES.acme.>", []string{worker, admin}},
	{"$JS.ACK.RECOURSE_INBOX.recourse-worker.1.1.1.1.0", []string{worker}},
	{"$JS.ACK._.hash.RECOURSE_INBOX.recourse-worker.1.1.1.1.0.token", []string{worker}},
	{"$JS.ACK.RECOURSE_TIMERS.recourse-due.1.1.1.1.0", []string{worker}},
	{"$JS.ACK._.hash.RECOURSE_TIMERS.recourse-due.1.1.1.1.0.token", []string{worker}},
	// replies to others, and the system
	{"_INBOX.worker.x", nil},
	{"_INBOX.admin.x", nil},
	{"$SYS.REQ.SERVER.PING", nil},
}

// streamWide are the API requests on a whole stream that change, copy or destroy it.
var streamWide = []string{"CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN", "PEER.REMOVE"}

func TestWhatRolesMayPublish(t *testing.T) {
	url := securedTest(t)
	matrix := publishMatrix
	for _, stream := range streams(ProvisionConfig{}) {
		for _, request := range streamWide {
			matrix = append(matrix, struct {
				subject string
				allowed []string
			}{"$JS.API.STREAM." + request + "." + stream.Name, []string{admin}})
		}
	}
	for _, role := range roles {
		u := connectAs(t, url, role)
		for _, test := range matrix {
			got := u.allowed(t, test.subject, func() error { return u.nc.Publish(test.subject, []byte("not a request")) })
			if want := slices.Contains(test.allowed, role); got != want {
				t.Errorf("%s on %s: allowed %t, want %t", role, test.subject, got, want)
			}
		}
	}
}

func TestWhatRolesMaySubscribe(t *testing.T) {
	url := securedTest(t)
	for _, test := range []struct {
		subject string
		allowed []string
	}{
		{"_INBOX.delegate.>", []string{delegate}},
		{"_INBOX.orchestrator.>", []string{orchestrator}},
		{"_INBOX.operator.>", []string{operator}},
		{"_INBOX.viewer.>", []string{viewer}},
		{"_INBOX.worker.>", []string{worker}},
		{"_INBOX.admin.>", []string{admin}},
		{"_INBOX.>", nil},
		{"_INBOX.*.*", nil},
		{">", nil},
		{"recourse.>", []string{admin}},
		{"recourse.acme.>", []string{admin}},
		{"recourse.acme.*.*.*.*.command.*", []string{operator, viewer, admin}},
		{"recourse.acme.*.*.*.*.decision.*", []string{operator, viewer, admin}},
		{acme + ".command.retry", []string{operator, viewer, admin}},
		{"recourse.*.*.*.*.*.command.*", []string{admin}},
		{"recourse.acme.*.*.*.*.failure.*", []string{admin}}, // not redacted yet
		{"recourse.acme.*.*.*.*.rejected.*", []string{admin}},
		{"$JS.ACK.>", nil},
		{"$JS.API.>", nil},
		{"$KV.RECOURSE_PIPELINES.>", nil},
		{"$SYS.>", nil},
		{"$JS.EVENT.>", nil},
	} {
		for _, role := range roles {
			u := connectAs(t, url, role)
			got := u.allowed(t, test.subject, func() error {
				_, err := u.nc.SubscribeSync(test.subject)
				return err
			})
			if want := slices.Contains(test.allowed, role); got != want {
				t.Errorf("%s of %s: allowed %t, want %t", role, test.subject, got, want)
			}
			u.nc.Close()
		}
	}
}

// TestRolesCanDoTheirWork goes once from a failure to its command and its wait, each step by the role it belongs to and through the
// client library, and nothing is refused on the way.
func TestRolesCanDoTheirWork(t *testing.T) {
	url := securedTest(t)
	users := map[string]*user{}
	for _, role := range roles {
		users[role] = connectAs(t, url, role)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testDeadline)
	defer cancel()
	ref := recourse.Ref{Account: "acme", Org: "o", Project: "p", Pipeline: "pl", Execution: "e"}

	// admin: a pipeline
	bucket, err := users[admin].js.KeyValue(ctx, recourse.BucketPipelines)
	check(t, err)
	revision, err := bucket.Put(ctx, ref.PipelineKey(), []byte("pipeline: {}"))
	check(t, err)

	// worker: looks at what is there, reads the pipeline
	w := users[worker].js
	for _, mode := range []Mode{ModeVerify, ModeCreate} {
		_, err = Provision(ctx, w, mode, ProvisionConfig{})
		check(t, err)
	}
	_, err = InspectDurability(ctx, users[worker].nc, w, "")
	check(t, err)
	bucket, err = w.KeyValue(ctx, recourse.BucketPipelines)
	check(t, err)
	watch, err := bucket.WatchAll(ctx, jetstream.MetaOnly())
	check(t, err)
	if entry := <-watch.Updates(); entry == nil || entry.Key() != ref.PipelineKey() {
		t.Errorf("watch of the pipelines: %v", entry)
	}
	check(t, watch.Stop())
	_, err = bucket.Get(ctx, ref.PipelineKey())
	check(t, err)
	_, err = bucket.GetRevision(ctx, ref.PipelineKey(), revision)
	check(t, err)

	// delegate, operator and orchestrator report
	for role, family := range map[string]recourse.Family{delegate: recourse.FamilyFailure, operator: recourse.FamilyIntervention, orchestrator: recourse.FamilyLifecycle} {
		_, err = users[role].js.Publish(ctx, ref.Subject(family, role), []byte("{}"), jetstream.WithExpectStream(recourse.StreamInbox))
		check(t, err)
	}

	// worker: takes, appends, arms, rejects, acknowledges
	inbox, err := w.Consumer(ctx, recourse.StreamInbox, ConsumerInbox)
	check(t, err)
	messages, err := inbox.Messages()
	check(t, err)
	for i := range 3 {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		check(t, err)
		check(t, msg.InProgress())
		record := &nats.Msg{Subject: ref.Subject(recourse.FamilyCommand, "retry"), Data: []byte("{}"), Header: nats.Header{}}
		record.Header.Set("Nats-Expected-Last-Subject-Sequence-Subject", ref.Prefix()+".>")
		_, err = w.PublishMsg(ctx, record, jetstream.WithExpectLastSequencePerSubject(uint64(i)))
		check(t, err)
		check(t, msg.DoubleAck(ctx))
	}
	messages.Stop()
	_, err = w.Publish(ctx, ref.Subject(recourse.FamilyRejected, "bad-json"), []byte("{"))
	check(t, err)
	armTest(t, w, 1, time.Now())
	check(t, nextDue(t, w).DoubleAck(ctx))

	// worker: last record, and the sweeper's ordered consumer with several filters
	journal, err := w.Stream(ctx, recourse.StreamJournal)
	check(t, err)
	last, err := journal.GetLastMsgForSubject(ctx, ref.Prefix()+".>")
	check(t, err)
	_, err = journal.GetMsg(ctx, last.Sequence)
	check(t, err)
	sweep, err := w.OrderedConsumer(ctx, recourse.StreamJournal, jetstream.OrderedConsumerConfig{
		HeadersOnly: true, FilterSubjects: []string{recourse.Filter(recourse.FamilyDecision), recourse.Filter(recourse.FamilyCommand)},
	})
	check(t, err)
	_, err = sweep.Next(jetstream.FetchMaxWait(testDeadline))
	check(t, err)

	// orchestrator: its commands
	own, err := users[orchestrator].js.CreateConsumer(ctx, recourse.StreamJournal, jetstream.ConsumerConfig{
		Durable: orchestrator, FilterSubject: "recourse.acme.*.*.*.*.command.>", AckPolicy: jetstream.AckExplicitPolicy,
	})
	check(t, err)
	_, err = users[orchestrator].js.Consumer(ctx, recourse.StreamJournal, orchestrator)
	check(t, err)
	msg, err := own.Next(jetstream.FetchMaxWait(testDeadline))
	check(t, err)
	check(t, msg.DoubleAck(ctx))

	// operator and viewer: read
	for _, role := range []string{operator, viewer} {
		js := users[role].js
		journal, err := js.Stream(ctx, recourse.StreamJournal)
		check(t, err)
		last, err := journal.GetLastMsgForSubject(ctx, ref.Prefix()+".>")
		check(t, err)
		_, err = journal.GetMsg(ctx, last.Sequence)
		check(t, err)
		reader, err := js.CreateConsumer(ctx, recourse.StreamJournal, jetstream.ConsumerConfig{FilterSubject: ref.Prefix() + ".>", AckPolicy: jetstream.AckNonePolicy})
		check(t, err)
		_, err = reader.Next(jetstream.FetchMaxWait(testDeadline))
		check(t, err)
		check(t, js.DeleteConsumer(ctx, recourse.StreamJournal, reader.CachedInfo().Name))
	}
	for _, role := range []string{operator, viewer} { // without a consumer, which could deliver pipelines anywhere
		bucket, err = users[role].js.KeyValue(ctx, recourse.BucketPipelines)
		check(t, err)
		_, err = bucket.Get(ctx, ref.PipelineKey())
		check(t, err)
		keys, err := users[role].js.Stream(ctx, "KV_"+recourse.BucketPipelines)
		check(t, err)
		info, err := keys.Info(ctx, jetstream.WithSubjectFilter("$KV."+recourse.BucketPipelines+".acme.>"))
		check(t, err)
		if len(info.State.Subjects) != 1 {
			t.Errorf("%s sees the pipelines %v", role, info.State.Subjects)
		}
	}
	_, err = users[operator].js.Publish(ctx, ref.Subject(recourse.FamilyControl, operator), []byte("{}"), jetstream.WithExpectStream(recourse.StreamInbox))
	check(t, err)
	_, err = users[viewer].js.Consumer(ctx, recourse.StreamInbox, ConsumerInbox)
	check(t, err)

	for _, role := range roles {
		users[role].checkNothingRefused(t)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestJournalCannotBeForgedByDelivery: who may create a consumer chooses where the server delivers, without a check of permissions.
// The journal itself must not be reachable that way.
func TestJournalCannotBeForgedByDelivery(t *testing.T) {
	url := securedTest(t)
	u := connectAs(t, url, viewer)
	old, err := u.nc.JetStream()
	check(t, err)
	for _, subject := range []string{acme + ".command.retry", acme + ".decision.stale"} {
		_, err = old.AddConsumer(recourse.StreamJournal, &nats.ConsumerConfig{Name: "mine", FilterSubject: "recourse.acme.>", DeliverSubject: subject, AckPolicy: nats.AckNonePolicy})
		if api := new(nats.APIError); !errors.As(err, &api) {
			t.Errorf("delivery of the journal to %s: want the server to refuse it, got %v", subject, err)
		}
	}
	// The other streams with a way into the journal are closed to all but worker and admin; see the matrix.
}

// TestFilterOfAConsumerIsTheOneInTheSubject: the permission names the subject of the request, so the server must hold the two to be
// the same.
func TestFilterOfAConsumerIsTheOneInTheSubject(t *testing.T) {
	url := securedTest(t)
	u := connectAs(t, url, viewer)
	subject := "$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.mine.recourse.acme.>"
	for _, filter := range []string{`"filter_subject":"recourse.>"`, `"filter_subjects":["recourse.>"]`, `"filter_subjects":["recourse.acme.>","recourse.evil.>"]`} {
		request := fmt.Sprintf(`{"stream_name":"RECOURSE_JOURNAL","config":{"name":"mine","ack_policy":"none","deliver_policy":"all",%s}}`, filter)
		reply, err := u.nc.Request(subject, []byte(request), testDeadline)
		check(t, err)
		if !strings.Contains(string(reply.Data), `"error"`) {
			t.Errorf("%s was accepted: %s", filter, reply.Data)
		}
	}
}

// TestProvisionSaysThatItIsNotPermitted: the server does not answer what it refuses.
func TestProvisionSaysThatItIsNotPermitted(t *testing.T) {
	url := securedTest(t)
	u := connectAs(t, url, delegate)
	_, err := Provision(t.Context(), u.js, ModeVerify, ProvisionConfig{})
	if err == nil || !strings.Contains(err.Error(), "let an admin provision") || !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("got %v", err)
	}
	deleted := connectAs(t, url, admin)
	check(t, deleted.js.DeleteConsumer(t.Context(), recourse.StreamInbox, ConsumerInbox))
	u = connectAs(t, url, worker)
	_, err = Provision(t.Context(), u.js, ModeCreate, ProvisionConfig{})
	if err == nil || !strings.Contains(err.Error(), "create consumer RECOURSE_INBOX/recourse-worker") || !strings.Contains(err.Error(), "let an admin provision") {
		t.Errorf("got %v", err)
	}
}

func TestConfigurationFiles(t *testing.T) {
	for _, file := range []string{"nats.conf", "secure.conf"} {
		setPasswords(t)
		options, err := server.ProcessConfigFile("../../deploy/nats/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !options.JetStream || !options.SyncAlways || options.Port != 4222 || options.HTTPPort != 8222 || options.StoreDir != "/data" {
			t.Errorf("%s: %+v", file, options)
		}
		if secured := len(options.Accounts) > 0; secured != (file == "secure.conf") {
			t.Errorf("%s: accounts %v", file, options.Accounts)
		}
	}
	check(t, os.Unsetenv("RECOURSE_WORKER_PASSWORD")) // t.Setenv restores it
	if _, err := server.ProcessConfigFile(accountsFile); err == nil || !strings.Contains(err.Error(), "RECOURSE_WORKER_PASSWORD") {
		t.Errorf("a missing password: %v", err)
	}
}

// TestComposeRunsTheServerOfTheModule: the image is built from the module, so its default tag must be that version.
func TestComposeRunsTheServerOfTheModule(t *testing.T) {
	compose, err := os.ReadFile("../../docker-compose.yml")
	check(t, err)
	if want := "${NATS_IMAGE:-nats:" + server.VERSION + "}"; !strings.Contains(string(compose), want) {
		t.Errorf("docker-compose.yml does not have %s", want)
	}
}
