package peers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/broker/brokertest"
	"github.com/recourse-dev/recourse/internal/consumer"
	"github.com/recourse-dev/recourse/internal/deps"
)

func TestMain(m *testing.M) {
	// The embedded server looks at the machine once in a while for as long as the process lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/pse.periodic"))
}

// TestImports holds the package to its imports: it hands over what a consumer handles, and looks into nothing.
func TestImports(t *testing.T) { deps.Module(t, "github.com/recourse-dev/recourse/internal/consumer") }

// patience is how long a test waits for what must happen; it is not what it takes.
const patience = time.Minute

const prefix = "recourse.acme.default.shop.deploy.ex42"

func startServer(t *testing.T) string {
	t.Helper()
	server := brokertest.Start(t)
	return server.URL()
}

// member is a worker with its pull running.
type member struct {
	*Peers
	messages consumer.Messages
	arrives  chan jetstream.Msg // closed when the pull has ended
}

// newPeers returns a worker with an id of the test's choice that has not said anything.
func newPeers(t *testing.T, url string, id uint64) *Peers {
	t.Helper()
	nc, err := nats.Connect(url, nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	p := New(nc)
	p.id = id
	return p
}

func (p *Peers) run(t *testing.T) *member {
	t.Helper()
	messages, err := p.Pull(0)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{Peers: p, messages: messages, arrives: make(chan jetstream.Msg, 100)}
	go func() {
		defer close(m.arrives)
		for {
			msg, err := messages.Next()
			if err != nil {
				if !errors.Is(err, jetstream.ErrMsgIteratorClosed) {
					t.Errorf("next: %v", err)
				}
				return
			}
			m.arrives <- msg
		}
	}()
	t.Cleanup(func() {
		messages.Stop()
		for range m.arrives { // until it is closed
		}
	})
	return m
}

func (m *member) next(t *testing.T) jetstream.Msg {
	t.Helper()
	select {
	case msg := <-m.arrives:
		return msg
	case <-time.After(patience):
		t.Fatal("nothing arrives")
		return nil
	}
}

// owner is who handles an execution as far as a worker knows: an id, its own included, or 0.
func (p *Peers) owner(prefix string) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch o, known := p.owners.get(hash(prefix)); {
	case !known || o.isGone():
		return 0
	case o.here():
		return p.id
	default:
		return o.id
	}
}

func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// knows waits until all agree on who handles an execution.
func knows(t *testing.T, prefix string, id uint64, all ...*member) {
	t.Helper()
	for _, m := range all {
		eventually(t, fmt.Sprintf("%d knows that %s is handled by %d", m.id, prefix, id), func() bool { return m.owner(prefix) == id })
	}
}

// stored is a message that somebody pulled from a stream.
func stored(t *testing.T, nc *nats.Conn, header nats.Header) (jetstream.Msg, jetstream.Consumer) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Provision(t.Context(), js, broker.ModeCreate, broker.ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: prefix + ".failure.delegate", Header: header, Data: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	durable, err := js.Consumer(t.Context(), recourse.StreamInbox, broker.ConsumerInbox)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := durable.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	return msg, durable
}

// TestHandOver: what belongs to another worker arrives there as its stream delivered it, and is settled there.
func TestHandOver(t *testing.T) {
	url := startServer(t)
	a, b := newPeers(t, url, 1).run(t), newPeers(t, url, 2).run(t)
	for _, header := range []nats.Header{nil, {"traceparent": {"00-1"}, "twice": {"1", "2"}}} {
		msg, durable := stored(t, b.nc, header)
		if b.owner(prefix) == 0 && b.HandOver(msg, prefix) {
			t.Fatal("handed over to nobody")
		}
		a.Claim(prefix, false)
		knows(t, prefix, 1, a, b)
		if a.HandOver(msg, prefix) {
			t.Fatal("handed over by the one who handles it")
		}
		b.Claim(prefix, false) // which it has no claim to
		if !b.HandOver(msg, prefix) {
			t.Fatal("not handed over")
		}
		got := a.next(t)
		want, err := msg.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if meta, err := got.Metadata(); err != nil || !reflect.DeepEqual(meta, want) {
			t.Errorf("metadata %+v, %v; want %+v", meta, err, want)
		}
		if got.Subject() != msg.Subject() || string(got.Data()) != "{}" || len(got.Headers()) != len(header) {
			t.Errorf("%s %v %s", got.Subject(), got.Headers(), got.Data())
		}
		for name, values := range header {
			if !reflect.DeepEqual(got.Headers()[name], values) {
				t.Errorf("%s: %v, want %v", name, got.Headers()[name], values)
			}
		}
		if !reflect.DeepEqual(msg.Headers()[headerReply], []string(nil)) {
			t.Error("the headers of the message were changed")
		}
		if err := got.Ack(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "settled", func() bool {
			info, err := durable.Info(t.Context())
			return err == nil && info.NumAckPending == 0 && info.AckFloor.Stream == want.Sequence.Stream
		})
	}
}

