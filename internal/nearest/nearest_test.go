package nearest

import (
	"fmt"
	"strings"
	"testing"
)

func TestHint(t *testing.T) {
	known := []string{"Timeout", "Connectivity", "Authorization", "Authentication"}
	const all = "known are Timeout, Connectivity, Authorization, Authentication"
	for text, want := range map[string]string{
		"timeot": "did you mean Timeout?", "Tiemout": "did you mean Timeout?", "connectivty": "did you mean Connectivity?",
		"authorisation": "did you mean Authorization?", "Auth": "did you mean Authorization?", "AuthenticationError": "did you mean Authentication?",
		"x": all, "": all, "Au": all, strings.Repeat("x", 300): all,
	} {
		if got := Hint(text, known); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	var many []string
	for i := range 31 {
		many = append(many, fmt.Sprintf("a-name-that-is-number-%d", i))
	}
	if got := Hint("zzz", many); !strings.HasSuffix(got, "number-29 and 1 more") {
		t.Error(got)
	}
}

// TestNameOfPaths: what encloses a node is no guess at it.
func TestNameOfPaths(t *testing.T) {
	known := []string{"prod", "prod/canary", "prod/canary/smoke", "build/test"}
	for text, want := range map[string]string{
		"prod/cana": "prod/canary", "prod/canary/smok": "prod/canary/smoke", "build/tset": "build/test", "prod/zzzzzz": "", "pro": "prod",
	} {
		if got := Name(text, known); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestEdits(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"ab", "", 2}, {"ab", "ab", 0}, {"ab", "ba", 1}, {"abc", "axc", 1}, {"abc", "bc", 1}, {"ä", "a", 1}} {
		if got := edits([]rune(test.a), []rune(test.b)); got != test.want {
			t.Errorf("%q to %q: %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
