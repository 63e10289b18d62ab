package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// Scope says what of the streams [Run] checks.
type Scope struct {
	// Prefix is the subject prefix of the executions, where * stands for any token; "" is all of them.
	Prefix string
	// Since leaves out what was stored before; the zero value leaves out nothing. The first record of an execution that began before is
	// believed.
	Since time.Time
	// Grace and Skew are as in [Config].
	Grace, Skew time.Duration
	// Report is told each violation as it is found.
	Report func(Violation)
	// Progress is told now and then how many messages of how many were looked at; nil where nobody wants to know.
	Progress func(done, of uint64)
}

const (
	liveExecutions = 20_000 // that are remembered in full
	maxPlans       = 256    // that are kept compiled
	progressEvery  = 1_000  // messages
	maxChain       = 200_000
	requestWithin  = 10 * time.Second
)

// Result is what [Run] looked at.
type Result struct {
	Counts
	// At is the watermark: the broker's clock when the journal's end was taken. What comes after it is not held against anybody.
	At time.Time `json:"at"`
	// Unscheduled are the waits that are pending without a schedule at the broker, so that the sweeper has to arm them once they are
	// overdue; -1 where that could not be seen. It is looked for in the executions that are remembered in full.
	Unscheduled int `json:"unscheduled"`
}

// Run checks the streams of a server. What is in flight is no violation: first it notes what the workers have settled, then where the
// journal ends, then where the inbox ends. So every record before that end has its input among those read, and what was settled has its
// record.
func Run(ctx context.Context, js jetstream.JetStream, scope Scope) (Result, error) {
	r := &run{ctx: ctx, js: js, nc: js.Conn(), scope: scope, plans: map[planKey]*decide.Plan{}, waits: map[string]string{}, result: Result{Unscheduled: -1}}
	if r.scope.Prefix == "" {
		r.scope.Prefix = strings.TrimSuffix(everything, ".>")
	}
	err := r.check()
	return r.result, err
}

type run struct {
	ctx      context.Context
	js       jetstream.JetStream
	nc       *nats.Conn
	scope    Scope
	kv       jetstream.KeyValue
	journal  jetstream.Stream
	plans    map[planKey]*decide.Plan
	checker  *Checker
	inbox    *reader
	result   Result
	waits    map[string]string // prefixes of executions by the subjects of the schedules that their waits should have
	done, of uint64            // messages
}

type planKey struct {
	key       string
	revision  uint64
	semantics recourse.Semantics
}

func (r *run) check() error {
	settled, err := r.settled()
	if err != nil {
		return err
	}
	var infos [3]*jetstream.StreamInfo
	for i, name := range [...]string{recourse.StreamJournal, recourse.StreamRejected, recourse.StreamInbox} { // the inbox last
		stream, err := r.js.Stream(r.ctx, name)
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		if infos[i] = stream.CachedInfo(); i == 0 {
			r.journal, r.result.At = stream, infos[0].TimeStamp
		}
	}
	if r.result.At.IsZero() {
		r.result.At = time.Now()
	}
	if r.kv, err = r.js.KeyValue(r.ctx, recourse.BucketPipelines); err != nil {
		return fmt.Errorf("bucket %s: %w", recourse.BucketPipelines, err)
	}
	var readers [3]*reader
	var from [3]uint64
	for i, info := range infos {
		if from[i], err = r.first(info); err != nil {
			return err
		}
		if readers[i], err = newReader(r.nc, info.Config.Name, r.scope.Prefix+".>", from[i], info.State.LastSeq); err != nil {
			return err
		}
		defer readers[i].close()
		if info.State.LastSeq >= from[i] {
			r.of += info.State.LastSeq - from[i] + 1
		}
	}
	r.inbox = readers[2]
	r.checker = New(Config{
		Plan: r.plan, Now: r.result.At, Grace: r.scope.Grace, Skew: r.scope.Skew, Settled: settled, InboxFrom: from[2], JournalFrom: from[0],
		Advance: r.advance, Chain: r.chain, Live: liveExecutions, Report: r.scope.Report,
		Waits: r.waiting,
	})
	defer func() { r.result.Counts = r.checker.Counts }()
	if err := r.merge(readers[0], readers[1]); err != nil {
		return err
	}
	if err := r.advance(^uint64(0)); err != nil {
		return err
	}
	if err := r.checker.Finish(r.state); err != nil {
		return err
	}
	return r.schedules()
}

// merge feeds records and rejections in the order of their time, so that neither has to wait for the inbox far ahead.
func (r *run) merge(journal, rejected *reader) error {
	for {
		record, err := journal.peek(r.ctx)
		if err != nil {
			return err
		}
		rejection, err := rejected.peek(r.ctx)
		if err != nil {
			return err
		}
		switch {
		case record == nil && rejection == nil:
			return nil
		case rejection == nil || record != nil && !rejection.Stored.Before(record.Stored):
			err = r.checker.Record(*record)
			journal.skip()
		default:
			err = r.checker.Rejected(*rejection)
			rejected.skip()
		}
		if err != nil {
			return err
		}
		r.progress()
	}
}

func (r *run) progress() {
	if r.done++; r.done%progressEvery == 0 && r.scope.Progress != nil {
		r.scope.Progress(min(r.done, r.of), r.of)
	}
}

// advance feeds inputs up to a sequence.
func (r *run) advance(sequence uint64) error {
	for {
		msg, err := r.inbox.peek(r.ctx)
		if err != nil {
			return err
		}
		if msg == nil || msg.Sequence > sequence {
			return nil
		}
		r.checker.Input(*msg)
		r.inbox.skip()
		r.progress()
	}
}

