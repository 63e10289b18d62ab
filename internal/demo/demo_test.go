package demo

import (
	"strings"
	"testing"
)

// The story checks itself: it ends with an error where a command is not the one expected.
func TestDemo(t *testing.T) {
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
