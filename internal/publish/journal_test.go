package publish

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/puback"
)

func TestLoad(t *testing.T) {
	many := make([]string, 150)
	for i := range many {
		many[i] = fmt.Sprintf("s/%s/n%d", strings.Repeat("long", 20), i)
	}
	for name, nodes := range map[string][]string{
		"no record":                  nil,
		"one record":                 {"s/a"},
		"a state in the last record": {"s/a", "s/b", "s/c"},
		"a state many records back":  many,
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, journal := provisioned(t, Config{})
			want := grow(t, journal, nodes)
			got, err := journal.Load(t.Context(), ref.Prefix())
			if err != nil {
				t.Fatal(err)
			}
			if got.Version != uint64(len(nodes)) || got.Sequence != want.Sequence || got.Base != want.Base || got.Ref != want.Ref {
				t.Errorf("loaded %d@%d base %d, want %d@%d base %d", got.Version, got.Sequence, got.Base, want.Version, want.Sequence, want.Base)
			}
			a, _ := recourse.Encode(&got.State)
			b, _ := recourse.Encode(&want.State)
			if string(a) != string(b) {
				t.Errorf("state\n%.300s\nwant\n%.300s", a, b)
			}
			if len(nodes) > 100 && got.Base == got.Sequence {
				t.Error("the last record has a state: the chain was not walked")
			}
		})
	}
}

// TestLoadBrokenChain: a chain whose state is not there ends in an error, not in a guess.
func TestLoadBrokenChain(t *testing.T) {
	_, _, js, journal := provisioned(t, Config{})
	rec, _ := decided(t, new(decide.Head), "s/a", 1)
	rec.State, rec.StateBase = nil, 1
	body, err := recourse.Encode(rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), rec.Subject(), body); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Load(t.Context(), ref.Prefix()); err == nil || !strings.Contains(err.Error(), "no state") {
		t.Errorf("error %v", err)
	}
	other := ref
	other.Execution = "unreadable"
	if _, err := js.Publish(t.Context(), other.Subject(recourse.FamilyDecision, "stale"), []byte(`{"schema":99}`)); err != nil {
		t.Fatal(err)
	}
	var undecodable *recourse.DecodeError
	if _, err := journal.Load(t.Context(), other.Prefix()); !errors.As(err, &undecodable) || undecodable.Reason != recourse.ReasonFutureSchema {
		t.Errorf("a record of a later version: error %v", err)
	}
}

// TestLoadUnanswered: an answer that never comes, that of a server that died, does not hold up a lane for ever.
func TestLoadUnanswered(t *testing.T) {
	server, _, _, _ := provisioned(t, Config{})
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	journal, err := NewJournal(nc, Config{AppendTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	// Somebody takes the request and does not answer; the stream that would is gone.
	js, _ := jetstream.New(nc)
	if err := js.DeleteStream(t.Context(), recourse.StreamJournal); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("$JS.API.DIRECT.GET."+recourse.StreamJournal+".>", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := journal.Load(context.Background(), ref.Prefix())
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it waits for ever")
	}
}

func TestAppendConflicts(t *testing.T) {
	_, _, _, journal := provisioned(t, Config{})
	head := grow(t, journal, []string{"s/a", "s/b"})
	for _, tc := range []struct {
		name     string
		previous uint64
		want     error
	}{
		{"before the first", 0, decide.ErrConflict},
		{"one behind", head.Sequence - 1, decide.ErrConflict},
		{"ahead", head.Sequence + 1, decide.ErrConflict},
		{"the last", head.Sequence, nil},
		{"the same again", head.Sequence, decide.ErrConflict},
	} {
		rec, body := decided(t, new(decide.Head), "s/c", 1)
		rec.Previous = tc.previous
		if _, err := journal.Append(t.Context(), ref.Prefix(), rec, body, nats.Header{}); !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.want)
		}
	}
	// Another execution is not concerned, also one whose id begins alike.
	other := ref
	other.Execution += "0"
	rec, body := decided(t, new(decide.Head), "s/a", 1)
	if _, err := journal.Append(t.Context(), other.Prefix(), rec, body, nats.Header{}); err != nil {
		t.Error(err)
	}
}

// TestAppendRace: of many writers that expect the same, one gets through; the verb in the subject does not matter.
func TestAppendRace(t *testing.T) {
	_, _, _, journal := provisioned(t, Config{})
	var all sync.WaitGroup
	var mu sync.Mutex
	results := map[error]int{}
	for n := range 32 {
		rec, body := decided(t, new(decide.Head), fmt.Sprintf("s/n%d", n), 1)
		if n%2 == 0 {
			rec.Command, rec.Kind = recourse.Command{}, recourse.KindStale
		}
		all.Go(func() {
			_, err := journal.Append(t.Context(), ref.Prefix(), rec, body, nats.Header{})
			mu.Lock()
			defer mu.Unlock()
			results[err]++
		})
	}
	all.Wait()
	if results[nil] != 1 || results[decide.ErrConflict] != 31 {
		t.Errorf("%v, want 1 stored and 31 conflicts", results)
	}
}

