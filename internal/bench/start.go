package bench

import (
	"context"
	"time"

	"github.com/recourse-dev/recourse"
)

// recovery measures how long a backlog takes after a restart: from starting the process to the last record.
func (b *bench) recovery(ctx context.Context) error {
	if b.Backlog == 0 {
		return nil
	}
	if err := publish(ctx, b.nc, b.load.First(b.run(), b.Backlog)); err != nil {
		return err
	}
	started := time.Now()
	d, err := b.drain(ctx, theWorker, b.Backlog, 1)
	if err != nil {
		return err
	}
	last, err := b.lastRecordAt(ctx)
	if err != nil {
		return err
	}
	b.result.Recovery = &Recovery{Backlog: b.Backlog, Took: recourse.Duration(last.Sub(started)), PerSecond: d.perSecond}
	b.say("a backlog of %d is drained %v after the start", b.Backlog, last.Sub(started).Round(time.Millisecond))
	return nil
}

func (b *bench) lastRecordAt(ctx context.Context) (time.Time, error) {
	last, err := b.lastSequence(ctx)
	if err != nil {
		return time.Time{}, err
	}
	msg, err := b.journal.GetMsg(ctx, last)
	if err != nil {
		return time.Time{}, err
	}
	return msg.Time, nil
}

// starts measures from starting a worker to its first decision, with the journal as it is by now.
func (b *bench) starts(ctx context.Context) error {
	if b.Rounds == 0 {
		return nil
	}
	var s Starts
	for range b.Rounds {
		records, err := b.lastSequence(ctx)
		if err != nil {
			return err
		}
		s.Records = records
		if err := publish(ctx, b.nc, b.load.First(b.run(), 1)); err != nil {
			return err
		}
		started := time.Now()
		if _, err := b.drain(ctx, theWorker, 1, 1); err != nil {
			return err
		}
		at, err := b.lastRecordAt(ctx)
		if err != nil {
			return err
		}
		s.Took = append(s.Took, recourse.Duration(at.Sub(started)))
	}
	b.result.Starts = append(b.result.Starts, s)
	b.say("start to first decision with %d records in the journal: %v", s.Records, s.Took)
	return nil
}
