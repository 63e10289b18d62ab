//go:build !linux

package main

import (
	"syscall"
	"time"
)

func ownGroup() *syscall.SysProcAttr { return nil }

func kept(int, int) *syscall.SysProcAttr { return nil }

// cpuOf is not known here.
func cpuOf(int) time.Duration { return 0 }

// peakMemory is not known here.
func peakMemory(int) int64 { return 0 }
