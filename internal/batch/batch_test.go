package batch

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/broker/brokertest"
	"github.com/recourse-dev/recourse/internal/puback"
)

func TestMain(m *testing.M) {
	// The embedded server looks at the machine once in a while for as long as the process lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/pse.periodic"))
}

// patience is how long a test waits for what must happen; it is not what it takes.
const patience = time.Minute

const stream = "TEST"

// world is a server with a stream that takes batches, and a publisher to it.
type world struct {
	nc        *nats.Conn
	js        jetstream.JetStream
	publisher *puback.Publisher
	p         *Publisher
}

func newWorld(t testing.TB, sync broker.SyncMode, timeout time.Duration) *world {
	t.Helper()
	server := brokertest.StartOn(t, t.TempDir(), sync)
	w := connect(t, server.URL(), timeout)
	if _, err := w.js.CreateStream(context.Background(), jetstream.StreamConfig{Name: stream, Subjects: []string{"test.>"}, AllowDirect: true, AllowAtomicPublish: true}); err != nil {
		t.Fatal(err)
	}
	return w
}

func connect(t testing.TB, url string, timeout time.Duration) *world {
	t.Helper()
	w := new(world)
	var err error
	if w.nc, err = nats.Connect(url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.nc.Close)
	if w.publisher, err = puback.New(w.nc, timeout); err != nil {
		t.Fatal(err)
	}
	if w.js, err = jetstream.New(w.nc); err != nil {
		t.Fatal(err)
	}
	w.p = New(w.nc, w.publisher)
	return w
}

// message is one that is stored where it is the first under its key, or comes after the one at a sequence.
func message(key string, after uint64) *nats.Msg {
	return &nats.Msg{Subject: "test." + key + ".a", Data: []byte(key), Header: nats.Header{
		jetstream.ExpectedLastSubjSeqHeader:     {strconv.FormatUint(after, 10)},
		jetstream.ExpectedLastSubjSeqSubjHeader: {"test." + key + ".>"},
	}}
}

func keys(n int) (keys []string) {
	for i := range n {
		keys = append(keys, "k"+strconv.Itoa(i))
	}
	return keys
}

// published is what became of a message.
type published struct {
	sequence uint64
	err      error
}

// together has messages wait for each other, as if one were on its way, and go when all are there. after says what they expect; nil is nothing.
func (w *world) together(t *testing.T, keys []string, after func(n int) uint64) []published {
	t.Helper()
	w.p.mu.Lock()
	w.p.flying = true
	w.p.mu.Unlock()
	results := make([]published, len(keys))
	var all sync.WaitGroup
	for n, key := range keys {
		msg := message(key, 0)
		if after != nil {
			msg = message(key, after(n))
		}
		all.Go(func() { results[n].sequence, results[n].err = w.p.Publish(context.Background(), key, msg) })
	}
	waitFor(t, "all wait", func() bool {
		w.p.mu.Lock()
		defer w.p.mu.Unlock()
		return len(w.p.waiting) == len(keys)
	})
	w.land()
	all.Wait()
	w.idle(t)
	return results
}

// land ends the flight that a test made up.
func (w *world) land() {
	w.p.mu.Lock()
	w.p.flying = false
	w.p.next()
	w.p.mu.Unlock()
}

// idle checks that nothing is counted as on its way when nothing is.
func (w *world) idle(t *testing.T) {
	t.Helper()
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	if w.p.singles != 0 || w.p.flying || len(w.p.waiting) != 0 {
		t.Errorf("%d singly and a batch (%v) on their way, %d waiting; want nothing", w.p.singles, w.p.flying, len(w.p.waiting))
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("in vain: %s", what)
		}
	}
}

func (w *world) config(t *testing.T) jetstream.StreamConfig {
	t.Helper()
	s, err := w.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

// stored returns what is in the stream: by sequence - 1, the key of each message and whether it came in a batch.
func (w *world) stored(t *testing.T) (keys []string, batched []bool) {
	t.Helper()
	s, err := w.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	for sequence := uint64(1); sequence <= s.CachedInfo().State.LastSeq; sequence++ {
		msg, err := s.GetMsg(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		in := msg.Header.Get(headerID) != ""
		if in != (msg.Header.Get(headerSequence) != "") || !in && msg.Header.Get(headerCommit) != "" {
			t.Errorf("headers of half a batch at %d: %v", sequence, msg.Header)
		}
		keys, batched = append(keys, string(msg.Data)), append(batched, in)
	}
	return keys, batched
}

func count(all []bool) (n int) {
	for _, is := range all {
		if is {
			n++
		}
	}
	return n
}

// TestPublish: what waits goes out in batches of the sizes there may be, and each message learns its own sequence.
func TestPublish(t *testing.T) {
	for _, n := range []int{1, least - 1, least, most, most + 1, 2*most + least} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			w := newWorld(t, broker.SyncInterval, patience)
			results := w.together(t, keys(n), nil)
			stored, batched := w.stored(t)
			if len(stored) != n {
				t.Fatalf("%d stored, want %d", len(stored), n)
			}
			for i, r := range results {
				if r.err != nil || stored[r.sequence-1] != "k"+strconv.Itoa(i) {
					t.Fatalf("k%d at %d, %v; there is %s", i, r.sequence, r.err, stored[max(r.sequence, 1)-1])
				}
			}
			want := n
			if rest := n % most; rest < least {
				want -= rest
			}
			if got := count(batched); got != want {
				t.Errorf("%d of %d in batches, want %d", got, n, want)
			}
		})
	}
}

