package recourse

import (
	"fmt"
	"strconv"
	"strings"
)

// FailureSummary sums up the decision on a failure for [HeaderFailure]: the action, or the kind of a plain decision that does none, the
// error types as they counted, the section and the path of the node, joined by blanks. Only the path can have a blank itself.
//
//	Retry Timeout,Connectivity steps prod/canary/rollout
//	superseded Unknown steps prod/canary[a b]/rollout
//
// It is "" where the record decides on something else.
func (r *Record) FailureSummary() string {
	if r.Input.Failure == nil {
		return ""
	}
	does := r.Action.String()
	if r.Wait.Version == 0 && r.Kind != "" {
		does = r.Kind
	}
	return does + " " + r.Input.Failure.Errors.Normalize().String() + " " + r.Section.String() + " " + r.Path
}

// FailureSummary is a [HeaderFailure] taken apart.
type FailureSummary struct {
	// Does is the name of an action, or the kind of a plain decision that does none: superseded, stale, conflicting.
	Does string
	// Errors are the names of the error types, joined by commas.
	Errors string
	Node   Node
}

// ParseFailureSummary takes a [HeaderFailure] apart.
func ParseFailureSummary(header string) (FailureSummary, error) {
	parts := strings.SplitN(header, " ", 4)
	if len(parts) != 4 || parts[0] == "" || parts[1] == "" || parts[3] == "" {
		return FailureSummary{}, fmt.Errorf("%q: want an action, error types, a section and a node", header)
	}
	s := FailureSummary{Does: parts[0], Errors: parts[1], Node: Node{Path: parts[3]}}
	return s, s.Node.Section.UnmarshalText([]byte(parts[2]))
}

// FormatVersions writes versions of records as a header has them: in decimal, joined by commas.
func FormatVersions(versions []uint64) string {
	var b []byte
	for i, v := range versions {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, v, 10)
	}
	return string(b)
}

// ParseVersions reads what [FormatVersions] writes; "" is none.
func ParseVersions(text string) ([]uint64, error) {
	if text == "" {
		return nil, nil
	}
	var versions []uint64
	for part := range strings.SplitSeq(text, ",") {
		v, err := strconv.ParseUint(part, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("versions %q: %w", text, err)
		}
		versions = append(versions, v)
	}
	return versions, nil
}
