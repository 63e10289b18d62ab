package recourse

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0s": 0, "1s": time.Second, "1m": time.Minute, "1h": time.Hour, "1d": day, "1w": 7 * day,
		"1m20s": 80 * time.Second, "1d 2h 30m": day + 2*time.Hour + 30*time.Minute, "1d2h 30m": day + 2*time.Hour + 30*time.Minute,
		"90s": 90 * time.Second, "007s": 7 * time.Second, "30m1h": 90 * time.Minute, "1s1s": 2 * time.Second,
		"9223372036s": 9223372036 * time.Second,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "1", "s", "1 m", " 1m", "1m ", "1m  20s", "1m\t20s", "20mm", "m20m", "1M", "1ms", "1.5h", "-1s", "+1s", "1m,20s", "1y", "1µs",
		"9223372037s", "15251w", "99999999999999999999s", "9223372036s 1s", "1m20", "０s", "1m 20", "1m s",
	} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %s, want an error", text, got)
		}
	}
}

// TestDurationFacts checks the known durations of the vectors.
func TestDurationFacts(t *testing.T) {
	path := os.Getenv("RECOURSE_VECTORS")
	if path == "" {
		path = "../shared/vectors/engine-facts.json"
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("SKIP: no vectors at %s (RECOURSE_VECTORS names another place)", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	var facts []struct {
		ID, Kind, Expected string
		Input              json.RawMessage
	}
	if err := json.Unmarshal(content, &facts); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, f := range facts {
		var text string
		if f.Kind != "duration" || json.Unmarshal(f.Input, &text) != nil {
			continue
		}
		checked++
		got, err := ParseDuration(text)
		if ms, isNumber := strings.CutSuffix(f.Expected, " ms"); isNumber {
			if n, _ := strconv.Atoi(ms); err != nil || got != time.Duration(n)*time.Millisecond {
				t.Errorf("%s: %q is %s, %v, want %s", f.ID, text, got, err, f.Expected)
			}
		} else if err == nil {
			t.Errorf("%s: %q is %s, want it %s", f.ID, text, got, f.Expected)
		}
	}
	if checked == 0 {
		t.Error("no durations among the vectors")
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"", "1m20s", "1d 2h 30m", " 1m", "1m ", "20mm", "9223372036s 1s", "1ms", "15250w 1d"} {
		f.Add(s)
	}
	grammar := regexp.MustCompile(`^[0-9]+[smhdw]( ?[0-9]+[smhdw])*$`)
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if d < 0 || err != nil && d != 0 {
			t.Fatalf("%q: %d, %v", s, d, err)
		}
		if err == nil != grammar.MatchString(s) && !(err != nil && strings.Contains(err.Error(), "too large")) {
			t.Fatalf("%q: %v", s, err)
		}
		var text Duration
		if text.UnmarshalText([]byte(s)) == nil {
			if text < 0 || time.Duration(text) > MaxWait {
				t.Fatalf("%q: %s", s, text)
			}
			b, _ := text.MarshalText()
			var again Duration
			if err := again.UnmarshalText(b); err != nil || again != text {
				t.Fatalf("%q is written %s and read as %s, %v", s, b, again, err)
			}
		}
	})
}
