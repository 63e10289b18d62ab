// Package measure has the command that measures, and those of the processes it starts. It alone among the commands has a worker inside.
package measure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"go.uber.org/zap/zapcore"

	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/bench"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/cli/online"
	"github.com/recourse-dev/recourse/internal/telemetry"
	"github.com/recourse-dev/recourse/internal/worker"
)

// Bench returns the command that measures a worker against the limit of its broker.
func Bench(g *online.Global) *cobra.Command {
	cfg, batches := bench.Config{}, worker.BatchesAuto
	sync := syncModes{broker.SyncInterval}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a worker against the limit of its broker",
		Long: `Bench measures a worker against a bare loop on the same server in the same run: pull a failure, append one message of the size of a
record with the same concurrency headers under as many subjects, acknowledge. What the worker adds above that is decoding, deciding,
telling, and arming what waits.

Throughput is measured on backlogs of first failures; of first failures, further nodes and further attempts mixed, shared by two workers;
and of second failures of executions that another process handled. Workers log in JSON, have their metrics on, and begin with nothing in
memory: the pipelines are compiled in what is measured.

It starts a server, workers and bare loops as processes of their own; with --server it uses that one, whose streams must be there and
which nobody else may use, since each input and record of it would count. It leaves its executions there.

A part whose load is 0 is left out: --failures, --rate, --waits, --backlog, --flat.`,
		Example: "  recourse bench\n  recourse bench --sync always --failures 20000 --waits 0\n  recourse bench --flat 1000000 --failures 0 --rate 0 --waits 0 --backlog 0 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for name, n := range map[string]int{"failures": cfg.Failures, "rate": cfg.Rate, "waits": cfg.Waits, "backlog": cfg.Backlog, "prefill": cfg.Prefill, "flat": cfg.Flat} {
				if n < 0 {
					return cli.Usagef("--%s: want 0 or more, got %d", name, n)
				}
			}
			if cfg.Rounds < 1 || cfg.Pipelines < 1 {
				return cli.Usagef("--rounds and --pipelines: want 1 or more")
			}
			cfg.Batches = batches.String()
			cfg.Server, cfg.Progress = g.Server(), cmd.ErrOrStderr()
			if cfg.Server != "" && cmd.Flags().Changed("sync") {
				return cli.Usagef("--sync is of a server that is started: not with --server")
			}
			p := cli.NewPrinter(cmd, g.Format)
			for i, mode := range sync {
				cfg.Sync = mode
				report, err := bench.Run(cmd.Context(), cfg)
				switch {
				case report == nil:
				case p.Format == cli.JSON:
					err = errors.Join(err, p.JSON(report))
				default:
					if i > 0 {
						fmt.Fprintln(p.Out)
					}
					report.Write(p.Out)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.TextVar(&sync, "sync", syncModes{broker.SyncInterval}, "when the server that is started writes to disk: always, `interval`, or both, with a report each")
	f.TextVar(&batches, "batches", batches, "records of the workers stored many at once: on, off, or `auto` for on with sync always")
	f.IntVar(&cfg.Failures, "failures", 50_000, "failures of each round; half as many second ones")
	f.IntVar(&cfg.Rounds, "rounds", 5, "rounds of each kind, in turns")
	f.IntVar(&cfg.Pipelines, "pipelines", 200, "pipelines of 20 to 200 steps that are registered")
	f.IntVar(&cfg.Rate, "rate", 200, "failures per second while latency is measured")
	f.DurationVar(&cfg.Light, "light", 10*time.Second, "how long latency is measured in each round")
	f.IntVar(&cfg.Waits, "waits", 100_000, "retries that are pending at once")
	f.DurationVar(&cfg.Spread, "spread", 30*time.Second, "over how long they come due")
	f.IntVar(&cfg.Backlog, "backlog", 100_000, "failures that wait for a worker to start")
	f.IntVar(&cfg.Flat, "flat", 0, "executions up to which the cost of a failure is measured, and up to a hundredth as many pipelines in use")
	f.IntVar(&cfg.Prefill, "prefill", 0, "messages in the journal before anything is measured")
	f.Uint64Var(&cfg.Seed, "seed", uint64(time.Now().Unix()), "of the load; a server that is used again needs another one")
	cmd.AddCommand(benchServer(), benchBare(g), benchWorker(g))
	return cmd
}

// syncModes are those that are measured, one after another.
type syncModes []broker.SyncMode

const bothModes = "both"

// MarshalText writes the mode, or "both".
func (m syncModes) MarshalText() ([]byte, error) {
	if len(m) == 1 {
		return m[0].MarshalText()
	}
	return []byte(bothModes), nil
}

// UnmarshalText reads "always", "interval" or "both".
func (m *syncModes) UnmarshalText(text []byte) error {
	if string(text) == bothModes {
		*m = syncModes{broker.SyncInterval, broker.SyncAlways}
		return nil
	}
	var mode broker.SyncMode
	if err := mode.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w, or %s", err, bothModes)
	}
	*m = syncModes{mode}
	return nil
}

