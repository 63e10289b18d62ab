// Recourse is the tool for people: it checks pipelines, explains decisions, registers pipelines, reports failures, shows what happens
// and answers interventions. `recourse --help` lists its commands and exit codes.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/recourse-dev/recourse/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := command(os.Getenv).ExecuteContext(ctx)
	stop()
	os.Exit(exitCode(os.Stderr, err))
}

// exitCode tells what went wrong, where that was not told yet, and returns the exit code.
func exitCode(w io.Writer, err error) int {
	if err != nil && err.Error() != "" {
		fmt.Fprintln(w, "recourse:", err)
	}
	return cli.Code(err)
}
