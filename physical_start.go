package walchan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
)

// How a physical stream begins and goes on: without SQL, which its connection does not have.

// startPhysical makes the connection stream.
func (o *owner) startPhysical(ctx context.Context, c, lost *connection) error {
	f := *o.feed.(*walFeed) // a copy, until the stream has begun
	var cp Checkpoint
	if lost == nil {
		f = walFeed{wholeSegments: o.cfg.wholeSegments}
		if o.cfg.checkpoints {
			var err error
			if cp, err = o.cfg.checkpoint(o.ctx); err != nil {
				return err
			}
			var cancel context.CancelFunc // that may have taken its time
			ctx, cancel = context.WithTimeout(o.ctx, 2*c.Config.ConnectTimeout)
			defer cancel()
		}
	}
	// First whether it is in recovery, and then how far it is: as in start.
	if err := o.readSettings(ctx, c, &f); err != nil {
		return err
	}
	system, err := begin.Identify(ctx, c.Conn)
	if err != nil {
		return err
	}
	if lost == nil {
		o.source.SystemID = system.ID
	}
	if err := begin.Source(o.source).CheckWAL(&cp.c); err != nil {
		return err
	}
	if o.cfg.slot != "" {
		if c.Status.Told, err = o.preparePhysicalSlot(ctx, c, lost); err != nil {
			return err
		}
	}
	if system, err = begin.FlushedUpTo(ctx, c.Conn, c.Status.Told, system); err != nil {
		return err
	}
	if err := o.startWAL(ctx, c, lost, &f, cp, system); err != nil {
		return err
	}
	*o.feed.(*walFeed) = f
	o.startedWAL(c, lost, &f, system)
	if lost == nil && o.cfg.checkpoints {
		return o.askAgain(c, cp)
	}
	return nil
}

// startedWAL notes where the connection stands when its stream has begun.
func (o *owner) startedWAL(c, lost *connection, f *walFeed, system session.System) {
	slot := c.Status.Told
	c.System = system
	c.System.Timeline = f.timeline
	if f.trial != nil {
		c.System.Timeline = f.trial.timeline
	}
	told := slot
	if lost == nil {
		told = f.at
	}
	o.started(c, lost, f.at, told)
	c.Received = f.expect
	if lost == nil {
		o.ledger.Begin(f.confirmable(f.last))
	}
	if f.trial != nil { // until its end no position is told that the server may not have
		c.Limit = cmp.Or(slot, f.expect)
		c.Status.Told, o.known = slot, slot
	}
	c.Status.Confirmed = min(o.ledger.Advance(), c.Limit) // it goes on behind what was delivered, acknowledged or not
	if lost == nil && o.cfg.checkpoints && f.last.IsProvable() {
		o.ledger.Start(f.last)
	}
}

// askAgain asks the consumer for its checkpoint now that the slot is held. The process that had the slot before may have stored more.
func (o *owner) askAgain(c *connection, cp Checkpoint) error {
	if o.cfg.slot == "" || c.made {
		return nil
	}
	var stored Checkpoint
	err := begin.Meanwhile(c.Conn, c.Timers, min(c.Status.Told, c.Limit), func() (err error) {
		stored, err = o.cfg.checkpoint(o.ctx)
		return err
	})
	if err != nil || stored == cp {
		return err
	}
	if err := c.Finish(time.Now().Add(time.Second)); err != nil { // so that the slot is free
		return pgfail.Failed("stop the stream for another checkpoint", err)
	}
	return begin.ErrStoredMore
}

// startWAL finds out where the stream begins, or goes on, and begins it there.
func (o *owner) startWAL(ctx context.Context, c, lost *connection, f *walFeed, cp Checkpoint, system session.System) error {
	history, err := begin.TimelineHistory(ctx, c.Conn, system.Timeline)
	if err != nil {
		return err
	}
	switch {
	case lost != nil:
		if err := o.checkCluster(lost, system, c.Standby, history); err != nil {
			return err
		}
	case !cp.IsZero():
		f.goOnAfter(cp)
	default:
		f.choose(o.cfg, c.Status.Told, system, history)
	}
	if err := f.locate(system, history, c.Standby); err != nil {
		return err
	}
	f.arrive(o, c)
	if f.timeline != f.historyOf {
		f.historyOf = f.timeline
		if f.history, err = begin.TimelineHistory(ctx, c.Conn, f.timeline); err != nil {
			return err
		}
	}
	from, timeline := f.begin(c)
	if err := c.Start(ctx, begin.StartPhysical(o.cfg.slot, from, timeline)); err != nil {
		return begin.RefusedPhysical(ctx, c.SQL, o.cfg.slot, err)
	}
	return nil
}

