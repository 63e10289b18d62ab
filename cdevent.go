package recourse

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The types of CDEvents that stand here. Behind the second is the version of the event, 0.2.0 in CDEvents 0.4 and 0.3.0 in 0.5; a first
// number above 0 is a format nobody knows yet.
const (
	cdEventTypePrefix = "dev.cdevents."
	cdTaskRunFinished = cdEventTypePrefix + "taskrun.finished."
)

// cdEvent is what is read of a CDEvents taskrun.finished. Its other members are left alone: the vocabulary grows.
type cdEvent struct {
	Context struct {
		Version     string    `json:"version"`     // of CDEvents, up to 0.4
		SpecVersion string    `json:"specversion"` // the same, from 0.5
		ID          string    `json:"id"`
		Source      string    `json:"source"`
		Type        string    `json:"type"`
		Timestamp   time.Time `json:"timestamp"`
	} `json:"context"`
	Subject struct {
		ID      string `json:"id"`
		Type    string `json:"type"`
		Content struct {
			TaskName    string `json:"taskName"`
			PipelineRun struct {
				ID string `json:"id"`
			} `json:"pipelineRun"`
			Outcome string `json:"outcome"`
			Errors  string `json:"errors"`
		} `json:"content"`
	} `json:"subject"`
	CustomData jsontext.Value `json:"customData"`
}

// cdCustomData is the member "recourse" of the custom data: what CDEvents has no word for. Unlike the rest it is ours and read strictly.
type cdCustomData struct {
	Account    string     `json:"account"`
	Org        string     `json:"org"`
	Project    string     `json:"project"`
	Pipeline   string     `json:"pipeline"`
	Execution  string     `json:"execution"`
	Node       string     `json:"node"`
	Section    Section    `json:"section"`
	Attempt    *int       `json:"attempt"`
	Errors     ErrorTypes `json:"errors,omitzero"`
	ExitCode   *int       `json:"exitCode"`
	Target     string     `json:"target"`
	RetryAfter Duration   `json:"retryAfter"`
}

// isCDEvent reports whether a message without an envelope is of CDEvents. No message of ours has the member "context".
func isCDEvent(data []byte) bool {
	if !mentions(data, `"`+cdEventTypePrefix, 'v') {
		return false
	}
	var head struct {
		Context struct {
			Type string `json:"type"`
		} `json:"context"`
	}
	return json.Unmarshal(data, &head, jsontext.AllowDuplicateNames(true)) == nil && strings.HasPrefix(head.Context.Type, cdEventTypePrefix)
}

// openCDEvent turns the CDEvents event that came under a subject into the body of a failure. The zero envelope stands for none; the event's
// own context then says what the envelope would.
func openCDEvent(subject Subject, envelope Event, data []byte) ([]byte, Event, error) {
	var e cdEvent
	if err := decodeForeign(data, &e); err != nil {
		return nil, Event{}, err
	}
	if err := e.validate(envelope); err != nil {
		return nil, Event{}, err
	}
	if subject.Family != FamilyFailure {
		return nil, Event{}, &DecodeError{ReasonUnknownType, fmt.Errorf("type %q: want it on a subject of the family %s", e.Context.Type, FamilyFailure)}
	}
	failure, err := e.failure(subject)
	if err != nil {
		return nil, Event{}, err
	}
	if err := validate(failure); err != nil {
		return nil, Event{}, err
	}
	failure.Clean() // its message is bounded from here on
	body, err := Encode(failure)
	if err != nil {
		return nil, Event{}, &DecodeError{ReasonBadValue, err}
	}
	if envelope.ID == "" {
		envelope = Event{ID: e.Context.ID, Source: e.Context.Source, Type: e.Context.Type, Subject: e.Subject.ID, Time: e.Context.Timestamp}
	}
	return body, envelope, nil
}

