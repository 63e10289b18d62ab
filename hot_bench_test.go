package recourse

import (
	"testing"
	"time"
)

var benchRef = Ref{Account: "acme", Org: "default", Project: "shop", Pipeline: "deploy web", Execution: "ex-0123456789"}

// BenchmarkSubject is what a message and its record need of subjects, of ids of which one has a blank.
func BenchmarkSubject(b *testing.B) {
	subject := benchRef.Subject(FamilyFailure, "delegate")
	prefix := benchRef.Prefix()
	for name, do := range map[string]func(){
		"parse":        func() { _, _ = ParseSubject(subject) },
		"prefix":       func() { benchRef.Prefix() },
		"under":        func() { SubjectUnder(prefix, FamilyDecision, KindRetryScheduled) },
		"pipeline key": func() { benchRef.PipelineKey() },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}

// BenchmarkIdentify is the key and the digest of a failure of about 900 bytes.
func BenchmarkIdentify(b *testing.B) {
	rec, err := DecodeRecord(benchRecord(b))
	if err != nil {
		b.Fatal(err)
	}
	in := rec.Input.Failure
	f := &Failure{Schema: Schema, Ref: benchRef, Node: rec.Node, Attempt: 1, Errors: in.Errors, Message: in.Message, At: in.At}
	for name, do := range map[string]func(){"key": func() { f.Key() }, "digest": func() { f.Digest() }} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}

// BenchmarkAppendRecord encodes a record of a worker into bytes that are there.
func BenchmarkAppendRecord(b *testing.B) {
	body := benchRecord(b)
	rec, err := DecodeRecord(body)
	if err != nil {
		b.Fatal(err)
	}
	into := make([]byte, 0, 2*len(body))
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := AppendRecord(into, rec); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRecordHeader is the headers that a record is published with, beside those of the concurrency.
func BenchmarkRecordHeader(b *testing.B) {
	rec, err := DecodeRecord(benchRecord(b))
	if err != nil {
		b.Fatal(err)
	}
	rec.Wait = Wait{Version: 1, DueAt: time.Unix(1, 0)}
	prefix := benchRef.Prefix()
	header := make(map[string][]string, 16)
	for name, do := range map[string]func(){
		"event":   func() { SetEventHeader(header, rec.Event(prefix)) },
		"summary": func() { _ = rec.FailureSummary() },
		"subject": func() { rec.SubjectUnder(prefix) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				clear(header)
				do()
			}
		})
	}
}
