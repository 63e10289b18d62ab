package bench

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/bench/workload"
)

// streams returns a bench that can look at inbox and journal.
func streams(t *testing.T, nc *nats.Conn, js jetstream.JetStream) *bench {
	t.Helper()
	b := &bench{nc: nc, js: js}
	var err error
	if b.inbox, err = js.Stream(t.Context(), recourse.StreamInbox); err != nil {
		t.Fatal(err)
	}
	if b.journal, err = js.Stream(t.Context(), recourse.StreamJournal); err != nil {
		t.Fatal(err)
	}
	return b
}

// loops runs bare loops until nothing is left in the inbox.
func (b *bench) loops(t *testing.T, n int, shape Shape, since uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, n)
	for range n {
		nc, err := nats.Connect(b.nc.ConnectedUrl())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		go func() { ended <- Bare(ctx, nc, shape, since, func() {}) }()
	}
	if err := b.settled(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	for range n {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}

// subjects returns the subjects of the journal, by execution.
func (b *bench) subjects(t *testing.T) map[string]map[string]uint64 {
	t.Helper()
	info, err := b.journal.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]map[string]uint64{}
	for text, messages := range info.State.Subjects {
		subject, err := recourse.ParseSubject(text)
		if err != nil {
			t.Fatal(err)
		}
		if by[subject.Prefix] == nil {
			by[subject.Prefix] = map[string]uint64{}
		}
		by[subject.Prefix][subject.Detail] = messages
	}
	return by
}

// TestBare: one message for each failure, chained within an execution, also after another loop, and as many subjects as it was told.
func TestBare(t *testing.T) {
	nc, js := server(t)
	l, err := newLoad(t.Context(), js, 7, 2, workload.FewestSteps, workload.MostSteps)
	if err != nil {
		t.Fatal(err)
	}
	b := streams(t, nc, js)
	const n, size = 500, 1234
	first := l.First("run", n)
	for i, failures := range [][]*recourse.Failure{first, l.second(first), l.second(first)} {
		if err := publish(t.Context(), nc, failures); err != nil {
			t.Fatal(err)
		}
		b.loops(t, 1, Shape{Size: size, Fresh: 0.25}, uint64(i))
		d, err := b.rate(t.Context(), uint64(i*n), n)
		if err != nil || d.perSecond <= 0 || d.n != n {
			t.Fatalf("%v, %v", d, err)
		}
		if _, err := b.rate(t.Context(), uint64(i*n), n+1); err == nil {
			t.Error("a missing record is not seen")
		}
		msg, err := b.journal.GetMsg(t.Context(), uint64(i*n+1))
		if err != nil || len(msg.Data) != size {
			t.Fatalf("%v, %v", msg, err)
		}
	}
	executions, later, fresh := 0, 0, 0
	for _, subjects := range b.subjects(t) {
		executions++
		for detail, messages := range subjects {
			later += int(messages)
			if detail != "0" {
				fresh++
			}
		}
		later--
	}
	if want := later / 4; later != 3*n-executions || fresh < want-3 || fresh > want+3 {
		t.Errorf("%d of %d later records of %d executions have a subject of their own", fresh, later, executions)
	}
}

// TestBareAmongOthers: two loops share what comes, and neither is stopped by what the other appended.
func TestBareAmongOthers(t *testing.T) {
	nc, js := server(t)
	l, err := newLoad(t.Context(), js, 7, 2, workload.FewestSteps, workload.MostSteps)
	if err != nil {
		t.Fatal(err)
	}
	b := streams(t, nc, js)
	failures := l.First("run", 300)
	for range 3 { // the same executions again and again, in an order that sets the loops against each other
		failures = append(failures, l.second(failures[:300])...)
	}
	if err := publish(t.Context(), nc, failures); err != nil {
		t.Fatal(err)
	}
	b.loops(t, 2, Shape{Size: 100, Fresh: 1}, 0)
	if d, err := b.rate(t.Context(), 0, len(failures)); err != nil || d.n != len(failures) {
		t.Fatalf("%v, %v", d, err)
	}
	for prefix, subjects := range b.subjects(t) {
		for detail, messages := range subjects {
			if messages != 1 {
				t.Errorf("%s: %d records follow on %s", prefix, messages, detail)
			}
		}
	}
}

// TestBareRefused: what fails for another reason ends the loop, at the client and at the server.
func TestBareRefused(t *testing.T) {
	nc, js := server(t)
	l, err := newLoad(t.Context(), js, 7, 2, workload.FewestSteps, workload.MostSteps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	bare := func(size int) {
		t.Helper()
		if err := publish(t.Context(), nc, l.First(fmt.Sprint("run", size), 400)); err != nil {
			t.Fatal(err)
		}
		err := Bare(ctx, nc, Shape{Size: size}, 0, func() {})
		if err == nil || !strings.Contains(err.Error(), "append") || ctx.Err() != nil {
			t.Errorf("got %v", err)
		}
	}
	bare(1 << 20) // with headers more than a message may be
	if err := js.DeleteStream(t.Context(), recourse.StreamJournal); err != nil {
		t.Fatal(err)
	}
	bare(1)
}

func TestLastSequence(t *testing.T) {
	refused := func(code jetstream.ErrorCode, text string) error {
		return fmt.Errorf("nats: %w", &jetstream.APIError{ErrorCode: code, Description: text})
	}
	for _, tc := range []struct {
		err   error
		last  uint64
		known bool
	}{
		{refused(10071, "wrong last sequence: 1234"), 1234, true},
		{refused(10071, "wrong last sequence: 0"), 0, true},
		{refused(10164, "wrong last sequence"), 7, true},
		{refused(10071, "wrong last sequence"), 0, false},
		{refused(10077, "maximum messages exceeded"), 0, false},
		{context.DeadlineExceeded, 0, false},
	} {
		if last, known := lastSequence(tc.err, 7); last != tc.last || known != tc.known {
			t.Errorf("%v: got %d, %t", tc.err, last, known)
		}
	}
}
