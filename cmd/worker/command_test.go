package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/telemetry"
	"github.com/recourse-dev/recourse/internal/worker"
)

// environment is what getenv sees.
type environment map[string]string

func (e environment) get(name string) string { return e[name] }

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// settings returns what a command line comes to, without running a worker.
func settings(t *testing.T, env environment, args ...string) (worker.Config, error) {
	t.Helper()
	var cfg worker.Config
	root := command(env.get, func(_ context.Context, told worker.Config) error {
		cfg = told
		return nil
	})
	root.SetArgs(args)
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	return cfg, root.Execute()
}

func TestPrecedence(t *testing.T) {
	config := file(t, "lanes: 1\nprefetch: 1\nstop-within: 1s\nserver: nats://file:4222\nadmin-listen: file:1\nsemantics: engine\nsync: interval\nreplicas:\n")
	env := environment{
		"RECOURSE_CONFIG": config, "RECOURSE_LANES": "2", "RECOURSE_PREFETCH": "2", "RECOURSE_SERVER": "nats://env:4222", "RECOURSE_ADMIN_LISTEN": "env:1",
		"NATS_URL": "nats://nats-command:4222", "NATS_CREDS": "/env.creds", "RECOURSE_SWEEP_GRACE": "",
		"RECOURSE_DELAYED_RETRY": "parent", "RECOURSE_PPROF": "true", "RECOURSE_BATCHES": "off", "RECOURSE_HAND_OVER": "false",
	}
	cfg, err := settings(t, env, "--lanes", "3", "--admin-listen=flag:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name      string
		got, want any
	}{
		{"flag over environment over file", cfg.Consumer.Lanes, 3},
		{"environment over file", cfg.Consumer.Prefetch, 2},
		{"file over default", cfg.StopWithin, time.Second},
		{"flag over environment over file, for all commands", cfg.AdminListen, "flag:1"},
		{"ours over that of the nats command", cfg.Connection.Server, "nats://env:4222"},
		{"that of the nats command beside ours", cfg.Connection.Creds, "/env.creds"},
		{"a name of a setting", cfg.Semantics, recourse.Engine},
		{"a name of another", cfg.Embedded.Sync, broker.SyncInterval},
		{"a key without a value is left out", cfg.Streams.Replicas, 0},
		{"an empty variable is left out", cfg.Sweeper.Grace, 30 * time.Second},
		{"default", cfg.Provision, broker.ModeCreate},
		{"how traces hang together", cfg.DelayedRetry, telemetry.ParentDelayed},
		{"profiles", cfg.Pprof, true},
		{"batches", cfg.Batches, worker.BatchesOff},
		{"what another worker handles", cfg.Alone, true},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, tc.got, tc.want)
		}
	}
	cfg, err = settings(t, environment{"RECOURSE_CONFIG": "/not/there"}, "--config", config)
	if err != nil || cfg.Connection.Server != "nats://file:4222" {
		t.Errorf("the file of the flag: %v, %q", err, cfg.Connection.Server)
	}
}

