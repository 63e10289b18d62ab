package pipeline

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestWorstCase compares the numbers with those worked out by hand: a step with 2 or 3 retries in a group with 2 in a group with 2.
func TestWorstCase(t *testing.T) {
	text, err := os.ReadFile("testdata/lint/retries-multiply/good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	l, ok := walk("good.yaml", text, Options{})
	if !ok {
		t.Fatal(l.sorted())
	}
	var worst worstCase
	for _, e := range l.elements {
		if e.node.Path == "work/outer" {
			worst.walk(e)
		}
	}
	// The step: 3 runs of 2m, and waits of 10s and 20s: 6m30s.
	// The inner group: 3 times that, and 2 waits of 1m: 21m30s.
	// The outer group: 3 times that, and waits of 5m and 10m: 1h19m30s.
	const runs, took = 3 * 3 * 3, time.Hour + 19*time.Minute + 30*time.Second
	if worst.runs != runs || worst.time != took || worst.product != 2*2*2 || worst.factors != "3·3·3" || worst.step.node.Path != "work/outer/inner/run" {
		t.Errorf("%d executions (%s), %s, product %d, of %s; want %d, %s", worst.runs, worst.factors, worst.time, worst.product, worst.step.node.Path, runs, took)
	}
	if got := span(worst.time); got != "1h19m30s" {
		t.Errorf("span %s", got)
	}

	text, err = os.ReadFile("testdata/lint/retries-multiply/bad.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// 4 runs of 2m and waits of 10s, 20s, 20s: 8m50s; 3 of these and 2m: 28m30s; 3 of these and 15m: 1h40m30s.
	_, ds := Load("bad.yaml", text, Options{})
	if len(ds) != 1 || !strings.Contains(ds[0].Message, "multiply, 4·3·3: up to 36 executions, 1h40m30s, of") {
		t.Errorf("got %v", ds)
	}
}
