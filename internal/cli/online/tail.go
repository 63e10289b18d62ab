package online

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
)

const (
	requestWithin = 5 * time.Second  // for the answer to one request
	cleanupWithin = time.Second      // for the removal of a reader
	readerExpiry  = 30 * time.Second // after which the broker removes a reader whose client is gone
)

// tail reads the messages of a stream in order and without gaps, also over a lost connection. Whoever is done with it stops it.
type tail struct {
	stored  uint64 // messages that were there when it began; they come first
	arrived chan arrival
	stop    func()
}

// arrival is a message, or why none comes any more.
type arrival struct {
	msg  jetstream.Msg
	meta *jetstream.MsgMetadata
	err  error
}

// since says where a tail begins. The zero value is at the first message.
type since struct {
	now  bool      // behind the last message
	at   time.Time // unless zero
	last uint64    // unless 0: at the last but so many of the stream, whatever its filter
}

// follow begins to read the messages under a subject.
func (s *session) follow(ctx context.Context, stream, subject string, from since, headersOnly bool) (*tail, error) {
	request, cancel := s.request(ctx)
	defer cancel()
	denied := func(err error) error {
		if cause := context.Cause(request); errors.Is(cause, client.ErrDenied) {
			return cause
		}
		return err
	}
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, HeadersOnly: headersOnly, InactiveThreshold: readerExpiry,
		DeliverPolicy: jetstream.DeliverAllPolicy, MaxResetAttempts: -1,
	}
	switch {
	case !from.at.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &from.at
	case from.now || from.last > 0:
		// By sequence, since a consumer that is made anew would begin behind what came in between.
		info, err := s.js.Stream(request, stream)
		if err != nil {
			return nil, explain(stream, denied(err))
		}
		last := info.CachedInfo().State.LastSeq
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, last+1-min(from.last, last)
	}
	consumer, err := s.js.OrderedConsumer(request, stream, cfg)
	if err != nil {
		return nil, explain(stream, denied(err))
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, explain(stream, err)
	}
	ctx, stop := context.WithCancel(ctx)
	t := &tail{stored: consumer.CachedInfo().NumPending, arrived: make(chan arrival)}
	t.stop = func() {
		stop()
		cleanup, cancel := context.WithTimeout(context.Background(), cleanupWithin)
		defer cancel()
		go func() { // the name waits for the consumer where that is being made anew
			_ = s.js.DeleteConsumer(cleanup, stream, consumer.CachedInfo().Name)
			cancel()
		}()
		if s.nc.IsConnected() { // else in vain, and the broker removes it by itself
			<-cleanup.Done()
		}
	}
	// Next and Stop of an ordered consumer wait for the connection to come back; whoever reads must not.
	context.AfterFunc(ctx, messages.Stop)
	go t.pump(ctx, stream, messages)
	return t, nil
}

func (t *tail) pump(ctx context.Context, stream string, messages jetstream.MessagesContext) {
	for {
		var a arrival
		if a.msg, a.err = messages.Next(jetstream.NextContext(ctx)); a.err == nil {
			a.meta, a.err = a.msg.Metadata()
		}
		if a.err != nil {
			a.err = explain(stream, a.err)
		}
		select {
		case <-ctx.Done():
			return
		case t.arrived <- a:
		}
		if a.err != nil {
			return
		}
	}
}

// next returns the next message. It waits for it until ctx ends.
func (t *tail) next(ctx context.Context) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	select {
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case a := <-t.arrived:
		return a.msg, a.meta, a.err
	}
}

// await returns the first record of an execution that is wanted, from its beginning on.
func (s *session) await(ctx context.Context, ref recourse.Ref, wanted func(*recourse.Record) bool) (*recourse.Record, error) {
	t, err := s.follow(ctx, recourse.StreamJournal, ref.Prefix()+".>", since{}, false)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	for {
		msg, _, err := t.next(ctx)
		if err != nil {
			return nil, err
		}
		rec, err := recourse.DecodeRecord(msg.Data())
		if err != nil {
			return nil, explain(recourse.StreamJournal, err)
		}
		if wanted(rec) {
			return rec, nil
		}
	}
}
