package decide

import (
	"cmp"
	"slices"
	"strings"

	"github.com/recourse-dev/recourse"
)

// stateLimit is how large a state may grow before only every stateEvery-th record carries it.
const (
	stateLimit = 8 << 10 // bytes, estimated
	stateEvery = 64      // records
	// stateMax is the largest state that a record carries at all: beside it the record has a message and a trail, and must fit what a server
	// takes (1 MiB). Beyond it the last state that fitted stays the base, and reading the head costs a read for each record since.
	stateMax = 256 << 10 // bytes, estimated
)

// Seal folds the record into the head's state, adds the state to the record and returns its encoding, ready to be appended. The
// head is changed: where the append fails, the caller drops it and reads the journal again.
func Seal(rec *recourse.Record, head *Head) ([]byte, error) { return SealTo(nil, rec, head) }

// SealTo is [Seal] that appends the encoding to dst.
func SealTo(dst []byte, rec *recourse.Record, head *Head) ([]byte, error) {
	Fold(&head.State, rec)
	rec.State, rec.StateBase = nil, 0
	size := stateSize(&head.State)
	if head.Base == 0 || size <= stateLimit || rec.Version%stateEvery == 0 && size <= stateMax {
		rec.State = &head.State
	} else {
		rec.StateBase = head.Base
	}
	body, err := recourse.AppendRecord(dst, rec)
	head.Ref, head.Version = rec.Ref, rec.Version
	return body, err
}

// Appended tells the head the sequence under which its last record stands in the stream.
func (h *Head) Appended(rec *recourse.Record, sequence uint64) {
	h.Sequence = sequence
	if rec.State != nil {
		h.Base = sequence
	}
}

// stateSize estimates the encoded size of a state. It depends on the state alone, so that folding a chain again gives the same records.
func stateSize(s *recourse.State) int {
	size := 256*len(s.Waits) + 128*(len(s.Groups)+len(s.Covers)+len(s.Interventions)) + 96*(len(s.Answers)+len(s.Ended))
	for i := range s.Nodes {
		size += 32 + len(s.Nodes[i].Path) + 56*len(s.Nodes[i].Seen)
	}
	return size
}

// Fold brings a state from one record to the next. It looks at the record alone, not at the plan.
func Fold(s *recourse.State, rec *recourse.Record) {
	if s.Pipeline.Revision == 0 {
		s.Pipeline = rec.Pipeline
	}
	s.Failed = s.Failed || rec.Effect.PipelineFailed
	switch in := &rec.Input; {
	case in.Failure != nil:
		foldFailure(s, rec)
	case in.Answer != nil, in.Control != nil:
		s.Answers = append(s.Answers, recourse.SeenInput{Key: in.Key, Version: rec.Version, Digest: in.Digest})
	case in.Lifecycle != 0:
		s.Ended = append(s.Ended, recourse.SeenInput{Key: in.Key, Version: rec.Version})
	}
	if rec.Ends != 0 {
		endWait(s, rec.Ends, rec)
	}
	for _, version := range rec.Cancelled {
		endWait(s, version, rec)
	}
	switch rec.Command.Verb {
	case recourse.VerbRetryGroup:
		restartGroup(s, recourse.Node{Path: rec.Command.Scope, Section: rec.Section})
	case recourse.VerbRollbackGroup, recourse.VerbRollbackStage, recourse.VerbRollbackPipeline, recourse.VerbAbort:
		s.Covers = append(s.Covers, recourse.Cover{Scope: rec.Command.Scope, Action: rec.Action, Version: rec.Version})
	}
	if rec.Wait.Version != 0 {
		s.Waits = append(s.Waits, rec.Wait)
	}
}

