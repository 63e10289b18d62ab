package pipeline

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestWorstCase compares the numbers with those worked out by hand: a step with 3 retries in a group with 2 in a group with 2.
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
	// The step: 4 runs of 2m, and waits of 10s, 20s, 20s: 8m50s.
	// The inner group: 3 times that, and 2 waits of 1m: 28m30s.
	// The outer group: 3 times that, and waits of 5m and 10m: 1h40m30s.
	const runs, took = 4 * 3 * 3, time.Hour + 40*time.Minute + 30*time.Second
	if worst.runs != runs || worst.time != took || worst.product != 3*2*2 || worst.step.node.Path != "work/outer/inner/run" {
		t.Errorf("%d executions, %s, product %d, of %s; want %d, %s", worst.runs, worst.time, worst.product, worst.step.node.Path, runs, took)
	}
	if got := span(worst.time); got != "1h40m30s" {
		t.Errorf("span %s", got)
	}

	text, err = os.ReadFile("testdata/lint/retries-multiply/bad.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// 5 runs of 2m and waits of 10s, 20s, 20s, 20s: 11m10s; 3 of these and 2m: 35m30s; 3 of these and 15m: 2h1m30s.
	_, ds := Load("bad.yaml", text, Options{})
	if len(ds) != 1 || !strings.Contains(ds[0].Message, "up to 45 executions, 2h1m30s, of") {
		t.Errorf("got %v", ds)
	}
}
