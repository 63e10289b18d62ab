package broker

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse"
)

func TestEmbeddedKeepsDataAcrossRestart(t *testing.T) {
	for _, mode := range []SyncMode{SyncAlways, SyncInterval} {
		t.Run(mode.String(), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "made", "by", "the", "server")
			const messages = 20
			ref := recourse.Ref{Account: "a", Org: "o", Project: "p", Pipeline: "pl", Execution: "e"}

			first := startTest(t, EmbeddedConfig{Dir: dir, Sync: mode})
			nc, js := connectTest(t, first.URL())
			if _, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{}); err != nil {
				t.Fatal(err)
			}
			for range messages {
				if _, err := js.Publish(t.Context(), ref.Subject(recourse.FamilyFailure, "tester"), []byte("{}")); err != nil {
					t.Fatal(err)
				}
			}
			nc.Close()
			stopTest(t, first)

			second := startTest(t, EmbeddedConfig{Dir: dir, Sync: mode})
			_, js = connectTest(t, second.URL(), second.InProcess())
			report, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{})
			if err != nil {
				t.Fatal(err)
			}
			if got := report.String(); got != "everything in place" {
				t.Errorf("after a restart: %s", got)
			}
			stream, err := js.Stream(t.Context(), recourse.StreamInbox)
			if err != nil {
				t.Fatal(err)
			}
			if got := stream.CachedInfo().State.Msgs; got != messages {
				t.Errorf("after a restart: %d messages, want %d", got, messages)
			}
		})
	}
}

func TestEmbeddedDirectoryIsTakenInTheSameProcess(t *testing.T) {
	dir := t.TempDir()
	first := startTest(t, EmbeddedConfig{Dir: dir})
	_, err := StartEmbedded(EmbeddedConfig{Dir: dir, Listen: "127.0.0.1:0"})
	checkDirTaken(t, err, dir)
	stopTest(t, first)
	startTest(t, EmbeddedConfig{Dir: dir}) // free again
}

func TestEmbeddedDirectoryIsTakenByAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	other := exec.CommandContext(t.Context(), os.Args[0])
	other.Env = append(os.Environ(), holdVariable+"="+dir)
	stdin, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("other process: %q, %v", line, err)
	}
	_, err = StartEmbedded(EmbeddedConfig{Dir: dir, Listen: "127.0.0.1:0"})
	checkDirTaken(t, err, dir)

	stdin.Close()
	_ = other.Wait()
	startTest(t, EmbeddedConfig{Dir: dir}) // the lock went with the process
}

func checkDirTaken(t *testing.T, err error, dir string) {
	t.Helper()
	var taken *DirTakenError
	if !errors.As(err, &taken) || taken.Dir != dir || taken.PID == "" || !strings.Contains(err.Error(), "choose another directory") {
		t.Fatalf("want a DirTakenError that names directory and process, got %v", err)
	}
}

func TestEmbeddedPortIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	_, err = StartEmbedded(EmbeddedConfig{Dir: dir, Listen: l.Addr().String()})
	var taken *PortTakenError
	if !errors.As(err, &taken) || taken.Listen != l.Addr().String() || !strings.Contains(err.Error(), "address already in use") || !strings.Contains(err.Error(), "choose another port") {
		t.Fatalf("want a PortTakenError, got %v", err)
	}
	startTest(t, EmbeddedConfig{Dir: dir}) // the directory is free again
}

func TestEmbeddedRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]EmbeddedConfig{
		"no directory":        {Listen: "127.0.0.1:0"},
		"directory is a file": {Dir: file, Listen: "127.0.0.1:0"},
		"no port":             {Dir: t.TempDir(), Listen: "127.0.0.1"},
		"port not a number":   {Dir: t.TempDir(), Listen: "127.0.0.1:nats"},
		"port too large":      {Dir: t.TempDir(), Listen: "127.0.0.1:65536"},
		"unknown sync mode":   {Dir: t.TempDir(), Listen: "127.0.0.1:0", Sync: SyncInterval + 1},
	} {
		if e, err := StartEmbedded(cfg); err == nil {
			t.Errorf("%s: started", name)
			stopTest(t, e)
		}
	}
}

func TestEmbeddedShutdown(t *testing.T) {
	e := startTest(t, EmbeddedConfig{})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	// Either it was quicker than the look at the context, or it says that it goes on.
	if err := e.Shutdown(cancelled); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown with a context that is done: %v", err)
	}
	stopTest(t, e)
	stopTest(t, e)
	<-e.Done()
}

func TestSyncModeText(t *testing.T) {
	for _, mode := range []SyncMode{SyncAlways, SyncInterval} {
		text, err := mode.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got SyncMode
		if err := got.UnmarshalText(text); err != nil || got != mode {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	var mode SyncMode
	for _, text := range []string{"", "sometimes"} {
		if err := mode.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
