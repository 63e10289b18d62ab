package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap/zapcore"
	"go.yaml.in/yaml/v4"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/demo"
	"github.com/recourse-dev/recourse/internal/telemetry"
	"github.com/recourse-dev/recourse/internal/worker"
)

// usageError says that the command line, the environment or the file asks for something that cannot be.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() + "; see worker --help" }
func (e *usageError) Unwrap() error { return e.err }

// command returns the command line, which calls run with what it was told. Settings come from flags, then from the environment, then
// from the file.
func command(getenv func(string) string, run func(context.Context, worker.Config) error) *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "worker",
		Short: "Decide what happens after a failed step",
		Long: `Worker takes step failures from NATS JetStream, decides each by the failure strategies of its pipeline and publishes
what an orchestrator must do: retry, roll back, pause, abort, ignore, mark.

Without a server it starts one of its own, with a data directory of its own.

Every flag can also be set by an environment variable, RECOURSE_ and its name in capitals (RECOURSE_DATA_DIR), and in the file
given with --config, as YAML by its name (data-dir: …). Flags win over the environment, the environment over the file. The
connection also follows the variables and contexts of the nats command (NATS_URL, NATS_CONTEXT, NATS_CREDS, …), the export of traces,
metrics and logs the standard ones of OpenTelemetry (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, …; docs/telemetry.md).`,
		Args:          noArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := fill(cmd.Flags(), cmd.Root().Flags(), getenv); err != nil {
				return &usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.config(getenv)
			if err != nil {
				return &usageError{err}
			}
			defer func() { _ = cfg.Log.Sync() }() // standard error cannot always be synced; nothing is buffered
			return run(cmd.Context(), cfg)
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	o.register(root.Flags())
	root.PersistentFlags().String("admin-listen", "", "host:port of /livez, /readyz and /metrics, or a port alone on 127.0.0.1 (default none)")
	root.PersistentFlags().String("config", "", "YAML `file` with settings")
	root.AddCommand(healthcheck(), demo.Command())
	return root
}

// noArgs refuses arguments: a subcommand that is not known, most likely.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return &usageError{err}
	}
	return nil
}

// options are the flags as they were given.
type options struct {
	connection client.Settings
	dataDir    string
	listen     string
	sync       broker.SyncMode
	provision  broker.Mode
	replicas   int
	maxAge     time.Duration
	monitorURL string
	semantics  recourse.Semantics
	batches    worker.Batches
	handOver   bool
	lanes      int
	prefetch   int
	stopWithin time.Duration
	sweepEvery time.Duration
	sweepGrace time.Duration
	pprof      bool
	delayed    telemetry.DelayedRetry
	logLevel   zapcore.Level
	logFormat  string
	flags      *pflag.FlagSet
}

