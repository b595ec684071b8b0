//go:build unix

package main

import (
	"os"
	"syscall"
)

// lock keeps other exporters from the file for as long as it is open.
func lock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

func syncIfPossible(dir *os.File) error { return dir.Sync() }
