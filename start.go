package walchan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
)

// How a connection begins. internal/begin asks the server; what follows from the answers is noted here.

// begin makes the first connection, and the slot if that is asked for.
func (o *owner) begin() (*connection, error) {
	o.source.Slot = o.cfg.slot
	if o.source.Slot == "" && !o.cfg.physical {
		o.source.Slot = fmt.Sprintf("walchan_%x", rand.Uint64())
	}
	wait := begin.Wait{Making: slots.Making{Slot: o.source.Slot, ID: o.id}, Log: o.cfg.log,
		Waiting: func(call int, why error) { o.retrying(call, begin.SlotPoll, why) }}
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

// start makes the connection stream, unless a snapshot comes first. lost is the connection before; nil: there is none.
func (o *owner) start(c, lost *connection) error {
	if err := o.cfg.checkVersion(c.Version()); err != nil {
		return err
	}
	if o.cfg.physical {
		ctx, cancel := begin.Soon(o.ctx, &c.Access)
		defer cancel()
		return o.startPhysical(ctx, c, lost)
	}
	s, err := o.request(lost).Begin(o.ctx, &c.Access)
	if err != nil {
		if s.Told != 0 { // it has streamed, even if that was all
			o.known = s.Told
		}
		return err
	}
	c.Meet(s.Remote, s.Timers)
	c.origin = &resume.Source{Origin: s.Origin, Checkpoints: o.cfg.checkpoints}
	o.snapshots = s.Snapshot
	if lost == nil {
		o.source.SystemID, o.source.Database = s.Origin.SystemID, s.Origin.Database
	} else if *lost.origin == *c.origin {
		c.origin = lost.origin // messages of one transaction then have equal ones
	}
	if s.Exported != nil {
		return o.beginSnapshot(c, s.Exported)
	}
	o.started(c, lost, s.From, s.Told)
	if s.Past != nil {
		o.goOn(c, lost, &s)
	}
	return nil
}

// request is what the stream asks of a server.
func (o *owner) request(lost *connection) *begin.Request {
	cfg := o.cfg
	r := &begin.Request{
		Slot:   slots.New{Name: o.source.Slot, Temporary: cfg.slot == "", Plugin: cfg.plugin, TwoPhase: cfg.isTwoPhase(), Failover: cfg.failover},
		Create: cfg.createSlot, Maker: o.id, Terminate: cfg.terminateOld,
		Publications: cfg.publications, Args: cfg.startArgs(), From: cfg.from,
		Timers: cfg.timers(), Snapshot: o.snapshots, Log: cfg.log,
	}
	if cfg.checkpoints {
		r.Consumer = &begin.Consumer{Checkpoint: o.askConsumer, ProofRequired: cfg.proof == proofRequired, UpgradedFrom: cfg.upgradedFrom}
	}
	if lost != nil {
		r.Lost = &begin.Lost{PID: lost.PID(), Remote: lost.Remote, Acknowledged: o.ledger.Advance(), Certain: o.certain(),
			Past: begin.Past{Origin: lost.origin.Origin, Point: o.feed.Delivered(), Bound: o.told, Told: []LSN{o.told}}}
	}
	return r
}

// askConsumer asks the consumer for its checkpoint. What it says last is what the stream begins after.
func (o *owner) askConsumer(ctx context.Context) (resume.Checkpoint, error) {
	cp, err := o.cfg.checkpoint(ctx)
	if err == nil {
		o.given = cp
	}
	return cp.c, err
}

// timers are those that the user asks for.
func (c *config) timers() link.Timers {
	return link.Timers{Status: c.statusInterval, Receive: c.receiveTimeout}
}

// started notes where the connection stands when its stream has begun. told is what the server has as confirmed.
func (o *owner) started(c, lost *connection, from, told LSN) {
	c.Begin(time.Now(), from, told)
	o.known = told
	o.gauge.walEnd.Store(uint64(c.System.Flushed))
	if lost == nil {
		o.ledger.Begin(from)
		o.until = o.cfg.ending(c.System.Flushed)
		o.told = max(o.told, from)
	}
}

// goOn notes what the connection has to continue, and whether its server is known to have that history. If not, it is on trial: see
// prove.go.
func (o *owner) goOn(c, lost *connection, s *begin.Started) {
	p := s.Past
	o.told, c.Limit = p.Bound, s.Told
	f, _ := o.feed.(*feed.Changes)
	if lost == nil {
		f.Resume(p.Point)
	}
	switch {
	case s.Expected:
		f.Try(&feed.Trial{Past: *p, Proven: s.Verdict.Same})
	case f != nil:
		f.Try(nil)
	}
	if !s.Expected || s.Verdict.Same {
		o.heed(c, s.Verdict)
	}
	if lost != nil {
		return
	}
	begun := resume.Place{Source: &resume.Source{Origin: p.Origin, Checkpoints: true}, Point: p.Point} // of its own server: the proof may not be there yet
	if p.IsBare() {
		p.Through = s.Told // it was acknowledged, thus stored
		f.Resume(p.Point)
		begun = resume.Place{Source: c.origin, Point: p.Point}
	}
	o.ledger.Start(begun)
	o.cfg.log.Info("the stream goes on after the checkpoint", "slot", o.source.Slot, "checkpoint", o.given.place(), "confirmed", s.Told.String())
}