// validate refuses an event that is not a task run that failed.
func (e *cdEvent) validate(envelope Event) error {
	refuse := func(reason DecodeReason, format string, args ...any) error {
		return &DecodeError{reason, fmt.Errorf("CDEvents "+format, args...)}
	}
	version, ok := strings.CutPrefix(e.Context.Type, cdTaskRunFinished)
	outcome := e.Subject.Content.Outcome
	switch {
	case envelope.ID != "" && envelope.Type != e.Context.Type:
		return refuse(ReasonInvalid, "context.type: %q in a CloudEvent of type %q", e.Context.Type, envelope.Type)
	case !ok:
		return refuse(ReasonUnknownType, "context.type: want %s<version>, got %q", cdTaskRunFinished, e.Context.Type)
	case !strings.HasPrefix(version, "0."):
		return refuse(ReasonFutureSchema, "context.type: %q has a version that is not known, those from 0.1 to below 1 are", e.Context.Type)
	case e.Context.Version == "" && e.Context.SpecVersion == "":
		return refuse(ReasonInvalid, "context.specversion: required")
	case e.Context.ID == "", e.Context.Source == "":
		return refuse(ReasonInvalid, "context.id and context.source: required")
	case !isURIReference(e.Context.Source):
		return refuse(ReasonInvalid, "context.source: %q is no URI reference", e.Context.Source)
	case e.Context.Timestamp.IsZero():
		return refuse(ReasonInvalid, "context.timestamp: required")
	case e.Subject.ID == "":
		return refuse(ReasonInvalid, "subject.id: required")
	case e.Subject.Type != "" && e.Subject.Type != "taskRun" && e.Subject.Type != "taskrun":
		return refuse(ReasonInvalid, "subject.type: want taskRun, got %q", e.Subject.Type)
	}
	switch outcome {
	case "failure", "error":
		return nil
	case "success", "cancel":
		return refuse(ReasonNotAFailure, "subject.content.outcome: %s, which asks for no decision", outcome)
	}
	return refuse(ReasonInvalid, "subject.content.outcome: want success, failure, error or cancel, got %q", outcome)
}

// failure maps the event: see docs/messages.md, CDEvents.
func (e *cdEvent) failure(subject Subject) (*Failure, error) {
	var custom cdCustomData
	if e.CustomData.Kind() == '{' {
		var data struct {
			Recourse jsontext.Value `json:"recourse"`
		}
		if err := json.Unmarshal(e.CustomData, &data); err != nil {
			return nil, &DecodeError{reasonOf(err), err}
		}
		if data.Recourse != nil {
			if err := decode(data.Recourse, &custom, MaxSize); err != nil {
				return nil, err
			}
		}
	}
	content := &e.Subject.Content
	f := &Failure{
		Schema: Schema, Node: Node{Path: cmp.Or(custom.Node, content.TaskName), Section: custom.Section}, Attempt: 1,
		Errors: custom.Errors, ExitCode: custom.ExitCode, Target: custom.Target, RetryAfter: custom.RetryAfter, At: e.Context.Timestamp,
		Message: "taskRun " + e.Subject.ID,
	}
	if content.Errors != "" {
		f.Message += ": " + content.Errors
	}
	if custom.Attempt != nil {
		f.Attempt = *custom.Attempt
	}
	if f.Errors == 0 {
		f.Errors = leadingErrorTypes(content.Errors)
	}
	custom.Execution = cmp.Or(custom.Execution, content.PipelineRun.ID)
	tokens := strings.Split(subject.Prefix, ".")
	if len(tokens) != subjectTokens-2 {
		return nil, &DecodeError{ReasonWrongSubject, fmt.Errorf("subject %q is of no execution", subject.Prefix)}
	}
	for i, id := range [...]struct {
		to    *string
		named string
	}{
		{&f.Account, custom.Account}, {&f.Org, custom.Org}, {&f.Project, custom.Project}, {&f.Pipeline, custom.Pipeline}, {&f.Execution, custom.Execution},
	} {
		if *id.to = id.named; id.named != "" {
			continue
		}
		var err error
		if *id.to, err = untoken(tokens[i+1]); err != nil {
			return nil, &DecodeError{ReasonInvalid, err}
		}
	}
	return f, nil
}

// leadingErrorTypes returns the error types with which a text begins: names, joined by commas, up to a colon, a line break or the end.
// A text that begins otherwise has none.
func leadingErrorTypes(text string) (set ErrorTypes) {
	if end := strings.IndexAny(text, ":\r\n"); end >= 0 {
		text = text[:end]
	}
	for name := range strings.SplitSeq(text, ",") {
		t, err := ParseErrorType(strings.TrimSpace(name))
		if err != nil || t == AllErrors {
			return 0
		}
		set = set.Add(t)
	}
	return set
}

// untoken returns the id that a token of a subject stands for; [Token] is its reverse. A shortened id cannot be told from its token.
func untoken(token string) (string, error) {
	if strings.Contains(token, "==") {
		return "", fmt.Errorf("the subject has the shortened id %s; customData.recourse must have it as it is", token)
	}
	if strings.IndexByte(token, '=') < 0 {
		return token, nil
	}
	out := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		if token[i] != '=' {
			out = append(out, token[i])
			continue
		}
		if i+2 >= len(token) {
			return "", fmt.Errorf("the subject has %s, which is no id", token)
		}
		c, err := hex.DecodeString(token[i+1 : i+3])
		if err != nil {
			return "", fmt.Errorf("the subject has %s, which is no id", token)
		}
		out, i = append(out, c...), i+2
	}
	return string(out), nil
}
