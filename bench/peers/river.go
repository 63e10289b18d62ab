package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/recourse-dev/recourse"
)

// How soon a worker fetches again, and how often it looks without being notified; the cooldown also bounds how often inserts notify. Far below
// the defaults of 100 ms and 1 s, which bound throughput and latency: what River's own benchmark has.
const (
	riverCooldown = 2 * time.Millisecond
	riverPoll     = 20 * time.Millisecond
)

// riverEngine is River on PostgreSQL. Decisions are rows of a table beside River's own.
type riverEngine struct {
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx] // inserts only
}

// The table of decisions. The index makes a decision that is made again visible; River's transaction does not need it, but a user has it.
const decisionTable = `CREATE TABLE decision (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	key text NOT NULL UNIQUE,
	prefix text NOT NULL,
	command boolean NOT NULL,
	due timestamptz,
	body bytea NOT NULL,
	at timestamptz NOT NULL DEFAULT clock_timestamp()
)`

func openPool(ctx context.Context, url string, connections int) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = int32(connections)
	return pgxpool.NewWithConfig(ctx, cfg)
}

func openRiver(ctx context.Context, url string) (engine, error) {
	pool, err := openPool(ctx, url, 8)
	if err != nil {
		return nil, err
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{FetchCooldown: riverCooldown})
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &riverEngine{pool, client}, nil
}

func (e *riverEngine) prepare(ctx context.Context, _ *load) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(e.pool), nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	_, err = e.pool.Exec(ctx, decisionTable)
	return err
}

// riverBatch is how many jobs are inserted at once.
const riverBatch = 2000

func (e *riverEngine) put(ctx context.Context, failures []*recourse.Failure) error {
	bodies, err := encode(failures)
	if err != nil {
		return err
	}
	if len(bodies) == 1 {
		_, err := e.client.Insert(ctx, failureArgs{bodies[0]}, nil)
		return err
	}
	for len(bodies) > 0 {
		part := bodies[:min(len(bodies), riverBatch)]
		bodies = bodies[len(part):]
		jobs := make([]river.InsertManyParams, 0, len(part))
		for _, body := range part {
			jobs = append(jobs, river.InsertManyParams{Args: failureArgs{body}})
		}
		if _, err := e.client.InsertManyFast(ctx, jobs); err != nil {
			return err
		}
	}
	if len(failures) < riverBatch {
		return nil
	}
	_, err = e.pool.Exec(ctx, "ANALYZE") // as a database that has run for a while knows its tables
	return err
}

func (e *riverEngine) count(ctx context.Context) (n int, err error) {
	err = e.pool.QueryRow(ctx, "SELECT count(*) FROM decision").Scan(&n)
	return n, err
}

func (e *riverEngine) idle(ctx context.Context) (idle bool, err error) {
	err = e.pool.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM river_job WHERE state IN ('available', 'pending', 'retryable', 'running'))").Scan(&idle)
	return idle, err
}

func (e *riverEngine) span(ctx context.Context) (first, last time.Time, err error) {
	err = e.pool.QueryRow(ctx, "SELECT min(at), max(at) FROM decision").Scan(&first, &last)
	return first, last, err
}

// pollEvery is how often new rows are looked for: PostgreSQL has no blocking read, and a notification for each would slow down commits.
const pollEvery = 2 * time.Millisecond

// gapWithin is how long a missing id is waited for: a row with a lower id may be committed after one with a higher, or never.
const gapWithin = 3 * time.Second

func (e *riverEngine) follow(ctx context.Context, hear func(heard)) (stop func(), err error) {
	r := &riverReader{pool: e.pool, seen: make(map[int64]bool)}
	if err := e.pool.QueryRow(ctx, "SELECT coalesce(max(id), 0) FROM decision").Scan(&r.floor); err != nil {
		return nil, err
	}
	r.newest, r.moved = r.floor, time.Now()
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for r.read(ctx, hear) == nil { // what is missing after an error is seen by the count
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	return func() { cancel(); <-ended }, nil
}

// riverReader reads the rows of decisions as they are committed.
type riverReader struct {
	pool   *pgxpool.Pool
	floor  int64 // up to this id nothing is missing any more
	moved  time.Time
	newest int64          // id
	seen   map[int64]bool // ids above the floor
}

// read reads once what was not seen.
func (r *riverReader) read(ctx context.Context, hear func(heard)) error {
	seen := slices.AppendSeq(make([]int64, 0, len(r.seen)), maps.Keys(r.seen)) // not nil, which would be NULL
	rows, err := r.pool.Query(ctx, "SELECT id, prefix, command, due, body FROM decision WHERE id > $1 AND id <> ALL ($2) ORDER BY id", r.floor, seen)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var h heard
		var due *time.Time
		var body []byte
		if err := rows.Scan(&id, &h.prefix, &h.command, &due, &body); err != nil {
			return err
		}
		if due != nil {
			h.due = *due
		}
		r.seen[id], r.newest = true, max(r.newest, id)
		hear(h)
	}
	r.raise()
	return rows.Err()
}

// raise raises the floor over what was seen, and over what has been missing for too long.
func (r *riverReader) raise() {
	if r.floor < r.newest && time.Since(r.moved) > gapWithin {
		r.floor++
	}
	for ; r.seen[r.floor+1]; r.floor++ {
		delete(r.seen, r.floor+1)
		r.moved = time.Now()
	}
	if r.floor == r.newest {
		r.moved = time.Now()
	}
}

func (e *riverEngine) close() { e.pool.Close() }

// failureArgs is the job of a failure.
type failureArgs struct {
	Body json.RawMessage `json:"body"`
}

// Kind implements [river.JobArgs].
func (failureArgs) Kind() string { return "failure" }

// retryArgs is the job of a retry that is due when the job is: it carries the decision to wait.
type retryArgs struct {
	Waits json.RawMessage `json:"waits"`
}

// Kind implements [river.JobArgs].
func (retryArgs) Kind() string { return "retry" }

// runRiver runs a client with workers until ctx ends.
func runRiver(ctx context.Context, w work, ready func(), add func(*river.Workers, *pgxpool.Pool, *decider)) error {
	d, err := loadDecider(w.pipelines)
	if err != nil {
		return err
	}
	pool, err := openPool(ctx, w.url, w.connections)
	if err != nil {
		return err
	}
	defer pool.Close()
	workers := river.NewWorkers()
	add(workers, pool, d)
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		FetchCooldown: riverCooldown, FetchPollInterval: riverPoll,
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: w.concurrency}},
		Workers: workers,
	})
	if err != nil {
		return err
	}
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if err := client.Start(working); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	stopping, cancel := context.WithTimeout(context.Background(), stopWithin/2)
	defer cancel()
	return client.Stop(stopping)
}

// executor is a transaction, or a pool that makes one for each statement.
type executor interface {
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
}

// insertDecision stores a decision unless there is one with its key; it says whether it did. What is there is looked for first: a conflict
// would use up an id, and who reads would wait for it.
func insertDecision(ctx context.Context, db executor, rec *record) (bool, error) {
	var due *time.Time
	if !rec.due.IsZero() {
		due = &rec.due
	}
	tag, err := db.Exec(ctx, `INSERT INTO decision (key, prefix, command, due, body)
		SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT FROM decision WHERE key = $1) ON CONFLICT (key) DO NOTHING`,
		rec.key, rec.prefix, rec.command, due, rec.body)
	if err != nil {
		return false, fmt.Errorf("decision %s: %w", rec.key, err)
	}
	return tag.RowsAffected() > 0, nil
}
