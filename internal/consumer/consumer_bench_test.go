package consumer_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zapcore"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/consumer"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/telemetry"
)

// BenchmarkConsumer is all that a worker does for a first failure of about 900 bytes but for the broker, which answers at once: from the
// message to the acknowledgement, over all lanes, with the telemetry of a worker that exports nothing.
func BenchmarkConsumer(b *testing.B) {
	for _, metrics := range []bool{false, true} {
		b.Run(fmt.Sprintf("metrics=%t", metrics), func(b *testing.B) {
			log, err := telemetry.NewLog(io.Discard, zapcore.InfoLevel, "json")
			if err != nil {
				b.Fatal(err)
			}
			tell, err := telemetry.Start(b.Context(), telemetry.Config{Log: log, Prometheus: metrics})
			if err != nil {
				b.Fatal(err)
			}
			defer tell.Shutdown(context.Background())
			feed := newFeed(b)
			var journal instant
			c := consumer.New(&journal, &journal, &journal, tell, consumer.Config{})
			b.ReportAllocs()
			b.ResetTimer()
			if err := c.Run(b.Context(), b.Context(), feed); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if journal.appended.Load() != uint64(b.N) || feed.settled.Load() != uint64(b.N) {
				b.Fatalf("%d appended and %d settled of %d", journal.appended.Load(), feed.settled.Load(), b.N)
			}
		})
	}
}

// instant is a broker that has everything and answers at once.
type instant struct{ appended atomic.Uint64 }

func (i *instant) Head(context.Context, string, bool) (*decide.Head, error) {
	return new(decide.Head), nil
}
func (i *instant) Keep(string, *decide.Head) {}
func (i *instant) Load(context.Context, string) (*decide.Head, error) {
	return new(decide.Head), nil
}
func (i *instant) Append(context.Context, string, *recourse.Record, []byte, nats.Header) (uint64, error) {
	return i.appended.Add(1), nil
}
func (i *instant) Reject(context.Context, jetstream.Msg, uint64, recourse.DecodeReason, error) error {
	return errInjected
}
func (i *instant) Arm(context.Context, string, uint64, time.Time, nats.Header) error { return nil }
func (i *instant) Cancel(context.Context, string, uint64) error                      { return nil }
func (i *instant) Over(string, uint64)                                               {}
func (i *instant) Pipeline(context.Context, recourse.Ref, uint64) (decide.Pipeline, error) {
	return decide.Pipeline{Plan: plans[1], Revision: recourse.PipelineRevision{Revision: 1, Digest: "d1"}}, nil
}

// feed delivers b.N messages, which are made before.
type feed struct {
	left     int
	messages []*fed
	settled  atomic.Uint64
}

func newFeed(b *testing.B) *feed {
	f := feedOf(b, 4096) // executions, enough for all lanes
	f.left = b.N
	return f
}

// feedOf delivers a first failure of each of n executions.
func feedOf(tb testing.TB, n int) *feed {
	f := &feed{left: n}
	for i := range n {
		failure := &recourse.Failure{
			Ref:  recourse.Ref{Account: "acme", Org: "default", Project: "shop", Pipeline: "deploy", Execution: fmt.Sprintf("ex-%d", i)},
			Node: recourse.Node{Path: "s/a"}, Attempt: 1, Errors: recourse.ErrorTypesOf(recourse.Timeout), At: time.Unix(1, 0).UTC(),
			Message: strings.Repeat("rollout of deployment web did not finish in time ", 14),
		}
		body, err := recourse.Encode(failure)
		if err != nil {
			tb.Fatal(err)
		}
		f.messages = append(f.messages, &fed{feed: f, subject: failure.Subject(recourse.FamilyFailure, "delegate"), body: body, delivered: 1})
	}
	return f
}

// Pull implements consumer.Source.
func (f *feed) Pull(int) (consumer.Messages, error) { return f, nil }

// Next implements consumer.Messages.
func (f *feed) Next() (jetstream.Msg, error) {
	if f.left == 0 {
		return nil, jetstream.ErrMsgIteratorClosed
	}
	f.left--
	return f.messages[f.left%len(f.messages)], nil
}

// Stop implements consumer.Messages.
func (f *feed) Stop() {}

// fed is a message of a feed. What is not here is not asked for.
type fed struct {
	jetstream.Msg
	feed      *feed
	subject   string
	body      []byte
	delivered uint64 // times
}

func (m *fed) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: 1, Consumer: 1}, NumDelivered: m.delivered, Timestamp: time.Now(), Stream: recourse.StreamInbox}, nil
}
func (m *fed) Data() []byte         { return m.body }
func (m *fed) Headers() nats.Header { return nil }
func (m *fed) Subject() string      { return m.subject }
func (m *fed) Ack() error           { m.feed.settled.Add(1); return nil }
func (m *fed) InProgress() error    { return nil }
