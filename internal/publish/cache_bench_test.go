package publish

import (
	"fmt"
	"testing"

	"github.com/recourse-dev/recourse/internal/decide"
)

// BenchmarkCache takes a head and puts it back, and puts one that is not there into a cache that is full.
func BenchmarkCache(b *testing.B) {
	const size = 10_000
	c := newCache(size)
	prefixes := make([]string, 2*size)
	head := new(decide.Head)
	for i := range prefixes {
		prefixes[i] = fmt.Sprintf("recourse.acme.default.shop.deploy.ex-%08d", i)
	}
	b.Run("again", func(b *testing.B) {
		for _, prefix := range prefixes[:size] {
			c.put(prefix, head)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			prefix := prefixes[i%size]
			if c.take(prefix) == nil {
				b.Fatal("it is not there")
			}
			c.put(prefix, head)
		}
	})
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ { // each is new to the cache: it was used twice its size ago
			prefix := prefixes[i%len(prefixes)]
			if c.take(prefix) != nil && i > len(prefixes) {
				b.Fatal("it is there")
			}
			c.put(prefix, head)
		}
	})
}
