package recourse

import (
	"slices"
	"testing"
)

func TestFailureSummary(t *testing.T) {
	failed := func(node Node, action Action, kind string, errors ...ErrorType) *Record {
		r := &Record{Input: Input{Failure: &FailureInput{Errors: ErrorTypesOf(errors...)}}}
		r.Node, r.Action, r.Kind = node, action, kind
		if kind == KindRetryScheduled {
			r.Wait.Version = 1
		}
		return r
	}
	for _, test := range []struct {
		record *Record
		header string
		want   FailureSummary
	}{
		{failed(Node{Path: "s/g/n"}, Retry, KindRetryScheduled, Timeout, Connectivity), "Retry Connectivity,Timeout steps s/g/n",
			FailureSummary{"Retry", "Connectivity,Timeout", Node{Path: "s/g/n"}}},
		{failed(Node{Path: "s/g[a  b]/ n ", Section: RollbackSteps}, Abort, ""), "Abort Unknown rollbackSteps s/g[a  b]/ n ",
			FailureSummary{"Abort", "Unknown", Node{Path: "s/g[a  b]/ n ", Section: RollbackSteps}}},
		{failed(Node{Path: "s"}, StageRollback, KindSuperseded), "superseded Unknown steps s", FailureSummary{"superseded", "Unknown", Node{Path: "s"}}},
		{failed(Node{Path: "s"}, 0, KindStale), "stale Unknown steps s", FailureSummary{"stale", "Unknown", Node{Path: "s"}}},
	} {
		if got := test.record.FailureSummary(); got != test.header {
			t.Errorf("%q, want %q", got, test.header)
		}
		if got, err := ParseFailureSummary(test.header); err != nil || got != test.want {
			t.Errorf("%q: %+v, %v, want %+v", test.header, got, err, test.want)
		}
	}
	if got := (&Record{Input: Input{Due: 1}}).FailureSummary(); got != "" {
		t.Errorf("not of a failure: %q", got)
	}
	for _, bad := range []string{"", "Retry", "Retry Timeout steps", "Retry Timeout steps ", "Retry Timeout elsewhere s", " Timeout steps s"} {
		if got, err := ParseFailureSummary(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, versions := range [][]uint64{nil, {1}, {3, 18446744073709551615, 2}} {
		if got, err := ParseVersions(FormatVersions(versions)); err != nil || !slices.Equal(got, versions) {
			t.Errorf("%v: %v, %v", versions, got, err)
		}
	}
	for _, bad := range []string{",", "1,", "-1", "1, 2", "18446744073709551616"} {
		if got, err := ParseVersions(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}
