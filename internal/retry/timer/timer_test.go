package timer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/broker/brokertest"
)

func TestMain(m *testing.M) {
	// The embedded server looks at the machine once in a while for as long as the process lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/pse.periodic"))
}

// patience is how long a test waits for what must happen; it is not what it takes.
const patience = time.Minute

var ref = recourse.Ref{Account: "acme", Org: "default", Project: "shop", Pipeline: "deploy", Execution: "ex42"}

// bench is a server with the streams, and what comes due on it.
type bench struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	timers *Timers
	due    chan fired
}

type fired struct {
	subject string
	header  nats.Header
	at      time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	server := brokertest.Start(t)
	var err error
	b := &bench{due: make(chan fired, 100)}
	if b.nc, err = nats.Connect(server.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.nc.Close)
	if b.js, err = jetstream.New(b.nc); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), b.js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	if b.timers, err = New(b.nc); err != nil {
		t.Fatal(err)
	}
	c, err := b.js.Consumer(t.Context(), recourse.StreamTimers, broker.ConsumerDue)
	if err != nil {
		t.Fatal(err)
	}
	consuming, err := c.Consume(func(msg jetstream.Msg) {
		b.due <- fired{msg.Subject(), msg.Headers(), time.Now()}
		_ = msg.Ack()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(consuming.Stop)
	return b
}

// next returns what comes due next.
func (b *bench) next(t *testing.T) fired {
	t.Helper()
	select {
	case f := <-b.due:
		return f
	case <-time.After(patience):
		t.Fatal("nothing came due")
		return fired{}
	}
}

// marker arms a wait that comes due at once and waits for it: what should have come before it has come.
func (b *bench) marker(t *testing.T) {
	t.Helper()
	other := ref
	other.Execution = "marker"
	if err := b.timers.Arm(t.Context(), other.Prefix(), 1, time.Now(), nats.Header{}); err != nil {
		t.Fatal(err)
	}
	if f := b.next(t); f.subject != other.Subject(recourse.FamilyDue, "1") {
		t.Errorf("%s came due", f.subject)
	}
}

func TestArmFiresNotBeforeDue(t *testing.T) {
	b := newBench(t)
	due := map[string]time.Time{}
	for version := range uint64(6) {
		// A fraction of a second is kept: cut to whole seconds it would fire early.
		at := time.Now().Add(time.Duration(version)*170*time.Millisecond + 7*time.Microsecond)
		due[ref.Subject(recourse.FamilyDue, recourse.VersionDetail(version+1))] = at
		if err := b.timers.Arm(t.Context(), ref.Prefix(), version+1, at, nats.Header{"traceparent": {"00-x"}}); err != nil {
			t.Fatal(err)
		}
	}
	for range due {
		f := b.next(t)
		at, ok := due[f.subject]
		if !ok {
			t.Fatalf("%s came due, and was not armed", f.subject)
		}
		if f.at.Before(at) {
			t.Errorf("%s fired %s early", f.subject, at.Sub(f.at))
		}
		if f.header.Get("traceparent") != "00-x" || f.header.Get(recourse.HeaderCancelled) != "" {
			t.Errorf("%s: header %v", f.subject, f.header)
		}
	}
}

func TestArmAgain(t *testing.T) {
	b := newBench(t)
	prefix := ref.Prefix()
	for _, at := range []time.Duration{time.Hour, 2 * time.Hour, 200 * time.Millisecond} {
		if err := b.timers.Arm(t.Context(), prefix, 3, time.Now().Add(at), nats.Header{}); err != nil {
			t.Fatal(err)
		}
	}
	if f := b.next(t); f.subject != ref.Subject(recourse.FamilyDue, "3") {
		t.Errorf("%s came due", f.subject)
	}
	b.marker(t)
	if err := b.timers.Arm(t.Context(), prefix, 4, time.Now().Add(-time.Hour), nats.Header{}); err != nil {
		t.Fatal(err)
	}
	if f := b.next(t); f.subject != ref.Subject(recourse.FamilyDue, "4") {
		t.Errorf("%s came due", f.subject)
	}
}

func TestCancel(t *testing.T) {
	b := newBench(t)
	prefix := ref.Prefix()
	if err := b.timers.Arm(t.Context(), prefix, 1, time.Now().Add(300*time.Millisecond), nats.Header{}); err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint64{1, 1, 99} { // twice, and one that never was
		if err := b.timers.Cancel(t.Context(), prefix, version); err != nil {
			t.Fatal(err)
		}
		if f := b.next(t); f.header.Get(recourse.HeaderCancelled) == "" || f.subject != ref.Subject(recourse.FamilyDue, recourse.VersionDetail(version)) {
			t.Errorf("the cancellation came as %s %v", f.subject, f.header)
		}
	}
	timers, err := b.js.Stream(t.Context(), recourse.StreamTimers)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := timers.GetLastMsgForSubject(t.Context(), ref.Subject(recourse.FamilyTimer, "1")); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("the schedule is still there: %v", err)
	}
	// Another that is due later fires; the cancelled one does not come before it.
	if err := b.timers.Arm(t.Context(), prefix, 2, time.Now().Add(600*time.Millisecond), nats.Header{}); err != nil {
		t.Fatal(err)
	}
	if f := b.next(t); f.subject != ref.Subject(recourse.FamilyDue, "2") {
		t.Errorf("%s came due", f.subject)
	}
}

