package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli/online"
	"github.com/recourse-dev/recourse/internal/doctor"
)

// TestDoctor: beside a worker nothing failed; with a stream deleted it is found, named and the exit code is 1; so it is with the worker
// gone, and with the server gone.
func TestDoctor(t *testing.T) {
	s := newSite(t)
	s.report("ex1", "prod/check", "Timeout", 1)
	out, err := s.tool(0, "doctor")
	contains(t, out, "ok       server", "ok       stream RECOURSE_JOURNAL", "as it should be, 1 messages", "ok       workers on recourse-worker", "ok       clocks of the workers")
	contains(t, err, "0 failed, 1 warning") // nobody knows whether this server syncs
	for line := range strings.Lines(out) {
		status, _, _ := strings.Cut(line, " ")
		var known doctor.Status
		if known.UnmarshalText([]byte(status)) != nil {
			t.Errorf("a line without a status: %q", line)
		}
		if mend := strings.Contains(line, " — "); mend != (known >= doctor.Warning) {
			t.Errorf("a way to mend it belongs to what can be mended: %q", line)
		}
	}

	_, js := s.connect()
	if err := js.DeleteStream(t.Context(), recourse.StreamRejected); err != nil {
		t.Fatal(err)
	}
	out, _ = s.tool(1, "doctor", "-o", "json")
	found := decodeJSON[online.Examined](t, out)
	if found.Failed != 1 || found.Warnings != 0 { // durability is not looked at without all streams
		t.Errorf("%+v", found)
	}
	for _, f := range found.Findings {
		if wrong := f.Status == doctor.Failed; wrong != (f.Check == "stream RECOURSE_REJECTED") || wrong && (f.Says != "missing" || !strings.Contains(f.Mend, "provisioning mode create")) {
			t.Errorf("%+v", f)
		}
	}

	s.stop()
	start := time.Now()
	out, err = s.tool(1, "doctor")
	contains(t, out, "failed  server  connect to", "start the server")
	contains(t, err, "1 failed, 0 warnings")
	if took := time.Since(start); took > testDeadline/2 {
		t.Errorf("took %v", took)
	}
	out, _ = s.tool(1, "doctor", "-o", "json")
	if found := decodeJSON[online.Examined](t, out); found.Failed != 1 || len(found.Findings) != 1 {
		t.Errorf("%+v", found)
	}
}

// TestDoctorOfRoles: each user has what its role needs, and what it may not look at fails nothing; a permission taken away is named.
func TestDoctorOfRoles(t *testing.T) {
	g := newGuarded(t, func(operator *server.Permissions) {
		operator.Publish.Deny = append(operator.Publish.Deny, "recourse.acme.*.*.*.*.control.operator")
	})
	for _, role := range []string{"delegate", "orchestrator", "viewer", "worker", "admin"} {
		out, _ := g.as(role, 0, "doctor", "--role", role)
		contains(t, out, "permissions of "+role, "all there, in account acme")
		if sees := strings.Contains(out, "as it should be"); sees == (role == "delegate" || role == "orchestrator") {
			t.Errorf("%s sees the streams: %t\n%s", role, sees, out)
		}
	}
	out, _ := g.as("operator", 1, "doctor", "--role", "operator")
	contains(t, out, "failed   permissions of operator", "may not publish on recourse.acme.*.*.*.*.control.operator, which it needs to step in where a retry waits", "accounts.conf")
	out, _ = g.as("operator", 0, "doctor")
	contains(t, out, "skipped  stream RECOURSE_INBOX", "this user may not look at it")
	out, _ = g.as("viewer", 0, "doctor")
	contains(t, out, "ok       permissions", "enough for viewer, in account acme")
}

func TestDoctorUsage(t *testing.T) {
	_, err := tool(t, 2, "doctor", "--role", "boss")
	contains(t, err, `unknown role "boss"`, "delegate, orchestrator", "recourse doctor --help")
	_, err = tool(t, 2, "doctor", "everything")
	contains(t, err, "recourse doctor --help")
}
