package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Source is where messages are pulled from; see [Durable].
type Source interface {
	// Pull starts a pull that asks for as many messages ahead.
	Pull(prefetch int) (Messages, error)
}

// Messages is a running pull. One goroutine calls Next.
type Messages interface {
	// Next waits for the next message. After Stop it returns what has arrived and then jetstream.ErrMsgIteratorClosed. It returns
	// jetstream.ErrConsumerDeleted, ErrConsumerNotFound or ErrStreamNotFound where nothing will come any more; after other errors it goes on.
	Next() (jetstream.Msg, error)
	// Stop asks for nothing more. It may be called more than once, from any goroutine.
	Stop()
}

const (
	pullExpiry    = 30 * time.Second       // of a request for messages at the server
	pullHeartbeat = 5 * time.Second        // between signs of life of the server while there are none
	pullPause     = 250 * time.Millisecond // before asking again after a refusal
	lookWithin    = 5 * time.Second        // for the question whether the consumer is still there
	drainWithin   = 2 * time.Second        // for what is on the way when a pull stops
)

// Durable returns the source of a durable consumer on the server.
//
// It does not use the client library's iterator: that one takes a stored message without a body for a word from the server where it has
// a header "Status", so whoever may publish to the inbox could stop all workers ("400"), or have a message never settled ("404"). A word
// from the server has no reply subject; a stored message always has one, that of its acknowledgement.
func Durable(nc *nats.Conn, consumer jetstream.Consumer) Source { return &durable{nc, consumer} }

type durable struct {
	nc       *nats.Conn
	consumer jetstream.Consumer
}

func (d *durable) Pull(prefetch int) (Messages, error) {
	info := d.consumer.CachedInfo()
	p := &pull{
		durable: *d, prefetch: prefetch, inbox: d.nc.NewInbox(),
		requests: "$JS.API.CONSUMER.MSG.NEXT." + info.Stream + "." + info.Name,
		// Twice the prefetch may be on the way after a reconnect; what does not fit is delivered again.
		arrived: make(chan *nats.Msg, 4*prefetch+16), drained: make(chan struct{}),
	}
	p.running, p.stop = context.WithCancel(context.Background())
	var err error
	if p.sub, err = d.nc.ChanSubscribe(p.inbox, p.arrived); err != nil {
		return nil, err
	}
	p.drain = sync.OnceFunc(func() { close(p.drained) })
	p.sub.SetClosedHandler(func(string) { p.drain() })
	p.status = d.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	return p, nil
}

// pull is a running pull of one durable consumer. What is not said otherwise belongs to the goroutine that calls Next.
type pull struct {
	durable
	prefetch int
	inbox    string
	requests string // subject
	sub      *nats.Subscription
	arrived  chan *nats.Msg
	drained  chan struct{} // closed by drain when nothing arrives any more
	drain    func()
	status   chan nats.Status
	running  context.Context // ends with Stop
	stop     context.CancelFunc

	asked int       // messages that the server still owes
	pause time.Time // before it nothing is asked for
}

// Stop implements [Messages]: what is on the way still arrives, so that it need not wait to be delivered again.
func (p *pull) Stop() {
	if p.running.Err() != nil {
		return
	}
	p.stop()
	if !p.nc.IsConnected() || p.sub.Drain() != nil {
		_ = p.sub.Unsubscribe() // fails where the connection is closed, which Next sees by itself
		p.drain()
		return
	}
	time.AfterFunc(drainWithin, p.drain) // a server that does not answer does not hold up the stop
}

// Next implements [Messages].
func (p *pull) Next() (jetstream.Msg, error) {
	for p.ask() { // most often a message is there: no need for a timer
		select {
		case msg := <-p.arrived:
			if m, err := p.take(msg); m != nil || err != nil {
				return m, err
			}
			continue
		default:
		}
		break
	}
	silent := time.NewTimer(2 * pullHeartbeat)
	defer silent.Stop()
	for {
		var again <-chan time.Time
		if !p.ask() {
			again = time.After(pullPause)
		}
		select {
		case msg := <-p.arrived:
			silent.Reset(2 * pullHeartbeat)
			if m, err := p.take(msg); m != nil || err != nil {
				return m, err
			}
		case <-p.drained:
			select {
			case msg := <-p.arrived:
				if m, _ := p.take(msg); m != nil {
					return m, nil
				}
			default:
				return nil, p.closed()
			}
		case status := <-p.status:
			if status == nats.CLOSED {
				return nil, p.closed()
			}
			if len(p.status) == 0 { // else it is asked for after the last of several
				p.asked = 0 // the requests ended with the connection on which they were made
			}
		case <-silent.C:
			if p.nc.IsClosed() {
				return nil, p.closed()
			}
			return nil, p.interrupted(jetstream.ErrNoHeartbeat)
		case <-again:
		}
	}
}

