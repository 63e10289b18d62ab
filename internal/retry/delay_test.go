package retry

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = time.Second

// TestIntervals: the wait before retry i is the i-th, the last one repeats, none means no wait (R8).
func TestIntervals(t *testing.T) {
	for _, row := range []struct {
		intervals []time.Duration
		want      []time.Duration // before retry 1, 2, 3, 4
	}{
		{nil, []time.Duration{0, 0, 0, 0}},
		{[]time.Duration{}, []time.Duration{0, 0, 0, 0}},
		{[]time.Duration{second}, []time.Duration{second, second, second, second}},
		{[]time.Duration{second, 5 * second}, []time.Duration{second, 5 * second, 5 * second, 5 * second}},
		{[]time.Duration{second, 5 * second, 2 * second}, []time.Duration{second, 5 * second, 2 * second, 2 * second}},
		{[]time.Duration{0, second}, []time.Duration{0, second, second, second}},
		{[]time.Duration{-second}, []time.Duration{0, 0, 0, 0}},
		{[]time.Duration{1 << 62, math.MaxInt64}, []time.Duration{1 << 62, math.MaxInt64, math.MaxInt64, math.MaxInt64}},
	} {
		p := &Policy{Count: 3, Intervals: row.intervals}
		for i, want := range row.want {
			if got := Delay(p, i+1, 0, 7); got != want {
				t.Errorf("%v before retry %d: %s, want %s", row.intervals, i+1, got, want)
			}
		}
		for _, i := range []int{0, -1, math.MinInt} {
			if got := Delay(p, i, 0, 7); got != row.want[0] {
				t.Errorf("%v before retry %d: %s, want that before the first", row.intervals, i, got)
			}
		}
		if got := Delay(p, math.MaxInt, 0, 7); got != row.want[3] {
			t.Errorf("%v before the last retry there is: %s", row.intervals, got)
		}
	}
}

// TestBackoff is the worked table of Backoff, and its edges.
func TestBackoff(t *testing.T) {
	for _, row := range []struct {
		b    Backoff
		want []time.Duration
	}{
		{Backoff{10 * second, 2, 60 * second, 0}, []time.Duration{10 * second, 20 * second, 40 * second, 60 * second, 60 * second}},
		{Backoff{10 * second, 2, 40 * second, 0}, []time.Duration{10 * second, 20 * second, 40 * second, 40 * second}},
		{Backoff{10 * second, 2, 39 * second, 0}, []time.Duration{10 * second, 20 * second, 39 * second, 39 * second}},
		{Backoff{10 * second, 1, 60 * second, 0}, []time.Duration{10 * second, 10 * second, 10 * second}},
		{Backoff{10 * second, 2, 10 * second, 0}, []time.Duration{10 * second, 10 * second}},
		{Backoff{10 * second, 2, 5 * second, 0}, []time.Duration{5 * second, 5 * second}}, // the first is cut as well
		{Backoff{2 * second, 1.5, 10 * second, 0}, []time.Duration{2 * second, 3 * second, 4500 * time.Millisecond, 6750 * time.Millisecond, 10 * second}},
		{Backoff{second, 1e300, time.Hour, 0}, []time.Duration{second, time.Hour, time.Hour}},
		{Backoff{math.MaxInt64, 2, math.MaxInt64, 0}, []time.Duration{math.MaxInt64, math.MaxInt64}},
		{Backoff{1 << 62, 3, math.MaxInt64, 0}, []time.Duration{1 << 62, math.MaxInt64}},
	} {
		p := &Policy{Backoff: &row.b, Intervals: []time.Duration{time.Minute}} // intervals do not count beside it
		for i, want := range row.want {
			if got := Delay(p, i+1, 0, 7); got != want {
				t.Errorf("%+v before retry %d: %s, want %s", row.b, i+1, got, want)
			}
		}
		if got := Delay(p, 10_000, 0, 7); got != row.want[len(row.want)-1] {
			t.Errorf("%+v before retry 10000: %s, want %s", row.b, got, row.want[len(row.want)-1])
		}
	}
}

// TestBackoffFormula compares with min(max, initial·multiplier^(i−1)). Each step is cut to a nanosecond, so after i steps the wait is below
// the formula by no more than what i nanoseconds have grown to.
func TestBackoffFormula(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &Backoff{
			Initial:    time.Duration(rapid.IntRange(1, 3600).Draw(t, "initial")) * second,
			Multiplier: rapid.Float64Range(1, 10).Draw(t, "multiplier"),
			Max:        time.Duration(rapid.IntRange(1, 366*24*3600).Draw(t, "max")) * second,
		}
		i := rapid.IntRange(1, 10_000).Draw(t, "i")
		want := math.Min(float64(b.Max), float64(b.Initial)*math.Pow(b.Multiplier, float64(i-1)))
		got := Delay(&Policy{Backoff: b}, i, 0, 0)
		if off := want - float64(got); got < 0 || got > b.Max || off < -want*1e-9-1 || off > want*1e-3+float64(i) {
			t.Fatalf("%+v before retry %d: %s, want %s", *b, i, got, time.Duration(want))
		}
		if i > 1 && Delay(&Policy{Backoff: b}, i-1, 0, 0) > got {
			t.Fatalf("%+v: the wait before retry %d is shorter than that before", *b, i)
		}
	})
}

