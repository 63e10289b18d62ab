package integration

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/integration/invariant"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/consumer"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// overdue is how long a wait may be due without having ended: sweeps and redeliveries included.
const overdue = 10 * time.Second

// checkJournal reads inbox, journal and rejected inputs, of the given accounts or of all, and fails the test unless every invariant
// holds. What is undecided has some time to come to rest first.
func checkJournal(t testing.TB, js jetstream.JetStream, accounts ...string) invariant.History {
	t.Helper()
	var h invariant.History
	var violations []invariant.Violation
	var err error
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if len(accounts) == 0 { // it is cheaper to wait than to read everything over and over
		within(patience, func() bool { return unsettled(t, js) == 0 })
	}
	within(patience, func() bool {
		if h, err = readHistory(ctx, js, accounts); err != nil {
			return false
		}
		violations = invariant.Check(h)
		return len(violations) == 0
	})
	if err != nil {
		t.Fatalf("read the streams: %v", err)
	}
	if len(violations) > 0 {
		t.Errorf("%d inputs, %d records, %d rejected; violated:%s", len(h.Inbox), len(h.Journal), len(h.Rejected), invariant.Join(violations, 10))
	}
	return h
}

// checkSettled fails the test unless nothing is left unacknowledged (I9).
func checkSettled(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	eventually(t, "all inputs settled", func() bool { return unsettled(t, js) == 0 })
}

// unsettled returns how many messages the workers have not seen or not settled, and -1 where the server does not say.
func unsettled(t testing.TB, js jetstream.JetStream) int {
	total := 0
	for stream, durable := range map[string]string{recourse.StreamInbox: broker.ConsumerInbox, recourse.StreamTimers: broker.ConsumerDue} {
		info, err := js.Consumer(t.Context(), stream, durable)
		if err != nil {
			return -1
		}
		total += info.CachedInfo().NumAckPending + int(info.CachedInfo().NumPending)
	}
	return total
}

func readHistory(ctx context.Context, js jetstream.JetStream, accounts []string) (invariant.History, error) {
	h := invariant.History{Grace: overdue, Skew: 5 * time.Millisecond}
	var err error
	// The journal comes first and the inbox last: a record whose input is not seen would be a violation, an input without a record
	// is one only for a while.
	for _, part := range []struct {
		stream string
		into   *[]invariant.Message
	}{{recourse.StreamJournal, &h.Journal}, {recourse.StreamRejected, &h.Rejected}, {recourse.StreamInbox, &h.Inbox}} {
		if *part.into, err = readStream(ctx, js, part.stream, accounts); err != nil {
			return h, err
		}
	}
	h.Now = time.Now()
	kv, err := js.KeyValue(ctx, recourse.BucketPipelines)
	if err != nil {
		return h, err
	}
	h.Plan = func(ref recourse.Ref, revision uint64, semantics recourse.Semantics) *decide.Plan {
		return planOf(ctx, js, kv, ref.PipelineKey(), revision, semantics)
	}
	return h, nil
}

// readStream reads a stream from its first message to its last. It pulls as the workers do: the client library's own iterators leave out,
// or stumble over, stored messages that look like words from the server.
func readStream(ctx context.Context, js jetstream.JetStream, name string, accounts []string) ([]invariant.Message, error) {
	cfg := jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: time.Minute}
	for _, account := range accounts {
		cfg.FilterSubjects = append(cfg.FilterSubjects, "recourse."+recourse.Token(account)+".>")
	}
	reader, err := js.CreateConsumer(ctx, name, cfg)
	if err != nil {
		return nil, err
	}
	info := reader.CachedInfo()
	defer func() { _ = js.DeleteConsumer(context.WithoutCancel(ctx), name, info.Name) }()
	if info.NumPending == 0 {
		return nil, nil
	}
	messages, err := consumer.Durable(js.Conn(), reader).Pull(256)
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	var read []invariant.Message
	for {
		msg, err := messages.Next()
		if err != nil {
			return nil, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		read = append(read, invariant.Message{
			Sequence: meta.Sequence.Stream, Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data(), Stored: meta.Timestamp,
		})
		if meta.NumPending == 0 {
			return read, nil
		}
	}
}

// plans keeps what was compiled. The key starts with the server, since a revision is one of its bucket.
var plans sync.Map

func planOf(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, key string, revision uint64, semantics recourse.Semantics) *decide.Plan {
	type id struct {
		server, key string
		revision    uint64
		semantics   recourse.Semantics
	}
	at := id{js.Conn().ConnectedServerId(), key, revision, semantics}
	if plan, ok := plans.Load(at); ok {
		return plan.(*decide.Plan)
	}
	entry, err := kv.GetRevision(ctx, key, revision)
	if err != nil {
		return nil
	}
	plan, _ := pipeline.Load(key, entry.Value(), pipeline.Options{Semantics: semantics})
	plans.Store(at, plan)
	return plan
}

// records returns the records of an execution, in order.
func records(t testing.TB, h invariant.History, ref recourse.Ref) []*recourse.Record {
	t.Helper()
	var found []*recourse.Record
	for _, msg := range h.Journal {
		if strings.HasPrefix(msg.Subject, ref.Prefix()+".") {
			found = append(found, must(recourse.DecodeRecord(msg.Data))(t))
		}
	}
	return found
}

// count returns how many records something holds for.
func count(records []*recourse.Record, holds func(*recourse.Record) bool) (n int) {
	for _, rec := range records {
		if holds(rec) {
			n++
		}
	}
	return n
}

// TestCheckerReads sees the reader notice what is wrong in real streams: a record without an input.
func TestCheckerReads(t *testing.T) {
	t.Parallel()
	e := embedded(t)
	rec := &recourse.Record{Schema: recourse.Schema, Ref: e.ref("x", "p", "1"), Version: 1, At: time.Now().UTC(), Input: recourse.Input{Key: "lifecycle/finished", Sequence: 7, Lifecycle: recourse.Finished}}
	rec.Kind, rec.Reason, rec.State = recourse.KindClosed, recourse.LifecycleReported, &recourse.State{}
	body := must(recourse.Encode(rec))(t)
	if _, err := e.js.Publish(t.Context(), rec.Subject(), body); err != nil {
		t.Fatal(err)
	}
	h, err := readHistory(t.Context(), e.js, nil)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, v := range invariant.Check(h) {
		found[v.Invariant] = true
	}
	for _, want := range []string{"I1", "I2", "I5"} {
		if !found[want] {
			t.Errorf("%s is violated and was not noticed; noticed are %v", want, found)
		}
	}
	if errors.Is(t.Context().Err(), context.Canceled) {
		t.Fatal("the context ended")
	}
}

type history = invariant.History
