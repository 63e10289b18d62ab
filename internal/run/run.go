package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/pipeline"
	"github.com/recourse-dev/recourse/internal/simulate"
	"github.com/recourse-dev/recourse/internal/worker"
)

// Config is what to run, and where.
type Config struct {
	// Ref names the execution. Its pipeline is registered where it is not, or is another one there.
	recourse.Ref
	// File is the name of the YAML, for messages.
	File string
	YAML []byte
	// Vars are the values of variables, over those of the YAML.
	Vars map[string]string
	// Stubs are results in place of steps: NODE=OUTCOMES, Type:NAME=OUTCOMES, *=OUTCOMES.
	Stubs     []string
	Semantics recourse.Semantics
	// Connection is how to reach the workers. Where it names no server and no context, a server and a worker run in this process.
	Connection client.Settings
	// Listen is where that server listens; empty takes a free port of this machine.
	Listen string
	// Dir keeps the streams of that server, and journal and logs of the run. Empty is a directory that is removed in the end.
	Dir string
	// Resume goes on with the execution where it was killed.
	Resume bool
	// Principal is in whose name failures and the end are reported.
	Principal string
	// Tell is called with what happens, by one goroutine at a time.
	Tell func(Event)
}

// ConfigError says that something about the configuration cannot be.
type ConfigError struct{ Err error }

// Error returns what cannot be.
func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns what cannot be.
func (e *ConfigError) Unwrap() error { return e.Err }

const (
	// storedWithin bounds one try to store a report.
	storedWithin = 10 * time.Second
	// endWithin bounds the report of the end after an interruption, and the wait for its record.
	endWithin = 15 * time.Second
	closeWait = 3 * time.Second
)

// lateAfter is how long a decision takes before somebody is told that it is not there. It is a variable for tests.
var lateAfter = 10 * time.Second

// stopInterrupted is why a run was aborted by its context.
const stopInterrupted = "interrupted"

// Run runs a pipeline to its end, and returns what came of it. ctx aborts the execution: its processes are killed, and its end is
// reported. The error is a *[ConfigError], an *[UnsupportedError], or what kept the run from coming to an end: it can be resumed then,
// unless its directory was a temporary one.
func Run(ctx context.Context, cfg Config) (_ *Result, err error) {
	plan, structure, findings := pipeline.LoadStructure(cfg.File, cfg.YAML, pipeline.Options{Semantics: cfg.Semantics})
	if plan == nil || findings.HasErrors() {
		return nil, fmt.Errorf("%s has errors; `recourse validate` shows them", cfg.File)
	}
	stubs, err := parseStubs(plan, cfg.Stubs)
	if err != nil {
		return nil, &ConfigError{err}
	}
	if err := cfg.Validate(); err != nil {
		return nil, &ConfigError{err}
	}
	program, err := newProgram(cfg.Ref, cfg.File, cfg.YAML, structure, cfg.Vars, stubs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.File, err)
	}
	if open := program.open(); len(open) > 0 {
		return nil, &ConfigError{fmt.Errorf("%s: no value for the variable %s; give one with --var or --inputs", cfg.File, strings.Join(open, ", "))}
	}
	unsupported, notes := program.check()
	if len(unsupported) > 0 {
		return nil, &UnsupportedError{unsupported}
	}
	if cfg.Dir == "" {
		if cfg.Resume {
			return nil, &ConfigError{errors.New("to resume, name the directory of the run")}
		}
		temporary, err := os.MkdirTemp("", "recourse-run-")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(temporary)) }()
		cfg.Dir = temporary
	}
	dir := filepath.Join(cfg.Dir, "run", recourse.Token(cfg.Account), recourse.Token(cfg.Org), recourse.Token(cfg.Project), recourse.Token(cfg.Pipeline), recourse.Token(cfg.Execution))
	journal, entries, err := openJournal(dir, cfg.Resume)
	switch {
	case errors.Is(err, errJournal):
		return nil, fmt.Errorf("execution %s: %w; --resume goes on with it, another --execution begins anew", cfg.Execution, err)
	case errors.Is(err, errNoJournal):
		return nil, fmt.Errorf("execution %s: %w; leave --resume out to begin it", cfg.Execution, err)
	case err != nil:
		return nil, err
	}
	r := &run{cfg: cfg, program: program, dir: dir, journal: journal, notes: notes, started: time.Now(), inputs: make(chan input), processes: make(map[recourse.Node]context.CancelFunc)}
	defer func() { err = errors.Join(err, r.journal.close()) }()
	return r.run(ctx, entries)
}

