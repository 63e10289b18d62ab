package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// readyPrefix begins the line by which a process says that it works; the id of the process that does the work and an address follow.
const readyPrefix = "ready "

// stopWithin is how long a process may take to end after it was asked to.
const stopWithin = time.Minute

// serverVariable is the variable of the environment with the address of the server, which can have a password in it.
const serverVariable = "BENCH_PEERS_SERVER"

func ready(pid int, url string) { fmt.Printf("%s%d %s\n", readyPrefix, pid, url) }

// process is a running server or worker. It ends when its standard input does: so also when this process is killed.
type process struct {
	cmd   *exec.Cmd
	pid   int // of what does the work: the process itself, or the server that it keeps
	url   string
	stdin io.Closer
}

// start runs this program with other arguments, and returns once it says that it works.
func start(ctx context.Context, server string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, args...)}
	p.cmd.Env = append(os.Environ(), serverVariable+"="+server)
	p.cmd.SysProcAttr = ownGroup() // an interrupt at the terminal is for the bench, which then ends its processes one after another
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
	lines := make(chan string, 1)
	go func() {
		r := bufio.NewReader(stdout)
		text, _ := r.ReadString('\n')
		if !strings.HasPrefix(text, readyPrefix) { // why it did not start, maybe over several lines
			rest, _ := io.ReadAll(r)
			text += string(rest)
		}
		lines <- strings.TrimSpace(text)
		_, _ = io.Copy(io.Discard, r)
	}()
	select {
	case text := <-lines:
		rest, ok := strings.CutPrefix(text, readyPrefix)
		pid, url, _ := strings.Cut(rest, " ")
		if p.pid, err = strconv.Atoi(pid); !ok || err != nil {
			_, _ = p.stop()
			return nil, fmt.Errorf("%s did not start: %s", strings.Join(args, " "), text)
		}
		p.url = url
		return p, nil
	case <-ctx.Done():
		_, _ = p.stop()
		return nil, ctx.Err()
	}
}

// usage is what a process took.
type usage struct {
	cpu time.Duration // user and system
	rss int64         // bytes at the most, 0 where that is not known
}

// stop asks the process to end, waits for that, and returns what it took.
func (p *process) stop() (usage, error) {
	rss := peakMemory(p.cmd.Process.Pid)
	_ = p.stdin.Close()
	timer := time.AfterFunc(stopWithin, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	if err := p.cmd.Wait(); err != nil {
		return usage{}, fmt.Errorf("%s: %w", strings.Join(p.cmd.Args[1:], " "), err)
	}
	state := p.cmd.ProcessState
	return usage{cpu: state.UserTime() + state.SystemTime(), rss: rss}, nil
}

// untilClosed ends the context it returns when standard input is at its end.
func untilClosed() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx
}
