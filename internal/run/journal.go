package run

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/recourse-dev/recourse"
)

// entry is one line of the journal of a run. Exactly one of its fields is set.
type entry struct {
	// Begin is the first line: what is run.
	Begin *header `json:"begin,omitzero"`
	// Start says that the process of an attempt is about to be started.
	Start *attemptID `json:"start,omitzero"`
	// The inputs of the engine: an attempt ended, a decision arrived, somebody stopped the run.
	End    *ended           `json:"end,omitzero"`
	Record *recourse.Record `json:"record,omitzero"`
	Stop   string           `json:"stop,omitzero"`
	// Over says that the end of the execution was reported.
	Over *recourse.LifecycleEvent `json:"over,omitzero"`
}

type header struct {
	recourse.Ref
	// Fingerprint is of all that must be the same where the run goes on: YAML, variables, stubs, semantics.
	Fingerprint string `json:"fingerprint"`
	// Mark is in the environment of the run's processes.
	Mark string `json:"mark"`
}

// attemptID names one attempt of a node.
type attemptID struct {
	recourse.Node
	Attempt int `json:"attempt"`
}

// ended is how an attempt ended: it succeeded where there is neither.
type ended struct {
	attemptID
	Failure *failure `json:"failure,omitzero"`
	Killed  bool     `json:"killed,omitzero"`
}

// failure is what is reported of an attempt.
type failure struct {
	Errors   recourse.ErrorTypes `json:"errors"`
	Message  string              `json:"message,omitzero"`
	ExitCode *int                `json:"exitCode,omitzero"`
}

// journal is the file of a run, one entry a line. What was appended is on the disk.
type journal struct {
	file *os.File
}

// errNoJournal and errJournal say that there is nothing to resume, and that there is.
var (
	errNoJournal = errors.New("there is no run to resume")
	errJournal   = errors.New("it was run before")
)

const journalName = "journal.jsonl"

// openJournal opens the journal of a directory, new or with the entries of an earlier run. An entry at the end that was cut off by a
// crash is dropped: nothing followed from it.
func openJournal(dir string, resume bool) (_ *journal, entries []entry, err error) {
	path := filepath.Join(dir, journalName)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && resume {
		return nil, nil, fmt.Errorf("%s: %w", path, errNoJournal)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	if err := lockWithin(file, lockWait); err != nil {
		return nil, nil, fmt.Errorf("%s: another process runs it: %w", path, err)
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, nil, err
	}
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	for n, line := range bytes.Split(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n")) {
		if len(whole) == 0 {
			break
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, nil, fmt.Errorf("%s:%d: %w", path, n+1, err)
		}
		entries = append(entries, e)
	}
	switch {
	case resume && len(entries) == 0:
		return nil, nil, fmt.Errorf("%s: %w", path, errNoJournal)
	case !resume && len(entries) > 0:
		return nil, nil, fmt.Errorf("%s: %w", path, errJournal)
	}
	if err := file.Truncate(int64(len(whole))); err != nil {
		return nil, nil, err
	}
	_, err = file.Seek(0, io.SeekEnd)
	return &journal{file}, entries, err
}

// lockWait is how long a run that was killed may keep its journal: a process that it was about to start holds the file until it starts.
const lockWait = 2 * time.Second

// lockWithin takes the file for this process, which may have to wait for it.
func lockWithin(file *os.File, most time.Duration) (err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(most); ; <-tick.C {
		if err = lock(file); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (j *journal) append(e *entry) error {
	line, err := json.Marshal(e, json.Deterministic(true))
	if err != nil {
		return err
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return err
	}
	return j.file.Sync()
}

// close gives the journal back. A process that is about to be started may hold the file still, so that closing alone would not.
func (j *journal) close() error {
	unlock(j.file)
	return j.file.Close()
}
