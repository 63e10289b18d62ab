package peers

// mostKnown is how many executions are remembered at the least, those seen last; at the most twice as many, in about 5 MB.
const mostKnown = 1 << 16

// memory knows which worker handles which execution; nil stands for this one.
type memory struct{ young, old map[uint64]*other }

func newMemory() memory {
	return memory{young: make(map[uint64]*other), old: make(map[uint64]*other)}
}

func (m *memory) get(h uint64) (owner *other, known bool) {
	if owner, known = m.young[h]; !known {
		if owner, known = m.old[h]; known {
			m.put(h, owner)
		}
	}
	return owner, known
}

func (m *memory) put(h uint64, owner *other) {
	if len(m.young) >= mostKnown {
		m.young, m.old = m.old, m.young
		clear(m.young)
	}
	m.young[h] = owner
}

// own returns the executions that this worker handles.
func (m *memory) own() (all []uint64) {
	for h, owner := range m.young {
		if owner == nil {
			all = append(all, h)
		}
	}
	for h, owner := range m.old {
		if _, again := m.young[h]; owner == nil && !again {
			all = append(all, h)
		}
	}
	return all
}

// hash is FNV-1a, the same in all workers. Two executions with the same hash are handled by the same worker, which does no harm.
func hash(prefix string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(prefix) {
		h = (h ^ uint64(prefix[i])) * 1099511628211
	}
	return h
}
