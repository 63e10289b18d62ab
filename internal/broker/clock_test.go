package broker

import (
	"testing"
	"time"
)

// TestClockSkew: what the way there and back may explain is no skew.
func TestClockSkew(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	if skew, unsure := ClockSkew(at, at.Add(4*time.Second), at.Add(3*time.Second)); skew != time.Second || unsure != 2*time.Second {
		t.Errorf("skew %s, unsure by %s", skew, unsure)
	}
}
