// Package retry says how long a retry waits (R8). It is a pure function of the policy, the retry and the ids: no clock, no
// chance, no state. What keeps the wait durable stands in internal/retry/timer.
package retry

import (
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Policy is how often and after which waits a node or group is run again.
type Policy struct {
	// Count is the most retries, 0 for none. It counts retries, not attempts.
	Count int
	// Intervals are the waits before retry 1, 2, 3 …; the last one repeats, none means no wait. Not used beside Backoff.
	Intervals []time.Duration
	// Backoff computes the waits in place of Intervals; nil where it does not.
	Backoff *Backoff
}

// Backoff is an exponential policy: the wait before retry i (1-based) is min(Max, Initial·Multiplier^(i−1)), spread by Jitter.
//
//	Initial 10s, Multiplier 2, Max 60s:  10s 20s 40s 60s 60s …
type Backoff struct {
	Initial    time.Duration // wait before the first retry, > 0
	Multiplier float64       // ≥ 1
	Max        time.Duration // no wait is longer, ≥ Initial
	Jitter     float64       // 0 to 1: the wait is spread evenly over wait·(1 ± Jitter), and never leaves [0, Max]
}

// MaxRetryAfter is the longest wait that a failure's own retryAfter can ask for.
const MaxRetryAfter = time.Hour

// Delay returns the wait before retry i (1-based; what is below counts as 1). retryAfter is what the failure itself asks for: it
// raises the wait, up to [MaxRetryAfter]. The seed makes the jitter: equal seeds give equal waits, so whoever computes the wait
// of an execution's node and attempt again gets the same one. The result is at least 0.
func Delay(p *Policy, i int, retryAfter time.Duration, seed uint64) time.Duration {
	var wait time.Duration
	switch {
	case p.Backoff != nil:
		wait = jitter(exponential(p.Backoff, i), p.Backoff, seed)
	case len(p.Intervals) > 0:
		wait = p.Intervals[min(max(i, 1), len(p.Intervals))-1]
	}
	return max(wait, min(retryAfter, MaxRetryAfter), 0)
}

// exponential asks a fresh backoff.ExponentialBackOff for its i-th interval. The library's instance has traps that this use
// avoids: its first interval ignores the maximum, a maximum of 0 never waits, its randomization leaves the maximum and draws from
// a global source, and it stops after an elapsed time that starts when it is made.
func exponential(b *Backoff, i int) time.Duration {
	series := backoff.ExponentialBackOff{
		InitialInterval: min(b.Initial, b.Max),
		Multiplier:      b.Multiplier,
		MaxInterval:     b.Max,
		Stop:            backoff.Stop,
		Clock:           stopped{},
	}
	series.Reset()
	wait := series.NextBackOff()
	for ; i > 1 && wait < b.Max; i-- {
		next := series.NextBackOff()
		if next == wait {
			break // the multiplier does not raise it any more
		}
		wait = next
	}
	return min(wait, b.Max)
}

// stopped is a clock that stands still: the series is asked for intervals, not for elapsed time.
type stopped struct{}

func (stopped) Now() time.Time { return time.Time{} }

func jitter(wait time.Duration, b *Backoff, seed uint64) time.Duration {
	if b.Jitter <= 0 {
		return wait
	}
	// 53 bits of the mixed seed make an even number in [0, 1), then in [-1, 1).
	spread := float64(mix(seed)>>11)/(1<<53)*2 - 1
	delta := float64(wait) * b.Jitter * spread
	if delta >= float64(b.Max-wait) {
		return b.Max // before the sum could leave the range of a duration
	}
	return max(wait+time.Duration(max(delta, -float64(wait))), 0)
}

// mix is the finalizer of splitmix64 (Steele, Lea, Flood 2014): close seeds give far apart values.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Seed derives the seed of a node's retry from its execution's subject prefix, its path and the attempt that failed (FNV-1a).
func Seed(prefix, node string, attempt int) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range [...]string{prefix, node} {
		for i := 0; i < len(s); i++ {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
		h = (h ^ 0xff) * 1099511628211 // no byte of UTF-8: keeps the parts apart
	}
	for ; attempt > 0; attempt >>= 8 {
		h = (h ^ uint64(attempt&0xff)) * 1099511628211
	}
	return h
}
