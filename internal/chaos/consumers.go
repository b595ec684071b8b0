package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan"
)

// consumers are all that receive: two in this process, and the children.
type consumers struct {
	stream *consumer
	raw    *consumer
	log    *os.File // of these two

	children []*child       // by slot, behind these two
	running  sync.WaitGroup // the ones in this process
	problems chan error     // of these, while they run
	calm     atomic.Bool    // no faults now
	markers  int            // rows of the table marker
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
	k := &consumer{name: name, stream: stream, cancel: cancel, journal: j, see: see, reached: newMilestone(),
		rng: rand.New(rand.NewPCG(c.seed, uint64(1+slot))), calm: &c.calm, note: c.note, ending: ending{ended: make(chan struct{})}}
	c.running.Go(func() {
		defer close(k.ended)
		if k.err = k.run(); k.err != nil && !k.expected.Load() {
			c.problems <- found("%s: %w", name, k.err)
		}
	})
	return k, nil
}

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

// streams are the consumers in this process, by slot.
func (c *consumers) streams() []*consumer { return []*consumer{c.stream, c.raw} }

// child returns that of a slot.
func (c *consumers) child(slot string) *child {
	return c.children[slices.Index(slots, slot)-inThisProcess]
}

// dsn is through the proxy of a slot.
func (c *chaos) dsn(slot int) string {
	return c.cluster.DSN(fmt.Sprintf("port=%d", c.proxies[slot].port()), "connect_timeout=5", "application_name="+slots[slot])
}

// holds is where a child writes to: a target, or files.
func (c *chaos) holds(slot string) string {
	if t := c.target(slot); t != nil {
		return t.url
	}
	return c.journal(slot)
}

func (c *chaos) journal(name string) string { return filepath.Join(c.generationDir(), name+".journal") }

// catchUp ends the faults, and waits until every consumer has come to a row that is written then.
func (c *chaos) catchUp(ctx context.Context) error {
	c.calm.Store(true)
	defer c.calm.Store(false)
	c.heal()
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

func (c *consumers) milestone(slot int) *milestone {
	if slot < inThisProcess {
		return c.streams()[slot].reached
	}
	return c.children[slot-inThisProcess].reached
}

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

// closeStream adds up the counters of a stream that has ended.
func (c *chaos) closeStream(k *consumer) {
	_ = k.stream.Close()
	k.cancel()
	t := c.total(k.name)
	t.reconnects += k.stream.Stats().Reconnects
	t.redelivered += k.again.Load()
}
