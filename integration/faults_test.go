package integration

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/consumer"
	"github.com/recourse-dev/recourse/internal/publish"
	"github.com/recourse-dev/recourse/internal/registry"
	"github.com/recourse-dev/recourse/internal/retry/timer"
	"github.com/recourse-dev/recourse/internal/telemetry"
)

// lostAfter is how soon what a dead worker held comes again in these tests.
const lostAfter = time.Second

// spawned is an environment on a server that is a process of its own.
func spawned(t *testing.T) (*server, *env) {
	t.Helper()
	s := startServer(t, t.TempDir(), "127.0.0.1:0")
	return s, newEnv(t, s.url, lostAfter)
}

// load publishes failures of an execution's nodes, as fast as the server takes them.
func (e *env) load(t testing.TB, ref recourse.Ref, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		x := ref
		x.Execution = fmt.Sprintf("%s-%d", ref.Execution, n%100)
		f := failure(x, fmt.Sprintf("s/n%d", n), 1, recourse.Timeout)
		must(e.js.PublishAsync(x.Subject(recourse.FamilyFailure, "delegate"), must(recourse.Encode(&f))(t), jetstream.WithStallWait(patience)))(t)
	}
	select {
	case <-e.js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Fatal("the load was not stored")
	}
}

// dying is a worker of real parts whose connection ends for good at one point of its work, so that nothing it does after counts.
type dying struct {
	*publish.Journal
	*timer.Timers
	die   func()
	point string
	n     int // appends that pass before

	mu   sync.Mutex
	hits int
}

func (d *dying) at(point string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if point != d.point {
		return false
	}
	if d.n--; d.n == -1 {
		d.hits++
		return true
	}
	return false
}

func (d *dying) Append(ctx context.Context, prefix string, rec *recourse.Record, body []byte, header nats.Header) (uint64, error) {
	if d.at("before append") {
		d.die()
	}
	sequence, err := d.Journal.Append(ctx, prefix, rec, body, header)
	if err == nil && d.at("after append") {
		d.die()
	}
	return sequence, err
}

func (d *dying) Arm(ctx context.Context, prefix string, version uint64, dueAt time.Time, header nats.Header) error {
	err := d.Timers.Arm(ctx, prefix, version, dueAt, header)
	if err == nil && d.at("after arm") {
		d.die()
	}
	return err
}

func (d *dying) Cancel(ctx context.Context, prefix string, version uint64) error {
	err := d.Timers.Cancel(ctx, prefix, version)
	if d.at("after cancel") {
		d.die()
	}
	return err
}

func (d *dying) Reject(ctx context.Context, input jetstream.Msg, sequence uint64, reason recourse.DecodeReason, cause error) error {
	err := d.Journal.Reject(ctx, input, sequence, reason, cause)
	if err == nil && d.at("after reject") {
		d.die()
	}
	return err
}

// TestWorkerDies: a worker dies at each point between an input and its acknowledgement, and another takes over.
func TestWorkerDies(t *testing.T) {
	t.Parallel()
	_, e := spawned(t)
	for _, point := range []string{"before append", "after append", "after arm", "after cancel", "after reject"} {
		t.Run(point, func(t *testing.T) {
			account := strings.ReplaceAll(point, " ", "-")
			ref := e.ref(account, "p", "ex")
			e.register(t, ref, pipelineYAML(`[`+on("Timeout", retryThen(1, "1s", "Ignore"))+`, `+on("AllErrors", `{type: Abort}`)+`]`))
			e.fail(t, ref, "s/a", 1, recourse.Timeout)
			e.raw(t, ref.Subject(recourse.FamilyFailure, "delegate"), nil, []byte("{"))
			e.fail(t, ref, "s/b", 1, recourse.Timeout)
			e.fail(t, ref, "s/c", 1, recourse.Verification)
			d := e.runDying(t, point)
			if d.hits != 1 {
				t.Fatalf("the worker passed %q %d times, want 1: the crash window was not hit", point, d.hits)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			w := e.worker(ctx, t)
			h := checkJournal(t, e.js, account)
			if len(h.Rejected) != 1 || len(records(t, h, ref)) < 3 {
				t.Errorf("%d records, %d rejected", len(records(t, h, ref)), len(h.Rejected))
			}
			checkSettled(t, e.js)
			stop()
			if err := <-w; err != nil {
				t.Error(err)
			}
		})
	}
	checkJournal(t, e.js)
}

// runDying runs a worker of real parts until it dies.
func (e *env) runDying(t *testing.T, point string) *dying {
	t.Helper()
	nc := must(client.Connect(t.Context(), client.Settings{Server: e.url}))(t)
	defer nc.Close()
	d := &dying{point: point}
	d.die = func() { nc.Close() }
	ended := make(chan error, 1)
	c, sources := e.parts(t, nc, d)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- c.Run(ctx, ctx, sources...) }()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the worker did not die")
	}
	return d
}