func foldFailure(s *recourse.State, rec *recourse.Record) {
	seen := recourse.SeenAttempt{Attempt: rec.Attempt, Version: rec.Version, Digest: rec.Input.Digest}
	i, found := searchNode(s, rec.Node)
	if !found {
		n := recourse.NodeState{Node: rec.Node, Attempt: rec.Attempt, Base: base(s, rec.Node, rec.Attempt)}
		s.Nodes = slices.Insert(s.Nodes, i, n)
	}
	n := &s.Nodes[i]
	n.Seen = append(n.Seen, seen)
	if rec.Reason == recourse.Stale || rec.Reason == recourse.Conflicting {
		return
	}
	n.Base = base(s, rec.Node, rec.Attempt)
	n.Attempt, n.Rebase = rec.Attempt, false
}

// restartGroup counts a retry of a group when it is carried out, and starts the counters inside it again (R8). A rollback of a group inside it is over
// with that: the next failure there is one of the new run.
func restartGroup(s *recourse.State, group recourse.Node) {
	at, found := searchGroup(s, group)
	if !found {
		s.Groups = slices.Insert(s.Groups, at, recourse.GroupState{Path: group.Path, Section: group.Section})
	}
	s.Groups[at].Retries++
	s.Groups[at].Restarted = true
	for i := range s.Groups {
		if g := &s.Groups[i]; inside(recourse.Node{Path: g.Path, Section: g.Section}, group) {
			g.Retries = 0
		}
	}
	for i := range s.Nodes {
		if inside(s.Nodes[i].Node, group) {
			s.Nodes[i].Rebase = true
		}
	}
	s.Covers = slices.DeleteFunc(s.Covers, func(c recourse.Cover) bool {
		return recourse.Node{Path: c.Scope}.Within(group.Path)
	})
}

// endWait removes a wait that came due, was answered or is superseded.
func endWait(s *recourse.State, version uint64, rec *recourse.Record) {
	for i := range s.Waits {
		if s.Waits[i].Version != version {
			continue
		}
		closed := recourse.ClosedIntervention{ID: version, Version: rec.Version, At: rec.At, Reason: recourse.Superseded}
		if version == rec.Ends {
			closed.Reason, closed.Action = recourse.InterventionTimedOut, rec.Action
			if a := rec.Input.Answer; a != nil {
				closed.Reason, closed.Who = recourse.HumanDecision, a.Who
			}
			if c := rec.Input.Control; c != nil {
				closed.Reason, closed.Who, closed.Do = recourse.HumanDecision, c.Who, c.Do
			}
		}
		if s.Waits[i].Kind == recourse.WaitIntervention || closed.Do != 0 {
			s.Interventions = append(s.Interventions, closed)
		}
		s.Waits = slices.Delete(s.Waits, i, i+1)
		return
	}
}

// inside reports whether a node stands in a group without being it. What stands under steps is not inside a group of a rollbackSteps
// that has the same identifier.
func inside(n, group recourse.Node) bool {
	return n.Path != group.Path && n.Within(group.Path) && n.Section >= group.Section
}

func findNode(s *recourse.State, n recourse.Node) *recourse.NodeState {
	if i, found := searchNode(s, n); found {
		return &s.Nodes[i]
	}
	return nil
}

func searchNode(s *recourse.State, n recourse.Node) (int, bool) {
	return slices.BinarySearchFunc(s.Nodes, n, func(e recourse.NodeState, n recourse.Node) int { return compareNodes(e.Node, n) })
}

func findGroup(s *recourse.State, n recourse.Node) *recourse.GroupState {
	if i, found := searchGroup(s, n); found {
		return &s.Groups[i]
	}
	return nil
}

func searchGroup(s *recourse.State, n recourse.Node) (int, bool) {
	return slices.BinarySearchFunc(s.Groups, n, func(e recourse.GroupState, n recourse.Node) int {
		return compareNodes(recourse.Node{Path: e.Path, Section: e.Section}, n)
	})
}

func compareNodes(a, b recourse.Node) int {
	if c := strings.Compare(a.Path, b.Path); c != 0 {
		return c
	}
	return cmp.Compare(a.Section, b.Section)
}

func findWait(s *recourse.State, version uint64) *recourse.Wait {
	for i := range s.Waits {
		if s.Waits[i].Version == version {
			return &s.Waits[i]
		}
	}
	return nil
}
