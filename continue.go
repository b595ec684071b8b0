package walchan

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
)

// How a stream begins behind a checkpoint.
//
// The slot never confirms more than what is stored: a keepalive's position is not confirmed by itself, but delivered as a
// Progress. So a slot that has confirmed more than the checkpoint proves a loss, in every process. For the same reason the
// slot is made only after the first checkpoint is stored.

// beginAnew decides what a missing slot means.
func (o *owner) beginAnew(ctx context.Context, c *connection) error {
	name := o.source.Slot
	slot, err := slots.Read(ctx, c.Query, name)
	if err != nil || slot != nil {
		return err
	}
	cp, err := o.cfg.checkpoint(o.ctx)
	if err != nil {
		return err
	}
	o.given = cp
	if slot, err = slots.Read(o.ctx, c.Query, name); err != nil || slot != nil {
		return err // another process has made it meanwhile
	}
	if err := o.checkSource(cp); err != nil {
		return err
	}
	snapshot := o.cfg.snapshot.wanted
	if err := begin.MissingBehind(name, &cp.c, cp.Position(), snapshot); err != nil {
		return err
	}
	if !snapshot && !o.cfg.createSlot {
		return slots.Missing(name, nil)
	}
	o.snapshots.due, o.snapshots.bare = true, !snapshot
	return nil
}

// checkSource fails for a checkpoint of another cluster, database or slot.
func (o *owner) checkSource(cp Checkpoint) error {
	return begin.Source(o.source).CheckSource(&cp.c, o.isUpgraded(cp))
}

func (o *owner) isUpgraded(cp Checkpoint) bool {
	from := o.source
	from.SystemID = o.cfg.upgradedFrom
	return o.cfg.upgraded && cp.Source() == from && from != o.source
}

// continueCheckpoint begins behind the checkpoint of the consumer. The slot is taken first, and then the consumer is asked: the
// process that had the slot before may have stored more until then.
func (o *owner) continueCheckpoint(ctx context.Context, c *connection, system session.System, slot LSN) error {
	from, err := o.cfg.beginning(slot, system.Flushed)
	if err != nil {
		return err
	}
	if err := o.launch(ctx, c, nil, system, from); err != nil {
		return err
	}
	c.Limit = slot
	cp, err := o.askCheckpoint(c)
	if err != nil {
		return err
	}
	o.given = cp
	ctx, cancel := context.WithTimeout(o.ctx, 2*c.Config.ConnectTimeout)
	defer cancel()
	p, err := o.pastOf(ctx, c, cp, slot)
	if err != nil {
		return err
	}
	if p.Bound, err = p.Check(system, c.Standby, c.History); err != nil {
		return err
	}
	p.Bound = max(p.Bound, o.cfg.from) // a person has accepted the gap; it may lie behind a fail-over
	f := o.feed.(*changes)
	f.resume(p.Point)
	if err := o.examine(ctx, c, p, from); err != nil {
		return err
	}
	if p.IsBare() {
		f.point.Through = c.Status.Told // it was acknowledged, thus stored
	}
	begun := resume.Place{Source: &resume.Source{Origin: p.Origin, Checkpoints: true}, Point: p.Point} // of its own server: the proof may not be there yet
	if p.IsBare() {
		begun = resume.Place{Source: c.origin, Point: f.point}
	}
	o.ledger.Start(begun)
	o.cfg.log.Info("the stream goes on after the checkpoint", "slot", o.source.Slot, "checkpoint", cp.place(), "confirmed", c.Status.Told)
	return nil
}

// askCheckpoint asks the consumer.
func (o *owner) askCheckpoint(c *connection) (cp Checkpoint, err error) {
	err = o.meanwhile(c, func() (err error) {
		cp, err = o.cfg.checkpoint(o.ctx)
		return err
	})
	return cp, err
}

// meanwhile runs f after the server has begun to stream, and before anything is read. The server hears again what the slot has as
// confirmed, and nothing more.
func (o *owner) meanwhile(c *connection, f func() error) error {
	return begin.Meanwhile(c.Timers.Unread(), f, func(now time.Time) error {
		at := min(c.Status.Told, c.Limit)
		if err := c.Conn.Status(at, at, now, false); err != nil {
			return o.streamError(err)
		}
		return nil
	})
}

