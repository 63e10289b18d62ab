package online

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
)

// waiting takes the name of an intervention or a retry apart: the filter of its execution, and its version.
func (i *ids) waiting(name, what, list string) (recourse.Ref, uint64, error) {
	slash := strings.LastIndexByte(name, '/')
	version, err := strconv.ParseUint(name[slash+1:], 10, 64)
	if slash <= 0 || err != nil || version == 0 {
		return recourse.Ref{}, 0, cli.Usagef("%q is no %s: want EXECUTION/VERSION, as `recourse %s` lists them", name, what, list)
	}
	ref, err := i.named(name[:slash])
	return ref, version, err
}

// nameable is a kind of wait that is named by its execution and version.
type nameable struct {
	what, list string
	// family and detail are the end of the subjects of the records that wait.
	family recourse.Family
	detail string
	// kinds are the details among them that count; nil for all.
	kinds []string
	// pending returns the executions that wait with a version.
	pending func(ctx context.Context, s *session, filter recourse.Ref, version uint64) ([]recourse.Ref, error)
}

var interventionNames = nameable{
	what: "intervention", list: "interventions", family: recourse.FamilyCommand, detail: recourse.VerbPause.String(),
	pending: func(ctx context.Context, s *session, filter recourse.Ref, version uint64) (refs []recourse.Ref, err error) {
		waiting, err := s.waiting(ctx, filter, new(match))
		for _, w := range waiting {
			if w.Intervention == version {
				refs = append(refs, w.ref)
			}
		}
		return refs, err
	},
}

var retryNames = nameable{
	what: "retry", list: "retries", family: recourse.FamilyDecision, detail: "*",
	kinds: []string{recourse.KindRetryScheduled, recourse.KindGroupRetryScheduled, recourse.KindRetryPostponed},
	pending: func(ctx context.Context, s *session, filter recourse.Ref, version uint64) (refs []recourse.Ref, err error) {
		pending, err := s.retrying(ctx, filter, new(match))
		for _, r := range pending {
			if r.Wait == version {
				refs = append(refs, r.ref)
			}
		}
		return refs, err
	},
}

// named finds the execution that a name stands for among those that ever waited so, also where it does not wait any more: the refusal says
// then who came first.
func (s *session) named(ctx context.Context, names nameable, filter recourse.Ref, version uint64) (recourse.Ref, error) {
	if complete(filter) {
		return filter, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestWithin)
	defer cancel()
	stream, err := s.js.Stream(ctx, recourse.StreamJournal)
	if err != nil {
		return filter, explain(recourse.StreamJournal, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix(filter)+"."+string(names.family)+"."+names.detail))
	if err != nil {
		return filter, explain(recourse.StreamJournal, err)
	}
	var found []recourse.Ref
	for subject := range info.State.Subjects {
		if parts, err := recourse.ParseSubject(subject); err != nil || names.kinds != nil && !slices.Contains(names.kinds, parts.Detail) {
			continue
		}
		msg, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // it left the journal just now
		}
		if err != nil {
			return filter, explain(recourse.StreamJournal, err)
		}
		record, err := recourse.DecodeRecord(msg.Data)
		if err != nil {
			return filter, explain(recourse.StreamJournal, err)
		}
		if !slices.Contains(found, record.Ref) {
			found = append(found, record.Ref)
		}
	}
	switch len(found) {
	case 0:
		return filter, fmt.Errorf("execution %s has no %s; `recourse %s` lists what is open", filter.Execution, names.what, names.list)
	case 1:
		return found[0], nil
	}
	return s.oneOf(ctx, names, filter, version, found)
}

// oneOf returns the one of several executions with the same id that waits with the version.
func (s *session) oneOf(ctx context.Context, names nameable, filter recourse.Ref, version uint64, found []recourse.Ref) (recourse.Ref, error) {
	candidates, err := names.pending(ctx, s, filter, version)
	if err != nil {
		return filter, err
	}
	switch len(candidates) {
	case 0:
		candidates = found
	case 1:
		return candidates[0], nil
	}
	var full []string
	for _, c := range candidates {
		full = append(full, answerID(c.String(), version))
	}
	slices.Sort(full)
	return filter, fmt.Errorf("%s stands for several %s; name one of\n  %s", answerID(filter.Execution, version), names.list, strings.Join(full, "\n  "))
}
