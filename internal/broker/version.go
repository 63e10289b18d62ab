package broker

import (
	"fmt"
	"strconv"
	"strings"
)

// MinServerVersion is the oldest server that Recourse works with: message schedules that a publisher can cancel came with it.
const MinServerVersion = "2.14"

const minMajor, minMinor = 2, 14

// VersionError says that the server is too old, or that its version cannot be read.
type VersionError struct {
	// Have is what the server calls itself.
	Have string
}

func (e *VersionError) Error() string {
	if e.Have == "" {
		return "the NATS server did not say its version; recourse needs nats-server " + MinServerVersion + " or later"
	}
	return fmt.Sprintf("the NATS server is version %s, recourse needs %s or later: upgrade nats-server", e.Have, MinServerVersion)
}

// CheckServerVersion returns a *[VersionError] where a server of that version is older than [MinServerVersion], or where it is not
// a version. A leading "v", a patch level, a pre-release and a build do not count: "v2.14.0-RC.1" is 2.14.
func CheckServerVersion(version string) error {
	major, rest, ok := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	if !ok {
		return &VersionError{Have: version}
	}
	minor := rest
	if i := strings.IndexAny(rest, ".-+"); i >= 0 {
		minor = rest[:i]
	}
	x, errX := strconv.ParseUint(major, 10, 16)
	y, errY := strconv.ParseUint(minor, 10, 16)
	if errX != nil || errY != nil || x < minMajor || x == minMajor && y < minMinor {
		return &VersionError{Have: version}
	}
	return nil
}
