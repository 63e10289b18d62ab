package recourse

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// TestDecodeRecordHead compares the head that is read from the two ends of a record with that of the whole.
func TestDecodeRecordHead(t *testing.T) {
	texts := []string{"a", "prod/canary[2]/rollout", "Größe", `,"at":"`, `,"state":{`, `,"stateBase":7`, `\`, `{"a":1}`}
	f := filler{rand.New(rand.NewPCG(1, 2)), texts}
	with, without := 0, 0
	for i := range 3000 {
		r := new(Record)
		f.fill(reflect.ValueOf(r).Elem())
		r.Schema, r.Version, r.Reason, r.Delay = Schema, r.Version|1, StrategyMatched, 0
		r.Input.Failure, r.Input.Control = nil, nil // their durations are out of bounds
		if i%2 == 0 {
			r.StateBase = 0
		} else {
			r.State = nil
		}
		body, err := Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		want, wantErr := wholeHead(body)
		if wantErr != nil {
			continue // a value in it is out of bounds, which a worker does not write
		}
		got, err := DecodeRecordHead(body)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s\ngot  %+v, %v\nwant %+v", body, got, err, want)
		}
		if got.State != nil {
			with++
		} else {
			without++
		}
	}
	if with < 500 || without < 500 {
		t.Errorf("only %d heads with a state and %d without", with, without)
	}
}

func TestDecodeRecordHeadRefuses(t *testing.T) {
	for body, want := range map[string]DecodeReason{
		``:          ReasonBadJSON,
		`{}`:        ReasonInvalid,
		`{"at":"x"`: ReasonBadValue,
		`{"schema":9,"version":1,"at":"2026-01-02T03:04:05Z","state":{}}`:                       ReasonFutureSchema,
		`{"schema":1,"version":1,"previous":0,"at":"2026-01-02T03:04:05Z","state":{"nodes":7}}`: ReasonBadValue,
		`{"schema":1,"version":0,"previous":0,"at":"2026-01-02T03:04:05Z","state":{}}`:          ReasonInvalid,
	} {
		_, err := DecodeRecordHead([]byte(body))
		var refused *DecodeError
		if !errors.As(err, &refused) || refused.Reason != want {
			t.Errorf("%s: %v, want %s", body, err, want)
		}
	}
}

// benchRecord is a record as a worker writes it after a first failure with a message of 700 bytes.
func benchRecord(tb testing.TB) []byte {
	tb.Helper()
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	node := Node{Path: "stage1/step12", Section: Steps}
	r := &Record{
		Schema: Schema, Ref: Ref{Account: "acme", Org: "default", Project: "shop", Pipeline: "deploy", Execution: "ex-1234"}, Version: 1, At: at,
		Input: Input{Key: "failure/stage1/step12/1", Sequence: 77, Digest: "0123456789abcdef", Principal: "delegate",
			Failure: &FailureInput{Errors: ErrorTypesOf(Timeout), Message: string(bytes.Repeat([]byte("waiting for pods "), 41)), At: at}},
		Decision: Decision{Node: node, Attempt: 1, Action: Retry, Reason: StrategyMatched, Level: LevelStage, Strategy: "pipeline.stages[1].stage.failureStrategies[0]",
			Command: Command{Verb: VerbRetry, Scope: node.Path, Attempt: 2}, Effect: Effect{Node: "INTERVENTION_WAITING"}},
		State: &State{Pipeline: PipelineRevision{Revision: 3, Digest: "0123456789abcdef"}, Nodes: []NodeState{{Node: node, Attempt: 1,
			Seen: []SeenAttempt{{Attempt: 1, Version: 1, Digest: "0123456789abcdef"}}}}},
	}
	for range 5 {
		r.Trail = append(r.Trail, TrailEntry{Level: LevelStage, Path: r.Strategy, Errors: ErrorTypesOf(Timeout), Action: Retry, Applies: true, Why: "Timeout is among its errors (R2)"})
	}
	body, err := Encode(r)
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

func BenchmarkDecodeRecordHead(b *testing.B) {
	body := benchRecord(b)
	for name, decode := range map[string]func() error{
		"head":  func() error { _, err := DecodeRecordHead(body); return err },
		"whole": func() error { _, err := wholeHead(body); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := decode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