func TestArmErrors(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.timers.Arm(ctx, ref.Prefix(), 1, time.Now().Add(time.Hour), nats.Header{}); !errors.Is(err, context.Canceled) {
		t.Errorf("the context ended first: %v", err)
	}
	if err := b.js.DeleteStream(t.Context(), recourse.StreamTimers); err != nil {
		t.Fatal(err)
	}
	if err := b.timers.Arm(t.Context(), ref.Prefix(), 1, time.Now().Add(time.Hour), nats.Header{}); err == nil {
		t.Error("armed without a stream")
	}
	if err := b.timers.Cancel(t.Context(), ref.Prefix(), 1); err == nil {
		t.Error("cancelled without a stream")
	}
	b.nc.Close()
	if err := b.timers.Arm(t.Context(), ref.Prefix(), 1, time.Now().Add(time.Hour), nats.Header{}); err == nil {
		t.Error("armed without a connection")
	}
}

// ledger is a journal as the sweeper sees it.
type ledger struct {
	mu    sync.Mutex
	waits map[uint64]time.Time
	fail  error
	asked int
}

func (l *ledger) pending(_ context.Context, _ string, version uint64) (time.Time, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	at, ok := l.waits[version]
	return at, ok, l.fail
}

func (l *ledger) set(version uint64, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits[version] = at
}

func (l *ledger) end(version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waits, version)
}

// record stores a record as far as the sweeper reads it.
func (b *bench) record(t *testing.T, family recourse.Family, detail string, version uint64, dueAt time.Time, ends uint64) {
	t.Helper()
	header := nats.Header{recourse.HeaderVersion: {fmt.Sprint(version)}}
	if !dueAt.IsZero() {
		header.Set(recourse.HeaderDueAt, dueAt.UTC().Format(time.RFC3339Nano))
	}
	if ends != 0 {
		header.Set(recourse.HeaderEnds, fmt.Sprint(ends))
	}
	if _, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: ref.Subject(family, detail), Header: header, Data: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
}

func (s *Sweeper) knows() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waits)
}

func TestSweeper(t *testing.T) {
	b := newBench(t)
	start := time.Now()
	var mu sync.Mutex
	now := start
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	advance := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }

	l := &ledger{waits: map[uint64]time.Time{}}
	s, err := NewSweeper(b.nc, b.timers, l.pending, SweeperConfig{Every: time.Hour, Grace: time.Minute, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	// Waits of other workers, one of which is over, are found in the journal.
	past := start.Add(-time.Second)
	for version, at := range map[uint64][2]string{
		1: {string(recourse.FamilyDecision), recourse.KindRetryScheduled}, 2: {string(recourse.FamilyDecision), recourse.KindGroupRetryScheduled},
		3: {string(recourse.FamilyCommand), "pause"}, 4: {string(recourse.FamilyDecision), recourse.KindRetryPostponed},
	} {
		l.set(version, past)
		b.record(t, recourse.Family(at[0]), at[1], version, past, 0)
	}
	b.record(t, recourse.FamilyCommand, "retry", 5, time.Time{}, 1)
	l.end(1)
	all := make(chan struct{})
	s.Observe(nil, func() { close(all) })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-all:
	case <-time.After(patience):
		t.Fatal("the journal was not read")
	}
	knows := func(n int) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for s.knows() != n {
			if time.Now().After(deadline) {
				t.Fatalf("the sweeper knows of %d waits, want %d", s.knows(), n)
			}
			<-time.After(time.Millisecond)
		}
	}
	knows(3)
	l.end(3) // answered at another worker: the sweeper learns of it when it asks

	if armed := s.Sweep(ctx); armed != 0 || l.asked != 0 {
		t.Errorf("within the grace: armed %d, asked %d", armed, l.asked)
	}
	advance(2 * time.Minute)
	l.fail = errors.New("no answer")
	if armed := s.Sweep(ctx); armed != 0 || s.knows() != 3 {
		t.Errorf("the journal does not answer: armed %d, knows %d", armed, s.knows())
	}
	l.fail = nil
	advance(2 * time.Minute)
	if armed := s.Sweep(ctx); armed != 2 {
		t.Errorf("armed %d, want 2", armed)
	}
	for range 2 {
		if f := b.next(t); f.subject != ref.Subject(recourse.FamilyDue, "2") && f.subject != ref.Subject(recourse.FamilyDue, "4") {
			t.Errorf("%s came due", f.subject)
		}
	}
	knows(2)
	if armed := s.Sweep(ctx); armed != 0 {
		t.Errorf("armed %d again at once", armed)
	}
	advance(2 * time.Minute)
	if armed := s.Sweep(ctx); armed != 2 {
		t.Errorf("still pending after another grace: armed %d, want 2", armed)
	}
	l.end(2)
	l.end(4)
	advance(2 * time.Minute)
	if armed := s.Sweep(ctx); armed != 0 {
		t.Errorf("over: armed %d", armed)
	}
	knows(0)
}

