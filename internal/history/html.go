package history

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
	"unicode"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"text": readable, "span": func(d time.Duration) string { return "+" + Span(d) },
}).Parse(pageText))

// WriteHTML writes the timeline as one page that needs nothing else: no script, no font, no picture. It reads on a screen, light or dark,
// and on paper. Messages and ids come from elsewhere: they are escaped, and what would not print is left out.
func (t *Timeline) WriteHTML(w io.Writer, why bool, now time.Time, zone *time.Location) error {
	data := struct {
		*Timeline
		Facts   [][2]string
		Entries []pageEntry
		Written string
	}{Timeline: t, Facts: t.Facts(now, zone), Written: now.In(zone).Format(time.RFC1123)}
	for i := range t.Entries {
		e := &t.Entries[i]
		p := pageEntry{
			Version: e.Record.Version, Sequence: e.Sequence, After: time.Duration(e.After), Trace: e.Trace,
			At: e.Record.At.In(zone).Format("2006-01-02 15:04:05.000 MST"),
		}
		for _, line := range e.Lines(why, zone) {
			if line.Label == "trail" {
				p.Trail = append(p.Trail, line)
			} else {
				p.Lines = append(p.Lines, line)
			}
		}
		p.Kind = p.Lines[0].Label
		data.Entries = append(data.Entries, p)
	}
	if err := page.Execute(w, data); err != nil {
		return fmt.Errorf("history: page: %w", err)
	}
	return nil
}

type pageEntry struct {
	Version, Sequence uint64
	After             time.Duration
	At, Kind, Trace   string
	Lines, Trail      []Line
}

// readable leaves line breaks and tabs, and replaces what else does not print: among it the characters that turn the direction of a
// text, with which a message could show another than it is.
func readable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}
