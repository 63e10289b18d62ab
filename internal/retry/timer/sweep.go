package timer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/recourse-dev/recourse"
	"go.uber.org/zap"
)

// Pending reports whether the execution under a prefix still waits for the record of this version, and when that comes due. The
// journal knows.
type Pending func(ctx context.Context, prefix string, version uint64) (dueAt time.Time, pending bool, err error)

// SweeperConfig sets up a [Sweeper].
type SweeperConfig struct {
	// Every is how often is looked; 0 means 10s.
	Every time.Duration
	// Grace is how long a wait may be overdue before it is armed again; 0 means 30s. Shorter than the broker's usual lateness
	// makes for needless hints, not for wrong decisions.
	Grace time.Duration
	// Rescan is how long after one reading of the journal the next begins, half as much up to one and a half times, so that workers do
	// not all read at once; 0 means 1h.
	Rescan time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	Log *zap.Logger
	// Rearmed is called for each wait that was armed again; nil means nobody counts them.
	Rearmed func()
}

// Sweeper arms waits again that are overdue: their schedule was lost with its stream, or is stuck. Every worker may run one: arming
// twice is harmless.
//
// It watches the waits that its own [Timers] armed, which costs the broker nothing while they come due here; one that ended elsewhere
// costs one read once it would be overdue. Waits of other workers, which may be gone, it finds by reading the headers of the journal: when
// it starts, the latest first, and then every so often, slowly. It does not follow the journal, since a consumer that does costs the broker as much as the
// records themselves, for each worker again (docs/adr/0005-sweeper-watches-its-own.md).
//
// Memory: about 250 bytes per pending wait.
type Sweeper struct {
	js      jetstream.JetStream
	timers  *Timers
	pending Pending
	cfg     SweeperConfig
	read    func(subject recourse.Subject, header nats.Header)
	readAll func()
	latest  time.Duration // [scanLatest]

	mu    sync.Mutex
	waits map[wait]time.Time // when to look at it
}

type wait struct {
	prefix  string
	version uint64
}

// The reading of the journal. It is slow on purpose, 2,500 records a second at the most, and in small bites: a bite of 500 showed in the latency of decisions.
const (
	scanBatch = 100
	scanPause = 40 * time.Millisecond
	scanIdle  = 30 * time.Second // after which the broker forgets the reader
	// scanLatest is how far back from the last record it reads first: schedules that a crash of the broker took are not older than what it
	// brings to the disk now and then, unless configured otherwise every 2 minutes.
	scanLatest = 5 * time.Minute
)

// NewSweeper returns a sweeper that arms with timers what pending confirms, and from now on watches what they arm: they must not be in
// use yet.
func NewSweeper(nc *nats.Conn, timers *Timers, pending Pending, cfg SweeperConfig) (*Sweeper, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("sweeper: %w", err)
	}
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Second
	}
	if cfg.Grace == 0 {
		cfg.Grace = 30 * time.Second
	}
	if cfg.Rescan == 0 {
		cfg.Rescan = time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	s := &Sweeper{js: js, timers: timers, pending: pending, cfg: cfg, latest: scanLatest, waits: make(map[wait]time.Time)}
	timers.sweeper = s
	return s, nil
}

// Observe has read called for each record as the journal is read, one after another, and readAll when it was read to its end; nil is for
// nobody who wants to know. It is called before Run, if at all.
func (s *Sweeper) Observe(read func(subject recourse.Subject, header nats.Header), readAll func()) {
	s.read, s.readAll = read, readAll
}

// Run sweeps until ctx ends. It returns an error only where it cannot start.
func (s *Sweeper) Run(ctx context.Context) error {
	journal, err := s.js.Stream(ctx, recourse.StreamJournal)
	if err != nil {
		return fmt.Errorf("sweeper: %w", err)
	}
	since := journal.CachedInfo().State.LastTime.Add(-s.latest) // of the journal, which may have stood still for long
	latest, err := s.reader(ctx, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since})
	if err != nil {
		return err
	}
	var scanning sync.WaitGroup
	defer scanning.Wait()
	scanning.Go(func() {
		from, err := s.scan(ctx, latest, 1, s.watch) // it is read again with all else
		s.interrupted(ctx, from, err)
		s.scanOnAndOn(ctx)
	})
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.Sweep(ctx)
		}
	}
}

// reader returns a consumer of the headers of the journal, of which only where it starts is given.
func (s *Sweeper) reader(ctx context.Context, start jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	start.AckPolicy, start.HeadersOnly = jetstream.AckNonePolicy, true
	start.MemoryStorage, start.Replicas, start.InactiveThreshold = true, 1, scanIdle
	reader, err := s.js.CreateConsumer(ctx, recourse.StreamJournal, start)
	if err != nil {
		return nil, fmt.Errorf("sweeper: %w", err)
	}
	return reader, nil
}

