package bench

import (
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestVersionsOf(t *testing.T) {
	deps := []*debug.Module{{Path: "github.com/nats-io/jwt", Version: "v2"}, {Path: natsGo, Version: "v1.2.3"}}
	settings := func(revision, modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs.revision", Value: revision}, {Key: "vcs.modified", Value: modified}}
	}
	for name, tc := range map[string]struct {
		info *debug.BuildInfo
		want string
	}{
		"nothing":            {&debug.BuildInfo{Deps: deps}, "devel"},
		"a checkout":         {&debug.BuildInfo{Deps: deps, Main: debug.Module{Version: "(devel)"}, Settings: settings("0123456789abcdef", "false")}, "(devel) 0123456789abcdef"},
		"changed":            {&debug.BuildInfo{Deps: deps, Main: debug.Module{Version: "(devel)"}, Settings: settings("0123456789abcdef", "true")}, "(devel) 0123456789abcdef, modified"},
		"a version":          {&debug.BuildInfo{Deps: deps, Main: debug.Module{Version: "v1.0.0"}}, "v1.0.0"},
		"version of a state": {&debug.BuildInfo{Deps: deps, Main: debug.Module{Version: "v0.0.0-2026-0123456789ab+dirty"}, Settings: settings("0123456789abcdef", "true")}, "v0.0.0-2026-0123456789ab+dirty"},
	} {
		v := Versions{Recourse: "devel"}
		v.of(tc.info)
		if v.Recourse != tc.want || v.NATSGo != "v1.2.3" {
			t.Errorf("%s: got %+v", name, v)
		}
	}
	if v := versions(); v.Go != runtime.Version() || v.Recourse == "" {
		t.Errorf("got %+v", v)
	}
}

func TestMachine(t *testing.T) {
	const text = "processor\t: 0\nmodel name\t: A CPU: of sorts\nmodel name\t: another\nMemTotal:       24576 kB\n"
	if got := valueOf(text, "model name"); got != "A CPU: of sorts" {
		t.Errorf("got %q", got)
	}
	if got := kibibytes(valueOf(text, "MemTotal")); got != 24<<20 {
		t.Errorf("got %d", got)
	}
	for _, value := range []string{"", "24576", "24 MB", "many kB"} {
		if got := kibibytes(value); got != 0 {
			t.Errorf("%q: got %d", value, got)
		}
	}
	m := machine()
	if m.Cores != runtime.NumCPU() || !strings.HasPrefix(m.OS, runtime.GOOS) || !strings.HasSuffix(m.OS, runtime.GOARCH) {
		t.Errorf("got %+v", m)
	}
	if runtime.GOOS == "linux" && m.MemoryBytes < 1<<20 {
		t.Errorf("got %+v", m)
	}
}
