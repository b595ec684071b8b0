//go:build unix

package main

import (
	"os"
	"syscall"
)

// waits is how often a thread of the process had to wait: its voluntary context switches.
func waits(p *os.ProcessState) int64 { return int64(p.SysUsage().(*syscall.Rusage).Nvcsw) }
