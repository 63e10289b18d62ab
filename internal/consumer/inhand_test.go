package consumer_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/recourse-dev/recourse/internal/consumer"
	"github.com/recourse-dev/recourse/internal/telemetry"
)

// TestManyOfOneExecution: however many inputs of one execution wait for each other, they do not hold up other executions, and the server is
// told of each that it is in progress.
func TestManyOfOneExecution(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many, ackWait = 3000, 30 * time.Second
		one, others := feedOf(t, 1), feedOf(t, 500)
		watched := &watchedFeed{feed: one, progress: make(map[int]int)}
		one.left = many
		journal := &held{store: make(chan struct{})}
		c := consumer.New(journal, journal, journal, telemetry.New(zap.NewNop()), consumer.Config{AckWait: ackWait})
		ended := make(chan error)
		go func() {
			ended <- c.Run(t.Context(), t.Context(), &following{sources: []consumer.Source{watched, others}})
		}()
		synctest.Wait()
		if waiting := journal.waiting.Load(); waiting < 300 {
			t.Errorf("%d appends wait, want one of the many and most of the others", waiting)
		}
		time.Sleep(ackWait/3 + time.Second)
		synctest.Wait()
		watched.mu.Lock()
		if n := len(watched.progress); n != many {
			t.Errorf("%d of %d were reported as in progress", n, many)
		}
		watched.mu.Unlock()
		close(journal.store)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if got := one.settled.Load() + others.settled.Load(); got != many+500 {
			t.Errorf("%d settled", got)
		}
	})
}

// TestMostInHand: a worker takes no more than it may have in hand, and goes on when some is settled.
func TestMostInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 4096
		feed := feedOf(t, 100)
		feed.left = most + 100
		journal := &held{store: make(chan struct{})}
		c := consumer.New(journal, journal, journal, telemetry.New(zap.NewNop()), consumer.Config{})
		ended := make(chan error)
		go func() { ended <- c.Run(t.Context(), t.Context(), feed) }()
		synctest.Wait()
		if feed.left != 99 {
			t.Errorf("%d are left, want 99: all but those in hand and one that waits for room", feed.left)
		}
		close(journal.store)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if got := feed.settled.Load(); got != most+100 {
			t.Errorf("%d settled", got)
		}
	})
}

// TestSettledIsNotInProgress: what is to be delivered again soon is not reported as in progress after that, or it would come again only when
// the wait for an acknowledgement is over.
func TestSettledIsNotInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ackWait = 30 * time.Second
		one := feedOf(t, 1)
		watched := &watchedFeed{feed: one, progress: make(map[int]int), slow: ackWait}
		journal := new(instant)
		c := consumer.New(journal, journal, journal, telemetry.New(zap.NewNop()), consumer.Config{AckWait: ackWait})
		if err := c.Run(t.Context(), t.Context(), watched); err != nil {
			t.Fatal(err)
		}
		if len(watched.progress) != 0 || one.settled.Load() != 1 {
			t.Errorf("in progress: %v, %d settled", watched.progress, one.settled.Load())
		}
	})
}

// watchedFeed is a feed that counts what is reported as in progress.
type watchedFeed struct {
	*feed
	slow time.Duration // that an acknowledgement takes

	mu       sync.Mutex
	progress map[int]int // times, by the number of the message
}

func (w *watchedFeed) Pull(int) (consumer.Messages, error) { return w, nil }

func (w *watchedFeed) Next() (jetstream.Msg, error) {
	msg, err := w.feed.Next()
	if err != nil {
		return nil, err
	}
	return &watchedMessage{fed: msg.(*fed), of: w, number: w.left}, nil
}

type watchedMessage struct {
	*fed
	of     *watchedFeed
	number int
}

func (m *watchedMessage) InProgress() error {
	m.of.mu.Lock()
	defer m.of.mu.Unlock()
	m.of.progress[m.number]++
	return nil
}

func (m *watchedMessage) Ack() error {
	time.Sleep(m.of.slow)
	return m.fed.Ack()
}

// following is sources one after another.
type following struct {
	sources []consumer.Source
	now     consumer.Messages
}

func (f *following) Pull(int) (consumer.Messages, error) { return f, nil }

func (f *following) Next() (jetstream.Msg, error) {
	for {
		if f.now == nil {
			if len(f.sources) == 0 {
				return nil, jetstream.ErrMsgIteratorClosed
			}
			var err error
			if f.now, err = f.sources[0].Pull(0); err != nil {
				return nil, err
			}
			f.sources = f.sources[1:]
		}
		msg, err := f.now.Next()
		if err == nil {
			return msg, nil
		}
		f.now = nil
	}
}

func (f *following) Stop() {}
