package recourse

import (
	"cmp"
	"math/bits"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxMessageLength is the most bytes of free text that are kept of a message.
const MaxMessageLength = 4 << 10

// Redacted stands where a secret stood.
const Redacted = "[redacted]"

// value is what follows the name of a secret: quoted, quoted inside a quoted text, or up to a blank or a separator. A quote that is not
// closed reaches to the end of the text.
const value = `(?s:"((?:[^"\\]|\\.)*)(?:"|\z)|'((?:[^'\\]|\\.)*)(?:'|\z)|\\+"([^"\\]*)(?:\\+"|"|\z)|([^\s"',;&]+))`

// secret is the shape of a credential. What the groups of the shape match is the secret. A text that has one has one of the shape's hints,
// in a place where the shape could have it: most messages have none and are done with one look.
type secret struct {
	shape *regexp.Regexp
	hints []string                               // in lower case, two bytes or more
	near  func(text string, start, end int) bool // whether a match could have the hint at text[start:end]; nil where nothing speaks against it
}

var secrets = []secret{
	// -----BEGIN … PRIVATE KEY----- … -----END … -----, also when the end was cut off
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(.*?)(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\z)`), []string{"private key"}, nil},
	// scheme://user:password@host, jdbc:oracle:thin:user/password@host
	{regexp.MustCompile(`(?i)\b[a-z][a-z0-9+.-]*://([^\s/?#"'<>]+)@`), []string{"://"}, hasUser},
	{regexp.MustCompile(`(?i)\bjdbc:[a-z0-9]+:[a-z0-9]+:([^\s@:"']+/[^\s@"']+)@`), []string{"jdbc:"}, nil},
	// Authorization: Bearer …, Basic …, Digest …; Cookie: …
	{regexp.MustCompile(`(?i)\bauthorization\\*["']?\s*[:=]\s*\\*["']?(digest\s[^\r\n]+|[^\r\n"'\\]+)`), []string{"authorization"}, assigned},
	{regexp.MustCompile(`(?i)\b(?:set-)?cookie\\*["']?\s*[:=]\s*\\*["']?([^\r\n"'\\]+)`), []string{"cookie"}, assigned},
	// bearer …, basic …, token …: of what follows a word alone is none
	{regexp.MustCompile(`(?i)\b(?:bearer|basic|token)\s+([a-z0-9._~+/=-]*[0-9=_~+/][a-z0-9._~+/=-]*|[a-z.-]{24,})`), []string{"bearer", "basic", "token"}, beforeToken},
	// password=…, "api_key": "…", AWS_SECRET_ACCESS_KEY=…, &sig=…
	{regexp.MustCompile(`(?i)(?:password|passwd|passphrase|pwd|secret|token|(?:api|access|account|private|signing|encryption|master|shared|auth|client|deploy|license|subscription)[._-]?key|credentials?)[a-z0-9_.-]*\\*["']?\s*(?::=|=>|[:=])\s*` + value),
		[]string{"password", "passwd", "passphrase", "pwd", "secret", "token", "key", "credential"}, assigned},
	{regexp.MustCompile(`(?i)(?:^|[^a-z])(?:pat|sig|signature|passcode|otp)\\*["']?\s*(?::=|=>|[:=])\s*` + value), []string{"pat", "sig", "passcode", "otp"}, assignedWord},
	// --token …, --password …; curl -u user:password
	{regexp.MustCompile(`(?i)--?[a-z0-9-]*(?:password|passwd|secret|token|api-?key)[a-z0-9-]*\s+([^\s-]\S*)`), []string{"password", "passwd", "secret", "token", "key"}, inOption},
	{regexp.MustCompile(`(?:^|\s)(?:-u|--user)[\s=]+["']?([^\s:"']+:[^\s"']+)`), []string{"-u"}, atWord},
	// tokens that show by themselves: GitHub, GitLab, Slack, AWS, Google, JSON web tokens, Harness, npm, PyPI, Docker, Vault, Stripe
	{regexp.MustCompile(`\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|gl(?:pat|dt|rt|ptt|soat)-[A-Za-z0-9_-]{16,}|xox[abeprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|A(?:KIA|SIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*|(?:pat|sat)\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9._-]{16,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|dckr_pat_[A-Za-z0-9_-]{20,}|hv[sb]\.[A-Za-z0-9_-]{20,}|[sr]k_live_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,})`),
		[]string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glrt-", "glptt-", "glsoat-", "xox", "xapp-", "akia", "asia", "aiza", "ya29.", "eyj", "pat.", "sat.", "npm_", "pypi-", "dckr_pat_", "hvs.", "hvb.", "k_live_", "sk-"}, nil},
}

// Redact cuts text to [MaxMessageLength] bytes at a character and puts [Redacted] in place of what looks like a password, token,
// key or the user part of a URL. Text that is not UTF-8 is made so.
func Redact(text string) string {
	if text == "" {
		return ""
	}
	text = lookedAt(text)
	return redact(text, hinted.find(text))
}

// lookedAt returns what of a text is looked at: valid UTF-8, and twice of what is kept, else a secret across the cut would lose the end by
// which it is known.
func lookedAt(text string) string {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	return cut(text, 2*MaxMessageLength)
}

// redact is Redact for a text that may have the given secrets. Only what stood before the cut is kept, however much shorter it became: a
// secret across the second cut is not known any more.
func redact(text string, may shapeSet) string {
	kept := cut(text, MaxMessageLength)
	var spans [][2]int
	for left := may; left != 0; left &= left - 1 {
		i := bits.TrailingZeros64(uint64(left))
		for _, at := range secrets[i].shape.FindAllStringSubmatchIndex(text, -1) {
			for g := 2; g < len(at); g += 2 {
				if at[g] < at[g+1] && at[g] < len(kept) { // else empty, not part of the match, or behind the cut
					spans = append(spans, [2]int{at[g], at[g+1]})
				}
			}
		}
	}
	if len(spans) == 0 {
		return kept
	}
	slices.SortFunc(spans, func(a, b [2]int) int { return cmp.Compare(a[0], b[0]) })
	var out strings.Builder
	end := 0
	for _, s := range spans {
		if s[0] >= end {
			out.WriteString(text[end:s[0]])
			out.WriteString(Redacted)
		}
		end = max(end, s[1])
	}
	if end < len(kept) {
		out.WriteString(kept[end:])
	}
	return cut(out.String(), MaxMessageLength)
}

// cut returns at most n bytes of text, ending at a character.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
