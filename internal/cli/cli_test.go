package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/recourse-dev/recourse"
)

func TestCode(t *testing.T) {
	for want, err := range map[int]error{
		ExitOK: nil, ExitFailed: errors.New("x"), ExitUsage: fmt.Errorf("y: %w", Usagef("x")), ExitInterrupted: fmt.Errorf("x: %w", context.Canceled),
		ExitUnknownStage: &Error{Code: ExitUnknownStage, Err: errors.New("x")},
	} {
		if got := Code(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
	if err := Failed(); Code(err) != ExitFailed || err.Error() != "" {
		t.Errorf("%v", err)
	}
}

func TestRows(t *testing.T) {
	var out bytes.Buffer
	p := &Printer{Out: &out, Err: &out}
	rows := p.Rows("A", "LONGER", "C")
	rows.Add("much longer", "é", "")
	rows.Beneath("beneath\tit")
	rows.Add("x", "\x1b[2Jy\nz", "c")
	if err := rows.Flush(); err != nil {
		t.Fatal(err)
	}
	want := "A            LONGER   C\nmuch longer  é\n    beneath it\nx             [2Jy z  c\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestClean(t *testing.T) {
	if got := Clean("a\u202eb\u0000c\td—é"); got != "a b c d—é" {
		t.Errorf("%q", got)
	}
}

func TestFill(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	one, two, other := flags.String("one-more", "", ""), flags.Int("two", 0, ""), flags.String("other", "", "")
	FromEnvironment(flags, "one-more", "two")
	env := map[string]string{"RECOURSE_ONE_MORE": "env", "RECOURSE_TWO": "2", "RECOURSE_OTHER": "env"}
	if err := flags.Parse([]string{"--two", "3"}); err != nil {
		t.Fatal(err)
	}
	getenv := func(name string) string { return env[name] }
	if err := Fill(flags, getenv); err != nil || *one != "env" || *two != 3 || *other != "" {
		t.Errorf("%v, %q, %d, %q", err, *one, *two, *other)
	}
	flags.Lookup("two").Changed = false
	env["RECOURSE_TWO"] = "many"
	if err := Fill(flags, getenv); err == nil || !bytes.HasPrefix([]byte(err.Error()), []byte("RECOURSE_TWO: ")) {
		t.Errorf("%v", err)
	}
}

// A record without a command, without a failure, without anything still has a view.
func TestRecorded(t *testing.T) {
	var out bytes.Buffer
	p := &Printer{Out: &out, Err: &out}
	rec := &recourse.Record{Version: 3, At: time.Unix(0, 0)}
	rec.Reason, rec.Kind, rec.Input.Lifecycle = recourse.LifecycleReported, recourse.KindClosed, recourse.Finished
	for _, p.Format = range []Format{Table, JSON} {
		d := Recorded(rec)
		if d.Command != nil || d.Delay != nil || d.Errors != 0 || d.Kind != recourse.KindClosed {
			t.Errorf("%+v", d)
		}
		if err := p.Decision(d); err != nil {
			t.Error(err)
		}
	}
}
