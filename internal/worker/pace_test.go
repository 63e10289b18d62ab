package worker

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestPaceCollections: however much is held, the next garbage collection is due after as much again, and after leastBetween at the least.
func TestPaceCollections(t *testing.T) {
	t.Setenv("GOGC", "")
	stop := paceCollections()
	defer stop()
	// between is what may be allocated until the next collection.
	between := func() (bytes, held uint64) {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.NextGC - stats.HeapAlloc, stats.HeapAlloc
	}
	eventually := func(what string, is func(bytes, held uint64) bool) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for {
			bytes, held := between() // it is set after the collection, by a goroutine of its own
			if is(bytes, held) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: a collection is due after %d bytes, %d are held", what, bytes, held)
			}
			runtime.Gosched()
		}
	}
	near := func(a, b uint64) bool { return a > b/10*8 && a < b/10*12 }
	eventually("little", func(bytes, held uint64) bool { return held < leastBetween/2 && near(bytes, leastBetween) })
	much := make([]byte, 2*leastBetween)
	eventually("much", func(bytes, held uint64) bool { return held > 2*leastBetween && near(bytes, held) })
	runtime.KeepAlive(much)
	much = nil
	eventually("little again", func(bytes, held uint64) bool { return held < leastBetween/2 && near(bytes, leastBetween) })

	stop()
	eventually("stopped", func(bytes, held uint64) bool { return held < leastBetween/2 && bytes < leastBetween/2 })
	t.Setenv("GOGC", "50")
	paceCollections()
	eventually("GOGC is set", func(bytes, held uint64) bool { return bytes < leastBetween/2 })
	t.Setenv("GOGC", "")
	debug.SetMemoryLimit(1 << 30)
	defer debug.SetMemoryLimit(math.MaxInt64)
	paceCollections()
	eventually("a limit is set", func(bytes, held uint64) bool { return bytes < leastBetween/2 })
}
