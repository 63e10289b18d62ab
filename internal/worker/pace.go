package worker

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// leastBetween is how many bytes a worker allocates at the least from one garbage collection to the next. It holds little, 10 to 20 MiB, and
// allocates about 15 KB for each failure, so that by default, after as much as it holds, it would collect several times a second: an eighth
// of its processor time.
const leastBetween = 64 << 20

// paceCollections has garbage collections come only after leastBetween, or after as much as is held where that is more, until stop is called.
// It does nothing where somebody has set GOGC or GOMEMLIMIT, and so knows better.
func paceCollections() (stop func()) {
	if os.Getenv("GOGC") != "" || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return func() {}
	}
	p := new(pace)
	p.set()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stopped = true
		debug.SetGCPercent(defaultPercent)
	}
}

const (
	defaultPercent = 100     // of what is held
	leastHeap      = 4 << 20 // what counts as held where less is
)

// pace is set anew after each collection, when it is known how much is held.
type pace struct {
	mu      sync.Mutex
	stopped bool
}

func (p *pace) set() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	held := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(held)
	debug.SetGCPercent(max(defaultPercent, int(defaultPercent*leastBetween/max(held[0].Value.Uint64(), leastHeap))))
	runtime.AddCleanup(new(collected), func(p *pace) { p.set() }, p)
}

// collected is garbage as soon as it is made: its cleanup runs after the next collection. It is large enough to be alone in its memory.
type collected struct{ _ [32]byte }
