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
	if !atLeast(version, minMajor, minMinor) {
		return &VersionError{Have: version}
	}
	return nil
}

// BatchFlushesOnce says whether a server of that version brings an atomic batch to the disk with one flush where it syncs always. Up to
// 2.14 it flushes after each message, so that a batch is no quicker than as many appends.
func BatchFlushesOnce(version string) bool { return atLeast(version, 2, 15) }

// atLeast says whether a version is that one or later; one that cannot be read is not.
func atLeast(version string, wantMajor, wantMinor uint64) bool {
	major, rest, ok := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	if !ok {
		return false
	}
	minor := rest
	if i := strings.IndexAny(rest, ".-+"); i >= 0 {
		minor = rest[:i]
	}
	x, errX := strconv.ParseUint(major, 10, 16)
	y, errY := strconv.ParseUint(minor, 10, 16)
	return errX == nil && errY == nil && (x > wantMajor || x == wantMajor && y >= wantMinor)
}