// settled returns up to where the workers have acknowledged the inbox, 0 where nobody can tell.
func (r *run) settled() (uint64, error) {
	consumer, err := r.js.Consumer(r.ctx, recourse.StreamInbox, broker.ConsumerInbox)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("consumer %s: %w", broker.ConsumerInbox, err)
	}
	return consumer.CachedInfo().AckFloor.Stream, nil
}

// first returns the sequence from which a stream is read.
func (r *run) first(info *jetstream.StreamInfo) (uint64, error) {
	if r.scope.Since.IsZero() {
		return max(info.State.FirstSeq, 1), nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, requestWithin)
	defer cancel()
	request := fmt.Sprintf(`{"start_time":%q,"next_by_subj":"recourse.>"}`, r.scope.Since.UTC().Format(time.RFC3339Nano))
	msg, err := r.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+info.Config.Name, []byte(request))
	if err != nil {
		return 0, fmt.Errorf("%s since %s: %w", info.Config.Name, r.scope.Since.Format(time.RFC3339), err)
	}
	if first(msg.Header, "Nats-Stream") == "" {
		if msg.Header.Get("Status") == "404" {
			return info.State.LastSeq + 1, nil
		}
		return 0, fmt.Errorf("%s since %s: %s %s", info.Config.Name, r.scope.Since.Format(time.RFC3339), msg.Header.Get("Status"), msg.Header.Get("Description"))
	}
	m, err := stored(msg)
	return m.Sequence, err
}

// plan returns the plan of a revision, nil where it is not kept any more.
func (r *run) plan(ref recourse.Ref, revision uint64, semantics recourse.Semantics) *decide.Plan {
	key := planKey{ref.PipelineKey(), revision, semantics}
	if plan, ok := r.plans[key]; ok {
		return plan
	}
	var plan *decide.Plan
	if entry, err := r.kv.GetRevision(r.ctx, key.key, revision); err == nil {
		plan, _ = pipeline.Load(key.key, entry.Value(), pipeline.Options{Semantics: semantics})
	}
	if len(r.plans) >= maxPlans {
		for some := range r.plans {
			delete(r.plans, some)
			break
		}
	}
	r.plans[key] = plan
	return plan
}

// chain reads an execution again, up to a sequence; see [Config].Chain.
func (r *run) chain(_ string, sequence uint64) ([]Message, error) {
	var messages []Message
	for sequence >= r.checker.cfg.JournalFrom && sequence != 0 && len(messages) < maxChain {
		raw, err := r.journal.GetMsg(r.ctx, sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		rec, err := recourse.DecodeRecord(raw.Data)
		if err != nil {
			return nil, err
		}
		messages = append(messages, Message{Sequence: raw.Sequence, Subject: raw.Subject, Header: raw.Header, Data: raw.Data, Stored: raw.Time})
		if rec.Previous >= sequence {
			break // told before (I6)
		}
		sequence = rec.Previous
	}
	slices.Reverse(messages)
	return messages, nil
}

// state returns the state of an execution now, nil where it has no record.
func (r *run) state(prefix string) (*recourse.State, error) {
	raw, err := r.journal.GetLastMsgForSubject(r.ctx, prefix+".>")
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal of %s: %w", prefix, err)
	}
	var since []*recourse.Record
	for walked := 0; walked < maxChain; walked++ {
		rec, err := recourse.DecodeRecord(raw.Data)
		if err != nil {
			return nil, nil // told before (I5)
		}
		if rec.State != nil {
			for _, later := range slices.Backward(since) {
				decide.Fold(rec.State, later)
			}
			return rec.State, nil
		}
		since = append(since, rec)
		if rec.Previous == 0 || rec.Previous >= raw.Sequence {
			return nil, nil // told before (I6)
		}
		if raw, err = r.journal.GetMsg(r.ctx, rec.Previous); err != nil {
			return nil, fmt.Errorf("journal of %s: %w", prefix, err)
		}
	}
	return nil, nil
}

// maxWaits bounds the waits whose schedules are looked for.
const maxWaits = 100_000

func (r *run) waiting(prefix string, w recourse.Wait) {
	if len(r.waits) < maxWaits {
		r.waits[recourse.SubjectUnder(prefix, recourse.FamilyTimer, recourse.VersionDetail(w.Version))] = prefix
	}
}

// schedules counts the waits that are pending and have no schedule at the broker. One that ended meanwhile has none either, so the journal
// is asked again.
func (r *run) schedules() error {
	if len(r.waits) == 0 {
		r.result.Unscheduled = 0
		return nil
	}
	timers, err := r.js.Stream(r.ctx, recourse.StreamTimers)
	if err != nil {
		return fmt.Errorf("stream %s: %w", recourse.StreamTimers, err)
	}
	info, err := timers.Info(r.ctx, jetstream.WithSubjectFilter(r.scope.Prefix+"."+string(recourse.FamilyTimer)+".*"))
	if err != nil {
		return fmt.Errorf("stream %s: %w", recourse.StreamTimers, err)
	}
	r.result.Unscheduled = 0
	scheduled := info.State.Subjects
	for subject, prefix := range r.waits {
		if _, ok := scheduled[subject]; ok {
			continue
		}
		state, err := r.state(prefix)
		if err != nil {
			return err
		}
		if state != nil && slices.ContainsFunc(state.Waits, func(w recourse.Wait) bool {
			return subject == recourse.SubjectUnder(prefix, recourse.FamilyTimer, recourse.VersionDetail(w.Version))
		}) {
			r.result.Unscheduled++
		}
	}
	return nil
}