// run is one run: the engine, and what makes its wishes happen.
type run struct {
	cfg     Config
	program *program
	dir     string // of journal and logs
	journal *journal
	notes   []string
	started time.Time
	server  string

	engine   *engine
	quiet    bool // inputs of the journal are applied: nothing happens
	ordered  map[recourse.Node]*task
	header   header
	known    uint64 // version up to which an earlier run went
	life     context.Context
	working  sync.WaitGroup // processes and reports
	inputs   chan input
	delegate *client.Delegate
	reporter *client.Orchestrator // of the end

	// Used by the loop alone:

	processes map[recourse.Node]context.CancelFunc
	fatal     error // of the journal

	telling sync.Mutex
}

// input is what changes a run, or what keeps it from going on.
type input struct {
	entry
	err error
}

func (r *run) run(ctx context.Context, entries []entry) (result *Result, err error) {
	// What goes on after ctx has ended goes on with life.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	r.life = life
	if err := r.check(entries); err != nil {
		return nil, err
	}
	ended := r.replay(entries)
	if last := entries[max(0, len(entries)-1):]; len(last) == 1 && last[0].Over != nil {
		result := r.engine.result()
		r.tell(Event{Kind: KindFinished, Status: result.Outcome, Why: "it had ended before", Stages: result.Stages})
		return result, nil
	}
	stop, err := r.connect(ctx, life)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if len(entries) == 0 {
		if err := r.journal.append(&entry{Begin: &r.header}); err != nil {
			return nil, err
		}
	}
	result, err = r.execute(ctx, entries, ended)
	end()
	r.working.Wait()
	return result, err
}

// check compares an earlier run with this one.
func (r *run) check(entries []entry) error {
	fingerprint, err := r.fingerprint()
	if err != nil {
		return err
	}
	r.header = header{r.cfg.Ref, fingerprint, nuid.Next()}
	if len(entries) == 0 {
		return nil
	}
	begin := entries[0].Begin
	if begin == nil || begin.Ref != r.cfg.Ref || begin.Fingerprint != fingerprint {
		return fmt.Errorf("execution %s was begun otherwise: the pipeline, its variables, its stubs or the semantics are not the same", r.cfg.Execution)
	}
	r.header = *begin
	return nil
}

func (r *run) fingerprint() (string, error) {
	content, err := json.Marshal([]any{string(r.cfg.YAML), r.cfg.Vars, r.cfg.Stubs, r.cfg.Semantics.String()}, json.Deterministic(true))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:8]), nil
}

// connect opens the connection, to a server and a worker of this process where no other is named. What is returned stops them.
func (r *run) connect(ctx, life context.Context) (stop func() error, err error) {
	var stops []func() error
	all := func() (err error) {
		for _, one := range slices.Backward(stops) {
			err = errors.Join(err, one())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, all())
		}
	}()
	settings := r.cfg.Connection
	settings.Name = "recourse-run"
	if settings.Server == "" && settings.Context == "" {
		if settings.Server, err = r.embed(ctx, life, &stops); err != nil {
			return nil, err
		}
	}
	nc, err := client.Connect(ctx, settings,
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				r.note("disconnected: %v", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { r.note("connected again") }))
	if err != nil {
		return nil, err
	}
	r.server = nc.ConnectedUrlRedacted()
	stops = append(stops, func() error {
		nc.SetDisconnectErrHandler(nil) // from here on a closed connection is what is wanted
		nc.Close()
		return nil
	})
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	if r.delegate, err = client.NewDelegate(nc, r.cfg.Principal); err != nil {
		return nil, &ConfigError{err}
	}
	if r.reporter, err = client.NewOrchestrator(nc, client.OrchestratorConfig{Principal: r.cfg.Principal}); err != nil {
		return nil, err
	}
	if err := r.compare(ctx, js); err != nil {
		return nil, err
	}
	if err := r.register(ctx, js); err != nil {
		return nil, err
	}
	following, err := r.follow(ctx, js)
	if err != nil {
		return nil, err
	}
	stops = append(stops, following)
	return all, nil
}

