//go:build unix

package run

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/recourse-dev/recourse"
)

// patience bounds whatever a test waits for.
const patience = 30 * time.Second

// eventually polls until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// closedPort is a port of this machine on which nothing listens.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestProcess(t *testing.T) {
	port := closedPort(t)
	for _, test := range []struct {
		name, script string
		timeout      time.Duration
		errors       recourse.ErrorType // 0 for a success
		code         int                // -1 for none
		message      string
	}{
		{"ok", "echo fine", 0, 0, -1, ""},
		{"exit 1", "echo no such table >&2; exit 1", 0, recourse.Unknown, 1, "exit code 1: no such table"},
		{"says it on standard output", "echo broken; exit 3", 0, recourse.Unknown, 3, "exit code 3: broken"},
		{"kills itself", "kill -9 $$", 0, recourse.Unknown, 137, "exit code 137 (killed)"},
		{"a child is killed", "sh -c 'kill -9 $$'", 0, recourse.Unknown, 137, "exit code 137 (killed)"},
		{"no such command", "surely-no-such-command --now", 0, recourse.ConfigurationFailure, 127, "surely-no-such-command"},
		{"cannot be executed", "/dev/null", 0, recourse.ConfigurationFailure, 126, "exit code 126"},
		{"times out", "sleep 60", 100 * time.Millisecond, recourse.Timeout, -1, "timed out after 100ms"},
		{"times out and says why", "echo still waiting for pods >&2; sleep 60", 300 * time.Millisecond, recourse.Timeout, -1, "timed out after 300ms: still waiting for pods"},
		{"refused", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", port), 0, recourse.Connectivity, 1, "Connection refused"},
		{"refused, on standard output", fmt.Sprintf("(exec 3<>/dev/tcp/127.0.0.1/%d) 2>&1", port), 0, recourse.Connectivity, 1, "Connection refused"},
		{"takes a SIGTERM in its own way", "trap 'echo cleaned up >&2; exit 3' TERM; sleep 60 & wait", 300 * time.Millisecond, recourse.Timeout, -1, "timed out after 300ms: cleaned up"},
		{"not text", `printf '\xff\xfe\n' >&2; exit 1`, 0, recourse.Unknown, 1, "\uFFFD"},
		{"secret", "echo password=hunter2 >&2; exit 1", 0, recourse.Unknown, 1, "password=" + recourse.Redacted},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &process{
				shell: "bash", script: test.script, timeout: test.timeout, succeeded: filepath.Join(t.TempDir(), "ok"), log: io.Discard,
				line: func(text string) {
					if !utf8.ValidString(text) {
						t.Errorf("the line %q is not UTF-8", text)
					}
				},
			}
			r := p.run(t.Context())
			if r.killed {
				t.Fatal("killed")
			}
			if exists(p.succeeded) != (test.errors == 0) {
				t.Errorf("%s is there: %t", p.succeeded, exists(p.succeeded))
			}
			if r.failure == nil {
				if test.errors != 0 {
					t.Fatal("succeeded")
				}
				return
			}
			if r.failure.Errors != recourse.ErrorTypesOf(test.errors) || !strings.Contains(r.failure.Message, test.message) {
				t.Errorf("got %s %q, want %s %q", r.failure.Errors, r.failure.Message, test.errors, test.message)
			}
			if code := r.failure.ExitCode; code == nil && test.code >= 0 || code != nil && *code != test.code {
				t.Errorf("exit code %v, want %d", code, test.code)
			}
		})
	}
}

func TestProcessCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("SKIP: there is no curl on this machine")
	}
	for _, quiet := range []string{"-sS", "-s"} {
		p := &process{shell: "sh", script: fmt.Sprintf("curl %s http://127.0.0.1:%d/", quiet, closedPort(t)), log: io.Discard, line: func(string) {}}
		if r := p.run(t.Context()); r.failure == nil || r.failure.Errors != recourse.ErrorTypesOf(recourse.Connectivity) || *r.failure.ExitCode != 7 {
			t.Errorf("curl %s: %+v", quiet, r.failure)
		}
	}
}

func TestProcessWithoutShell(t *testing.T) {
	p := &process{shell: "surely-no-such-shell", script: "true", log: io.Discard, line: func(string) {}}
	if r := p.run(t.Context()); r.failure == nil || r.failure.Errors != recourse.ErrorTypesOf(recourse.ConfigurationFailure) {
		t.Errorf("%+v", r.failure)
	}
}

// TestProcessGroup: what a script starts ends with it, whether it ends by itself, by its timeout or by a kill; also what asks not to be
// bothered.
func TestProcessGroup(t *testing.T) {
	for _, test := range []struct {
		name, end string
		timeout   time.Duration
		kill      bool
	}{
		{"ends", "exit 0", 0, false},
		{"times out", "wait", time.Second, false},
		{"is killed", "wait", 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			script := fmt.Sprintf("(trap '' TERM; while :; do sleep 60; done) & echo $! > %s.new; mv %s.new %s; %s", file, file, file, test.end)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.kill {
				go func() {
					for ctx.Err() == nil {
						if _, err := os.Stat(file); err == nil {
							cancel()
						}
					}
				}()
			}
			p := &process{shell: "bash", script: script, timeout: test.timeout, log: io.Discard, line: func(string) {}}
			if r := p.run(ctx); r.killed != test.kill {
				t.Errorf("killed: %t", r.killed)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the child is gone", func() bool { return gone(pid) })
		})
	}
}

// gone reports whether a process does not run any more; one that nobody has waited for does not either.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestProcessOutput(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	log := new(strings.Builder)
	p := &process{shell: "bash", script: `echo one; echo two >&2; printf three; head -c 40000 /dev/zero | tr '\0' x`, log: log, line: func(text string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, text)
	}}
	if r := p.run(t.Context()); r.failure != nil {
		t.Fatal(r.failure.Message)
	}
	all := strings.Join(lines, "")
	for _, want := range []string{"one", "two", "three"} {
		if !strings.Contains(all, want) || !strings.Contains(log.String(), want) {
			t.Errorf("%q is missing", want)
		}
	}
	if got := strings.Count(all, "x"); got != 40000 {
		t.Errorf("%d of 40000 bytes", got)
	}
	for _, line := range lines {
		if len(line) > maxLine {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

func TestProcessEnvironment(t *testing.T) {
	t.Setenv("NATS_PASSWORD", "hidden")
	t.Setenv("RECOURSE_AS", "hidden")
	var out []string
	p := &process{shell: "sh", script: `echo "[$NATS_PASSWORD$RECOURSE_AS$OWN]"`, env: []string{"OWN=mine"}, log: io.Discard, line: func(text string) { out = append(out, text) }}
	p.run(t.Context())
	if got := strings.Join(out, ""); got != "[mine]" {
		t.Errorf("got %s", got)
	}
}
