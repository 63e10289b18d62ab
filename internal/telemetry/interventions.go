package telemetry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/recourse-dev/recourse"
)

// The bounds of looking: what is open is looked up again after a while, and not faster than the server likes.
const (
	lookEvery     = 30 * time.Second       // at one execution
	lookTick      = 100 * time.Millisecond // between two rounds
	lookAtOnce    = 10                     // executions in a round
	lookFirst     = 100                    // executions in a round until all have been looked at once
	forgottenFrom = 24 * time.Hour         // past its deadline an intervention was over before the worker started
)

// Interventions knows which interventions are open, of all executions. That one was opened it hears from the journal, where pauses are few;
// what ended it could be any record, and to follow all of them would cost the server as much as the records themselves. So what this
// worker ends is gone at once, and whether another ended it is looked up every 30 s: up to 100 executions a second, less often for each
// where more than 3,000 are paused. Memory: about 300 bytes for each that is open.
type Interventions struct {
	js    jetstream.JetStream
	waits func(ctx context.Context, prefix string) ([]recourse.Wait, error)
	log   *zap.Logger

	mu     sync.Mutex
	open   map[string]*paused // by the prefix of the execution
	queue  []string           // the prefixes, the one to be looked at first in front
	count  int                // of open interventions
	read   bool               // the journal up to where it ended at the start
	unseen int                // executions that were never looked at
}

// paused is an execution that was paused.
type paused struct {
	open    map[uint64]struct{} // versions of the interventions
	over    map[uint64]struct{} // versions of those that this worker ended
	look    time.Time           // when again
	seen    bool                // looked at, or opened since the start
	changes int                 // of open
}

// NewInterventions returns the interventions of a journal; waits returns the pending waits of the execution under a prefix.
func NewInterventions(js jetstream.JetStream, waits func(ctx context.Context, prefix string) ([]recourse.Wait, error), log *zap.Logger) *Interventions {
	return &Interventions{js: js, waits: waits, log: log.Named("interventions"), open: make(map[string]*paused)}
}

// Run follows the journal until ctx ends. It returns an error only where it cannot start.
func (i *Interventions) Run(ctx context.Context) error {
	consumer, err := i.js.OrderedConsumer(ctx, recourse.StreamJournal, jetstream.OrderedConsumerConfig{
		HeadersOnly: true, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		FilterSubjects: []string{recourse.FilterDetail(recourse.FamilyCommand, recourse.VerbPause.String())},
	})
	if err != nil {
		return fmt.Errorf("interventions: %w", err)
	}
	if info := consumer.CachedInfo(); info != nil && info.NumPending == 0 {
		i.caughtUp()
	}
	following, err := consumer.Consume(i.follow)
	if err != nil {
		return fmt.Errorf("interventions: %w", err)
	}
	defer following.Stop()
	tick := time.NewTicker(lookTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			i.look(ctx, now)
		}
	}
}

func (i *Interventions) follow(msg jetstream.Msg) {
	subject, err := recourse.ParseSubject(msg.Subject())
	metadata, metaErr := msg.Metadata()
	if err != nil || metaErr != nil {
		return // cannot come from the journal
	}
	version, err := recourse.ParseVersions(msg.Headers().Get(recourse.HeaderVersion))
	deadline, _ := time.Parse(time.RFC3339Nano, msg.Headers().Get(recourse.HeaderDueAt))
	if err == nil && len(version) == 1 && time.Since(deadline) < forgottenFrom {
		i.opened(subject.Prefix, version[0])
	}
	if metadata.NumPending == 0 {
		i.caughtUp()
	}
}

func (i *Interventions) caughtUp() {
	i.mu.Lock()
	i.read = true
	i.mu.Unlock()
}

// opened notes an intervention. Whether one that was there before the worker has ended is looked up first of all.
func (i *Interventions) opened(prefix string, version uint64) {
	if i == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.open[prefix]
	if p == nil {
		p = &paused{open: make(map[uint64]struct{}, 1), seen: i.read}
		if p.seen {
			p.look = time.Now().Add(lookEvery)
		} else {
			i.unseen++
		}
		i.open[prefix] = p
		i.queue = append(i.queue, prefix)
	}
	if _, over := p.over[version]; over {
		return // the journal tells it later than this worker did
	}
	if _, known := p.open[version]; !known {
		p.open[version] = struct{}{}
		p.changes++
		i.count++
	}
}

// ended notes that this worker ended waits, of whatever kind.
func (i *Interventions) ended(prefix string, ends uint64, cancelled []uint64) {
	if i == nil || ends == 0 && len(cancelled) == 0 {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.open[prefix]
	if p == nil {
		return
	}
	i.remove(p, ends)
	for _, version := range cancelled {
		i.remove(p, version)
	}
}

func (i *Interventions) remove(p *paused, version uint64) {
	if _, known := p.open[version]; known {
		delete(p.open, version)
		if p.over == nil {
			p.over = make(map[uint64]struct{}, 1)
		}
		p.over[version] = struct{}{}
		p.changes++
		i.count--
	}
}

// Open returns how many interventions are open, false until each that may be was looked at once after the start.
func (i *Interventions) Open() (int, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.count, i.read && i.unseen == 0
}

// look looks up the executions whose turn it is.
func (i *Interventions) look(ctx context.Context, now time.Time) {
	for _, turn := range i.turn(now) {
		waits, err := i.waits(ctx, turn.prefix)
		if err != nil {
			if ctx.Err() == nil {
				i.log.Warn("an intervention could not be looked up", zap.String("execution", turn.prefix), zap.Error(err))
			}
			return // the journal does not answer now; the turn of those that are left comes again
		}
		i.looked(turn, waits)
	}
}

// turn is an execution to look at, as it was when its turn came.
type turn struct {
	prefix  string
	changes int
}

// turn returns the executions to look at now. Each goes to the end of the queue, or out of it where nothing is open any more.
func (i *Interventions) turn(now time.Time) (turns []turn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	most := lookAtOnce
	if i.unseen > 0 {
		most = lookFirst
	}
	for len(i.queue) > 0 && len(turns) < most {
		prefix := i.queue[0]
		p := i.open[prefix]
		if p.look.After(now) {
			break
		}
		i.queue = i.queue[1:]
		if len(p.open) == 0 {
			i.drop(prefix, p)
			continue
		}
		p.look = now.Add(lookEvery)
		i.queue = append(i.queue, prefix)
		turns = append(turns, turn{prefix, p.changes})
	}
	return turns
}

func (i *Interventions) drop(prefix string, p *paused) {
	delete(i.open, prefix)
	if !p.seen {
		i.unseen--
	}
}

func (i *Interventions) looked(at turn, waits []recourse.Wait) {
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.open[at.prefix]
	if p == nil {
		return
	}
	if !p.seen {
		p.seen = true
		i.unseen--
	}
	if p.changes != at.changes {
		return // by what came in between: next time
	}
	i.count -= len(p.open)
	clear(p.open)
	for n := range waits {
		if waits[n].Kind == recourse.WaitIntervention {
			p.open[waits[n].Version] = struct{}{}
		}
	}
	i.count += len(p.open)
}
