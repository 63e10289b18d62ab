package peers

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse/internal/consumer"
)

// drainWithin is how long what is on the way may take when a worker stops.
const drainWithin = 2 * time.Second

// Pull implements [consumer.Source]: what other workers hand over, and what this one could not hand over. Neither is handed over again. It is
// called once; from then on this worker speaks to the others, until the pull stops.
func (p *Peers) Pull(int) (consumer.Messages, error) {
	r := &running{Peers: p, drained: make(chan struct{}), stopped: make(chan struct{}), silent: make(chan struct{}), status: p.nc.StatusChanged(nats.CLOSED)}
	r.drain = sync.OnceFunc(func() { close(r.drained) })
	for _, subject := range []string{inputsOf(p.id), p.returned + "*"} {
		sub, err := p.nc.ChanSubscribe(subject, p.arrived)
		if err != nil {
			return nil, fmt.Errorf("peers: %w", err)
		}
		r.open.Add(1)
		sub.SetClosedHandler(func(string) {
			if r.open.Add(-1) == 0 {
				r.drain()
			}
		})
		r.subs = append(r.subs, sub)
	}
	var err error
	if r.claims, err = p.nc.Subscribe(SubjectClaims, p.hear); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	go r.speak()
	return r, nil
}

// running is a worker that speaks to the others.
type running struct {
	*Peers
	claims   *nats.Subscription
	subs     []*nats.Subscription // of what arrives
	open     atomic.Int32         // of them
	drained  chan struct{}        // closed by drain when nothing arrives any more
	drain    func()
	stopping atomic.Bool
	stopped  chan struct{} // closed by Stop
	silent   chan struct{} // closed when it has said its last
	handed   int           // messages, as Next counts
	status   chan nats.Status
}

// Next implements [consumer.Messages].
func (r *running) Next() (jetstream.Msg, error) {
	for {
		select {
		case msg := <-r.arrived:
			if m := r.take(msg); m != nil {
				return m, nil
			}
		case <-r.drained:
			select {
			case msg := <-r.arrived:
				if m := r.take(msg); m != nil {
					return m, nil
				}
			default:
				r.nc.RemoveStatusListener(r.status)
				return nil, jetstream.ErrMsgIteratorClosed
			}
		case <-r.status:
			r.drain()
		}
	}
}

// take returns the message as its stream delivered it.
func (r *running) take(msg *nats.Msg) jetstream.Msg {
	if number, back := strings.CutPrefix(msg.Subject, r.returned); back {
		return r.back(number)
	}
	subject, reply := msg.Header.Get(headerSubject), msg.Header.Get(headerReply)
	if !strings.HasPrefix(reply, "$JS.ACK.") { // nothing on which somebody could say that it is done
		r.hear(msg)
		return nil
	}
	if r.handed++; r.handed%sayQueue == 0 {
		r.speakSoon()
	}
	delete(msg.Header, headerSubject)
	delete(msg.Header, headerReply)
	msg.Subject, msg.Reply = subject, reply
	return consumer.Delivered(r.nc, msg)
}

// Stop implements [consumer.Messages]: the others hand over nothing more, and what is on the way still arrives.
func (r *running) Stop() {
	r.Alone()
	if !r.stopping.CompareAndSwap(false, true) {
		return
	}
	time.AfterFunc(drainWithin, r.drain) // a server that does not answer does not hold up the stop
	close(r.stopped)
	<-r.silent
	_ = r.claims.Unsubscribe() // this and the next fail where the connection is closed
	for _, sub := range r.subs {
		if !r.nc.IsConnected() || sub.Drain() != nil { // nothing comes
			_ = sub.Unsubscribe()
			r.drain()
		}
	}
}

// speak tells the others what there is to tell, until the stop.
func (r *running) speak() {
	defer close(r.silent)
	defer r.say(SubjectClaims, leaving, nil)
	beats := time.NewTicker(beat)
	defer beats.Stop()
	for {
		r.tell()
		told := time.Now()
		select {
		case <-r.stopped:
			return
		case now := <-beats.C:
			r.expire(now)
		case <-r.news:
			r.mu.Lock()
			pause := r.pause()
			r.mu.Unlock()
			select {
			case <-r.stopped:
				return
			case <-time.After(max(pause-time.Since(told), tellSoonest)):
			}
		}
	}
}
