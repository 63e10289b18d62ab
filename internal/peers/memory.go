package peers

// mostKnown is how many executions are remembered at the least, those seen last; at the most twice as many, in about 7 MB.
const mostKnown = 1 << 16

// owner is who handles an execution.
type owner struct {
	*other      // nil stands for this worker
	begun  bool // it has handled something of it
}

// here says whether it is this worker.
func (o owner) here() bool { return o.other == nil }

// isGone says whether it is a worker that is gone.
func (o owner) isGone() bool { return o.other != nil && o.gone }

// memory knows which worker handles which execution.
type memory struct{ young, old map[uint64]owner }

func newMemory() memory {
	return memory{young: make(map[uint64]owner), old: make(map[uint64]owner)}
}

// get returns who handles an execution, which is seen by that.
func (m *memory) get(h uint64) (o owner, known bool) {
	if o, known = m.young[h]; !known {
		if o, known = m.old[h]; known {
			m.put(h, o)
		}
	}
	return o, known
}

// look is get of an execution that is not seen by that.
func (m *memory) look(h uint64) (o owner, known bool) {
	if o, known = m.young[h]; !known {
		o, known = m.old[h]
	}
	return o, known
}

func (m *memory) put(h uint64, o owner) {
	if len(m.young) >= mostKnown {
		m.young, m.old = m.old, m.young
		clear(m.young)
	}
	m.young[h] = o
}

// own returns the executions that this worker handles.
func (m *memory) own() (all []uint64) {
	for h, o := range m.young {
		if o.here() {
			all = append(all, h)
		}
	}
	for h, o := range m.old {
		if _, again := m.young[h]; o.here() && !again {
			all = append(all, h)
		}
	}
	return all
}

// begunBit is set in the hash of an execution of which the worker that claims it has handled something.
const begunBit = 1

// hash is FNV-1a without its last bit, the same in all workers. Two executions with the same hash are handled by the same worker, which does
// no harm.
func hash(prefix string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(prefix) {
		h = (h ^ uint64(prefix[i])) * 1099511628211
	}
	return h &^ begunBit
}