// worker runs a worker of real parts that does not die, until ctx ends.
func (e *env) worker(ctx context.Context, t *testing.T) <-chan error {
	t.Helper()
	nc := must(client.Connect(t.Context(), client.Settings{Server: e.url}))(t)
	t.Cleanup(nc.Close)
	c, sources := e.parts(t, nc, &dying{})
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, context.Background(), sources...) }()
	return ended
}

func (e *env) parts(t *testing.T, nc *nats.Conn, d *dying) (*consumer.Consumer, []consumer.Source) {
	t.Helper()
	js := must(jetstream.New(nc))(t)
	d.Journal = must(publish.NewJournal(nc, publish.Config{}))(t)
	d.Timers = must(timer.New(nc))(t)
	pipelines := must(registry.New(t.Context(), js, recourse.Documented, zap.NewNop()))(t)
	var sources []consumer.Source
	for _, at := range [][2]string{{recourse.StreamInbox, broker.ConsumerInbox}, {recourse.StreamTimers, broker.ConsumerDue}} {
		sources = append(sources, consumer.Durable(nc, must(js.Consumer(t.Context(), at[0], at[1]))(t)))
	}
	return consumer.New(d, d, pipelines, telemetry.New(zap.NewNop()), consumer.Config{RetryDelay: 50 * time.Millisecond}), sources
}

// TestKilledWorkers: workers are killed with kill -9, and stopped for longer than their messages wait, under load.
func TestKilledWorkers(t *testing.T) {
	t.Parallel()
	s, e := spawned(t)
	const account, inputs, rounds = "killed", 800, 4
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", retryThen(1, "1s", "Ignore"))+`]`))
	c := e.orchestrate(t, account)
	for round := range rounds {
		victim := e.spawnWorker(t, s.url)
		var loading sync.WaitGroup
		loading.Go(func() { e.load(t, ref, round*inputs/rounds, (round+1)*inputs/rounds) })
		eventually(t, "the victim decides", func() bool { return strings.Count(victim.log.String(), `"msg":"decided"`) > 20 })
		if round%2 == 0 {
			victim.kill()
		} else { // it sleeps, its messages are handed to another, and it wakes up with them
			_ = victim.Process.Signal(syscall.SIGSTOP)
			other := e.spawnWorker(t, s.url)
			eventually(t, "the other decides", func() bool { return strings.Count(other.log.String(), `"msg":"decided"`) > 20 })
			loading.Wait()
			eventually(t, "what the sleeper held is delivered again", func() bool { return redelivered(t, e.js) > 0 || unsettled(t, e.js) == 0 })
			_ = victim.Process.Signal(syscall.SIGCONT)
			other.kill()
			victim.kill()
		}
		loading.Wait()
	}
	e.spawnWorker(t, s.url)
	eventually(t, "every retry commanded", func() bool { return c.all()[recourse.VerbRetry] >= inputs })
	checkJournal(t, e.js)
	checkSettled(t, e.js)
	if n := c.all(); n[recourse.VerbRetry] != inputs || len(n) != 1 {
		t.Errorf("commands %v, want %d retries", n, inputs)
	}
}

