package bench

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// Machine is what all of it runs on.
type Machine struct {
	CPU   string `json:"cpu,omitzero"` // the model; absent where it is not known
	Cores int    `json:"cores"`
	// MemoryBytes is 0 where it is not known.
	MemoryBytes int64  `json:"memoryBytes,omitzero"`
	OS          string `json:"os"` // with the version of the kernel where it is known, and the architecture
}

// Versions are those of what is measured, and of what it is measured with.
type Versions struct {
	Recourse string `json:"recourse"` // and its revision
	NATSGo   string `json:"natsGo"`
	Server   string `json:"server"` // of nats-server
	Go       string `json:"go"`
}

func machine() Machine {
	m := Machine{Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH}
	// Files of Linux; elsewhere they are not there.
	m.CPU = valueOf(read("/proc/cpuinfo"), "model name")
	m.MemoryBytes = kibibytes(valueOf(read("/proc/meminfo"), "MemTotal"))
	if kernel := strings.TrimSpace(read("/proc/sys/kernel/osrelease")); kernel != "" {
		m.OS = runtime.GOOS + " " + kernel + " " + runtime.GOARCH
	}
	return m
}

func read(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(text)
}

// valueOf returns what follows the first "key:" that begins a line.
func valueOf(text, key string) string {
	for line := range strings.Lines(text) {
		if k, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(k) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kibibytes returns "12 kB", as those files have it, in bytes, and 0 for what is not like that.
func kibibytes(value string) int64 {
	n, unit, _ := strings.Cut(value, " ")
	kib, err := strconv.ParseInt(n, 10, 64)
	if err != nil || unit != "kB" {
		return 0
	}
	return kib << 10
}

// versions are all but the server's.
func versions() Versions {
	v := Versions{Recourse: "devel", NATSGo: "unknown", Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.of(info)
	}
	return v
}

// natsGo is the client library.
const natsGo = "github.com/nats-io/nats.go"

func (v *Versions) of(info *debug.BuildInfo) {
	if info.Main.Version != "" {
		v.Recourse = info.Main.Version
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if revision := settings["vcs.revision"]; revision != "" && !strings.Contains(v.Recourse, revision[:min(12, len(revision))]) {
		v.Recourse += " " + revision
	}
	if settings["vcs.modified"] == "true" && !strings.Contains(v.Recourse, "+dirty") {
		v.Recourse += ", modified"
	}
	for _, dep := range info.Deps {
		if dep.Path == natsGo {
			v.NATSGo = dep.Version
		}
	}
}
