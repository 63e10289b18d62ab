package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// DefaultListen is where the embedded server listens unless told otherwise.
const DefaultListen = "127.0.0.1:4222"

// readyWithin bounds the start of the embedded server; recovering a million messages takes 1.4 s.
const readyWithin = 2 * time.Minute

// embeddedSyncInterval is the interval of [SyncInterval]; it is the server's own default.
const embeddedSyncInterval = 2 * time.Minute

// SyncMode is when a server brings a message to the disk. The zero value means not set.
type SyncMode uint8

// The modes.
const (
	SyncAlways   SyncMode = iota + 1 // before it is acknowledged: a power cut loses nothing acknowledged
	SyncInterval                     // in the background, every two minutes by default: a power cut can lose all of that
)

var syncModeNames = [...]string{"", "always", "interval"}

// String returns "always", "interval" or "".
func (m SyncMode) String() string {
	if int(m) < len(syncModeNames) {
		return syncModeNames[m]
	}
	return fmt.Sprintf("SyncMode(%d)", uint8(m))
}

// MarshalText writes the name.
func (m SyncMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads "always" or "interval".
func (m *SyncMode) UnmarshalText(text []byte) error {
	for i, name := range syncModeNames {
		if i > 0 && name == string(text) {
			*m = SyncMode(i)
			return nil
		}
	}
	return fmt.Errorf("unknown sync mode %q, known are always, interval", text)
}

// EmbeddedConfig configures a server inside the process.
type EmbeddedConfig struct {
	// Dir is where it keeps the streams. Required; made where it does not exist.
	Dir string
	// Listen is host:port, [DefaultListen] if empty; port 0 or -1 takes any that is free. Clients are not authenticated, so what is
	// not a loopback address opens the streams to the network.
	Listen string
	// Sync is [SyncAlways] where it is not set.
	Sync SyncMode
	// MaxStore bounds the bytes on disk; 0 leaves it to the server, which takes three quarters of what is free.
	MaxStore int64
	// Logf is called with the server's warnings and errors, from any goroutine; nil drops them.
	Logf func(format string, args ...any)
}

// Embedded is a NATS server with JetStream inside the process, for one machine: trying out, tests, and a worker that needs no
// other. It has one replica; use a cluster where a lost machine must not stop decisions.
type Embedded struct {
	server   *server.Server
	sync     SyncMode
	log      *serverLog
	shutdown sync.Once
	done     chan struct{}
	unlock   func() error
	err      error // of unlock; readable once done is closed
}

// PortTakenError says that something else listens where the embedded server should.
type PortTakenError struct{ Listen, Reason string }

func (e *PortTakenError) Error() string {
	return fmt.Sprintf("the embedded NATS server cannot listen on %s: %s; connect to the server that is there, or choose another port (port 0 takes a free one)", e.Listen, e.Reason)
}

// DirTakenError says that another process, or another server in this one, uses the directory.
type DirTakenError struct {
	Dir string
	// PID is the process that holds it, as far as known.
	PID string
}

func (e *DirTakenError) Error() string {
	holder := "another process"
	if e.PID != "" {
		holder = "process " + e.PID
	}
	return fmt.Sprintf("the directory %s is in use by the embedded NATS server of %s: stop that, connect to it, or choose another directory", e.Dir, holder)
}

// StartEmbedded starts a server and returns once it accepts clients and JetStream is ready. The error is a *[PortTakenError] or a
// *[DirTakenError] where that is the reason. What was started is stopped again on an error.
func StartEmbedded(cfg EmbeddedConfig) (*Embedded, error) {
	if cfg.Dir == "" {
		return nil, errors.New("the embedded NATS server needs a directory for its streams")
	}
	if cfg.Listen == "" {
		cfg.Listen = DefaultListen
	}
	if cfg.Sync == 0 {
		cfg.Sync = SyncAlways
	}
	if cfg.Sync > SyncInterval {
		return nil, fmt.Errorf("unknown sync mode %d", cfg.Sync)
	}
	host, portText, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen address of the embedded NATS server: %w", err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < -1 || port > 65535 {
		return nil, fmt.Errorf("listen address of the embedded NATS server: port %q, want 0 to 65535", portText)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("directory of the embedded NATS server: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the embedded NATS server: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	e := &Embedded{sync: cfg.Sync, log: &serverLog{logf: cfg.Logf}, done: make(chan struct{}), unlock: unlock}
	e.server, err = server.NewServer(&server.Options{
		ServerName:        "recourse-embedded",
		Host:              host,
		Port:              port,
		JetStream:         true,
		StoreDir:          dir,
		SyncAlways:        cfg.Sync == SyncAlways,
		SyncInterval:      embeddedSyncInterval,
		JetStreamMaxStore: cfg.MaxStore,
		NoSigs:            true, // signals are the program's, see cmd/worker
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("embedded NATS server: %w", err), unlock())
	}
	e.server.SetLoggerV2(e.log, false, false, false)
	e.server.Start()
	if !e.log.failed() && e.server.ReadyForConnections(readyWithin) && e.server.JetStreamEnabled() {
		return e, nil
	}
	stopErr := e.Shutdown(context.Background())
	reason := e.log.reason()
	if strings.Contains(reason, "Error listening on port") {
		_, why, _ := strings.Cut(reason, `, "`)
		return nil, errors.Join(&PortTakenError{Listen: cfg.Listen, Reason: strings.TrimSuffix(why, `"`)}, stopErr)
	}
	return nil, errors.Join(fmt.Errorf("the embedded NATS server in %s did not start: %s", dir, reason), stopErr)
}

// URL returns where clients of other processes connect.
func (e *Embedded) URL() string { return e.server.ClientURL() }

// InProcess returns the option that connects nats.Connect without a socket; the URL given beside it does not matter.
func (e *Embedded) InProcess() nats.Option { return nats.InProcessServer(e.server) }

// Sync returns the mode the server runs in.
func (e *Embedded) Sync() SyncMode { return e.sync }

// Done is closed once the server has stopped and its directory is free.
func (e *Embedded) Done() <-chan struct{} { return e.done }

// Shutdown stops the server and waits until its streams are closed and the directory is free, or until ctx is done, when the stop
// goes on in the background. It may be called more than once and at the same time.
func (e *Embedded) Shutdown(ctx context.Context) error {
	e.shutdown.Do(func() {
		go func() {
			defer close(e.done)
			e.server.Shutdown()
			e.server.WaitForShutdown()
			e.err = e.unlock()
		}()
	})
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return fmt.Errorf("the embedded NATS server is still stopping: %w", ctx.Err())
	}
}

// serverLog hands on warnings and errors and keeps the first thing that was fatal: the server does not return it, and the logger
// it has by default ends the process.
type serverLog struct {
	logf func(format string, args ...any)

	mu    sync.Mutex
	fatal string
	last  string
}

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}

func (l *serverLog) Warnf(format string, v ...any) { l.log("warning", format, v) }

func (l *serverLog) Errorf(format string, v ...any) {
	l.mu.Lock()
	l.last = fmt.Sprintf(format, v...)
	l.mu.Unlock()
	l.log("error", format, v)
}

func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	if l.fatal == "" {
		l.fatal = fmt.Sprintf(format, v...)
	}
	l.mu.Unlock()
	l.log("fatal", format, v)
}

func (l *serverLog) log(level, format string, v []any) {
	if l.logf != nil {
		l.logf("nats-server: %s: %s", level, fmt.Sprintf(format, v...))
	}
}

func (l *serverLog) failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal != ""
}

func (l *serverLog) reason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.fatal != "":
		return l.fatal
	case l.last != "":
		return l.last
	}
	return "it was not ready within " + readyWithin.String()
}
