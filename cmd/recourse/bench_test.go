package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"runtime"
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
		"--rate", "50", "--light", "1s", "--waits", "20", "--spread", "1s", "--backlog", "100", "--prefill", "100", "--flat", "1000").Output()
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
	if r.First == nil || r.Mixed == nil || r.Second == nil || r.Latency == nil || r.Waits == nil || r.Recovery == nil || len(r.Starts) != 2 {
		t.Fatalf("a part is missing\n%s", out)
	}
	for name, list := range map[string][]float64{"first": r.First.Ratio, "second": r.Second.Ratio, "two": r.Two, "CPU": r.First.WorkerCPU,
		"mixed": r.Mixed.Ratio, "mixed, two bare": r.Mixed.RatioTwo} {
		if len(list) != 1 || list[0] <= 0 {
			t.Errorf("%s: %v", name, list)
		}
	}
	if len(r.Flat) != 9 || r.Flat[8].Executions < 1000 || r.Flat[8].Pipelines != 10 {
		t.Errorf("flat: %+v", r.Flat)
	}
	for _, f := range r.Flat {
		if f.PerSecond <= 0 || f.Ratio <= 0 || f.WorkerCPU < 0 || runtime.GOOS == "linux" && f.RSS < 1<<20 {
			t.Errorf("flat: %+v", f)
		}
	}
	// So few failures may take less time than the kernel counts.
	if runtime.GOOS == "linux" && (len(r.First.ServerBareCPU) != 1 || len(r.First.ServerWorkerCPU) != 1) {
		t.Errorf("the server's processor time: %v, %v", r.First.ServerBareCPU, r.First.ServerWorkerCPU)
	}
	if len(r.Mixed.Conflicts) != 1 || r.Mixed.Conflicts[0] < 0 || len(r.TwoConflicts) != 1 {
		t.Errorf("conflicts: %v, %v", r.Mixed.Conflicts, r.TwoConflicts)
	}
	for name, shape := range map[string]bench.Shape{"first": r.First.Shape, "mixed": r.Mixed.Shape, "second": r.Second.Shape} {
		if shape.Size < 1000 || shape.Fresh <= 0 || shape.Fresh >= 1 {
			t.Errorf("%s: records look like %+v", name, shape)
		}
	}
	if v := r.Versions; v.NATSGo == "unknown" || v.Server == "" || v.Go == "" || v.Recourse == "" || r.Durability != "one server, sync interval" || r.Machine.Cores < 1 {
		t.Errorf("about: %+v, %q, %+v", v, r.Durability, r.Machine)
	}
	if r.Latency.Worker[0].P50 <= 0 || r.Latency.Ratio[0] <= 0 || r.Waits.Spread.Max <= 0 || r.Recovery.Took <= 0 || r.Starts[0].Took[0] <= 0 || r.Starts[0].Records != 0 || r.Starts[1].Took[0] <= 0 || r.Starts[1].Records < 1000 || r.RecordBytes < 1000 {
		t.Errorf("a measure is missing\n%s", out)
	}
}
