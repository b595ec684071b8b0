package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walchan/walchan"
)

// refusalLimit is how long a consumer may take to notice. While no server answers its pauses between attempts grow.
const refusalLimit = 2 * time.Minute

// refusals are the kinds of errors with which a consumer refuses a server or slot that lacks something.
var refusals = map[string]error{"ErrDiverged": walchan.ErrDiverged, "ErrSlotMissing": walchan.ErrSlotMissing, "ErrSlotMoved": walchan.ErrSlotMoved}

func refusalOf(err error) string {
	for name, kind := range refusals {
		if errors.Is(err, kind) {
			return name
		}
	}
	return ""
}

// refuseLater makes sure that no later process of a consumer with checkpoints goes on. It starts one at once, one when the new
// server's WAL is longer than the old one's, and one with a slot that was made again.
func (c *chaos) refuseLater(ctx context.Context, end walchan.LSN) error {
	for _, prepare := range []func() error{
		func() error { return nil },
		func() error { return c.comeFurther(ctx, end) },
		func() error { return c.remakeSlots(ctx, checkpointedSlots()...) },
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
func (s *source) comeFurther(ctx context.Context, end walchan.LSN) error {
	for {
		if _, err := s.query(ctx, "SELECT pg_switch_wal()"); err != nil {
			return err
		}
		if is, err := s.query(ctx, "SELECT pg_current_wal_flush_lsn() > '"+end.String()+"'"); err != nil || is == "t" {
			return err
		}
	}
}

// awaitRefusals waits until all processes and streams have refused.
func (c *chaos) awaitRefusals(ctx context.Context) error {
	c.heal()
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
