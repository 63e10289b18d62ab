package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/worker"
)

// commandVariable is the command line of the implementation that is checked, the reference where it is not set. urlVariable is a server
// with a worker; where it is not set, both run in this process. patienceVariable is how long anything is waited for.
const (
	commandVariable  = "RECOURSE_CONFORMANCE_CMD"
	urlVariable      = "RECOURSE_CONFORMANCE_URL"
	patienceVariable = "RECOURSE_CONFORMANCE_PATIENCE"
)

var suite Suite

func TestMain(m *testing.M) {
	if mode := os.Getenv(naiveVariable); mode != "" {
		if err := naive(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "recourse-conformance-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	suite = Suite{URL: os.Getenv(urlVariable), Command: os.Getenv(commandVariable), Patience: time.Minute}
	if text := os.Getenv(patienceVariable); text != "" {
		if suite.Patience, err = time.ParseDuration(text); err != nil {
			return 1, fmt.Errorf("%s: %w", patienceVariable, err)
		}
	}
	if suite.Command == "" {
		binary := filepath.Join(dir, "recourse")
		if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/recourse").CombinedOutput(); err != nil {
			return 1, fmt.Errorf("go build: %w: %s", err, out)
		}
		suite.Command = fmt.Sprintf(`exec '%s' run "$RECOURSE_FILE" --org "$RECOURSE_ORG" --project "$RECOURSE_PROJECT" ${RECOURSE_RESUME:+--resume}`, binary)
	}
	if suite.URL != "" {
		return m.Run(), nil
	}
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: filepath.Join(dir, "streams"), Listen: "127.0.0.1:0", Sync: broker.SyncInterval})
	if err != nil {
		return 1, err
	}
	defer func() { _ = server.Shutdown(context.Background()) }() // its directory is removed
	suite.URL = server.URL()
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- worker.Run(ctx, worker.Config{Connection: client.Settings{Server: server.URL()}, Ready: func(url string) { ready <- url }})
	}()
	defer func() { <-ended }()
	defer stop()
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		return 1, err
	}
	return m.Run(), nil
}

func TestConformance(t *testing.T) { Test(t, &suite) }
