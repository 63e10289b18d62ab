//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockDir takes the directory for this process and returns what gives it back. The kernel drops the lock with the process, so a
// crash leaves nothing to clean up; the file stays, since removing it would let two processes lock two files of the same name.
func lockDir(dir string) (unlock func() error, err error) {
	path := filepath.Join(dir, "recourse.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &DirTakenError{Dir: dir, PID: strings.TrimSpace(string(holder[:n]))}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The number is for people only: the lock is what counts.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f.Close, nil
}
