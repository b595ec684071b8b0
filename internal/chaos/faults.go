package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/walchan/walchan/internal/pgtest"
)

// A fault is something that goes wrong. inject returns what it has done, once the server, if it was concerned, is up again;
// what is done to the network may go on.
type fault struct {
	kind   string
	weight int
	inject func(*chaos, context.Context) (string, error)
}

// healed is the end of the faults of a network.
const healed = "network healed"

var faults = []fault{
	{"cut", 15, func(c *chaos, _ context.Context) (string, error) {
		p, name := c.network()
		reset := c.rng.IntN(2) == 0
		return fmt.Sprintf("%d of %s, reset %t", p.cut(reset), name, reset), nil
	}},
	{"cut in mid-frame", 15, func(c *chaos, _ context.Context) (string, error) {
		p, name := c.networkOfServer()
		return fmt.Sprintf("%d of %s", p.cutInFrame(), name), nil
	}},
	{"half-open", 10, func(c *chaos, _ context.Context) (string, error) {
		p, name := c.networkOfServer()
		return fmt.Sprintf("%d of %s", p.halfOpen(), name), nil
	}},
	{"stall", 8, func(c *chaos, _ context.Context) (string, error) {
		p, name := c.network()
		d := c.between(100*time.Millisecond, 5*time.Second)
		p.stall(d)
		return fmt.Sprintf("%s for %v", name, d), nil
	}},
	{"delay", 6, func(c *chaos, _ context.Context) (string, error) {
		p, name := c.network()
		d := c.between(time.Millisecond, 100*time.Millisecond)
		p.delay.Store(int64(d))
		return fmt.Sprintf("%s by %v", name, d), nil
	}},
	{"throttle", 6, func(c *chaos, _ context.Context) (string, error) {
		p, name := c.network()
		rate := 1000 + c.rng.IntN(200_000)
		p.rate.Store(int64(rate))
		return fmt.Sprintf("%s to %d bytes/s", name, rate), nil
	}},
	{healed, 12, func(c *chaos, _ context.Context) (string, error) {
		p, name := c.network()
		p.heal()
		return name, nil
	}},
	{"walsender terminated", 10, func(c *chaos, ctx context.Context) (string, error) {
		slot := slots[c.rng.IntN(len(slots))]
		n, err := c.query(ctx, fmt.Sprintf("SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE slot_name = '%s'", slot))
		return fmt.Sprintf("%s of %s", n, slot), err
	}},
	{"server restarted, fast", 4, func(c *chaos, ctx context.Context) (string, error) { return c.restart(ctx, pgtest.Fast) }},
	{"server restarted, immediate", 4, func(c *chaos, ctx context.Context) (string, error) { return c.restart(ctx, pgtest.Immediate) }},
	{"server killed", 4, func(c *chaos, ctx context.Context) (string, error) {
		if err := c.cluster.Kill(); err != nil {
			return "", err
		}
		return c.startAgain(ctx)
	}},
	{"server paused", 4, func(c *chaos, ctx context.Context) (string, error) {
		if err := c.cluster.Pause(); err != nil {
			return "", err
		}
		d := c.between(senderTimeout/2, 3*senderTimeout)
		sleep(ctx, d)
		return fmt.Sprintf("for %v", d), c.cluster.Resume()
	}},
	{"children killed", 20, func(c *chaos, ctx context.Context) (string, error) { return c.killChildren(ctx, c.half) }},
	{"targets killed", 12, func(c *chaos, ctx context.Context) (string, error) {
		return c.killTargets(ctx, c.half, max(0, c.between(-time.Second, 2*time.Second)), func() bool { return c.rng.IntN(4) == 0 })
	}},
	{"table altered", 8, func(c *chaos, ctx context.Context) (string, error) {
		if err := c.ddl.transaction(ctx, c.ddl.alter); err != nil {
			return err.Error(), nil // it came too late to a table that is in use: so be it
		}
		return "", nil
	}},
}

