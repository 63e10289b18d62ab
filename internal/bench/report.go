package bench

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/bench/workload"
)

// Report is what was measured. Rates are per second; lists have one entry a round.
type Report struct {
	Machine     Machine  `json:"machine"`
	Versions    Versions `json:"versions"`
	Durability  string   `json:"durability"`
	Failures    int      `json:"failures"` // of each round
	Pipelines   int      `json:"pipelines"`
	RecordBytes int      `json:"recordBytes"`
	Seed        uint64   `json:"seed"`
	// Flat is the cost of one failure at several sizes.
	Flat []Flat `json:"flat,omitempty"`
	// First failures: nearly each begins an execution.
	First *Throughput `json:"first,omitempty"`
	// Two is the rate of two workers over that of one, TwoConflicts how many of their appends were decided again for each failure.
	Two          []float64 `json:"two,omitempty"`
	TwoConflicts []float64 `json:"twoConflicts,omitempty"`
	// Mixed is executions, nodes and attempts mixed, at two workers.
	Mixed *Mixed `json:"mixed,omitempty"`
	// Second failures, of executions that another worker has handled.
	Second   *Throughput `json:"second,omitempty"`
	Latency  *Latency    `json:"latency,omitempty"`
	Waits    *Waits      `json:"waits,omitempty"`
	Recovery *Recovery   `json:"recovery,omitempty"`
	Starts   []Starts    `json:"starts,omitempty"`
}

// Throughput is rates of both kinds, in turns.
type Throughput struct {
	// Shape of the worker's records, and so of the bare loop's.
	Shape  Shape     `json:"shape"`
	Bare   []float64 `json:"bare"`
	Worker []float64 `json:"worker"`
	// Ratio of the worker's to the bare loop's in the same round.
	Ratio []float64 `json:"ratio"`
	// BareCPU and WorkerCPU are processor seconds per 10,000 failures.
	BareCPU   []float64 `json:"bareCPU"`
	WorkerCPU []float64 `json:"workerCPU"`
	// ServerBareCPU and ServerWorkerCPU are those of the server meanwhile, with what it takes to start and stop the other; none where it
	// was not started here.
	ServerBareCPU   []float64 `json:"serverBareCPU,omitempty"`
	ServerWorkerCPU []float64 `json:"serverWorkerCPU,omitempty"`
	// BareRSS and WorkerRSS are the most memory of any round, in bytes.
	BareRSS   int64 `json:"bareRSS"`
	WorkerRSS int64 `json:"workerRSS"`
}

// Flat is what a failure costs a worker that has compiled its pipelines.
type Flat struct {
	Executions int     `json:"executions"` // in the journal
	Pipelines  int     `json:"pipelines"`  // of 50 steps, that the worker has compiled
	PerSecond  float64 `json:"perSecond"`
	Bare       float64 `json:"bare"`  // failures per second of the bare loop, once for all with about as many executions
	Ratio      float64 `json:"ratio"` // of the worker to that
	// WorkerCPU and ServerCPU are processor seconds per 10,000 failures; ServerCPU is 0 where the server was not started here.
	WorkerCPU float64 `json:"workerCPU"`
	ServerCPU float64 `json:"serverCPU"`
	RSS       int64   `json:"rss"` // the most memory of the worker, in bytes
}

// Mixed is the rates of one bare loop and of two workers; Ratio is the one's to the other's.
type Mixed struct {
	Throughput
	Parts Parts `json:"parts"`
	// BareTwo is the rate of two bare loops, RatioTwo that of the workers over it.
	BareTwo  []float64 `json:"bareTwo"`
	RatioTwo []float64 `json:"ratioTwo"`
	// Conflicts is how many appends of the workers were decided again, for each failure.
	Conflicts []float64 `json:"conflicts"`
}

