package publish

import (
	"container/list"
	"sync"

	"github.com/recourse-dev/recourse/internal/decide"
)

// cache keeps the heads that were used last. A head is taken out while somebody works with it, so a change that was not appended is
// never seen by another.
type cache struct {
	mu    sync.Mutex
	size  int
	order *list.List // of *entry, the last used in front
	byKey map[string]*list.Element
}

type entry struct {
	prefix string
	head   *decide.Head
}

func newCache(size int) *cache {
	return &cache{size: size, order: list.New(), byKey: make(map[string]*list.Element)}
}

func (c *cache) take(prefix string) *decide.Head {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[prefix]
	if !ok {
		return nil
	}
	delete(c.byKey, prefix)
	return c.order.Remove(e).(*entry).head
}

func (c *cache) put(prefix string, head *decide.Head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[prefix]; ok {
		e.Value.(*entry).head = head
		c.order.MoveToFront(e)
		return
	}
	c.byKey[prefix] = c.order.PushFront(&entry{prefix, head})
	if c.order.Len() > c.size {
		delete(c.byKey, c.order.Remove(c.order.Back()).(*entry).prefix)
	}
}