func TestDefaults(t *testing.T) {
	t.Setenv("HOME", "/home/someone")
	for want, env := range map[string]environment{
		"/data/recourse":                        {"XDG_DATA_HOME": "/data"},
		"/home/someone/.local/share/recourse":   {},
		"/home/someone/.local/share/./recourse": {"XDG_DATA_HOME": "relative"},
		"/own":                                  {"RECOURSE_DATA_DIR": "/own"},
	} {
		cfg, err := settings(t, env)
		if err != nil || cfg.Embedded.Dir != filepath.Clean(want) {
			t.Errorf("%v: directory %q, %v; want %q", env, cfg.Embedded.Dir, err, want)
		}
	}
	cfg, err := settings(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Batches != worker.BatchesAuto || cfg.AdminListen != "" || cfg.Pprof || cfg.DelayedRetry != telemetry.LinkDelayed {
		t.Errorf("%+v", cfg)
	}
	if cfg.Embedded.Sync != broker.SyncAlways || cfg.Log == nil || !cfg.Log.Core().Enabled(zapcore.InfoLevel) || cfg.Log.Core().Enabled(zapcore.DebugLevel) {
		t.Errorf("%+v", cfg)
	}
}

// TestExitCodes: 2 is for what the command line asks and cannot be, 3 for a worker that does not start, 1 for the rest.
func TestExitCodes(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	stderr := os.Stderr
	t.Cleanup(func() { os.Stderr = stderr })
	free := freeAddress(t)
	for _, tc := range []struct {
		name string
		env  environment
		args []string
		code int
		says string
	}{
		{"help", nil, []string{"--help"}, 0, ""},
		{"unknown flag", nil, []string{"--nonsense"}, 2, "nonsense"},
		{"unknown flag of a subcommand", nil, []string{"healthcheck", "--nonsense"}, 2, "nonsense"},
		{"unknown subcommand", nil, []string{"nonsense"}, 2, "nonsense"},
		{"an argument too many", nil, []string{"healthcheck", "now"}, 2, "now"},
		{"not a number", nil, []string{"--lanes", "many"}, 2, "lanes"},
		{"a negative number", nil, []string{"--lanes", "-1"}, 2, "lanes"},
		{"a negative duration", nil, []string{"--sweep-every", "-1s"}, 2, "sweep-every"},
		{"not a mode", nil, []string{"--provision", "perhaps"}, 2, "perhaps"},
		{"not a way to trace", nil, []string{"--delayed-retry", "both"}, 2, "both"},
		{"not a setting of batches", nil, []string{"--batches", "some"}, 2, "some"},
		{"not a semantics", nil, []string{"--semantics", "mine"}, 2, "mine"},
		{"not a format", nil, []string{"--log-format", "xml"}, 2, "xml"},
		{"not a number in the environment", environment{"RECOURSE_LANES": "many"}, nil, 2, "RECOURSE_LANES"},
		{"no such file", nil, []string{"--config", "/not/there"}, 2, "/not/there"},
		{"a file that is not YAML", nil, []string{"--config", file(t, "\t{")}, 2, "worker.yaml"},
		{"a file with a setting nobody knows", nil, []string{"--config", file(t, "nonsense: 1")}, 2, `no setting is called "nonsense"`},
		{"a file with a value that cannot be", nil, []string{"--config", file(t, "lanes: many")}, 2, "lanes"},
		{"no server", nil, []string{"--server", "nats://" + free}, 3, "connect to"},
		{"nobody healthy", nil, []string{"healthcheck", "--admin-listen", free}, 1, "refused"},
		{"where is the worker", nil, []string{"healthcheck"}, 2, "--admin-listen"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := command(tc.env.get, worker.Run)
			root.SetArgs(tc.args)
			root.SetOut(io.Discard)
			root.SetErr(io.Discard)
			code, said := captured(t, func() int { return exitCode(root.ExecuteContext(t.Context())) })
			if code != tc.code || !strings.Contains(said, tc.says) {
				t.Errorf("exit code %d, %q; want %d, %q", code, said, tc.code, tc.says)
			}
		})
	}
	for err, want := range map[error]int{
		errors.New("x"): 1, &usageError{errors.New("x")}: 2, fmt.Errorf("y: %w", &worker.StartError{Err: errors.New("x")}): 3, worker.ErrConnectionClosed: 1,
	} {
		if code, _ := captured(t, func() int { return exitCode(err) }); code != want {
			t.Errorf("%v: exit code %d, want %d", err, code, want)
		}
	}
}

// captured runs something and returns what it wrote to standard error.
func captured(t *testing.T, do func() int) (int, string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = w
	code := do()
	os.Stderr = stderr
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if _, err := io.Copy(&said, r); err != nil {
		t.Fatal(err)
	}
	return code, said.String()
}

func TestHealthcheck(t *testing.T) {
	code := http.StatusOK
	asked := ""
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		rw.WriteHeader(code)
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	// The file of the worker, with settings that are not for this command.
	config := file(t, "data-dir: /data\nlanes: 4\nadmin-listen: "+address+"\n")
	for _, tc := range []struct {
		name string
		env  environment
		args []string
	}{
		{"flag", nil, []string{"--admin-listen", address}},
		{"port of all interfaces", nil, []string{"--admin-listen", ":" + port}},
		{"port alone", nil, []string{"--admin-listen", port}},
		{"environment", environment{"RECOURSE_ADMIN_LISTEN": address}, nil},
		{"the worker's file", environment{"RECOURSE_CONFIG": config}, nil},
	} {
		for status, healthy := range map[int]bool{http.StatusOK: true, http.StatusServiceUnavailable: false} {
			code = status
			root := command(tc.env.get, worker.Run)
			root.SetArgs(append([]string{"healthcheck"}, tc.args...))
			if err := root.ExecuteContext(t.Context()); (err == nil) != healthy || asked != "/readyz" {
				t.Errorf("%s: status %d: %v, asked for %q", tc.name, status, err, asked)
			}
		}
	}
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
