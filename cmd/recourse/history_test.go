package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse/internal/history"
)

// TestHistory tells of an incident that went through a worker: a retry that came due, a question that was answered, the end.
func TestHistory(t *testing.T) {
	s := newSite(t)
	s.tool(0, "apply", shop)
	s.report("ex42", "ship/wave/load", "Timeout", 1, "--message", "no \x1b[31manswer</dd>\nfrom the dock") // retried after a second
	eventually(t, "the retry", func() bool {
		out, _ := s.tool(0, "history", "ex42")
		return strings.Contains(out, "retry ship/wave/load, attempt 2")
	})
	s.report("ex42", "ship/check", "Verification", 1, "--message", "numbers look bad")
	s.tool(0, "answer", "ex42/3", "Retry", "--why", "counted again")
	s.report("ex4711", "pack/wrap", "Timeout", 1)

	out, err := s.tool(0, "history", "ex42")
	if err != "" {
		t.Errorf("stderr %q", err)
	}
	contains(t, out, "execution  default/retail/web/shop/ex42\n", "2 failures, 2 retries, 1 intervention, 1 answer, 3 commands",
		"AFTER", "failure   ship/wave/load, attempt 1: Timeout: no  [31manswer</dd> from the dock (by ann)\n",
		"wait      for attempt 2 of ship/wave/load", ": came due in record 2",
		"pause ship/check, intervention 3: one of ", "answered by record 4 after ", "answer    ann to intervention 3: Retry: counted again\n",
		"command   retry ship/check, attempt 2\n")
	if strings.Contains(out, "looked at") || strings.Contains(out, "\x1b") {
		t.Errorf("%s", out)
	}
	out, _ = s.tool(0, "history", "shop/ex42", "--why")
	contains(t, out, "  * looked at  step: Timeout → Retry: ", "    looked at  ")

	out, _ = s.tool(0, "history", "ex42", "-o", "json")
	timeline := decodeJSON[history.Timeline](t, out)
	if timeline.Execution != "default/retail/web/shop/ex42" || len(timeline.Entries) != 4 || timeline.Entries[0].Ended.How != history.Fired ||
		timeline.Entries[2].Ended.How != history.Answered || timeline.Entries[0].Record.Trail != nil || timeline.Entries[3].Record.Input.Answer.Why != "counted again" {
		t.Errorf("%s", out)
	}
	out, _ = s.tool(0, "history", "ex42", "-o", "json", "--why")
	if len(decodeJSON[history.Timeline](t, out).Entries[0].Record.Trail) == 0 {
		t.Errorf("no trail in %s", out)
	}

	file := filepath.Join(t.TempDir(), "ex42.html")
	out, err = s.tool(0, "history", "ex42", "--why", "--html", file)
	page, readErr := os.ReadFile(file)
	if out != "" || !strings.Contains(err, "4 records") || readErr != nil {
		t.Errorf("%q, %q, %v", out, err, readErr)
	}
	contains(t, string(page), "<!DOCTYPE html>", "answer&lt;/dd&gt;", `class="chosen"`, "intervention 3")
	out, _ = s.tool(0, "history", "ex42", "--html", "-")
	contains(t, out, "<!DOCTYPE html>")

	_, err = s.tool(1, "history", "ex4")
	contains(t, err, `"ex4" may mean any of`, "\n  default/retail/web/shop/ex42\n  default/retail/web/shop/ex4711\n", "--pipeline")
	out, _ = s.tool(0, "history", "ex47")
	contains(t, out, "default/retail/web/shop/ex4711")
	for _, bad := range []struct {
		args []string
		code int
		err  string
	}{
		{[]string{"history"}, 2, "arg"},
		{[]string{"history", ""}, 2, "an execution is required"},
		{[]string{"history", "none"}, 1, "the journal knows no such execution"},
		{[]string{"history", "ex42", "--pipeline", "other"}, 1, "the journal knows no such execution"},
		{[]string{"history", "ex42", "--html", filepath.Join(t.TempDir(), "none", "x.html")}, 2, "no such file"},
	} {
		_, err := s.tool(bad.code, bad.args...)
		contains(t, err, bad.err)
	}
}

// TestTracingRoles: a viewer may ask for the story and for what goes wrong, of its account; to verify takes an admin.
func TestTracingRoles(t *testing.T) {
	g := newGuarded(t, nil)
	viewer, delegate := g.roles["viewer"], g.roles["delegate"]
	delegate.tool(0, "report", "--org", "o", "--project", "p", "--pipeline", "shop", "--execution", "ex1", "--node", "ship/check", "--errors", "Timeout")
	eventually(t, "the decision", func() bool {
		c := &call{env: viewer.env}
		return c.run(t.Context(), "history", "ex1") == 0
	})
	out, _ := viewer.tool(0, "history", "ex1", "--why")
	contains(t, out, "execution  acme/o/p/shop/ex1\n", "pipeline   not registered when this was decided", "(by delegate)", "NoStrategy (R6)")
	out, _ = viewer.tool(0, "incidents")
	contains(t, out, "shop", "MarkAsFailure", "acme/o/p/shop/ex1")
	_, err := g.roles["admin"].tool(0, "verify")
	contains(t, err, "1 input, 1 record of 1 execution", "everything holds")
	for _, command := range [][]string{{"verify"}, {"incidents", "--account", "other"}} {
		began := time.Now()
		_, err = viewer.tool(1, command...)
		contains(t, err, "permissions violation")
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("%q took %s: it waited for an answer that does not come", command, took)
		}
	}
	_, err = delegate.tool(1, "history", "ex1")
	contains(t, err, "permissions violation")
}
