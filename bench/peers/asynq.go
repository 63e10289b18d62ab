package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/recourse-dev/recourse"
)

// The types of tasks of asynq, its queue, and the stream of decisions beside it.
const (
	taskFailure    = "failure"
	taskRetry      = "retry"
	taskQueue      = "default"
	decisionStream = "decisions"
)

// asynqEngine is asynq on Redis.
type asynqEngine struct {
	redis     *redis.Client
	client    *asynq.Client
	inspector *asynq.Inspector
}

// asynqPutters is how many goroutines enqueue: asynq has no call for many tasks.
const asynqPutters = 64

func openAsynq(_ context.Context, url string) (engine, error) {
	client, err := redisClient(url, asynqPutters+4)
	if err != nil {
		return nil, err
	}
	return &asynqEngine{client, asynq.NewClientFromRedisClient(client), asynq.NewInspectorFromRedisClient(client)}, nil
}

func (e *asynqEngine) prepare(context.Context, *load) error { return nil }

func (e *asynqEngine) put(ctx context.Context, failures []*recourse.Failure) error {
	bodies, err := encode(failures)
	if err != nil {
		return err
	}
	next := make(chan []byte)
	errs := make([]error, min(asynqPutters, len(bodies)))
	var putting sync.WaitGroup
	for i := range errs {
		putting.Go(func() {
			for body := range next {
				if _, err := e.client.EnqueueContext(ctx, asynq.NewTask(taskFailure, body)); err != nil {
					errs[i] = err
				}
			}
		})
	}
	for _, body := range bodies {
		next <- body
	}
	close(next)
	putting.Wait()
	return errors.Join(errs...)
}

func (e *asynqEngine) count(ctx context.Context) (int, error) {
	n, err := e.redis.XLen(ctx, decisionStream).Result()
	return int(n), err
}

func (e *asynqEngine) idle(context.Context) (bool, error) {
	info, err := e.inspector.GetQueueInfo(taskQueue)
	if err != nil {
		return false, err
	}
	return info.Pending+info.Active+info.Retry == 0, nil
}

func (e *asynqEngine) span(ctx context.Context) (first, last time.Time, err error) {
	at := func(entries []redis.XMessage, err error) (time.Time, error) {
		if err != nil || len(entries) == 0 {
			return time.Time{}, errors.Join(err, errors.New("no decisions"))
		}
		millis, _, _ := strings.Cut(entries[0].ID, "-")
		n, err := strconv.ParseInt(millis, 10, 64)
		return time.UnixMilli(n), err
	}
	if first, err = at(e.redis.XRangeN(ctx, decisionStream, "-", "+", 1).Result()); err != nil {
		return first, last, err
	}
	last, err = at(e.redis.XRevRangeN(ctx, decisionStream, "+", "-", 1).Result())
	return first, last, err
}

func (e *asynqEngine) follow(ctx context.Context, hear func(heard)) (stop func(), err error) {
	last := "0"
	entries, err := e.redis.XRevRangeN(ctx, decisionStream, "+", "-", 1).Result()
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		last = entries[0].ID
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			streams, err := e.redis.XRead(ctx, &redis.XReadArgs{Streams: []string{decisionStream, last}, Count: 1000, Block: time.Second}).Result()
			switch {
			case errors.Is(err, redis.Nil) && ctx.Err() == nil:
				continue
			case err != nil:
				return // what is missing is seen by the count
			}
			for _, entry := range streams[0].Messages {
				last = entry.ID
				text := func(field string) string { s, _ := entry.Values[field].(string); return s }
				due, _ := time.Parse(time.RFC3339Nano, text(metaDue))
				hear(heard{prefix: text(metaPrefix), command: text(metaCommand) != "", due: due})
			}
		}
	}()
	return func() { cancel(); <-ended }, nil
}

func (e *asynqEngine) close() { _ = e.redis.Close() }

// asynqServers is how many servers a worker has: each takes one task after another from Redis, and waits for its flush.
const asynqServers = 4

// workAsynq is a few servers with one queue.
func workAsynq(ctx context.Context, w work, ready func()) error {
	d, err := loadDecider(w.pipelines)
	if err != nil {
		return err
	}
	client, err := redisClient(w.url, w.connections)
	if err != nil {
		return err
	}
	defer client.Close()
	cfg := asynq.Config{
		Concurrency: w.concurrency / asynqServers,
		// Far below the defaults of 1 s and 5 s, which bound how soon a task is seen.
		TaskCheckInterval: 5 * time.Millisecond, DelayedTaskCheckInterval: 100 * time.Millisecond,
		LogLevel: asynq.WarnLevel,
	}
	h := &asynqHandler{decider: d, redis: client, client: asynq.NewClientFromRedisClient(client)}
	var servers [asynqServers]*asynq.Server
	for i := range servers {
		servers[i] = asynq.NewServerFromRedisClient(client, cfg)
		if err := servers[i].Start(h); err != nil {
			return err
		}
	}
	ready()
	<-ctx.Done()
	var stopping sync.WaitGroup
	for _, server := range servers {
		stopping.Go(server.Shutdown)
	}
	stopping.Wait()
	return nil
}

// asynqHandler decides. Its decision and the end of its task are two steps: where the worker dies between them the decision is made again.
type asynqHandler struct {
	decider *decider
	redis   *redis.Client
	client  *asynq.Client
}

// ProcessTask implements [asynq.Handler].
func (h *asynqHandler) ProcessTask(ctx context.Context, task *asynq.Task) error {
	decided := h.decider.failure
	if task.Type() == taskRetry {
		decided = h.decider.due
	}
	rec, err := decided(task.Payload())
	if err != nil {
		return err
	}
	values := []any{metaPrefix, rec.prefix, "body", rec.body}
	if rec.command {
		values = append(values, metaCommand, "yes")
	}
	if !rec.due.IsZero() {
		values = append(values, metaDue, rec.due.UTC().Format(time.RFC3339Nano))
	}
	if err := h.redis.XAdd(ctx, &redis.XAddArgs{Stream: decisionStream, Values: values}).Err(); err != nil || rec.due.IsZero() {
		return err
	}
	_, err = h.client.EnqueueContext(ctx, asynq.NewTask(taskRetry, rec.body), asynq.ProcessAt(wholeSecond(rec.due)))
	return err
}

// wholeSecond is the first whole second that is not before t: asynq keeps whole seconds and leaves out the rest, so a task would come early.
func wholeSecond(t time.Time) time.Time {
	whole := t.Truncate(time.Second)
	if whole.Before(t) {
		whole = whole.Add(time.Second)
	}
	return whole
}
