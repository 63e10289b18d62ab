package broker

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

// holdVariable makes the test program hold a directory until its standard input ends, in place of running tests.
const holdVariable = "RECOURSE_TEST_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdVariable); dir != "" {
		hold(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func hold(dir string) {
	unlock, err := lockDir(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = unlock()
}

const testDeadline = 20 * time.Second

// startTest starts an embedded server that is stopped with the test.
func startTest(t testing.TB, cfg EmbeddedConfig) *Embedded {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Sync == 0 {
		cfg.Sync = SyncInterval // for speed
	}
	cfg.Logf = t.Logf
	e, err := StartEmbedded(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopTest(t, e) })
	return e
}

func stopTest(t testing.TB, e *Embedded) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testDeadline)
	defer cancel()
	if err := e.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func connectTest(t testing.TB, url string, options ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func provisionedTest(t testing.TB) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	e := startTest(t, EmbeddedConfig{})
	nc, js := connectTest(t, e.URL(), e.InProcess())
	if _, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// eventually polls until done says so.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(testDeadline)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v", what, testDeadline)
		}
	}
}
