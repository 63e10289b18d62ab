package recourse

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	eventSpecVersion = "1.0"
	eventTypePrefix  = "dev.recourse."
	eventTypeVersion = ".v1"
)

// Event is a CloudEvent (version 1.0) without its data. The zero value stands for a message that is none.
type Event struct {
	ID      string // required
	Source  string // required, a URI reference
	Type    string // required
	Subject string
	Time    time.Time
}

// Key identifies the event within an execution: "event-" and 32 hexadecimal digits, equal where source and id are. It is what an answer
// or a control without an id of its own is known by, so that a repeat is recognised. "" for the zero value.
func (e Event) Key() string {
	if e.ID == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(strconv.Itoa(len(e.Source)) + " " + e.Source + e.ID))
	return "event-" + hex.EncodeToString(sum[:16])
}

// EventType returns the CloudEvents type of a family's inputs, say "dev.recourse.failure.v1".
func EventType(family Family) string { return eventTypePrefix + string(family) + eventTypeVersion }

// OpenInput takes an input out of its envelope. It returns the body in the form of the subject's family, as [DecodeFailure] and the like
// read it, and the event it came in:
//
//   - a CloudEvent in binary mode, one of the headers ce-specversion, ce-id, ce-source and ce-type being there: the body is the data
//   - a CloudEvent in structured mode, by its content-type or its member "specversion": the data in it
//   - a CDEvents taskrun.finished, in a CloudEvent or bare, on the subject of a failure: see docs/messages.md for what becomes of it
//   - anything else: the body as it came, and no event
//
// It does not validate the body, so what it takes for no event may turn out to be nothing at all. The error is a *[DecodeError].
func OpenInput(subject Subject, header map[string][]string, data []byte) (body []byte, event Event, err error) {
	body = data
	if a, ok, err := openEvent(header, data); err != nil {
		return nil, Event{}, err
	} else if ok {
		if event, err = a.event(); err != nil {
			return nil, Event{}, err
		}
		if body, err = a.body(); err != nil {
			return nil, Event{}, err
		}
	}
	switch {
	case strings.HasPrefix(event.Type, cdEventTypePrefix), event.ID == "" && isCDEvent(data):
		return openCDEvent(subject, event, body)
	case event.ID != "":
		if err := checkEventType(subject.Family, event.Type); err != nil {
			return nil, Event{}, err
		}
	}
	return body, event, nil
}

// checkEventType refuses an event of another type than those of the family. A type without a version counts as v1.
func checkEventType(family Family, eventType string) error {
	version, ok := strings.CutPrefix(eventType, eventTypePrefix+string(family))
	if ok && (version == "" || version == eventTypeVersion) {
		return nil
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(version, ".v"), 10, 31); ok && err == nil && n > Schema && strings.HasPrefix(version, ".v") {
		return futureSchema(int(n))
	}
	return &DecodeError{ReasonUnknownType, fmt.Errorf("type %q: want %s on a subject of this family", eventType, EventType(family))}
}

// attributes are those of an event as they came: context attributes by their position, and data. "" is an attribute that is absent.
type attributes struct {
	text   [len(attributeNames)]string
	data   jsontext.Value // nil where base64 has it
	base64 []byte
}

// The attributes that mean something here. Others, the extensions, are left alone.
const (
	specVersion = iota
	eventID
	eventSource
	eventType
	eventSubject
	eventTime
	dataContentType
	dataSchema
)

var attributeNames = [...]string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"}

func attributeIndex(name string) int {
	for i, known := range attributeNames {
		if known == name {
			return i
		}
	}
	return -1
}

// openEvent reads the attributes of a message; ok is false for one that is no CloudEvent.
func openEvent(header map[string][]string, data []byte) (a attributes, ok bool, err error) {
	contentType, values := "", [len(attributeNames)][]string{}
	for name, v := range header {
		switch {
		case len(name) == len("content-type") && strings.EqualFold(name, "content-type"):
			contentType = strings.Join(v, ",") // twice there it is of no type known here
		case len(name) > len(headerPrefix) && strings.EqualFold(name[:len(headerPrefix)], headerPrefix):
			if i := attributeIndex(strings.ToLower(name[len(headerPrefix):])); i >= 0 && values[i] == nil {
				values[i] = v
			} else if i >= 0 {
				values[i] = append(slices.Clone(values[i]), v...) // two spellings
			}
		}
	}
	switch mediaType := mediaType(contentType); {
	case mediaType == "application/cloudevents+json", mediaType == "application/cloudevents", isStructured(data):
		a, err = structuredAttributes(data)
		return a, true, err
	case strings.HasPrefix(mediaType, "application/cloudevents"):
		return a, true, &DecodeError{ReasonUnknownType, fmt.Errorf("content-type %q: want application/cloudevents+json", contentType)}
	}
	if values[specVersion] == nil && values[eventID] == nil && values[eventSource] == nil && values[eventType] == nil {
		return a, false, nil
	}
	a.data = data
	for i, name := range attributeNames {
		switch len(values[i]) {
		case 0:
			continue
		case 1:
		default:
			return a, true, &DecodeError{ReasonDuplicateKey, fmt.Errorf("header %s%s is there %d times", headerPrefix, name, len(values[i]))}
		}
		if a.text[i], err = decodeHeaderValue(values[i][0]); err != nil {
			return a, true, &DecodeError{ReasonBadValue, fmt.Errorf("header %s%s: %w", headerPrefix, name, err)}
		}
		if a.text[i] == "" {
			return a, true, &DecodeError{ReasonInvalid, fmt.Errorf("header %s%s: empty", headerPrefix, name)}
		}
	}
	return a, true, nil
}

