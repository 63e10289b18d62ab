package bench

import (
	"context"
	"fmt"

	"github.com/recourse-dev/recourse"
)

// waves is in how many parts mixed failures come. A further attempt comes in the wave after the one before it.
const waves = 5

// mixed measures failures of executions × nodes × attempts at two workers, against one bare loop and against two. Which of the two
// processes gets a failure is the server's choice, so about half of what follows on an execution comes to the one that has not handled
// what was before. Further attempts come only after the ones before are recorded.
func (b *bench) mixed(ctx context.Context) error {
	if b.Failures == 0 {
		return nil
	}
	shape, err := b.shapeOfWaves(ctx)
	if err != nil {
		return err
	}
	b.shape = shape
	m := &Mixed{Throughput: Throughput{Shape: shape}}
	b.result.Mixed = m
	for round := range b.Rounds {
		var seen [3]drained
		for i, by := range []struct {
			kind
			processes int
		}{{theBare, 1}, {theBare, 2}, {theWorker, 2}} {
			load := b.load.mixed(b.run(), b.Failures)
			m.Parts = partsOf(load)
			if seen[i], err = b.drainWaves(ctx, by.kind, load, by.processes); err != nil {
				return err
			}
		}
		one, two, workers := seen[0], seen[1], seen[2]
		m.add(one, workers)
		m.BareTwo = append(m.BareTwo, two.perSecond)
		m.RatioTwo = append(m.RatioTwo, workers.perSecond/two.perSecond)
		m.Conflicts = append(m.Conflicts, workers.conflictShare())
		b.say("round %d: mixed failures: bare %.0f/s, two bare %.0f/s, two workers %.0f/s (%.2f of one bare, %.2f of two, %.1f %% conflicts)", round+1,
			one.perSecond, two.perSecond, workers.perSecond, workers.perSecond/one.perSecond, workers.perSecond/two.perSecond, 100*workers.conflictShare())
	}
	return nil
}

// shapeOfWaves is shapeOf for mixed failures.
func (b *bench) shapeOfWaves(ctx context.Context) (Shape, error) {
	load := b.load.mixed(b.run(), few)
	all := make([]*recourse.Failure, 0, few)
	for _, wave := range load {
		all = append(all, wave...) // an attempt comes after the one before it; one worker keeps the order of an execution
	}
	return b.shapeOf(ctx, nil, all)
}

// mixed makes n failures in waves. An execution has one to four nodes that fail, each up to two waves after the first; one that is retried at once
// fails up to three times more, a wave later each. Within a wave, executions come in no order.
func (l *load) mixed(run string, n int) [][]*recourse.Failure {
	made := make([][]*recourse.Failure, waves)
	for i := 0; n > 0; i++ {
		p := l.Pipelines[l.IntN(len(l.Pipelines))]
		begins := max(l.IntN(waves+2)-2, 0) // more in the first wave, in which nothing follows yet
		for node := range 1 + l.IntN(4) {
			typ, attempts := l.Mix[l.IntN(len(l.Mix))], 1
			if typ == recourse.Timeout {
				attempts += l.IntN(4)
			}
			wave := begins
			if node > 0 {
				wave += l.IntN(3)
			}
			for attempt := 1; attempt <= attempts && wave < waves && n > 0; attempt, wave, n = attempt+1, wave+1, n-1 {
				made[wave] = append(made[wave], l.Failure(p, fmt.Sprintf("%s-%d", run, i), p.Nodes[node], attempt, typ))
			}
		}
	}
	for _, wave := range made {
		l.Shuffle(len(wave), func(i, j int) { wave[i], wave[j] = wave[j], wave[i] })
	}
	return made
}

// Parts is what mixed failures are made of, as parts of 1.
type Parts struct {
	Executions float64 `json:"executions"` // the first of their execution
	Nodes      float64 `json:"nodes"`      // first attempts of further nodes
	Attempts   float64 `json:"attempts"`   // further attempts
}

func partsOf(waves [][]*recourse.Failure) (p Parts) {
	seen, all := make(map[string]bool), 0.0
	for _, wave := range waves {
		for _, f := range wave {
			all++
			switch {
			case f.Attempt > 1:
				p.Attempts++
			case seen[f.Execution]:
				p.Nodes++
			default:
				p.Executions++
			}
			seen[f.Execution] = true
		}
	}
	p.Attempts, p.Nodes, p.Executions = p.Attempts/all, p.Nodes/all, p.Executions/all
	return p
}
