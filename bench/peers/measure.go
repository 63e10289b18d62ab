package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/recourse-dev/recourse"
)

// config says what is measured. A part whose load is 0 is left out.
type config struct {
	contenders   []contender
	durabilities []durability
	rounds       int
	failures     int           // of a backlog
	pipelines    int           // that they are of
	rate         int           // of failures per second while latency is measured
	light        time.Duration // for how long
	waits        int           // retries that are pending at once
	spread       time.Duration // over how long they come due
	pause        time.Duration // between the last failure that is to be retried later and the first retry, where a machine keeps up
	seed         uint64
	progress     io.Writer
}

// delay is how long each retry waits: until all are pending.
func (c *config) delay() time.Duration { return c.spread + c.pause }

// patience is how long nothing may happen before a measurement is given up.
const patience = 90 * time.Second

// look is how often an engine is asked how far it is.
const look = 200 * time.Millisecond

// part is one measurement on a server of its own. It returns what it found in a few words.
type part struct {
	name    string
	load    int
	measure func(context.Context, *session, *result) (string, error)
}

// run measures every engine in turns. What was measured is in the report also where something else failed.
func (c *config) run(ctx context.Context, r *report) error {
	parts := []part{{"first failures", c.failures, throughput}, {"latency", c.rate * int(c.light/time.Second), latency}, {"waits", c.waits, late}}
	var errs []error
	for round := range c.rounds {
		for _, when := range c.durabilities {
			for _, contender := range c.contenders {
				for _, p := range parts {
					if p.load == 0 {
						continue
					}
					var said string
					err := c.session(ctx, contender, when, round, func(s *session) (err error) {
						said, err = p.measure(ctx, s, r.result(contender, when))
						return err
					})
					if ctx.Err() != nil {
						return ctx.Err()
					}
					if err != nil {
						err = fmt.Errorf("%s, flush %s, %s: %w", contender.name, when, p.name, err)
						errs = append(errs, err)
						said = "FAILED: " + err.Error()
					}
					fmt.Fprintf(c.progress, "round %d, flush %s, %s, %s: %s\n", round+1, when, contender.name, p.name, said)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// session is an engine on a new server.
type session struct {
	*config
	contender
	engine
	*load
	server    *process
	flush     durability // of the server
	pipelines string     // file
}

// session starts a server, measures on it, and stops it.
func (c *config) session(ctx context.Context, contender contender, when durability, round int, measure func(*session) error) (err error) {
	s := &session{config: c, contender: contender, flush: when, load: newLoad(c.seed+uint64(round), c.pipelines)}
	dir, err := os.MkdirTemp("", "bench-peers-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s.pipelines = filepath.Join(dir, "pipelines.json")
	if err := savePipelines(s.pipelines, s.load); err != nil {
		return err
	}
	if s.server, err = start(ctx, "", "serve", contender.server, string(when)); err != nil {
		return err
	}
	defer func() { _, stopped := s.server.stop(); err = errors.Join(err, stopped) }()
	if s.engine, err = contender.open(ctx, s.server.url); err != nil {
		return err
	}
	defer s.engine.close()
	if err := s.prepare(ctx, s.load); err != nil {
		return err
	}
	return measure(s)
}

// worker starts the worker of the session's engine.
func (s *session) worker(ctx context.Context) (*process, error) {
	return start(ctx, s.server.url, "work", s.contender.name, s.pipelines, s.delay().String(), strconv.Itoa(s.tuning.concurrency), strconv.Itoa(s.tuning.connections), string(s.flush))
}

// decided waits until n decisions are stored and every failure is acknowledged. More than n is an error.
func (s *session) decided(ctx context.Context, n int) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	before, since := 0, time.Now()
	for {
		got, err := s.count(ctx)
		if err != nil {
			return err
		}
		if got > n {
			return fmt.Errorf("%d failures made %d decisions", n, got)
		}
		if got == n {
			if idle, err := s.idle(ctx); err != nil || idle {
				return err
			}
		}
		if got != before {
			before, since = got, time.Now()
		}
		if time.Since(since) > patience {
			return fmt.Errorf("%d of %d failures are decided, and no more for %v", got, n, patience)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// throughput has a worker decide a backlog. The rate is between the first and the last decision, by the server's clock, so that starting the
// worker does not count; the processor time is all of it.
func throughput(ctx context.Context, s *session, res *result) (said string, err error) {
	if err := s.put(ctx, s.First("backlog", s.failures)); err != nil {
		return "", err
	}
	before := cpuOf(s.server.pid)
	w, err := s.worker(ctx)
	if err != nil {
		return "", err
	}
	err = s.decided(ctx, s.failures)
	server := cpuOf(s.server.pid) - before
	took, stopped := w.stop()
	if err := errors.Join(err, stopped); err != nil {
		return "", err
	}
	first, last, err := s.span(ctx)
	if err != nil {
		return "", err
	}
	per10k := func(cpu time.Duration) float64 { return cpu.Seconds() * 10_000 / float64(s.failures) }
	rate := float64(s.failures-1) / last.Sub(first).Seconds()
	res.PerSecond = append(res.PerSecond, rate)
	res.WorkerCPU = append(res.WorkerCPU, per10k(took.cpu))
	res.ServerCPU = append(res.ServerCPU, per10k(server))
	res.WorkerRSS = max(res.WorkerRSS, took.rss)
	return fmt.Sprintf("%.0f/s, CPU per 10,000: worker %.2f s, server %.2f s", rate, per10k(took.cpu), per10k(server)), nil
}

// arrivals is what was heard of executions.
type arrivals struct {
	mu       sync.Mutex
	commands map[string]time.Time // when the first command of an execution arrived
	due      map[string]time.Time // when it said that its retry is due
	waiting  int                  // how many waited when the first command arrived
	again    int                  // commands that arrived for an execution that had one
}

func (s *session) listen(ctx context.Context) (*arrivals, func(), error) {
	a := &arrivals{commands: make(map[string]time.Time), due: make(map[string]time.Time)}
	stop, err := s.follow(ctx, func(h heard) {
		now := time.Now()
		a.mu.Lock()
		defer a.mu.Unlock()
		if !h.due.IsZero() {
			a.due[h.prefix] = h.due
		}
		if !h.command {
			return
		}
		if len(a.commands) == 0 {
			a.waiting = len(a.due)
		}
		if _, known := a.commands[h.prefix]; known {
			a.again++
			return
		}
		a.commands[h.prefix] = now
	})
	return a, stop, err
}

// wait waits until commands of n executions have arrived.
func (a *arrivals) wait(ctx context.Context, n int) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	before, since := 0, time.Now()
	for {
		a.mu.Lock()
		got := len(a.commands)
		a.mu.Unlock()
		if got >= n {
			return nil
		}
		if got != before {
			before, since = got, time.Now()
		}
		if time.Since(since) > patience {
			return fmt.Errorf("%d of %d commands arrived, and no more for %v", got, n, patience)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// latency measures from a failure being stored to its command being delivered, at a rate that nobody is busy with. Stored is when who put it
// was told so; both clocks are this process's. Every pipeline was used before.
func latency(ctx context.Context, s *session, res *result) (said string, err error) {
	w, err := s.worker(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _, stopped := w.stop(); err = errors.Join(err, stopped) }()
	warm := s.Each("warm")
	if err := s.put(ctx, warm); err != nil {
		return "", err
	}
	if err := s.decided(ctx, len(warm)); err != nil {
		return "", err
	}
	heard, stop, err := s.listen(ctx)
	if err != nil {
		return "", err
	}
	defer stop()
	failures := s.single("light", s.rate*int(s.light/time.Second))
	stored, errs := make([]time.Time, len(failures)), make([]error, len(failures))
	var putting sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(s.rate))
	defer tick.Stop()
	for i, f := range failures {
		<-tick.C
		putting.Go(func() { // one that is slow to store holds up no other
			errs[i] = s.put(ctx, []*recourse.Failure{f})
			stored[i] = time.Now()
		})
	}
	putting.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	if err := heard.wait(ctx, len(failures)); err != nil {
		return "", err
	}
	heard.mu.Lock()
	defer heard.mu.Unlock()
	took := make([]time.Duration, 0, len(failures))
	for i, f := range failures {
		took = append(took, max(heard.commands[f.Prefix()].Sub(stored[i]), 0)) // a command may be there before who put its failure hears of it
	}
	q := quantiles(took)
	res.Latency = append(res.Latency, q)
	return q.String(), nil
}

// late measures by how much retries come later than their decisions say.
func late(ctx context.Context, s *session, res *result) (said string, err error) {
	w, err := s.worker(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _, stopped := w.stop(); err = errors.Join(err, stopped) }()
	heard, stop, err := s.listen(ctx)
	if err != nil {
		return "", err
	}
	defer stop()
	const every = 50 * time.Millisecond
	failures := s.delayed("wait", s.waits, s.delay())
	chunk := max(int(time.Duration(len(failures))*every/s.spread), 1)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := 0; i < len(failures); i += chunk {
		<-tick.C
		if err := s.put(ctx, failures[i:min(i+chunk, len(failures))]); err != nil {
			return "", err
		}
	}
	if err := heard.wait(ctx, s.waits); err != nil {
		return "", err
	}
	heard.mu.Lock()
	defer heard.mu.Unlock()
	by := make([]time.Duration, 0, s.waits)
	for prefix, at := range heard.commands {
		due, known := heard.due[prefix]
		if !known {
			return "", fmt.Errorf("%s was retried and never said that it waits", prefix)
		}
		if at.Before(due) {
			return "", fmt.Errorf("%s was retried %v before it was due", prefix, due.Sub(at))
		}
		by = append(by, at.Sub(due))
	}
	q := quantiles(by)
	res.Late, res.Pending = append(res.Late, q), append(res.Pending, heard.waiting)
	return fmt.Sprintf("late by %v, %d were pending", q, heard.waiting), nil
}
