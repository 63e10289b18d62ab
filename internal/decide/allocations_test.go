package decide_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
)

// benchPlan has 200 steps in ten groups of one stage.
func benchPlan() *decide.Plan {
	nodes := []decide.PlanNode{{Node: recourse.Node{Path: "prod"}, Level: recourse.LevelStage, Strategies: []decide.Strategy{
		{Path: "pipeline.stages[0].stage.failureStrategies[0]", Errors: recourse.ErrorTypesOf(recourse.AllErrors), Do: decide.ActionSpec{Action: recourse.StageRollback}},
	}}}
	for g := range 10 {
		group := recourse.Node{Path: "prod/g" + string(rune('0'+g))}
		nodes = append(nodes, decide.PlanNode{Node: group, Level: recourse.LevelStepGroup})
		for s := range 20 {
			nodes = append(nodes, decide.PlanNode{
				Node: recourse.Node{Path: group.Path + "/s" + string(rune('a'+s))}, Level: recourse.LevelStep,
				Strategies: []decide.Strategy{
					{Path: "x", Errors: recourse.ErrorTypesOf(recourse.Verification), Do: decide.ActionSpec{Action: recourse.Abort}},
					{Path: "y", Index: 1, Errors: recourse.ErrorTypesOf(recourse.Timeout), Do: decide.ActionSpec{
						Action: recourse.Retry, Retry: &retry.Policy{Count: 3, Intervals: []time.Duration{time.Second}}}},
					{Path: "z", Index: 2, Errors: recourse.ErrorTypesOf(recourse.Connectivity), Condition: fixedCondition{}, Do: decide.ActionSpec{Action: recourse.Ignore}},
				},
			})
		}
	}
	return decide.NewPlan("p", recourse.Documented, nodes)
}

type fixedCondition struct{}

func (fixedCondition) Holds(*decide.FailureView) (bool, string) { return true, "it holds" }

func benchInput(e recourse.ErrorType, attempt int) (decide.Pipeline, *decide.Input) {
	p := decide.Pipeline{Plan: benchPlan(), Revision: recourse.PipelineRevision{Revision: 1, Digest: "0123456789abcdef"}}
	in := &decide.Input{Ref: testRef, Node: recourse.Node{Path: "prod/g5/sk"}, Attempt: attempt}
	in.Failure = &recourse.FailureInput{Errors: recourse.ErrorTypesOf(e), Message: "connection refused"}
	in.Key = fmt.Sprintf("failure/prod/g5/sk/%d", attempt)
	in.Digest = "0123456789abcdef"
	return p, in
}

// benchCases are the decisions of the benchmark and of the allocation gate.
func benchCases(t testing.TB) map[string]func() {
	now := epoch
	run := func(p decide.Pipeline, head *decide.Head, in *decide.Input) func() {
		rec := &recourse.Record{}
		return func() {
			if r, _ := decide.Decide(rec, p, head, in, now); r != decide.Decided {
				t.Fatalf("result %d", r)
			}
		}
	}
	first := func(p decide.Pipeline, in *decide.Input) *decide.Head {
		head, rec := &decide.Head{}, &recourse.Record{}
		decide.Decide(rec, p, head, in, now)
		if _, err := decide.Seal(rec, head); err != nil {
			t.Fatal(err)
		}
		head.Appended(rec, 1)
		return head
	}
	p, timeout := benchInput(recourse.Timeout, 1)
	_, again := benchInput(recourse.Timeout, 2)
	_, authentication := benchInput(recourse.Authentication, 1)
	_, connectivity := benchInput(recourse.Connectivity, 1)
	return map[string]func(){
		"first failure": run(p, &decide.Head{}, timeout),
		"retry":         run(p, first(p, timeout), again),
		"superseded":    run(p, first(p, authentication), again),
		"condition":     run(p, &decide.Head{}, connectivity),
	}
}

// TestAllocations is the gate: how often what stands between a message and its record takes memory of its own, at most. A decision on a plan of 200 steps takes none, but for what a condition looks at and for the words of a detail;
// all of a failure together at most [mostForAFailure].
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIP: the race detector adds allocations of its own; make allocs runs this gate")
	}
	check := func(name string, most float64, do func()) (got float64) {
		if got = testing.AllocsPerRun(200, do); got > most {
			t.Errorf("%s: %v allocations, at most %v", name, got, most)
		}
		return got
	}
	most := map[string]float64{"first failure": 0, "retry": 0, "superseded": 1, "condition": 1}
	for name, decideOnce := range benchCases(t) {
		check("decide a "+name, most[name], decideOnce)
	}
	sum := 0.0
	for _, piece := range piecesOfAFailure(t) {
		sum += check(piece.name, piece.allocations, piece.do)
	}
	if sum > mostForAFailure {
		t.Errorf("a failure takes %v allocations, at most %d", sum, mostForAFailure)
	}
}

