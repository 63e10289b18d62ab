package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
)

const (
	// overdueAfter is how long after it was due a wait may still be pending: the sweeper arms again what is overdue by 30s.
	overdueAfter = time.Minute
	// oldAfter is how old an undecided input may be.
	oldAfter = time.Minute
	// today bounds which rejected inputs are news.
	today = 24 * time.Hour
	// reader is the principal of an operator that only looks.
	reader = "recourse-doctor"
)

// watched is what a durable consumer did while it was watched.
type watched struct {
	*jetstream.ConsumerInfo      // at the end
	pulled                  bool // somebody asked for messages
	moved                   bool // something was delivered or settled
}

// watch looks at a durable consumer again and again, until it does something and its pulls were seen, for a second at most.
func (e *examination) watch(ctx context.Context, d broker.Durable) (*watched, error) {
	first := e.durables[d.Name]
	w := &watched{ConsumerInfo: first}
	for end := time.Now().Add(watchFor); ; {
		info, err := e.consumerInfo(ctx, d)
		if err != nil {
			return nil, err
		}
		w.ConsumerInfo = info
		w.pulled = w.pulled || info.NumWaiting > 0
		w.moved = w.moved || info.Delivered.Consumer != first.Delivered.Consumer || info.AckFloor.Consumer != first.AckFloor.Consumer || info.NumAckPending != first.NumAckPending
		idle := info.NumPending == 0 && info.NumAckPending == 0
		if w.pulled && (w.moved || idle) || time.Now().After(end) {
			return w, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(watchEvery):
		}
	}
}

// workers looks whether workers pull from the durable consumers, and whether what they hold moves.
func (e *examination) workers(ctx context.Context) {
	for _, d := range broker.Durables() {
		if info := e.durables[d.Name]; info == nil || info.Paused {
			continue // said already
		}
		check := "workers on " + d.Name
		w, err := e.watch(ctx, d)
		if err != nil {
			e.fail(check, mendOf(err), "%v", err)
			continue
		}
		e.durables[d.Name] = w.ConsumerInfo
		finding := w.judge()
		finding.Check = check
		e.tell(finding)
	}
}

// judge says what a durable consumer does, by what was seen of it.
func (w *watched) judge() Finding {
	pending := fmt.Sprintf("%d pending, %d unsettled", w.NumPending, w.NumAckPending)
	switch {
	case w.NumAckPending >= broker.MaxAckPending:
		return Finding{Status: Failed, Says: pending + ": the limit of unsettled messages is reached, nothing more is delivered", Mend: "the workers take messages and do not settle them: see their logs, and recourse verify"}
	case !w.pulled && !w.moved && w.NumAckPending > 0 && recently(w.Delivered.Last, w.TimeStamp):
		return Finding{Status: Warning, Says: "nobody asks for messages just now, " + pending + ": the workers are busy, or ended a moment ago", Mend: "look again in half a minute; see /readyz?verbose and the logs of the workers"}
	case !w.pulled && !w.moved:
		return Finding{Status: Failed, Says: "no worker pulls, " + pending, Mend: "start a worker, or see in its log and at /readyz?verbose why it does not pull"}
	case w.NumPending > 0 && !w.moved:
		return Finding{Status: Failed, Says: fmt.Sprintf("stalled: %s, and nothing moved for %v", pending, watchFor), Mend: "the workers ask for messages and settle none: see their logs and cicd_system_errors_total"}
	case w.NumRedelivered > 0:
		return Finding{Status: Warning, Says: fmt.Sprintf("%s, of which %d were delivered more than once", pending, w.NumRedelivered), Mend: "what cannot be handled is tried again: see the logs of the workers"}
	}
	return Finding{Status: OK, Says: "pull, " + pending}
}

func recently(last *time.Time, now time.Time) bool {
	return last != nil && now.Sub(*last) < broker.AckWait
}

