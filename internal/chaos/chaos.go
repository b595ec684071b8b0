package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

const (
	writers       = 3
	senderTimeout = 2 * time.Second  // the server's wal_sender_timeout
	faultEvery    = 2 * time.Second  // at most, apart from the time that one takes
	roundLength   = 15 * time.Second // of faults; then the consumers must catch up
	stuckAfter    = 2 * time.Minute  // without any progress
	catchUpLimit  = 15 * time.Minute // however much progress there is
	stopLimit     = 30 * time.Second // for the server to stop, whatever the consumers do
)

// chaos is one run.
type chaos struct {
	seed     uint64
	duration time.Duration
	largeTx  int    // changes of a large transaction
	only     string // the fail-overs in whose name this is; "": all

	dir string // journals and logs; removed unless something is wrong
	rng *rand.Rand

	source
	succession // of the primaries
	consumers
	holdings
	diary
}

// run makes everything, lets it fail for a while, and judges what the consumers have received.
func (c *chaos) run(ctx context.Context) (report, error) {
	c.rng = rand.New(rand.NewPCG(c.seed, 0))
	c.began, c.counts, c.problems = time.Now(), map[string]int{}, make(chan error, 8)
	c.history, c.refusals, c.from, c.totals = newReference(), map[string]int{}, map[string]walchan.LSN{}, map[string]*total{}
	var err error
	if c.dir, err = os.MkdirTemp("", "walchan-chaos-"); err != nil {
		return report{}, err
	}
	defer c.tearDown()
	if err := c.setUp(ctx); err != nil {
		return report{}, err
	}
	writing, stopWriting := context.WithCancel(ctx)
	var writersDone sync.WaitGroup
	for i := range writers {
		w := newWriter(&c.traffic, c.seed, i+1)
		w.truncates, w.largeTx = i == 0, c.largeTx
		writersDone.Go(func() { w.run(writing) })
	}
	err = c.rounds(ctx)
	stopWriting()
	writersDone.Wait()
	if err == nil {
		err = c.finish(ctx)
	}
	if err != nil {
		return report{}, errors.Join(c.failure(), err, c.situation())
	}
	return c.judge(ctx)
}

// failure is what has become of the tools.
func (c *chaos) failure() (err error) {
	for _, p := range c.proxies {
		err = errors.Join(err, p.failure())
	}
	for _, t := range c.targets {
		err = errors.Join(err, t.proxy.failure())
	}
	if err != nil {
		return toolFailure{err}
	}
	return nil
}

func (c *chaos) setUp(ctx context.Context) (err error) {
	c.cluster, err = pgtest.New(ctx,
		pgtest.WithSetting("wal_sender_timeout", fmt.Sprint(senderTimeout.Milliseconds())),
		pgtest.WithSetting("logical_decoding_work_mem", "1MB"), // large transactions are spilled
		pgtest.WithSetting("checkpoint_timeout", "30s"),
		pgtest.WithSetting("deadlock_timeout", "100ms"))
	if err != nil {
		return err
	}
	if c.only != noFailover && len(c.failovers()) == 0 {
		return fmt.Errorf("PostgreSQL %d has no fail-over %q", c.cluster.Version(), c.only)
	}
	c.servers = append(c.servers, c.cluster.DataDir())
	c.traffic.dsn = c.cluster.SocketDSN()
	for _, sql := range slices.Concat(tables, publishing) {
		if _, err := c.query(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	if err := c.startGeneration(); err != nil {
		return err
	}
	for range slots {
		p, err := newProxy(addressOf(c.cluster))
		if err != nil {
			return err
		}
		c.proxies = append(c.proxies, p)
	}
	c.ddl = newWriter(&c.traffic, c.seed, writers+1)
	if c.log, err = os.Create(filepath.Join(c.dir, "streams.log")); err != nil {
		return err
	}
	if err := c.startTargets(ctx); err != nil {
		return err
	}
	for i, slot := range slots[inThisProcess:] {
		if err := c.addChild(inThisProcess+i, slot); err != nil {
			return err
		}
	}
	if err := c.makeSlots(ctx); err != nil {
		return err
	}
	if err := c.startConsumers(ctx); err != nil {
		return err
	}
	if err := c.awaitSlot(ctx, "checkpoint"); err != nil {
		return err
	}
	return c.makeStandby(ctx)
}

// startGeneration makes a directory for new targets.
func (c *chaos) startGeneration() error {
	c.generation++
	return os.Mkdir(c.generationDir(), 0o700)
}

func (c *chaos) generationDir() string {
	return filepath.Join(c.dir, fmt.Sprint("generation-", c.generation))
}

// rounds injects faults, round after round, and one fail-over in each. After each round the consumers must catch up, because the
// next fault must not save a stream that is stuck.
func (c *chaos) rounds(ctx context.Context) error {
	for end := time.Now().Add(c.duration); time.Now().Before(end) && ctx.Err() == nil; {
		length := min(roundLength, time.Until(end))
		round := time.Now().Add(length)
		due := time.Now().Add(time.Duration(c.rng.Int64N(int64(length))))
		for last := 0; last < len(always) && ctx.Err() == nil; {
			f := choose(c.rng)
			if !time.Now().Before(round) {
				f = always[last]
				last++
			}
			if c.only != noFailover && !due.IsZero() && time.Now().After(due) {
				due, f = time.Time{}, c.nextFailover()
			}
			if err := c.inject(ctx, f); err != nil {
				return err
			}
			sleep(ctx, time.Duration(c.rng.Int64N(int64(faultEvery))))
		}
		if err := c.catchUp(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *chaos) inject(ctx context.Context, f fault) error {
	what, err := f.inject(c, ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", f.kind, err)
	}
	c.note(f.kind, what)
	if err := c.failure(); err != nil {
		return err
	}
	for _, k := range c.children {
		if err := k.failure(); err != nil {
			return err
		}
	}
	for _, t := range c.targets {
		if t.server != nil && t.server.failure() != nil {
			return t.server.failure()
		}
	}
	select {
	case err := <-c.problems:
		return err
	default:
		return nil
	}
}

// finish has the consumers receive the rest, and stops them: by both ways there are, the context (a child's is ended by a
// signal) and Close.
func (c *chaos) finish(ctx context.Context) error {
	if err := c.stopAutovacuum(ctx); err != nil {
		return err
	}
	if err := c.catchUp(ctx); err != nil {
		return err
	}
	c.calm.Store(true)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := errors.Join(c.raw.settled(ctx), c.raw.stream.Close())
	for _, k := range c.children {
		err = errors.Join(err, k.signal(ctx, syscall.SIGTERM))
	}
	c.stream.cancel()
	c.running.Wait()
	err = errors.Join(err, c.stream.stream.Close())
	select {
	case problem := <-c.problems:
		err = errors.Join(err, problem)
	default:
	}
	return err
}

// tearDown ends whatever still runs. It is all that is done where something is wrong.
func (c *chaos) tearDown() {
	for _, k := range c.streams() {
		if k != nil {
			_ = k.stream.Close()
		}
	}
	for _, k := range c.children {
		k.end()
	}
	c.running.Wait()
	for _, t := range c.targets {
		t.proxy.close()
		t.close()
	}
	for _, p := range c.proxies {
		p.close()
	}
	if c.ddl != nil {
		c.ddl.close()
	}
	c.retire(c.standby)
	c.retire(c.cluster)
	if c.log != nil {
		_ = c.log.Close()
	}
}