// TestSweeperWatches: waits that were armed here, until they are over.
func TestSweeperWatches(t *testing.T) {
	b := newBench(t)
	l := &ledger{waits: map[uint64]time.Time{}}
	s, err := NewSweeper(b.nc, b.timers, l.pending, SweeperConfig{Grace: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	prefix := ref.Prefix()
	for version := range uint64(3) {
		at := time.Now().Add(time.Hour)
		if version == 2 {
			at = time.Now().Add(-time.Second)
		}
		l.set(version+1, at)
		if err := b.timers.Arm(t.Context(), prefix, version+1, at, nats.Header{}); err != nil {
			t.Fatal(err)
		}
	}
	if s.knows() != 3 {
		t.Errorf("it knows of %d waits, want 3", s.knows())
	}
	b.timers.Over(prefix, 1)
	if err := b.timers.Cancel(t.Context(), prefix, 2); err != nil {
		t.Fatal(err)
	}
	if s.knows() != 1 {
		t.Errorf("it knows of %d waits, want 1", s.knows())
	}
	if armed := s.Sweep(t.Context()); armed != 1 {
		t.Errorf("armed %d, want the one that is overdue", armed)
	}
}

// TestScan: a journal longer than a batch is read once, from beginning to end, and after an interruption from there.
func TestScan(t *testing.T) {
	b := newBench(t)
	l := &ledger{waits: map[uint64]time.Time{}}
	s, err := NewSweeper(b.nc, b.timers, l.pending, SweeperConfig{})
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	s.Observe(func(subject recourse.Subject, header nats.Header) {
		if read++; subject.Prefix != ref.Prefix() || header.Get(recourse.HeaderVersion) != strconv.Itoa(read) {
			t.Errorf("record %d: %v %v", read, subject, header)
		}
	}, nil)
	const n = 2*scanBatch + 7
	for version := range uint64(n) {
		b.record(t, recourse.FamilyDecision, recourse.KindRetryScheduled, version+1, time.Now(), 0)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		from, next uint64
		knows      int
		ctx        context.Context
	}{{1, scanBatch + 1, scanBatch, ctx}, {scanBatch + 1, n + 1, n, t.Context()}, {n + 2, n + 2, n, t.Context()}} {
		reader, err := s.reader(t.Context(), jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: c.from})
		if err != nil {
			t.Fatal(err)
		}
		if c.from == scanBatch+1 {
			b.record(t, recourse.FamilyDecision, recourse.KindRetryScheduled, n+1, time.Now(), 0) // too late for this reading
		}
		if next, err := s.scan(c.ctx, reader, c.from, s.follow); !errors.Is(err, c.ctx.Err()) || next != c.next || s.knows() != c.knows {
			t.Errorf("from %d: next %d, knows %d; want %d, %d", c.from, next, s.knows(), c.next, c.knows)
		}
		if read != c.knows {
			t.Errorf("from %d: %d records were told, want %d", c.from, read, c.knows)
		}
	}
}

// TestLatestFirst: a sweeper that starts knows of the waits of the last minutes before it reads all others, and tells of each once.
func TestLatestFirst(t *testing.T) {
	b := newBench(t)
	var versions []string
	var known int
	all := make(chan struct{})
	due := time.Now().Add(time.Hour)
	b.record(t, recourse.FamilyDecision, recourse.KindRetryScheduled, 1, due, 0)
	b.record(t, recourse.FamilyDecision, recourse.KindRetryScheduled, 2, due, 0)
	l := &ledger{waits: map[uint64]time.Time{}}
	s, err := NewSweeper(b.nc, b.timers, l.pending, SweeperConfig{})
	if err != nil {
		t.Fatal(err)
	}
	s.latest = 0 // nothing but the last
	s.Observe(func(_ recourse.Subject, header nats.Header) {
		if len(versions) == 0 {
			known = s.knows()
		}
		versions = append(versions, header.Get(recourse.HeaderVersion))
	}, sync.OnceFunc(func() { close(all) }))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-all:
	case <-time.After(patience):
		t.Error("the journal was not read")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if known != 1 || s.knows() != 2 || !slices.Equal(versions, []string{"1", "2"}) {
		t.Errorf("it knew of %d waits before it read all, then of %d, and told of %v; want 1, 2, 1 and 2", known, s.knows(), versions)
	}
}

// TestSweeperRuns: by its own tick, after a start behind the records.
func TestSweeperRuns(t *testing.T) {
	b := newBench(t)
	l := &ledger{waits: map[uint64]time.Time{1: time.Now()}}
	b.record(t, recourse.FamilyDecision, recourse.KindRetryScheduled, 1, time.Now(), 0)
	s, err := NewSweeper(b.nc, b.timers, l.pending, SweeperConfig{Every: 10 * time.Millisecond, Grace: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if f := b.next(t); f.subject != ref.Subject(recourse.FamilyDue, "1") {
		t.Errorf("%s came due", f.subject)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := b.js.DeleteStream(t.Context(), recourse.StreamJournal); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("it runs without a journal")
	}
}
