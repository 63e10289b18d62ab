package peers

import (
	"encoding/binary"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	tellWithin = 20 * time.Millisecond // how long a claim waits for others to be told with it; longer where many listen
	beat       = time.Second           // between signs of life
	goneAfter  = 3*beat + beat/2       // without one, and up to a beat more
	forgotten  = 10 * time.Minute      // without one
	sayQueue   = 256                   // after so many messages that were handed to it, a worker says how many wait
	mostClaims = 4096                  // in one message
)

// A message on [SubjectClaims], or on the subject of one who is new, big endian: the worker's id (8 bytes), 1 where it stops (1), how many messages wait there (4), and the hashes of
// executions that it claims (8 each).
const (
	leaving     = 1
	claimsStart = 8 + 1 + 4
)

// tell tells the others what this worker claims and that it is there, and who is new all that it claims.
func (p *Peers) tell() {
	p.mu.Lock()
	claims, newcomers := p.claims, p.new
	p.claims, p.new = nil, nil
	alone := p.alone
	var own []uint64
	if len(newcomers) > 0 {
		own = p.owners.own()
	}
	p.mu.Unlock()
	if alone {
		return
	}
	for _, o := range newcomers {
		p.say(o.inputs, 0, own)
	}
	p.say(SubjectClaims, 0, claims)
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
	if flags&leaving != 0 {
		if from != nil {
			from.gone = true
		}
		return
	}
	if from == nil {
		from = &other{id: id, inputs: inputsOf(id)}
		p.others[id] = from
		p.new = append(p.new, from)
		p.speakSoon()
	}
	from.gone, from.heard, from.queued = false, time.Now(), int(queued)
	for body := msg.Data[claimsStart:]; len(body) >= 8; body = body[8:] {
		h := binary.BigEndian.Uint64(body)
		// Two may claim the same before they hear of each other. All agree on the one with the lower id.
		switch owner, known := p.owners.get(h); {
		case known && owner == nil && p.id < id:
			p.claim(h) // once more, as it may not have been heard
		case known && owner != nil && !owner.gone && owner.id < id:
		default:
			p.owners.put(h, from)
		}
	}
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
