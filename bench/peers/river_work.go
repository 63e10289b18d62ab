package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// workRiver decides in one transaction: decision, retry and the completion of the job are stored together or not at all.
func workRiver(ctx context.Context, w work, ready func()) error {
	return runRiver(ctx, w, ready, func(workers *river.Workers, pool *pgxpool.Pool, d *decider) {
		river.AddWorker(workers, &txFailure{pool: pool, decider: d})
		river.AddWorker(workers, &txRetry{pool: pool, decider: d})
	})
}

type txFailure struct {
	river.WorkerDefaults[failureArgs]
	pool    *pgxpool.Pool
	decider *decider
}

// Work implements [river.Worker].
func (w *txFailure) Work(ctx context.Context, job *river.Job[failureArgs]) error {
	rec, err := w.decider.failure(job.Args.Body)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if _, err := insertDecision(ctx, tx, rec); err != nil {
			return err
		}
		if !rec.due.IsZero() {
			client := river.ClientFromContext[pgx.Tx](ctx)
			if _, err := client.InsertTx(ctx, tx, retryArgs{rec.body}, &river.InsertOpts{ScheduledAt: rec.due}); err != nil {
				return err
			}
		}
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
}

type txRetry struct {
	river.WorkerDefaults[retryArgs]
	pool    *pgxpool.Pool
	decider *decider
}

// Work implements [river.Worker].
func (w *txRetry) Work(ctx context.Context, job *river.Job[retryArgs]) error {
	rec, err := w.decider.due(job.Args.Waits)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if _, err := insertDecision(ctx, tx, rec); err != nil {
			return err
		}
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
}

// workRiverBatch stores the decision by itself and leaves the completion to River, which completes many jobs at once. A job that is worked
// again finds its decision by the key.
func workRiverBatch(ctx context.Context, w work, ready func()) error {
	return runRiver(ctx, w, ready, func(workers *river.Workers, pool *pgxpool.Pool, d *decider) {
		river.AddWorker(workers, &batchFailure{pool: pool, decider: d})
	})
}

type batchFailure struct {
	river.WorkerDefaults[failureArgs]
	pool    *pgxpool.Pool
	decider *decider
}

// Work implements [river.Worker].
func (w *batchFailure) Work(ctx context.Context, job *river.Job[failureArgs]) error {
	rec, err := w.decider.failure(job.Args.Body)
	if err != nil {
		return err
	}
	inserted, err := insertDecision(ctx, w.pool, rec)
	switch {
	case err != nil:
		return err
	case inserted && rec.due.IsZero():
		return nil
	case inserted:
		return river.JobSnooze(time.Until(rec.due))
	}
	// Worked before: nothing is left to do, or the wait is over.
	var due *time.Time
	var body []byte
	if err := w.pool.QueryRow(ctx, "SELECT due, body FROM decision WHERE key = $1", rec.key).Scan(&due, &body); err != nil {
		return err
	}
	if due == nil {
		return nil
	}
	if left := time.Until(*due); left > 0 {
		return river.JobSnooze(left)
	}
	if rec, err = w.decider.due(body); err != nil {
		return err
	}
	_, err = insertDecision(ctx, w.pool, rec)
	return err
}