func redelivered(t testing.TB, js jetstream.JetStream) int {
	info := must(js.Consumer(t.Context(), recourse.StreamInbox, broker.ConsumerInbox))(t)
	return info.CachedInfo().NumRedelivered
}

// TestServerKilled: the server is killed with kill -9 while executions wait, some of them due while it is down.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	s, e := spawned(t)
	const account = "server-killed"
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("Timeout", retryThen(1, "1s", "Ignore"))+`, `+on("Connectivity", retryThen(1, "4s", "Ignore"))+`, `+on("AllErrors", ask("2s", "MarkAsSuccess"))+`]`))
	w := e.spawnWorker(t, s.url)
	kinds := []recourse.ErrorType{recourse.Timeout, recourse.Connectivity, recourse.Verification}
	const nodes = 30
	for n := range nodes {
		e.fail(t, ref, fmt.Sprintf("s/n%d", n), 1, kinds[n%len(kinds)])
	}
	eventually(t, "all are decided", func() bool { return len(records(t, checkNow(t, e, account), ref)) >= nodes })
	var reported sync.WaitGroup
	s.restart(t, func() {
		// Reported while there is no server: the delegate tries until there is one.
		for n := range 5 {
			reported.Go(func() { e.fail(t, ref, fmt.Sprintf("s/down%d", n), 1, recourse.Timeout) })
		}
		<-time.After(2 * time.Second)
	})
	reported.Wait()
	c := e.orchestrate(t, account)
	eventually(t, "every wait has ended", func() bool {
		n := c.all()
		return n[recourse.VerbRetry] == nodes*2/3+5 && n[recourse.VerbMarkSuccess] == nodes/3
	})
	h := checkJournal(t, e.js)
	checkSettled(t, e.js)
	recs := records(t, h, ref)
	if want := 2 * (nodes + 5); len(recs) != want {
		t.Errorf("%d records, want %d", len(recs), want)
	}
	c.heard(t, recs, "ex")
	select {
	case <-w.ended:
		t.Errorf("the worker did not outlive the server: %s", tail(w.log.String(), 2000))
	default:
	}
}

// TestTimersNotWritten: the server dies again and again while waits are armed and come due, and the last half of what it wrote of the timers is
// gone with it, though it had acknowledged it. Meanwhile it may have written that workers are done with more than it has.
func TestTimersNotWritten(t *testing.T) {
	t.Parallel()
	s, e := spawned(t)
	const account, inputs, rounds = "unwritten", 2000, 3
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", retryThen(1, "1s", "Ignore"))+`]`))
	e.load(t, ref, 0, inputs)
	var workers []*process
	for range 2 {
		workers = append(workers, e.spawnWorker(t, s.url))
	}
	for round := range rounds {
		eventually(t, "waits on their way", func() bool { return stored(t, e) > uint64((round+1)*inputs/2) })
		s = s.restart(t, func() { loseHalf(t, s.dir, recourse.StreamTimers) })
	}
	eventually(t, "every retry commanded", func() bool { return stored(t, e) >= 2*inputs })
	checkSettled(t, e.js)
	if h := checkJournal(t, e.js); len(h.Journal) != 2*inputs {
		t.Errorf("%d records, want %d", len(h.Journal), 2*inputs)
	}
	again := 0
	for _, w := range workers {
		again += strings.Count(w.log.String(), "an overdue wait was armed again")
	}
	if again == 0 {
		t.Error("no wait was armed again: nothing was lost")
	}
}

// loseHalf cuts off the second half of the last block of a stream.
func loseHalf(t *testing.T, dir, stream string) {
	t.Helper()
	blocks := must(filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", stream, "msgs", "*.blk")))(t)
	if len(blocks) == 0 {
		t.Fatalf("%s has no blocks under %s", stream, dir)
	}
	last := slices.MaxFunc(blocks, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) })
	info := must(os.Stat(last))(t)
	if err := os.Truncate(last, info.Size()/2); err != nil {
		t.Fatal(err)
	}
}

