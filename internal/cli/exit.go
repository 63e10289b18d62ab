package cli

import (
	"context"
	"errors"
	"fmt"
)

// The exit codes.
const (
	ExitOK           = 0
	ExitFailed       = 1   // diagnostics with errors, a refusal, something not found, no server
	ExitUsage        = 2   // a command line that cannot be, or a file that cannot be read
	ExitUnknownStage = 3   // explain: the pipeline has no such stage
	ExitInterrupted  = 130 // stopped before it was done
)

// ExitHelp describes the exit codes, for the help of the tool.
const ExitHelp = `Exit codes:
  0    done
  1    diagnostics with errors, refused, not found, or no answer from the server
  2    a command line that cannot be, or a file that cannot be read
  3    explain: the pipeline has no such stage
  130  interrupted`

// Error is an error with the exit code it stands for.
type Error struct {
	Code int
	// Err is what to tell; nil where the command said it all.
	Err error
}

// Error returns what to tell, "" where there is nothing left to say.
func (e *Error) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

// Unwrap returns what to tell.
func (e *Error) Unwrap() error { return e.Err }

// Usagef is an error about the command line.
func Usagef(format string, args ...any) error {
	return &Error{Code: ExitUsage, Err: fmt.Errorf(format, args...)}
}

// Failed ends a command whose output says already what failed.
func Failed() error { return &Error{Code: ExitFailed} }

// Code returns the exit code of an error. An error that says nothing about it is a failure.
func Code(err error) int {
	var coded *Error
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &coded):
		return coded.Code
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	default:
		return ExitFailed
	}
}
