package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// diary is what is said of a run, and what is counted.
type diary struct {
	out     io.Writer
	verbose bool
	began   time.Time

	mu          sync.Mutex
	counts      map[string]int // of faults
	catchUps    []time.Duration
	longestStop time.Duration
}

func (d *diary) note(kind, what string) {
	d.mu.Lock()
	d.counts[kind]++
	d.mu.Unlock()
	d.say("%s: %s", kind, what)
}

func (d *diary) say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.verbose {
		fmt.Fprintf(d.out, "%7.2f %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
	}
}
