// Package doctor examines what Recourse needs of a NATS server from the outside, with the permissions of whoever asks, and says how to
// mend each thing it finds.
//
// It goes from the ground up: server, JetStream, streams and durable consumers, permissions, clocks, durability, backlog. What an earlier
// finding explains is not looked at again.
//
// It changes nothing: a permission is tried with a message that no stream takes or a request that no server accepts. A server logs
// these as invalid, or as forbidden. What may not be looked at is a finding of its own ([Skipped]) and never a failure.
package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
)

// Status is what came of a check. The zero value means not set.
type Status uint8

// The statuses, the better first.
const (
	OK      Status = iota + 1
	Skipped        // could not or may not be looked at
	Warning        // works, but could cost data or time
	Failed         // does not work
)

var statusNames = [...]string{"", "ok", "skipped", "warning", "failed"}

// String returns "ok", "skipped", "warning", "failed" or "".
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("Status(%d)", uint8(s))
}

// MarshalText writes the name.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name.
func (s *Status) UnmarshalText(text []byte) error {
	for i, name := range statusNames {
		if i > 0 && name == string(text) {
			*s = Status(i)
			return nil
		}
	}
	return fmt.Errorf("unknown status %q", text)
}

// Finding is one thing that was looked at.
type Finding struct {
	// Check names what was looked at: "server", "stream RECOURSE_INBOX", "permissions of worker".
	Check  string `json:"check"`
	Status Status `json:"status"`
	// Says is what there is.
	Says string `json:"says"`
	// Mend is what to do; absent where there is nothing to do.
	Mend string `json:"mend,omitzero"`
}

// Config says what is examined.
type Config struct {
	// Role is the one whose permissions the connection must have; zero reports for which role they suffice.
	Role Role
	// Scope bounds the permissions that are tried, and the executions whose waits are looked at; an empty id stands for all.
	Scope recourse.Ref
	// Principal is in whose name a role reports; "" is the user of the connection or, where that is not known, the name of the role.
	Principal string
	// MonitorURL is the server's monitoring endpoint, like http://host:8222; "" for none.
	MonitorURL string
	// Now is the clock of this machine; nil is time.Now.
	Now func() time.Time
}

const (
	askWithin   = 3 * time.Second // for one request
	watchFor    = time.Second     // how long the workers are watched
	watchEvery  = 100 * time.Millisecond
	waitsWithin = 10 * time.Second // for reading what waits
)

// Unreachable is the finding where no connection could be made.
func Unreachable(err error) Finding {
	return Finding{Check: "server", Status: Failed, Says: err.Error(), Mend: "start the server, or name the right one (--server, NATS_URL, a context); nothing else could be looked at"}
}

// Examine looks at everything through a connection and calls tell with each finding, as soon as there is one.
func Examine(ctx context.Context, nc *nats.Conn, cfg Config, tell func(Finding)) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	e := &examination{Config: cfg, nc: nc, js: js, tell: tell, tried: map[string]bool{}}
	for _, look := range []func(context.Context){
		e.server, e.inbox, e.jetStream, e.streams, e.consumers, e.permissions, e.clock, e.workerClocks, e.durability, e.space, e.workers,
		e.backlog, e.waits, e.rejected,
	} {
		look(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if e.silent {
			return nil // said, and nobody answers the rest
		}
	}
	return nil
}

// examination is one run of [Examine].
type examination struct {
	Config
	nc   *nats.Conn
	js   jetstream.JetStream
	tell func(Finding)

	tried  map[string]bool // subject → may publish
	silent bool            // the server does not answer
	deaf   bool            // replies do not reach this connection
	off    bool            // JetStream does not answer

	found    map[string]*jetstream.StreamInfo   // by name; what is there and may be looked at
	durables map[string]*jetstream.ConsumerInfo // by name
}

func (e *examination) ok(check, format string, args ...any) {
	e.tell(Finding{check, OK, fmt.Sprintf(format, args...), ""})
}

func (e *examination) skip(check, format string, args ...any) {
	e.tell(Finding{check, Skipped, fmt.Sprintf(format, args...), ""})
}

func (e *examination) warn(check, mend, format string, args ...any) {
	e.tell(Finding{check, Warning, fmt.Sprintf(format, args...), mend})
}

func (e *examination) fail(check, mend, format string, args ...any) {
	e.tell(Finding{check, Failed, fmt.Sprintf(format, args...), mend})
}

// differs reports differences of one asset, or that there are none.
func (e *examination) differs(check string, differences []broker.Difference, ok string) {
	if len(differences) == 0 {
		e.ok(check, "%s", ok)
		return
	}
	for _, d := range differences {
		says := "missing"
		if d.Setting != "" {
			says = fmt.Sprintf("%s is %s, want %s", d.Setting, valueOr(d.Have), valueOr(d.Want))
		}
		e.fail(check, d.Mend, "%s", says)
	}
}

func valueOr(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// server looks at what the server said when the connection was made.
func (e *examination) server(context.Context) {
	name := e.nc.ConnectedServerName()
	if cluster := e.nc.ConnectedClusterName(); cluster != "" {
		name += " of cluster " + cluster
	}
	e.ok("server", "%s answers at %s", name, e.nc.ConnectedUrlRedacted())
	version := e.nc.ConnectedServerVersion()
	if err := broker.CheckServerVersion(version); err != nil {
		e.fail("version", "upgrade nats-server to "+broker.MinServerVersion+" or later", "%s", strings.TrimSuffix(err.Error(), ": upgrade nats-server"))
	} else {
		e.ok("version", "nats-server %s, at least %s is needed", version, broker.MinServerVersion)
	}
	switch size := e.nc.MaxPayload(); {
	case !e.nc.HeadersSupported():
		e.fail("features", "take no_header_support out of the server's configuration", "the server takes no headers, which every record has")
	case size < recordSize:
		e.warn("features", "set max_payload: 1MB on the server", "max_payload is %d bytes: records with many failures do not fit", size)
	default:
		e.ok("features", "headers, and messages of up to %d bytes", size)
	}
}

// recordSize is the most bytes a record has with its headers; what a server takes by default.
const recordSize = 1 << 20
