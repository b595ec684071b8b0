package walchan

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgfail"
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
		return nil, slots.Lost(o.source.Slot, why)
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
			o.cfg.log.Info("connected again", "slot", o.source.Slot, "attempt", o.outage.Attempt, "resumed_at", next.From.String())
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
	o.retrying(x.Attempt, delay, why)
	level := slog.LevelWarn
	if x.Attempt == stuckAfter {
		level = slog.LevelError
	}
	o.cfg.log.Log(o.ctx, level, "disconnected, trying again", "slot", o.source.Slot, "attempt", x.Attempt,
		"delay", delay.Round(time.Millisecond), "received", x.At.String(), "error", why)
	if !link.Sleep(o.ctx, delay) {
		return errStopped
	}
	return nil
}

// retrying publishes that there is no connection, which attempt is next, and the delay before it.
func (o *owner) retrying(attempt int, delay time.Duration, why error) {
	o.gauge.mu.Lock()
	o.gauge.attempt, o.gauge.delay = attempt, delay
	o.gauge.mu.Unlock()
	o.setState(StateRetrying, why)
}