// TestHandOver: of two workers each handles what it has handled before, whoever receives it, until one of them is killed with kill -9 and
// another stops.
func TestHandOver(t *testing.T) {
	t.Parallel()
	s, e := spawned(t)
	const account, executions, inputs, waves = "handed", 100, 100 + 1, 4
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", `{type: Ignore}`)+`]`))
	first, second := e.spawnWorker(t, s.url), e.spawnWorker(t, s.url)
	both := []*process{first, second}
	wave := 0
	report := func() {
		e.load(t, ref, wave*executions, (wave+1)*executions) // a node of each
		// The server deals messages out in turns: after one more, each execution comes to the other worker.
		e.fail(t, e.ref(account, "p", fmt.Sprintf("odd-%d", wave)), "s/a", 1, recourse.Timeout)
		wave++
	}
	for range waves {
		report()
		eventually(t, "the wave is decided", func() bool { return stored(t, e) == uint64(wave*inputs) && unsettled(t, e.js) == 0 })
	}
	decided := make(map[string]map[*process]int) // by execution and worker
	eventually(t, "both logs are written", func() bool {
		clear(decided)
		lines := 0
		for _, w := range both {
			for _, found := range regexp.MustCompile(`"msg":"decided","execution":"([^"]+)"`).FindAllStringSubmatch(w.log.String(), -1) {
				if decided[found[1]] == nil {
					decided[found[1]] = make(map[*process]int)
				}
				decided[found[1]][w]++
				lines++
			}
		}
		return lines == waves*inputs
	})
	shared, by := 0, make(map[*process]int)
	for _, workers := range decided {
		if len(workers) > 1 {
			shared++
		}
		for w, n := range workers {
			by[w] += n
		}
	}
	if len(decided) != executions+waves || shared > executions/4 || by[first] == 0 || by[second] == 0 {
		t.Errorf("%d executions, %d of them handled by both workers; by the first %d, by the second %d", len(decided), shared, by[first], by[second])
	}

	report()
	first.kill() // with what it has in hand, and what is on the way to it
	report()
	eventually(t, "decided without the one that was killed", func() bool { return stored(t, e) == uint64(wave*inputs) && unsettled(t, e.js) == 0 })
	third := e.spawnWorker(t, s.url)
	report()
	_ = second.Process.Signal(syscall.SIGTERM)
	if code := second.exit(t, patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	report()
	if h := checkJournal(t, e.js); len(h.Journal) != wave*inputs {
		t.Errorf("%d records, want %d", len(h.Journal), wave*inputs)
	}
	checkSettled(t, e.js)
	if !strings.Contains(third.log.String(), `"msg":"decided"`) {
		t.Error("the third worker decided nothing")
	}
}

// TestServerKilledInBatches: the server is killed with kill -9 again and again while two workers append in batches.
func TestServerKilledInBatches(t *testing.T) {
	t.Parallel()
	s, e := spawned(t)
	const account, inputs, rounds = "batches", 6000, 3
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("Timeout", retryThen(1, "1h", "Ignore"))+`, `+on("AllErrors", `{type: Ignore}`)+`]`))
	for n := range inputs { // of executions of their own, half of which wait
		x := ref
		x.Execution = fmt.Sprintf("ex-%d", n/2)
		f := failure(x, fmt.Sprintf("s/n%d", n%2), 1, []recourse.ErrorType{recourse.Timeout, recourse.Connectivity}[n/2%2])
		must(e.js.PublishAsync(x.Subject(recourse.FamilyFailure, "delegate"), must(recourse.Encode(&f))(t), jetstream.WithStallWait(patience)))(t)
	}
	select {
	case <-e.js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Fatal("the load was not stored")
	}
	for range 2 {
		e.spawnWorker(t, s.url, "--batches", "on")
	}
	for round := range rounds {
		eventually(t, "batches on their way", func() bool { return stored(t, e) > uint64((round+1)*inputs/(rounds+2)) })
		s = s.restart(t, func() {})
	}
	h := checkJournal(t, e.js)
	checkSettled(t, e.js)
	if len(h.Journal) != inputs {
		t.Errorf("%d records, want %d", len(h.Journal), inputs)
	}
	if !anyInBatch(t, e) {
		t.Error("no record was stored in a batch")
	}
}

