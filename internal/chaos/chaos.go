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
	stuckAfter    = 2 * time.Minute  // without any progress
	catchUpLimit  = 15 * time.Minute // however much progress there is
	stopLimit     = 30 * time.Second // for the server to stop, whatever the consumers do
)

// slots are those of the consumers. In this process run a stream and one of another plugin. In processes that are killed run one
// with a journal, one with checkpoints, and the sinks.
var slots = []string{"stream", "raw", "child", "checkpoint", "files", "writer", "postgres", "jetstream", "kafka"}

const inThisProcess = 2 // of slots

// chaos is one run.
type chaos struct {
	seed     uint64
	duration time.Duration
	largeTx  int // changes of a large transaction
	out      io.Writer
	verbose  bool
	only     string // the fail-overs in whose name this is; "": all

	dir     string // journals and logs; removed unless something is wrong
	rng     *rand.Rand
	began   time.Time
	cluster *pgtest.Cluster // the primary
	standby *pgtest.Cluster
	servers []string // data directories of all that there were
	proxies []*proxy // by slot
	traffic traffic
	ddl     *writer
	stream  *consumer
	raw     *consumer
	log     *os.File // of the streams

	children []*child // behind those in this process
	targets  []*target
	replica  *pgtest.Cluster // of the sink postgres

	succession                        // of the primaries
	generation int                    // how often the targets were made
	from       map[string]walchan.LSN // by slot: where the consumer's target begins
	totals     map[string]*total      // by slot

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

func addressOf(s *pgtest.Cluster) string { return fmt.Sprintf("127.0.0.1:%d", s.Port()) }

// makeSlots makes the slots before the traffic begins. The consumer "checkpoint" makes its own.
func (c *chaos) makeSlots(ctx context.Context) (err error) {
	for _, name := range slots {
		if name == "checkpoint" {
			continue
		}
		if c.from[name], err = c.makeSlot(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// startConsumers starts all of them.
func (c *chaos) startConsumers(ctx context.Context) error {
	if err := c.startStreams(ctx); err != nil {
		return err
	}
	for _, k := range c.children {
		k.order.Target, k.order.Generation, k.order.Origin = c.holds(k.order.Slot), c.generation, c.from[k.order.Slot].String()
		if err := k.start(); err != nil {
			return err
		}
	}
	return nil
}

// startStreams starts the consumers in this process.
func (c *chaos) startStreams(ctx context.Context) (err error) {
	c.stream, err = c.consume(ctx, 0, seeMessage, walchan.WithPublication("chaos"), walchan.WithTransactions(), walchan.WithMaxUnacked(5000))
	if err != nil {
		return err
	}
	c.raw, err = c.consume(ctx, 1, seeRaw(), walchan.WithPlugin("test_decoding", nil), walchan.WithBuffer(16, 4096), walchan.WithTerminateOld())
	return err
}

// makeSlot makes a slot on the primary, and returns where it begins.
func (c *chaos) makeSlot(ctx context.Context, name string) (walchan.LSN, error) {
	plugin, failover := "pgoutput", ""
	if name == "raw" {
		plugin = "test_decoding"
	}
	if c.synchronises() {
		failover = ", failover => true"
	}
	at, err := c.query(ctx, "SELECT lsn FROM pg_create_logical_replication_slot('"+name+"', '"+plugin+"'"+failover+")")
	if err != nil {
		return 0, err
	}
	return walchan.ParseLSN(at)
}

// awaitSlot waits until a consumer has made its slot.
func (c *chaos) awaitSlot(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, stuckAfter)
	defer cancel()
	for {
		n, err := c.query(ctx, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+name+"'")
		if err != nil {
			return found("%s does not make its slot: %w", name, err)
		}
		if n == "1" {
			return nil
		}
		sleep(ctx, 20*time.Millisecond)
	}
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
	opts = append(opts, walchan.WithSlot(name), walchan.WithLogger(log))
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
	k := &consumer{name: name, stream: stream, cancel: cancel, journal: j, see: see, reached: newMilestone(), ended: make(chan struct{}),
		rng: rand.New(rand.NewPCG(c.seed, uint64(1+slot))), calm: &c.calm, note: c.note}
	c.consumers.Go(func() {
		defer close(k.ended)
		if k.err = k.run(); k.err != nil && !k.expected.Load() {
			c.problems <- found("%s: %w", name, k.err)
		}
	})
	return k, nil
}

func (c *chaos) journal(name string) string { return filepath.Join(c.generationDir(), name+".journal") }

// addChild makes a child without starting it.
func (c *chaos) addChild(slot int, name string) error {
	log, err := os.Create(filepath.Join(c.dir, name+".log"))
	if err != nil {
		return err
	}
	k := &child{order: childOrder{DSN: c.dsn(slot), Slot: name, Seed: c.seed, Failover: c.synchronises()}, log: log, reached: newMilestone()}
	c.children = append(c.children, k)
	return nil
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
	began, interrupted := time.Now(), ctx
	ctx, cancel := context.WithTimeout(ctx, catchUpLimit)
	defer cancel()
	for i, slot := range slots {
		switch err := c.await(ctx, i); {
		case context.Cause(interrupted) != nil:
			return context.Cause(interrupted)
		case err != nil:
			return found("%s is stuck: it %w, %v after the last fault", slot, err, time.Since(began).Round(time.Millisecond))
		}
		c.say("%s has caught up after %v", slot, time.Since(began).Round(time.Millisecond))
	}
	c.catchUps = append(c.catchUps, time.Since(began))
	for _, k := range c.children {
		k.order.From = "" // more is stored by now
	}
	return nil
}

// await waits until a consumer has come to the last marker. On a busy machine that may take long. It is stuck if it makes no
// progress.
func (c *chaos) await(ctx context.Context, slot int) error {
	at, since := "", time.Now()
	for {
		patience, cancel := context.WithTimeout(ctx, time.Second)
		err := c.milestone(slot).wait(patience, c.markers)
		cancel()
		switch now := c.progress(ctx, slot); {
		case err == nil || ctx.Err() != nil:
			return err
		case slot >= inThisProcess && c.children[slot-inThisProcess].failure() != nil:
			return c.children[slot-inThisProcess].failure()
		case now != at:
			at, since = now, time.Now()
		case time.Since(since) > stuckAfter:
			return fmt.Errorf("%w, without any progress for %v", err, stuckAfter)
		}
	}
}

func (c *chaos) milestone(slot int) *milestone {
	if slot < inThisProcess {
		return c.streams()[slot].reached
	}
	return c.children[slot-inThisProcess].reached
}

// streams are the consumers in this process, by slot.
func (c *chaos) streams() []*consumer { return []*consumer{c.stream, c.raw} }

// progress changes whenever a consumer comes further.
func (c *chaos) progress(ctx context.Context, slot int) string {
	if slot < inThisProcess {
		s := c.streams()[slot].stream.Stats()
		return fmt.Sprint(s.Delivered, s.Acknowledged)
	}
	amount := ""
	if t := c.target(slots[slot]); t != nil && t.amount != nil {
		amount = t.amount(ctx)
	}
	return fmt.Sprint(c.children[slot-inThisProcess].said.Load(), amount)
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
	c.consumers.Wait()
	err = errors.Join(err, c.stream.stream.Close())
	select {
	case problem := <-c.problems:
		err = errors.Join(err, problem)
	default:
	}
	return err
}

// stopAutovacuum returns when the server makes no more transactions by itself. Such a one after the last marker would be in the reference
// of a plugin that shows empty transactions, and not in what its consumer has received.
func (c *chaos) stopAutovacuum(ctx context.Context) error {
	for _, sql := range []string{"ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"} {
		if _, err := c.query(ctx, sql); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		left, err := c.query(ctx, "SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('autovacuum worker', 'autovacuum launcher')")
		if err != nil || left == "0" {
			return err
		}
		sleep(ctx, 10*time.Millisecond)
	}
	return context.Cause(ctx)
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
	c.retire(c.standby)
	c.retire(c.cluster)
	if c.log != nil {
		_ = c.log.Close()
	}
}
