//go:build unix

package run

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// goneWithin bounds the wait for processes that were killed, and for those that they started meanwhile.
const goneWithin = 2 * time.Second

// ownGroup makes the process the first of a group of its own.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// signalGroup sends SIGTERM, for os.Interrupt, or SIGKILL to the group of a process; in vain where there is none any more.
func signalGroup(cmd *exec.Cmd, how os.Signal) {
	s := syscall.SIGKILL
	if how == os.Interrupt {
		s = syscall.SIGTERM
	}
	_ = syscall.Kill(-cmd.Process.Pid, s)
}

// exitCode is that of a shell: 128 and the number of the signal that ended the process.
func exitCode(state *os.ProcessState) int {
	if s, ok := state.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal())
	}
	return state.ExitCode()
}

// killLeftovers ends the processes that a killed run left behind, by the mark in their environment: a number alone may be another
// process by now. It needs /proc, and finds nothing elsewhere. It returns how many there were, once none is left or goneWithin is over.
func killLeftovers(mark string) int {
	wanted := []byte("\x00" + envRun + "=" + mark + "\x00")
	killed := make(map[int]bool)
	for deadline := time.Now().Add(goneWithin); ; {
		left := 0
		files, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, file := range files {
			env, err := os.ReadFile(file)
			if err != nil || !bytes.Contains(append([]byte{0}, env...), wanted) {
				continue // of another user, or gone
			}
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed[pid] = true
				left++
			}
		}
		if left == 0 || time.Now().After(deadline) {
			return len(killed)
		}
	}
}

// lock takes the file for this process until it ends.
func lock(file *os.File) error {
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

func unlock(file *os.File) { _ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN) }