func (p *pull) closed() error {
	p.nc.RemoveStatusListener(p.status)
	return jetstream.ErrMsgIteratorClosed
}

// ask keeps between half the prefetch and all of it asked for. It is false where that has to wait.
func (p *pull) ask() bool {
	if p.asked > p.prefetch/2 || p.running.Err() != nil {
		return true
	}
	if time.Now().Before(p.pause) || !p.nc.IsConnected() {
		return false
	}
	n := p.prefetch - p.asked
	request, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{n, pullExpiry, pullHeartbeat})
	if err == nil {
		err = p.nc.PublishRequest(p.requests, p.inbox, request)
	}
	if err != nil {
		return false // disconnected just now
	}
	p.asked += n
	return true
}

// take returns a stored message, or acts on a word from the server.
func (p *pull) take(msg *nats.Msg) (jetstream.Msg, error) {
	if msg.Reply != "" {
		p.asked = max(p.asked-1, 0)
		return Delivered(p.nc, msg), nil
	}
	status, description := msg.Header.Get("Status"), msg.Header.Get("Description")
	switch status {
	case "100": // a sign of life
		return nil, nil
	case "404", "408": // a request expired
		left, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages"))
		if err != nil {
			left = p.asked
		}
		p.asked = max(p.asked-left, 0)
		return nil, nil
	case "409":
		if strings.Contains(strings.ToLower(description), "consumer deleted") {
			return nil, jetstream.ErrConsumerDeleted
		}
	}
	// A new leader, a server that stops, nobody there, too many requests.
	return nil, p.interrupted(fmt.Errorf("%s %s", status, description))
}

// interrupted has all asked for again after a pause. It returns why that would be in vain, or else the error it was given.
func (p *pull) interrupted(err error) error {
	p.asked, p.pause = 0, time.Now().Add(pullPause)
	ctx, cancel := context.WithTimeout(p.running, lookWithin)
	defer cancel()
	if _, gone := p.consumer.Info(ctx); errors.Is(gone, jetstream.ErrConsumerNotFound) || errors.Is(gone, jetstream.ErrStreamNotFound) {
		return gone
	}
	return err
}

// Delivered returns a message that was delivered to somebody, whom it names as its reply subject, for whoever handles it.
func Delivered(nc *nats.Conn, msg *nats.Msg) jetstream.Msg { return &message{nc, msg} }

// message is a stored message as it was delivered.
type message struct {
	nc  *nats.Conn
	msg *nats.Msg
}

var _ jetstream.Msg = (*message)(nil)

func (m *message) Data() []byte         { return m.msg.Data }
func (m *message) Headers() nats.Header { return m.msg.Header }
func (m *message) Subject() string      { return m.msg.Subject }
func (m *message) Reply() string        { return m.msg.Reply }

func (m *message) Metadata() (*jetstream.MsgMetadata, error) {
	meta, err := m.msg.Metadata()
	if err != nil {
		return nil, err
	}
	return &jetstream.MsgMetadata{
		Sequence:     jetstream.SequencePair{Consumer: meta.Sequence.Consumer, Stream: meta.Sequence.Stream},
		NumDelivered: meta.NumDelivered, NumPending: meta.NumPending, Timestamp: meta.Timestamp,
		Stream: meta.Stream, Consumer: meta.Consumer, Domain: meta.Domain,
	}, nil
}

func (m *message) settle(how string) error { return m.nc.Publish(m.msg.Reply, []byte(how)) }

func (m *message) Ack() error        { return m.settle("+ACK") }
func (m *message) Nak() error        { return m.settle("-NAK") }
func (m *message) InProgress() error { return m.settle("+WPI") }
func (m *message) Term() error       { return m.settle("+TERM") }

func (m *message) TermWithReason(reason string) error { return m.settle("+TERM " + reason) }

func (m *message) NakWithDelay(delay time.Duration) error {
	return m.settle(fmt.Sprintf(`-NAK {"delay": %d}`, delay.Nanoseconds()))
}

func (m *message) DoubleAck(ctx context.Context) error {
	_, err := m.nc.RequestWithContext(ctx, m.msg.Reply, []byte("+ACK"))
	return err
}
