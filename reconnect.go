package walchan

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
)

// defaultRetry goes on for ever: backoff's own default gives up after 15 minutes.
func defaultRetry() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMultiplier(2),
		backoff.WithMaxInterval(30*time.Second),
		backoff.WithMaxElapsedTime(0),
	)
}

// stuckAfter attempts without progress an outage is logged as an error.
const stuckAfter = 10

// reconnect dials until there is a stream again. c is the connection that was lost and why its end. The error is permanent,
// or errStopped.
func (o *owner) reconnect(c *connection, why error) (*connection, error) {
	if o.cfg.slot == "" && !o.cfg.physical {
		return nil, &Error{Kind: ErrSlotLost, What: fmt.Sprintf("temporary slot %q is gone with its connection", o.source.Slot), Err: why,
			Advice: "use a permanent slot (WithSlot, WithCreateSlot) for a stream that outlives its connections"}
	}
	o.outage.Lost(c.Received, time.Since(c.Status.Since))
	for {
		if why != errTimelineEnd && why != errUnprovable {
			if err := o.pause(why); err != nil {
				return nil, err
			}
		}
		next, err := o.open(c)
		switch {
		case err == nil:
			o.gauge.mu.Lock()
			o.gauge.reconnects++
			o.gauge.mu.Unlock()
			o.cfg.log.Info("connected again", "slot", o.source.Slot, "attempt", o.outage.Attempt, "resumed_at", next.From)
			return next, nil
		case o.ctx.Err() != nil:
			return nil, errStopped
		case pgfail.IsPermanent(err):
			return nil, err
		}
		why = err
	}
}

// pause waits before the next attempt.
func (o *owner) pause(why error) error {
	x := &o.outage
	delay, ok := x.Next(o.cfg.retry)
	if !ok {
		return fmt.Errorf("walchan: gave up after %d attempts without progress: %w", x.Attempt-1, why)
	}
	o.gauge.mu.Lock()
	o.gauge.attempt, o.gauge.delay = x.Attempt, delay
	o.gauge.mu.Unlock()
	o.setState(StateRetrying, why)
	level := slog.LevelWarn
	if x.Attempt == stuckAfter {
		level = slog.LevelError
	}
	o.cfg.log.Log(o.ctx, level, "disconnected, trying again", "slot", o.source.Slot, "attempt", x.Attempt,
		"delay", delay.Round(time.Millisecond), "received", x.At, "error", why)
	if !link.Sleep(o.ctx, delay) {
		return errStopped
	}
	return nil
}

// begin makes the first connection, and the slot if that is asked for.
func (o *owner) begin() (*connection, error) {
	o.source.Slot = o.cfg.slot
	if o.source.Slot == "" && !o.cfg.physical {
		o.source.Slot = fmt.Sprintf("walchan_%x", rand.Uint64())
	}
	wait := begin.Wait{Making: slots.Making{Slot: o.source.Slot, ID: o.id}, Log: o.cfg.log, Waiting: o.awaitsSlot}
	for {
		c, err := o.open(nil)
		if err == begin.ErrStoredMore {
			continue
		}
		switch {
		case err == nil, !errors.Is(err, ErrSlotActive):
			return c, err
		case o.cfg.waitForSlot:
			err = wait.UntilFree(o.ctx, o.dialToLook, err)
		default:
			err = wait.IfLeaving(o.ctx, err)
		}
		if err != nil {
			return nil, err
		}
	}
}

// dialToLook makes the connection over which the slot is looked at. It is a walsender's, because a smart stop of the server does not wait
// for those.
func (o *owner) dialToLook() (*session.Conn, error) {
	cfg := *o.cfg
	cfg.physical = false // that has no SQL
	c, err := cfg.dial(o.ctx, o.source.Slot)
	if err != nil {
		return nil, err
	}
	return c.Conn, nil
}

// awaitsSlot publishes that the stream waits for its slot.
func (o *owner) awaitsSlot(looks int, why error) {
	o.gauge.mu.Lock()
	o.gauge.attempt, o.gauge.delay = looks, begin.SlotPoll
	o.gauge.mu.Unlock()
	o.setState(StateRetrying, why)
}
