package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"unicode/utf8"
)

// MaxDiagnostics is the most diagnostics one load reports; one more says how many were left out.
const MaxDiagnostics = 500

// Severity says what a diagnostic means for the pipeline. The zero value means not set.
type Severity uint8

// The severities.
const (
	SeverityWarning Severity = iota + 1 // the plan can be used as it is; somebody should know
	SeverityError                       // the failure handling cannot be taken as written
)

// String returns "warning" or "error", "" for the zero value.
func (s Severity) String() string {
	switch s {
	case SeverityWarning:
		return "warning"
	case SeverityError:
		return "error"
	default:
		return ""
	}
}

// MarshalText writes the name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name.
func (s *Severity) UnmarshalText(text []byte) error {
	switch string(text) {
	case "warning":
		*s = SeverityWarning
	case "error":
		*s = SeverityError
	default:
		return fmt.Errorf("unknown severity %q, known are warning, error", text)
	}
	return nil
}

// Diagnostic is one finding.
type Diagnostic struct {
	// File is the name given to Load, or that of the template or inputs where it is there.
	File string `json:"file"`
	// Line and Column are where it is, 1-based. What comes through an alias is reported where it is written.
	Line   int `json:"line"`
	Column int `json:"column"`
	// Path is the YAML path: pipeline.stages[0].stage.failureStrategies[1]. "" is the whole document. Where templates are resolved
	// it is the path in what they resolve to.
	Path string `json:"path"`
	// Severity says whether the pipeline can be used as it is.
	Severity Severity `json:"severity"`
	// Code names the rule; it does not change between versions.
	Code string `json:"code"`
	// Message is for people.
	Message string `json:"message"`
	// Fix is what to write instead, "" where nothing sensible can be said.
	Fix string `json:"fix"`
}

// String returns "file:line:column: severity: message [code]", followed by the fix.
func (d Diagnostic) String() string {
	s := fmt.Sprintf("%s:%d:%d: %s: %s [%s]", d.File, d.Line, d.Column, d.Severity, d.Message, d.Code)
	if d.Fix != "" {
		s += "; " + d.Fix
	}
	return s
}

// Diagnostics are the findings of one load, those in the file itself first, then sorted by file, line, column, code and path.
type Diagnostics []Diagnostic

// HasErrors reports whether one of them is an error.
func (ds Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(ds, func(d Diagnostic) bool { return d.Severity == SeverityError })
}

// findings collects diagnostics up to the bound. What is found in another file than its own is told once, however often a template
// is used.
type findings struct {
	file    string
	list    Diagnostics
	dropped int
	worst   Severity // of what was dropped
	said    map[finding]bool
}

// finding is what makes two findings in a template the same.
type finding struct {
	origin
	code, message string
}

// at is a place in the file itself.
func (f *findings) at(line, column int) origin { return origin{f.file, line, column} }

func (f *findings) report(severity Severity, code string, at origin, path, message, fix string) {
	if at.file != f.file {
		key := finding{at, code, message}
		if f.said[key] {
			return
		}
		if f.said == nil {
			f.said = make(map[finding]bool)
		}
		if len(f.said) < 4*MaxDiagnostics {
			f.said[key] = true
		}
	}
	f.add(Diagnostic{
		File: at.file, Line: max(at.line, 1), Column: max(at.column, 1), Path: path,
		Severity: severity, Code: code, Message: message, Fix: fix,
	})
}

func (f *findings) add(d Diagnostic) {
	if len(f.list) >= MaxDiagnostics {
		f.dropped++
		f.worst = max(f.worst, d.Severity)
		return
	}
	f.list = append(f.list, d)
}

// sorted returns the diagnostics in their order, with the note about what was dropped.
func (f *findings) sorted() Diagnostics {
	elsewhere := func(d Diagnostic) int {
		if d.File == f.file {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(f.list, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(elsewhere(a), elsewhere(b)), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Path, b.Path))
	})
	if f.dropped == 0 {
		return f.list
	}
	last := f.list[len(f.list)-1]
	return append(f.list, Diagnostic{
		File: last.File, Line: last.Line, Column: last.Column, Severity: f.worst, Code: "too-many-diagnostics",
		Message: fmt.Sprintf("%d more findings are not shown", f.dropped),
	})
}

// quote returns text in quotes, cut where it is long: a value may be a whole script.
func quote(text string) string {
	const most = 60
	if len(text) > most {
		n := most
		for n > 0 && !utf8.RuneStart(text[n]) {
			n--
		}
		text = text[:n] + "…"
	}
	return fmt.Sprintf("%q", text)
}
