package client

import "container/list"

// memory remembers the newest handled version of each of the executions handled last.
type memory struct {
	size  int
	index map[string]*list.Element
	order *list.List // of *memorized, the one handled last in front
}

type memorized struct {
	prefix  string
	version uint64
}

func newMemory(size int) *memory {
	return &memory{size: size, index: make(map[string]*list.Element), order: list.New()}
}

// get returns the newest handled version, 0 where none is remembered.
func (m *memory) get(prefix string) uint64 {
	if e, ok := m.index[prefix]; ok {
		return e.Value.(*memorized).version
	}
	return 0
}

// put remembers a handled version, unless a newer one is remembered, and forgets the execution handled longest ago.
func (m *memory) put(prefix string, version uint64) {
	if e, ok := m.index[prefix]; ok {
		known := e.Value.(*memorized)
		known.version = max(known.version, version)
		m.order.MoveToFront(e)
		return
	}
	m.index[prefix] = m.order.PushFront(&memorized{prefix, version})
	if m.order.Len() > m.size {
		oldest := m.order.Back()
		m.order.Remove(oldest)
		delete(m.index, oldest.Value.(*memorized).prefix)
	}
}
