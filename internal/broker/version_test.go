package broker

import (
	"errors"
	"strings"
	"testing"
)

func TestBatchFlushesOnce(t *testing.T) {
	for version, want := range map[string]bool{"2.14.3": false, "2.15.0": true, "v2.15.2": true, "3.0.0": true, "": false, "dev": false} {
		if got := BatchFlushesOnce(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}

func TestCheckServerVersion(t *testing.T) {
	for _, test := range []struct {
		version string
		ok      bool
	}{
		{"2.14.0", true},
		{"2.13.9", false},
		{"2.14", true},
		{"2.15.2", true},
		{"3.0.0", true},
		{"1.99.0", false},
		{"2.9.25", false},
		{"v2.14.0-RC.1", true},
		{"2.14-beta", true},
		{"2.100.0+build.7", true},
		{"10.0.0", true},
		{"", false},
		{"2", false},
		{"dev", false},
		{"two.fourteen", false},
		{"-2.14.0", false},
	} {
		err := CheckServerVersion(test.version)
		if (err == nil) != test.ok {
			t.Errorf("%q: got %v", test.version, err)
		}
		var tooOld *VersionError
		if err != nil && (!errors.As(err, &tooOld) || !strings.Contains(err.Error(), MinServerVersion) || !strings.Contains(err.Error(), test.version)) {
			t.Errorf("%q: the error must be a VersionError that names both versions, got %v", test.version, err)
		}
	}
}
