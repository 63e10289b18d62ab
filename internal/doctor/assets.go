package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
)

const (
	apiInfo     = "$JS.API.INFO"
	apiStream   = "$JS.API.STREAM.INFO."
	apiConsumer = "$JS.API.CONSUMER.INFO."
)

const mendJetStream = "add jetstream {} to the server's configuration, and jetstream: enabled to the account; or connect to the right server"

// jetStream looks whether JetStream answers. Who may not ask its API asks the inbox, which answers that it takes no probe.
func (e *examination) jetStream(ctx context.Context) {
	const check = "JetStream"
	subject, header := "", nats.Header(nil)
	questions := []string{apiInfo}
	for _, name := range broker.StreamNames() {
		questions = append(questions, apiStream+name)
	}
	for _, question := range questions {
		if e.may(ctx, question) {
			subject = question
			break
		}
	}
	if subject == "" {
		for _, input := range e.inputs() {
			if e.may(ctx, input) {
				subject, header = input, nats.Header{jetstream.ExpectedStreamHeader: {probe}}
				break
			}
		}
	}
	if subject == "" {
		e.skip(check, "%s", e.notAllowed())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	_, err := e.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: header, Data: []byte(probe)})
	switch {
	case err == nil:
		e.ok(check, "answers")
	case errors.Is(err, nats.ErrNoResponders) && header != nil:
		e.off = true
		e.fail(check, mendJetStream+"; let an admin start a worker with --provision create where the streams are missing", "no stream takes what is published on %s", subject)
	case errors.Is(err, nats.ErrNoResponders):
		e.off = true
		e.fail(check, mendJetStream, "nobody answers: JetStream is not enabled on this server or not for this account")
	default:
		e.off = true
		e.fail(check, "look at the server's log and load, and whether most of a cluster's servers run", "no answer within %v: %v", askWithin, err)
	}
}

// inputs are the subjects on which this user may report something, by role.
func (e *examination) inputs() []string {
	ref := e.Scope
	return []string{
		ref.Subject(recourse.FamilyFailure, e.principal(Delegate)), ref.Subject(recourse.FamilyLifecycle, e.principal(Orchestrator)),
		ref.Subject(recourse.FamilyIntervention, e.principal(Operator)),
	}
}

func (e *examination) streams(ctx context.Context) {
	e.found = map[string]*jetstream.StreamInfo{}
	for _, name := range broker.StreamNames() {
		check := broker.StreamAsset(name)
		if e.off {
			continue
		}
		if !e.may(ctx, apiStream+name) {
			e.skip(check, "%s", e.notAllowed())
			continue
		}
		info, err := e.streamInfo(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			e.differs(check, []broker.Difference{broker.Missing(check)}, "")
		case err != nil:
			e.fail(check, mendOf(err), "%v", err)
		default:
			e.found[name] = info
			e.differs(check, broker.CheckStream(info.Config), fmt.Sprintf("as it should be, %d messages", info.State.Msgs))
			e.replicas(check, info.Cluster, info.Config.Replicas)
			e.full(check, info)
		}
	}
}

func (e *examination) streamInfo(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	stream, err := e.js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	return stream.CachedInfo(), nil
}

func (e *examination) consumerInfo(ctx context.Context, d broker.Durable) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	consumer, err := e.js.Consumer(ctx, d.Stream, d.Name)
	if err != nil {
		return nil, err
	}
	return consumer.CachedInfo(), nil
}

// mendOf says what to do about an answer that is none.
func mendOf(err error) string {
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return mendJetStream
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return "it has no leader, or the server is overloaded: see that most of its servers run (nats server report jetstream)"
	}
	return "see the server's log"
}

// replicas looks whether a stream of a cluster has its leader and its copies; a single server says nothing about it.
func (e *examination) replicas(check string, cluster *jetstream.ClusterInfo, want int) {
	if cluster == nil || want < 2 {
		return
	}
	if cluster.Leader == "" {
		e.fail(check, "see that most of its servers run (nats server report jetstream)", "it has no leader")
	}
	var behind []string
	for _, peer := range cluster.Replicas {
		switch {
		case peer.Offline:
			behind = append(behind, peer.Name+" is offline")
		case !peer.Current:
			behind = append(behind, fmt.Sprintf("%s lags by %d", peer.Name, peer.Lag))
		}
	}
	if len(behind) > 0 {
		e.warn(check, "bring these servers back: until then the loss of another one stops the work or loses data", "%s", strings.Join(behind, ", "))
	}
}

// full looks how near a stream is to a limit that somebody gave it: at the limit it refuses what is published.
func (e *examination) full(check string, info *jetstream.StreamInfo) {
	for _, limit := range []struct {
		what      string
		used, max float64
	}{
		{"bytes", float64(info.State.Bytes), float64(info.Config.MaxBytes)}, {"messages", float64(info.State.Msgs), float64(info.Config.MaxMsgs)},
	} {
		if says := share(limit.used, limit.max); says != "" {
			e.nearly(check, limit.used/limit.max, fmt.Sprintf("%s of its limit of %.0f %s", says, limit.max, limit.what), "raise the limit (nats stream edit "+info.Config.Name+")")
		}
	}
}

func (e *examination) consumers(ctx context.Context) {
	e.durables = map[string]*jetstream.ConsumerInfo{}
	for _, d := range broker.Durables() {
		check := d.String()
		if e.off {
			continue
		}
		if !e.may(ctx, apiConsumer+d.Stream+"."+d.Name) {
			e.skip(check, "%s", e.notAllowed())
			continue
		}
		info, err := e.consumerInfo(ctx, d)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			e.differs(check, []broker.Difference{broker.Missing(check)}, "")
		case errors.Is(err, jetstream.ErrNotPullConsumer):
			e.differs(check, []broker.Difference{d.NotPull()}, "")
		case err != nil:
			e.fail(check, mendOf(err), "%v", err)
		default:
			e.durables[d.Name] = info
			e.differs(check, broker.CheckConsumer(d.Stream, info.Config), "as it should be")
			if info.Paused {
				e.fail(check, fmt.Sprintf("nats consumer resume %s %s", d.Stream, d.Name), "paused for another %v: nothing is delivered", info.PauseRemaining.Round(time.Second))
			}
		}
	}
}
