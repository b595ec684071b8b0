package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// A fail-over ends the primary for good. Its standby takes over, and a new standby is made.
//
// If nothing is lost the consumers must not notice. That needs a standby with everything that they have received, and
// synchronised slots (PostgreSQL 17 or later). A slot that an operator makes again is different. Even if he stops the traffic
// before, no consumer can tell this from a loss. So a consumer with a memory must refuse until a person says that nothing is
// lost.
//
// If the standby lacks something that the consumers have, all of them must refuse. Consumers with checkpoints must refuse in every
// later process, too, until their targets are copied again.

// synchronisedSlots are the fail-overs for which the standby needs the slots.
var synchronisedSlots = []fault{
	{"fail-over, nothing lost", 0, func(c *chaos, ctx context.Context) (string, error) {
		return c.failOver(ctx, func(context.Context) error { return c.cluster.Kill() })
	}},
	{"switch-over", 0, func(c *chaos, ctx context.Context) (string, error) { return c.failOver(ctx, c.stopFast) }},
}

// anySlots are the fail-overs of all versions.
var anySlots = []fault{
	{"fail-over, tail lost", 0, (*chaos).failOverWithLoss},
	{"switch-over, slots made again", 0, (*chaos).switchByHand},
}

// refusalLimit is how long a consumer may take to notice. While no server answers its pauses between attempts grow.
const refusalLimit = 2 * time.Minute

// succession describes the earlier primaries.
type succession struct {
	queue    []fault        // fail-overs to come
	history  *reference     // what the primary has of its predecessors
	lost     int            // committed transactions that a successor did not have
	refusals map[string]int // by kind
	wrong    []string       // beside the verdicts
}

// nextFailover takes each kind once before it repeats one.
func (c *chaos) nextFailover() fault {
	if len(c.queue) == 0 {
		c.queue = c.failovers()
		c.rng.Shuffle(len(c.queue), func(i, k int) { c.queue[i], c.queue[k] = c.queue[k], c.queue[i] })
	}
	next := c.queue[0]
	c.queue = c.queue[1:]
	return next
}

// noFailover is part of no fail-over's name. Fail-overs take long on a loaded machine, and the short run in make test has none.
const noFailover = "none"

// failovers are those of the server's version, as far as the command line asks for them.
func (c *chaos) failovers() []fault {
	all := slices.Clone(anySlots)
	if c.synchronises() {
		all = slices.Concat(synchronisedSlots, all)
	}
	return slices.DeleteFunc(all, func(f fault) bool { return !strings.Contains(f.kind, c.only) })
}

func kindsOfFailovers() string {
	var kinds []string
	for _, f := range slices.Concat(synchronisedSlots, anySlots) {
		kinds = append(kinds, f.kind)
	}
	return strings.Join(kinds, "; ")
}

// synchronises says whether standbys keep copies of slots.
func (c *chaos) synchronises() bool { return c.cluster.Version() >= 17 }

// failOver loses nothing. The consumers must not notice.
func (c *chaos) failOver(ctx context.Context, end func(context.Context) error) (string, error) {
	if err := c.awaitSynchronised(ctx); err != nil {
		return "", err
	}
	if err := end(ctx); err != nil {
		return "", err
	}
	c.traffic.gate.Lock()
	old, err := c.succeed(ctx, c.rng.IntN(2) == 0, nil)
	if err != nil {
		return "", err
	}
	_, err = c.bequeath(ctx, old)
	return old.describe(), err
}

// stopFast stops the primary, which sends everything to its standby before.
func (c *chaos) stopFast(ctx context.Context) error {
	_, err := c.stop(ctx, pgtest.Fast)
	return err
}

