package recourse

import (
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// headerPrefix stands before the name of a CloudEvents attribute in the header of a message.
const headerPrefix = "ce-"

// The headers of a CloudEvent in binary mode. Their values are encoded by [EncodeHeaderValue].
const (
	HeaderEventSpecVersion = headerPrefix + "specversion"
	HeaderEventID          = headerPrefix + "id"
	HeaderEventSource      = headerPrefix + "source"
	HeaderEventType        = headerPrefix + "type"
	HeaderEventTime        = headerPrefix + "time"
	HeaderEventSubject     = headerPrefix + "subject"
	HeaderEventContentType = headerPrefix + "datacontenttype"
)

// What all messages say alike. Whoever changes a header replaces its values, so they can be shared.
var (
	headerSpecVersion = []string{eventSpecVersion}
	headerContentType = []string{"application/json"}
)

// SetEventHeader makes a message a CloudEvent in binary mode whose data is JSON: it sets the headers of the attributes. The subject is
// left out where it is empty.
func SetEventHeader(header map[string][]string, e Event) {
	values := [...]string{EncodeHeaderValue(e.ID), e.Source, e.Type, e.Time.UTC().Format(time.RFC3339Nano), EncodeHeaderValue(e.Subject)}
	header[HeaderEventSpecVersion] = headerSpecVersion
	header[HeaderEventContentType] = headerContentType
	header[HeaderEventID] = values[0:1:1]
	header[HeaderEventSource] = values[1:2:2]
	header[HeaderEventType] = values[2:3:3]
	header[HeaderEventTime] = values[3:4:4]
	if e.Subject != "" {
		header[HeaderEventSubject] = values[4:5:5]
	}
}

// EventSource returns the CloudEvents source of the messages under a subject, or a prefix of subjects: its tokens joined by slashes. All
// their characters may stand in a URI reference.
func EventSource(subject string) string {
	var b strings.Builder
	b.Grow(1 + len(subject))
	b.WriteByte('/')
	for i := 0; i < len(subject); i++ {
		if c := subject[i]; c == '.' {
			b.WriteByte('/')
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Event returns the record as a CloudEvent: its id is the version, unique under the execution's prefix, its type names the verb of the
// command or the kind of the decision, its subject is the node.
func (r *Record) Event(prefix string) Event {
	e := Event{ID: strconv.FormatUint(r.Version, 10), Source: EventSource(prefix), Subject: r.Path, Time: r.At}
	if r.Command.Verb != 0 {
		e.Type = eventTypePrefix + string(FamilyCommand) + "." + r.Command.Verb.String() + eventTypeVersion
	} else {
		e.Type = eventTypePrefix + string(FamilyDecision) + "." + r.Kind + eventTypeVersion
	}
	return e
}

// EncodeHeaderValue percent-encodes the value of an attribute for a header: space, quote, percent and what is not printable ASCII.
func EncodeHeaderValue(s string) string {
	escapes := 0
	for i := 0; i < len(s); i++ {
		if !isHeaderByte(s[i]) {
			escapes++
		}
	}
	if escapes == 0 {
		return s
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s) + 2*escapes)
	for i := 0; i < len(s); i++ {
		if c := s[i]; isHeaderByte(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}

func isHeaderByte(c byte) bool { return ' ' < c && c < 0x7f && c != '"' && c != '%' }

// decodeHeaderValue takes off the quotes of a header value, as writers of older versions put them, and the percent-encoding.
func decodeHeaderValue(s string) (string, error) {
	if s = strings.Trim(s, " \t"); strings.HasPrefix(s, `"`) {
		var err error
		if s, err = unquoteHeader(s); err != nil {
			return "", err
		}
	}
	if strings.IndexByte(s, '%') >= 0 {
		out := make([]byte, 0, len(s))
		for i := 0; i < len(s); i++ {
			c := s[i]
			if c == '%' {
				var ok bool
				if c, ok = unhex(s, i); !ok {
					return "", errors.New("a percent sign without two hexadecimal digits")
				}
				i += 2
			}
			out = append(out, c)
		}
		s = string(out)
	}
	if !utf8.ValidString(s) {
		return "", errors.New("not UTF-8")
	}
	return s, nil
}

// unquoteHeader reads a quoted string: a backslash stands before a character that is meant as it is.
func unquoteHeader(s string) (string, error) {
	out := make([]byte, 0, len(s))
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' && i == len(s)-1:
			return string(out), nil
		case c == '"':
			return "", errors.New("text behind the closing quote")
		case c == '\\' && i+1 < len(s):
			i++
			out = append(out, s[i])
		default:
			out = append(out, c)
		}
	}
	return "", errors.New("a quote that is not closed")
}

// unhex returns the byte that the two hexadecimal digits behind position i stand for.
func unhex(s string, i int) (byte, bool) {
	if i+2 >= len(s) {
		return 0, false
	}
	n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
	return byte(n), err == nil
}