// TestBytes: large messages make small batches.
func TestBytes(t *testing.T) {
	p := &Publisher{limit: most}
	for i := range 100 {
		p.waiting = append(p.waiting, &waiting{key: strconv.Itoa(i), msg: &nats.Msg{Data: make([]byte, 256<<10)}})
	}
	if got := len(p.take()); got != mostBytes/(256<<10)+1 || len(p.waiting) != 100-got {
		t.Errorf("a batch of %d, %d left", got, len(p.waiting))
	}
}

// TestAlone: messages that nothing is on its way with do not wait for company.
func TestAlone(t *testing.T) {
	w := newWorld(t, broker.SyncInterval, patience)
	for _, key := range keys(3) {
		if _, err := w.p.Publish(t.Context(), key, message(key, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if stored, batched := w.stored(t); len(stored) != 3 || count(batched) != 0 {
		t.Errorf("%d stored, %d in a batch", len(stored), count(batched))
	}
	w.idle(t)
}

// TestConflict: of a batch with wrong expectations those alone are refused, and the others are stored once.
func TestConflict(t *testing.T) {
	w := newWorld(t, broker.SyncInterval, patience)
	wrong := func(n int) uint64 {
		if n%10 == 7 {
			return 99
		}
		return 0
	}
	good := 0
	var api *jetstream.APIError
	for n, r := range w.together(t, keys(3*least), wrong) {
		if wrong(n) == 0 {
			good++
			if r.err != nil {
				t.Errorf("k%d: %v", n, r.err)
			}
		} else if !errors.As(r.err, &api) || api.ErrorCode != codeWrongLastSequence {
			t.Errorf("k%d expected too much: %v", n, r.err)
		}
	}
	if stored, batched := w.stored(t); len(stored) != good || count(batched) != 0 {
		t.Errorf("%d stored, %d in batches; want %d singly", len(stored), count(batched), good)
	}
	if w.p.limit != most/2 {
		t.Errorf("the next batch may have %d", w.p.limit)
	}
	// Nothing but conflicts: the batches get smaller, and then there are none for a while.
	for w.p.paused.IsZero() {
		w.together(t, keys(least), func(int) uint64 { return 99 })
	}
	if w.p.limit != least {
		t.Errorf("the next batch may have %d", w.p.limit)
	}
	for want := pauseSmall; want <= 4*pauseSmall; want *= 2 { // each longer than the one before
		if w.p.pause != want {
			t.Errorf("a pause of %v, want %v", w.p.pause, want)
		}
		waitFor(t, "the pause is over", func() bool { return time.Now().After(w.p.paused) })
		if want < 4*pauseSmall {
			w.together(t, keys(least), func(int) uint64 { return 99 })
		}
	}
	w.together(t, []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"}, nil)
	if w.p.limit != 2*least || w.p.pause != 0 {
		t.Errorf("after a success the next batch may have %d, and the last pause was %v", w.p.limit, w.p.pause)
	}
}

// TestSameKey: of two messages that expect the same one is stored. In one batch a server would take both.
func TestSameKey(t *testing.T) {
	w := newWorld(t, broker.SyncInterval, patience)
	results := w.together(t, append(keys(least), keys(least)...), nil)
	for n := range least {
		if a, b := results[n].err, results[n+least].err; (a == nil) == (b == nil) {
			t.Errorf("k%d: %v and %v, want one refused", n, a, b)
		}
	}
	if stored, _ := w.stored(t); len(stored) != least {
		t.Errorf("%d stored under %d keys", len(stored), least)
	}
}

// TestUnanswered: a batch is taken and its answer does not come; nobody learns whether it is stored. It is, and cannot be once more.
func TestUnanswered(t *testing.T) {
	w := newWorld(t, broker.SyncInterval, 200*time.Millisecond)
	cfg := w.config(t)
	if err := w.js.DeleteStream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	taken := make(chan *nats.Msg, least)
	sub, err := w.nc.ChanSubscribe("test.>", taken)
	if err != nil {
		t.Fatal(err)
	}
	for n, r := range w.together(t, keys(least), nil) {
		if !errors.Is(r.err, puback.ErrTimeout) {
			t.Errorf("k%d: %v", n, r.err)
		}
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for range least {
		if err := w.nc.PublishMsg(<-taken); err != nil {
			t.Fatal(err)
		}
	}
	var api *jetstream.APIError
	for n, r := range w.together(t, keys(least), nil) {
		if !errors.As(r.err, &api) || api.ErrorCode != codeWrongLastSequence {
			t.Errorf("k%d once more: %v", n, r.err)
		}
	}
	if stored, batched := w.stored(t); len(stored) != least || count(batched) != least {
		t.Errorf("%d stored, %d in a batch", len(stored), count(batched))
	}
}

// TestIncomplete: the server has forgotten the beginning of a batch, as after a restart. All goes out singly.
func TestIncomplete(t *testing.T) {
	w := newWorld(t, broker.SyncInterval, patience)
	ids := fmt.Sprintf("%s-%d", w.p.name, 1)
	first := message("k0", 0) // of the same id: the first message of the batch to come is then out of its turn
	first.Header[headerID], first.Header[headerSequence] = []string{ids}, []string{"1"}
	if err := w.nc.PublishMsg(first); err != nil {
		t.Fatal(err)
	}
	for n, r := range w.together(t, keys(least), nil) {
		if r.err != nil {
			t.Errorf("k%d: %v", n, r.err)
		}
	}
	if stored, batched := w.stored(t); len(stored) != least || count(batched) != 0 {
		t.Errorf("%d stored, %d in a batch", len(stored), count(batched))
	}
	if time.Until(w.p.paused) > pauseSmall {
		t.Errorf("paused until %v for what passes", w.p.paused)
	}
}

// TestRefused: a stream that takes no batches gets single messages, and is not asked again for a while.
func TestRefused(t *testing.T) {
	w := newWorld(t, broker.SyncInterval, patience)
	cfg := w.config(t)
	cfg.AllowAtomicPublish = false
	if _, err := w.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for n, r := range w.together(t, keys(2*least), nil) {
		if r.err != nil {
			t.Errorf("k%d: %v", n, r.err)
		}
	}
	if stored, batched := w.stored(t); len(stored) != 2*least || count(batched) != 0 {
		t.Errorf("%d stored, %d in batches", len(stored), count(batched))
	}
	if left := time.Until(w.p.paused); left < pauseRefused/2 {
		t.Errorf("batches again in %v", left)
	}
}

// TestNotSent: without a connection nothing leaves.
func TestNotSent(t *testing.T) {
	w := newWorld(t, broker.SyncInterval, patience)
	w.nc.Close()
	for n, r := range w.together(t, keys(least), nil) {
		if !errors.Is(r.err, puback.ErrNotSent) {
			t.Errorf("k%d: %v", n, r.err)
		}
	}
	if _, err := w.p.Publish(t.Context(), "k", message("k", 0)); !errors.Is(err, puback.ErrNotSent) {
		t.Errorf("alone: %v", err)
	}
}

// TestLeave: who waits no longer leaves nothing behind, wherever the message is.
func TestLeave(t *testing.T) {
	w := newWorld(t, broker.SyncInterval, patience)
	p := w.p
	p.flying = true
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := p.Publish(ctx, "k", message("k", 0))
		ended <- err
	}()
	waitFor(t, "it waits", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.waiting) == 1 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("left the queue: %v", err)
	}
	w.land()
	w.idle(t)
	if stored, _ := w.stored(t); len(stored) != 0 {
		t.Errorf("%d stored that were given up before they were sent", len(stored))
	}

	// Its turn came just before it left: the turn is given on.
	given, other := &waiting{turn: make(chan turn, 1)}, &waiting{turn: make(chan turn, 1)}
	p.mu.Lock()
	p.singles = mostSingles - 1
	p.waiting = []*waiting{given, other}
	p.next()
	p.mu.Unlock()
	p.leave(given)
	if got := <-other.turn; !got.alone || p.singles != mostSingles {
		t.Errorf("the other got %+v, %d on their way", got, p.singles)
	}
	p.singles = 0

	// It leaves while its batch is on its way: not before its message is sent, and nobody takes the turn it would get.
	gone := &waiting{turn: make(chan turn, 1), sent: make(chan struct{})}
	left := make(chan struct{})
	go func() { p.leave(gone); close(left) }()
	waitFor(t, "it left", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return gone.left })
	select {
	case <-left:
		t.Error("it did not wait until its message was sent")
	default:
	}
	close(gone.sent)
	<-left
	p.mu.Lock()
	p.give(gone, turn{alone: true})
	p.mu.Unlock()
	w.idle(t)
}

// BenchmarkPublish is messages of the size of a record, as many side by side as a worker has lanes, to a server that syncs always.
func BenchmarkPublish(b *testing.B) {
	for _, lanes := range []int{1, 256, 512} {
		for _, name := range []string{"singly", "together"} {
			b.Run(fmt.Sprintf("%s/%d", name, lanes), func(b *testing.B) {
				w := newWorld(b, broker.SyncAlways, patience)
				if name == "singly" {
					w.p = Singly(w.publisher)
				}
				body := make([]byte, 3000)
				var all sync.WaitGroup
				free := make(chan struct{}, lanes)
				b.ReportAllocs()
				b.ResetTimer()
				for n := range b.N {
					free <- struct{}{}
					all.Go(func() {
						key := strconv.Itoa(n)
						msg := message(key, 0)
						msg.Data = body
						if _, err := w.p.Publish(context.Background(), key, msg); err != nil {
							b.Error(err)
						}
						<-free
					})
				}
				all.Wait()
			})
		}
	}
}
