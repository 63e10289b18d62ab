//go:build !unix

package run

import (
	"os"
	"os/exec"
)

// There are no process groups here: what a shell started may outlive it.

func ownGroup(*exec.Cmd) {}

func signalGroup(cmd *exec.Cmd, _ os.Signal) { _ = cmd.Process.Kill() }

func exitCode(state *os.ProcessState) int { return state.ExitCode() }

func killLeftovers(string) int { return 0 }

func lock(*os.File) error { return nil }

func unlock(*os.File) {}
