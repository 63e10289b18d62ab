package measure

import (
	"slices"
	"testing"

	"github.com/recourse-dev/recourse/internal/broker"
)

func TestSyncModes(t *testing.T) {
	for text, want := range map[string]syncModes{
		"always": {broker.SyncAlways}, "interval": {broker.SyncInterval}, "both": {broker.SyncInterval, broker.SyncAlways},
	} {
		var got syncModes
		if err := got.UnmarshalText([]byte(text)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
		if again, err := got.MarshalText(); string(again) != text || err != nil {
			t.Errorf("%s: got %s, %v", text, again, err)
		}
	}
	got := syncModes{broker.SyncAlways}
	if err := got.UnmarshalText([]byte("never")); err == nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}