// pastOf returns what the checkpoint says of the past. slot is what the slot has as confirmed.
func (o *owner) pastOf(ctx context.Context, c *connection, cp Checkpoint, slot LSN) (begin.Past, error) {
	p := begin.Past{Origin: cp.c.Origin, Point: cp.c.Point, Bound: max(cp.c.Through, o.cfg.from)}
	if err := o.checkSource(cp); err != nil {
		return p, err
	}
	switch {
	case cp.IsZero() && o.cfg.from == 0:
		return p, begin.WithoutCheckpoint(o.source.Slot, slot)
	case cp.IsZero():
		p.Origin, p.Through = c.origin.Origin, o.cfg.from
	case p.IsBare():
		p.Bound = never
		o.cfg.log.Info("the consumer has a position that an older version has stored: it is trusted, and replaced by a checkpoint", "slot", o.source.Slot, "position", cp.Position())
	case o.isUpgraded(cp):
		err := begin.CheckUpgraded(ctx, p.Point, slot, func() (*pgconn.PgConn, error) { return c.DialBeside(ctx, true) })
		return begin.Past{Origin: c.origin.Origin, Point: resume.Point{Through: slot}, Bound: slot}, err
	}
	return p, nil
}

// SubscribeAnew gives up what the slot has not confirmed. It drops the slot if it exists, then calls Subscribe with WithCreateSlot
// and the zero checkpoint. It waits while the slot is in use.
//
// lost is the checkpoint to give up. SubscribeAnew drops the slot only while lost is stored, as WithCheckpoint or
// WithCheckpointFrom among opts says. Otherwise it is Subscribe. So a restart of the same process does not drop the slot a
// second time.
//
// Call it after ErrSlotMoved, ErrSlotMissing, ErrSlotInvalidated, ErrDiverged or ErrCheckpoint, if a person says so, usually with
// WithSnapshot.
func SubscribeAnew(ctx context.Context, connString string, lost Checkpoint, opts ...Option) (*Stream, error) {
	cfg := newConfig(opts)
	cfg.connString = connString
	if !cfg.checkpoints {
		return nil, invalid("SubscribeAnew needs WithCheckpoint or WithCheckpointFrom: what is stored says whether it was done before")
	}
	if cfg.from != 0 {
		return nil, invalid("SubscribeAnew and WithFrom: a slot that is made begins now")
	}
	anew := append(opts[:len(opts):len(opts)], WithCreateSlot(), WithCheckpoint(Checkpoint{}), beginningAnew)
	for _, c := range []*config{cfg, newConfig(anew)} { // before the slot is dropped
		c.connString = connString
		if err := c.validate(true); err != nil {
			return nil, err
		}
	}
	dropped, err := cfg.dropLost(ctx, lost)
	switch {
	case err != nil:
		return nil, err
	case !dropped:
		return Subscribe(ctx, connString, opts...)
	}
	return Subscribe(ctx, connString, anew...)
}

// dropLost drops the slot, if it exists, once nobody uses it. It returns false, and drops nothing, if lost is not what is stored by then.
func (cfg *config) dropLost(ctx context.Context, lost Checkpoint) (bool, error) {
	c, err := cfg.dial(ctx, cfg.slot)
	if err != nil {
		return false, err
	}
	defer c.Close()
	for looks := 0; ; looks++ {
		stored, err := cfg.checkpoint(ctx) // the process that has had the slot may have stored more
		if err != nil {
			return false, err
		}
		if stored != lost {
			cfg.log.Info("another checkpoint is stored than the one that is given up: the stream goes on", "slot", cfg.slot, "stored", stored, "lost", lost)
			return false, nil
		}
		switch err := slots.Drop(ctx, c.Conn, c.SQL, cfg.slot, false); {
		case errors.Is(err, ErrSlotActive):
			if looks%100 == 0 { // at first, and each minute or so
				cfg.log.Info("waiting for the slot, to drop it and begin anew", "slot", cfg.slot, "error", err)
			}
		case err != nil && !errors.Is(err, ErrSlotMissing):
			return false, err
		default:
			cfg.log.Warn("beginning anew: the slot is dropped, and what it has not confirmed is given up", "slot", cfg.slot, "lost", lost)
			return true, nil
		}
		select {
		case <-time.After(begin.SlotPoll):
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

func beginningAnew(c *config) { c.anew = true }
