package cli

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

// Format is how a command writes what it found. The zero value is Table.
type Format uint8

// The formats.
const (
	Table Format = iota // for people; columns may change between versions
	JSON                // for programs; keys are only added
)

// FormatNames are the names of the formats.
var FormatNames = []string{"table", "json"}

// String returns "table" or "json".
func (f Format) String() string { return FormatNames[f] }

// MarshalText writes the name.
func (f Format) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads "table" or "json".
func (f *Format) UnmarshalText(text []byte) error {
	for i, name := range FormatNames {
		if name == string(text) {
			*f = Format(i)
			return nil
		}
	}
	return fmt.Errorf("unknown format %q, known are %s", text, strings.Join(FormatNames, ", "))
}

// Printer writes what a command found to Out, and what people should know beside it to Err.
type Printer struct {
	Out, Err io.Writer
	Format   Format
}

// NewPrinter returns the printer of a command.
func NewPrinter(cmd *cobra.Command, format *Format) *Printer {
	return &Printer{Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr(), Format: *format}
}

// JSON writes a value over several lines.
func (p *Printer) JSON(v any) error {
	if err := json.MarshalWrite(p.Out, v, json.Deterministic(true), jsontext.WithIndent("  ")); err != nil {
		return err
	}
	_, err := io.WriteString(p.Out, "\n")
	return err
}

// JSONLine writes a value on one line.
func (p *Printer) JSONLine(v any) error {
	line, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return err
	}
	_, err = p.Out.Write(append(line, '\n'))
	return err
}

// Note tells people something beside the output.
func (p *Printer) Note(format string, args ...any) {
	fmt.Fprintf(p.Err, "recourse: %s\n", Clean(fmt.Sprintf(format, args...)))
}

// Rows is a table whose columns are aligned. Nothing is written before Flush.
type Rows struct {
	out     io.Writer
	aligned bytes.Buffer
	w       *tabwriter.Writer
	beneath [][]string // by row
}

// Rows begins a table; without a header it has none.
func (p *Printer) Rows(header ...string) *Rows {
	r := &Rows{out: p.Out}
	r.w = tabwriter.NewWriter(&r.aligned, 0, 0, 2, ' ', 0)
	if len(header) > 0 {
		r.Add(header...)
	}
	return r
}

// Add adds a row. The cells are cleaned.
func (r *Rows) Add(cells ...string) {
	for i, cell := range cells {
		if i > 0 {
			_, _ = io.WriteString(r.w, "\t") // to memory, which does not fail
		}
		_, _ = io.WriteString(r.w, Clean(cell))
	}
	_, _ = io.WriteString(r.w, "\n")
	r.beneath = append(r.beneath, nil)
}

// Beneath adds an indented line, of no column, to the row that was added last.
func (r *Rows) Beneath(text string) {
	last := len(r.beneath) - 1
	r.beneath[last] = append(r.beneath[last], Clean(text))
}

// Flush writes the table.
func (r *Rows) Flush() error {
	if err := r.w.Flush(); err != nil {
		return err
	}
	var text strings.Builder
	for _, beneath := range r.beneath {
		row, err := r.aligned.ReadString('\n')
		if err != nil {
			return err
		}
		text.WriteString(strings.TrimRight(row, " \n") + "\n")
		for _, line := range beneath {
			text.WriteString("    " + line + "\n")
		}
	}
	_, err := io.WriteString(r.out, text.String())
	return err
}

// Clean makes a text fit for one line of a terminal: what is not printable, line breaks and escape sequences among them, becomes a
// space. Messages come from elsewhere, and must not move the cursor or colour what follows.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// Time writes an instant for people, in their zone; "" for the zero value.
func Time(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

// Count writes a number with its noun: "1 file", "2 files".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
