package broker

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// monitoredTest starts a server with a monitoring endpoint and without the rest that an embedded one has.
func monitoredTest(t *testing.T, sync SyncMode) (url, monitor string) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), SyncAlways: sync == SyncAlways,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(testDeadline) {
		t.Fatal("server not ready")
	}
	return s.ClientURL(), "http://" + s.MonitorAddr().String()
}

func TestDurabilityByMonitor(t *testing.T) {
	for _, test := range []struct {
		sync    SyncMode
		line    string
		warning string
	}{
		{SyncAlways, "1 replica, synced before each acknowledgement (monitor)", ""},
		{SyncInterval, "1 replica, synced every 2m0s (monitor)", "sync_interval: always"},
	} {
		t.Run(test.sync.String(), func(t *testing.T) {
			url, monitor := monitoredTest(t, test.sync)
			nc, js := connectTest(t, url)
			if _, err := InspectDurability(t.Context(), nc, js, monitor); err == nil || !strings.Contains(err.Error(), "RECOURSE_INBOX") {
				t.Errorf("without streams: %v", err)
			}
			if _, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{}); err != nil {
				t.Fatal(err)
			}
			d, err := InspectDurability(t.Context(), nc, js, monitor)
			if err != nil {
				t.Fatal(err)
			}
			if d.String() != test.line {
				t.Errorf("line %q, want %q", d, test.line)
			}
			if w := d.Warning(); (w == "") != (test.warning == "") || !strings.Contains(w, test.warning) {
				t.Errorf("warning %q, want %q", w, test.warning)
			}
		})
	}
}

func TestDurabilityUnknown(t *testing.T) {
	nc, js := provisionedTest(t)
	refuses := httptest.NewServer(http.NotFoundHandler())
	defer refuses.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"server_id":"x"}`)) }))
	defer other.Close()
	noise := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>`)) }))
	defer noise.Close()
	for monitor, why := range map[string]string{
		"":                   "no monitoring endpoint given",
		"nats:8222":          "http://host:8222",
		"http://127.0.0.1:1": "connection refused",
		refuses.URL:          "404",
		other.URL:            "has no JetStream",
		noise.URL:            "invalid character",
	} {
		d, err := InspectDurability(t.Context(), nc, js, monitor)
		if err != nil {
			t.Errorf("%q: %v", monitor, err)
		}
		if d.Sync != 0 || !strings.Contains(d.Unknown, why) || !strings.Contains(d.String(), why) || !strings.Contains(d.Warning(), "not known") {
			t.Errorf("%q: %s; %s", monitor, d, d.Warning())
		}
	}
}

func TestDurabilityBySystemAccount(t *testing.T) {
	system := server.NewAccount("SYS")
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), SyncAlways: true,
		Accounts: []*server.Account{system}, SystemAccount: "SYS", Users: []*server.User{{Username: "sys", Password: "s", Account: system}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(testDeadline) {
		t.Fatal("server not ready")
	}
	nc, _ := connectTest(t, strings.Replace(s.ClientURL(), "nats://", "nats://sys:s@", 1))
	defer nc.Close()
	var d Durability
	d.from("system account", func() (*varz, error) { return askSystem(t.Context(), nc) })
	if d.Sync != SyncAlways || d.Source != "system account" {
		t.Errorf("got %+v", d)
	}
}

func TestDurabilityOfEmbedded(t *testing.T) {
	for mode, line := range map[SyncMode]string{
		SyncAlways:   "1 replica, synced before each acknowledgement (embedded)",
		SyncInterval: "1 replica, synced every 2m0s (embedded)",
	} {
		e := startTest(t, EmbeddedConfig{Sync: mode})
		_, js := connectTest(t, e.URL())
		if _, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{}); err != nil {
			t.Fatal(err)
		}
		d, err := e.Durability(t.Context(), js)
		if err != nil || d.String() != line || (d.Warning() == "") != (mode == SyncAlways) {
			t.Errorf("%v: %s, %q, %v", mode, d, d.Warning(), err)
		}
		// The server is asked, so that this does not merely repeat what was configured.
		if got := e.server.JetStreamConfig(); got.SyncAlways != (mode == SyncAlways) || got.SyncInterval != embeddedSyncInterval {
			t.Errorf("%v: the server has %+v", mode, got)
		}
	}
}

func TestDurabilityOfMemoryStreams(t *testing.T) {
	e := startTest(t, EmbeddedConfig{Sync: SyncAlways})
	_, js := connectTest(t, e.URL())
	if _, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	d, err := e.Durability(t.Context(), js)
	if err != nil || len(d.Memory) != 5 || !strings.Contains(d.Warning(), "file storage") {
		t.Errorf("%s, %q, %v", d, d.Warning(), err)
	}
}

func TestDurabilityWarning(t *testing.T) {
	for _, test := range []struct {
		d    Durability
		warn bool
	}{
		{Durability{Replicas: 1, Sync: SyncAlways}, false},
		{Durability{Replicas: 1, Sync: SyncInterval, Interval: time.Second}, true},
		{Durability{Replicas: 1}, true},
		{Durability{Replicas: 2, Sync: SyncInterval}, true},
		{Durability{Replicas: 2}, true},
		{Durability{Replicas: 3, Sync: SyncInterval}, false},
		{Durability{Replicas: 3}, false},
		{Durability{Replicas: 5, Sync: SyncAlways}, false},
		{Durability{Replicas: 5, Sync: SyncAlways, Memory: []string{"RECOURSE_INBOX"}}, true},
	} {
		if got := test.d.Warning(); (got != "") != test.warn {
			t.Errorf("%+v: %q", test.d, got)
		}
	}
}
