package main

import (
	"strings"
	"testing"

	"github.com/recourse-dev/recourse/internal/incident"
)

func TestIncidents(t *testing.T) {
	s := newSite(t)
	out, err := s.tool(0, "incidents")
	if out != "" || !strings.Contains(err, "0 failures, 0 executions since ") {
		t.Errorf("stdout %q, stderr %q", out, err)
	}
	s.tool(0, "apply", shop)
	s.report("ex1", "ship/check", "Verification", 1)
	s.report("ex2", "ship/check", "Verification", 1)
	s.tool(0, "answer", "ex2/1", "MarkAsSuccess", "--why", "known")
	s.report("ex2", "pack/wrap[a b]", "Timeout", 1)
	s.report("ex3", "ship/wave/drive", "Connectivity", 1) // waits for 3 s
	out, err = s.tool(0, "incidents")
	contains(t, err, "4 failures, 3 executions since ", "1 intervention is open")
	lines := strings.Split(out, "\n")
	if len(lines) != 5 || !strings.HasPrefix(lines[1], "2           2                  1     shop      ship/check ") {
		t.Errorf("%s", out)
	}
	contains(t, out, "default/retail/web/shop/ex2\n", "ManualIntervention", "Ignore")

	out, _ = s.tool(0, "incidents", "-o", "json", "--since", "10m", "--limit", "1")
	report := decodeJSON[incident.Report](t, out)
	if len(report.Incidents) != 1 || report.Failures != 4 || report.Open != 1 || report.Incidents[0].Executions != 2 || report.Incidents[0].Open != 1 {
		t.Errorf("%s", out)
	}
	_, err = s.tool(0, "incidents", "--limit", "1")
	contains(t, err, "2 groups not shown")
	out, _ = s.tool(0, "incidents", "-o", "json", "--org", "other")
	if report := decodeJSON[incident.Report](t, out); len(report.Incidents) != 0 || report.Records != 0 {
		t.Errorf("%s", out)
	}
	for _, bad := range []struct {
		args []string
		err  string
	}{
		{[]string{"incidents", "--since", "soon"}, `--since "soon"`},
		{[]string{"incidents", "--limit", "-1"}, "--limit"},
		{[]string{"incidents", "ex1"}, "unknown command"},
	} {
		_, err := s.tool(2, bad.args...)
		contains(t, err, bad.err)
	}
}
