package puback

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/recourse-dev/recourse/internal/broker"
)

func TestMain(m *testing.M) {
	// The embedded server looks at the machine once in a while for as long as the process lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/pse.periodic"))
}

const patience = time.Minute

// server returns a connection to a server with a stream of the subjects s.>.
func server(t *testing.T) (*broker.Embedded, *nats.Conn) {
	t.Helper()
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Sync: broker.SyncInterval})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, server) })
	nc, err := nats.Connect(server.URL(), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	return server, nc
}

func stop(t *testing.T, server *broker.Embedded) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func publisher(t *testing.T, nc *nats.Conn, timeout time.Duration) *Publisher {
	t.Helper()
	p, err := New(nc, timeout)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPublish has many messages wait at once: each gets the sequence under which it is stored.
func TestPublish(t *testing.T) {
	_, nc := server(t)
	p := publisher(t, nc, patience)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	var publishing sync.WaitGroup
	for worker := range 50 {
		publishing.Go(func() {
			for i := range 20 {
				body := fmt.Sprint(worker, " ", i)
				sequence, err := p.Publish(t.Context(), &nats.Msg{Subject: "s.x", Data: []byte(body)})
				if err != nil {
					t.Error(err)
					return
				}
				if msg, err := stream.GetMsg(t.Context(), sequence); err != nil || string(msg.Data) != body {
					t.Errorf("at %d is %v (%v), want %q", sequence, msg, err, body)
				}
			}
		})
	}
	publishing.Wait()
	if len(p.slots) > 50 || len(p.free) != len(p.slots) {
		t.Errorf("50 publish at once, but there are %d slots, %d of them free", len(p.slots), len(p.free))
	}
}

func TestPublishRefused(t *testing.T) {
	_, nc := server(t)
	p := publisher(t, nc, patience)
	msg := &nats.Msg{Subject: "s.x", Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"7"}}}
	_, err := p.Publish(t.Context(), msg)
	var refused *jetstream.APIError
	if !errors.As(err, &refused) || refused.ErrorCode != 10071 {
		t.Errorf("a wrong expectation: %v", err)
	}
	if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "nobody.there"}); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("no stream: %v", err)
	}
}

// silent is a subject that somebody listens to who does not answer by himself; what came is in the channel.
func silent(t *testing.T, nc *nats.Conn) chan *nats.Msg {
	t.Helper()
	came := make(chan *nats.Msg, 10)
	sub, err := nc.ChanSubscribe("silent", came)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return came
}

// TestLateAnswer has a message time out, and its answer come while the slot is used for another.
func TestLateAnswer(t *testing.T) {
	_, nc := server(t)
	came := silent(t, nc)
	p := publisher(t, nc, 50*time.Millisecond)
	start := time.Now()
	if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "silent"}); !errors.Is(err, ErrTimeout) || time.Since(start) < 50*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	late := <-came
	p.mu.Lock()
	p.timeout = patience
	p.mu.Unlock()
	got := make(chan uint64)
	go func() {
		sequence, err := p.Publish(t.Context(), &nats.Msg{Subject: "silent"})
		if err != nil {
			t.Error(err)
		}
		got <- sequence
	}()
	second := <-came
	for _, r := range []struct {
		to  *nats.Msg
		ack string
	}{{late, `{"stream":"S","seq":1}`}, {second, `{"stream":"S","seq":2}`}} {
		if err := nc.Publish(r.to.Reply, []byte(r.ack)); err != nil {
			t.Fatal(err)
		}
	}
	if sequence := <-got; sequence != 2 || len(p.slots) != 1 {
		t.Errorf("got the answer %d, with %d slots", sequence, len(p.slots))
	}
}

func TestNotSent(t *testing.T) {
	_, nc := server(t)
	p := publisher(t, nc, patience)
	if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "s.x", Data: make([]byte, nc.MaxPayload()+1)}); !errors.Is(err, ErrNotSent) || !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("too large: %v", err)
	}
	nc.Close()
	if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "s.x"}); !errors.Is(err, ErrNotSent) || !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestContextEnds(t *testing.T) {
	_, nc := server(t)
	came := silent(t, nc)
	p := publisher(t, nc, patience)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-came; cancel() }()
	if _, err := p.Publish(ctx, &nats.Msg{Subject: "silent"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestConnectionLost ends the waits of what was sent when the server goes, and when the connection is closed.
func TestConnectionLost(t *testing.T) {
	for _, test := range []struct {
		name string
		lose func(*broker.Embedded, *nats.Conn)
		want error
	}{
		{"server gone", func(server *broker.Embedded, _ *nats.Conn) { stop(t, server) }, nats.ErrDisconnected},
		{"closed", func(_ *broker.Embedded, nc *nats.Conn) { nc.Close() }, nats.ErrConnectionClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, nc := server(t)
			came := silent(t, nc)
			p := publisher(t, nc, patience)
			go func() { <-came; test.lose(server, nc) }()
			if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "silent"}); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestAcknowledged(t *testing.T) {
	for data, want := range map[string]uint64{
		`{"stream":"RECOURSE_JOURNAL","seq":12345}`:                 12345,
		`{"stream":"S","domain":"hub","seq":7}`:                     7,
		`{"stream":"S","seq":7,"duplicate":true}`:                   7,
		`{"stream":"S", "seq": 18446744073709551615}`:               18446744073709551615,
		`{"type":"io.nats.jetstream.pub_ack","stream":"S","seq":1}`: 1,
	} {
		if got, err := acknowledged([]byte(data)); got != want || err != nil {
			t.Errorf("%s: %d, %v", data, got, err)
		}
	}
	for _, data := range []string{``, `{}`, `nonsense`, `{"stream":"S","seq":1`, `{"stream":"S","seq":x}`, `{"stream":"","seq":1}`} {
		if got, err := acknowledged([]byte(data)); !errors.Is(err, jetstream.ErrInvalidJSAck) {
			t.Errorf("%s: %d, %v", data, got, err)
		}
	}
	_, err := acknowledged([]byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 4"},"stream":"S","seq":0}`))
	var refused *jetstream.APIError
	if !errors.As(err, &refused) || refused.ErrorCode != 10071 {
		t.Errorf("refused: %v", err)
	}
}

func BenchmarkAcknowledged(b *testing.B) {
	data := []byte(`{"stream":"RECOURSE_JOURNAL","seq":1234567}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := acknowledged(data); err != nil {
			b.Fatal(err)
		}
	}
}