// stored is how many records there are, 0 where the server does not answer.
func stored(t testing.TB, e *env) uint64 {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	s, err := e.js.Stream(ctx, recourse.StreamJournal)
	if err != nil {
		return 0
	}
	return s.CachedInfo().State.LastSeq
}

// anyInBatch says whether a record was stored in a batch.
func anyInBatch(t testing.TB, e *env) bool {
	s := must(e.js.Stream(t.Context(), recourse.StreamJournal))(t)
	for sequence := s.CachedInfo().State.LastSeq; sequence >= s.CachedInfo().State.FirstSeq; sequence-- {
		msg, err := s.GetMsg(t.Context(), sequence)
		if err == nil && msg.Header.Get("Nats-Batch-Id") != "" {
			return true
		}
	}
	return false
}

// TestLostReplies: what the server answers is lost and then the connection, so that appends are stored and nobody knows.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	s, e := spawned(t)
	const account, inputs, rounds = "lost", 600, 3
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", `{type: Ignore}`)+`]`))
	p, url := startProxy(t, s.url)
	w := e.spawnWorker(t, url)
	for round := range rounds {
		e.load(t, ref, round*inputs/rounds, (round+1)*inputs/rounds)
		decided := strings.Count(w.log.String(), `"msg":"decided"`)
		eventually(t, "the worker decides", func() bool { return strings.Count(w.log.String(), `"msg":"decided"`) > decided+10 })
		p.loseReplies()
		<-time.After(300 * time.Millisecond)
		p.cut()
	}
	h := checkJournal(t, e.js)
	checkSettled(t, e.js)
	if len(h.Journal) != inputs {
		t.Errorf("%d records, want %d", len(h.Journal), inputs)
	}
}

// ackWithin is how long a server may take to count an acknowledgement that it has received: that happens beside the connection. What nobody
// acknowledged stays for longer.
const ackWithin = 10 * time.Second

// TestGracefulStop: SIGTERM under load. What is in hand is finished, nothing waits until it counts as lost, and the exit code is 0.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), "127.0.0.1:0")
	e := newEnv(t, s.url, 0) // what were left unsettled would not come again before the test is over
	const account, inputs, stops = "graceful", 1500, 2
	ref := e.ref(account, "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", `{type: Ignore}`)+`]`))
	e.load(t, ref, 0, inputs)
	for n := range stops {
		w := e.spawnWorker(t, s.url, "--prefetch", "64")
		eventually(t, "the worker decides", func() bool { return strings.Count(w.log.String(), `"msg":"decided"`) > 50 })
		_ = w.Process.Signal(syscall.SIGTERM)
		if code := w.exit(t, patience); code != 0 {
			t.Fatalf("exit code %d, want 0: %s", code, tail(w.log.String(), 2000))
		}
		var left string
		if !within(ackWithin, func() bool { left = e.held(t); return left == "" }) {
			t.Errorf("stop %d: %s", n, left)
		}
		e.load(t, ref, inputs*(n+1), inputs*(n+2))
	}
	e.spawnWorker(t, s.url)
	checkJournal(t, e.js)
	checkSettled(t, e.js)
}

// held says what the server takes for in the hands of a worker that is gone, "" for nothing. What it was about to hand out when the worker
// stopped asking counts as unsettled too, but comes first to whoever asks next: it is asked for here, and given back.
func (e *env) held(t testing.TB) string {
	durable := must(e.js.Consumer(t.Context(), recourse.StreamInbox, broker.ConsumerInbox))(t)
	info := durable.CachedInfo()
	if info.NumAckPending == 0 {
		return ""
	}
	var given []jetstream.Msg // back when all are here: else one comes twice
	again := 0
	for msg := range must(durable.FetchNoWait(info.NumAckPending))(t).Messages() {
		given = append(given, msg)
		if must(msg.Metadata())(t).Sequence.Stream <= info.Delivered.Stream {
			again++
		}
	}
	for _, msg := range given {
		if err := msg.Nak(); err != nil {
			t.Fatal(err)
		}
	}
	if again == info.NumAckPending {
		return ""
	}
	return fmt.Sprintf("of %d unsettled messages %d come again at once, the others wait until they count as lost", info.NumAckPending, again)
}