// embed starts a server and a worker in this process.
func (r *run) embed(ctx, life context.Context, stops *[]func() error) (url string, err error) {
	cfg := broker.EmbeddedConfig{Dir: filepath.Join(r.cfg.Dir, "streams"), Listen: r.cfg.Listen}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	server, err := broker.StartEmbedded(cfg)
	var port *broker.PortTakenError
	var dir *broker.DirTakenError
	switch {
	case errors.As(err, &port), errors.As(err, &dir):
		return "", &ConfigError{err}
	case err != nil:
		return "", err
	}
	*stops = append(*stops, func() error {
		stopping, cancel := context.WithTimeout(context.Background(), endWithin)
		defer cancel()
		return server.Shutdown(stopping)
	})
	working, stopWorker := context.WithCancel(life)
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- worker.Run(working, worker.Config{
			Connection: client.Settings{Server: server.URL()}, Semantics: r.cfg.Semantics, Ready: func(url string) { ready <- url },
		})
	}()
	*stops = append(*stops, func() error {
		stopWorker()
		return <-ended
	})
	select {
	case <-ready:
		return server.URL(), nil
	case err := <-ended:
		ended <- nil // for the stop
		return "", err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// register stores the pipeline where it is not stored already.
func (r *run) register(ctx context.Context, js jetstream.JetStream) error {
	stored, _, err := client.GetPipeline(ctx, js, r.cfg.Ref)
	switch {
	case err == nil && string(stored) == string(r.cfg.YAML):
		return nil
	case err != nil && !errors.Is(err, client.ErrPipelineNotFound):
		return err
	}
	_, err = client.PutPipeline(ctx, js, r.cfg.Ref, r.cfg.YAML)
	return err
}

// compare wants the chain of the execution to be there as far as the run knows it, and not to be there where the run is new.
func (r *run) compare(ctx context.Context, js jetstream.JetStream) error {
	stream, err := js.Stream(ctx, recourse.StreamJournal)
	if err != nil {
		return fmt.Errorf("stream %s: %w; start `worker` once, which creates it", recourse.StreamJournal, err)
	}
	last := new(recourse.Record)
	switch msg, err := stream.GetLastMsgForSubject(ctx, r.cfg.Prefix()+".>"); {
	case errors.Is(err, jetstream.ErrMsgNotFound):
	case err != nil:
		return fmt.Errorf("stream %s: %w", recourse.StreamJournal, err)
	default:
		if last, err = recourse.DecodeRecord(msg.Data); err != nil {
			return fmt.Errorf("decision on %s: %w", msg.Subject, err)
		}
	}
	switch {
	case !r.cfg.Resume && last.Version > 0:
		return fmt.Errorf("execution %s has decisions already: choose another --execution", r.cfg.Execution)
	case last.Version < r.known:
		return fmt.Errorf("execution %s was begun elsewhere: it knows %d decisions, and %s has %d of them", r.cfg.Execution, r.known, r.server, last.Version)
	}
	return nil
}

// follow reads the chain of the execution from its beginning, so that nothing is missed wherever the run goes on.
func (r *run) follow(ctx context.Context, js jetstream.JetStream) (stop func() error, err error) {
	under := r.cfg.Prefix() + ".>"
	consumer, err := js.OrderedConsumer(ctx, recourse.StreamJournal, jetstream.OrderedConsumerConfig{FilterSubjects: []string{under}})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", recourse.StreamJournal, err)
	}
	reading, err := consumer.Consume(func(msg jetstream.Msg) {
		record, err := recourse.DecodeRecord(msg.Data())
		if err == nil && record.Subject() != msg.Subject() {
			err = fmt.Errorf("the record is one for %s", record.Subject())
		}
		if err != nil {
			r.put(input{err: fmt.Errorf("decision on %s: %w", msg.Subject(), err)})
			return
		}
		if record.Version <= r.known {
			return
		}
		// What the engine does not look at is not kept a second time.
		record.State, record.Trail = nil, nil
		r.put(input{entry: entry{Record: record}})
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		if !errors.Is(err, jetstream.ErrNoHeartbeat) && !errors.Is(err, nats.ErrConnectionClosed) {
			r.note("decisions: %v", err)
		}
	}))
	if err != nil {
		return nil, err
	}
	return func() error {
		reading.Stop()
		return nil
	}, nil
}

// put hands an input to the loop.
func (r *run) put(in input) {
	select {
	case r.inputs <- in:
	case <-r.life.Done():
	}
}

