package recourse

import (
	"errors"
	"fmt"
	"strings"
)

// Section is the part of a stage or step group a node stands in. The same identifier may stand in both.
type Section uint8

// The sections. The zero value is Steps.
const (
	Steps Section = iota
	RollbackSteps
)

// String returns "steps" or "rollbackSteps".
func (s Section) String() string {
	if s == RollbackSteps {
		return "rollbackSteps"
	}
	return "steps"
}

// MarshalText writes the name.
func (s Section) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads "steps", "rollbackSteps" or "rollback".
func (s *Section) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "", "steps":
		*s = Steps
	case "rollbacksteps", "rollback":
		*s = RollbackSteps
	default:
		return fmt.Errorf("unknown section %q, known are steps, rollbackSteps", text)
	}
	return nil
}

// The bounds of a node path.
const (
	MaxNodeDepth      = 32   // segments
	MaxNodePathLength = 4096 // bytes
)

// Node names a stage, step group or step of an execution: the identifiers from the stage inwards, joined by slashes, and the
// section. An identifier inside a matrix, repeat or parallelism is followed by its iteration in square brackets:
// "prod/canary[2]/rollout". A node under any rollbackSteps on its path is in the section RollbackSteps.
type Node struct {
	Path    string  `json:"node"`
	Section Section `json:"section,omitzero"`
}

// String returns the path, followed by " (rollbackSteps)" in that section.
func (n Node) String() string {
	if n.Section == RollbackSteps {
		return n.Path + " (rollbackSteps)"
	}
	return n.Path
}

// Validate reports why a path is out of bounds.
func (n Node) Validate() error {
	switch {
	case n.Path == "":
		return errors.New("node: a path is required")
	case len(n.Path) > MaxNodePathLength:
		return fmt.Errorf("node: a path has at most %d bytes, this one has %d", MaxNodePathLength, len(n.Path))
	}
	depth := 0
	for segment := range strings.SplitSeq(n.Path, "/") {
		if depth++; depth > MaxNodeDepth {
			return fmt.Errorf("node: a path has at most %d segments", MaxNodeDepth)
		}
		id := segment
		if open := strings.IndexByte(segment, '['); open >= 0 {
			if !strings.HasSuffix(segment, "]") || open == len(segment)-2 {
				return fmt.Errorf("node: %q: an iteration is written as identifier[iteration]", segment)
			}
			if err := ValidateID(segment[open+1 : len(segment)-1]); err != nil {
				return fmt.Errorf("node: %q: iteration: %w", segment, err)
			}
			id = segment[:open]
		}
		if err := ValidateID(id); err != nil {
			return fmt.Errorf("node: %q: %w", segment, err)
		}
	}
	return nil
}

// Stage returns the first segment of the path, iteration included.
func (n Node) Stage() string {
	if i := strings.IndexByte(n.Path, '/'); i >= 0 {
		return n.Path[:i]
	}
	return n.Path
}

// Within reports whether the node is scope or stands inside it; the scope "" is the whole execution.
func (n Node) Within(scope string) bool {
	if scope == "" {
		return true
	}
	return strings.HasPrefix(n.Path, scope) && (len(n.Path) == len(scope) || n.Path[len(scope)] == '/')
}

// Parent returns the path without its last segment, "" for a stage.
func Parent(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '/'))]
}

// PlainPath returns a path without its iterations: "prod/canary[2]/rollout" becomes "prod/canary/rollout". That is the form in which
// the pipeline's YAML knows the node. An iteration may hold any character, slashes excepted.
func PlainPath(path string) string {
	open := strings.IndexByte(path, '[')
	if open < 0 {
		return path
	}
	var b strings.Builder
	b.Grow(len(path))
	inside := false
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '/':
			inside = false
			b.WriteByte(c)
		case c == '[':
			inside = true
		case !inside:
			b.WriteByte(c)
		}
	}
	return b.String()
}
