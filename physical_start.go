package walchan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/causes"
	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
)

// How a physical stream begins and goes on: without SQL, which its connection does not have.

// startPhysical makes the connection stream.
func (o *owner) startPhysical(ctx context.Context, c, lost *connection) error {
	f := *o.feed.(*feed.Log) // a copy, until the stream has begun
	var cp Checkpoint
	if lost == nil {
		f = feed.Log{WholeSegments: o.cfg.wholeSegments}
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
	*o.feed.(*feed.Log) = f
	o.startedWAL(c, lost, &f, system)
	if lost == nil && o.cfg.checkpoints {
		return o.askAgain(c, cp)
	}
	return nil
}

// startedWAL notes where the connection stands when its stream has begun.
func (o *owner) startedWAL(c, lost *connection, f *feed.Log, system session.System) {
	slot, told := c.Status.Told, c.Status.Told
	if lost == nil {
		told = f.At()
	}
	var from LSN
	c.System = system
	from, c.System.Timeline = f.Sending()
	o.started(c, lost, f.At(), told)
	c.Received = from
	if lost == nil {
		o.ledger.Begin(f.Confirmable())
	}
	if f.IsOnTrial() { // until its end no position is told that the server may not have
		c.Limit = cmp.Or(slot, from)
		c.Status.Told, o.known = slot, slot
	}
	c.Status.Confirmed = min(o.ledger.Advance(), c.Limit) // it goes on behind what was delivered, acknowledged or not
	if lost == nil && o.cfg.checkpoints && f.Last().IsProvable() {
		o.ledger.Start(f.Last())
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
func (o *owner) startWAL(ctx context.Context, c, lost *connection, f *feed.Log, cp Checkpoint, system session.System) error {
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
		f.GoOnAfter(&cp.c)
	default:
		f.BeginAt(cmp.Or(o.cfg.walFrom, c.Status.Told, system.Flushed), int32(o.cfg.walTimeline), system, history)
	}
	if err := f.Locate(system, history, c.Standby); err != nil {
		return err
	}
	c.origin = &resume.Source{Checkpoints: o.cfg.checkpoints, Origin: resume.Origin{SystemID: o.source.SystemID, Slot: o.source.Slot, Timeline: f.Timeline()}}
	f.Arrive(c.origin, c.Address)
	if f.LacksHistory() {
		content, err := begin.TimelineHistory(ctx, c.Conn, f.Timeline())
		if err != nil {
			return err
		}
		f.SetHistory(content)
	}
	from, timeline := f.Sending()
	if err := c.Start(ctx, begin.StartPhysical(o.cfg.slot, from, timeline)); err != nil {
		return begin.RefusedPhysical(ctx, c.SQL, o.cfg.slot, err)
	}
	return nil
}

// checkCluster compares the cluster with what was delivered over the lost connection.
func (o *owner) checkCluster(lost *connection, system session.System, standby bool, history string) error {
	if system.ID != o.source.SystemID {
		return begin.OtherWAL(fmt.Sprintf("the server is another cluster: system identifier %s, not %s", system.ID, o.source.SystemID))
	}
	p := begin.Past{Point: o.feed.Delivered(), Bound: lost.Status.Told}
	if !lost.Standby { // it may have been promoted since
		p.Timeline = lost.System.Timeline
	}
	return p.CheckWAL(system, standby, history)
}

// readSettings asks what is to be known of the server, without SQL.
func (o *owner) readSettings(ctx context.Context, c *connection, f *feed.Log) error {
	is, err := begin.AskWithoutSQL(ctx, c.Conn)
	if err != nil {
		return err
	}
	c.Meet(begin.Remote{Server: is}, is.Timers(o.cfg.timers(), o.cfg.log))
	f.Segment = is.Segment
	return nil
}

// errTimelineEnd says that the server has sent all of a timeline that has ended. The stream goes on over a new connection, as
// after a failure: then the server's history says with what.
var errTimelineEnd = errors.New("walchan: the timeline has ended")

// leaveTimeline ends the stream of a timeline properly, so that the slot is free when the function returns.
func (o *owner) leaveTimeline(c *connection) {
	o.cfg.log.Info("the timeline has ended", "slot", o.source.Slot, "timeline", c.System.Timeline, "received", c.Received.String())
	o.feed.(*feed.Log).Leave(c.Address)
	if err := c.Farewell(o.ledger.Advance(), time.Now().Add(time.Second)); err != nil {
		o.cfg.log.Info("the end of the timeline could not be confirmed over its connection", "slot", o.source.Slot, "error", err)
	}
}

// errUnprovable says that the server does not have the WAL that is compared. The stream goes on without it over a new connection.
var errUnprovable = errors.New("walchan: the WAL that was delivered last is removed")

// removed is what it means that the server has removed the WAL that is asked for.
func (o *owner) removed(err error) error {
	f := o.feed.(*feed.Log)
	if !f.IsOnTrial() {
		return begin.WALRemoved(err)
	}
	if o.cfg.proof == proofRequired {
		return begin.UnprovenWAL(f.Last().From, f.Last().Through, err)
	}
	o.doubt(o.conn.Load(), causes.Line(begin.WALRemoved(err)))
	f.Waive()
	at := f.Last()
	o.mark(f.Confirmable(), &at)
	return errUnprovable
}
