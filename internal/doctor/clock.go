package doctor

import (
	"context"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
)

const (
	// clockAsks is how often the server is asked for its time; the quickest answer counts.
	clockAsks = 5
	// recent bounds which records say something about the clocks of today's workers, and lastRecords how many are read.
	recent      = 15 * time.Minute
	lastRecords = 32
)

const mendClock = "let chrony or systemd-timesyncd set the clocks of both machines (timedatectl), then look again"

// clock compares the clock of this machine with the server's.
func (e *examination) clock(ctx context.Context) {
	const check = "clock of this machine"
	ask := e.asksTime(ctx)
	if ask == nil {
		e.skip(check, "none of the streams could be looked at, which tell the server's time")
		return
	}
	var skew, unsure time.Duration
	for i := range clockAsks {
		asked := e.Now()
		server, err := ask()
		answered := e.Now()
		if err != nil {
			e.skip(check, "the server does not tell its time: %v", err)
			return
		}
		if s, u := broker.ClockSkew(asked, answered, server); i == 0 || u < unsure {
			skew, unsure = s, u
		}
	}
	if skew.Abs()-unsure > broker.MaxClockSkew {
		which := "behind"
		if skew < 0 {
			which = "ahead"
		}
		e.fail(check, mendClock, "%v %s the server's, at most %v is safe for a worker", round(skew.Abs()), which, broker.MaxClockSkew)
		return
	}
	e.ok(check, "%v from the server's, known to %v", round(skew.Abs()), round(unsure))
}

// asksTime returns a question whose answer has the server's time, nil where this user may ask none.
func (e *examination) asksTime(ctx context.Context) func() (time.Time, error) {
	for _, name := range broker.StreamNames() {
		if e.found[name] != nil {
			return func() (time.Time, error) {
				info, err := e.streamInfo(ctx, name)
				if err != nil {
					return time.Time{}, err
				}
				return info.TimeStamp, nil
			}
		}
	}
	return nil
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}

// workerClocks compares the clocks of the workers with the server's: a record has the worker's time of the decision, and the server's of
// its storing just after.
func (e *examination) workerClocks(ctx context.Context) {
	const check = "clocks of the workers"
	journal := e.found[recourse.StreamJournal]
	if journal == nil || !e.may(ctx, "$JS.API.DIRECT.GET."+recourse.StreamJournal) {
		e.skip(check, "the journal could not be read")
		return
	}
	stream, err := e.js.Stream(ctx, recourse.StreamJournal)
	if err != nil {
		e.skip(check, "the journal could not be read: %v", err)
		return
	}
	server := journal.TimeStamp
	var worst time.Duration
	seen := 0
	for sequence := journal.State.LastSeq; sequence > 0 && sequence+lastRecords > journal.State.LastSeq; sequence-- {
		ask, cancel := context.WithTimeout(ctx, askWithin)
		raw, err := stream.GetMsg(ask, sequence)
		cancel()
		if err != nil || server.Sub(raw.Time) > recent {
			break
		}
		record, err := recourse.DecodeRecord(raw.Data)
		if err != nil {
			continue // what is wrong with it, `recourse verify` says
		}
		seen++
		if late := raw.Time.Sub(record.At); late.Abs() > worst.Abs() {
			worst = late
		}
	}
	switch {
	case seen == 0:
		e.skip(check, "nothing was decided within the last %v", recent)
	case -worst > broker.MaxClockSkew:
		e.fail(check, mendClock, "a worker's is %v ahead of the server's: retries are decided early", round(-worst))
	case worst > broker.MaxClockSkew:
		e.warn(check, mendClock+"; if they agree, the worker waits long for the server to store", "a record was stored %v after its worker's time: its clock is behind, or storing is slow", round(worst))
	default:
		e.ok(check, "within %v of the server's, in the last %d records", round(worst.Abs()), seen)
	}
}
