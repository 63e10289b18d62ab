package worker

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/recourse-dev/recourse/internal/broker"
)

func TestBatchesPay(t *testing.T) {
	always := broker.Durability{Sync: broker.SyncAlways, Replicas: 1}
	with := func(change func(*broker.Durability)) broker.Durability {
		d := always
		change(&d)
		return d
	}
	for _, tc := range []struct {
		name    string
		setting Batches
		d       broker.Durability
		version string
		want    bool
	}{
		{"always", BatchesAuto, always, "2.15.2", true},
		{"not set", 0, always, "2.15.2", true},
		{"a flush for each message of a batch", BatchesAuto, always, "2.14.3", false},
		{"interval", BatchesAuto, with(func(d *broker.Durability) { d.Sync = broker.SyncInterval }), "2.15.2", false},
		{"not known", BatchesAuto, with(func(d *broker.Durability) { d.Sync = 0 }), "2.15.2", false},
		{"replicas", BatchesAuto, with(func(d *broker.Durability) { d.Replicas = 3 }), "2.15.2", false},
		{"in memory", BatchesAuto, with(func(d *broker.Durability) { d.Memory = []string{"RECOURSE_JOURNAL"} }), "2.15.2", false},
		{"on", BatchesOn, broker.Durability{}, "2.14.0", true},
		{"off", BatchesOff, always, "2.15.2", false},
	} {
		if got := tc.setting.pay(tc.d, tc.version); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// TestBatchesEmbedded: the embedded server syncs always where nobody wants it otherwise, and then records go in batches.
func TestBatchesEmbedded(t *testing.T) {
	for _, sync := range []broker.SyncMode{broker.SyncAlways, broker.SyncInterval} {
		core, logs := observer.New(zap.InfoLevel)
		embedded := embeddedConfig(t)
		embedded.Sync = sync
		w := launch(t, Config{Embedded: embedded, Log: zap.New(core)})
		w.stop()
		if err := w.end(t); err != nil {
			t.Error(err)
		}
		connected := logs.FilterMessage("connected to an embedded server").All()
		if len(connected) != 1 || connected[0].ContextMap()["batches"] != (sync == broker.SyncAlways) {
			t.Errorf("%v: %v", sync, connected)
		}
	}
}
