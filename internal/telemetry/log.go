package telemetry

import (
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// What a log in JSON may hold back, so that a busy worker does not ask the system to write each line by itself.
const (
	holdBytes = 64 << 10
	holdFor   = 100 * time.Millisecond
)

// NewLog returns a log that writes to out, in the format "json" or "console": one line per decision, all of them. In JSON, lines up to
// info are held back for 100 ms or 64 KiB at the most, and written in front of the next warning or error; [zap.Logger.Sync] writes them
// at once. A process that is killed loses what was held back.
func NewLog(out io.Writer, level zapcore.Level, format string) (*zap.Logger, error) {
	sink := zapcore.AddSync(struct{ io.Writer }{out}) // without its Sync: a line that is written need not be on disk
	var core zapcore.Core
	switch format {
	case "json":
		cfg := zap.NewProductionEncoderConfig()
		cfg.EncodeTime = zapcore.RFC3339NanoTimeEncoder
		cfg.EncodeDuration = zapcore.StringDurationEncoder
		held := &zapcore.BufferedWriteSyncer{WS: sink, Size: holdBytes, FlushInterval: holdFor}
		core = &prompt{zapcore.NewCore(zapcore.NewJSONEncoder(cfg), held, level)}
	case "console":
		core = zapcore.NewCore(zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()), zapcore.Lock(sink), level)
	default:
		return nil, fmt.Errorf("log format %q: want json or console", format)
	}
	return zap.New(core, zap.ErrorOutput(zapcore.Lock(sink))), nil
}

// prompt is a core that writes warnings and errors at once, and with them what was held back.
type prompt struct{ zapcore.Core }

// With implements zapcore.Core.
func (p *prompt) With(fields []zapcore.Field) zapcore.Core { return &prompt{p.Core.With(fields)} }

// Check implements zapcore.Core.
func (p *prompt) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if p.Enabled(entry.Level) {
		return checked.AddCore(entry, p)
	}
	return checked
}

// Write implements zapcore.Core.
func (p *prompt) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	err := p.Core.Write(entry, fields)
	if entry.Level >= zapcore.WarnLevel {
		_ = p.Sync() // what cannot be written cannot be said either
	}
	return err
}