// mostForAFailure is how many allocations decoding, deciding and encoding may take together.
const mostForAFailure = 20

// piece is one of those that a failure passes one after another.
type piece struct {
	name        string
	allocations float64
	do          func()
}

// piecesOfAFailure are those between the message of a first failure of about 900 bytes and the bytes of its record, as the consumer calls
// them. Each begins with what the one before it left, which it may not change.
func piecesOfAFailure(t testing.TB) []piece {
	p, in := benchInput(recourse.Timeout, 1)
	reported := &recourse.Failure{
		Schema: recourse.Schema, Ref: in.Ref, Node: in.Node, Attempt: 1, Errors: recourse.ErrorTypesOf(recourse.Timeout), At: epoch,
		Message: strings.Repeat("rollout of deployment web did not finish in time ", 14),
	}
	data, err := recourse.Encode(reported)
	if err != nil {
		t.Fatal(err)
	}
	message := in.Subject(recourse.FamilyFailure, "delegate")
	subject, err := recourse.ParseSubject(message)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var f *recourse.Failure
	head, rec, body := new(decide.Head), new(recourse.Record), make([]byte, 0, 8<<10)
	return []piece{
		{"take the subject apart", 0, func() { _, err := recourse.ParseSubject(message); must(err) }},
		{"open the input", 0, func() { _, _, err := recourse.OpenInput(subject, nil, data); must(err) }},
		{"decode the failure", 4, func() { var err error; f, err = recourse.DecodeFailure(data); must(err) }},
		{"redact it", 0, func() { f.Clean() }},
		{"make an input of it", 4, func() {
			in = &decide.Input{Ref: f.Ref, Node: f.Node, Attempt: f.Attempt, Input: recourse.Input{
				Key: f.Key(), Digest: f.Digest(), Failure: &recourse.FailureInput{Errors: f.Errors, Message: f.Message, At: f.At},
			}}
		}},
		{"compare its ids with the subject", 1, func() {
			if in.Prefix() != subject.Prefix {
				t.Fatal("another execution")
			}
		}},
		{"decide", 0, func() {
			if r, _ := decide.Decide(rec, p, head, in, epoch); r != decide.Decided {
				t.Fatalf("result %d", r)
			}
		}},
		{"fold and encode the record", 4, func() {
			_, err := decide.SealTo(body, rec, new(decide.Head))
			must(err)
		}},
	}
}

// BenchmarkFailure is what a failure passes between its message and its record: piece by piece, and all of it.
func BenchmarkFailure(b *testing.B) {
	pieces := piecesOfAFailure(b)
	for _, piece := range pieces {
		piece.do() // each needs what the one before it left
	}
	for _, piece := range pieces {
		b.Run(piece.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				piece.do()
			}
		})
	}
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, piece := range pieces {
				piece.do()
			}
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	for name, decideOnce := range benchCases(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				decideOnce()
			}
		})
	}
}

// BenchmarkFold folds the record of a first failure, and that of the 64th node that failed, into the state before it.
func BenchmarkFold(b *testing.B) {
	for _, nodes := range []int{1, 64} {
		b.Run(strconv.Itoa(nodes)+" nodes", func(b *testing.B) {
			rec := &recourse.Record{Pipeline: recourse.PipelineRevision{Revision: 1}, Input: recourse.Input{Failure: &recourse.FailureInput{}}}
			rec.Attempt = 1
			var before recourse.State
			for i := range nodes - 1 {
				rec.Version, rec.Node.Path = uint64(i+1), fmt.Sprintf("prod/s%03d", i)
				decide.Fold(&before, rec)
			}
			rec.Version, rec.Node.Path = uint64(nodes), "prod/s"
			b.ReportAllocs()
			for b.Loop() {
				state := before
				state.Nodes = slices.Clone(before.Nodes)
				decide.Fold(&state, rec)
			}
		})
	}
}

func BenchmarkSeal(b *testing.B) {
	p, in := benchInput(recourse.Timeout, 1)
	rec := &recourse.Record{}
	b.ReportAllocs()
	for b.Loop() {
		head := &decide.Head{}
		decide.Decide(rec, p, head, in, epoch)
		if _, err := decide.Seal(rec, head); err != nil {
			b.Fatal(err)
		}
	}
}
