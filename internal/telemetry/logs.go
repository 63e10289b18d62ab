package telemetry

import (
	"context"
	"errors"
	"sync"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/recourse-dev/recourse"
)

// fieldPool keeps the fields of the line that is written for each decision.
var fieldPool = sync.Pool{New: func() any { f := make([]zap.Field, 0, 20); return &f }}

// The names under which a line says where in a trace it belongs.
const (
	fieldTrace = "trace_id"
	fieldSpan  = "span_id"
)

// traceFields appends where in a trace a line belongs: at the span of ctx, or, where nothing is traced here, at the one that the message
// came with. The context itself is for the exported record alone, which has a place of its own for it.
func (h *Handling) traceFields(ctx context.Context, fields []zap.Field) []zap.Field {
	if h.span != nil {
		at := trace.SpanContextFromContext(ctx)
		return append(fields, zap.Stringer(fieldTrace, at.TraceID()), zap.Stringer(fieldSpan, at.SpanID()),
			zap.Field{Type: zapcore.SkipType, Interface: ctx})
	}
	if parent := h.carried.parent; parent != nil {
		return append(fields, zap.String(fieldTrace, parent[0][3:35]), zap.String(fieldSpan, parent[0][36:52]))
	}
	return fields
}

// guarded is a core that redacts what is logged of trouble, and counts the errors. A line of a decision is not looked through: it has ids
// and names alone.
type guarded struct {
	zapcore.Core
	failed func(component string, err error) // nil where nobody counts
}

// Check implements zapcore.Core.
func (g *guarded) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if g.Enabled(entry.Level) {
		return checked.AddCore(entry, g)
	}
	return checked
}

// With implements zapcore.Core.
func (g *guarded) With(fields []zapcore.Field) zapcore.Core {
	return &guarded{g.Core.With(redactFields(fields)), g.failed}
}

// Write implements zapcore.Core.
func (g *guarded) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	if entry.Level >= zapcore.WarnLevel {
		entry.Message = recourse.Redact(entry.Message)
		if g.failed != nil {
			g.count(entry, fields)
		}
		fields = redactFields(fields)
	}
	// Each core below decides by itself whether it wants the line.
	if checked := g.Core.Check(entry, nil); checked != nil {
		checked.Write(fields...)
	}
	return nil
}

// count counts a line about an error under the part that logs it.
func (g *guarded) count(entry zapcore.Entry, fields []zapcore.Field) {
	for i := range fields {
		if err, ok := fields[i].Interface.(error); ok && fields[i].Type == zapcore.ErrorType {
			component := entry.LoggerName
			if component == "" {
				component = "worker"
			}
			g.failed(component, err)
			return
		}
	}
}

// redactFields returns the fields with what could hold a secret redacted: texts, and errors, which often quote what they were given.
func redactFields(fields []zapcore.Field) []zapcore.Field {
	clean := make([]zapcore.Field, len(fields))
	for i, f := range fields {
		switch f.Type {
		case zapcore.StringType:
			f.String = recourse.Redact(f.String)
		case zapcore.ErrorType:
			if err, ok := f.Interface.(error); ok && err != nil {
				if text := err.Error(); recourse.Redact(text) != text {
					f.Interface = errors.New(recourse.Redact(text))
				}
			}
		}
		clean[i] = f
	}
	return clean
}

// exported is a core for what is exported beside the log: at the log's level, without the fields that a record has a place of its own for.
type exported struct {
	zapcore.Core
	level zapcore.LevelEnabler
}

// Enabled implements zapcore.Core.
func (e *exported) Enabled(level zapcore.Level) bool {
	return e.level.Enabled(level) && e.Core.Enabled(level)
}

// Check implements zapcore.Core.
func (e *exported) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Enabled(entry.Level) {
		return checked.AddCore(entry, e)
	}
	return checked
}

// With implements zapcore.Core.
func (e *exported) With(fields []zapcore.Field) zapcore.Core {
	return &exported{e.Core.With(fields), e.level}
}

// Write implements zapcore.Core.
func (e *exported) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	own := make([]zapcore.Field, 0, len(fields))
	for _, f := range fields {
		if f.Key != fieldTrace && f.Key != fieldSpan {
			own = append(own, f)
		}
	}
	return e.Core.Write(entry, own)
}
