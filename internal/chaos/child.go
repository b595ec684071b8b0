package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// childOrder is what the child is told.
type childOrder struct {
	DSN, Slot, Journal string
	Seed               uint64
}

// beChild is the consumer in a process of its own, that may be killed at any time: it receives, writes down, and only then
// acknowledges, until SIGTERM. It says on its standard output which markers it has come to.
func beChild() error {
	var order childOrder
	if err := json.Unmarshal([]byte(os.Getenv(childVariable)), &order); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	j, err := openJournal(order.Journal)
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
func subscribeAgain(ctx context.Context, order childOrder) (*walchan.Stream, error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	for {
		s, err := walchan.Subscribe(ctx, order.DSN, walchan.WithSlot(order.Slot), walchan.WithPublication("chaos"),
			walchan.WithWaitForSlot(), walchan.WithLogger(log))
		if err == nil || lasting(err) {
			return s, err
		}
		log.Warn("subscribe", "error", err)
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
		walchan.ErrSlotMoved, walchan.ErrDiverged, walchan.ErrPublicationMissing, walchan.ErrProtocol, walchan.ErrAuthentication} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// A child is the process, of which there is always one: a new one when the last was killed.
type child struct {
	order   childOrder
	log     *os.File // the children's standard error
	reached *milestone

	mu     sync.Mutex
	cmd    *exec.Cmd
	wanted bool  // to end: it was killed or told to stop
	failed error // it ended by itself
	lives  int
	done   chan struct{} // closed when cmd has ended
}

// start starts the process.
func (c *child) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lives++
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
		c.failed = errors.Join(c.failed, fmt.Errorf("the child ended by itself: %v", err))
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
		return fmt.Errorf("the child does not end: %w", ctx.Err())
	}
	if sig != syscall.SIGKILL && cmd.ProcessState.ExitCode() != 0 {
		return fmt.Errorf("the child: %v", cmd.ProcessState)
	}
	return nil
}

// failure is why a process has ended by itself, if one has.
func (c *child) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}
