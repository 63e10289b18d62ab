package run

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/recourse-dev/recourse"
)

const (
	// killGrace is how long a group has between SIGTERM and SIGKILL.
	killGrace = 2 * time.Second
	// drainWithin bounds the reading of what a group left in its pipes, where something that left the group holds them open.
	drainWithin = time.Second
	// tailSize is how much of the end of an output is kept for the failure.
	tailSize = 4 << 10
	// maxLine is where a line of output is broken.
	maxLine = 16 << 10
)

// The variables that a step finds in its environment. The first one marks what belongs to a run, also after the run was killed.
const (
	envRun       = "RECOURSE_RUN"
	envExecution = "RECOURSE_EXECUTION"
	envNode      = "RECOURSE_NODE"
	envAttempt   = "RECOURSE_ATTEMPT"
)

// process is what one attempt runs.
type process struct {
	shell   string
	args    []string
	script  string
	env     []string      // beside that of this process
	timeout time.Duration // 0 for none
	// succeeded is a file that is made where the script succeeded, whether this process is still there or not; "" for none.
	succeeded string
	log       io.Writer
	line      func(text string)
}

// keeper runs the command behind its first argument and makes that file where the command succeeded. It outlives a SIGTERM, which is for
// the script: a script that takes one in its own way ends in its own time. What the keeper itself would say of that is dropped.
const keeper = `trap : TERM; file=$1; shift; exec 3>&2 2>/dev/null; sh -c 'exec "$@" 2>&3 3>&-' sh "$@"; code=$?; [ $code != 0 ] || : >"$file"; exit $code`

// command is the command line of the process.
func (p *process) command() *exec.Cmd {
	args := append(append([]string{p.shell}, p.args...), "-c", p.script)
	if p.succeeded != "" {
		args = append([]string{"sh", "-c", keeper, "sh", p.succeeded}, args...)
	}
	return exec.Command(args[0], args[1:]...)
}

// run runs the process to its end. ctx ends it before that.
func (p *process) run(ctx context.Context) result {
	cmd := p.command()
	cmd.Env = append(ownEnvironment(), p.env...)
	ownGroup(cmd)
	out, err := p.outputs(cmd)
	if err != nil {
		return result{failure: &failure{Errors: classifyStart(err), Message: err.Error()}}
	}
	if err := cmd.Start(); err != nil {
		out.close()
		return result{failure: &failure{Errors: classifyStart(err), Message: recourse.Redact(err.Error())}}
	}
	out.started()

	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	var timer <-chan time.Time
	if p.timeout > 0 {
		t := time.NewTimer(p.timeout)
		defer t.Stop()
		timer = t.C
	}
	timedOut, killed := false, false
	select {
	case err = <-exited:
	case <-timer:
		timedOut = true
		err = p.end(cmd, exited)
	case <-ctx.Done():
		killed = true
		err = p.end(cmd, exited)
	}
	signalGroup(cmd, os.Kill) // what the shell left behind ends with it
	stdout, stderr := out.drain()
	switch {
	case killed:
		return result{killed: true}
	case timedOut:
		f := failure{Errors: recourse.ErrorTypesOf(recourse.Timeout), Message: fmt.Sprintf("timed out after %s", p.timeout)}
		if lines := lastLines(cmp.Or(stderr, stdout), 1); len(lines) > 0 {
			f.Message = recourse.Redact(f.Message + ": " + lines[0])
		}
		return result{failure: &f}
	case err == nil:
		return result{}
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return result{failure: &failure{Errors: classifyStart(err), Message: recourse.Redact(err.Error())}}
	}
	code := exitCode(exit.ProcessState)
	return result{failure: &failure{Errors: classifyExit(code, p.script, cmp.Or(stderr, stdout)), Message: exitMessage(code, stderr, stdout), ExitCode: &code}}
}

// end asks the group to end, and then does not ask any more.
func (p *process) end(cmd *exec.Cmd, exited <-chan error) error {
	signalGroup(cmd, os.Interrupt)
	select {
	case err := <-exited:
		return err
	case <-time.After(killGrace):
	}
	signalGroup(cmd, os.Kill)
	return <-exited
}

// ownEnvironment is the environment without what is for this program: credentials of the connection among it.
func ownEnvironment() (env []string) {
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "NATS_") && !strings.HasPrefix(entry, "RECOURSE_") {
			env = append(env, entry)
		}
	}
	return env
}

// outputs are the two pipes of a process. They are files of this process, so that waiting for it does not wait for whoever inherited
// them.
type outputs struct {
	out, err *output
}

type output struct {
	read, write *os.File
	lines       *lineWriter
	done        chan struct{}
}

func (p *process) outputs(cmd *exec.Cmd) (*outputs, error) {
	o := &outputs{}
	var mu sync.Mutex // the two share log and line
	for _, which := range [...]**output{&o.out, &o.err} {
		read, write, err := os.Pipe()
		if err != nil {
			o.close()
			return nil, err
		}
		*which = &output{read, write, &lineWriter{mu: &mu, log: p.log, line: p.line}, make(chan struct{})}
	}
	cmd.Stdout, cmd.Stderr = o.out.write, o.err.write
	return o, nil
}

func (o *outputs) close() {
	for _, one := range [...]*output{o.out, o.err} {
		if one != nil {
			_ = one.read.Close()
			_ = one.write.Close()
		}
	}
}

// started reads from now on what the process writes.
func (o *outputs) started() {
	for _, one := range [...]*output{o.out, o.err} {
		_ = one.write.Close()
		go func() {
			defer close(one.done)
			_, _ = io.Copy(one.lines, one.read) // it ends with the pipe, one way or the other
			one.lines.flush()
		}()
	}
}

// drain returns the ends of what was written.
func (o *outputs) drain() (stdout, stderr string) {
	deadline := time.Now().Add(drainWithin)
	for _, one := range [...]*output{o.out, o.err} {
		_ = one.read.SetReadDeadline(deadline)
		<-one.done
		_ = one.read.Close()
	}
	return string(o.out.lines.tail), string(o.err.lines.tail)
}

// lineWriter passes on whole lines and keeps the end.
type lineWriter struct {
	mu      *sync.Mutex
	log     io.Writer
	line    func(string)
	pending []byte
	tail    []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.tail = append(w.tail, b...)
	if len(w.tail) > 2*tailSize {
		w.tail = append(w.tail[:0], w.tail[len(w.tail)-tailSize:]...)
	}
	w.pending = append(w.pending, b...)
	for {
		end := bytes.IndexByte(w.pending, '\n')
		if end < 0 && len(w.pending) < maxLine {
			return len(b), nil
		}
		if end < 0 {
			end = maxLine - 1
		}
		w.pass(w.pending[:end+1])
		w.pending = w.pending[end+1:]
	}
}

func (w *lineWriter) flush() {
	if len(w.pending) > 0 {
		w.pass(append(w.pending, '\n'))
		w.pending = nil
	}
}

func (w *lineWriter) pass(line []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = w.log.Write(line) // a full disk does not fail the step
	w.line(strings.ToValidUTF8(strings.TrimRight(string(line), "\r\n"), "\uFFFD"))
}