// always are the faults that each round ends with.
var always = []fault{
	{"children killed", 0, func(c *chaos, ctx context.Context) (string, error) { return c.killChildren(ctx, c.all) }},
	{"targets killed", 0, func(c *chaos, ctx context.Context) (string, error) {
		return c.killTargets(ctx, c.all, c.between(200*time.Millisecond, 2*time.Second), c.all)
	}},
}

// half and all choose from several.
func (c *chaos) half() bool { return c.rng.IntN(2) == 0 }
func (c *chaos) all() bool  { return true }

// network chooses whose network fails: the one to the server, or that of a sink to what it writes to.
func (c *chaos) network() (*proxy, string) {
	if i := c.rng.IntN(len(slots) + len(c.targets)); i >= len(slots) {
		t := c.targets[i-len(slots)]
		return t.proxy, t.name
	}
	return c.networkOfServer()
}

// networkOfServer is for faults that need to know the protocol, and for those that only walchan's side is to notice: for how
// long a server may take a dead connection for a sink is its own affair.
func (c *chaos) networkOfServer() (*proxy, string) {
	i := c.rng.IntN(len(slots))
	return c.proxies[i], slots[i]
}

// killChildren kills those that are chosen, and starts them again.
func (c *chaos) killChildren(ctx context.Context, chosen func() bool) (string, error) {
	var killed []string
	for _, k := range c.children {
		if !chosen() {
			continue
		}
		if err := k.signal(ctx, syscall.SIGKILL); err != nil {
			return "", err
		}
		if err := k.start(); err != nil {
			return "", err
		}
		killed = append(killed, fmt.Sprintf("%s (life %d)", k.order.Slot, k.order.Life))
	}
	return strings.Join(killed, ", "), nil
}

// killTargets kills those that are chosen, and starts them after a while. Children that are killed meanwhile have something in
// hand that must come again.
func (c *chaos) killTargets(ctx context.Context, chosen func() bool, down time.Duration, children func() bool) (what string, err error) {
	var killed []*target
	for _, t := range c.targets {
		if !chosen() {
			continue
		}
		if err := t.kill(); err != nil {
			return "", err
		}
		t.kills++
		what += t.name + ", "
		killed = append(killed, t)
	}
	sleep(ctx, down)
	with, err := c.killChildren(ctx, children)
	if err != nil {
		return "", err
	}
	what += fmt.Sprintf("down for %v, and %s", down, with)
	for _, t := range killed {
		if err := t.start(context.WithoutCancel(ctx)); err != nil {
			return "", err
		}
	}
	return what, nil
}

func (c *chaos) between(low, high time.Duration) time.Duration {
	return (low + time.Duration(c.rng.Int64N(int64(high-low)))).Round(time.Millisecond)
}

// restart stops the server. That must not depend on what the consumers do. It does depend on the networks' rates: with Fast the
// server first sends all that it has decoded, and at a few kB a second that takes minutes.
func (c *chaos) restart(ctx context.Context, mode pgtest.Mode) (string, error) {
	took, err := c.stop(ctx, mode)
	if err != nil {
		return "", err
	}
	what, err := c.startAgain(ctx)
	return fmt.Sprintf("stopped after %v, %s", took, what), err
}

func (c *chaos) stop(ctx context.Context, mode pgtest.Mode) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	for _, p := range c.proxies {
		p.rate.Store(0)
	}
	began := time.Now()
	if err := c.cluster.Stop(ctx, mode); err != nil {
		return 0, finding{err}
	}
	took := time.Since(began).Round(time.Millisecond)
	c.longestStop = max(c.longestStop, took)
	return took, nil
}

// startAgain starts the server, perhaps after a while.
func (c *chaos) startAgain(ctx context.Context) (string, error) {
	d := max(0, c.between(-2*time.Second, 2*time.Second))
	sleep(ctx, d)
	return fmt.Sprintf("down for %v", d), c.cluster.Start(context.WithoutCancel(ctx))
}

// choose picks a fault by weight.
func choose(rng *rand.Rand) fault {
	sum := 0
	for _, f := range faults {
		sum += f.weight
	}
	n := rng.IntN(sum)
	for _, f := range faults {
		if n -= f.weight; n < 0 {
			return f
		}
	}
	panic("unreachable")
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