// TestNobodyReceives: a worker that is gone without a word is not waited for. What was meant for it stays here.
func TestNobodyReceives(t *testing.T) {
	url := startServer(t)
	a, b := newPeers(t, url, 1).run(t), newPeers(t, url, 2).run(t)
	msg, _ := stored(t, b.nc, nil)
	a.Claim(prefix, false)
	knows(t, prefix, 1, b)
	a.nc.Close()
	select {
	case _, more := <-a.arrives:
		if more {
			t.Fatal("it received something")
		}
	case <-time.After(patience):
		t.Fatal("a closed connection does not end the pull")
	}
	eventually(t, "the server knows that it is gone", func() bool {
		_, err := b.nc.Request(inputsOf(1), nil, 100*time.Millisecond)
		return errors.Is(err, nats.ErrNoResponders)
	})
	if !b.HandOver(msg, prefix) {
		t.Fatal("not handed over")
	}
	if got := b.next(t); got != msg {
		t.Errorf("back came %v, want the message itself", got)
	}
	if b.HandOver(msg, prefix) {
		t.Error("handed over to a worker that is known to be gone")
	}
	b.Claim(prefix, false)
	knows(t, prefix, 2, b)
	if b.back("0") != nil || b.back("x") != nil || b.back("7") != nil {
		t.Error("a message came back twice, or one that was not sent")
	}
}

// TestLeaves: a worker that stops still takes what is on the way, and is handed nothing more.
func TestLeaves(t *testing.T) {
	url := startServer(t)
	a, b := newPeers(t, url, 1).run(t), newPeers(t, url, 2).run(t)
	msg, _ := stored(t, b.nc, nil)
	a.Claim(prefix, false)
	b.Claim("other", false)
	knows(t, prefix, 1, b)
	knows(t, "other", 2, a)
	const n = 20
	for range n {
		if !b.HandOver(msg, prefix) {
			t.Fatal("not handed over")
		}
	}
	if err := b.nc.Flush(); err != nil { // they are on the way
		t.Fatal(err)
	}
	a.messages.Stop()
	a.messages.Stop()
	if a.HandOver(msg, "other") {
		t.Error("handed over by a worker that stops")
	}
	got := 0
	for range a.arrives {
		got++
	}
	if got != n {
		t.Errorf("%d arrived, want %d", got, n)
	}
	knows(t, prefix, 0, b)
	if b.HandOver(msg, prefix) {
		t.Error("handed over to a worker that has left")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := b.live(); n != 0 {
		t.Errorf("%d others are there", n)
	}
}

// TestBothClaim: of two that claim the same before they hear of each other, all agree on one, whoever speaks first.
func TestBothClaim(t *testing.T) {
	for _, ids := range [][2]uint64{{1, 2}, {2, 1}} {
		url := startServer(t)
		first, second, third := newPeers(t, url, ids[0]), newPeers(t, url, ids[1]), newPeers(t, url, 3)
		for _, p := range []*Peers{first, second} {
			p.Claim(prefix, false)
		}
		third.Claim(prefix, false)
		a, b, c := first.run(t), second.run(t), third.run(t)
		knows(t, prefix, 1, a, b, c)
	}
}

// TestLost: a worker that took another for gone and claimed what that one handles gives it back when it hears of it again.
func TestLost(t *testing.T) {
	url := startServer(t)
	a, b := newPeers(t, url, 1).run(t), newPeers(t, url, 2).run(t)
	a.Claim(prefix, false)
	knows(t, prefix, 1, b)
	b.expire(time.Now().Add(goneAfter + time.Second))
	if id := b.owner(prefix); id != 0 {
		t.Fatalf("handled by %d, want nobody: it has said nothing for long", id)
	}
	b.Claim(prefix, false)
	if id := b.owner(prefix); id != 2 {
		t.Fatalf("handled by %d, want 2", id)
	}
	knows(t, prefix, 1, a, b)
}

// TestRevived: a worker that was taken for gone, and was not, still has what it claimed before once it says something.
func TestRevived(t *testing.T) {
	url := startServer(t)
	a, b := newPeers(t, url, 1).run(t), newPeers(t, url, 2).run(t)
	msg, _ := stored(t, b.nc, nil)
	a.Claim(prefix, false)
	knows(t, prefix, 1, b)
	b.expire(time.Now().Add(goneAfter + time.Second))
	if b.HandOver(msg, prefix) {
		t.Error("handed over to a worker that has said nothing for long")
	}
	a.say(SubjectClaims, 0, nil)
	knows(t, prefix, 1, b)
	b.expire(time.Now().Add(2 * forgotten))
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.others) != 0 {
		t.Errorf("others: %v", b.others)
	}
}

