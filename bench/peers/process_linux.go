package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// kept is for a server that is not ours: it ends with the thread that starts it, and is another user where uid is not negative.
func kept(uid, gid int) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if uid >= 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return attr
}

// ticks of the kernel's accounting are a hundredth of a second on Linux, whatever its timer does.
const tick = 10 * time.Millisecond

// cpuOf returns the processor time of a running process, of its children and of those it has waited for.
func cpuOf(pid int) time.Duration {
	own, _ := stat(pid)
	total := own.user + own.system + own.waited
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return total
	}
	for _, e := range entries {
		if child, err := strconv.Atoi(e.Name()); err == nil {
			if s, ok := stat(child); ok && s.parent == pid {
				total += s.user + s.system + s.waited
			}
		}
	}
	return total
}

type processStat struct {
	parent               int
	user, system, waited time.Duration
}

func stat(pid int) (s processStat, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, false
	}
	// The name in parentheses may have blanks; the state follows it.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 15 {
		return s, false
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		return n
	}
	s.parent = int(number(1))
	s.user, s.system = time.Duration(number(11))*tick, time.Duration(number(12))*tick
	s.waited = time.Duration(number(13)+number(14)) * tick
	return s, true
}

// peakMemory returns the most memory that a running process has held, in bytes.
func peakMemory(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0
	}
	return kib << 10
}
