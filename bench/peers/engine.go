package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/recourse-dev/recourse"
)

// engine is one way to turn failures into commands, seen from outside: by who reports failures and by who carries out commands.
type engine interface {
	// prepare creates what the engine needs on a new server.
	prepare(ctx context.Context, l *load) error
	// put stores failures, and returns once all are stored.
	put(ctx context.Context, failures []*recourse.Failure) error
	// count is how many decisions are stored.
	count(ctx context.Context) (int, error)
	// idle says whether every failure is acknowledged. What waits for its time may or may not count.
	idle(ctx context.Context) (bool, error)
	// span is when the first and the last decision was stored, by the server's clock.
	span(ctx context.Context) (first, last time.Time, err error)
	// follow tells of each decision from now on, as an orchestrator hears of it, until stop is called. One call follows another.
	follow(ctx context.Context, hear func(heard)) (stop func(), err error)
	// close ends what connections there are.
	close()
}

// heard is a decision as it arrives.
type heard struct {
	prefix  string // of the execution
	command bool
	due     time.Time // of a decision to wait
}

// tuning is how much a worker does at once. What is 0 is the engine's own default.
type tuning struct {
	concurrency int // decisions
	connections int // to the server
}

// contender is an engine with its server and its worker.
type contender struct {
	name   string
	server string // what serve keeps
	tuning tuning
	// open connects to a server.
	open func(ctx context.Context, url string) (engine, error)
	// work decides until ctx ends; it calls ready once it does.
	work func(ctx context.Context, w work, ready func()) error
}

// work is what a worker is told.
type work struct {
	url       string
	pipelines string        // file of [savePipelines]
	delay     time.Duration // of every retry, for engines that have one delay for all
	flush     durability    // of the server, which a worker of Recourse finds out by itself where it may ask the server
	tuning
}

// contenders in the order of the table.
var contenders = []contender{
	{"recourse", "nats", tuning{}, openRecourse, workRecourse},
	{"river", "postgres", tuning{100, 40}, openRiver, workRiver},
	{"river-batch", "postgres", tuning{500, 12}, openRiver, workRiverBatch},
	{"asynq", "redis", tuning{1024, 128}, openAsynq, workAsynq},
	{"watermill", "nats", tuning{256, 0}, openWatermill, workWatermill},
}

func contenderNamed(name string) (contender, error) {
	for _, c := range contenders {
		if c.name == name {
			return c, nil
		}
	}
	return contender{}, fmt.Errorf("no engine %q", name)
}

// lacks says what is missing for a server and how to get it; "" is nothing.
func lacks(server string) string {
	switch server {
	case "postgres":
		if postgresBin("initdb") == "" || postgresBin("postgres") == "" {
			return "no initdb and postgres of PostgreSQL; on Debian: apt-get install postgresql"
		}
		if _, _, err := unprivileged(); err != nil {
			return err.Error()
		}
	case "redis":
		if _, err := exec.LookPath("redis-server"); err != nil {
			return "no redis-server; on Debian: apt-get install redis-server"
		}
	}
	return ""
}
