package telemetry

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap/zapcore"
)

// lines is where a log goes, with when it was written.
type lines struct {
	sync.Mutex
	bytes.Buffer
	writes int
}

func (l *lines) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	l.writes++
	return l.Buffer.Write(p)
}

func (l *lines) text() string {
	l.Lock()
	defer l.Unlock()
	return l.String()
}

func TestNewLogHolds(t *testing.T) {
	out := new(lines)
	log, err := NewLog(out, zapcore.InfoLevel, "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("not wanted")
	for range 50 {
		log.Info("decided")
	}
	log.Named("part").Warn("trouble")
	if got := out.text(); strings.Count(got, `"msg":"decided"`) != 50 || !strings.HasSuffix(got, "\"logger\":\"part\",\"msg\":\"trouble\"}\n") || strings.Contains(got, "not wanted") {
		t.Errorf("a warning is written after what was held back, got %s", got)
	}
	if out.writes > 25 { // one each, were nothing held back; what the clock writes between is at most a few
		t.Errorf("%d writes for 51 lines", out.writes)
	}
	log.Info("last")
	if err := log.Sync(); err != nil || !strings.Contains(out.text(), `"msg":"last"`) {
		t.Errorf("sync: %v, and it wrote %s", err, out.text())
	}
}

func TestNewLogConsole(t *testing.T) {
	out := new(lines)
	log, err := NewLog(out, zapcore.InfoLevel, "console")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("seen at once")
	if !strings.Contains(out.text(), "seen at once") {
		t.Errorf("got %q", out.text())
	}
	if _, err := NewLog(out, zapcore.InfoLevel, "xml"); err == nil {
		t.Error("a format nobody knows is taken")
	}
}