func (o *options) register(f *pflag.FlagSet) {
	o.flags = f
	o.sync, o.provision, o.batches, o.logLevel = broker.SyncAlways, broker.ModeCreate, worker.BatchesAuto, zapcore.InfoLevel

	f.StringVarP(&o.connection.Server, "server", "s", "", "NATS `URLs`, joined by commas; none starts an embedded server")
	f.StringVar(&o.connection.Context, "context", "", "context of the nats command")
	f.StringVar(&o.connection.Creds, "creds", "", "user credentials `file`")
	f.StringVar(&o.connection.NKey, "nkey", "", "user seed `file`")
	f.StringVar(&o.connection.User, "user", "", "user name, or token where no password is given")
	f.StringVar(&o.connection.Password, "password", "", "password; better in NATS_PASSWORD, where other users do not see it")
	f.StringVar(&o.connection.TLSCert, "tlscert", "", "TLS client certificate `file`")
	f.StringVar(&o.connection.TLSKey, "tlskey", "", "TLS client key `file`")
	f.StringVar(&o.connection.TLSCA, "tlsca", "", "TLS authority `file`")
	f.BoolVar(&o.connection.TLSFirst, "tlsfirst", false, "start TLS before the server's greeting")
	f.StringVar(&o.connection.InboxPrefix, "inbox-prefix", "", "prefix of reply subjects")
	f.StringVar(&o.connection.Name, "connection-name", "recourse-worker", "name of the connection in the server's lists")
	f.DurationVar(&o.connection.Timeout, "timeout", 0, "how long one attempt to connect may take (default 5s)")

	f.StringVar(&o.dataDir, "data-dir", "", "embedded server: `directory` of the streams (default recourse under the user's data directory)")
	f.StringVar(&o.listen, "listen", broker.DefaultListen, "embedded server: host:port; port 0 takes a free one")
	f.TextVar(&o.sync, "sync", o.sync, "embedded server: always (before each acknowledgement) or interval")

	f.TextVar(&o.provision, "provision", o.provision, "streams and consumers: create, verify or off")
	f.IntVar(&o.replicas, "replicas", 0, "replicas of streams that are created (default 1)")
	f.DurationVar(&o.maxAge, "max-age", 0, "how long inputs and decisions are kept (default for ever)")
	f.StringVar(&o.monitorURL, "monitor-url", "", "monitoring endpoint of the server, http://host:8222; tells its sync mode")
	f.TextVar(&o.semantics, "semantics", o.semantics, "documented or engine, where they disagree")
	f.TextVar(&o.batches, "batches", o.batches, "decisions stored many at once: auto (where a server of 2.15 or newer is known to sync always, on files and one replica), on or off")
	f.BoolVar(&o.handOver, "hand-over", true, "hand inputs to the worker that handles their execution, where there are several")
	f.IntVar(&o.lanes, "lanes", 0, "inputs handled at once, 4096 at the most (default 1024)")
	f.IntVar(&o.prefetch, "prefetch", 0, "messages of each stream that wait in the worker (default 1024)")
	f.DurationVar(&o.stopWithin, "stop-within", 20*time.Second, "how long a stop may take to finish what is in hand")
	f.DurationVar(&o.sweepEvery, "sweep-every", 10*time.Second, "how often overdue waits are looked for")
	f.DurationVar(&o.sweepGrace, "sweep-grace", 30*time.Second, "how long a wait may be overdue before it is armed again")
	f.BoolVar(&o.pprof, "pprof", false, "Go's profiles beside the admin endpoints, under /debug/pprof/")
	f.TextVar(&o.delayed, "delayed-retry", o.delayed, "traces across waits: link (a new trace, linked) or parent (the same trace)")
	f.TextVar(&o.logLevel, "log-level", o.logLevel, "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "json", "json or console")
}

// config makes the worker's settings of the options.
func (o *options) config(getenv func(string) string) (worker.Config, error) {
	log, err := telemetry.NewLog(os.Stderr, o.logLevel, o.logFormat)
	if err != nil {
		return worker.Config{}, fmt.Errorf("--log-format: %w", err)
	}
	cfg := worker.Config{
		Connection: o.connection.FromEnv(getenv),
		Embedded:   broker.EmbeddedConfig{Dir: o.dataDir, Listen: o.listen, Sync: o.sync, Logf: log.Sugar().Warnf},
		Provision:  o.provision,
		Streams:    broker.ProvisionConfig{Replicas: o.replicas, MaxAge: o.maxAge},
		MonitorURL: o.monitorURL,
		Semantics:  o.semantics,
		Batches:    o.batches,
		Alone:      !o.handOver,
		StopWithin: o.stopWithin,
		Log:        log,
		Pprof:      o.pprof, DelayedRetry: o.delayed,
	}
	if cfg.AdminListen, err = o.flags.GetString("admin-listen"); err != nil {
		return worker.Config{}, err
	}
	if cfg.Embedded.Dir == "" {
		cfg.Embedded.Dir = defaultDataDir(getenv)
	}
	cfg.Consumer.Lanes, cfg.Consumer.Prefetch = o.lanes, o.prefetch
	cfg.Sweeper.Every, cfg.Sweeper.Grace = o.sweepEvery, o.sweepGrace
	for name, n := range map[string]int64{
		"lanes": int64(o.lanes), "prefetch": int64(o.prefetch), "stop-within": int64(o.stopWithin),
		"sweep-every": int64(o.sweepEvery), "sweep-grace": int64(o.sweepGrace),
	} {
		if n < 0 {
			return worker.Config{}, fmt.Errorf("--%s: must not be negative", name)
		}
	}
	return cfg, nil
}

// defaultDataDir is recourse under $XDG_DATA_HOME, ~/.local/share, or else the working directory.
func defaultDataDir(getenv func(string) string) string {
	if dir := getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "recourse")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "recourse")
	}
	return "recourse-data"
}

// fill sets the flags that were not given from the environment, else from the file. The file may name any of all the flags there are: a
// subcommand reads the same file as the worker and leaves out what is not for it.
func fill(flags, all *pflag.FlagSet, getenv func(string) string) error {
	path, err := flags.GetString("config")
	if err != nil {
		return err
	}
	if path == "" {
		path = getenv("RECOURSE_CONFIG")
	}
	file, err := readFile(path)
	if err != nil {
		return err
	}
	for name := range file {
		if flags.Lookup(name) == nil && all.Lookup(name) == nil {
			return fmt.Errorf("%s: no setting is called %q", path, name)
		}
	}
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || failed != nil || f.Name == "config" || f.Name == "help" {
			return
		}
		variable := "RECOURSE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		from, value := variable, getenv(variable)
		if value == "" {
			setting := file[f.Name]
			if setting == nil {
				return // left out, or there without a value
			}
			from, value = path+": "+f.Name, fmt.Sprint(setting)
		}
		if err := flags.Set(f.Name, value); err != nil {
			failed = fmt.Errorf("%s: %w", from, err)
		}
	})
	return failed
}

func readFile(path string) (map[string]any, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	settings := map[string]any{}
	if err := yaml.Unmarshal(content, &settings); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return settings, nil
}

// healthcheck asks the health endpoint of a worker on this machine, for images without a shell.
func healthcheck() *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the worker on this machine whether it is ready (exit code 0)",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			listen, err := cmd.Flags().GetString("admin-listen")
			if err != nil {
				return err
			}
			if listen == "" {
				return &usageError{fmt.Errorf("--admin-listen is needed: where the worker's health endpoints are")}
			}
			if !strings.Contains(listen, ":") {
				listen = ":" + listen
			}
			if strings.HasPrefix(listen, ":") {
				listen = "127.0.0.1" + listen
			}
			c := &http.Client{Timeout: 3 * time.Second}
			response, err := c.Get("http://" + listen + "/readyz")
			if err != nil {
				return err
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("not ready: %s", response.Status)
			}
			return nil
		},
	}
}
