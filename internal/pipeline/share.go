package pipeline

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/retry"
)

// Shared holds what the plans of many pipelines have in common, so that it is in memory once: the paths at which strategies stand, what
// they do, their conditions, and whole lists of strategies. It changes what plans take, never what they say. Plans keep what they use
// of it; it forgets all of it once that takes about 8 MiB, and begins anew. Use [NewShared]. It is safe for concurrent use.
type Shared struct {
	most int // bytes

	mu         sync.Mutex
	seed       maphash.Seed
	key        []byte // what actions are looked up by; here so that it is not made for each
	paths      map[string]string
	conditions map[string]*condition
	actions    map[string]decide.ActionSpec
	lists      map[uint64][]decide.Strategy // by a hash of theirs; of those with the same hash one
	bytes      int                          // of all these
	added      int                          // bytes ever
}

// NewShared returns a Shared that holds nothing yet.
func NewShared() *Shared {
	s := &Shared{most: 8 << 20, seed: maphash.MakeSeed()}
	s.forget()
	return s
}

func (s *Shared) forget() {
	s.paths, s.conditions = make(map[string]string), make(map[string]*condition)
	s.actions, s.lists = make(map[string]decide.ActionSpec), make(map[uint64][]decide.Strategy)
	s.bytes = 0
}

func (s *Shared) add(bytes int) {
	s.bytes += bytes + slotBytes
	s.added += bytes
}

// What things take, in bytes; TestBytes holds them to it.
const (
	planBytes      = 128
	nodeBytes      = 56 + 4 // with its position in the order for look-ups
	strategyBytes  = 80
	actionBytes    = 32
	policyBytes    = 48
	backoffBytes   = 32
	questionBytes  = 48
	conditionBytes = 600 // and 20 for each of its bytes
	slotBytes      = 64  // of a map
)

// compile is compileCondition, once for those that are written alike.
func (s *Shared) compile(text string) (*condition, int, error) {
	if s != nil {
		s.mu.Lock()
		c := s.conditions[text]
		s.mu.Unlock()
		if c != nil {
			return c, 0, nil
		}
	}
	text = strings.Clone(text) // the tree's strings are parts of the whole text
	c, err := compileCondition(text)
	if err != nil {
		return nil, 0, err
	}
	bytes := conditionBytes + 20*len(text)
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if known := s.conditions[text]; known != nil {
			return known, 0, nil
		}
		s.conditions[text] = c
		s.add(bytes)
	}
	return c, bytes, nil
}

// share returns lists of strategies that say the same as those given, and take less, and how many bytes they take that nobody had before.
// Where s is nil they are as given.
func (s *Shared) share(lists [][]decide.Strategy) (bytes int) {
	if s == nil {
		for _, list := range lists {
			bytes += strategyBytes * len(list)
			for i := range list {
				bytes += len(list[i].Path) + actionsBytes(&list[i].Do)
			}
		}
		return bytes
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.added
	for i, list := range lists {
		if len(list) > 0 {
			lists[i] = s.list(list)
		}
	}
	bytes = s.added - before
	if s.bytes > s.most {
		s.forget()
	}
	return bytes
}

func (s *Shared) list(list []decide.Strategy) []decide.Strategy {
	var hash maphash.Hash
	hash.SetSeed(s.seed)
	for i := range list {
		list[i].Path, list[i].Do = s.path(list[i].Path), s.action(&list[i].Do)
		maphash.WriteComparable(&hash, list[i])
	}
	// What a strategy points to is shared by now, so that equal ones have the same pointers.
	if known := s.lists[hash.Sum64()]; slices.Equal(known, list) {
		return known
	}
	s.lists[hash.Sum64()] = list
	s.add(strategyBytes * len(list))
	return list
}

func (s *Shared) path(path string) string {
	known, ok := s.paths[path]
	if !ok {
		known = strings.Clone(path)
		s.paths[known] = known
		s.add(len(known))
	}
	return known
}

func (s *Shared) action(do *decide.ActionSpec) decide.ActionSpec {
	if do.Retry == nil && do.OnRetryFailure == nil && do.Intervention == nil {
		return *do // takes no memory of its own
	}
	s.key = appendAction(s.key[:0], do)
	known, ok := s.actions[string(s.key)]
	if !ok {
		known = *do
		s.actions[string(s.key)] = known
		s.add(len(s.key) + actionsBytes(do))
	}
	return known
}

// appendAction writes all that an action says. Different ones give different bytes.
func appendAction(b []byte, do *decide.ActionSpec) []byte {
	if do == nil {
		return append(b, 0)
	}
	b = appendPolicy(append(b, 1, byte(do.Action)), do.Retry)
	b = appendAction(b, do.OnRetryFailure)
	set := do.Intervention
	if set == nil {
		return append(b, 0)
	}
	b = binary.AppendVarint(append(b, 1), int64(set.Timeout))
	b = binary.AppendUvarint(b, uint64(set.Allowed))
	b = append(binary.AppendUvarint(b, uint64(len(set.AnswerBy))), set.AnswerBy...)
	return appendAction(b, set.OnTimeout)
}

func appendPolicy(b []byte, p *retry.Policy) []byte {
	if p == nil {
		return append(b, 0)
	}
	b = binary.AppendVarint(append(b, 1), int64(p.Count))
	if p.Intervals == nil {
		b = append(b, 0)
	} else {
		b = binary.AppendUvarint(append(b, 1), uint64(len(p.Intervals)))
	}
	for _, wait := range p.Intervals {
		b = binary.AppendVarint(b, int64(wait))
	}
	if p.Backoff == nil {
		return append(b, 0)
	}
	b = binary.AppendVarint(append(b, 1), int64(p.Backoff.Initial))
	b = binary.AppendVarint(b, int64(p.Backoff.Max))
	b = binary.BigEndian.AppendUint64(b, math.Float64bits(p.Backoff.Multiplier))
	return binary.BigEndian.AppendUint64(b, math.Float64bits(p.Backoff.Jitter))
}

// actionsBytes is what an action takes beside its own place, with those nested in it.
func actionsBytes(do *decide.ActionSpec) (bytes int) {
	eachAction(do, func(one *decide.ActionSpec) {
		if one != do {
			bytes += actionBytes
		}
		if p := one.Retry; p != nil {
			bytes += policyBytes + 8*len(p.Intervals)
			if p.Backoff != nil {
				bytes += backoffBytes
			}
		}
		if one.Intervention != nil {
			bytes += questionBytes + len(one.Intervention.AnswerBy)
		}
	})
	return bytes
}

// onePiece gives the paths of nodes one piece of memory; a path that the next one begins with is a part of that.
func onePiece(nodes []decide.PlanNode) (bytes int) {
	within := func(i int) bool { return i+1 < len(nodes) && strings.HasPrefix(nodes[i+1].Path, nodes[i].Path) }
	for i := range nodes {
		if !within(i) {
			bytes += len(nodes[i].Path)
		}
	}
	var b strings.Builder
	b.Grow(bytes)
	for i := range nodes {
		if !within(i) {
			b.WriteString(nodes[i].Path)
		}
	}
	text, end := b.String(), bytes
	for i := len(nodes) - 1; i >= 0; i-- {
		n := len(nodes[i].Path)
		if within(i) {
			nodes[i].Path = nodes[i+1].Path[:n]
			continue
		}
		nodes[i].Path = text[end-n : end]
		end -= n
	}
	return bytes
}
