// Package integration runs Recourse as it is run: servers, workers, delegates, orchestrators and people over NATS, on two backends. The
// scenarios are the same on both: an embedded server with workers in this process, and containers of the real images. What kills
// processes stands beside them. In the end of each, the streams are read and must hold every invariant.
package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/recourse-dev/recourse/internal/broker"
)

// serverVariable makes the test program a NATS server in the directory it names, in place of running tests, so that a server can be
// killed without the tests. listenVariable is where it listens.
const (
	serverVariable = "RECOURSE_TEST_SERVER"
	listenVariable = "RECOURSE_TEST_LISTEN"
)

// patience is how long a test waits for what must happen; it is not what it takes.
const patience = 60 * time.Second

var workDir string

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverVariable); dir != "" {
		if err := serve(dir, os.Getenv(listenVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if workDir, err = os.MkdirTemp("", "recourse-integration-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(workDir)
	return m.Run()
}

// serve is a NATS server until standard input ends.
func serve(dir, listen string) error {
	e, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: dir, Listen: listen, Sync: broker.SyncAlways})
	if err != nil {
		return err
	}
	fmt.Println(e.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return e.Shutdown(context.Background())
}

// workerBinary builds cmd/worker once.
var workerBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(workDir, "worker")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../cmd/worker")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

// process is a subprocess.
type process struct {
	*exec.Cmd
	ended chan struct{} // closed when it has ended
	log   *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts a command that is killed with the test.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, ended: make(chan struct{}), log: new(lockedBuffer)}
	cmd.Stderr = p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s (%d):\n%s", filepath.Base(cmd.Path), cmd.Process.Pid, tail(p.log.String(), 8<<10))
		}
	})
	return p
}

func tail(s string, n int) string { return s[max(len(s)-n, 0):] }

// kill is kill -9.
func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.ended
}

// exit waits for the end of the process and returns its exit code.
func (p *process) exit(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("the process did not end within %s", within)
		return 0
	}
}

// server is a NATS server as a subprocess.
type server struct {
	*process
	dir, url string
}

// startServer starts a server on a directory. listen is host:port; port 0 takes a free one.
func startServer(t *testing.T, dir, listen string) *server {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), serverVariable+"="+dir, listenVariable+"="+listen)
	in, err := cmd.StdinPipe() // it ends with this process
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{process: start(t, cmd), dir: dir}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v: %s", err, s.log)
	}
	s.url = strings.TrimSpace(line)
	return s
}

// restart kills the server with kill -9, calls meanwhile, and starts it again on the same directory and address.
func (s *server) restart(t *testing.T, meanwhile func()) *server {
	t.Helper()
	s.kill()
	meanwhile()
	return startServer(t, s.dir, strings.TrimPrefix(s.url, "nats://"))
}

// command is exec.Command, away from the machine's own settings.
func command(binary string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+workDir, "NATS_URL=", "NATS_CONTEXT=")
	return cmd
}

// freeAddress returns an address of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer listener.Close()
	return listener.Addr().String()
}

// status returns the status of an HTTP endpoint, 0 where nobody answers.
func status(address, path string) int {
	response, err := (&http.Client{Timeout: time.Second}).Get("http://" + address + path)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

// eventually polls until done says so.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	if !within(patience, done) {
		t.Fatalf("%s: not within %s", what, patience)
	}
}

// within polls until done says so, or the time is over.
func within(limit time.Duration, done func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// must takes the error of a call that has to succeed.
func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
