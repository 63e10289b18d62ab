package telemetry

import "fmt"

// DelayedRetry is how the trace of a wait that came due hangs together with the one that began to wait. The zero value is LinkDelayed.
type DelayedRetry uint8

// The ways.
const (
	// LinkDelayed begins a new trace, linked to the previous hop and to the origin: a trace does not stay open for a day, and back ends that
	// give up on traces after minutes show each part whole.
	LinkDelayed DelayedRetry = iota
	// ParentDelayed continues the trace: one trace for the incident, for back ends that keep it open as long as the waits last.
	ParentDelayed
)

// String returns "link" or "parent".
func (d DelayedRetry) String() string {
	if d == ParentDelayed {
		return "parent"
	}
	return "link"
}

// MarshalText writes the name.
func (d DelayedRetry) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads "link" or "parent".
func (d *DelayedRetry) UnmarshalText(text []byte) error {
	switch string(text) {
	case "link":
		*d = LinkDelayed
	case "parent":
		*d = ParentDelayed
	default:
		return fmt.Errorf("unknown way to trace a delayed retry %q, known are link, parent", text)
	}
	return nil
}
