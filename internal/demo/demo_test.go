package demo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The story checks itself: it ends with an error where a command is not the one expected. It plays on its own server, also where the nats
// command has another one selected.
func TestDemo(t *testing.T) {
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	for name, text := range map[string]string{"context.txt": "elsewhere", "context/elsewhere.json": `{"url":"nats://127.0.0.1:1"}`} {
		path := filepath.Join(config, "nats", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := Run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		"Retry, StrategyMatched, in 1s", "receives retry prod/canary/rollout", "StageRollback, RetriesExhausted",
		"receives rollback-stage prod", "receives pause prod/canary/smoke", "receives mark-success", "refused, already answered: MarkAsSuccess by alice",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not show %q:\n%s", want, out.String())
		}
	}
}