// TestWrongOwner: one who is handed what a third handles has all agree, whoever was wrong.
func TestWrongOwner(t *testing.T) {
	for _, ids := range [][3]uint64{{1, 2, 3}, {2, 1, 3}, {3, 2, 1}} {
		url := startServer(t)
		a, b, c := newPeers(t, url, ids[0]).run(t), newPeers(t, url, ids[1]).run(t), newPeers(t, url, ids[2]).run(t)
		b.Claim(prefix, false)
		knows(t, prefix, ids[1], a, b, c)
		c.mu.Lock()
		c.owners.put(hash(prefix), owner{c.others[ids[0]], true}) // it missed that
		c.mu.Unlock()
		a.Claim(prefix, true)
		knows(t, prefix, ids[0], a, b, c) // which has it in hand
	}
}

// TestBegun: of two that claim the same, the one keeps it that has handled something of it, whichever that is and whoever speaks first.
func TestBegun(t *testing.T) {
	for _, ids := range [][2]uint64{{1, 2}, {2, 1}} {
		for _, begins := range [][]uint64{{1}, {2}, {1, 2}} {
			url := startServer(t)
			first, second, third := newPeers(t, url, ids[0]), newPeers(t, url, ids[1]), newPeers(t, url, 3)
			msg, _ := stored(t, third.nc, nil)
			for _, p := range []*Peers{first, second} {
				p.Claim(prefix, false)
				if p.HandOver(msg, prefix) {
					t.Fatal("handed over by the one who handles it")
				}
				if slices.Contains(begins, p.id) {
					p.Begin(prefix)
				}
			}
			a, b, c := first.run(t), second.run(t), third.run(t)
			knows(t, prefix, begins[0], a, b, c)
		}
	}
}

// TestGivenUp: what a worker has given up it does not claim any more.
func TestGivenUp(t *testing.T) {
	p := newPeers(t, startServer(t), 5)
	p.others[7] = &other{id: 7}
	for _, prefix := range []string{"a", "b", "c"} {
		p.Claim(prefix, prefix == "b")
	}
	p.hearClaim(hash("c"), owner{other: &other{id: 3}})
	if got, want := p.stands(p.claims), []uint64{hash("a"), hash("b") | begunBit}; !slices.Equal(got, want) {
		t.Errorf("it claims %v, want %v", got, want)
	}
}

// TestAlone: a worker that may not speak says nothing, remembers nothing to say, and still takes what it is handed.
func TestAlone(t *testing.T) {
	for text, want := range map[string]bool{
		`Permissions Violation for Publish to "recourse-workers.claims"`:             true,
		`Permissions Violation for Subscription to "recourse-workers.inputs.1ezs5l"`: true,
		`Permissions Violation for Publish to "recourse.x"`:                          false,
	} {
		if got := Denied(fmt.Errorf("%w: %s", nats.ErrPermissionViolation, text)); got != want {
			t.Errorf("%s: %t, want %t", text, got, want)
		}
	}
	if Denied(errors.New(`"recourse-workers.claims"`)) {
		t.Error("another error is taken for a refusal")
	}
	url := startServer(t)
	a, b := newPeers(t, url, 1).run(t), newPeers(t, url, 2).run(t)
	msg, _ := stored(t, b.nc, nil)
	a.Claim(prefix, false)
	b.Claim("other", false)
	knows(t, prefix, 1, b)
	knows(t, "other", 2, a)
	a.Alone()
	if a.HandOver(msg, "other") {
		t.Error("handed over by a worker that is alone")
	}
	heard, err := b.nc.SubscribeSync(SubjectClaims)
	if err := errors.Join(err, b.nc.Flush()); err != nil {
		t.Fatal(err)
	}
	a.Claim("third", false)
	a.tell()
	a.mu.Lock()
	if len(a.claims) != 0 {
		t.Errorf("%d claims wait to be told", len(a.claims))
	}
	a.mu.Unlock()
	if err := errors.Join(a.nc.Flush(), b.nc.Flush()); err != nil {
		t.Fatal(err)
	}
	for {
		msg, err := heard.NextMsg(time.Millisecond)
		if err != nil {
			break
		}
		if binary.BigEndian.Uint64(msg.Data) == 1 {
			t.Error("it spoke")
		}
	}
	if !b.HandOver(msg, prefix) {
		t.Fatal("not handed over")
	}
	if got := a.next(t); got.Subject() != msg.Subject() {
		t.Errorf("%s arrived", got.Subject())
	}
}