// TestSecondSignal: a second SIGTERM ends a worker at once that cannot finish.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s, e := spawned(t)
	w := e.spawnWorker(t, s.url)
	_ = s.Process.Signal(syscall.SIGSTOP)
	defer func() { _ = s.Process.Signal(syscall.SIGCONT) }()
	_ = w.Process.Signal(syscall.SIGTERM)
	eventually(t, "the worker stops", func() bool { return strings.Contains(w.log.String(), "stopping") })
	_ = w.Process.Signal(syscall.SIGTERM)
	if code := w.exit(t, 2*time.Second); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
}

// TestClosedConnection: a connection that is closed for good ends the process, so that whoever started it starts it again.
func TestClosedConnection(t *testing.T) {
	t.Parallel()
	s, e := spawned(t)
	p, url := startProxy(t, s.url)
	w := e.spawnWorker(t, url)
	p.say("-ERR 'Maximum Control Line Exceeded'")
	if code := w.exit(t, patience); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if !strings.Contains(w.log.String(), "connection to the NATS server was closed") {
		t.Errorf("it does not say why: %s", tail(w.log.String(), 2000))
	}
	checkSettled(t, e.js)
}

// TestConsumerDeleted: a worker from which the durable consumer is taken ends, and does not look healthy.
func TestConsumerDeleted(t *testing.T) {
	t.Parallel()
	s, e := spawned(t)
	w := e.spawnWorker(t, s.url)
	if err := e.js.DeleteConsumer(t.Context(), recourse.StreamTimers, broker.ConsumerDue); err != nil {
		t.Fatal(err)
	}
	if code := w.exit(t, patience); code != 1 {
		t.Errorf("exit code %d, want 1: %s", code, tail(w.log.String(), 2000))
	}
}

// TestEmbeddedServerOfWorker: a worker without a server starts one, is ready, and its data outlives kill -9.
func TestEmbeddedServerOfWorker(t *testing.T) {
	t.Parallel()
	binary := must(workerBinary())(t)
	dir := t.TempDir()
	listen, admin := freeAddress(t), freeAddress(t)
	launch := func() *process {
		w := start(t, command(binary, "--data-dir", dir, "--listen", listen, "--admin-listen", admin,
			"--sweep-every", sweepEvery.String(), "--sweep-grace", sweepGrace.String()))
		eventually(t, "ready", func() bool { return status(admin, "/readyz") == http.StatusOK })
		return w
	}
	w := launch()
	if code := start(t, command(binary, "healthcheck", "--admin-listen", admin)).exit(t, patience); code != 0 {
		t.Errorf("healthcheck of a worker that is ready: exit code %d", code)
	}
	e := newEnv(t, "nats://"+listen, 0)
	ref := e.ref("own", "p", "ex")
	e.register(t, ref, pipelineYAML(`[`+on("AllErrors", retryThen(1, "1s", "Ignore"))+`]`))
	e.fail(t, ref, "s/a", 1, recourse.Timeout)
	eventually(t, "decided", func() bool { return len(checkNow(t, e, "own").Journal) == 1 })
	second := start(t, command(binary, "--data-dir", dir, "--listen", freeAddress(t)))
	if code := second.exit(t, patience); code != 3 {
		t.Errorf("a second worker on the same directory: exit code %d, want 3", code)
	}
	w.kill()
	if code := start(t, command(binary, "healthcheck", "--admin-listen", admin)).exit(t, patience); code != 1 {
		t.Errorf("healthcheck of a worker that is not there: exit code %d, want 1", code)
	}
	w = launch()
	eventually(t, "the retry is commanded", func() bool {
		h, err := readHistory(t.Context(), e.js, []string{"own"})
		return err == nil && len(h.Journal) == 2
	})
	checkJournal(t, e.js)
	_ = w.Process.Signal(syscall.SIGINT)
	if code := w.exit(t, patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "jetstream")); err != nil {
		t.Error(err)
	}
}
