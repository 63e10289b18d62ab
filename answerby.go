package recourse

import "strings"

// MayAnswer reports whether a principal may answer an intervention whose AnswerBy is by: principals joined by commas, in which a * stands
// for any characters ("release-*,ann"). Where by is empty everybody may; the broker's permissions decide alone then, as they always do
// first. The principal is as its subject has it, encoded ([Token]).
func MayAnswer(by, principal string) bool {
	if by == "" {
		return true
	}
	for pattern := range strings.SplitSeq(by, ",") {
		if ofPrincipal(pattern, principal) {
			return true
		}
	}
	return false
}

func ofPrincipal(pattern, principal string) bool {
	if !strings.Contains(pattern, "*") {
		return Token(pattern) == principal
	}
	rest, first := principal, true
	for part, more := "", true; more; first = false {
		part, pattern, more = strings.Cut(pattern, "*")
		if part != "" {
			part = Token(part)
		}
		at := 0
		switch {
		case !more: // the last one is at the end
			if at = len(rest) - len(part); first && at != 0 {
				return false
			}
			if at < 0 || rest[at:] != part {
				return false
			}
		default:
			if at = strings.Index(rest, part); at < 0 || first && at > 0 {
				return false
			}
		}
		rest = rest[at+len(part):]
	}
	return true
}
