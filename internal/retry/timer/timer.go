// Package timer keeps waits durable: as scheduled messages of JetStream, which the broker turns into a due message when their time has
// come, also after a restart. A due message is a hint, not a decision: the broker's scheduler delivers at least once, and whoever
// handles the hint looks into the journal whether the wait is still pending.
//
// What the broker lost or holds back, the sweeper arms again ([Sweeper]).
package timer

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/puback"
)

// The headers of a schedule. The client library's own option for the time cuts it to whole seconds, which would fire early; hence by
// hand.
const (
	headerSchedule = "Nats-Schedule"
	headerTarget   = "Nats-Schedule-Target"
	headerOf       = "Nats-Scheduler"
	headerNext     = "Nats-Schedule-Next"
)

// storeWithin is how long the broker may take to store a schedule.
const storeWithin = 5 * time.Second

// Timers arms and cancels waits. It is safe for concurrent use.
type Timers struct {
	stored  *puback.Publisher
	sweeper *Sweeper // watches what is armed; nil where there is none
}

// New returns the timers of a connection. The stream must exist.
func New(nc *nats.Conn) (*Timers, error) {
	stored, err := puback.New(nc, storeWithin)
	if err != nil {
		return nil, fmt.Errorf("timers: %w", err)
	}
	return &Timers{stored: stored}, nil
}

// Arm schedules the due message of a wait and returns when it is stored. Arming again replaces the schedule: there is one per wait. A
// time that has passed fires at once. The header is what the due message is to carry; it is changed.
func (t *Timers) Arm(ctx context.Context, prefix string, version uint64, dueAt time.Time, header nats.Header) error {
	detail := recourse.VersionDetail(version)
	header[headerSchedule] = []string{"@at " + dueAt.UTC().Format(time.RFC3339Nano)}
	header[headerTarget] = []string{recourse.SubjectUnder(prefix, recourse.FamilyDue, detail)}
	if err := t.publish(ctx, recourse.SubjectUnder(prefix, recourse.FamilyTimer, detail), header); err != nil {
		return fmt.Errorf("timers: arm %s %d: %w", prefix, version, err)
	}
	t.sweeper.note(prefix, version, dueAt)
	return nil
}

// Over says that a wait came due and is over: nobody needs to look at it any more.
func (t *Timers) Over(prefix string, version uint64) { t.sweeper.forget(prefix, version) }

// Cancel removes the schedule of a wait that ended otherwise. One that has fired or never was is no error.
func (t *Timers) Cancel(ctx context.Context, prefix string, version uint64) error {
	t.sweeper.forget(prefix, version)
	detail := recourse.VersionDetail(version)
	header := nats.Header{
		headerOf:                 {recourse.SubjectUnder(prefix, recourse.FamilyTimer, detail)},
		headerNext:               {"purge"},
		recourse.HeaderCancelled: {"true"},
	}
	if err := t.publish(ctx, recourse.SubjectUnder(prefix, recourse.FamilyDue, detail), header); err != nil {
		return fmt.Errorf("timers: cancel %s %d: %w", prefix, version, err)
	}
	return nil
}

func (t *Timers) publish(ctx context.Context, subject string, header nats.Header) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := t.stored.Publish(ctx, &nats.Msg{Subject: subject, Header: header})
	return err
}