// backlog looks how old the oldest undecided input is.
func (e *examination) backlog(ctx context.Context) {
	const check = "undecided inputs"
	info := e.durables[broker.ConsumerInbox]
	if info == nil {
		e.skip(check, "the consumer of the inbox could not be looked at")
		return
	}
	undecided := info.NumPending + uint64(info.NumAckPending)
	if undecided == 0 {
		e.ok(check, "none")
		return
	}
	if e.found[recourse.StreamInbox] == nil || !e.may(ctx, "$JS.API.DIRECT.GET."+recourse.StreamInbox) {
		e.ok(check, "%d, of an age this user may not look at", undecided)
		return
	}
	ask, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	stream, err := e.js.Stream(ask, recourse.StreamInbox)
	if err != nil {
		e.skip(check, "%v", err)
		return
	}
	// The first from there on: what lies between may have expired.
	oldest, err := stream.GetMsg(ask, info.AckFloor.Stream+1, jetstream.WithGetMsgSubject(">"))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		e.ok(check, "none") // it was decided meanwhile
	case err != nil:
		e.skip(check, "%v", err)
	default:
		age := info.TimeStamp.Sub(oldest.Time).Round(time.Second)
		if age > oldAfter {
			e.warn(check, "see the workers: none, too few, or errors in their logs", "%d, the oldest for %v", undecided, age)
			return
		}
		e.ok(check, "%d, the oldest for %v", undecided, max(age, 0))
	}
}

// waits looks for waits that are pending though they are over.
func (e *examination) waits(ctx context.Context) {
	const check = "waits"
	creates := need{subject: "$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.*.recourse.A.>"}
	if e.found[recourse.StreamJournal] == nil || !e.may(ctx, literal(creates.pattern(e.Scope, ""))) {
		says := "this user may not read the journal"
		if e.deaf {
			says = e.notAllowed()
		} else if e.Scope.Account == "" {
			says += ", or only of one account (--account)"
		}
		e.skip(check, "%s", says)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, waitsWithin)
	defer cancel()
	operator, err := client.NewOperator(e.nc, reader)
	if err != nil {
		e.skip(check, "%v", err)
		return
	}
	retries, err := operator.Retries(ctx, e.Scope)
	if err != nil {
		e.skip(check, "%v", err)
		return
	}
	open, err := operator.Open(ctx, e.Scope)
	if err != nil {
		e.skip(check, "%v", err)
		return
	}
	now := e.serverNow()
	var overdue []string
	var worst time.Duration
	note := func(ref recourse.Ref, version uint64, due time.Time) {
		if late := now.Sub(due); late > overdueAfter {
			overdue, worst = append(overdue, fmt.Sprintf("%s/%d", ref.Execution, version)), max(worst, late)
		}
	}
	for _, r := range retries {
		note(r.Ref, r.ID, r.DueAt)
	}
	for _, o := range open {
		note(o.Ref, o.ID, o.Deadline)
	}
	if len(overdue) == 0 {
		e.ok(check, "%d retries and %d interventions pending, none overdue", len(retries), len(open))
		return
	}
	const most = 5
	some := strings.Join(overdue[:min(len(overdue), most)], ", ")
	if len(overdue) > most {
		some += ", …"
	}
	e.fail(check, "start a worker: it fires what came due, and its sweeper arms again what the broker lost; if workers pull, see their logs", "%d overdue, by up to %v: %s", len(overdue), worst.Round(time.Second), some)
}

// serverNow is about the time of the server: what is due is due by it.
func (e *examination) serverNow() time.Time {
	if info := e.durables[broker.ConsumerDue]; info != nil {
		return info.TimeStamp
	}
	return e.found[recourse.StreamJournal].TimeStamp
}

// rejected looks for inputs that nobody could decide.
func (e *examination) rejected(context.Context) {
	const check = "rejected inputs"
	info := e.found[recourse.StreamRejected]
	switch {
	case info == nil:
		e.skip(check, "the stream could not be looked at")
	case info.State.Msgs == 0:
		e.ok(check, "none")
	case info.TimeStamp.Sub(info.State.LastTime) < today:
		e.warn(check, "recourse rejected says which and why; mend who publishes them, and publish them again", "%d, the last one %v ago", info.State.Msgs, info.TimeStamp.Sub(info.State.LastTime).Round(time.Second))
	default:
		e.ok(check, "%d, none within a day", info.State.Msgs)
	}
}
