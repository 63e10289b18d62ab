package recourse

import (
	"fmt"
	"strconv"
	"time"
)

// MaxWait is the longest wait the engine accepts; a longer one is an error where it is written, and is cut to this where it is
// computed.
const MaxWait = 366 * 24 * time.Hour

// Duration is a time.Duration whose text form is Go's ("1m30s").
type Duration time.Duration

// String returns Go's form.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes Go's form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads Go's form or the form of a pipeline ([ParseDuration]), from 0 to [MaxWait].
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	if err != nil {
		var goErr error
		if v, goErr = time.ParseDuration(string(text)); goErr != nil {
			return err
		}
	}
	if v < 0 || v > MaxWait {
		return fmt.Errorf("duration %s: want 0 to %s", text, MaxWait)
	}
	*d = Duration(v)
	return nil
}

var durationUnits = map[byte]time.Duration{
	's': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour,
}

// ParseDuration reads a duration as pipelines write it: groups of an integer and one of the units s, m, h, d, w, joined by
// nothing or by one space ("1m20s", "1d 2h 30m"). Nothing else parses. The result is at least 0; one that does not fit a
// time.Duration is an error.
func ParseDuration(s string) (time.Duration, error) {
	var total time.Duration
	rest := s
	for first := true; rest != "" || first; first = false {
		if !first && rest[0] == ' ' {
			rest = rest[1:]
		}
		digits := 0
		for digits < len(rest) && '0' <= rest[digits] && rest[digits] <= '9' {
			digits++
		}
		if digits == 0 || digits == len(rest) {
			return 0, fmt.Errorf("%q is not a duration: write integers with a unit s, m, h, d or w, like 30s, 1m20s or 1d 2h", s)
		}
		unit, ok := durationUnits[rest[digits]]
		n, err := strconv.ParseInt(rest[:digits], 10, 64)
		if !ok {
			return 0, fmt.Errorf("%q is not a duration: unit %q is not one of s, m, h, d, w", s, rest[digits])
		}
		if err != nil || n > int64((1<<63-1-total)/unit) {
			return 0, fmt.Errorf("%q is not a duration: too large", s)
		}
		total += time.Duration(n) * unit
		rest = rest[digits+1:]
	}
	return total, nil
}
