package main

import (
	"bytes"
	"context"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

// testDeadline bounds whatever a test waits for.
const testDeadline = 30 * time.Second

// output is a buffer that a command may write to while a test reads it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// call is one run of the tool inside the test.
type call struct {
	env      map[string]string
	stdin    string
	out, err output
}

func (c *call) run(ctx context.Context, args ...string) int {
	env := maps.Clone(c.env)
	cmd := command(func(name string) string { return env[name] })
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(c.stdin))
	cmd.SetOut(&c.out)
	cmd.SetErr(&c.err)
	return exitCode(&c.err, cmd.ExecuteContext(ctx))
}

// tool runs the tool without a server and wants an exit code.
func tool(t *testing.T, want int, args ...string) (out, err string) {
	t.Helper()
	return toolIn(t, &call{}, want, args...)
}

func toolIn(t *testing.T, c *call, want int, args ...string) (out, err string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testDeadline)
	defer cancel()
	if got := c.run(ctx, args...); got != want {
		t.Fatalf("recourse %s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), got, want, &c.out, &c.err)
	}
	return c.out.String(), c.err.String()
}

func decodeJSON[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}

// eventually polls until done says so.
func eventually(t *testing.T, what string, done func() bool) {
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
