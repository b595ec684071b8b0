package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

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