// execute drives the engine until the execution has ended.
func (r *run) execute(ctx context.Context, entries []entry, ended int) (*Result, error) {
	begin := Event{Kind: KindBegin, Execution: r.cfg.Ref.String(), Server: r.server, Dir: r.dir}
	if len(entries) > 0 {
		begin.Kind, begin.Why = KindResumed, fmt.Sprintf("attempts that have ended are not run again, %d of them", ended)
	}
	r.tell(begin)
	for _, text := range r.notes {
		r.note("%s", text)
	}
	if err := r.goOn(entries); err != nil {
		return nil, err
	}
	done := ctx.Done()
	look := time.NewTicker(lateAfter)
	defer look.Stop()
	late := make(map[string]int) // how often a failure was found undecided
	for !r.engine.finished {
		select {
		case in := <-r.inputs:
			if in.err != nil {
				return nil, in.err
			}
			if err := r.apply(&in.entry); err != nil {
				return nil, err
			}
		case <-look.C:
			for _, f := range r.engine.undecided() {
				if late[f.Key()]++; late[f.Key()] == 2 { // so that it was so for at least lateAfter
					r.note("there is no decision about %s, attempt %d: does a worker run on %s?", f.Node, f.Attempt, r.server)
				}
			}
		case <-done:
			done = nil
			if err := r.apply(&entry{Stop: stopInterrupted}); err != nil {
				return nil, err
			}
		}
	}
	return r.finish()
}

// replay brings the engine to where an earlier run stood: the inputs of its journal, and nothing happens. It returns how many attempts
// have ended.
func (r *run) replay(entries []entry) (ended int) {
	r.engine = newEngine(r.program, r.cfg.Semantics, r)
	r.quiet, r.ordered = true, make(map[recourse.Node]*task)
	defer func() { r.quiet = false }()
	if len(entries) == 0 {
		return 0
	}
	r.engine.begin()
	for i := range entries {
		if entries[i].End != nil {
			ended++
			delete(r.ordered, entries[i].End.Node)
		}
		r.input(&entries[i])
	}
	r.known = r.engine.version
	return ended
}

// goOn does what was left undone when the earlier run was killed.
func (r *run) goOn(entries []entry) error {
	if len(entries) == 0 {
		r.engine.begin()
		return r.fatal
	}
	if n := killLeftovers(r.header.Mark); n > 0 {
		r.note("processes that were left over are killed, %d of them", n)
	}
	started := make(map[recourse.Node]int)
	for i := range entries {
		if s := entries[i].Start; s != nil {
			started[s.Node] = s.Attempt
		}
	}
	ordered := make([]*task, 0, len(r.ordered))
	for _, t := range r.ordered {
		ordered = append(ordered, t)
	}
	slices.SortFunc(ordered, func(a, b *task) int { return strings.Compare(a.Node.String(), b.Node.String()) })
	undecided := r.engine.undecided()
	for _, t := range ordered {
		interrupted := &ended{attemptID: t.attemptID}
		switch {
		case r.engine.killing(t.Node):
			interrupted.Killed = true
		case started[t.Node] != t.Attempt:
			r.begin(t)
			continue
		case !exists(r.succeeded(t.attemptID)): // else it went on after the run was killed, and came to a good end
			interrupted.Failure = &failure{Errors: recourse.ErrorTypesOf(recourse.DelegateRestart), Message: "interrupted: the run was killed meanwhile"}
		}
		if err := r.apply(&entry{End: interrupted}); err != nil {
			return err
		}
	}
	for _, f := range undecided {
		r.report(f)
	}
	return r.fatal
}

// apply keeps an input and gives it to the engine.
func (r *run) apply(e *entry) error {
	if r.fatal == nil && (e.End != nil || e.Record != nil && e.Record.Version > r.engine.version || e.Stop != "") {
		if err := r.journal.append(e); err != nil {
			r.fatal = err
		}
	}
	if r.fatal == nil {
		r.input(e)
	}
	return r.fatal
}

func (r *run) input(e *entry) {
	switch {
	case e.End != nil:
		delete(r.processes, e.End.Node)
		r.engine.attemptEnded(e.End)
	case e.Record != nil:
		r.engine.decided(e.Record)
	case e.Stop != "":
		r.engine.abort(e.Stop)
	}
}

// finish reports the end of the execution, and waits a moment for the workers to take note: the embedded one goes with this process.
func (r *run) finish() (*Result, error) {
	result := r.engine.result()
	ctx, cancel := context.WithTimeout(r.life, endWithin)
	defer cancel()
	event, err := recourse.Finished, error(nil)
	if result.Outcome == simulate.Aborted {
		event, err = recourse.Aborted, r.reporter.Aborted(ctx, r.cfg.Ref, result.Why)
	} else {
		err = r.reporter.Finished(ctx, r.cfg.Ref, result.Outcome.String())
	}
	if err != nil {
		return result, fmt.Errorf("the end of the execution could not be reported: %w", err)
	}
	if err := r.journal.append(&entry{Over: &event}); err != nil {
		return result, err
	}
	timeout := time.After(closeWait)
	for closed := false; !closed; {
		select {
		case in := <-r.inputs:
			closed = in.Record != nil && in.Record.Input.Lifecycle != 0
		case <-timeout:
			closed = true
		}
	}
	r.tell(Event{Kind: KindFinished, Status: result.Outcome, Why: result.Why, Stages: result.Stages})
	return result, nil
}