// switchByHand loses nothing, but the slots are made again on the new primary.
func (c *chaos) switchByHand(ctx context.Context) (string, error) {
	c.traffic.gate.Lock()
	at, err := c.settle(ctx)
	if err != nil {
		c.traffic.gate.Unlock()
		return "", err
	}
	for _, k := range c.children { // the operator forgets to stop some
		if k.expect(); c.half() {
			if err := k.stop(ctx); err != nil {
				c.traffic.gate.Unlock()
				return "", err
			}
		}
	}
	for _, k := range c.streams() {
		k.expected.Store(true)
	}
	if err := c.stopFast(ctx); err != nil {
		c.traffic.gate.Unlock()
		return "", err
	}
	// With synchronised slots an early consumer continues from its old slot.
	old, err := c.succeed(ctx, !c.synchronises() && c.half(), func(ctx context.Context) error { return c.remakeSlots(ctx, slots...) })
	if err != nil {
		return "", err
	}
	if _, err := c.bequeath(ctx, old); err != nil {
		return "", err
	}
	if err := c.awaitRefusals(ctx); err != nil {
		return "", err
	}
	if err := c.startStreams(ctx); err != nil {
		return "", err
	}
	for _, k := range c.children {
		if err := c.acceptSlot(ctx, k); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%s; everything up to %s was confirmed", old.describe(), at), nil
}

// acceptSlot starts a child again, with a slot that was made again.
func (c *chaos) acceptSlot(ctx context.Context, k *child) error {
	if !checkpointed[k.order.Slot] {
		return k.start() // it has no memory, and goes on from the slot
	}
	if err := c.mustRefuse(ctx, k); err != nil {
		return err
	}
	at, err := c.query(ctx, "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '"+k.order.Slot+"'")
	if err != nil {
		return err
	}
	k.order.From = at
	return k.start()
}

// failOverWithLoss goes to a standby that lacks something that the consumers have.
func (c *chaos) failOverWithLoss(ctx context.Context) (string, error) {
	if err := c.cutOff(ctx); err != nil {
		return "", err
	}
	if err := c.catchUp(ctx); err != nil { // with a row that the standby lacks
		return "", err
	}
	sleep(ctx, c.between(0, time.Second))
	for _, k := range c.children {
		k.expect()
	}
	for _, k := range c.streams() {
		k.expected.Store(true)
	}
	if err := c.cluster.Kill(); err != nil {
		return "", err
	}
	c.traffic.gate.Lock()
	old, err := c.succeed(ctx, c.half(), nil)
	if err != nil {
		return "", err
	}
	all, err := c.bequeath(ctx, old)
	if err != nil {
		return "", err
	}
	if err := c.awaitRefusals(ctx); err != nil {
		return "", err
	}
	c.say("all have refused")
	if err := c.closeTargets(ctx, all, true); err != nil {
		return "", err
	}
	if err := c.refuseLater(ctx, all.end); err != nil {
		return "", err
	}
	return old.describe(), c.beginAnew(ctx)
}

// refuseLater makes sure that no later process of a consumer with checkpoints goes on. It starts one at once, one when the new
// server's WAL is longer than the old one's, and one with a slot that was made again.
func (c *chaos) refuseLater(ctx context.Context, end walchan.LSN) error {
	for _, prepare := range []func() error{
		func() error { return nil },
		func() error { return c.comeFurther(ctx, end) },
		func() error { return c.remakeSlots(ctx, c.checkpointedSlots()...) },
	} {
		if err := prepare(); err != nil {
			return err
		}
		for _, k := range c.children {
			if !checkpointed[k.order.Slot] {
				continue
			}
			if err := c.mustRefuse(ctx, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// mustRefuse starts a process. It must end, and must not store anything.
func (c *chaos) mustRefuse(ctx context.Context, k *child) error {
	before, err := c.holding(ctx, k)
	if err != nil {
		return err
	}
	if err := k.start(); err != nil {
		return err
	}
	k.expect()
	if err := c.awaitRefusal(ctx, k.refusal); err != nil {
		return err
	}
	after, err := c.holding(ctx, k)
	if err == nil && before != after {
		err = k.problem("has stored something although it refused to go on: it had %s, and has %s", before, after)
	}
	return err
}

// comeFurther has the primary write WAL beyond a position.
func (c *chaos) comeFurther(ctx context.Context, end walchan.LSN) error {
	for {
		if _, err := c.query(ctx, "SELECT pg_switch_wal()"); err != nil {
			return err
		}
		if is, err := c.query(ctx, "SELECT pg_current_wal_flush_lsn() > '"+end.String()+"'"); err != nil || is == "t" {
			return err
		}
	}
}

// awaitRefusals waits until all processes and streams have refused.
func (c *chaos) awaitRefusals(ctx context.Context) error {
	for _, p := range c.proxies {
		p.heal()
	}
	for _, k := range c.streams() {
		if err := c.awaitRefusal(ctx, k.refusal); err != nil {
			return err
		}
		c.closeStream(k)
	}
	for _, k := range c.children {
		if k.stopped() {
			continue
		}
		if err := c.awaitRefusal(ctx, k.refusal); err != nil {
			return err
		}
	}
	return nil
}

func (c *chaos) awaitRefusal(ctx context.Context, refusal func(context.Context) (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, refusalLimit)
	defer cancel()
	kind, err := refusal(ctx)
	if err == nil {
		c.refusals[kind]++
	}
	return err
}

// closeStream adds up the counters of a stream that has ended.
func (c *chaos) closeStream(k *consumer) {
	_ = k.stream.Close()
	k.cancel()
	t := c.total(k.name)
	t.reconnects += k.stream.Stats().Reconnects
	t.redelivered += k.again.Load()
}

// beginAnew does what a person does after a loss: new targets, new slots.
func (c *chaos) beginAnew(ctx context.Context) error {
	lost, err := lastCheckpoint(c.journal("checkpoint"))
	if err == nil {
		err = c.startGeneration()
	}
	if err != nil {
		return err
	}
	keeper := c.child("checkpoint")
	anew := slices.Clone(slots)
	if keeper.order.Lost = ""; c.half() { // by SubscribeAnew, which drops the slot
		keeper.order.Lost = lost
		anew = slices.DeleteFunc(anew, func(s string) bool { return s == "checkpoint" })
		err = os.WriteFile(c.journal("checkpoint"), []byte("\n"+lost+"\t\t\n"), 0o600)
	}
	if err == nil {
		err = c.makeAnew(ctx, anew)
	}
	if err == nil {
		err = c.startConsumers(ctx)
	}
	if err != nil {
		return err
	}
	// If it is killed among the rows, they start over.
	for range c.rng.IntN(3) {
		sleep(ctx, c.between(0, 500*time.Millisecond))
		if err := errors.Join(keeper.signal(ctx, syscall.SIGKILL), keeper.start()); err != nil {
			return err
		}
	}
	return c.awaitSlot(ctx, "checkpoint")
}

// makeAnew makes slots and targets while nothing is written. So each target is a copy as of its slot.
func (c *chaos) makeAnew(ctx context.Context, dropped []string) error {
	c.traffic.gate.Lock()
	defer c.traffic.gate.Unlock()
	if err := c.dropSlots(ctx, dropped...); err != nil {
		return err
	}
	if err := c.makeSlots(ctx); err != nil {
		return err
	}
	return c.renewTargets(ctx)
}

// child returns that of a slot.
func (c *chaos) child(slot string) *child { return c.children[slices.Index(slots, slot)-inThisProcess] }

// checkpointed are the consumers with checkpoints.
var checkpointed = map[string]bool{"checkpoint": true, "postgres": true, "jetstream": true}

func (c *chaos) checkpointedSlots() []string {
	return slices.DeleteFunc(slices.Clone(slots), func(s string) bool { return !checkpointed[s] })
}

// predecessor is an earlier primary.
type predecessor struct {
	*pgtest.Cluster
	fork walchan.LSN // where its successor has left its history
	sure []int64     // numbers of the committed transactions
	lost int         // how many of these the successor lacks
}

func (p *predecessor) describe() string {
	return fmt.Sprintf("forked at %s, %d committed transactions lost", p.fork, p.lost)
}

// succeed promotes the standby of a primary that is dead, while the gate is closed, and opens the gate. With early the consumers
// reach the standby while it is in recovery. prepare is called before anything is written.
func (c *chaos) succeed(ctx context.Context, early bool, prepare func(context.Context) error) (*predecessor, error) {
	defer c.traffic.gate.Unlock()
	old := &predecessor{Cluster: c.cluster, sure: c.traffic.takeSure()}
	if early {
		c.lead(c.standby)
		sleep(ctx, c.between(0, 500*time.Millisecond))
	}
	if err := c.standby.Promote(ctx); err != nil {
		return nil, err
	}
	c.cluster, c.standby = c.standby, nil
	c.traffic.dsn = c.cluster.SocketDSN()
	var err error
	if old.fork, err = forkOf(ctx, c.cluster); err != nil {
		return nil, err
	}
	if _, err := c.query(ctx, makeReference); err != nil {
		return nil, err
	}
	if prepare != nil {
		if err := prepare(ctx); err != nil {
			return nil, err
		}
	}
	c.lead(c.cluster)
	c.say("the standby is promoted")
	return old, nil
}

// lead has the consumers connect to a server.
func (c *chaos) lead(s *pgtest.Cluster) {
	for _, p := range c.proxies {
		p.lead(addressOf(s))
	}
}

// forkOf returns where a promoted server has left the history of its primary.
func forkOf(ctx context.Context, s *pgtest.Cluster) (walchan.LSN, error) {
	timeline, err := query(ctx, s, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")
	if err != nil {
		return 0, err
	}
	content, err := os.ReadFile(filepath.Join(s.DataDir(), "pg_wal", timeline+".history"))
	if err != nil {
		return 0, err
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	if len(fields) < 2 {
		return 0, fmt.Errorf("the history of timeline %s is %q", timeline, content)
	}
	return walchan.ParseLSN(fields[1])
}

// bequeath reads what happened on an earlier primary, and makes a new standby. It starts that primary where no consumer finds it.
// It returns everything that the consumers may have.
func (c *chaos) bequeath(ctx context.Context, old *predecessor) (*reference, error) {
	if err := old.Start(ctx); err != nil {
		return nil, err
	}
	own, err := readReference(ctx, old.SocketDSN())
	if err != nil {
		return nil, err
	}
	c.retire(old.Cluster)
	c.say("the earlier primary is read: %d messages", len(own.published))
	all := c.history.join(own)
	c.history = c.history.join(own.cut(old.fork))
	for _, tx := range old.sure {
		number := fmt.Sprint(tx)
		if _, ok := own.ledger[number]; !ok {
			c.wrong = append(c.wrong, fmt.Sprintf("transaction %d was committed and is not in the reference", tx))
		} else if _, ok := c.history.ledger[number]; !ok {
			old.lost++
		}
	}
	c.lost += old.lost
	return all, c.makeStandby(ctx)
}

// makeStandby makes the standby of the next fail-over.
func (c *chaos) makeStandby(ctx context.Context) (err error) {
	opts := []pgtest.Option{pgtest.WithSetting("hot_standby_feedback", "on"), pgtest.WithSetting("wal_retrieve_retry_interval", "100ms")}
	if c.synchronises() {
		opts = append(opts, pgtest.WithSetting("sync_replication_slots", "on"))
	}
	if c.standby, err = c.cluster.NewStandby(ctx, opts...); err != nil {
		return err
	}
	c.servers = append(c.servers, c.standby.DataDir())
	c.say("there is a standby")
	if !c.synchronises() {
		return nil
	}
	// Without this setting the consumers could receive something that the standby lacks.
	slot, err := query(ctx, c.standby, "SHOW primary_slot_name")
	if err == nil {
		err = c.until(ctx, c.cluster, "SELECT active FROM pg_replication_slots WHERE slot_name = '"+slot+"'")
	}
	if err != nil {
		return err
	}
	return c.set(ctx, c.cluster, "synchronized_standby_slots", slot)
}

// cutOff separates the standby from the primary.
func (c *chaos) cutOff(ctx context.Context) error {
	if c.synchronises() {
		if err := c.set(ctx, c.cluster, "synchronized_standby_slots", ""); err != nil {
			return err
		}
	}
	if err := c.set(ctx, c.standby, "primary_conninfo", ""); err != nil {
		return err
	}
	return c.until(ctx, c.standby, "SELECT count(*) = 0 FROM pg_stat_wal_receiver")
}

func (c *chaos) set(ctx context.Context, s *pgtest.Cluster, name, value string) error {
	for _, sql := range []string{"ALTER SYSTEM SET " + name + " = '" + value + "'", "SELECT pg_reload_conf()"} {
		if _, err := query(ctx, s, sql); err != nil {
			return err
		}
	}
	return nil
}

// awaitSynchronised waits until the standby has a permanent copy of each slot. A new copy becomes permanent when the consumer has
// confirmed more.
func (c *chaos) awaitSynchronised(ctx context.Context) error {
	for _, p := range c.proxies {
		p.heal()
	}
	ctx, cancel := context.WithTimeout(ctx, stuckAfter)
	defer cancel()
	for {
		n, err := query(ctx, c.standby, "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary AND invalidation_reason IS NULL")
		if err != nil {
			return fmt.Errorf("the slots are not synchronised: %w", err)
		}
		if n == fmt.Sprint(len(slots)) {
			c.say("the slots are synchronised")
			return nil
		}
		if _, err := c.query(ctx, "SELECT pg_log_standby_snapshot()"); err != nil { // slots need it to move on
			return fmt.Errorf("the slots are not synchronised: %w", err)
		}
		sleep(ctx, 200*time.Millisecond)
	}
}

// settle waits until all consumers have confirmed everything. The gate is closed.
func (c *chaos) settle(ctx context.Context) (string, error) {
	at, err := c.query(ctx, "SELECT pg_current_wal_lsn()")
	if err == nil {
		err = c.catchUp(ctx) // it writes a row after that position
	}
	if err == nil {
		err = c.until(ctx, c.cluster, fmt.Sprintf("SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name IN ('%s') AND confirmed_flush_lsn < '%s'", strings.Join(slots, "', '"), at))
	}
	return at, err
}

// until waits for a query to return true.
func (c *chaos) until(ctx context.Context, s *pgtest.Cluster, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, stuckAfter)
	defer cancel()
	for {
		is, err := query(ctx, s, sql)
		if err != nil || is == "t" {
			return err
		}
		if sleep(ctx, 20*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("%s: %w", sql, ctx.Err())
		}
	}
}

// remakeSlots makes slots again.
func (c *chaos) remakeSlots(ctx context.Context, names ...string) error {
	if err := c.dropSlots(ctx, names...); err != nil {
		return err
	}
	for _, name := range names {
		if _, err := c.makeSlot(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (c *chaos) dropSlots(ctx context.Context, names ...string) error {
	for _, name := range names {
		if _, err := c.query(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '"+name+"'"); err != nil {
			return err
		}
	}
	return nil
}

// retire removes a server. Its log stays.
func (c *chaos) retire(s *pgtest.Cluster) {
	if s == nil {
		return
	}
	name := fmt.Sprintf("server-%d.log", 1+slices.Index(c.servers, s.DataDir()))
	_ = os.WriteFile(filepath.Join(c.dir, name), []byte(s.Log()), 0o600)
	if err := s.Close(); err != nil {
		fmt.Fprintln(c.out, err)
	}
}

// holding describes everything that a consumer with checkpoints has stored.
func (c *chaos) holding(ctx context.Context, k *child) (string, error) {
	switch k.order.Slot {
	case "postgres":
		return queryDSN(ctx, c.replicaDSN(), "SELECT count(*) || ' changes, ' || (SELECT string_agg(p::text, ' ') FROM walchan_position p) FROM audit")
	case "jetstream":
		return c.amountOfJetStream(ctx) + " messages", nil
	}
	last, err := lastCheckpoint(k.order.Target)
	if err != nil {
		return "", err
	}
	lines := 0
	err = readKept(k.order.Target, func(l keptLine) {
		if !l.start {
			lines++
		}
	})
	return fmt.Sprintf("%d lines up to %s", lines, last), err
}
