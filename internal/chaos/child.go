package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/walchan/walchan"
)

// childVariable makes this program the child, and tells it what to do.
const childVariable = "WALCHAN_CHAOS_CHILD"

// childOrder is what a child is told.
type childOrder struct {
	DSN, Slot string
	Target    string // what it writes to: a file, or a sink's connection string
	From      string // where its slot was made
	Seed      uint64 // another one in each life
	Life      int
}

// beChild is a consumer in a process of its own, that may be killed at any time, until SIGTERM. It says on its standard output
// which markers it has come to.
func beChild() error {
	var order childOrder
	if err := json.Unmarshal([]byte(os.Getenv(childVariable)), &order); err != nil {
		return err
	}
	go func() { // its standard input ends with the process that started it, however that ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2)
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch {
	case servers[order.Slot] != nil:
		return beServer(order)
	case sinks[order.Slot] != nil:
		return runSink(ctx, order)
	}
	return keepJournal(ctx, order)
}

// keepJournal receives, writes down, and only then acknowledges.
func keepJournal(ctx context.Context, order childOrder) error {
	j, err := openJournal(order.Target)
	if err != nil {
		return err
	}
	stream, err := subscribeAgain(ctx, order)
	if err != nil {
		return err
	}
	defer stream.Close()
	rng := rand.New(rand.NewPCG(order.Seed, 0))
	most, pause := 1+rng.IntN(500), time.Now()
	for open := true; open; {
		var batch []walchan.Message
		batch, open = receiveSome(stream, 1+rng.IntN(most))
		for _, m := range batch {
			j.add(seeMessage(m))
		}
		if err := j.flush(); err != nil {
			return err
		}
		if now := time.Now(); now.After(pause) { // now and then it is slow
			time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
			pause = now.Add(time.Duration(3000+rng.IntN(10_000)) * time.Millisecond)
		}
		rng.Shuffle(len(batch), func(i, k int) { batch[i], batch[k] = batch[k], batch[i] })
		for _, m := range batch {
			stream.Ack(m)
			if n, ok := markerIn(content(m)); ok {
				fmt.Println(n)
			}
		}
	}
	return errors.Join(stream.Err(), stream.Close(), j.close())
}

// receiveSome waits for a message and takes those, at most n, that are there.
func receiveSome(s *walchan.Stream, n int) (batch []walchan.Message, open bool) {
	m, open := <-s.C()
	for open {
		if batch = append(batch, m); len(batch) == n {
			break
		}
		select {
		case m, open = <-s.C():
		default:
			return batch, true
		}
	}
	return batch, open
}

// subscribeAgain tries again where a stream that lives would.
func subscribeAgain(ctx context.Context, order childOrder, opts ...walchan.Option) (*walchan.Stream, error) {
	opts = append(opts, walchan.WithSlot(order.Slot), walchan.WithPublication("chaos"), walchan.WithWaitForSlot(), walchan.WithLogger(logger))
	for {
		s, err := walchan.Subscribe(ctx, order.DSN, opts...)
		if err == nil || lasting(err) {
			return s, err
		}
		logger.Warn("subscribe", "error", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// lasting says whether an error of Subscribe is none of those that faults cause.
func lasting(err error) bool {
	for _, kind := range []error{walchan.ErrOptions, walchan.ErrSlotMissing, walchan.ErrSlotMismatch, walchan.ErrSlotInvalidated,
		walchan.ErrSlotMoved, walchan.ErrDiverged, walchan.ErrUnproven, walchan.ErrCheckpoint, walchan.ErrPublicationMissing, walchan.ErrProtocol, walchan.ErrAuthentication} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// logger is a child's.
var logger = slog.New(slog.NewTextHandler(os.Stderr, nil))

// A child is a process, of which there is always one: a new one when the last was killed.
type child struct {
	order   childOrder
	log     *os.File // the processes' standard error
	reached *milestone

	mu     sync.Mutex
	cmd    *exec.Cmd
	wanted bool          // to end: it was killed or told to stop
	failed error         // it ended by itself
	done   chan struct{} // closed when cmd has ended
}

// start starts the process.
func (c *child) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order.Life++
	c.order.Seed++
	order, err := json.Marshal(c.order)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+string(order))
	cmd.Stderr = c.log
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.cmd, c.wanted, c.done = cmd, false, make(chan struct{})
	go c.follow(cmd, bufio.NewScanner(out), c.done)
	return nil
}

// follow reads what a process says, to its end.
func (c *child) follow(cmd *exec.Cmd, said *bufio.Scanner, done chan struct{}) {
	defer close(done)
	for said.Scan() {
		n := 0
		if _, err := fmt.Sscan(said.Text(), &n); err == nil {
			c.reached.reach(n)
		}
	}
	err := cmd.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wanted {
		c.failed = errors.Join(c.failed, fmt.Errorf("%s ended by itself: %v", c.order.Slot, err))
	}
}

// signal ends the process, and returns when it is gone, with how it ended.
func (c *child) signal(ctx context.Context, sig os.Signal) error {
	c.mu.Lock()
	c.wanted = true
	cmd, done := c.cmd, c.done
	c.mu.Unlock()
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-done:
	case <-ctx.Done():
		_ = cmd.Process.Signal(syscall.SIGQUIT) // its goroutines, into its log
		<-done
		return fmt.Errorf("%s does not end: %w", c.order.Slot, ctx.Err())
	}
	if sig != syscall.SIGKILL && cmd.ProcessState.ExitCode() != 0 {
		return fmt.Errorf("%s: %v", c.order.Slot, cmd.ProcessState)
	}
	return nil
}

// end ends whatever still runs.
func (c *child) end() {
	if c.cmd != nil {
		_ = c.signal(context.Background(), syscall.SIGKILL)
	}
	_ = c.log.Close()
}

// failure is why a process has ended by itself, if one has.
func (c *child) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}
