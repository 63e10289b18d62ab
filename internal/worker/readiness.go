package worker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
)

const (
	// readyWithin bounds all checks together; who asks waits for them.
	readyWithin = 2 * time.Second
	// readyFor is how long what the server said counts: who asks more often gets the same answer.
	readyFor = 5 * time.Second
)

// check is what came of looking at one thing.
type check struct {
	name string
	says string // "ok", or what is worth knowing
	err  error  // why it fails; nil where it does not
}

// readiness says whether a worker works. What the server has to be asked for is asked when somebody wants to know, not more often than
// every 5 s.
type readiness struct {
	working  atomic.Bool // from the start of pulling until the stop begins
	stopping atomic.Bool
	asking   atomic.Pointer[asking] // nil until connected

	mu   sync.Mutex
	last []check
	at   time.Time
}

// asking is what readiness asks the server with.
type asking struct {
	nc        *nats.Conn
	js        jetstream.JetStream
	provision broker.Mode
	now       func() time.Time
	probes    atomic.Uint64
}

// look returns the checks, in the order in which they build on each other.
func (r *readiness) look(ctx context.Context) []check {
	a := r.asking.Load()
	draining := check{name: "not draining", says: "ok"}
	switch {
	case r.stopping.Load():
		draining.err = errors.New("stopping: finishing what is in hand")
	case !r.working.Load():
		draining.err = errors.New("starting: not pulling yet")
	}
	connected := check{name: "connected", says: "ok"}
	switch {
	case a == nil:
		connected.err = errors.New("not connected to a NATS server yet")
	case !a.nc.IsConnected():
		connected.err = fmt.Errorf("not connected to the NATS server: %s", strings.ToLower(a.nc.Status().String()))
	default:
		connected.says = "ok, " + a.nc.ConnectedUrlRedacted()
	}
	checks := []check{draining, connected}
	if connected.err != nil {
		return checks
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || time.Since(r.at) > readyFor {
		r.last, r.at = a.look(ctx), time.Now()
	}
	return append(checks, r.last...)
}

// look asks the server, all at once.
func (a *asking) look(ctx context.Context) []check {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyWithin) // the answer is for whoever asks next, too
	defer cancel()
	looks := []struct {
		name string
		do   func(context.Context) (says string, err error)
	}{{"streams", a.streams}, {"consumers bound", a.consumers}, {"permissions", a.permissions}, {"clock", a.clock}}
	checks := make([]check, len(looks))
	var looking sync.WaitGroup
	for i, look := range looks {
		looking.Go(func() {
			says, err := look.do(ctx)
			checks[i] = check{look.name, says, err}
		})
	}
	looking.Wait()
	return checks
}

func (a *asking) streams(ctx context.Context) (string, error) {
	names := broker.StreamNames()
	errs := make([]error, len(names))
	var looking sync.WaitGroup
	for i, name := range names {
		looking.Go(func() {
			if _, err := a.js.Stream(ctx, name); err != nil {
				errs[i] = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	looking.Wait()
	for _, err := range errs {
		if errors.Is(err, context.DeadlineExceeded) && a.provision == broker.ModeOff {
			return "taken for granted (--provision off)", nil // not permitted to look, most likely
		}
	}
	return "ok", errors.Join(errs...)
}

func (a *asking) consumers(ctx context.Context) (string, error) {
	says := []string{"ok"}
	for _, d := range broker.Durables() {
		c, err := a.js.Consumer(ctx, d.Stream, d.Name)
		if err != nil {
			return "", fmt.Errorf("consumer %s of %s: %w", d.Name, d.Stream, err)
		}
		info := c.CachedInfo()
		if info.Paused {
			return "", fmt.Errorf("consumer %s of %s is paused for %s", d.Name, d.Stream, info.PauseRemaining.Round(time.Second))
		}
		says = append(says, fmt.Sprintf("%s has %d pending and %d unsettled", d.Name, info.NumPending, info.NumAckPending))
	}
	return strings.Join(says, ", "), nil
}

// probeToken begins the last word of what is published only to see whether it may be.
const probeToken = "probe-"

// isProbe reports whether an error is the server's refusal of a probe.
func isProbe(err error) bool {
	return errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), "."+probeToken)
}

// permissions tries what a worker does, so that none of it has an effect: a message that names another stream than its own is not
// stored by any, and what is acknowledged or asked for does not exist. What is not permitted the server says before it answers a flush.
func (a *asking) permissions(ctx context.Context) (string, error) {
	token := probeToken + strconv.FormatUint(a.probes.Add(1), 10)
	nowhere := recourse.Ref{}.Prefix() // no execution has empty ids
	subjects := []string{
		recourse.SubjectUnder(nowhere, recourse.FamilyDecision, token), recourse.SubjectUnder(nowhere, recourse.FamilyCommand, token),
		recourse.SubjectUnder(nowhere, recourse.FamilyTimer, token), recourse.SubjectUnder(nowhere, recourse.FamilyDue, token),
		recourse.SubjectUnder(nowhere, recourse.FamilyRejected, token),
		"$JS.API.DIRECT.GET." + recourse.StreamJournal + "." + token,
	}
	for _, d := range broker.Durables() {
		subjects = append(subjects, "$JS.ACK."+d.Stream+"."+d.Name+"."+token)
	}
	var refused []string
	for _, subject := range subjects {
		probe := &nats.Msg{Subject: subject, Header: nats.Header{jetstream.ExpectedStreamHeader: {"recourse-" + token}}}
		if err := a.nc.PublishMsg(probe); err != nil {
			return "", err
		}
		if err := a.nc.FlushWithContext(ctx); err != nil {
			return "", err
		}
		if err := a.nc.LastError(); isProbe(err) && strings.Contains(err.Error(), `"`+subject+`"`) {
			refused = append(refused, strings.TrimSuffix(subject, token)+"*")
		}
	}
	if len(refused) > 0 {
		return "", fmt.Errorf("may not publish on %s; see deploy/nats/accounts.conf", strings.Join(refused, ", "))
	}
	for _, d := range broker.Durables() {
		// A request in bad JSON is refused and asks for nothing; any other text would ask for one message.
		asked, cancel := context.WithTimeout(ctx, readyWithin/2)
		_, err := a.nc.RequestWithContext(asked, "$JS.API.CONSUMER.MSG.NEXT."+d.Stream+"."+d.Name, []byte("{"+probeToken))
		cancel()
		if err != nil {
			return "", fmt.Errorf("may not pull from consumer %s of %s, or gets no answer: %w", d.Name, d.Stream, err)
		}
	}
	return "ok", nil
}

// clock compares the worker's clock with the server's, as far as the way there and back lets one tell.
func (a *asking) clock(ctx context.Context) (string, error) {
	asked := a.now()
	c, err := a.js.Consumer(ctx, recourse.StreamInbox, broker.ConsumerInbox)
	answered := a.now()
	if err != nil {
		return "", fmt.Errorf("the server does not tell its time: %w", err)
	}
	skew, unsure := broker.ClockSkew(asked, answered, c.CachedInfo().TimeStamp)
	if skew.Abs()-unsure > broker.MaxClockSkew {
		return "", fmt.Errorf("the clocks of worker and server are %s apart, at most %s is safe: the worker's is %s", skew.Abs().Round(time.Millisecond), broker.MaxClockSkew, direction(skew))
	}
	return fmt.Sprintf("ok, %s apart", skew.Abs().Round(time.Millisecond)), nil
}

func direction(skew time.Duration) string {
	if skew > 0 {
		return "behind"
	}
	return "ahead"
}
