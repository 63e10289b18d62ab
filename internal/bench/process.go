package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// readyPrefix begins the line by which a process says that it works; the URL of its server follows.
const readyPrefix = "ready "

// stopWithin is how long a process may take to end after it was asked to.
const stopWithin = 30 * time.Second

// Ready prints what the bench waits for when it starts a process. Anything else that is printed first is taken for why it did not start.
func Ready(w io.Writer, url string) { fmt.Fprintln(w, readyPrefix+url) }

// process is a running part of a measurement.
type process struct {
	cmd     *exec.Cmd
	url     string
	started time.Time
	stdin   io.Closer // closed when this process ends, however: then the part ends too
}

// start runs this program with other arguments, and returns once it says that it works. What it logs is written and goes nowhere.
func start(ctx context.Context, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, args...), started: time.Now()}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(stdout).ReadString('\n')
		line <- strings.TrimSpace(text)
		_, _ = io.Copy(io.Discard, stdout)
	}()
	select {
	case text := <-line:
		url, ok := strings.CutPrefix(text, readyPrefix)
		if !ok {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
			return nil, fmt.Errorf("%s did not start: %s", strings.Join(args, " "), text)
		}
		p.url = url
		return p, nil
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		return nil, ctx.Err()
	}
}

// usage is what a process took.
type usage struct {
	cpu time.Duration // user and system
	rss int64         // bytes at the most, 0 where that is not known
}

// stop asks the process to end, and returns what it took.
func (p *process) stop() (usage, error) {
	rss := peakMemory(p.cmd.Process.Pid)
	_ = p.stdin.Close()
	timer := time.AfterFunc(stopWithin, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	err := p.cmd.Wait()
	state := p.cmd.ProcessState
	u := usage{cpu: state.UserTime() + state.SystemTime(), rss: rss}
	return u, err
}

// UntilClosed ends the context it returns when r is at its end: when the process that started this one has asked it to end, or is gone.
func UntilClosed(ctx context.Context, r io.Reader) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, r)
		cancel()
	}()
	return ctx
}