// TestNewcomer: who comes later is told all that is handled, also what does not fit into one message.
func TestNewcomer(t *testing.T) {
	url := startServer(t)
	a := newPeers(t, url, 1).run(t)
	const n = 2*mostClaims + 7
	for i := range n {
		a.Claim(fmt.Sprint(i), false)
	}
	b := newPeers(t, url, 2).run(t)
	for i := range n {
		knows(t, fmt.Sprint(i), 1, b)
	}
}

// TestNotHandedOver: what is too long, and what comes to a worker behind with its work, or with its connection, is handled here.
func TestNotHandedOver(t *testing.T) {
	url := startServer(t)
	a, b := newPeers(t, url, 1).run(t), newPeers(t, url, 2).run(t)
	msg, _ := stored(t, b.nc, nil)
	a.Claim(prefix, false)
	knows(t, prefix, 1, b)
	wordy := consumer.Delivered(b.nc, &nats.Msg{Subject: msg.Subject(), Reply: msg.Reply(), Header: nats.Header{"x": {string(make([]byte, mostBytes))}}})
	if b.HandOver(wordy, prefix) {
		t.Error("a message with long headers was handed over")
	}
	long := consumer.Delivered(b.nc, &nats.Msg{Subject: msg.Subject(), Reply: msg.Reply(), Data: make([]byte, mostBytes+1)})
	if b.HandOver(long, prefix) {
		t.Error("a long message was handed over")
	}
	b.mu.Lock()
	b.others[1].queued = mostQueued
	b.mu.Unlock()
	if b.HandOver(msg, prefix) {
		t.Error("handed over to a worker that is behind")
	}
	a.say(SubjectClaims, 0, nil) // it has nothing waiting
	eventually(t, "handed over again", func() bool { return b.HandOver(msg, prefix) })
	if got := a.next(t); got.Subject() != msg.Subject() {
		t.Errorf("%s arrived", got.Subject())
	}
	b.nc.Close()
	if b.HandOver(msg, prefix) {
		t.Error("handed over without a connection")
	}
	// What was received is let go of.
	kept := func() (n int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, s := range b.recent {
			if s.msg != nil {
				n++
			}
		}
		return n
	}
	if n := kept(); n != 1 {
		t.Errorf("%d messages are kept, want the one that was handed over", n)
	}
	b.expire(time.Now())
	b.expire(time.Now())
	if n := kept(); n != 0 {
		t.Errorf("%d messages are kept after a beat", n)
	}
}

// TestHear: what is no claim is ignored.
func TestHear(t *testing.T) {
	p := newPeers(t, startServer(t), 5)
	claim := func(id uint64, flags byte, rest ...byte) *nats.Msg {
		return &nats.Msg{Data: append(append(binary.BigEndian.AppendUint64(nil, id), flags, 0, 0, 0, 0), rest...)}
	}
	h := binary.BigEndian.AppendUint64(nil, hash(prefix))
	tried := claim(8, 0, h...)
	tried.Header = nats.Header{jetstream.ExpectedStreamHeader: {"none"}}
	for _, msg := range []*nats.Msg{{}, {Data: make([]byte, claimsStart-1)}, tried, claim(5, 0, h...), claim(6, leaving, h...), claim(7, 0, h[:7]...)} {
		p.hear(msg)
	}
	if id := p.owner(prefix); id != 0 || len(p.others) != 1 {
		t.Errorf("handled by %d, others %v; want nobody, and one other", id, p.others)
	}
	if p.hear(claim(7, 0, append(h, 1)...)); p.owner(prefix) != 7 {
		t.Errorf("handled by %d, want 7", p.owner(prefix))
	}
	// A message that names nobody who could be told that it is done is dropped.
	r := &running{Peers: p}
	r.take(&nats.Msg{Subject: inputsOf(5), Data: claim(3, 0, h...).Data}) // what one who is new is told
	if p.owner(prefix) != 3 {
		t.Errorf("handled by %d, want 3", p.owner(prefix))
	}
	if msg := r.take(&nats.Msg{Subject: inputsOf(5), Header: nats.Header{headerSubject: {prefix + ".failure.x"}, headerReply: {"elsewhere"}}}); msg != nil {
		t.Errorf("%v was taken", msg)
	}
}

