package recourse

import "testing"

func TestMayAnswer(t *testing.T) {
	for _, test := range []struct {
		by, principal string
		want          bool
	}{
		{"", "anybody", true},
		{"ann", "ann", true},
		{"ann", "bob", false},
		{"ann", "ann2", false},
		{"ann,bob", "bob", true},
		{"ann", "", false},
		{"release-*", "release-ann", true},
		{"release-*", "release-", true},
		{"release-*", "prerelease-ann", false},
		{"*-lead", "web-lead", true},
		{"*-lead", "web-leader", false},
		{"a*b*c", "axxbyyc", true},
		{"a*b*c", "axxcyyb", false},
		{"a*a", "a", false},
		{"*", "anybody", true},
		{"ann@acme.com", "ann=40acme=2Ecom", true},
		{"*@acme.com", "bob=40acme=2Ecom", true},
		{"*@acme.com", "bob=40evil=2Ecom", false},
		{"Ann", "ann", false},
	} {
		if got := MayAnswer(test.by, test.principal); got != test.want {
			t.Errorf("%q by %q: %t", test.by, test.principal, got)
		}
	}
}
