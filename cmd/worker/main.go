// Worker decides what happens after a failed step: it takes failures from NATS JetStream and publishes commands.
//
// Without a server it starts one of its own, so that it runs with one command. `worker --help` lists what can be set.
//
// Exit codes: 0 stopped as asked, 1 ended by an error, 2 wrong usage or settings, 3 could not start (no server, missing streams),
// 130 a second signal.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/recourse-dev/recourse/internal/worker"
)

func main() {
	ctx, stop := interruptible()
	err := command(os.Getenv, worker.Run).ExecuteContext(ctx)
	stop()
	os.Exit(exitCode(err))
}

// interruptible returns a context that ends with the first SIGINT or SIGTERM. A second one ends the process at once.
func interruptible() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(exitInterrupted)
	}()
	return ctx, cancel
}

const (
	exitError       = 1
	exitUsage       = 2
	exitStart       = 3
	exitInterrupted = 130
)

// exitCode says what became of the process, on standard error and as its exit code.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "worker:", err)
	var usage *usageError
	var start *worker.StartError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &start):
		return exitStart
	default:
		return exitError
	}
}
