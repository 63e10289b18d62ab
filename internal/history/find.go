package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// ErrNotFound says that the journal has no record of such an execution.
var ErrNotFound = errors.New("the journal knows no such execution")

// AmbiguousError says that a name stands for several executions.
type AmbiguousError struct {
	Name string
	// Meant are the executions, the first ten; More is how many there are beside these.
	Meant []recourse.Ref
	More  int
}

// Error lists what may be meant.
func (e *AmbiguousError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q may mean any of", e.Name)
	for _, ref := range e.Meant {
		b.WriteString("\n  " + ref.String())
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\n  and %d more", e.More)
	}
	b.WriteString("\nname one in full, or with --account, --org, --project, --pipeline")
	return b.String()
}

// Find returns the subject prefix of the execution that a person means, among those of the filter; an empty id of it stands for all.
// The name is, tried in this order: an execution's id; the end of account/org/project/pipeline/id; the beginning of an id, alone or
// behind the parts before it. The first two ask the server for the subjects of one execution and take a millisecond however large the
// journal is; the last one goes over the subjects of all executions in the filter. Errors: [ErrNotFound], *[AmbiguousError].
func Find(ctx context.Context, journal jetstream.Stream, filter recourse.Ref, name string) (string, error) {
	patterns := readings(filter, name)
	for _, ref := range patterns {
		found, err := prefixes(ctx, journal, ref, func(string) bool { return true })
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return one(ctx, journal, name, found)
		}
	}
	for _, ref := range patterns {
		begin := recourse.Token(ref.Execution)
		ref.Execution = ""
		found, err := prefixes(ctx, journal, ref, func(token string) bool { return strings.HasPrefix(token, begin) })
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return one(ctx, journal, name, found)
		}
	}
	return "", fmt.Errorf("%q: %w", name, ErrNotFound)
}

// readings are what a name can stand for: an id that may have slashes, and ids joined by slashes.
func readings(filter recourse.Ref, name string) []recourse.Ref {
	alone := filter
	alone.Execution = name
	readings := []recourse.Ref{alone}
	parts := strings.Split(name, "/")
	if len(parts) < 2 || len(parts) > 5 || slices.Contains(parts, "") {
		return readings
	}
	joined := filter
	ids := []*string{&joined.Account, &joined.Org, &joined.Project, &joined.Pipeline, &joined.Execution}
	for i, part := range parts {
		*ids[len(ids)-len(parts)+i] = part
	}
	return append(readings, joined)
}

// Pattern returns the subject prefix of the executions in a filter; an empty id stands for all.
func Pattern(filter recourse.Ref) string {
	tokens := []string{"recourse"}
	for _, id := range []string{filter.Account, filter.Org, filter.Project, filter.Pipeline, filter.Execution} {
		if id == "" {
			tokens = append(tokens, "*")
		} else {
			tokens = append(tokens, recourse.Token(id))
		}
	}
	return strings.Join(tokens, ".")
}

// prefixes returns the executions in the journal whose token is wanted, in order.
func prefixes(ctx context.Context, journal jetstream.Stream, filter recourse.Ref, wanted func(token string) bool) ([]string, error) {
	info, err := journal.Info(ctx, jetstream.WithSubjectFilter(Pattern(filter)+".>"))
	if err != nil {
		return nil, err
	}
	var found []string
	for name := range info.State.Subjects {
		subject, err := recourse.ParseSubject(name)
		if err != nil || !wanted(subject.Prefix[strings.LastIndexByte(subject.Prefix, '.')+1:]) {
			continue
		}
		found = append(found, subject.Prefix)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// one returns the only execution, or says which there are.
func one(ctx context.Context, journal jetstream.Stream, name string, found []string) (string, error) {
	if len(found) == 1 {
		return found[0], nil
	}
	const most = 10
	ambiguous := &AmbiguousError{Name: name, More: max(len(found)-most, 0)}
	for _, prefix := range found[:min(len(found), most)] {
		raw, err := journal.GetLastMsgForSubject(ctx, prefix+".>")
		if err != nil {
			return "", fmt.Errorf("journal of %s: %w", prefix, err)
		}
		msg, err := decode(raw)
		if err != nil {
			return "", err
		}
		ambiguous.Meant = append(ambiguous.Meant, msg.Ref)
	}
	return "", ambiguous
}
