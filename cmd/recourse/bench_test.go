package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/recourse-dev/recourse/internal/bench"
)

// TestBench runs every part of the bench with a load so small that only its working counts.
func TestBench(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "recourse")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), binary, "bench", "-o", "json", "--failures", "200", "--rounds", "1", "--pipelines", "3",
		"--rate", "50", "--light", "1s", "--waits", "20", "--spread", "1s", "--backlog", "100", "--prefill", "100").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var r bench.Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r.First == nil || r.Second == nil || r.Latency == nil || r.Waits == nil || r.Recovery == nil || r.Starts == nil {
		t.Fatalf("a part is missing\n%s", out)
	}
	for name, list := range map[string][]float64{"first": r.First.Ratio, "second": r.Second.Ratio, "two": r.Two, "CPU": r.First.WorkerCPU} {
		if len(list) != 1 || list[0] <= 0 {
			t.Errorf("%s: %v", name, list)
		}
	}
	if r.Latency.Worker[0].P50 <= 0 || r.Waits.Spread.Max <= 0 || r.Recovery.Took <= 0 || r.Starts.Took[0] <= 0 || r.RecordBytes < 1000 {
		t.Errorf("a measure is missing\n%s", out)
	}
}
