package recourse

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// The names of the streams and of the bucket.
const (
	StreamInbox     = "RECOURSE_INBOX"
	StreamJournal   = "RECOURSE_JOURNAL"
	StreamTimers    = "RECOURSE_TIMERS"
	StreamRejected  = "RECOURSE_REJECTED"
	BucketPipelines = "RECOURSE_PIPELINES"
)

// Family is the part of a subject that says what a message is.
type Family string

// The families. A subject is recourse.<account>.<org>.<project>.<pipeline>.<execution>.<family>.<detail>.
const (
	FamilyFailure      Family = "failure"      // detail: the principal that reports
	FamilyIntervention Family = "intervention" // detail: the principal that answers
	FamilyControl      Family = "control"      // detail: the principal that steps in
	FamilyLifecycle    Family = "lifecycle"    // detail: the principal that reports
	FamilyCommand      Family = "command"      // detail: the verb
	FamilyDecision     Family = "decision"     // detail: the kind
	FamilyTimer        Family = "timer"        // detail: the version of the record that waits
	FamilyDue          Family = "due"          // detail: the version of the record that waits
	FamilyRejected     Family = "rejected"     // detail: the reason
)

// MaxTokenLength is the most bytes an encoded id has in a subject.
const MaxTokenLength = 64

const (
	subjectRoot   = "recourse"
	subjectTokens = 8
	hashLength    = 32 // hexadecimal digits of a shortened id: 128 bits of SHA-256
)

// Token encodes an id into one subject token of at most [MaxTokenLength] bytes. Letters, digits, '_', '-' and '$' stay as they
// are, every other byte becomes '=' and two hexadecimal digits. What would be longer is cut to 30 bytes, followed by "==" and
// 32 hexadecimal digits of the id's SHA-256. Two ids never share a token (short of a collision of 128 bits): "==" cannot
// come from escaping. The empty id, which no valid message has, becomes "=": a subject has no empty token.
func Token(id string) string { return encodeID(id, isTokenByte) }

// encodeID is Token with the set of bytes that stay as they are.
func encodeID(id string, keep func(byte) bool) string {
	if id == "" {
		return "="
	}
	escapes := 0
	for i := 0; i < len(id); i++ {
		if !keep(id[i]) {
			escapes++
		}
	}
	if escapes == 0 && len(id) <= MaxTokenLength {
		return id
	}
	const digits = "0123456789ABCDEF"
	out := make([]byte, 0, len(id)+2*escapes)
	for i := 0; i < len(id); i++ {
		if c := id[i]; keep(c) {
			out = append(out, c)
		} else {
			out = append(out, '=', digits[c>>4], digits[c&15])
		}
	}
	if len(out) > MaxTokenLength {
		sum := sha256.Sum256([]byte(id))
		out = append(out[:MaxTokenLength-hashLength-2], "=="...)
		out = hex.AppendEncode(out, sum[:hashLength/2])
	}
	return string(out)
}

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '$'
}

func isKeyByte(c byte) bool { return c != '$' && isTokenByte(c) }

// Prefix returns the subject prefix of the execution, without a trailing dot: recourse.<account>.….<execution>.
func (r Ref) Prefix() string {
	return strings.Join([]string{subjectRoot, Token(r.Account), Token(r.Org), Token(r.Project), Token(r.Pipeline), Token(r.Execution)}, ".")
}

// Subject returns the execution's subject for a family. The detail is encoded like an id.
func (r Ref) Subject(family Family, detail string) string {
	return SubjectUnder(r.Prefix(), family, detail)
}

// SubjectUnder is [Ref.Subject] for a prefix that is known already.
func SubjectUnder(prefix string, family Family, detail string) string {
	return prefix + "." + string(family) + "." + Token(detail)
}

// PipelineKey returns the key of the execution's pipeline in the bucket: <account>.<org>.<project>.<pipeline>. It is encoded
// like a subject, but '$' is escaped too, since keys of a NATS bucket may not have it.
func (r Ref) PipelineKey() string {
	return strings.Join([]string{encodeID(r.Account, isKeyByte), encodeID(r.Org, isKeyByte), encodeID(r.Project, isKeyByte), encodeID(r.Pipeline, isKeyByte)}, ".")
}

// The headers of a record, for readers that do without its body.
const (
	// HeaderVersion is the record's version in decimal.
	HeaderVersion = "Recourse-Version"
	// HeaderDueAt is when the record's wait comes due (RFC 3339 with nanoseconds, UTC); absent where it waits for nothing.
	HeaderDueAt = "Recourse-Due-At"
	// HeaderEnds is the version of the record whose wait this one ends; absent where it ends none.
	HeaderEnds = "Recourse-Ends"
	// HeaderCancels are the versions of the records whose waits this one supersedes, joined by commas; absent where there are none.
	HeaderCancels = "Recourse-Cancels"
	// HeaderFailure sums up the decision on a failure; absent on other records. See [Record.FailureSummary].
	HeaderFailure = "Recourse-Failure"
)

// HeaderCancelled marks a due message that only cancels a schedule.
const HeaderCancelled = "Recourse-Cancelled"

// Subject is a subject of an execution taken apart. Its tokens are as they stand on the wire, still encoded.
type Subject struct {
	Prefix string // recourse.<account>.….<execution>
	Family Family
	Detail string
}

// ParseSubject takes a subject apart; it fails where there are not exactly eight tokens or the first is not "recourse".
func ParseSubject(subject string) (Subject, error) {
	detail := strings.LastIndexByte(subject, '.')
	if detail < 0 || strings.Count(subject, ".") != subjectTokens-1 || !strings.HasPrefix(subject, subjectRoot+".") {
		return Subject{}, fmt.Errorf("subject %q: want %d tokens, the first %q", subject, subjectTokens, subjectRoot)
	}
	family := strings.LastIndexByte(subject[:detail], '.')
	return Subject{Prefix: subject[:family], Family: Family(subject[family+1 : detail]), Detail: subject[detail+1:]}, nil
}

// Filter returns the subject pattern of a family in all executions.
func Filter(family Family) string { return subjectRoot + ".*.*.*.*.*." + string(family) + ".*" }

// FilterDetail returns the subject pattern of one detail of a family in all executions.
func FilterDetail(family Family, detail string) string {
	return subjectRoot + ".*.*.*.*.*." + string(family) + "." + detail
}

// VersionDetail returns the subject detail of a wait: the version of its record in decimal.
func VersionDetail(version uint64) string { return strconv.FormatUint(version, 10) }
