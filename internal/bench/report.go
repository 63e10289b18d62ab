package bench

import (
	"fmt"
	"io"
	"time"

	"github.com/recourse-dev/recourse"
)

// Report is what was measured. Rates are per second; lists have one entry a round.
type Report struct {
	Machine     string `json:"machine"`
	Server      string `json:"server"`
	Durability  string `json:"durability"`
	Failures    int    `json:"failures"`
	Pipelines   int    `json:"pipelines"`
	RecordBytes int    `json:"recordBytes"`
	Seed        uint64 `json:"seed"`
	// First failures: nearly each begins an execution.
	First *Throughput `json:"first,omitempty"`
	// Two is the rate of two workers over that of one.
	Two []float64 `json:"two,omitempty"`
	// Second failures, of executions that another worker has handled.
	Second   *Throughput `json:"second,omitempty"`
	Latency  *Latency    `json:"latency,omitempty"`
	Waits    *Waits      `json:"waits,omitempty"`
	Recovery *Recovery   `json:"recovery,omitempty"`
	Starts   *Starts     `json:"starts,omitempty"`
}

// Throughput is rates of both kinds, in turns.
type Throughput struct {
	Bare   []float64 `json:"bare"`
	Worker []float64 `json:"worker"`
	// Ratio of the worker's to the bare loop's in the same round.
	Ratio []float64 `json:"ratio"`
	// BareCPU and WorkerCPU are processor seconds per 10,000 failures.
	BareCPU   []float64 `json:"bareCPU"`
	WorkerCPU []float64 `json:"workerCPU"`
	// BareRSS and WorkerRSS are the most memory of any round, in bytes.
	BareRSS   int64 `json:"bareRSS"`
	WorkerRSS int64 `json:"workerRSS"`
}

// Latency is from a failure being stored to its record being delivered.
type Latency struct {
	Rate   int         `json:"rate"` // failures per second
	Bare   []Quantiles `json:"bare"`
	Worker []Quantiles `json:"worker"`
}

// Waits is by how much retries come late.
type Waits struct {
	Pending int               `json:"pending"`
	Over    recourse.Duration `json:"over"`
	Spread  Quantiles         `json:"spread"` // due one after another over that time
	Burst   Quantiles         `json:"burst"`  // half as many, due within a second
}

// Recovery is a backlog after a restart.
type Recovery struct {
	Backlog   int               `json:"backlog"`
	Took      recourse.Duration `json:"took"`      // from the start of the process
	PerSecond float64           `json:"perSecond"` // between the first and the last record
}

// Starts is from the start of a process to its first decision.
type Starts struct {
	Records uint64              `json:"records"` // in the journal
	Took    []recourse.Duration `json:"took"`
}

// Write writes the report for people: middle values, and the least and the most behind them.
func (r *Report) Write(w io.Writer) {
	fmt.Fprintf(w, "%s; %s; %s; %d pipelines; records of %d bytes\n", r.Machine, r.Server, r.Durability, r.Pipelines, r.RecordBytes)
	for _, t := range []struct {
		name string
		*Throughput
	}{{"first failures", r.First}, {"second failures", r.Second}} {
		if t.Throughput == nil || len(t.Ratio) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s, over %d rounds\n", t.name, len(t.Ratio))
		fmt.Fprintf(w, "  bare loop per second        %s\n", spreadText(t.Bare, "%.0f"))
		fmt.Fprintf(w, "  worker per second           %s\n", spreadText(t.Worker, "%.0f"))
		fmt.Fprintf(w, "  worker / bare loop          %s\n", spreadText(t.Ratio, "%.2f"))
		fmt.Fprintf(w, "  CPU seconds per 10,000      bare %s, worker %s\n", spreadText(t.BareCPU, "%.2f"), spreadText(t.WorkerCPU, "%.2f"))
		fmt.Fprintf(w, "  peak memory                 bare %d MiB, worker %d MiB\n", t.BareRSS>>20, t.WorkerRSS>>20)
	}
	if len(r.Two) > 0 {
		fmt.Fprintf(w, "\ntwo workers / one             %s\n", spreadText(r.Two, "%.2f"))
	}
	if l := r.Latency; l != nil {
		fmt.Fprintf(w, "\nstored to delivered at %d/s\n", l.Rate)
		for i := range l.Worker {
			fmt.Fprintf(w, "  bare p50 %v, p99 %v, p99.9 %v; worker p50 %v, p99 %v, p99.9 %v\n",
				l.Bare[i].P50, l.Bare[i].P99, l.Bare[i].P999, l.Worker[i].P50, l.Worker[i].P99, l.Worker[i].P999)
		}
	}
	if v := r.Waits; v != nil {
		fmt.Fprintf(w, "\nlate by, of %d pending\n  spread over %v: p50 %v, p99 %v, at most %v\n", v.Pending, v.Over, v.Spread.P50, v.Spread.P99, v.Spread.Max)
		fmt.Fprintf(w, "  %d within 1s: p50 %v, p99 %v, at most %v\n", v.Pending/2, v.Burst.P50, v.Burst.P99, v.Burst.Max)
	}
	if v := r.Recovery; v != nil {
		fmt.Fprintf(w, "\nbacklog of %d: drained %v after the start, %.0f/s\n", v.Backlog, time.Duration(v.Took).Round(time.Millisecond), v.PerSecond)
	}
	if v := r.Starts; v != nil {
		fmt.Fprintf(w, "\nstart to first decision with %d records: %v\n", v.Records, v.Took)
	}
}
