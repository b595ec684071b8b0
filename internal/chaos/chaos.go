package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
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
	catchUpLimit  = 3 * time.Minute  // JetStream syncs each message, and a machine may have other work
	stopLimit     = 30 * time.Second // for the server to stop, whatever the consumers do
)

// slots of the consumers: a stream in this process, one of another plugin, and those in processes that are killed: one that
// keeps a journal, and the sinks.
var slots = []string{"stream", "raw", "child", "files", "writer", "postgres", "jetstream", "kafka"}

const inThisProcess = 2 // of slots

// chaos is one run.
type chaos struct {
	seed     uint64
	duration time.Duration
	largeTx  int // changes of a large transaction
	out      io.Writer
	verbose  bool

	dir     string // journals and logs; removed unless something is wrong
	rng     *rand.Rand
	began   time.Time
	cluster *pgtest.Cluster
	proxies []*proxy // by slot
	traffic traffic
	ddl     *writer
	stream  *consumer
	raw     *consumer
	log     *os.File // of the streams

	children []*child // behind those in this process
	targets  []*target
	replica  *pgtest.Cluster // of the sink postgres

	calm      atomic.Bool
	consumers sync.WaitGroup
	problems  chan error // of the consumers, while they run

	mu          sync.Mutex
	counts      map[string]int // of faults
	markers     int
	catchUps    []time.Duration
	longestStop time.Duration
}

// run makes everything, lets it fail for a while, and judges what the consumers have received.
func (c *chaos) run(ctx context.Context) (report, error) {
	c.rng = rand.New(rand.NewPCG(c.seed, 0))
	c.began, c.counts, c.problems = time.Now(), map[string]int{}, make(chan error, 8)
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
		w := newWriter(&c.traffic, c.cluster.SocketDSN(), c.seed, i+1)
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
		return report{}, errors.Join(err, c.situation())
	}
	return c.judge(ctx)
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
	for _, sql := range slices.Concat(tables, publishing) {
		if _, err := c.query(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	for range slots {
		p, err := newProxy(fmt.Sprintf("127.0.0.1:%d", c.cluster.Port()))
		if err != nil {
			return err
		}
		c.proxies = append(c.proxies, p)
	}
	c.ddl = newWriter(&c.traffic, c.cluster.SocketDSN(), c.seed, writers+1)
	if c.log, err = os.Create(filepath.Join(c.dir, "streams.log")); err != nil {
		return err
	}
	c.stream, err = c.consume(ctx, 0, seeMessage, walchan.WithPublication("chaos"), walchan.WithTransactions(), walchan.WithMaxUnacked(5000))
	if err != nil {
		return err
	}
	c.raw, err = c.consume(ctx, 1, seeRaw(), walchan.WithPlugin("test_decoding", nil), walchan.WithBuffer(16, 4096), walchan.WithTerminateOld())
	if err != nil {
		return err
	}
	if err := c.startTargets(ctx); err != nil {
		return err
	}
	for i, slot := range slots[inThisProcess:] {
		if err := c.startChild(ctx, inThisProcess+i, c.holds(slot)); err != nil {
			return err
		}
	}
	return nil
}

// holds is where a child writes to: a target, or files.
func (c *chaos) holds(slot string) string {
	if t := c.target(slot); t != nil {
		return t.url
	}
	return c.journal(slot)
}

// dsn is through the proxy of a slot.
func (c *chaos) dsn(slot int) string {
	return c.cluster.DSN(fmt.Sprintf("port=%d", c.proxies[slot].port()), "connect_timeout=5", "application_name="+slots[slot])
}

// consume starts a consumer in this process.
func (c *chaos) consume(ctx context.Context, slot int, see func(walchan.Message) seen, opts ...walchan.Option) (*consumer, error) {
	name := slots[slot]
	log := slog.New(slog.NewTextHandler(c.log, nil))
	opts = append(opts, walchan.WithSlot(name), walchan.WithCreateSlot(), walchan.WithLogger(log))
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stream, err := walchan.Subscribe(ctx, c.dsn(slot), opts...)
	if err != nil {
		cancel()
		return nil, err
	}
	j, err := openJournal(c.journal(name))
	if err != nil {
		cancel()
		return nil, errors.Join(err, stream.Close())
	}
	k := &consumer{name: name, stream: stream, cancel: cancel, journal: j, see: see, reached: newMilestone(),
		rng: rand.New(rand.NewPCG(c.seed, uint64(1+slot))), calm: &c.calm, note: c.note}
	c.consumers.Go(func() {
		if err := k.run(); err != nil {
			c.problems <- fmt.Errorf("%s: %w", name, err)
		}
	})
	return k, nil
}

func (c *chaos) journal(name string) string { return filepath.Join(c.dir, name+".journal") }

// startChild makes the child's slot, which must exist before there is traffic, and starts it.
func (c *chaos) startChild(ctx context.Context, slot int, target string) error {
	name := slots[slot]
	from, err := c.query(ctx, "SELECT lsn FROM pg_create_logical_replication_slot('"+name+"', 'pgoutput')")
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(c.dir, name+".log"))
	if err != nil {
		return err
	}
	k := &child{order: childOrder{DSN: c.dsn(slot), Slot: name, Target: target, From: from, Seed: c.seed}, log: log, reached: newMilestone()}
	c.children = append(c.children, k)
	return k.start()
}