// goOnAfter has the stream go on after a checkpoint.
func (f *walFeed) goOnAfter(cp Checkpoint) {
	f.at, f.timeline = cp.c.Through, cp.c.Timeline
	f.last = resume.Place{Source: &resume.Source{Origin: cp.c.Origin, Checkpoints: true}, Point: cp.c.Point}
	f.now = f.last
	if f.last.IsProvable() { // else it is that of the stream's first message, which may be a history
		f.historyOf = f.timeline
	}
}

// arrive sets what the messages of the connection come from.
func (f *walFeed) arrive(o *owner, c *connection) {
	c.origin = &resume.Source{Checkpoints: o.cfg.checkpoints, Origin: resume.Origin{SystemID: o.source.SystemID, Slot: o.source.Slot, Timeline: f.timeline}}
	here := resume.Place{Source: c.origin, Point: resume.Point{Through: f.at, From: f.at}}
	switch {
	case f.last.Source == nil: // nothing was delivered
		f.now, f.last = here, here
	case f.now.Through != f.at: // the beginning of a segment is repeated
		f.now = here
	default:
		f.now.Source = c.origin
	}
}

// checkCluster compares the cluster with what was delivered over the lost connection.
func (o *owner) checkCluster(lost *connection, system session.System, standby bool, history string) error {
	if system.ID != o.source.SystemID {
		return begin.OtherWAL(fmt.Sprintf("the server is another cluster: system identifier %s, not %s", system.ID, o.source.SystemID))
	}
	p := begin.Past{Point: o.feed.delivered(), Bound: lost.Status.Told}
	if !lost.Standby { // it may have been promoted since
		p.Timeline = lost.System.Timeline
	}
	return p.CheckWAL(system, standby, history)
}

// readSettings asks what is to be known of the server, without SQL.
func (o *owner) readSettings(ctx context.Context, c *connection, f *walFeed) error {
	is, err := begin.AskWithoutSQL(ctx, c.Conn)
	if err != nil {
		return err
	}
	c.Meet(begin.Remote{Server: is}, is.Timers(o.cfg.timers(), o.cfg.log))
	f.segment = is.Segment
	return nil
}

// choose sets where the stream begins. restart is the position of its slot.
func (f *walFeed) choose(cfg *config, restart LSN, system session.System, history string) {
	f.at = cmp.Or(cfg.walFrom, restart, system.Flushed)
	// Rounded down it may lie on the timeline before, but the segment's file of this one has both.
	f.timeline = int32(cfg.walTimeline)
	if f.timeline == 0 {
		f.timeline = resume.TimelineAt(f.at, history, system.Timeline)
	}
	f.at = f.round(f.at)
}

// locate finds the stream's place in the server's history.
func (f *walFeed) locate(system session.System, history string, standby bool) error {
	p, err := begin.Place{At: f.at, Timeline: f.timeline}.Locate(system, history, standby, f.round)
	f.at, f.timeline = p.At, p.Timeline
	return err
}

// errTimelineEnd says that the server has sent all of a timeline that has ended. The stream goes on over a new connection, as
// after a failure: then the server's history says with what.
var errTimelineEnd = errors.New("walchan: the timeline has ended")

// leaveTimeline ends the stream of a timeline properly, so that the slot is free when the function returns.
func (o *owner) leaveTimeline(c *connection) {
	o.cfg.log.Info("the timeline has ended", "slot", o.source.Slot, "timeline", c.System.Timeline, "received", c.Received)
	o.feed.(*walFeed).leave(c)
	if err := c.Farewell(o.ledger.Advance(), time.Now().Add(time.Second)); err != nil {
		o.cfg.log.Info("the end of the timeline could not be confirmed over its connection", "slot", o.source.Slot, "error", err)
	}
}