func TestAppendError(t *testing.T) {
	refused := &jetstream.APIError{Code: 503, ErrorCode: 10077}
	for _, tc := range []struct {
		name     string
		err      error
		conflict bool
		unknown  bool
	}{
		{"wrong last sequence", &jetstream.APIError{Code: 400, ErrorCode: 10071}, true, false},
		{"another append in flight", &jetstream.APIError{Code: 400, ErrorCode: 10164}, true, false},
		{"refused", refused, false, false},
		{"no answer", jetstream.ErrAsyncPublishTimeout, false, true},
		{"disconnected", nats.ErrDisconnected, false, true},
		{"not sent", fmt.Errorf("%w: %w", puback.ErrNotSent, nats.ErrConnectionClosed), false, false},
	} {
		err := appendError("x", tc.err)
		if errors.Is(err, decide.ErrConflict) != tc.conflict || errors.Is(err, decide.ErrUnknownOutcome) != tc.unknown {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if !errors.Is(appendError("x", refused), refused) {
		t.Error("what the server refused for is lost")
	}
}

// TestAppendUnknown: the server takes an append and the answer does not come.
func TestAppendUnknown(t *testing.T) {
	server, nc, js, journal := provisioned(t, Config{AppendTimeout: 100 * time.Millisecond})
	rec, body := decided(t, new(decide.Head), "s/a", 1)
	if err := js.DeleteStream(t.Context(), recourse.StreamJournal); err != nil {
		t.Fatal(err)
	}
	taken := make(chan *nats.Msg, 2)
	if _, err := nc.ChanSubscribe(rec.SubjectUnder(ref.Prefix()), taken); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Append(t.Context(), ref.Prefix(), rec, body, nats.Header{}); !errors.Is(err, decide.ErrUnknownOutcome) {
		t.Errorf("no answer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := journal.Append(ctx, ref.Prefix(), rec, body, nats.Header{}); !errors.Is(err, decide.ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("the context ended first: %v", err)
	}
	for range 2 {
		select {
		case <-taken:
		case <-time.After(patience):
			t.Fatal("the append was not sent")
		}
	}
	disconnected := nc.StatusChanged(nats.RECONNECTING)
	stop(t, server)
	select {
	case <-disconnected:
	case <-time.After(patience):
		t.Fatal("the connection does not notice")
	}
	if _, err := journal.Append(t.Context(), ref.Prefix(), rec, body, nats.Header{}); err == nil || errors.Is(err, decide.ErrConflict) {
		t.Errorf("without a server: %v", err)
	}
	if _, err := journal.Load(t.Context(), ref.Prefix()); err == nil {
		t.Error("a chain was loaded without a server")
	}
}

// TestAppendHeaders: readers find version, due time and what is ended without the body.
func TestAppendHeaders(t *testing.T) {
	_, _, js, journal := provisioned(t, Config{})
	rec, body := decided(t, new(decide.Head), "s/a", 1)
	due := time.Date(2030, 1, 2, 3, 4, 5, 6789, time.FixedZone("", 3600))
	rec.Wait.Version, rec.Wait.DueAt, rec.Ends, rec.Cancelled = 1, due, 7, []uint64{8, 12}
	sequence, err := journal.Append(t.Context(), ref.Prefix(), rec, body, nats.Header{"traceparent": {"00-x"}})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), recourse.StreamJournal)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), sequence)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		recourse.HeaderVersion: "1", recourse.HeaderDueAt: "2030-01-02T02:04:05.000006789Z", recourse.HeaderEnds: "7", "traceparent": "00-x",
		recourse.HeaderCancels: "8,12", recourse.HeaderFailure: rec.FailureSummary(),
		"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/" + strings.ReplaceAll(ref.Prefix(), ".", "/"), "ce-type": rec.Event(ref.Prefix()).Type,
		"ce-time": rec.At.Format(time.RFC3339Nano), "ce-subject": "s/a", "ce-datacontenttype": "application/json",
	} {
		if got := msg.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestHead: a head is in one hand at a time, and a new chain costs no request.
func TestHead(t *testing.T) {
	server, _, _, journal := provisioned(t, Config{AppendTimeout: 100 * time.Millisecond})
	grow(t, journal, []string{"s/a"})
	loaded, err := journal.Head(t.Context(), ref.Prefix(), false)
	if err != nil || loaded.Version != 1 {
		t.Fatalf("loaded %+v, %v", loaded, err)
	}
	journal.Keep(ref.Prefix(), loaded)
	stop(t, server) // from here on nothing can be asked for
	kept, err := journal.Head(t.Context(), ref.Prefix(), true)
	if err != nil || kept != loaded {
		t.Errorf("kept %p, %v; want %p", kept, err, loaded)
	}
	assumed, err := journal.Head(t.Context(), ref.Prefix(), true)
	if err != nil || assumed == loaded || !reflect.DeepEqual(assumed, new(decide.Head)) {
		t.Errorf("the head was given out twice, or not as new: %+v, %v", assumed, err)
	}
	if _, err := journal.Head(t.Context(), ref.Prefix(), false); err == nil {
		t.Error("a head that is in nobody's memory was not asked for")
	}
}

func TestCache(t *testing.T) {
	c := newCache(2)
	heads := map[string]*decide.Head{}
	for _, prefix := range []string{"a", "b", "c"} {
		heads[prefix] = &decide.Head{}
	}
	c.put("a", heads["a"])
	c.put("b", heads["b"])
	c.put("a", heads["a"]) // used again
	c.put("c", heads["c"]) // for b
	for prefix, want := range map[string]*decide.Head{"a": heads["a"], "b": nil, "c": heads["c"], "d": nil} {
		if got := c.take(prefix); got != want {
			t.Errorf("%s: %p, want %p", prefix, got, want)
		}
		if got := c.take(prefix); got != nil {
			t.Errorf("%s was taken twice", prefix)
		}
	}
	if c.order.Len() != 0 || len(c.byKey) != 0 {
		t.Errorf("%d and %d left", c.order.Len(), len(c.byKey))
	}
	newer := &decide.Head{Version: 2}
	c.put("a", heads["a"])
	c.put("a", newer)
	if got := c.take("a"); got != newer {
		t.Errorf("%p, want the newer %p", got, newer)
	}
}
