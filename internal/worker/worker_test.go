package worker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
)

func TestMain(m *testing.M) {
	// The embedded server looks at the machine once in a while for as long as the process lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/pse.periodic"))
}

// patience is how long a test waits for what must happen; it is not what it takes.
const patience = time.Minute

// running is a worker that runs.
type running struct {
	url   string
	stop  context.CancelFunc
	ended chan error
}

// launch runs a worker until it works.
func launch(t *testing.T, cfg Config) *running {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir()) // no context of this machine
	ctx, stop := context.WithCancel(context.Background())
	r := &running{stop: stop, ended: make(chan error, 1)}
	ready := make(chan string, 1)
	cfg.Ready = func(url string) { ready <- url }
	go func() { r.ended <- Run(ctx, cfg) }()
	select {
	case r.url = <-ready:
	case err := <-r.ended:
		t.Fatalf("it ended: %v", err)
	case <-time.After(patience):
		t.Fatal("it does not get ready")
	}
	t.Cleanup(stop)
	return r
}

// end waits for the end.
func (r *running) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		t.Fatal("it does not end")
		return nil
	}
}

func embeddedConfig(t *testing.T) broker.EmbeddedConfig {
	return broker.EmbeddedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Sync: broker.SyncInterval}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func status(address, path string) int {
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Timeout: time.Second, Transport: transport}).Get("http://" + address + path)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func TestRunStops(t *testing.T) {
	admin := freeAddress(t)
	core, logs := observer.New(zap.InfoLevel)
	w := launch(t, Config{Embedded: embeddedConfig(t), AdminListen: admin, Log: zap.New(core)})
	if status(admin, "/livez") != http.StatusOK || status(admin, "/readyz") != http.StatusOK || status(admin, "/other") != http.StatusNotFound {
		t.Error("it works, and does not say so")
	}
	nc, err := nats.Connect(w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	delegate, err := client.NewDelegate(nc, "delegate")
	if err != nil {
		t.Fatal(err)
	}
	ref := recourse.Ref{Account: "a", Org: "o", Project: "p", Pipeline: "pl", Execution: "x"}
	commands, err := nc.SubscribeSync(ref.Subject(recourse.FamilyCommand, "mark-failure"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := delegate.Report(t.Context(), recourse.Failure{Ref: ref, Node: recourse.Node{Path: "s/a"}, Attempt: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := commands.NextMsg(patience); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	w.stop()
	if err := w.end(t); err != nil {
		t.Error(err)
	}
	if status(admin, "/livez") != 0 {
		t.Error("the health endpoints outlive the worker")
	}
	for _, message := range []string{"working", "decided", "stopping: finishing what is in hand"} {
		if logs.FilterMessage(message).Len() != 1 {
			t.Errorf("%q is %d times in the log, want once", message, logs.FilterMessage(message).Len())
		}
	}
}

func TestRunStoppedBeforeItStarts(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, Config{Embedded: embeddedConfig(t)}); err != nil {
		t.Errorf("asked to stop, it ends with %v", err)
	}
}

func TestRunCannotStart(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	own, err := broker.StartEmbedded(embeddedConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := own.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	for _, tc := range []struct {
		name, want string
		cfg        Config
	}{
		{"no server there", "check the address", Config{Connection: client.Settings{Server: "nats://" + freeAddress(t)}}},
		{"no streams", "is missing", Config{Connection: client.Settings{Server: own.URL()}, Provision: broker.ModeVerify}},
		{"no streams and nobody looks", "RECOURSE_PIPELINES", Config{Connection: client.Settings{Server: own.URL()}, Provision: broker.ModeOff}},
		{"the port is taken", "cannot listen", Config{Embedded: broker.EmbeddedConfig{Dir: t.TempDir(), Listen: taken.Addr().String()}}},
		{"the port of health is taken", "--admin-listen", Config{Embedded: embeddedConfig(t), AdminListen: taken.Addr().String()}},
		{"two ways to say who", "name one way", Config{Connection: client.Settings{Server: own.URL(), User: "u", Token: "t"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Run(t.Context(), tc.cfg)
			var start *StartError
			if !errors.As(err, &start) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want a StartError about %q", err, tc.want)
			}
		})
	}
}

// TestRunWithoutConsumers: provisioned, but the durable consumers are not there.
func TestRunWithoutConsumers(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	own, js := provisioned(t)
	if err := js.DeleteConsumer(t.Context(), recourse.StreamTimers, broker.ConsumerDue); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Config{Connection: client.Settings{Server: own.URL()}, Provision: broker.ModeOff})
	if !errors.Is(err, jetstream.ErrConsumerNotFound) || !strings.Contains(err.Error(), "--provision create") {
		t.Errorf("error %v", err)
	}
}

func provisioned(t *testing.T) (*broker.Embedded, jetstream.JetStream) {
	t.Helper()
	own, err := broker.StartEmbedded(embeddedConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	nc, err := nats.Connect(own.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	return own, js
}

// TestRunLosesItsConsumer: a worker that can do half of its work ends, whichever half.
func TestRunLosesItsConsumer(t *testing.T) {
	for stream, durable := range map[string]string{recourse.StreamInbox: broker.ConsumerInbox, recourse.StreamTimers: broker.ConsumerDue} {
		t.Run(durable, func(t *testing.T) {
			own, js := provisioned(t)
			w := launch(t, Config{Connection: client.Settings{Server: own.URL()}})
			if err := js.DeleteConsumer(t.Context(), stream, durable); err != nil {
				t.Fatal(err)
			}
			if err := w.end(t); !errors.Is(err, jetstream.ErrConsumerDeleted) && !errors.Is(err, jetstream.ErrConsumerNotFound) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestRunServerAway: a worker outlives its server; meanwhile it is alive and not ready.
func TestRunServerAway(t *testing.T) {
	cfg := embeddedConfig(t)
	own, err := broker.StartEmbedded(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen = strings.TrimPrefix(own.URL(), "nats://")
	admin := freeAddress(t)
	w := launch(t, Config{Connection: client.Settings{Server: own.URL()}, AdminListen: admin, StopWithin: time.Second})
	if err := own.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	becomes := func(want int) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for status(admin, "/readyz") != want {
			if time.Now().After(deadline) {
				t.Fatalf("/readyz is %d, want %d", status(admin, "/readyz"), want)
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	becomes(http.StatusServiceUnavailable)
	if status(admin, "/livez") != http.StatusOK {
		t.Error("not alive without a server")
	}
	if own, err = broker.StartEmbedded(cfg); err != nil {
		t.Fatal(err)
	}
	becomes(http.StatusOK)
	w.stop()
	if err := w.end(t); err != nil {
		t.Error(err)
	}
	if err := own.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestRunStopsWithoutServer: a stop does not wait for a server that is not there.
func TestRunStopsWithoutServer(t *testing.T) {
	own, err := broker.StartEmbedded(embeddedConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	admin := freeAddress(t)
	w := launch(t, Config{Connection: client.Settings{Server: own.URL()}, AdminListen: admin, StopWithin: time.Second})
	if err := own.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	disconnected := time.Now().Add(patience)
	for status(admin, "/readyz") == http.StatusOK && time.Now().Before(disconnected) {
		<-time.After(time.Millisecond)
	}
	begun := time.Now()
	w.stop()
	if err := w.end(t); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("the stop took %s", took)
	}
}

// TestStopOrder: what was started last is stopped first, and an error does not keep the others.
func TestStopOrder(t *testing.T) {
	var mu sync.Mutex
	var order []string
	stop := func(name string, err error) func(context.Context) error {
		return func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
			return err
		}
	}
	failed := errors.New("no")
	w := &worker{stops: []func(context.Context) error{stop("server", nil), stop("connection", failed), stop("health", nil)}}
	if err := w.stop(t.Context()); !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
	if got := strings.Join(order, " "); got != "health connection server" {
		t.Errorf("stopped %s", got)
	}
}
