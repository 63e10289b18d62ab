package peers

import (
	"encoding/binary"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	tellSoonest = time.Millisecond     // how long a claim waits for others to be told with it
	tellEvery   = 5 * time.Millisecond // between two messages with claims; longer where many listen
	heardAfter  = 3 * tellEvery        // how long it takes on a busy machine until a message with claims is heard
	beat        = time.Second          // between signs of life
	goneAfter   = 3*beat + beat/2      // without one, and up to a beat more
	forgotten   = 10 * time.Minute     // without one
	sayQueue    = 256                  // after so many messages that were handed to it, a worker says how many wait
	mostClaims  = 4096                 // in one message
)

// A message on [SubjectClaims], or on the subject of one who is new, big endian: the worker's id (8 bytes), 1 where it stops (1), how many
// messages wait there (4), and the hashes of executions that it claims (8 each), with [begunBit].
const (
	leaving     = 1
	claimsStart = 8 + 1 + 4
)

// tell tells the others what this worker claims and that it is there, and who is new, or here again, all that it claims.
func (p *Peers) tell() {
	p.mu.Lock()
	claims, newcomers := p.claims, p.new
	p.claims, p.new = nil, nil
	alone := p.alone
	var own []uint64
	if len(newcomers) > 0 {
		own = p.stands(p.owners.own())
	}
	claims = p.stands(claims)
	p.mu.Unlock()
	if alone {
		return
	}
	for _, o := range newcomers {
		p.say(o.inputs, 0, own)
	}
	p.say(SubjectClaims, 0, claims)
}

// stands returns the claims that this worker has not given up, each with how far it is.
func (p *Peers) stands(claims []uint64) []uint64 {
	still := claims[:0]
	for _, h := range claims {
		switch o, known := p.owners.look(h); {
		case !known || !o.here():
		case o.begun:
			still = append(still, h|begunBit)
		default:
			still = append(still, h)
		}
	}
	return still
}

// say says that this worker is there, or leaves, and what it claims, in one message or more. What others do not hear for want of a
// connection they learn when they hand over, or from the journal.
func (p *Peers) say(subject string, flags byte, claims []uint64) {
	for {
		n := min(len(claims), mostClaims)
		body := binary.BigEndian.AppendUint64(make([]byte, 0, claimsStart+8*n), p.id)
		body = append(body, flags)
		body = binary.BigEndian.AppendUint32(body, uint32(len(p.arrived)))
		for _, h := range claims[:n] {
			body = binary.BigEndian.AppendUint64(body, h)
		}
		if p.nc.Publish(subject, body) != nil {
			return
		}
		if claims = claims[n:]; len(claims) == 0 {
			return
		}
	}
}

// hear notes what another worker says.
func (p *Peers) hear(msg *nats.Msg) {
	if len(msg.Data) < claimsStart || len(msg.Header) > 0 { // as when somebody tries whether it may speak
		return
	}
	id, flags, queued := binary.BigEndian.Uint64(msg.Data), msg.Data[8], binary.BigEndian.Uint32(msg.Data[9:])
	if id == p.id {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	from := p.others[id]
	switch {
	case flags&leaving != 0:
		if from != nil {
			from.gone, from.left = true, true
		}
		return
	case from == nil:
		from = &other{id: id, inputs: inputsOf(id), gone: true}
		p.others[id] = from
	case from.left:
		return // said before that, and heard after it: on another subject
	}
	if from.gone { // what was claimed meanwhile it may not have been told
		p.new = append(p.new, from)
		p.speakSoon()
	}
	from.gone, from.heard, from.queued = false, time.Now(), int(queued)
	for body := msg.Data[claimsStart:]; len(body) >= 8; body = body[8:] {
		h := binary.BigEndian.Uint64(body)
		p.hearClaim(h&^begunBit, owner{from, h&begunBit != 0})
	}
}

// hearClaim notes the claim of another worker, unless it knows of one that comes before it.
func (p *Peers) hearClaim(h uint64, other owner) {
	o, known := p.owners.get(h)
	switch {
	case !known || o.isGone() || !p.before(o, other):
		p.owners.put(h, other)
	case o.here():
		p.claim(h) // once more, as it may not have been heard
	}
}

// before says which of two keeps an execution that both have claimed before they heard of each other: the one who has begun, since there the
// other would find a record that it does not know of; else the one with the lower id.
func (p *Peers) before(a, b owner) bool {
	if a.begun != b.begun {
		return a.begun
	}
	return p.idOf(a) < p.idOf(b)
}

func (p *Peers) idOf(o owner) uint64 {
	if o.here() {
		return p.id
	}
	return o.id
}

// expire takes for gone who has said nothing for long, and lets go of what was handed over before the last beat: it was received.
func (p *Peers) expire(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, o := range p.others {
		silent := now.Sub(o.heard)
		if silent > goneAfter {
			o.gone = true
		}
		if silent > forgotten {
			delete(p.others, id)
		}
	}
	for i := range p.recent {
		if s := &p.recent[i]; s.number < p.atBeat {
			s.msg = nil
		}
	}
	p.atBeat = p.sent
}
