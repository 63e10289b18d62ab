package main

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli/online"
)

// TestVerify checks what a worker did, and then what a forger did.
func TestVerify(t *testing.T) {
	s := newSite(t)
	out, err := s.tool(0, "verify")
	if out != "" || !strings.Contains(err, "0 inputs, 0 records of 0 executions") || !strings.Contains(err, "everything holds") {
		t.Errorf("stdout %q, stderr %q", out, err)
	}
	s.tool(0, "apply", shop)
	s.report("ex42", "ship/wave/load", "Timeout", 1) // retried after a second
	s.report("ex42", "ship/check", "Verification", 1)
	s.tool(0, "answer", "ex42/2", "Retry", "--why", "counted again")
	s.report("ex43", "ship/check", "Verification", 1, "--message", "password=hunter22")
	nc, js := s.connect()
	ref := recourse.Ref{Account: "default", Org: "retail", Project: "web", Pipeline: "shop", Execution: "ex42"}
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: ref.Subject(recourse.FamilyFailure, "ci"), Header: nats.Header{"X": {"y"}}, Data: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rejection", func() bool {
		out, _ := s.tool(0, "rejected", "-o", "json")
		return strings.Contains(out, "bad-json")
	})
	eventually(t, "the retry", func() bool {
		out, _ := s.tool(0, "history", "ex42")
		return strings.Contains(out, "command   retry ship/wave/load, attempt 2")
	})
	var v online.Verified
	eventually(t, "everything settled", func() bool {
		out, _ = s.tool(0, "verify", "-o", "json")
		v = decodeJSON[online.Verified](t, out)
		return v.Undecided == 0
	})
	if v.Found != 0 || len(v.List) != 0 || v.Inputs != 5 || v.Records != 5 || v.Rejected != 1 || v.Executions != 2 || v.Pending != 1 || v.Unfolded != 0 || v.Unscheduled != 0 {
		t.Errorf("%s", out)
	}
	_, err = s.tool(0, "verify", "ex43")
	contains(t, err, "1 input, 1 record of 1 execution with 1 command", "in flight: 0 inputs undecided, 1 wait pending", "everything holds")
	s.tool(0, "verify", "default/retail/web/shop/unheard")

	// Somebody appends what is no worker's.
	if _, err := nc.Request(ref.Subject(recourse.FamilyCommand, "abort"), []byte("{\x1b}"), testDeadline); err != nil {
		t.Fatal(err)
	}
	out, err = s.tool(1, "verify")
	contains(t, out, "I5 recourse.default.retail.web.shop.ex42.command.abort ", "(RECOURSE_JOURNAL 6): cannot be read")
	contains(t, err, "1 violation")
	if strings.Contains(out, "\x1b") {
		t.Errorf("%q", out)
	}
	out, _ = s.tool(1, "verify", "-o", "json", "ex42")
	if v := decodeJSON[online.Verified](t, out); v.Found != 1 || v.List[0].Invariant != "I5" || v.List[0].Sequence != 6 {
		t.Errorf("%s", out)
	}
	s.tool(0, "verify", "ex43")
	_, err = s.tool(0, "verify", "--skip", "I5,I8")
	contains(t, err, "not looked at: I5, I8", "everything holds")
	for _, bad := range []struct {
		args []string
		code int
		err  string
	}{
		{[]string{"verify", "--skip", "I0"}, 2, "want I1 to I9"},
		{[]string{"verify", "--grace", "-1s"}, 2, "--grace"},
		{[]string{"verify", "--limit", "-1"}, 2, "--limit"},
		{[]string{"verify", "--since", "x"}, 2, "--since"},
		{[]string{"verify", "none"}, 1, "the journal knows no such execution"},
		{[]string{"verify", "a", "b"}, 2, "arg"},
	} {
		_, err := s.tool(bad.code, bad.args...)
		contains(t, err, bad.err)
	}
}