// scanOnAndOn reads the journal now and again. What interrupts a reading is tried again from there.
func (s *Sweeper) scanOnAndOn(ctx context.Context) {
	from := uint64(1)
	for {
		reader, err := s.reader(ctx, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from})
		if err == nil {
			from, err = s.scan(ctx, reader, from, s.follow)
		}
		pause := s.cfg.Every
		if !s.interrupted(ctx, from, err) {
			pause = s.cfg.Rescan/2 + rand.N(s.cfg.Rescan)
			from = 1
			if s.readAll != nil {
				s.readAll()
			}
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// interrupted says whether a reading ended before the end of the journal, and logs where and why.
func (s *Sweeper) interrupted(ctx context.Context, from uint64, err error) bool {
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("reading the journal for lost waits was interrupted", zap.Uint64("sequence", from), zap.Error(err))
	}
	return err != nil
}

// scan reads the journal to where it ended when the reader was made: what comes later its worker watches. It returns up to where it came,
// so that what interrupts it costs nothing twice.
func (s *Sweeper) scan(ctx context.Context, reader jetstream.Consumer, from uint64, visit func(recourse.Subject, nats.Header)) (next uint64, err error) {
	for left := reader.CachedInfo().NumPending; left > 0; {
		batch, err := reader.FetchNoWait(scanBatch)
		if err != nil {
			return from, err
		}
		came := false
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return from, err
			}
			if subject, err := recourse.ParseSubject(msg.Subject()); err == nil { // as are all in the journal
				visit(subject, msg.Headers())
			}
			came, from = true, meta.Sequence.Stream+1
			if left--; left == 0 {
				break // more may have come with it
			}
		}
		if err := batch.Error(); err != nil {
			return from, err
		}
		if !came { // the server does not answer, has forgotten the reader, or what was left is gone
			info, err := reader.Info(ctx)
			if err != nil {
				return from, err
			}
			left = min(left, info.NumPending)
		}
		if !sleep(ctx, scanPause) {
			return from, ctx.Err()
		}
	}
	return from, nil
}

// sleep waits, and reports whether ctx has not ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow is watch, for whoever observes the reading too.
func (s *Sweeper) follow(subject recourse.Subject, h nats.Header) {
	if s.read != nil {
		s.read(subject, h)
	}
	s.watch(subject, h)
}

// watch notes what a record waits for and forgets what it ends.
func (s *Sweeper) watch(subject recourse.Subject, h nats.Header) {
	if ends, err := strconv.ParseUint(h.Get(recourse.HeaderEnds), 10, 64); err == nil {
		s.forget(subject.Prefix, ends)
	}
	version, err := strconv.ParseUint(h.Get(recourse.HeaderVersion), 10, 64)
	dueAt, dueErr := time.Parse(time.RFC3339Nano, h.Get(recourse.HeaderDueAt))
	if err == nil && dueErr == nil {
		s.note(subject.Prefix, version, dueAt)
	}
}

// note has a wait looked at once it is overdue. A nil sweeper watches nothing.
func (s *Sweeper) note(prefix string, version uint64, dueAt time.Time) {
	if s != nil {
		s.mu.Lock()
		s.waits[wait{prefix, version}] = dueAt.Add(s.cfg.Grace)
		s.mu.Unlock()
	}
}

// forget has a wait not looked at any more.
func (s *Sweeper) forget(prefix string, version uint64) {
	if s != nil {
		s.mu.Lock()
		delete(s.waits, wait{prefix, version})
		s.mu.Unlock()
	}
}

// Sweep looks once at the waits that are overdue and returns how many it armed again.
func (s *Sweeper) Sweep(ctx context.Context) (armed int) {
	for _, w := range s.overdue() {
		dueAt, pending, err := s.pending(ctx, w.prefix, w.version)
		if err == nil && pending {
			if err = s.timers.Arm(ctx, w.prefix, w.version, dueAt, nats.Header{}); err == nil {
				armed++
				if s.cfg.Rearmed != nil {
					s.cfg.Rearmed()
				}
				s.cfg.Log.Warn("an overdue wait was armed again",
					zap.String("execution", w.prefix), zap.Uint64("version", w.version), zap.Time("dueAt", dueAt))
			}
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			s.cfg.Log.Warn("an overdue wait could not be looked at",
				zap.String("execution", w.prefix), zap.Uint64("version", w.version), zap.Error(err))
		}
		s.mu.Lock()
		if err == nil && !pending {
			delete(s.waits, w)
		} else if _, known := s.waits[w]; known {
			s.waits[w] = s.cfg.Now().Add(s.cfg.Grace)
		}
		s.mu.Unlock()
		if ctx.Err() != nil {
			break
		}
	}
	return armed
}

func (s *Sweeper) overdue() []wait {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	var due []wait
	for w, at := range s.waits {
		if at.Before(now) {
			due = append(due, w)
		}
	}
	return due
}
