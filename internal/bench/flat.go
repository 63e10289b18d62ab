package bench

import (
	"context"
	"fmt"

	"github.com/recourse-dev/recourse"
)

// flatSteps is the steps of each pipeline.
const flatSteps = 50

// flat measures what one failure costs a worker with more and more executions in the journal, and with more and more pipelines in use. A
// worker has compiled its pipelines before it is measured.
func (b *bench) flat(ctx context.Context) error {
	if b.Flat == 0 {
		return nil
	}
	most := max(b.Flat/100, 1)
	b.say("registering %d pipelines of %d steps", most, flatSteps)
	all, err := newLoad(ctx, b.js, b.Seed+1, most, flatSteps, flatSteps)
	if err != nil {
		return err
	}
	for _, executions := range []int{b.Flat / 1000, b.Flat / 10, b.Flat} {
		if err := b.fill(ctx, executions-b.executions, all.commanded); err != nil {
			return err
		}
		b.executions = max(b.executions, executions)
		n, from := max(b.Flat/50, 2), len(b.result.Flat)
		for _, pipelines := range []int{1, max(most/100, 1), most} {
			some := *all.Load
			some.Pipelines = all.Pipelines[:pipelines]
			f, err := b.warm(ctx, &load{&some}, n)
			if err != nil {
				return err
			}
			b.result.Flat = append(b.result.Flat, f)
			b.say("%d executions, %d pipelines: %.0f/s, CPU seconds per 10,000: worker %.2f, server %.2f; %d MiB",
				f.Executions, f.Pipelines, f.PerSecond, f.WorkerCPU, f.ServerCPU, f.RSS>>20)
		}
		bare, err := b.measure(ctx, theBare, all.commanded(b.run(), n), 1)
		if err != nil {
			return err
		}
		b.executions += n
		for i := range b.result.Flat[from:] {
			f := &b.result.Flat[from+i]
			f.Bare, f.Ratio = bare.perSecond, f.PerSecond/bare.perSecond
		}
	}
	return nil
}

// warm has a worker handle a failure of each pipeline, and measures n failures after that.
func (b *bench) warm(ctx context.Context, load *load, n int) (Flat, error) {
	f := Flat{Executions: b.executions, Pipelines: len(load.Pipelines)}
	d, err := b.drainWaves(ctx, theWorker, [][]*recourse.Failure{load.Each(b.run()), load.commanded(b.run(), n)}, 1)
	if err != nil {
		return f, fmt.Errorf("%d executions, %d pipelines: %w", f.Executions, f.Pipelines, err)
	}
	b.executions += len(load.Pipelines) + n
	last := d.waves[len(d.waves)-1]
	f.PerSecond, f.WorkerCPU, f.ServerCPU, f.RSS = last.perSecond, last.per10k(last.usage.cpu), last.per10k(last.server), d.usage.rss
	return f, nil
}
