package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// readyPrefix begins the line by which a process says that it works; the URL of its server follows, and of a worker that of its metrics.
const readyPrefix = "ready "

// stopWithin is how long a process may take to end after it was asked to.
const stopWithin = 30 * time.Second

// Ready prints what the bench waits for when it starts a process. Anything else that is printed first is taken for why it did not start.
// metrics is where the process serves its metrics, "" where it has none.
func Ready(w io.Writer, url, metrics string) { fmt.Fprintln(w, readyPrefix+url, metrics) }

// process is a running part of a measurement.
type process struct {
	cmd     *exec.Cmd
	url     string
	metrics string      // URL, "" where there are none
	stdin   io.Closer   // closed when this process ends, however: then the part ends too
	said    chan string // what it printed after that it works: why it ended
}

// start runs this program with other arguments, and returns once it says that it works. What it logs is written and goes nowhere.
func start(ctx context.Context, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, args...), said: make(chan string, 1)}
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
		lines := bufio.NewReader(stdout)
		text, _ := lines.ReadString('\n')
		line <- strings.TrimSpace(text)
		rest, _ := io.ReadAll(lines)
		p.said <- strings.TrimSpace(string(rest))
	}()
	select {
	case text := <-line:
		url, ok := strings.CutPrefix(text, readyPrefix)
		if !ok {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
			return nil, fmt.Errorf("%s did not start: %s", strings.Join(args, " "), text)
		}
		p.url, p.metrics, _ = strings.Cut(url, " ")
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

// timeOf is the processor time that running processes have taken; those that are nil take none.
func timeOf(processes ...*process) (sum time.Duration) {
	for _, p := range processes {
		if p != nil {
			sum += processorTime(p.cmd.Process.Pid)
		}
	}
	return sum
}

// stop asks the process to end, and returns what it took.
func (p *process) stop() (usage, error) {
	rss := peakMemory(p.cmd.Process.Pid)
	_ = p.stdin.Close()
	timer := time.AfterFunc(stopWithin, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	said := <-p.said // before Wait, which would close what it is read from
	err := p.cmd.Wait()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(p.cmd.Args[1:3], " "), err, said)
	}
	state := p.cmd.ProcessState
	u := usage{cpu: state.UserTime() + state.SystemTime(), rss: rss}
	return u, err
}

// conflictsMetric counts the appends that a worker decided again.
const conflictsMetric = "recourse_conflicts_total"

// conflicts reads from the metrics of a process how many appends it decided again; 0 where it has none.
func (p *process) conflicts(ctx context.Context) (uint64, error) {
	if p.metrics == "" {
		return 0, nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.metrics, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	return sumOf(response.Body, conflictsMetric)
}

// sumOf adds up the samples of a counter in what a process serves to Prometheus.
func sumOf(r io.Reader, counter string) (sum uint64, err error) {
	found := false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "} ")
		if name, _, _ = strings.Cut(name, "{"); name != counter {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("metrics: %q: %w", lines.Text(), err)
		}
		sum, found = sum+uint64(n), true
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("metrics: %w", err)
	}
	if !found {
		return 0, fmt.Errorf("metrics: no %s", counter)
	}
	return sum, nil
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
