package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

const (
	monitorWithin = 2 * time.Second        // for the monitoring endpoint
	systemWithin  = 500 * time.Millisecond // for the system account, which most users may not ask
	monitorSize   = 4 << 20                // the most bytes read of an answer
	// survivors is the replicas from which on the streams outlive the loss of a server.
	survivors = 3
)

// Durability is what is known of how safely the server keeps what it acknowledged.
type Durability struct {
	// Replicas is the fewest of any stream.
	Replicas int
	// Memory names the streams that are in memory only.
	Memory []string
	// Sync is when a message comes to the disk; zero where it is not known.
	Sync SyncMode
	// Interval is the one of [SyncInterval].
	Interval time.Duration
	// Source is who said so: "embedded", "monitor" or "system account".
	Source string
	// Unknown is why Sync is not known.
	Unknown string
}

// String returns what is known, for one line of a log: "1 replica, synced before each acknowledgement (monitor)".
func (d Durability) String() string {
	s := "1 replica"
	if d.Replicas != 1 {
		s = fmt.Sprintf("%d replicas", d.Replicas)
	}
	switch d.Sync {
	case SyncAlways:
		s += ", synced before each acknowledgement"
	case SyncInterval:
		s += fmt.Sprintf(", synced every %v", d.Interval)
	default:
		s += ", sync not known: " + d.Unknown
	}
	if d.Source != "" {
		s += " (" + d.Source + ")"
	}
	if len(d.Memory) > 0 {
		s += ", in memory: " + strings.Join(d.Memory, ", ")
	}
	return s
}

// Warning returns a sentence that says what a power cut could lose and what to set, or "" where it loses nothing that was
// acknowledged. From three replicas on it is empty whatever the sync mode: then a cut must hit most of the servers at once, and
// whether it can is a matter of where they stand, which is not known here.
func (d Durability) Warning() string {
	switch {
	case len(d.Memory) > 0:
		return fmt.Sprintf("%s in memory only: a restart of the server loses everything in there; create anew with file storage", strings.Join(d.Memory, ", "))
	case d.Sync == SyncAlways || d.Replicas >= survivors:
		return ""
	case d.Sync == SyncInterval:
		return fmt.Sprintf("a power cut can lose everything acknowledged within the last %v, and whole streams that are younger: set sync_interval: always in the jetstream block of the server, or use three replicas", d.Interval)
	}
	return "it is not known when the server syncs (" + d.Unknown + "); with its default a power cut can lose everything acknowledged within the last two minutes: set sync_interval: always in the jetstream block of the server, or use three replicas, and give the address of its monitoring endpoint so that this can be checked"
}

// InspectDurability finds out what is known: replicas and storage from the streams, which must exist, and the sync mode from the
// server's monitoring endpoint (like http://host:8222) or, without one, from the system account where the connection may ask it.
// That the sync mode cannot be found out is not an error; [Durability.Unknown] says why then. For a cluster it is the mode of the
// server that answered.
func InspectDurability(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, monitorURL string) (Durability, error) {
	d, err := inspectStreams(ctx, js)
	if err != nil {
		return d, err
	}
	if monitorURL != "" {
		d.from("monitor", func() (*varz, error) {
			v := new(varz)
			return v, AskMonitor(ctx, monitorURL, "varz", v)
		})
	} else {
		d.from("system account", func() (*varz, error) { return askSystem(ctx, nc) })
	}
	return d, nil
}

// Durability is [InspectDurability] for the embedded server, whose sync mode is known.
func (e *Embedded) Durability(ctx context.Context, js jetstream.JetStream) (Durability, error) {
	d, err := inspectStreams(ctx, js)
	d.Sync, d.Source = e.sync, "embedded"
	if e.sync == SyncInterval {
		d.Interval = embeddedSyncInterval
	}
	return d, err
}

func inspectStreams(ctx context.Context, js jetstream.JetStream) (Durability, error) {
	var d Durability
	for _, name := range [...]string{recourse.StreamInbox, recourse.StreamJournal, recourse.StreamTimers, recourse.StreamRejected, PipelinesStream} {
		info, err := streamInfo(ctx, js, name)
		if err != nil {
			return d, explain("look at "+streamAsset(name), err)
		}
		if d.Replicas == 0 || info.Config.Replicas < d.Replicas {
			d.Replicas = info.Config.Replicas
		}
		if info.Config.Storage == jetstream.MemoryStorage {
			d.Memory = append(d.Memory, name)
		}
	}
	return d, nil
}

// varz is the part of the server's variables that matters here.
type varz struct {
	JetStream struct {
		Config *struct {
			SyncAlways   bool          `json:"sync_always"`
			SyncInterval time.Duration `json:"sync_interval"`
		} `json:"config"`
	} `json:"jetstream"`
}

func (d *Durability) from(source string, ask func() (*varz, error)) {
	v, err := ask()
	switch {
	case err != nil:
		d.Unknown = err.Error()
		return
	case v.JetStream.Config == nil:
		d.Unknown = "the server that answered has no JetStream"
		return
	}
	d.Source = source
	d.Sync, d.Interval = SyncInterval, v.JetStream.Config.SyncInterval
	if v.JetStream.Config.SyncAlways {
		d.Sync, d.Interval = SyncAlways, 0
	}
}

// AskMonitor reads what a server's monitoring endpoint, like http://host:8222, says under a name (varz, jsz) into v.
func AskMonitor(ctx context.Context, address, name string, v any) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("monitoring endpoint %q: want an address like http://host:8222", address)
	}
	ctx, cancel := context.WithTimeout(ctx, monitorWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath(name).String(), nil)
	if err != nil {
		return fmt.Errorf("monitoring endpoint: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("monitoring endpoint: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, monitorSize))
	if err != nil {
		return fmt.Errorf("monitoring endpoint: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("monitoring endpoint: %s", resp.Status)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("monitoring endpoint: %w", err)
	}
	return nil
}

func askSystem(ctx context.Context, nc *nats.Conn) (*varz, error) {
	ctx, cancel := context.WithTimeout(ctx, systemWithin)
	defer cancel()
	msg, err := nc.RequestWithContext(ctx, "$SYS.REQ.SERVER.PING.VARZ", nil)
	if err != nil {
		return nil, errors.New("no monitoring endpoint given, and the system account does not answer this user")
	}
	var answer struct {
		Data *varz `json:"data"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil || answer.Data == nil {
		return nil, errors.New("the system account answered with something else than the server's variables")
	}
	return answer.Data, nil
}
