package peers

import (
	"encoding/binary"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	tellWithin = 20 * time.Millisecond // how long a claim waits for others to be told with it
	beat       = time.Second           // between signs of life
	goneAfter  = 3*beat + beat/2       // without one
	mostClaims = 4096                  // in one message
)

// A message on [SubjectClaims], big endian: the worker's id (8 bytes), 1 where it stops (1), how many messages wait there (4), and the hashes of
// executions that it claims (8 each).
const (
	leaving     = 1
	claimsStart = 8 + 1 + 4
)

// tell tells the others what this worker claims and that it is there.
func (p *Peers) tell() error {
	p.mu.Lock()
	if p.alone {
		p.mu.Unlock()
		return nil
	}
	claims := p.claims
	p.claims = nil
	if p.tellAll {
		claims, p.tellAll = p.owners.own(), false
	}
	p.mu.Unlock()
	for {
		n := min(len(claims), mostClaims)
		if err := p.say(0, claims[:n]); err != nil {
			return err // disconnected: who does not hear it asks the journal
		}
		if claims = claims[n:]; len(claims) == 0 {
			return nil
		}
	}
}

func (p *Peers) say(flags byte, claims []uint64) error {
	body := binary.BigEndian.AppendUint64(make([]byte, 0, claimsStart+8*len(claims)), p.id)
	body = append(body, flags)
	body = binary.BigEndian.AppendUint32(body, uint32(len(p.arrived)))
	for _, h := range claims {
		body = binary.BigEndian.AppendUint64(body, h)
	}
	return p.nc.Publish(SubjectClaims, body)
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
			p.forget(from)
		}
		return
	}
	if from == nil {
		from = &other{id: id, inputs: inputsOf(id)}
		p.others[id], p.tellAll = from, true
		p.speakSoon()
	}
	from.heard, from.queued = time.Now(), int(queued)
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

// expire takes for gone who has said nothing for long.
func (p *Peers) expire(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.others {
		if now.Sub(o.heard) > goneAfter {
			p.forget(o)
		}
	}
}
