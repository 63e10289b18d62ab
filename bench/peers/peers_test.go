package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/bench/workload"
)

// TestMain is also what the tests start as servers and workers.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "work") {
		main()
		return
	}
	os.Exit(m.Run())
}

// need skips a test whose server is not there.
func need(t *testing.T, server string) {
	t.Helper()
	if why := lacks(server); why != "" {
		t.Skipf("NOT TESTED: %s", why)
	}
}

// inSession runs a test on a new server.
func inSession(t *testing.T, c contender, cfg config, test func(context.Context, *session)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cfg.pipelines, cfg.progress = 5, io.Discard
	if err := cfg.session(ctx, c, later, 0, func(s *session) error {
		test(ctx, s)
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestEngines: each engine makes one command of each failure, also where several are of one execution, and acknowledges all.
func TestEngines(t *testing.T) {
	for _, c := range contenders {
		t.Run(c.name, func(t *testing.T) {
			need(t, c.server)
			inSession(t, c, config{failures: 300}, func(ctx context.Context, s *session) {
				var res result
				if _, err := throughput(ctx, s, &res); err != nil {
					t.Fatal(err)
				}
				if len(res.PerSecond) != 1 || res.PerSecond[0] <= 0 || res.WorkerCPU[0] <= 0 || res.ServerCPU[0] <= 0 || res.WorkerRSS == 0 {
					t.Errorf("got %+v", res)
				}
				w, err := s.worker(ctx)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _, _ = w.stop() }()
				heard, stop, err := s.listen(ctx)
				if err != nil {
					t.Fatal(err)
				}
				defer stop()
				failures := s.single("more", 200)
				if err := s.put(ctx, failures); err != nil {
					t.Fatal(err)
				}
				if err := heard.wait(ctx, len(failures)); err != nil {
					t.Fatal(err)
				}
				if err := s.decided(ctx, 500); err != nil {
					t.Fatal(err)
				}
				heard.mu.Lock()
				defer heard.mu.Unlock()
				for _, f := range failures {
					if heard.commands[f.Prefix()].IsZero() {
						t.Errorf("no command for %s", f.Execution)
					}
				}
				if len(heard.commands) != 200 || heard.again != 0 || len(heard.due) != 0 {
					t.Errorf("%d executions, %d commands more, %d waits", len(heard.commands), heard.again, len(heard.due))
				}
			})
		})
	}
}

// TestWaits: each engine retries what is to be retried later once, and not before it is due.
func TestWaits(t *testing.T) {
	for _, c := range contenders {
		t.Run(c.name, func(t *testing.T) {
			need(t, c.server)
			inSession(t, c, config{waits: 40, spread: time.Second, pause: time.Second}, func(ctx context.Context, s *session) {
				var res result
				if _, err := late(ctx, s, &res); err != nil {
					t.Fatal(err)
				}
				if res.Pending[0] != 40 || res.Late[0].Max <= 0 {
					t.Errorf("got %+v", res)
				}
				if n, err := s.count(ctx); err != nil || n != 80 {
					t.Errorf("%d decisions, want 40 to wait and 40 to retry; %v", n, err)
				}
			})
		})
	}
}

func newDecider(t *testing.T, l *load) *decider {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pipelines.json")
	if err := savePipelines(file, l); err != nil {
		t.Fatal(err)
	}
	d, err := loadDecider(file)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDecider: a failure of about 900 bytes is one command; one that is to be retried later waits, and then is one.
func TestDecider(t *testing.T) {
	l := newLoad(7, 5)
	d := newDecider(t, l)
	keys := map[string]bool{}
	for _, f := range l.First("x", 500) {
		body, err := recourse.Encode(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) < workload.BodySize-50 || len(body) > workload.BodySize+50 {
			t.Errorf("a body of %d bytes", len(body))
		}
		rec, err := d.failure(body)
		if err != nil {
			t.Fatal(err)
		}
		if !rec.command || !rec.due.IsZero() || rec.prefix != f.Prefix() {
			t.Fatalf("%v: %+v", f.Errors, rec)
		}
		keys[rec.key] = true
	}
	if len(keys) != 500 {
		t.Errorf("%d keys", len(keys))
	}
	const delay = 300 * time.Millisecond
	bodies, err := encode(l.delayed("y", 1, delay))
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	waits, err := d.failure(bodies[0])
	if err != nil || waits.command || waits.due.Before(before.Add(delay)) {
		t.Fatalf("%+v, %v", waits, err)
	}
	if _, err := d.due(waits.body); err == nil || !strings.Contains(err.Error(), "early") {
		t.Errorf("too early: %v", err)
	}
	<-time.After(time.Until(waits.due))
	rec, err := d.due(waits.body)
	if err != nil || !rec.command || rec.key == waits.key {
		t.Fatalf("%+v, %v", rec, err)
	}
	decoded, err := recourse.DecodeRecord(rec.body)
	if err != nil || decoded.Action != recourse.Retry {
		t.Errorf("%v, %v", decoded, err)
	}
}

// alive says whether a process runs.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// TestNothingStays: a server ends with its standard input, and removes its directory; where who keeps it is killed it ends all the same.
func TestNothingStays(t *testing.T) {
	for _, server := range []string{"nats", "postgres", "redis"} {
		t.Run(server, func(t *testing.T) {
			need(t, server)
			dir, err := os.MkdirTemp("", "peers-test-") // not t.TempDir, which another user cannot enter
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("TMPDIR", dir)
			p, err := start(t.Context(), "", "serve", server, string(later))
			if err != nil {
				t.Fatal(err)
			}
			if !alive(p.pid) {
				t.Errorf("process %d does not run", p.pid)
			}
			if _, err := p.stop(); err != nil {
				t.Error(err)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) > 0 || alive(p.pid) {
				t.Errorf("left: %v, %v, process %d alive %v", left, err, p.pid, alive(p.pid))
			}
			if p, err = start(t.Context(), "", "serve", server, string(later)); err != nil {
				t.Fatal(err)
			}
			_ = p.cmd.Process.Kill()
			_, _ = p.stop()
			for deadline := time.Now().Add(20 * time.Second); alive(p.pid); {
				if time.Now().After(deadline) {
					t.Fatalf("process %d outlives who keeps it", p.pid)
				}
				<-time.After(20 * time.Millisecond)
			}
		})
	}
}

func TestNumbers(t *testing.T) {
	if got := middle([]float64{3, 1, 2}, "%.0f"); got != "2 (1 to 3)" {
		t.Errorf("got %s", got)
	}
	var d []time.Duration
	for i := range 1000 {
		d = append(d, time.Duration(1000-i)*time.Millisecond)
	}
	if q := quantiles(d); fmt.Sprint(q) != "p50 501ms, p99 991ms, at most 1s" {
		t.Errorf("got %v", q)
	}
	second := time.Unix(100, 0)
	for at, want := range map[time.Time]time.Time{second: second, second.Add(1): second.Add(time.Second), second.Add(-1): second} {
		if got := wholeSecond(at); !got.Equal(want) {
			t.Errorf("%v: got %v, want %v", at, got, want)
		}
	}
}