// Latency is from a failure being stored to its command being delivered.
type Latency struct {
	Rate   int         `json:"rate"` // failures per second
	Bare   []Quantiles `json:"bare"`
	Worker []Quantiles `json:"worker"`
	// Ratio of the worker's p99 to the bare loop's in the same round.
	Ratio []float64 `json:"ratio"`
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

// Starts is from the start of a process to its first decision, with the journal as it was at the beginning and at the end.
type Starts struct {
	Records uint64              `json:"records"` // in the journal, before the last of them
	Took    []recourse.Duration `json:"took"`
}

// Write writes the report for people: middle values, and the least and the most behind them.
func (r *Report) Write(w io.Writer) {
	m, v := r.Machine, r.Versions
	fmt.Fprintf(w, "%s; %d cores; %d MiB; %s\n", cmp.Or(m.CPU, "unknown CPU"), m.Cores, m.MemoryBytes>>20, m.OS)
	fmt.Fprintf(w, "recourse %s; %s; nats.go %s; nats-server %s; %s\n", v.Recourse, v.Go, v.NATSGo, v.Server, r.Durability)
	fmt.Fprintf(w, "%d pipelines of %d to %d steps; failures of about %d bytes\n", r.Pipelines, workload.FewestSteps, workload.MostSteps, workload.BodySize)
	if len(r.Flat) > 0 {
		fmt.Fprintf(w, "\na failure at more and more executions in the journal and pipelines of %d steps in use\n", flatSteps)
		fmt.Fprintf(w, "  executions  pipelines  bare loop per second  worker  ratio  CPU seconds per 10,000: worker, server  peak memory\n")
		for _, f := range r.Flat {
			fmt.Fprintf(w, "  %10d %10d %21.0f %7.0f %6.2f %31.2f %7.2f %8d MiB\n", f.Executions, f.Pipelines, f.Bare, f.PerSecond, f.Ratio, f.WorkerCPU, f.ServerCPU, f.RSS>>20)
		}
	}
	if t := r.First; t != nil {
		t.write(w, "first failures", "worker")
	}
	if len(r.Two) > 0 {
		fmt.Fprintf(w, "  two workers / one           %s\n", spreadText(r.Two, "%.2f"))
		fmt.Fprintf(w, "  conflicts of two workers    %s %%\n", percentText(r.TwoConflicts))
	}
	if m := r.Mixed; m != nil {
		m.write(w, fmt.Sprintf("mixed failures: %.0f %% of a new execution, %.0f %% of another node, %.0f %% further attempts; two workers",
			100*m.Parts.Executions, 100*m.Parts.Nodes, 100*m.Parts.Attempts), "workers")
		fmt.Fprintf(w, "  two bare loops per second   %s\n", spreadText(m.BareTwo, "%.0f"))
		fmt.Fprintf(w, "  workers / two bare loops    %s\n", spreadText(m.RatioTwo, "%.2f"))
		fmt.Fprintf(w, "  conflicts of the workers    %s %%\n", percentText(m.Conflicts))
	}
	if t := r.Second; t != nil {
		t.write(w, "second failures, of executions another process handled", "worker")
	}
	if l := r.Latency; l != nil {
		fmt.Fprintf(w, "\nstored to delivered at %d/s\n", l.Rate)
		for _, q := range []struct {
			name string
			of   func(Quantiles) recourse.Duration
		}{
			{"p50", func(q Quantiles) recourse.Duration { return q.P50 }}, {"p99", func(q Quantiles) recourse.Duration { return q.P99 }},
			{"p99.9", func(q Quantiles) recourse.Duration { return q.P999 }},
		} {
			fmt.Fprintf(w, "  %-5s in ms                 bare %s, worker %s\n", q.name, millisecondsText(l.Bare, q.of), millisecondsText(l.Worker, q.of))
		}
		fmt.Fprintf(w, "  p99 worker / bare loop      %s\n", spreadText(l.Ratio, "%.2f"))
	}
	if v := r.Waits; v != nil {
		fmt.Fprintf(w, "\nlate by, of %d pending\n  spread over %v: p50 %v, p99 %v, at most %v\n", v.Pending, v.Over, v.Spread.P50, v.Spread.P99, v.Spread.Max)
		fmt.Fprintf(w, "  %d within 1s: p50 %v, p99 %v, at most %v\n", v.Pending/2, v.Burst.P50, v.Burst.P99, v.Burst.Max)
	}
	if v := r.Recovery; v != nil {
		fmt.Fprintf(w, "\nbacklog of %d: drained %v after the start, %.0f/s\n", v.Backlog, time.Duration(v.Took).Round(time.Millisecond), v.PerSecond)
	}
	for _, v := range r.Starts {
		fmt.Fprintf(w, "\nstart to first decision with %d records: %v\n", v.Records, v.Took)
	}
}

// write writes rates for people.
func (t *Throughput) write(w io.Writer, name, worker string) {
	if len(t.Ratio) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s, over %d rounds; records of %d bytes, %.0f %% of the later ones of an execution under a subject of their own\n",
		name, len(t.Ratio), t.Shape.Size, 100*t.Shape.Fresh)
	fmt.Fprintf(w, "  bare loop per second        %s\n", spreadText(t.Bare, "%.0f"))
	fmt.Fprintf(w, "  %-7s per second          %s\n", worker, spreadText(t.Worker, "%.0f"))
	fmt.Fprintf(w, "  %-7s / bare loop         %s\n", worker, spreadText(t.Ratio, "%.2f"))
	fmt.Fprintf(w, "  CPU seconds per 10,000      bare %s, %s %s\n", spreadText(t.BareCPU, "%.2f"), worker, spreadText(t.WorkerCPU, "%.2f"))
	if len(t.ServerBareCPU) > 0 {
		fmt.Fprintf(w, "    of the server meanwhile   %s, %s\n", spreadText(t.ServerBareCPU, "%.2f"), spreadText(t.ServerWorkerCPU, "%.2f"))
	}
	fmt.Fprintf(w, "  peak memory of a process    bare %d MiB, worker %d MiB\n", t.BareRSS>>20, t.WorkerRSS>>20)
}

func percentText(parts []float64) string {
	percent := make([]float64, len(parts))
	for i, p := range parts {
		percent[i] = 100 * p
	}
	return spreadText(percent, "%.1f")
}

func millisecondsText(rounds []Quantiles, of func(Quantiles) recourse.Duration) string {
	numbers := make([]float64, len(rounds))
	for i, q := range rounds {
		numbers[i] = time.Duration(of(q)).Seconds() * 1000
	}
	return spreadText(numbers, "%.2f")
}