// TestMemory: it keeps what was seen last.
func TestMemory(t *testing.T) {
	m := newMemory()
	o := owner{other: &other{}}
	m.put(0, owner{})
	for h := range uint64(2*mostKnown + 10) {
		m.put(h+1, o)
		m.get(0) // seen again and again
	}
	if o, known := m.get(0); !known || !o.here() {
		t.Error("what is seen again and again was forgotten")
	}
	if got, known := m.get(2*mostKnown + 10); !known || got != o {
		t.Error("the last was forgotten")
	}
	if _, known := m.get(1); known || len(m.young)+len(m.old) > 2*mostKnown+1 {
		t.Errorf("it knows the first, or too many: %d", len(m.young)+len(m.old))
	}
	for h := range uint64(mostKnown) {
		m.put(h, owner{begun: h%2 == 0})
	}
	own := make(map[uint64]bool)
	for _, h := range m.own() {
		if own[h] {
			t.Fatalf("%d twice", h)
		}
		own[h] = true
	}
	if len(own) != mostKnown {
		t.Errorf("%d of its own, want %d", len(own), mostKnown)
	}
}

// TestHeardWithin: there is somebody to hear a claim while another worker is there, and this one speaks to it; the more hear it the longer it
// may take.
func TestHeardWithin(t *testing.T) {
	url := startServer(t)
	a, b := newPeers(t, url, 1).run(t), newPeers(t, url, 2).run(t)
	for _, p := range []*member{a, b} {
		eventually(t, "the other is there", func() bool { return p.HeardWithin() == 20*time.Millisecond })
	}
	b.messages.Stop()
	eventually(t, "the other has left", func() bool { return a.HeardWithin() == 0 })
	for id := range uint64(8) {
		a.hear(&nats.Msg{Data: append(binary.BigEndian.AppendUint64(nil, 10+id), 0, 0, 0, 0, 0)})
	}
	if got := a.HeardWithin(); got != 30*time.Millisecond {
		t.Errorf("%s among eight others, want 30ms", got)
	}
	if a.Alone(); a.HeardWithin() != 0 {
		t.Error("somebody hears a worker that is alone")
	}
}

// TestLeftForGood: what a worker said before it left may be heard after that, since it is on another subject.
func TestLeftForGood(t *testing.T) {
	p := newPeers(t, startServer(t), 5)
	says := func(flags byte) *nats.Msg {
		return &nats.Msg{Data: binary.BigEndian.AppendUint64(append(binary.BigEndian.AppendUint64(nil, 6), flags, 0, 0, 0, 0), hash(prefix))}
	}
	p.hear(says(0))
	p.hear(says(leaving))
	p.hear(says(0))
	if n, id := p.HeardWithin(), p.owner(prefix); n != 0 || id != 0 {
		t.Errorf("it is there again, and handles %d", id)
	}
}

// TestTellingForgetsNothing: to tell all that it claims, a worker need not forget any of it, nor what others claim.
func TestTellingForgetsNothing(t *testing.T) {
	p := newPeers(t, startServer(t), 5)
	o := owner{other: &other{id: 7}}
	const n = 2*mostKnown - 10
	for h := range uint64(n) {
		if h%2 == 0 {
			p.owners.put(2*h, owner{begun: true})
		} else {
			p.owners.put(2*h, o)
		}
	}
	if told := p.stands(p.owners.own()); len(told) != n/2 {
		t.Errorf("%d are told, want %d", len(told), n/2)
	}
	for h := range uint64(n) {
		if _, known := p.owners.look(2 * h); !known {
			t.Fatalf("%d was forgotten", h)
		}
	}
}