// begin implements [world].
func (r *run) begin(t *task) {
	if r.quiet {
		r.ordered[t.Node] = t
		return
	}
	if t.stub != nil {
		end := &ended{attemptID: t.attemptID}
		if t.stub.Errors != 0 {
			end.Failure = &failure{Errors: t.stub.Errors, Message: "stub", ExitCode: t.stub.ExitCode}
		}
		r.working.Go(func() { r.put(input{entry: entry{End: end}}) })
		return
	}
	if r.fatal == nil {
		r.fatal = r.journal.append(&entry{Start: &t.attemptID})
	}
	if r.fatal != nil {
		return
	}
	ctx, kill := context.WithCancel(r.life)
	r.processes[t.Node] = kill
	r.working.Go(func() {
		defer kill()
		end := &ended{attemptID: t.attemptID}
		log, err := r.log(t.attemptID)
		if err != nil {
			end.Failure = &failure{Errors: client.Classify(err), Message: err.Error()}
			r.put(input{entry: entry{End: end}})
			return
		}
		p := &process{shell: t.shell, script: t.script, env: append(t.env,
			envRun+"="+r.header.Mark, envExecution+"="+r.cfg.Execution, envNode+"="+t.Node.String(), fmt.Sprintf("%s=%d", envAttempt, t.Attempt)),
			timeout: t.timeout, succeeded: r.succeeded(t.attemptID), log: log, line: func(text string) {
				r.tell(Event{Kind: KindOutput, Node: t.Path, Section: t.Section, Attempt: t.Attempt, Line: &text})
			}}
		if t.exit {
			p.args = []string{"-e"}
		}
		res := p.run(ctx)
		_ = log.Close() // it is for people; the step has ended either way
		end.Failure, end.Killed = res.failure, res.killed
		r.put(input{entry: entry{End: end}})
	})
}

// path is where something of an attempt is kept: below logs, by the path of its node.
func (r *run) path(id attemptID, what string) string {
	parts := []string{r.dir, "logs", id.Section.String()}
	for segment := range strings.SplitSeq(id.Path, "/") {
		parts = append(parts, recourse.Token(segment))
	}
	return fmt.Sprintf("%s.%d.%s", filepath.Join(parts...), id.Attempt, what)
}

// log opens the log of an attempt.
func (r *run) log(id attemptID) (*os.File, error) {
	path := r.path(id, "log")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
}

// succeeded is the file that says that an attempt succeeded.
func (r *run) succeeded(id attemptID) string { return r.path(id, "ok") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// kill implements [world].
func (r *run) kill(n recourse.Node) {
	if kill := r.processes[n]; kill != nil && !r.quiet {
		kill()
	}
}

// report implements [world]. A failure is reported until it is stored: without it there is no decision.
func (r *run) report(f recourse.Failure) {
	if r.quiet {
		return
	}
	r.working.Go(func() {
		for r.life.Err() == nil {
			ctx, cancel := context.WithTimeout(r.life, storedWithin)
			_, err := r.delegate.Report(ctx, f)
			cancel()
			switch {
			case err == nil || r.life.Err() != nil:
				return
			case errors.Is(err, client.ErrDenied), errors.Is(err, nats.ErrConnectionClosed):
				r.put(input{err: fmt.Errorf("report %s, attempt %d: %w", f.Node, f.Attempt, err)})
				return
			}
			r.note("report %s, attempt %d: %v", f.Node, f.Attempt, err)
		}
	})
}

// tell implements [world].
func (r *run) tell(e Event) {
	r.telling.Lock()
	defer r.telling.Unlock()
	if r.quiet || r.cfg.Tell == nil {
		return
	}
	now := time.Now()
	e.At, e.Since = now.UTC(), recourse.Duration(now.Sub(r.started))
	if e.Verb == recourse.VerbPause {
		e.Answer = r.answer(e.Version, e.Allowed)
	}
	r.cfg.Tell(e)
}

// answer is the command line that answers an intervention.
func (r *run) answer(version uint64, allowed recourse.Actions) string {
	return fmt.Sprintf("recourse answer %s/%d ACTION --why TEXT --server %s   # ACTION: %s", r.cfg.Execution, version, r.server, strings.ReplaceAll(allowed.String(), ",", ", "))
}

func (r *run) note(format string, args ...any) {
	r.tell(Event{Kind: KindNote, Why: fmt.Sprintf(format, args...)})
}
