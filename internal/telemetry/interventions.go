package telemetry

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/recourse-dev/recourse"
)

// The bounds of looking: what is open is looked up again after a while, and not faster than the server likes.
const (
	lookFirst     = 6 * time.Second       // at one that was heard of: by then the journal has stored or refused it
	lookEvery     = 30 * time.Second      // at one execution
	lookTick      = 20 * time.Millisecond // between two rounds, which are small: a round of 100 showed in the latency of decisions
	forgottenFrom = 24 * time.Hour        // past its deadline an intervention was over before the worker started
)

// Interventions knows which interventions are open, of all executions. What is open when the worker starts it learns as the journal is read
// for overdue waits ([Interventions.Read]), and what is opened from then on from the pauses as they are published ([Interventions.Heard]).
// A consumer of the pauses would cost the server more than all decisions (docs/adr/0005-sweeper-watches-its-own.md), and one of all that
// may end them as much as the records themselves. So what this worker ends is gone at once, and whether another ended it is looked up
// every 30 s: up to 50 executions a second, less often for each where more than 1,500 are paused. One that was heard of is looked up after six
// seconds too, up to 50 of them a second: a pause is heard also where the journal then refuses its record.
//
// Memory: about 300 bytes for each that is open. A nil one knows nothing, and may be told.
type Interventions struct {
	waits func(ctx context.Context, prefix string) ([]recourse.Wait, error)
	log   *zap.Logger

	// Of the one who reads the journal: what it has found open, by prefix and version.
	found map[string]map[uint64]struct{}

	mu    sync.Mutex
	open  map[string]*paused // by the prefix of the execution
	queue []string           // the prefixes, the one to be looked at first in front
	heard []heard            // what was heard and not looked at yet
	count int                // of open interventions
	read  bool               // the journal, once
}

// paused is an execution that was paused.
type paused struct {
	open    map[uint64]struct{} // versions of the interventions
	over    map[uint64]struct{} // versions of those that this worker ended
	look    time.Time           // when again
	changes int                 // of open
}

// heard is an execution of which a pause was heard.
type heard struct {
	prefix string
	look   time.Time // when
}

// NewInterventions returns the interventions of a journal; waits returns the pending waits of the execution under a prefix.
func NewInterventions(waits func(ctx context.Context, prefix string) ([]recourse.Wait, error), log *zap.Logger) *Interventions {
	return &Interventions{
		waits: waits, log: log.Named("interventions"),
		found: make(map[string]map[uint64]struct{}), open: make(map[string]*paused),
	}
}

// Run looks things up until ctx ends.
func (i *Interventions) Run(ctx context.Context) {
	tick := time.NewTicker(lookTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			i.look(ctx, now)
		}
	}
}

// Heard notes a record as it is published. That it was stored is seen when it is looked up.
func (i *Interventions) Heard(subject recourse.Subject, header nats.Header) {
	if version, opens := opens(subject, header); opens {
		i.opened(subject.Prefix, version, true)
	}
}

// Read notes a record of the journal, which is read in its order by one goroutine, from the beginning to its end, now and again.
func (i *Interventions) Read(subject recourse.Subject, header nats.Header) {
	if i == nil {
		return
	}
	if open := i.found[subject.Prefix]; open != nil {
		for _, name := range [...]string{recourse.HeaderEnds, recourse.HeaderCancels} {
			versions, _ := recourse.ParseVersions(header.Get(name)) // none where there is no such header
			for _, version := range versions {
				delete(open, version)
			}
		}
		if len(open) == 0 {
			delete(i.found, subject.Prefix)
		}
	}
	if version, opens := opens(subject, header); opens {
		if i.found[subject.Prefix] == nil {
			i.found[subject.Prefix] = make(map[uint64]struct{}, 1)
		}
		i.found[subject.Prefix][version] = struct{}{}
	}
}

// ReadAll notes that the journal was read to its end.
func (i *Interventions) ReadAll() {
	if i == nil {
		return
	}
	for prefix, versions := range i.found {
		for version := range versions {
			i.opened(prefix, version, false)
		}
	}
	clear(i.found)
	i.mu.Lock()
	i.read = true
	i.mu.Unlock()
}

// opens reports whether a record opens an intervention that may still be open, and returns its version.
func opens(subject recourse.Subject, header nats.Header) (version uint64, opens bool) {
	if subject.Family != recourse.FamilyCommand || subject.Detail != recourse.VerbPause.String() {
		return 0, false
	}
	versions, err := recourse.ParseVersions(header.Get(recourse.HeaderVersion))
	deadline, _ := time.Parse(time.RFC3339Nano, header.Get(recourse.HeaderDueAt))
	if err != nil || len(versions) != 1 || time.Since(deadline) >= forgottenFrom {
		return 0, false
	}
	return versions[0], true
}

// opened notes an intervention, which was heard of or stands in the journal.
func (i *Interventions) opened(prefix string, version uint64, isHeard bool) {
	if i == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.open[prefix]
	if p == nil {
		p = &paused{open: make(map[uint64]struct{}, 1), look: time.Now().Add(lookEvery)}
		i.open[prefix] = p
		i.queue = append(i.queue, prefix)
	}
	if _, over := p.over[version]; over {
		return // it is told here later than this worker ended it
	}
	if _, known := p.open[version]; !known {
		p.open[version] = struct{}{}
		p.changes++
		i.count++
		if isHeard {
			i.heard = append(i.heard, heard{prefix, time.Now().Add(lookFirst)})
		}
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

// Open returns how many interventions are open, false until the journal was read once after the start.
func (i *Interventions) Open() (int, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.count, i.read
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

// turn returns the executions to look at now: one that was heard of, and one whose turn it is otherwise. That one goes to the end of the
// queue, or out of it where nothing is open any more.
func (i *Interventions) turn(now time.Time) (turns []turn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.heard) > 0 && len(turns) == 0 && !i.heard[0].look.After(now) {
		prefix := i.heard[0].prefix
		i.heard = i.heard[1:]
		if p := i.open[prefix]; p != nil && len(p.open) > 0 {
			turns = append(turns, turn{prefix, p.changes})
		}
	}
	for len(i.queue) > 0 {
		prefix := i.queue[0]
		p := i.open[prefix]
		if p.look.After(now) {
			break
		}
		i.queue = i.queue[1:]
		if len(p.open) == 0 {
			delete(i.open, prefix)
			continue
		}
		p.look = now.Add(lookEvery)
		i.queue = append(i.queue, prefix)
		return append(turns, turn{prefix, p.changes})
	}
	return turns
}

func (i *Interventions) looked(at turn, waits []recourse.Wait) {
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.open[at.prefix]
	if p == nil {
		return
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
