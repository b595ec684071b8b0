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
	"github.com/walchan/walchan/internal/tables"
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

// outage is a time without progress: perhaps several connections, that failed at once and at the same position.
type outage struct {
	delays  backoff.BackOff // nil: there is none
	attempt int
	at      LSN // received, when it began
}

// stuckAfter attempts without progress an outage is logged as an error.
const stuckAfter = 10

// lasting is how long a connection must live to be a success although it brought nothing new.
const lasting = time.Minute

// lost notes the end of a connection. One that has brought something new, or has lasted, ended the outage before it.
func (o *outage) lost(c *connection) {
	if c.received > o.at || time.Since(c.status.Since) > lasting {
		*o = outage{at: c.received}
	}
}

// next returns the delay before the next attempt; false if it was given up.
func (o *outage) next(retry func() backoff.BackOff) (time.Duration, bool) {
	if o.delays == nil {
		o.delays = retry()
		o.delays.Reset()
	}
	o.attempt++
	delay := o.delays.NextBackOff()
	return delay, delay != backoff.Stop
}

// reconnect dials until there is a stream again. c is the connection that was lost and why its end. The error is permanent,
// or errStopped.
func (o *owner) reconnect(c *connection, why error) (*connection, error) {
	if o.cfg.slot == "" && !o.cfg.physical {
		return nil, &Error{Kind: ErrSlotLost, What: fmt.Sprintf("temporary slot %q is gone with its connection", o.source.Slot), Err: why,
			Advice: "use a permanent slot (WithSlot, WithCreateSlot) for a stream that outlives its connections"}
	}
	o.outage.lost(c)
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
			o.cfg.log.Info("connected again", "slot", o.source.Slot, "attempt", o.outage.attempt, "resumed_at", next.from)
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
	delay, ok := x.next(o.cfg.retry)
	if !ok {
		return fmt.Errorf("walchan: gave up after %d attempts without progress: %w", x.attempt-1, why)
	}
	o.gauge.mu.Lock()
	o.gauge.attempt, o.gauge.delay = x.attempt, delay
	o.gauge.mu.Unlock()
	o.setState(StateRetrying, why)
	level := slog.LevelWarn
	if x.attempt == stuckAfter {
		level = slog.LevelError
	}
	o.cfg.log.Log(o.ctx, level, "disconnected, trying again", "slot", o.source.Slot, "attempt", x.attempt,
		"delay", delay.Round(time.Millisecond), "received", x.at, "error", why)
	if !o.pauseFor(delay) {
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
	var wait slotWait
	for {
		c, err := o.open(nil)
		if err == errStoredMore {
			continue
		}
		switch {
		case err == nil, !errors.Is(err, ErrSlotActive):
			return c, err
		case o.cfg.waitForSlot:
			err = o.untilFree(&wait, err)
		default:
			err = o.ifLeaving(&wait, err)
		}
		if err != nil {
			return nil, err
		}
	}
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
	if c.history, err = begin.TimelineHistory(ctx, c.Conn, system.Timeline); err != nil {
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
	bound, err := p.Check(system, c.standby, c.history)
	if err != nil {
		return err
	}
	if bound < p.Bound || system.Timeline != lost.timeline {
		o.cfg.log.Info("the server is on a new timeline, or lacks WAL that was confirmed; what was delivered it may have", "slot", o.source.Slot,
			"timeline", system.Timeline, "was", lost.timeline, "same_until", bound, "delivered", o.certain())
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
	now := time.Now()
	if lost == nil {
		c.status.Told = from
	}
	c.limit = never
	c.timeline, o.known = system.Timeline, c.status.Told
	c.from, c.status.Confirmed, c.received = from, from, from
	c.status.Since, c.lookedAt = now, now
	c.status.At = time.Time{}
	c.shutdown.Begin(now)
	c.listen(now)
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
		SystemID: o.source.SystemID, Database: o.source.Database, Slot: o.source.Slot, Started: c.serverStarted}}
	if !c.standby {
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
	c.standby, c.backendStart, c.serverStarted = is.Standby, is.BackendStart, is.Started
	c.synchronous.Store(begin.NamesStandby(is.StandbyNames, c.Config.RuntimeParams["application_name"]))
	o.setTimers(c, is.SenderTimeout)
	return nil
}

// setTimers derives the connection's timers from the server's wal_sender_timeout.
func (o *owner) setTimers(c *connection, senderTimeout time.Duration) {
	c.shutdown.SenderTimeout = senderTimeout
	var tooLong bool
	if c.status.Interval, tooLong = link.StatusInterval(o.cfg.statusInterval, senderTimeout); tooLong {
		o.cfg.log.Warn("WithStatusInterval is more than half of the server's wal_sender_timeout: the server may hang up", "interval", c.status.Interval, "wal_sender_timeout", senderTimeout)
	}
	c.liveness.Timeout = link.ReceiveTimeout(o.cfg.receiveTimeout, senderTimeout)
}
