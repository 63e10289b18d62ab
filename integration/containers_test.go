package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
	tcnats "github.com/testcontainers/testcontainers-go/modules/nats"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"

	"github.com/nats-io/nats.go"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
)

// requireDocker is the variable that makes a missing backend a failure.
const requireDocker = "REQUIRE_DOCKER"

// images are those of the Makefile.
type images struct{ nats, worker string }

// built finds the images, and builds those that are missing from source.
var built = sync.OnceValues(func() (images, error) {
	if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
		return images{}, fmt.Errorf("docker does not answer: %w: %.200s", err, bytes.TrimSpace(out))
	}
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/nats-io/nats-server/v2").Output()
	if err != nil {
		return images{}, fmt.Errorf("version of nats-server: %w", err)
	}
	i := images{nats: os.Getenv("NATS_IMAGE"), worker: os.Getenv("WORKER_IMAGE")}
	if i.nats == "" {
		i.nats = "nats:" + strings.TrimPrefix(strings.TrimSpace(string(version)), "v")
	}
	if i.worker == "" {
		i.worker = "recourse-worker:dev"
	}
	for image, target := range map[string]string{i.nats: "image-nats", i.worker: "image-worker"} {
		if exec.Command("docker", "image", "inspect", image).Run() == nil {
			continue
		}
		if out, err := exec.Command("make", "-C", "..", target, "NATS_IMAGE="+i.nats, "WORKER_IMAGE="+i.worker).CombinedOutput(); err != nil {
			return images{}, fmt.Errorf("make %s: %w: %s", target, err, tail(string(out), 500))
		}
	}
	return i, nil
})

// containers skips the test, and says so, where there are none; where they are required it fails.
func containers(t *testing.T) images {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIP containers: -short")
	}
	i, err := built()
	switch {
	case err != nil && os.Getenv(requireDocker) != "":
		t.Fatalf("%s is set: %v", requireDocker, err)
	case err != nil:
		fmt.Fprintf(os.Stderr, "SKIP %s: %v\n", t.Name(), err)
		t.Skip(err)
	}
	// The helper container that cleans up, and the way to the containers, as the Makefile has them.
	for name, value := range map[string]string{"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1"} {
		if _, ok := os.LookupEnv(name); !ok {
			if err := os.Setenv(name, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	return i
}

// stack is a server and workers in containers.
type stack struct {
	images  images
	network string
	nats    *tcnats.NATSContainer
}

// newStack starts a server on a network of its own.
func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{images: containers(t)}
	net := must(network.New(t.Context()))(t)
	t.Cleanup(func() { _ = net.Remove(context.Background()) })
	s.network = net.Name
	var err error
	s.nats, err = tcnats.Run(t.Context(), s.images.nats,
		network.WithNetwork([]string{"nats"}, net),
		testcontainers.WithCmd("-js", "-sd", "/data", "-m", "8222"), // the module's own has debug logging
		testcontainers.WithWaitStrategy(wait.ForLog("Server is ready")),
	)
	if s.nats != nil {
		testcontainers.CleanupContainer(t, s.nats)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stack) url(t *testing.T) string {
	t.Helper()
	return must(s.nats.ConnectionString(t.Context()))(t)
}

// startWorker starts a worker and waits until it is ready.
func (s *stack) startWorker(t *testing.T) testcontainers.Container {
	t.Helper()
	c, err := testcontainers.Run(t.Context(), s.images.worker,
		network.WithNetworkName(nil, s.network),
		testcontainers.WithEnv(map[string]string{
			"NATS_URL": "nats://nats:4222", "RECOURSE_MONITOR_URL": "http://nats:8222", "RECOURSE_ADMIN_LISTEN": ":8080",
			"RECOURSE_SWEEP_EVERY": sweepEvery.String(), "RECOURSE_SWEEP_GRACE": sweepGrace.String(),
		}),
		testcontainers.WithExposedPorts("8080/tcp"),
		testcontainers.WithWaitStrategy(wait.ForHTTP("/readyz").WithPort("8080/tcp").WithPollInterval(50*time.Millisecond)),
	)
	if c != nil {
		testcontainers.CleanupContainer(t, c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestContainers runs the scenarios on the real images: one server, two workers.
func TestContainers(t *testing.T) {
	s := newStack(t)
	e := newEnv(t, s.url(t), 0)
	for range 2 {
		s.startWorker(t)
	}
	runScenarios(t, e)
}

// TestContainersStopAndKill: a worker is stopped as an orchestrator of containers does it and ends with 0; the server is killed and
// started again while executions wait.
func TestContainersStopAndKill(t *testing.T) {
	s := newStack(t)
	e := newEnv(t, s.url(t), 0)
	first := s.startWorker(t)
	const account, nodes = "stop-and-kill", 200
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", retryThen(1, "3s", "Ignore"))+`]`))
	e.load(t, ref, 0, nodes)
	eventually(t, "some are decided", func() bool { return len(checkNow(t, e, account).Journal) > 0 })
	within := 30 * time.Second
	if err := first.Stop(t.Context(), &within); err != nil {
		t.Fatal(err)
	}
	if state := must(first.State(t.Context()))(t); state.ExitCode != 0 {
		t.Errorf("the stopped worker's exit code is %d, want 0", state.ExitCode)
	}
	if info := must(e.js.Consumer(t.Context(), recourse.StreamInbox, broker.ConsumerInbox))(t).CachedInfo(); info.NumAckPending != 0 {
		t.Errorf("the stopped worker left %d messages unsettled", info.NumAckPending)
	}
	second := s.startWorker(t)
	eventually(t, "all are decided", func() bool { return len(checkNow(t, e, account).Journal) >= nodes })

	e.nc.Close()
	if out, err := exec.Command("docker", "kill", "--signal", "KILL", s.nats.GetContainerID()).CombinedOutput(); err != nil {
		t.Fatalf("docker kill: %v: %s", err, out)
	}
	if out, err := exec.Command("docker", "start", s.nats.GetContainerID()).CombinedOutput(); err != nil {
		t.Fatalf("docker start: %v: %s", err, out)
	}
	// It listens on another port of this machine now, and takes a while.
	var url string
	eventually(t, "the server is back", func() bool {
		address, err := s.nats.PortEndpoint(t.Context(), "4222/tcp", "nats")
		if err != nil {
			return false
		}
		nc, err := nats.Connect(address, nats.Timeout(time.Second))
		if err != nil {
			return false
		}
		nc.Close()
		url = address
		return true
	})
	e = newEnv(t, url, 0)
	c := e.orchestrate(t, account)
	eventually(t, "every retry is commanded", func() bool { return c.all()[recourse.VerbRetry] >= nodes })
	checkJournal(t, e.js)
	checkSettled(t, e.js)
	if !second.IsRunning() {
		t.Error("the worker did not outlive the server")
	}
}
