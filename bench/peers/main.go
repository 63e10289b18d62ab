// Command peers measures Recourse against what one would take instead: River on PostgreSQL, asynq on Redis, and Watermill with its NATS
// JetStream adapter. Each does the same job: a failure comes in, the same pure decision is made, one durable command goes out, the failure
// is acknowledged; and retries that are due later.
//
// Order: engines take turns, each on a server of its own that is started for it and stopped after it, with one worker process. Rates are
// taken from the server's timestamps, latency and lateness from this process's clock.
//
// It installs nothing: an engine whose server is missing is left out, which the report says. It leaves no process behind, also when it is
// killed: what it starts ends with its standard input.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	if len(args) > 0 && (args[0] == "serve" || args[0] == "work") {
		err := inside(args)
		if err != nil {
			fmt.Println(err) // for who started this, instead of that it is ready
		}
		return err
	}
	return bench(args)
}

// inside is a process that the bench starts: "serve server durability", or "work engine pipelines delay concurrency connections".
func inside(args []string) error {
	if args[0] == "serve" && len(args) == 3 {
		return serve(args[1], durability(args[2]))
	}
	if len(args) != 7 {
		return fmt.Errorf("%d arguments", len(args))
	}
	c, err := contenderNamed(args[1])
	if err != nil {
		return err
	}
	w := work{url: os.Getenv(serverVariable), pipelines: args[2], flush: durability(args[6])}
	var errs [3]error
	w.delay, errs[0] = time.ParseDuration(args[3])
	w.concurrency, errs[1] = strconv.Atoi(args[4])
	w.connections, errs[2] = strconv.Atoi(args[5])
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	return c.work(untilClosed(), w, func() { ready(os.Getpid(), w.url) })
}

func bench(args []string) error {
	cfg := config{pause: 10 * time.Second, progress: os.Stderr}
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	var names []string
	for _, c := range contenders {
		names = append(names, c.name)
	}
	engines := f.String("engines", strings.Join(names, ","), "what is measured, in this order")
	flush := f.String("flush", "each,later", "each: a write is on the disk before it is acknowledged; later: now and then")
	concurrency := f.String("concurrency", "", "decisions at once, as river=500,asynq=256")
	connections := f.String("connections", "", "connections of a worker, as river=24")
	output := f.String("o", "text", "text or json")
	f.IntVar(&cfg.rounds, "rounds", 3, "rounds, in turns")
	f.IntVar(&cfg.failures, "failures", 20_000, "failures of a backlog; 0 leaves it out")
	f.IntVar(&cfg.pipelines, "pipelines", 200, "pipelines of 20 to 200 steps")
	f.IntVar(&cfg.rate, "rate", 200, "failures per second while latency is measured; 0 leaves it out")
	f.DurationVar(&cfg.light, "light", 5*time.Second, "how long latency is measured in each round")
	f.IntVar(&cfg.waits, "waits", 20_000, "retries that are pending at once; 0 leaves them out")
	f.DurationVar(&cfg.spread, "spread", 20*time.Second, "over how long they come due")
	f.Uint64Var(&cfg.seed, "seed", 1, "of the load")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 || cfg.rounds < 1 || cfg.pipelines < 1 || min(cfg.failures, cfg.rate, cfg.waits) < 0 || cfg.spread < time.Second || cfg.failures == 1 ||
		(*output != "text" && *output != "json") {
		return errors.New("want --rounds and --pipelines of 1 or more, loads of 0 or more and not a single failure, a --spread of 1s or more, and -o text or json")
	}
	if err := cfg.choose(*engines, *flush, *concurrency, *connections); err != nil {
		return err
	}
	r := newReport(cfg)
	cfg.contenders = slices.DeleteFunc(cfg.contenders, func(c contender) bool {
		why := lacks(c.server)
		if why != "" {
			r.LeftOut = append(r.LeftOut, c.name+": "+why)
		}
		return why != ""
	})
	r.shout(os.Stderr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := cfg.run(ctx, r)
	return errors.Join(err, r.print(os.Stdout, *output))
}

// choose sets what is measured, and how much each does at once.
func (c *config) choose(engines, flush, concurrency, connections string) error {
	for name := range strings.SplitSeq(engines, ",") {
		found, err := contenderNamed(name)
		if err != nil {
			return err
		}
		c.contenders = append(c.contenders, found)
	}
	for when := range strings.SplitSeq(flush, ",") {
		if durability(when) != each && durability(when) != later {
			return fmt.Errorf("--flush: want each, later or both, got %q", when)
		}
		c.durabilities = append(c.durabilities, durability(when))
	}
	return errors.Join(
		c.tune(concurrency, func(t *tuning, n int) { t.concurrency = n }),
		c.tune(connections, func(t *tuning, n int) { t.connections = n }),
	)
}

// tune sets a number of some engines, as river=500,asynq=256.
func (c *config) tune(text string, set func(*tuning, int)) error {
	if text == "" {
		return nil
	}
	for one := range strings.SplitSeq(text, ",") {
		name, number, _ := strings.Cut(one, "=")
		n, err := strconv.Atoi(number)
		at := slices.IndexFunc(c.contenders, func(c contender) bool { return c.name == name })
		if err != nil || n < 1 || at < 0 {
			return fmt.Errorf("%q: want an engine that is measured and a number of 1 or more, as river=500", one)
		}
		set(&c.contenders[at].tuning, n)
	}
	return nil
}

// print writes the report.
func (r *report) print(w io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	r.write(w)
	return nil
}
