package timer

import (
	"context"
	"errors"
	"fmt"
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
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	Log *zap.Logger
}

// Sweeper arms waits again that are overdue: their schedule was lost with its stream, or is stuck. It follows the journal by headers
// alone, those records that wait and those that retry, so the rest of the traffic costs it nothing; a wait that ended in another way
// costs one read once it would be overdue. Every worker may run one: arming twice is harmless.
//
// Memory: about 250 bytes per pending wait.
type Sweeper struct {
	js      jetstream.JetStream
	timers  *Timers
	pending Pending
	cfg     SweeperConfig

	mu    sync.Mutex
	waits map[wait]time.Time // when to look at it
}

type wait struct {
	prefix  string
	version uint64
}

// NewSweeper returns a sweeper that arms with timers what pending confirms.
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
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Sweeper{js: js, timers: timers, pending: pending, cfg: cfg, waits: make(map[wait]time.Time)}, nil
}

// Run follows the journal and sweeps until ctx ends. It returns an error only where it cannot start.
func (s *Sweeper) Run(ctx context.Context) error {
	consumer, err := s.js.OrderedConsumer(ctx, recourse.StreamJournal, jetstream.OrderedConsumerConfig{
		HeadersOnly: true,
		FilterSubjects: []string{
			recourse.FilterDetail(recourse.FamilyDecision, recourse.KindRetryScheduled),
			recourse.FilterDetail(recourse.FamilyDecision, recourse.KindGroupRetryScheduled),
			recourse.FilterDetail(recourse.FamilyDecision, recourse.KindRetryPostponed),
			recourse.FilterDetail(recourse.FamilyCommand, recourse.VerbPause.String()),
			recourse.FilterDetail(recourse.FamilyCommand, recourse.VerbRetry.String()),
			recourse.FilterDetail(recourse.FamilyCommand, recourse.VerbRetryGroup.String()),
		},
	})
	if err != nil {
		return fmt.Errorf("sweeper: %w", err)
	}
	following, err := consumer.Consume(s.follow)
	if err != nil {
		return fmt.Errorf("sweeper: %w", err)
	}
	defer following.Stop()
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

// follow notes what a record waits for and forgets what it ends. Redelivered records do no harm.
func (s *Sweeper) follow(msg jetstream.Msg) {
	subject, err := recourse.ParseSubject(msg.Subject())
	if err != nil {
		return // cannot come from the journal: its subjects have this form
	}
	h := msg.Headers()
	s.mu.Lock()
	defer s.mu.Unlock()
	if ends, err := strconv.ParseUint(h.Get(recourse.HeaderEnds), 10, 64); err == nil {
		delete(s.waits, wait{subject.Prefix, ends})
	}
	version, err := strconv.ParseUint(h.Get(recourse.HeaderVersion), 10, 64)
	dueAt, dueErr := time.Parse(time.RFC3339Nano, h.Get(recourse.HeaderDueAt))
	if err == nil && dueErr == nil {
		s.waits[wait{subject.Prefix, version}] = dueAt.Add(s.cfg.Grace)
	}
}

// Sweep looks once at the waits that are overdue and returns how many it armed again.
func (s *Sweeper) Sweep(ctx context.Context) (armed int) {
	for _, w := range s.overdue() {
		dueAt, pending, err := s.pending(ctx, w.prefix, w.version)
		if err == nil && pending {
			if err = s.timers.Arm(ctx, w.prefix, w.version, dueAt, nats.Header{}); err == nil {
				armed++
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
