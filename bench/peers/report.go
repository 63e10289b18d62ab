package main

import (
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/recourse-dev/recourse"
)

// report is what was measured.
type report struct {
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Failures int               `json:"failures"`
	Rate     int               `json:"rate"`
	Waits    int               `json:"waits"`
	Spread   recourse.Duration `json:"spread"`
	Seed     uint64            `json:"seed"`
	Results  []*result         `json:"results"`
	// LeftOut says of each engine that was not measured what it lacks.
	LeftOut []string `json:"leftOut,omitempty"`
}

// result is one engine with one durability. Lists have one entry a round.
type result struct {
	Engine   string `json:"engine"`
	Flush    string `json:"flush"` // each write, or later
	Settings string `json:"settings"`
	// PerSecond is first failures of a backlog.
	PerSecond []float64 `json:"perSecond,omitempty"`
	// WorkerCPU and ServerCPU are processor seconds per 10,000 failures.
	WorkerCPU []float64 `json:"workerCPU,omitempty"`
	ServerCPU []float64 `json:"serverCPU,omitempty"`
	WorkerRSS int64     `json:"workerRSS,omitempty"` // bytes at the most
	// Latency is from a failure being stored to its command being delivered.
	Latency []spans `json:"latency,omitempty"`
	// Late is by how much retries came later than they were due; Pending is how many waited when the first was due.
	Late    []spans `json:"late,omitempty"`
	Pending []int   `json:"pending,omitempty"`
}

// settings says what a server does before it acknowledges, and what it can lose otherwise.
var settings = map[string]map[durability]string{
	"nats":     {each: "sync always", later: "sync interval 2m0s"},
	"postgres": {each: "fsync on, synchronous_commit on", later: "fsync on, synchronous_commit off (flushed within 0.6s)"},
	"redis":    {each: "appendonly, appendfsync always", later: "appendonly, appendfsync everysec"},
}

func newReport(cfg config) *report {
	r := &report{
		Machine:  fmt.Sprintf("%s/%s, %d cores, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version()),
		Versions: versions(), Failures: cfg.failures, Rate: cfg.rate, Waits: cfg.waits, Spread: recourse.Duration(cfg.spread), Seed: cfg.seed,
	}
	return r
}

// versions of what is compared, as this program was built and as the servers say.
func versions() map[string]string {
	v := map[string]string{"nats-server": server.VERSION}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			switch m.Path {
			case "github.com/riverqueue/river", "github.com/hibiken/asynq", "github.com/ThreeDotsLabs/watermill", "github.com/ThreeDotsLabs/watermill-nats/v2",
				"github.com/nats-io/nats.go", "github.com/jackc/pgx/v5", "github.com/redis/go-redis/v9":
				v[strings.TrimPrefix(m.Path, "github.com/")] = m.Version
			}
		}
	}
	for name, binary := range map[string]string{"postgres": postgresBin("postgres"), "redis-server": "redis-server"} {
		if out, err := exec.Command(binary, "--version").Output(); err == nil {
			v[name] = strings.TrimSpace(string(out))
		}
	}
	return v
}

// result returns that of an engine, which is new the first time.
func (r *report) result(c contender, when durability) *result {
	for _, res := range r.Results {
		if res.Engine == c.name && res.Flush == string(when) {
			return res
		}
	}
	res := &result{Engine: c.name, Flush: string(when), Settings: settings[c.server][when]}
	r.Results = append(r.Results, res)
	return res
}

// spans are quantiles of durations.
type spans struct {
	P50 recourse.Duration `json:"p50"`
	P99 recourse.Duration `json:"p99"`
	Max recourse.Duration `json:"max"`
}

// String is for people.
func (s spans) String() string {
	return fmt.Sprintf("p50 %s, p99 %s, at most %s", short(s.P50), short(s.P99), short(s.Max))
}

// quantiles sorts d.
func quantiles(d []time.Duration) spans {
	slices.Sort(d)
	at := func(per float64) recourse.Duration {
		return recourse.Duration(d[min(int(per*float64(len(d))), len(d)-1)])
	}
	return spans{P50: at(0.5), P99: at(0.99), Max: at(1)}
}

// short has as many digits as mean something.
func short(d recourse.Duration) string {
	if v := time.Duration(d); v < 10*time.Millisecond {
		return v.Round(10 * time.Microsecond).String()
	}
	return time.Duration(d).Round(time.Millisecond).String()
}

// middle is the middle of some numbers, with the least and the most of them.
func middle(numbers []float64, format string) string {
	sorted := slices.Sorted(slices.Values(numbers))
	switch n := len(sorted); n {
	case 0:
		return "-"
	case 1:
		return fmt.Sprintf(format, sorted[0])
	default:
		return fmt.Sprintf(format+" ("+format+" to "+format+")", sorted[n/2], sorted[0], sorted[n-1])
	}
}

// middleSpan is the same of one quantile over the rounds.
func middleSpan(all []spans, quantile func(spans) recourse.Duration) string {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b spans) int { return int(quantile(a) - quantile(b)) })
	switch n := len(sorted); n {
	case 0:
		return "-"
	case 1:
		return short(quantile(sorted[0]))
	default:
		return fmt.Sprintf("%s (%s to %s)", short(quantile(sorted[n/2])), short(quantile(sorted[0])), short(quantile(sorted[n-1])))
	}
}

// write writes the report for people: middle values, and the least and the most behind them.
func (r *report) write(w io.Writer) {
	fmt.Fprintln(w, r.Machine)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range r.Versions {
			if !yield(name) {
				return
			}
		}
	}) {
		fmt.Fprintf(w, "  %s %s\n", name, r.Versions[name])
	}
	p50, p99, most := func(s spans) recourse.Duration { return s.P50 }, func(s spans) recourse.Duration { return s.P99 }, func(s spans) recourse.Duration { return s.Max }
	for _, when := range []durability{each, later} {
		out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		some := false
		for _, res := range r.Results {
			if res.Flush != string(when) {
				continue
			}
			if !some {
				some = true
				fmt.Fprintf(w, "\n%s\n", map[durability]string{each: "flush each write before it is acknowledged", later: "flush now and then"}[when])
				fmt.Fprintf(out, "engine\tfirst failures/s\tworker CPU s/10,000\tserver CPU s/10,000\tworker peak\tlatency p50 at %d/s\tp99\t%d retries late p50\tp99\tat most\tsettings\n", r.Rate, r.Waits)
			}
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%d MiB\t%s\t%s\t%s\t%s\t%s\t%s\n", res.Engine, middle(res.PerSecond, "%.0f"), middle(res.WorkerCPU, "%.2f"), middle(res.ServerCPU, "%.2f"),
				res.WorkerRSS>>20, middleSpan(res.Latency, p50), middleSpan(res.Latency, p99), middleSpan(res.Late, p50), middleSpan(res.Late, p99), middleSpan(res.Late, most), res.Settings)
		}
		_ = out.Flush()
	}
	r.shout(w)
}

// shout says what was left out.
func (r *report) shout(w io.Writer) {
	for _, what := range r.LeftOut {
		fmt.Fprintf(w, "\n*** LEFT OUT %s\n", what)
	}
}
