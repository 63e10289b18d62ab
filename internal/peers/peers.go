// Package peers has what comes to one execution handled by the worker that remembers it. The broker hands out inputs to any worker; one that
// does not know where the execution stands has to ask, or is wrong and decides again.
//
// Workers tell each other which executions they handle, and hand over what belongs to another one: as a message between them, with the subject
// on which whoever handles it acknowledges. Claims are hints: the journal alone says who was first.
//
// Guarantees: a message is handed over at most once, and not to a worker that is gone, as far as the broker knows: what nobody receives
// the broker returns, and it is handled here. What is lost on the way is delivered again by its stream, like all that a worker had in hand.
// It does not look into messages, and keeps nothing that a restart could lose.
package peers

import (
	"errors"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The subjects on which workers speak to each other. No stream takes them, and nobody hears them who listens to all of recourse.>, since the
// broker does not return what somebody hears.
const (
	SubjectClaims = "recourse-workers.claims"
	SubjectInputs = "recourse-workers.inputs.*" // the star is the worker's id
)

// The headers of a message that is handed over: where it came from, and where it is acknowledged.
const (
	headerSubject = "Recourse-Handed-Subject"
	headerReply   = "Recourse-Handed-Reply"
)

const (
	// mostQueued is how many messages may wait at a worker before it is handed no more: as many as it pulls ahead, unless told otherwise.
	mostQueued = 1024
	// mostReturned is how many messages are remembered in case nobody receives them, which is known after a round trip.
	mostReturned = 1024
	// mostBytes is the longest message that is handed over, with its headers.
	mostBytes = 32 << 10
)

// Peers is one worker among the others. It is safe for concurrent use.
type Peers struct {
	nc       *nats.Conn
	id       uint64
	returned string         // subject of what nobody received, followed by its number
	arrived  chan *nats.Msg // what is handed to it, and what nobody received
	news     chan struct{}  // there is something to tell

	mu     sync.Mutex
	owners memory
	others map[uint64]*other
	claims []uint64 // not told yet
	new    []*other // know nothing yet, or not all
	alone  bool     // it hands over nothing, and says nothing
	sent   uint64
	atBeat uint64 // what sent was a beat ago
	recent [mostReturned]sent
}

// other is another worker.
type other struct {
	id     uint64 // new with each start, so that what it claims lasts as long as it does
	inputs string
	heard  time.Time
	queued int  // messages that wait there, as far as is known
	gone   bool // until it says something
	left   bool // for good
}

// sent is a message on its way.
type sent struct {
	number uint64
	to     *other
	msg    jetstream.Msg
}

// New returns a worker that has not said yet that it is there.
func New(nc *nats.Conn) *Peers {
	return &Peers{
		nc: nc, id: rand.Uint64(), returned: nc.NewInbox() + ".", arrived: make(chan *nats.Msg, 4*mostQueued), news: make(chan struct{}, 1),
		owners: newMemory(), others: make(map[uint64]*other),
	}
}

// inputsOf is the subject on which a worker is handed messages.
func inputsOf(id uint64) string {
	return strings.TrimSuffix(SubjectInputs, "*") + strconv.FormatUint(id, 36)
}

// Claim says that this worker handles the execution under a prefix, unless another one does. What was handed over it claims in any case:
// if somebody is wrong about who handles it, then all hear it now and agree.
func (p *Peers) Claim(prefix string, handed bool) {
	h := hash(prefix)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch o, known := p.owners.get(h); {
	case handed:
		p.owners.put(h, owner{begun: true})
		if !known || !o.here() {
			p.claim(h)
		}
	case !known || o.isGone():
		p.owners.put(h, owner{})
		p.claim(h)
	}
}

// claim has a claim told soon, where there is somebody to tell.
func (p *Peers) claim(h uint64) {
	if !p.alone && p.live() > 0 {
		p.claims = append(p.claims, h)
		p.speakSoon()
	}
}

// Begin says that this worker handles something of the execution under a prefix: of two that claim it, who has begun keeps it.
func (p *Peers) Begin(prefix string) {
	h := hash(prefix)
	p.mu.Lock()
	defer p.mu.Unlock()
	if o, known := p.owners.get(h); known && o.here() && !o.begun {
		p.owners.put(h, owner{begun: true})
	}
}

// HeardWithin returns how long it takes until others have heard what this worker claims, about; 0 where there are none.
func (p *Peers) HeardWithin() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alone || p.live() == 0 {
		return 0
	}
	return p.pause() + heardAfter
}

// pause is how long after it has spoken, at the least, a worker speaks again to tell what it claims.
func (p *Peers) pause() time.Duration { return tellEvery * time.Duration(1+p.live()/4) }

// live is how many others are there.
func (p *Peers) live() (n int) {
	for _, o := range p.others {
		if !o.gone {
			n++
		}
	}
	return n
}

func (p *Peers) speakSoon() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// HandOver hands a message to the worker that handles the execution under a prefix, and is done with it. It returns false where that is this
// one, or the other cannot take it now.
func (p *Peers) HandOver(msg jetstream.Msg, prefix string) bool {
	h := hash(prefix)
	p.mu.Lock()
	defer p.mu.Unlock()
	to, known := p.owners.get(h)
	if !known || to.here() || to.gone || p.alone || to.queued >= mostQueued || size(msg) > mostBytes {
		return false
	}
	header := make(nats.Header, len(msg.Headers())+2)
	maps.Copy(header, msg.Headers())
	header[headerSubject], header[headerReply] = []string{msg.Subject()}, []string{msg.Reply()}
	// Under the lock, so that it is sent before a stop drains: by then the broker has returned what nobody received.
	err := p.nc.PublishMsg(&nats.Msg{Subject: to.inputs, Reply: p.returned + strconv.FormatUint(p.sent, 10), Header: header, Data: msg.Data()})
	if err != nil {
		return false // disconnected just now
	}
	to.queued += p.live() // all of which may do the same
	p.recent[p.sent%mostReturned] = sent{p.sent, to.other, msg}
	p.sent++
	return true
}

// Denied says whether an error is the server's refusal to let workers speak with each other.
func Denied(err error) bool {
	return errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+strings.TrimSuffix(SubjectClaims, "claims"))
}

// Alone ends the speaking with others, for a worker that may not. What they hand over is still handled.
func (p *Peers) Alone() {
	p.mu.Lock()
	p.alone = true
	p.mu.Unlock()
}

// back returns a message that nobody received.
func (p *Peers) back(number string) jetstream.Msg {
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.recent[n%mostReturned]
	if s.msg == nil || s.number != n {
		return nil // delivered again by its stream
	}
	msg := s.msg
	s.msg, s.to.gone = nil, true
	return msg
}

// size is the bytes of a message, about.
func size(msg jetstream.Msg) int {
	n := len(msg.Data())
	for name, values := range msg.Headers() {
		for _, value := range values {
			n += len(name) + len(value)
		}
	}
	return n
}
