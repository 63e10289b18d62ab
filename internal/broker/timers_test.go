package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// What the design relies on of schedules in a work queue: a pending wait stays, it fires as a due message and is gone with that, the
// due message is gone with its acknowledgement, and a wait can be replaced and cancelled. If a server ever behaves otherwise, these
// tests say so.

var timerRef = recourse.Ref{Account: "a", Org: "o", Project: "p", Pipeline: "pl", Execution: "e"}

func armTest(t testing.TB, js jetstream.JetStream, version uint64, at time.Time) {
	t.Helper()
	detail := recourse.VersionDetail(version)
	_, err := js.PublishMsg(context.Background(), &nats.Msg{
		Subject: timerRef.Subject(recourse.FamilyTimer, detail),
		Header: nats.Header{
			"Nats-Schedule":        {"@at " + at.UTC().Format(time.RFC3339Nano)},
			"Nats-Schedule-Target": {timerRef.Subject(recourse.FamilyDue, detail)},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func timerMessages(t testing.TB, js jetstream.JetStream) map[string]uint64 {
	t.Helper()
	stream, err := js.Stream(context.Background(), recourse.StreamTimers)
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(context.Background(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Subjects
}

func nextDue(t testing.TB, js jetstream.JetStream) jetstream.Msg {
	t.Helper()
	consumer, err := js.Consumer(context.Background(), recourse.StreamTimers, ConsumerDue)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := consumer.Next(jetstream.FetchMaxWait(testDeadline))
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func checkTimers(t testing.TB, js jetstream.JetStream, what string, want ...string) {
	t.Helper()
	var got map[string]uint64
	eventually(t, fmt.Sprintf("%s: want %v", what, want), func() bool {
		got = timerMessages(t, js)
		if len(got) != len(want) {
			return false
		}
		for _, subject := range want {
			if got[subject] != 1 {
				return false
			}
		}
		return true
	})
}

func testWaits(t *testing.T, js jetstream.JetStream) {
	timer := func(version uint64) string {
		return timerRef.Subject(recourse.FamilyTimer, recourse.VersionDetail(version))
	}
	due := func(version uint64) string {
		return timerRef.Subject(recourse.FamilyDue, recourse.VersionDetail(version))
	}

	dueAt := time.Now().Add(700*time.Millisecond + 123*time.Microsecond)
	armTest(t, js, 1, dueAt)
	armTest(t, js, 2, time.Now().Add(time.Hour))
	armTest(t, js, 3, time.Now().Add(time.Hour))
	checkTimers(t, js, "armed", timer(1), timer(2), timer(3))

	msg := nextDue(t, js)
	if early := time.Until(dueAt); early > 0 {
		t.Errorf("fired %v early", early)
	}
	if msg.Subject() != due(1) {
		t.Errorf("fired on %s, want %s", msg.Subject(), due(1))
	}
	if got := msg.Headers().Get("Nats-Scheduler"); got != timer(1) {
		t.Errorf("fired by %q, want %q", got, timer(1))
	}
	checkTimers(t, js, "fired", due(1), timer(2), timer(3))
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkTimers(t, js, "acknowledged", timer(2), timer(3))

	armTest(t, js, 2, time.Now().Add(-time.Hour)) // replaces the one that was an hour away, and is overdue
	msg = nextDue(t, js)
	if msg.Subject() != due(2) {
		t.Errorf("fired on %s, want %s", msg.Subject(), due(2))
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkTimers(t, js, "replaced and acknowledged", timer(3))

	cancel := &nats.Msg{Subject: due(3), Header: nats.Header{"Nats-Scheduler": {timer(3)}, "Nats-Schedule-Next": {"purge"}}}
	if _, err := js.PublishMsg(t.Context(), cancel); err != nil {
		t.Fatal(err)
	}
	checkTimers(t, js, "cancelled", due(3))
	if err := nextDue(t, js).DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkTimers(t, js, "cancelled and acknowledged")
}

func TestWaitsInAWorkQueue(t *testing.T) {
	_, js := provisionedTest(t)
	testWaits(t, js)
}

func TestWaitsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	first := startTest(t, EmbeddedConfig{Dir: dir})
	nc, js := connectTest(t, first.URL())
	if _, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	armTest(t, js, 1, time.Now().Add(time.Second))
	armTest(t, js, 2, time.Now().Add(time.Hour))
	nc.Close()
	stopTest(t, first)

	second := startTest(t, EmbeddedConfig{Dir: dir})
	_, js = connectTest(t, second.URL())
	msg := nextDue(t, js)
	if want := timerRef.Subject(recourse.FamilyDue, "1"); msg.Subject() != want {
		t.Errorf("fired on %s, want %s", msg.Subject(), want)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkTimers(t, js, "after the restart", timerRef.Subject(recourse.FamilyTimer, "2"))
}

// TestSchedulesAreRefusedElsewhere: a delegate that adds the headers of a schedule cannot make the inbox send anything.
func TestSchedulesAreRefusedElsewhere(t *testing.T) {
	_, js := provisionedTest(t)
	_, err := js.PublishMsg(t.Context(), &nats.Msg{
		Subject: timerRef.Subject(recourse.FamilyFailure, "tester"),
		Header:  nats.Header{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {timerRef.Subject(recourse.FamilyLifecycle, "tester")}},
	})
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		t.Errorf("a schedule in the inbox: want the server to refuse it, got %v", err)
	}
	_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: timerRef.Subject(recourse.FamilyFailure, "tester"), Header: nats.Header{"Nats-Rollup": {"all"}}})
	if !errors.As(err, &api) {
		t.Errorf("a roll-up in the inbox: want the server to refuse it, got %v", err)
	}
}

// TestOversizeIsAnError: the publisher is told, nothing is dropped silently.
func TestOversizeIsAnError(t *testing.T) {
	_, js := provisionedTest(t)
	subject := timerRef.Subject(recourse.FamilyFailure, "tester")
	if _, err := js.Publish(t.Context(), subject, make([]byte, recourse.MaxSize)); err != nil {
		t.Errorf("the largest input: %v", err)
	}
	if _, err := js.Publish(t.Context(), subject, make([]byte, recourse.MaxSize+1)); err == nil {
		t.Error("one byte more was accepted")
	}
	kept := &nats.Msg{Subject: timerRef.Subject(recourse.FamilyRejected, "too-large"), Header: nats.Header{"Recourse-Reason": {"too-large"}}, Data: make([]byte, recourse.MaxSize)}
	if _, err := js.PublishMsg(t.Context(), kept); err != nil {
		t.Errorf("the largest input with headers of ours, rejected: %v", err)
	}
}

// TestWaitsInACluster runs the same on three replicas.
func TestWaitsInACluster(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	servers := clusterTest(t, 3)
	const workers = 6
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for i := range workers {
		_, js := connectTest(t, servers[i%len(servers)].ClientURL())
		wg.Go(func() { _, errs[i] = Provision(t.Context(), js, ModeCreate, ProvisionConfig{Replicas: 3}) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	_, js := connectTest(t, servers[0].ClientURL())
	if _, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	testWaits(t, js)
}

func clusterTest(t *testing.T, n int) []*server.Server {
	t.Helper()
	// A clustered server wants to know the others before it starts, so the ports are chosen first.
	ports, routes := make([]int, n), ""
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
		routes += fmt.Sprintf(",nats://127.0.0.1:%d", ports[i])
		l.Close()
	}
	var servers []*server.Server
	for i, port := range ports {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(),
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port},
			Routes:  server.RoutesFromStr(routes[1:]),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	eventually(t, "the cluster has a leader and all its servers", func() bool {
		for _, s := range servers {
			if s.JetStreamIsLeader() {
				return len(s.JetStreamClusterPeers()) == n
			}
		}
		return false
	})
	return servers
}