// TestJitter: in its bounds, never outside [0, Max], the same for the same seed, and spread evenly over seeds.
func TestJitter(t *testing.T) {
	for _, jitter := range []float64{0, 0.1, 0.5, 1} {
		b := &Backoff{Initial: 100 * second, Multiplier: 2, Max: 1000 * second, Jitter: jitter}
		p := &Policy{Backoff: b}
		var buckets [10]int
		const n = 10_000
		for attempt := 1; attempt <= n; attempt++ {
			seed := Seed("recourse.a.o.p.l.e", "prod/deploy", attempt)
			got := Delay(p, 1, 0, seed)
			if again := Delay(p, 1, 0, seed); again != got {
				t.Fatalf("one seed gives %s and %s", got, again)
			}
			low, high := float64(100*second)*(1-jitter), float64(100*second)*(1+jitter)
			if float64(got) < low-1 || float64(got) > high+1 {
				t.Fatalf("jitter %v gives %s", jitter, got)
			}
			if jitter > 0 {
				buckets[min(int((float64(got)-low)/(high-low)*10), 9)]++
			}
			if at := Delay(p, 5, 0, seed); at > b.Max || at < 0 {
				t.Fatalf("jitter %v at the maximum gives %s", jitter, at)
			}
		}
		for i, count := range buckets {
			if jitter > 0 && (count < n/10*8/10 || count > n/10*12/10) {
				t.Errorf("jitter %v: %d of %d in tenth %d", jitter, count, n, i)
			}
		}
	}
}

// TestJitterOverflow: the sum of a wait and its jitter does not leave the range of a duration.
func TestJitterOverflow(t *testing.T) {
	p := &Policy{Backoff: &Backoff{Initial: math.MaxInt64, Multiplier: 2, Max: math.MaxInt64, Jitter: 1}}
	above := 0
	for seed := range uint64(1000) {
		got := Delay(p, 2, 0, seed)
		if got < 0 {
			t.Fatalf("seed %d gives %s", seed, got)
		}
		if got == math.MaxInt64 {
			above++
		}
	}
	if above < 400 || above > 600 {
		t.Errorf("%d of 1000 are cut to the maximum, want about half", above)
	}
	wild := &Policy{Backoff: &Backoff{Initial: second, Multiplier: math.Inf(1), Max: time.Hour, Jitter: 1e300}}
	for seed := range uint64(100) {
		for i := range 4 {
			if got := Delay(wild, i, 0, seed); got < 0 || got > time.Hour {
				t.Fatalf("seed %d gives %s", seed, got)
			}
		}
	}
}

// TestRetryAfter raises a wait, up to the cap, and never lowers one.
func TestRetryAfter(t *testing.T) {
	for _, row := range []struct{ interval, after, want time.Duration }{
		{0, 0, 0}, {0, second, second}, {10 * second, 9 * second, 10 * second}, {10 * second, 10 * second, 10 * second},
		{10 * second, 11 * second, 11 * second}, {10 * second, -second, 10 * second}, {0, -second, 0},
		{0, MaxRetryAfter - 1, MaxRetryAfter - 1}, {0, MaxRetryAfter, MaxRetryAfter}, {0, MaxRetryAfter + 1, MaxRetryAfter},
		{0, math.MaxInt64, MaxRetryAfter}, {2 * time.Hour, math.MaxInt64, 2 * time.Hour}, {0, math.MinInt64, 0},
	} {
		if got := Delay(&Policy{Intervals: []time.Duration{row.interval}}, 1, row.after, 0); got != row.want {
			t.Errorf("interval %s, retryAfter %s: %s, want %s", row.interval, row.after, got, row.want)
		}
		if row.interval == 0 {
			if got := Delay(&Policy{}, 1, row.after, 0); got != row.want {
				t.Errorf("no interval, retryAfter %s: %s, want %s", row.after, got, row.want)
			}
		}
	}
}

// TestSeed: every part counts, and where one part ends does too.
func TestSeed(t *testing.T) {
	seen := map[uint64]string{}
	for _, prefix := range []string{"", "a", "ab", "b"} {
		for _, node := range []string{"", "a", "b", "bc", "c"} {
			for _, attempt := range []int{0, 1, 2, 255, 256, 257, 65536, 1_000_000} {
				of := fmt.Sprintf("%q %q %d", prefix, node, attempt)
				seed := Seed(prefix, node, attempt)
				if other, taken := seen[seed]; taken {
					t.Errorf("%s and %s have the same seed", of, other)
				}
				seen[seed] = of
			}
		}
	}
	if got := Seed("recourse.a.o.p.l.e", "prod/deploy", 1); got != Seed("recourse.a.o.p.l.e", "prod/deploy", 1) {
		t.Error("not a function")
	}
}

func TestDelayAllocations(t *testing.T) {
	p := &Policy{Backoff: &Backoff{Initial: second, Multiplier: 1.01, Max: time.Hour, Jitter: 0.5}}
	if got := testing.AllocsPerRun(100, func() { Delay(p, 100, second, Seed("prefix", "node", 3)) }); got > 0 {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkDelay(b *testing.B) {
	for _, i := range []int{1, 10, 10_000} {
		b.Run(fmt.Sprint(i), func(b *testing.B) {
			p := &Policy{Backoff: &Backoff{Initial: second, Multiplier: 1.0001, Max: time.Hour, Jitter: 0.5}}
			b.ReportAllocs()
			for b.Loop() {
				Delay(p, i, 0, 7)
			}
		})
	}
}