// isStructured reports whether a message without a content type is an event in structured mode: the binding of 1.0.2 knows no headers. No
// message of ours has the member, nor its name as the whole of a text at the top.
func isStructured(data []byte) bool {
	if !mentions(data, `"specversion"`, 'v') {
		return false
	}
	var head struct {
		SpecVersion jsontext.Value `json:"specversion"`
	}
	return json.Unmarshal(data, &head, jsontext.AllowDuplicateNames(true)) == nil && head.SpecVersion != nil
}

// mentions reports whether data has a text somewhere. It looks for the first place of a byte in the text that is rare elsewhere, which is
// several times faster than looking for the text in a message of some words.
func mentions(data []byte, text string, rare byte) bool {
	before := strings.IndexByte(text, rare)
	for from := 0; ; {
		i := bytes.IndexByte(data[from:], rare)
		if i < 0 {
			return false
		}
		if start := from + i - before; start >= 0 && len(data)-start >= len(text) && string(data[start:start+len(text)]) == text {
			return true
		}
		from += i + 1
	}
}

// structured is an event in the JSON format.
type structured struct {
	SpecVersion     *string                   `json:"specversion"`
	ID              *string                   `json:"id"`
	Source          *string                   `json:"source"`
	Type            *string                   `json:"type"`
	Subject         *string                   `json:"subject"`
	Time            *string                   `json:"time"`
	DataContentType *string                   `json:"datacontenttype"`
	DataSchema      *string                   `json:"dataschema"`
	Data            jsontext.Value            `json:"data"`
	Base64          *[]byte                   `json:"data_base64"`
	Extensions      map[string]jsontext.Value `json:",embed"`
}

func structuredAttributes(data []byte) (a attributes, err error) {
	var s structured
	if err := decodeForeign(data, &s); err != nil {
		return a, err
	}
	for name := range s.Extensions {
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" || name == "" {
			return a, &DecodeError{ReasonUnknownKey, fmt.Errorf("%q is neither an attribute nor an extension: those have lower-case letters and digits", name)}
		}
	}
	for name, value := range s.Extensions {
		if kind := value.Kind(); kind == '{' || kind == '[' {
			return a, &DecodeError{ReasonBadValue, fmt.Errorf("extension %s: want a string, a number or a boolean", name)}
		}
	}
	for i, value := range [...]*string{s.SpecVersion, s.ID, s.Source, s.Type, s.Subject, s.Time, s.DataContentType, s.DataSchema} {
		if value == nil {
			continue // absent, or null, which is the same
		}
		if a.text[i] = *value; *value == "" {
			return a, &DecodeError{ReasonInvalid, fmt.Errorf("%s: empty", attributeNames[i])}
		}
	}
	switch {
	case s.Data != nil && s.Base64 != nil:
		return a, &DecodeError{ReasonInvalid, errors.New("data and data_base64: want one of them")}
	case s.Base64 != nil:
		a.base64 = *s.Base64
	default:
		a.data = s.Data
	}
	return a, nil
}

// event validates the attributes.
func (a *attributes) event() (Event, error) {
	invalid := func(i int, format string, args ...any) (Event, error) {
		return Event{}, &DecodeError{ReasonInvalid, fmt.Errorf("CloudEvents attribute "+attributeNames[i]+": "+format, args...)}
	}
	for i, value := range a.text {
		if value == "" && i <= eventType {
			return invalid(i, "required")
		}
		if err := validateText(value); err != nil {
			return invalid(i, "want UTF-8 without control characters")
		}
	}
	if v := a.text[specVersion]; v != eventSpecVersion {
		return invalid(specVersion, "want %s, got %q", eventSpecVersion, v)
	}
	if v := a.text[eventSource]; !isURIReference(v) {
		return invalid(eventSource, "%q is no URI reference", v)
	}
	if v := a.text[dataContentType]; v != "" && !isJSON(mediaType(v)) {
		return invalid(dataContentType, "want application/json, got %q", v)
	}
	e := Event{ID: a.text[eventID], Source: a.text[eventSource], Type: a.text[eventType], Subject: a.text[eventSubject]}
	if v := a.text[eventTime]; v != "" {
		if err := json.Unmarshal([]byte(`"`+v+`"`), &e.Time); err != nil { // stricter than time.Parse, as the bodies are read
			return invalid(eventTime, "%q is no time in RFC 3339", v)
		}
	}
	return e, nil
}

// body returns the data.
func (a *attributes) body() ([]byte, error) {
	switch {
	case a.base64 != nil:
		return a.base64, nil
	case a.data != nil:
		return a.data, nil
	}
	return nil, &DecodeError{ReasonInvalid, errors.New("an event without data")}
}

// mediaType returns a media type without its parameters, in lower case.
func mediaType(contentType string) string {
	name, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(name))
}

func isJSON(mediaType string) bool {
	return strings.HasSuffix(mediaType, "/json") || strings.HasSuffix(mediaType, "+json")
}

// isURIReference reports whether all characters may stand in a URI reference (RFC 3986); the parts are not looked at.
func isURIReference(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if _, ok := unhex(s, i); !ok {
				return false
			}
		case c <= ' ', c >= 0x7f, strings.IndexByte("\"<>\\^`{|}", c) >= 0:
			return false
		}
	}
	return true
}

// decodeForeign reads a message in a format that is not ours: members that v does not have are left alone.
func decodeForeign(body []byte, v any) error {
	if len(body) > MaxSize {
		return &DecodeError{ReasonTooLarge, fmt.Errorf("a message has at most %d bytes, this one has %d", MaxSize, len(body))}
	}
	if err := checkDepth(body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return &DecodeError{reasonOf(err), err}
	}
	return nil
}
