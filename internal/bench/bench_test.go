package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/bench/workload"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/broker/brokertest"
)

// server returns a connection to a server with the streams.
func server(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	server := brokertest.Start(t)
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// TestLoad: failures are as large as they should be, of every type, most of executions of their own, and the same for the same seed.
func TestLoad(t *testing.T) {
	_, js := server(t)
	l, err := newLoad(t.Context(), js, 7, 20, workload.FewestSteps, workload.MostSteps)
	if err != nil {
		t.Fatal(err)
	}
	failures := l.First("run", 1000)
	executions, types, keys := map[string]int{}, map[recourse.ErrorTypes]int{}, map[string]bool{}
	for _, f := range failures {
		if err := f.Validate(); err != nil {
			t.Fatal(err)
		}
		body, err := recourse.Encode(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) < workload.BodySize-50 || len(body) > workload.BodySize+50 {
			t.Errorf("a body of %d bytes", len(body))
		}
		executions[f.Execution]++
		types[f.Errors]++
		keys[f.Prefix()+f.Key()] = true
	}
	if len(keys) != len(failures) || len(executions) < 650 || len(executions) > 850 || len(types) != 6 {
		t.Errorf("%d keys, %d executions, %d types", len(keys), len(executions), len(types))
	}
	for _, f := range l.commanded("again", 1000) {
		if err := f.Validate(); err != nil || f.Attempt != 1 || f.Errors.Has(recourse.Connectivity) || executions[f.Execution] != 0 {
			t.Fatalf("%v, %v", f, err)
		}
		executions[f.Execution]++
	}
	for i, f := range l.second(failures) {
		if f.Attempt != 2 || f.Node != failures[i].Node || f.Execution != failures[i].Execution || failures[i].Attempt != 1 {
			t.Fatalf("%v after %v", f, failures[i])
		}
	}
	again, err := newLoad(t.Context(), js, 7, 20, workload.FewestSteps, workload.MostSteps)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range again.First("run", 1000) {
		if f.Message != failures[i].Message || f.Ref != failures[i].Ref {
			t.Fatal("another load from the same seed")
		}
	}
}

// TestMixed: each failure once, a further attempt always a wave after the one before it, all of the parts, and waves that are long
// enough to be measured.
func TestMixed(t *testing.T) {
	_, js := server(t)
	l, err := newLoad(t.Context(), js, 7, 20, workload.FewestSteps, workload.MostSteps)
	if err != nil {
		t.Fatal(err)
	}
	const n = 5000
	mixed := l.mixed("run", n)
	at, all := map[string]int{}, 0
	for wave, failures := range mixed {
		if len(failures) < n/10 {
			t.Errorf("wave %d has %d", wave, len(failures))
		}
		for _, f := range failures {
			all++
			key := f.Prefix() + f.Node.Path
			if before, known := at[key]; f.Attempt > 1 && (!known || before != wave-1) || f.Attempt == 1 && known {
				t.Fatalf("attempt %d of %s in wave %d", f.Attempt, key, wave)
			}
			at[key] = wave
			if err := f.Validate(); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := partsOf(mixed)
	if all != n || len(mixed) != waves || p.Executions < 0.3 || p.Nodes < 0.2 || p.Attempts < 0.2 || p.Executions+p.Nodes+p.Attempts < 0.999 {
		t.Errorf("%d failures in %d waves, %+v", all, len(mixed), p)
	}
}

func TestSumOf(t *testing.T) {
	const served = `# HELP recourse_conflicts_total Appends that were decided again.
# TYPE recourse_conflicts_total counter
recourse_conflicts_total{recourse_outcome="conflict"} 12
recourse_conflicts_total{recourse_outcome="unknown"} 1e+03
recourse_conflicts_total_of_others{recourse_outcome="unknown"} 5
`
	if sum, err := sumOf(strings.NewReader(served), conflictsMetric); sum != 1012 || err != nil {
		t.Errorf("got %d, %v", sum, err)
	}
	for _, served := range []string{"", "recourse_conflicts_total{} many\n"} {
		if sum, err := sumOf(strings.NewReader(served), conflictsMetric); err == nil {
			t.Errorf("%q: got %d", served, sum)
		}
	}
}

func TestNumbers(t *testing.T) {
	if least, middle, most := spread([]float64{3, 1, 2}); least != 1 || middle != 2 || most != 3 {
		t.Errorf("got %v, %v, %v", least, middle, most)
	}
	var d []time.Duration
	for i := range 1000 {
		d = append(d, time.Duration(1000-i))
	}
	if q := quantiles(d); q != (Quantiles{P50: 501, P99: 991, P999: 1000, Max: 1000}) {
		t.Errorf("got %+v", q)
	}
}
