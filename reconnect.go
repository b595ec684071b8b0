package walchan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/tables"
)

// minServer is the oldest version with all that is asked of pgoutput (the messages option came with 14).
const minServer = 140000

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
	wait := begin.Wait{Making: slots.Making{Slot: o.source.Slot, ID: o.id}, Log: o.cfg.log, Waiting: o.waiting}
	for {
		c, err := o.open(nil)
		if err == errStoredMore {
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

// waiting publishes that the stream waits for its slot.
func (o *owner) waiting(looks int, why error) {
	o.gauge.mu.Lock()
	o.gauge.attempt, o.gauge.delay = looks, begin.SlotPoll
	o.gauge.mu.Unlock()
	o.setState(StateRetrying, why)
}

// start makes the connection stream.
func (o *owner) start(c, lost *connection) error {
	// A server may stop answering here as everywhere; only the making of a slot may take its time. A few questions and
	// another connection are no more than connecting twice.
	ctx, cancel := context.WithTimeout(o.ctx, 2*c.Config.ConnectTimeout)
	defer cancel()
	if err := o.cfg.checkVersion(c.Version()); err != nil {
		return err
	}
	if o.cfg.physical {
		return o.startPhysical(ctx, c, lost)
	}
	// First whether it is in recovery, and then how far it is: a standby that is promoted between the two must not be taken
	// for a primary that lacks WAL.
	if err := o.readSession(ctx, c); err != nil {
		return err
	}
	system, err := begin.Identify(ctx, c.Conn)
	if err != nil {
		return err
	}
	if lost == nil {
		o.source.SystemID, o.source.Database = system.ID, system.Database
	} else if system.ID != o.source.SystemID {
		return begin.Diverged(fmt.Sprintf("the server is another cluster: system identifier %s, not %s", system.ID, o.source.SystemID))
	}
	c.setOrigin(o, lost, system)
	if err := tables.CheckPublications(ctx, c.Conn, o.cfg.publications); err != nil {
		return err
	}
	if lost == nil && o.cfg.checkpoints {
		if err := o.beginAnew(ctx, c); err != nil {
			return err
		}
		cancel()
		ctx, cancel = context.WithTimeout(o.ctx, 2*c.Config.ConnectTimeout) // the consumer may have taken its time
		defer cancel()
	}
	if o.snapshots.due {
		if begun, err := o.openSnapshot(ctx, c, system); begun || err != nil {
			return err
		}
	}
	slot, err := o.prepareSlot(ctx, c, lost, system.Database)
	if err != nil {
		return err
	}
	if lost == nil && !o.cfg.checkpoints {
		from, err := o.cfg.beginning(slot, system.Flushed)
		if err != nil {
			return err
		}
		return o.launch(ctx, c, lost, system, from)
	}
	if c.History, err = begin.TimelineHistory(ctx, c.Conn, system.Timeline); err != nil {
		return err
	}
	if lost == nil {
		return o.continueCheckpoint(ctx, c, system, slot)
	}
	return o.continueStream(ctx, c, lost, system)
}

// continueStream goes on where lost has ended.
func (o *owner) continueStream(ctx context.Context, c, lost *connection, system session.System) error {
	p := begin.Past{Origin: lost.origin.Origin, Point: o.feed.delivered(), Bound: o.told, Told: []LSN{o.told}}
	bound, err := p.Check(system, c.Standby, c.History)
	if err != nil {
		return err
	}
	if bound < p.Bound || system.Timeline != lost.System.Timeline {
		o.cfg.log.Info("the server is on a new timeline, or lacks WAL that was confirmed; what was delivered it may have", "slot", o.source.Slot,
			"timeline", system.Timeline, "was", lost.System.Timeline, "same_until", bound, "delivered", o.certain())
	}
	p.Bound = bound
	// Not the position that was acknowledged last: a keepalive's may belong to another history, which has something else there.
	from := min(o.ledger.Advance(), max(o.certain(), p.Commit))
	if p.HasTransaction() {
		from = min(from, p.Commit)
	}
	if err := o.launch(ctx, c, lost, system, from); err != nil {
		return err
	}
	return o.examine(ctx, c, p, from)
}

// launch has the server stream from a position.
func (o *owner) launch(ctx context.Context, c, lost *connection, system session.System, from LSN) error {
	if err := c.Start(ctx, o.cfg.startCommand(o.source.Slot, from)); err != nil {
		return o.slotOn(c).Refused(ctx, c.Query, err)
	}
	o.started(c, lost, system, from)
	return nil
}

// started notes where the connection stands when its stream has begun.
func (o *owner) started(c, lost *connection, system session.System, from LSN) {
	if lost == nil {
		c.Status.Told = from
	}
	c.System, o.known = system, c.Status.Told
	c.Begin(time.Now(), from, o.known)
	o.gauge.walEnd.Store(uint64(system.Flushed))
	if lost == nil {
		o.ledger.Begin(from)
		o.until = o.cfg.ending(system.Flushed)
		o.told = max(o.told, from)
	}
}

// setOrigin notes which server this is. The timeline of a standby is not kept, because it may be promoted under the connection.
func (c *connection) setOrigin(o *owner, lost *connection, system session.System) {
	origin := resume.Source{Checkpoints: o.cfg.checkpoints, Origin: resume.Origin{
		SystemID: o.source.SystemID, Database: o.source.Database, Slot: o.source.Slot, Started: c.Remote.Started}}
	if !c.Standby {
		origin.Timeline = system.Timeline
	}
	if c.origin = &origin; lost != nil && lost.origin != nil && *lost.origin == origin {
		c.origin = lost.origin // messages of one transaction then have equal ones
	}
}

// readSession asks what is to be known of the connection.
func (o *owner) readSession(ctx context.Context, c *connection) error {
	is, err := begin.AskServer(ctx, c.Conn)
	if err != nil {
		return err
	}
	c.Meet(begin.Remote{Server: is}, is.Timers(o.cfg.timers(), o.cfg.log))
	return nil
}

// timers are those that the user asks for.
func (c *config) timers() link.Timers {
	return link.Timers{Status: c.statusInterval, Receive: c.receiveTimeout}
}
