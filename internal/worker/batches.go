package worker

import (
	"fmt"

	"github.com/recourse-dev/recourse/internal/broker"
)

// Batches is whether records of many executions are appended in one atomic batch. The zero value means not set, which is [BatchesAuto].
type Batches uint8

// The settings.
const (
	BatchesAuto Batches = iota + 1 // where they are known to pay: the server syncs always, has one replica, and is 2.15 or later
	BatchesOn
	BatchesOff
)

var batchesNames = [...]string{"", "auto", "on", "off"}

// String returns "auto", "on", "off" or "".
func (b Batches) String() string {
	if int(b) < len(batchesNames) {
		return batchesNames[b]
	}
	return fmt.Sprintf("Batches(%d)", uint8(b))
}

// MarshalText writes the name.
func (b Batches) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads "auto", "on" or "off".
func (b *Batches) UnmarshalText(text []byte) error {
	for i, name := range batchesNames {
		if i > 0 && name == string(text) {
			*b = Batches(i)
			return nil
		}
	}
	return fmt.Errorf("unknown setting of batches %q, known are auto, on, off", text)
}

// pay says whether to batch on what is known of a server. With replicas the servers gather appends themselves, and without a flush for
// each append a batch only costs.
func (b Batches) pay(d broker.Durability, version string) bool {
	switch b {
	case BatchesOn:
		return true
	case BatchesOff:
		return false
	}
	return d.Sync == broker.SyncAlways && d.Replicas == 1 && len(d.Memory) == 0 && broker.BatchFlushesOnce(version)
}
