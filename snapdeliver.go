package walchan

import (
	"context"
	"time"

	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgtime"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/snapshot"
)

// takeSnapshot is a connection's life before its stream: it delivers the rows, waits for their acknowledgement, keeps the slot,
// and starts the stream.
func (o *owner) takeSnapshot(c *connection) error {
	p := c.snapshot
	defer p.close()
	o.flowing = StateSnapshot
	defer func() { o.flowing = StateStreaming }()
	if err := o.deliverSnapshot(c, p); err != nil {
		return err
	}
	if err := o.awaitSettled(c, p); err != nil {
		return err
	}
	if err := o.keepSlot(c); err != nil {
		return err
	}
	o.cfg.log.Info("the slot is made", "slot", o.source.Slot, "from", p.From.String())
	ctx, cancel := context.WithTimeout(o.ctx, c.Timers.Patience())
	defer cancel()
	if err := o.request(nil).Stream(ctx, &c.Access, c.Standby, p.From); err != nil {
		return err
	}
	o.started(c, nil, p.From, p.From)
	return nil
}

// awaitSettled waits until the snapshot is acknowledged and, with checkpoints, stored.
func (o *owner) awaitSettled(c *connection, p *snapshotRun) error {
	var skipped time.Time // since when everything is acknowledged and nothing stored
	return o.hold(c, wait{}, func(now time.Time, w wait) (wait, bool, error) {
		if o.isSettled(p) {
			return w, true, nil
		}
		switch {
		case o.ledger.Outstanding() > 0:
		case skipped.IsZero():
			skipped = now
		case now.Sub(skipped) >= forgottenAfter:
			skipped = now
			o.cfg.log.Warn("every message is skipped and no checkpoint is stored: the slot is not made before (Ack the last message, or call Stored)", "slot", o.source.Slot)
		}
		w.interest = ledger.All
		return w, false, nil
	})
}

// isSettled says whether everything is acknowledged, and a checkpoint of it is stored, if the stream has those.
func (o *owner) isSettled(p *snapshotRun) bool {
	return o.ledger.Outstanding() == 0 && (!o.ledger.Storing || o.ledger.Advance() >= p.From)
}

func (o *owner) deliverSnapshot(c *connection, p *snapshotRun) error {
	now := time.Now()
	info := *p.info
	mark := func(kind Kind) error {
		return o.deliver(&Message{Kind: kind, LSN: p.From, sent: pgtime.Micros(now), ext: &info})
	}
	o.setState(StateSnapshot, nil)
	end := &resume.Place{Source: c.origin, Point: resume.Point{Through: p.From}}
	o.ledger.Forget()
	if o.snapshots.Bare {
		if err := o.deliver(&Message{Kind: Progress, LSN: p.From, sent: pgtime.Micros(now), ext: end}); err != nil {
			return err
		}
		p.end(o, end)
		return nil
	}
	if err := mark(SnapshotBegin); err != nil {
		return err
	}
	if err := o.deliverRows(c, p); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(o.ctx, c.Timers.Patience())
	defer cancel()
	if err := p.rows.Unlock(ctx); err != nil {
		return err
	}
	now = time.Now()
	info.at = end
	if err := mark(SnapshotEnd); err != nil {
		return err
	}
	p.end(o, end)
	return nil
}

// end notes that everything was delivered. at is what the last message's checkpoint says.
func (p *snapshotRun) end(o *owner, at *resume.Place) {
	p.ended = true
	if o.ledger.Storing {
		o.ledger.MarkAt(at)
	}
}

// deliverRows delivers what the workers read.
func (o *owner) deliverRows(c *connection, p *snapshotRun) error {
	r := p.rows.Read(o.ctx)
	defer r.Stop()
	m := &Message{}
	for {
		b, ok, err := o.nextBatch(c, r)
		if !ok || err != nil {
			return err
		}
		*m = Message{Kind: Read, LSN: p.From, Relation: b.Table.Owner.(*Relation), sent: pgtime.Micros(b.ReadAt), ext: c.origin}
		for _, row := range b.Rows {
			m.data = seal(row)
			if err := o.deliver(m); err != nil {
				return err
			}
		}
		b.Table.Delivered(b)
	}
}

// nextBatch waits for rows; false: there are no more.
func (o *owner) nextBatch(c *connection, r *snapshot.Reading) (b snapshot.Batch, ok bool, err error) {
	err = o.hold(c, wait{ready: r.IsReady}, func(_ time.Time, w wait) (wait, bool, error) {
		w.interest = ledger.Nothing
		return w, r.IsReady(), nil
	})
	if err != nil {
		return b, false, err
	}
	return r.Next()
}

// attend is Stream.attend while a snapshot is taken: there is nothing to tell the server yet.
func (p *snapshotRun) attend(o *owner, c *connection, now time.Time) (time.Time, error) {
	o.ledger.Tick(now)
	flushes := o.flushes.pending()
	o.ledger.Advance()
	o.publish(c)
	o.flushes.release(flushes)
	next := o.watchdog(now)
	if now.Before(p.checkAt) {
		return earliest(next, p.checkAt), nil
	}
	if err := c.Check(); err != nil {
		return now, pgfail.Failed("hold the snapshot", err)
	}
	if p.rows != nil {
		if err := p.rows.Check(); err != nil {
			return now, err
		}
	}
	p.checkAt = now.Add(checkEvery)
	return earliest(next, p.checkAt), nil
}

// keepSlot makes the permanent slot, now that all rows are acknowledged.
//
// A stop that comes now must not undo it: it may take until the farewell's timeout.
func (o *owner) keepSlot(c *connection) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.ctx), c.Timers.Patience())
	defer cancel()
	stopped := context.AfterFunc(o.ctx, func() { time.AfterFunc(o.cfg.closeTimeout, cancel) })
	defer stopped()
	p := c.snapshot
	begun := resume.Place{Source: c.origin, Point: resume.Point{Through: p.From}}
	o.feed.(*feed.Changes).Resume(begun.Point)
	o.snapshots.Kept, o.known, o.told = p.From, p.From, p.From // should the answer be lost
	o.ledger.Begin(p.From)
	o.ledger.Start(begun)
	if err := o.request(nil).KeepSlot(ctx, &c.Access, p.Slot); err != nil {
		return err
	}
	o.snapshots.Due, c.snapshot = false, nil
	return nil
}

// drain waits, at a stop, for the acknowledgement of a snapshot that was delivered as a whole, to keep the slot. Of any other
// nothing can be kept, so that there is nothing to wait for.
func (p *snapshotRun) drain(o *owner, c *connection) error {
	o.setState(StateDraining, nil)
	end := time.Now().Add(o.cfg.drainTimeout)
	if p.ended {
		err := o.hold(c, wait{}, func(now time.Time, w wait) (wait, bool, error) {
			w.interest, w.until = ledger.All, earliest(w.until, end)
			return w, o.isSettled(p) || o.closing.Load() || !now.Before(end), nil
		})
		if err == nil && o.isSettled(p) {
			err = o.keepSlot(c)
		}
		if err != nil {
			return err
		}
	}
	if c.snapshot != nil {
		o.cfg.log.Info("stopped before the snapshot was acknowledged: nothing is left of it", "slot", o.source.Slot)
	}
	return errStopped // a farewell is for a stream
}

func (p *snapshotRun) close() {
	if p.rows != nil {
		p.rows.Close()
	}
}
