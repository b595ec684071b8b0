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
	"strings"
	"sync"
	"sync/atomic"
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
	Seed      uint64 // another one in each life
	Life      int

	Generation int    // how often the target was made
	Origin     string // position of the new slot; the target is a copy as of there
	Failover   bool   // standbys keep copies of slots
	Lost       string // the checkpoint that a person has given up, for SubscribeAnew
	From       string // a person says that nothing is lost up to this position
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
		return sayRefusal(runSink(ctx, order))
	case order.Slot == "checkpoint":
		return sayRefusal(keepCheckpoints(ctx, order))
	}
	return sayRefusal(keepJournal(ctx, order))
}

// A child writes lines to its standard output: the number of each marker, progress after each batch, and before it refuses to go on
// refused with the kind of the error.
const (
	progress = "."
	refused  = "refused "
)

func sayRefusal(err error) error {
	if kind := refusalOf(err); kind != "" {
		fmt.Println(refused + kind)
	}
	return err
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
		fmt.Println(progress)
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
	return again(ctx, order, walchan.Subscribe, opts...)
}

func again(ctx context.Context, order childOrder, subscribe func(context.Context, string, ...walchan.Option) (*walchan.Stream, error), opts ...walchan.Option) (*walchan.Stream, error) {
	opts = append(opts, walchan.WithSlot(order.Slot), walchan.WithPublication("chaos"), walchan.WithWaitForSlot(), walchan.WithLogger(logger))
	for {
		s, err := subscribe(ctx, order.DSN, opts...)
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
		walchan.ErrSlotMoved, walchan.ErrDiverged, walchan.ErrUnproven, walchan.ErrCheckpoint, walchan.ErrSlotExists, walchan.ErrPublicationMissing, walchan.ErrProtocol, walchan.ErrAuthentication} {
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
	said    atomic.Int64 // lines

	mu     sync.Mutex
	cmd    *exec.Cmd
	wanted bool          // it should end: it was killed or stopped, or must refuse
	failed error         // it ended by itself
	kind   string        // of its refusal
	down   bool          // stop has ended it
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
	c.cmd, c.wanted, c.kind, c.down, c.done = cmd, false, "", false, make(chan struct{})
	go c.follow(cmd, bufio.NewScanner(out), c.done)
	return nil
}

// follow reads what a process says, to its end.
func (c *child) follow(cmd *exec.Cmd, said *bufio.Scanner, done chan struct{}) {
	defer close(done)
	for said.Scan() {
		n := 0
		c.said.Add(1)
		if kind, ok := strings.CutPrefix(said.Text(), refused); ok {
			c.mu.Lock()
			c.kind = kind
			c.mu.Unlock()
		} else if _, err := fmt.Sscan(said.Text(), &n); err == nil {
			c.reached.reach(n)
		}
	}
	err := cmd.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wanted {
		c.failed = errors.Join(c.failed, c.problem("ended by itself: %v", err))
	}
}

// problem is a finding if the child is a consumer, and an error of chaos itself if it is the server of a sink.
func (c *child) problem(format string, args ...any) error {
	err := fmt.Errorf(c.order.Slot+" "+format, args...)
	if servers[c.order.Slot] != nil {
		return err
	}
	return finding{err}
}

// expect says that the process must refuse to go on.
func (c *child) expect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = true
}

// refusal waits for the end of a process that must refuse, and returns the kind of its error.
func (c *child) refusal(ctx context.Context) (string, error) {
	c.mu.Lock()
	done := c.done
	c.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		_ = c.signal(ctx, syscall.SIGQUIT)
		return "", c.problem("should refuse to go on, and runs: %w", ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kind == "" {
		return "", c.problem("should refuse to go on, and has ended: %v", c.cmd.ProcessState)
	}
	return c.kind, nil
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
		return c.problem("does not end: %w", ctx.Err())
	}
	if sig != syscall.SIGKILL && cmd.ProcessState.ExitCode() != 0 {
		return c.problem("was told to end: %v", cmd.ProcessState)
	}
	return nil
}

// stop tells the process to end, and waits for it.
func (c *child) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if err := c.signal(ctx, syscall.SIGTERM); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = true
	return nil
}

// stopped says whether stop has ended the process.
func (c *child) stopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down
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