// rounds injects faults, round after round, with a pause after each in which the consumers must catch up: a stream that is
// stuck must not be saved by the next fault.
func (c *chaos) rounds(ctx context.Context) error {
	for end := c.began.Add(c.duration); time.Now().Before(end) && ctx.Err() == nil; {
		round := time.Now().Add(min(roundLength, time.Until(end)))
		for last := 0; last < len(always) && ctx.Err() == nil; {
			f := choose(c.rng)
			if !time.Now().Before(round) {
				f = always[last]
				last++
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

func (c *chaos) note(kind, what string) {
	c.mu.Lock()
	c.counts[kind]++
	c.mu.Unlock()
	c.say("%s: %s", kind, what)
}

func (c *chaos) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.verbose {
		fmt.Fprintf(c.out, "%7.2f %s\n", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
	}
}

// catchUp ends the faults, and waits until every consumer has come to a row that is written then.
func (c *chaos) catchUp(ctx context.Context) error {
	c.calm.Store(true)
	defer c.calm.Store(false)
	for _, p := range c.proxies {
		p.heal()
	}
	for _, t := range c.targets {
		t.proxy.heal()
	}
	c.markers++
	if _, err := c.query(ctx, fmt.Sprintf("INSERT INTO marker VALUES (%d)", c.markers)); err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, catchUpLimit)
	defer cancel()
	milestones := []*milestone{c.stream.reached, c.raw.reached}
	for _, k := range c.children {
		milestones = append(milestones, k.reached)
	}
	for i, m := range milestones {
		if err := m.wait(ctx, c.markers); err != nil {
			return fmt.Errorf("%s is stuck: it %w, %v after the last fault", slots[i], err, time.Since(began).Round(time.Millisecond))
		}
		c.say("%s has caught up after %v", slots[i], time.Since(began).Round(time.Millisecond))
	}
	c.catchUps = append(c.catchUps, time.Since(began))
	return nil
}

// finish has the consumers receive the rest, and stops them: by both ways there are, the context (a child's is ended by a
// signal) and Close.
func (c *chaos) finish(ctx context.Context) error {
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
	c.consumers.Wait()
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
	if c.stream != nil {
		_ = c.stream.stream.Close()
	}
	if c.raw != nil {
		_ = c.raw.stream.Close()
	}
	for _, k := range c.children {
		k.end()
	}
	c.consumers.Wait()
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
	if c.cluster != nil {
		_ = os.WriteFile(filepath.Join(c.dir, "server.log"), []byte(c.cluster.Log()), 0o600)
		if err := c.cluster.Close(); err != nil {
			fmt.Fprintln(c.out, err)
		}
	}
	if c.log != nil {
		_ = c.log.Close()
	}
}
