package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
)

// contender is one way to receive.
type contender struct {
	name    string
	what    string
	typed   bool // for rows of five columns only
	rows    bool // counts rows, not all messages
	missing func() error
	command func(context.Context, *run) *exec.Cmd
}

// run is one contender receiving the work once.
type run struct {
	venue   venue
	work    *prepared
	dsn     string
	slot    string
	extra   []string // arguments for the contenders written in Go
	profile string   // file for a CPU profile, where the contender makes one; "": none
}

// venue is where contenders run: a server, or what looks like one.
type venue interface {
	dsn(transport string) string
	bin(program string) string
	openSlot(ctx context.Context, name string) error                   // at the beginning of the work
	closeSlot(ctx context.Context, name string) (pglogrepl.LSN, error) // drops it and returns what was confirmed
	children() int                                                     // processes of the server
	cpu(children int) (time.Duration, error)                           // of the server's processes for clients, when children are left
}

// measure is what came of a run. What is not known is 0.
type measure struct {
	Wall      time.Duration // of the whole process
	ClientCPU time.Duration
	ServerCPU time.Duration
	Peak      int64   // resident memory, bytes
	Waits     float64 // a message
	Mallocs   float64 // a message
	Bytes     float64 // allocated, a message
	Idle      int64   // resident memory before the first message, bytes
}

var contenders = []*contender{
	{
		name: "walchan", what: "every message acknowledged by itself", rows: true,
		command: self("walchan"),
	},
	{
		name: "pg_recvlogical", what: "PostgreSQL's own client, in C, writing to /dev/null; it decodes nothing",
		command: func(ctx context.Context, r *run) *exec.Cmd {
			return exec.CommandContext(ctx, r.venue.bin("pg_recvlogical"), "--dbname", r.dsn, "--slot", r.slot,
				"--start", "--no-loop", "--endpos", r.work.end.String(), "--file", os.DevNull,
				"--option", "proto_version=1", "--option", "publication_names="+publication)
		},
	},
	{
		name: "pglogrepl", what: "the usual loop around pglogrepl.Parse, with a channel of 64",
		command: self("pglogrepl"),
	},
	{
		name: "psycopg2", what: "consume_stream with a callback that acknowledges; it decodes nothing",
		missing: func() error {
			if python() == "" {
				return errors.New("not installed (Debian: apt-get install python3-psycopg2)")
			}
			return nil
		},
		command: func(ctx context.Context, r *run) *exec.Cmd {
			return exec.CommandContext(ctx, python(), "-c", callback, r.dsn, r.slot, publication,
				strconv.FormatUint(uint64(r.work.end), 10))
		},
	},
	{
		name: "walchan+Scan", what: "each row also scanned into a struct", typed: true, rows: true,
		command: self("walchan-scan"),
	},
	{
		name: "walchan+batches", what: "WithCheckpoint, and the text of one for every 100 messages", rows: true,
		command: self("walchan-batches"),
	},
	{
		name: "walchan+checkpoints", what: "WithCheckpoint, and the text of one for each transaction", rows: true,
		command: self("walchan-checkpoints"),
	},
	{
		name: "walchan before", what: "another build of this program, which WALCHAN_BENCH_BEFORE names", rows: true,
		missing: func() error {
			if before() == "" {
				return errors.New("WALCHAN_BENCH_BEFORE is not set")
			}
			return nil
		},
		command: program("walchan", before),
	},
	{
		name: "pglogrepl+values", what: "each row also decoded to a map of Go values, as in pglogrepl's example", typed: true,
		command: self("pglogrepl-values"),
	},
}

//go:embed callback.py
var callback string

// python is an interpreter that has psycopg2: the first in PATH, or the system's.
var python = sync.OnceValue(func() string {
	for _, exe := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(exe, "-c", "import psycopg2.extras").Run() == nil {
			return exe
		}
	}
	return ""
})

// self is a contender that is this program.
func self(name string) func(context.Context, *run) *exec.Cmd {
	return program(name, func() string {
		exe, err := os.Executable()
		if err != nil {
			panic(err) // never on the systems this runs on
		}
		return exe
	})
}

// before is another build of this program, to compare with.
func before() string { return os.Getenv("WALCHAN_BENCH_BEFORE") }

// program is a contender that is a build of this program.
func program(name string, exe func() string) func(context.Context, *run) *exec.Cmd {
	return func(ctx context.Context, r *run) *exec.Cmd {
		args := []string{"contend", "-dsn", r.dsn, "-slot", r.slot, "-commit", r.work.commit.String(), "-end", r.work.end.String()}
		if r.profile != "" {
			args = append(args, "-profile", r.profile)
		}
		args = append(args, r.extra...)
		return exec.CommandContext(ctx, exe(), append(args, name)...)
	}
}

// do runs the contender, and makes sure that it received everything and confirmed it.
func (r *run) do(ctx context.Context, c *contender) (m measure, err error) {
	if err := r.venue.openSlot(ctx, r.slot); err != nil {
		return m, err
	}
	children := r.venue.children()
	before, err := r.venue.cpu(children)
	if err != nil {
		return m, err
	}
	t, err := r.execute(ctx, c, &m)
	if err != nil {
		return m, err
	}
	after, err := r.venue.cpu(children)
	if err != nil {
		return m, err
	}
	m.ServerCPU = after - before
	switch confirmed, err := r.venue.closeSlot(ctx, r.slot); {
	case err != nil:
		return m, err
	case confirmed < r.work.filled:
		return m, fmt.Errorf("confirmed %s and not %s", confirmed, r.work.filled)
	}
	if t == nil {
		return m, nil
	}
	if want := r.work.expected(c.rows); t.Messages != want {
		return m, fmt.Errorf("received %d messages and not %d", t.Messages, want)
	}
	m.Mallocs = float64(t.Mallocs) / float64(r.work.messages)
	m.Bytes = float64(t.Bytes) / float64(r.work.messages)
	m.Idle = t.Idle
	return m, nil
}

func (p *prepared) expected(rows bool) int {
	if rows {
		return p.changes
	}
	return p.messages
}

// execute runs the process, measures it from without, and returns what it printed, if that is a tally.
func (r *run) execute(ctx context.Context, c *contender, m *measure) (*tally, error) {
	var out, log bytes.Buffer
	cmd := c.command(ctx, r)
	cmd.Stdout, cmd.Stderr = &out, &log
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended, watched := make(chan struct{}), make(chan int64)
	go func() { watched <- peakMemory(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	m.Wall = time.Since(began)
	close(ended)
	m.Peak = <-watched
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, log.Bytes())
	}
	m.ClientCPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	m.Waits = float64(waits(cmd.ProcessState)) / float64(r.work.messages)
	if out.Len() == 0 {
		return nil, nil
	}
	t := &tally{}
	return t, json.Unmarshal(out.Bytes(), t)
}

// peakMemory asks for the highest resident memory until the process ends; 0 without /proc. getrusage is no help: its number
// begins with what the parent had when it forked (Linux: exec_mmap keeps the old maximum).
func peakMemory(pid int, ended <-chan struct{}) (peak int64) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		peak = max(peak, residentMemory(pid, "VmHWM:"))
		select {
		case <-ended:
			return peak
		case <-tick.C:
		}
	}
}

// residentMemory is a line of /proc/pid/status, in bytes; 0 without it.
func residentMemory(pid int, name string) (bytes int64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if kB, ok := strings.CutPrefix(line, name); ok {
			fmt.Sscan(kB, &bytes)
		}
	}
	return bytes << 10
}
