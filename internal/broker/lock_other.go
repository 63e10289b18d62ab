//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package broker

import (
	"errors"
	"runtime"
)

func lockDir(string) (func() error, error) {
	return nil, errors.New("the embedded server cannot lock a directory on " + runtime.GOOS + ": connect to a NATS server instead")
}
