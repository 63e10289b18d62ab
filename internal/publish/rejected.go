package publish

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/recourse-dev/recourse"
)

// The headers of a rejected input.
const (
	HeaderReason   = "Recourse-Reason"   // a recourse.DecodeReason
	HeaderError    = "Recourse-Error"    // what is wrong, in words
	HeaderSubject  = "Recourse-Subject"  // where the input was published
	HeaderSequence = "Recourse-Sequence" // its sequence in the inbox
	// HeaderOriginal stands before the name of an original header that would mean something to the server, to a client library
	// or here.
	HeaderOriginal = "Recourse-Original-"
)

// Reject keeps an input that nobody can decide: its bytes and headers as they came, with the reason. Headers that the server (Nats-…),
// a client library (Status) or a reader of rejected inputs (Recourse-…) would act upon are kept under another name. The message id
// makes a repeat harmless within the stream's window.
func (j *Journal) Reject(ctx context.Context, input jetstream.Msg, sequence uint64, reason recourse.DecodeReason, cause error) error {
	subject, err := recourse.ParseSubject(input.Subject())
	if err != nil {
		return fmt.Errorf("reject: %w", err) // cannot come from the inbox: its subjects have this form
	}
	header := nats.Header{}
	for name, values := range input.Headers() {
		if meaningful(name) {
			name = HeaderOriginal + name
		}
		header[name] = values
	}
	header.Set(HeaderReason, string(reason))
	header.Set(HeaderError, oneLine(cause.Error()))
	header.Set(HeaderSubject, input.Subject())
	header.Set(HeaderSequence, strconv.FormatUint(sequence, 10))
	header.Set(jetstream.MsgIDHeader, string(subject.Family)+"-"+strconv.FormatUint(sequence, 10)) // what comes due has sequences of its own
	msg := &nats.Msg{Subject: recourse.SubjectUnder(subject.Prefix, recourse.FamilyRejected, string(reason)), Header: header, Data: input.Data()}
	if _, err := j.stored.Publish(ctx, msg); err != nil {
		return fmt.Errorf("reject: %w", err)
	}
	return nil
}

// meaningful reports whether a header must not stand under its own name on a rejected input. A message without a body that has a
// "Status" is taken for a word from the server by client libraries, and would not be seen by who reads the rejected inputs.
func meaningful(name string) bool {
	name = strings.ToLower(name)
	return name == "status" || strings.HasPrefix(name, "nats-") || strings.HasPrefix(name, "recourse-")
}

// oneLine makes a text fit for a header: redacted, short, without line breaks.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, recourse.Redact(s))
	if len(s) > 512 {
		s = strings.ToValidUTF8(s[:512], "")
	}
	return s
}