// part makes a hidden command of a process that the bench starts. It ends with its standard input, and says on its output why it could
// not start.
func part(use string, run func(cmd *cobra.Command) error) *cobra.Command {
	return &cobra.Command{Use: use, Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		cmd.SetContext(bench.UntilClosed(cmd.Context(), cmd.InOrStdin()))
		err := run(cmd)
		if err != nil {
			fmt.Fprintln(cmd.OutOrStdout(), err)
		}
		return err
	}}
}

func benchServer() *cobra.Command {
	cfg := broker.EmbeddedConfig{Listen: "127.0.0.1:0"}
	cmd := part("server", func(cmd *cobra.Command) error {
		server, err := broker.StartEmbedded(cfg)
		if err != nil {
			return err
		}
		bench.Ready(cmd.OutOrStdout(), server.URL(), "")
		ctx := cmd.Context()
		<-ctx.Done()
		return server.Shutdown(context.WithoutCancel(ctx))
	})
	cmd.Flags().StringVar(&cfg.Dir, "dir", "", "`directory` of the streams")
	cmd.Flags().TextVar(&cfg.Sync, "sync", broker.SyncInterval, "always or `interval`")
	return cmd
}

func benchBare(g *online.Global) *cobra.Command {
	var shape bench.Shape
	var since uint64
	cmd := part("bare", func(cmd *cobra.Command) error {
		nc, err := nats.Connect(g.Server())
		if err != nil {
			return err
		}
		defer nc.Close()
		err = bench.Bare(cmd.Context(), nc, shape, since, func() { bench.Ready(cmd.OutOrStdout(), g.Server(), "") })
		return errors.Join(err, nc.Flush())
	})
	benchFlags(cmd, &shape, &since, new(worker.Batches))
	return cmd
}

// benchWorker is a worker as it runs by default, with its log in JSON on the standard error, and its metrics.
func benchWorker(g *online.Global) *cobra.Command {
	var batches worker.Batches
	cmd := part("worker", func(cmd *cobra.Command) error {
		log, err := telemetry.NewLog(os.Stderr, zapcore.InfoLevel, "json")
		if err != nil {
			return err
		}
		admin, err := freeAddress()
		if err != nil {
			return err
		}
		return worker.Run(cmd.Context(), worker.Config{
			Connection: client.Settings{Server: g.Server()}, Provision: broker.ModeOff, Batches: batches, Log: log, AdminListen: admin, Pprof: true,
			Ready: func(url string) { bench.Ready(cmd.OutOrStdout(), url, "http://"+admin+"/metrics") },
		})
	})
	benchFlags(cmd, new(bench.Shape), new(uint64), &batches)
	return cmd
}

// freeAddress returns an address of the loopback interface on which nobody listens just now.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// benchFlags are those with which the bench starts either kind.
func benchFlags(cmd *cobra.Command, shape *bench.Shape, since *uint64, batches *worker.Batches) {
	cmd.Flags().TextVar(batches, "batches", worker.BatchesAuto, "setting of the worker")
	cmd.Flags().IntVar(&shape.Size, "size", 0, "bytes of a record")
	cmd.Flags().Float64Var(&shape.Fresh, "fresh", 0, "part of later records with a subject of their own")
	cmd.Flags().Uint64Var(since, "since", 0, "sequence in the journal from which chains are known")
}
