package walchan

import (
	"context"
	"errors"
	"fmt"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/slots"
)

// prepareSlot makes sure of the slot, and returns what it has as confirmed.
func (o *owner) prepareSlot(ctx context.Context, c, lost *connection, database string) (LSN, error) {
	name := o.source.Slot
	if o.cfg.slot == "" {
		return createLogical(o.ctx, c, name, o.cfg, true)
	}
	slot, err := slots.Read(ctx, c.Query, name)
	if err == nil && slot == nil && lost == nil && o.cfg.createSlot {
		from, refused := createLogical(o.ctx, c, name, o.cfg, false)
		if !errors.Is(refused, ErrSlotExists) {
			c.made = refused == nil
			return from, refused
		}
		slot, err = slots.Read(ctx, c.Query, name) // another process was faster
	}
	switch {
	case err != nil:
		return 0, err
	case slot == nil && lost != nil && c.standby && !lost.standby:
		return 0, slots.InRecovery(fmt.Sprintf("it does not have slot %q", name), nil)
	case slot == nil:
		return 0, o.slotOn(c).Missing(nil)
	}
	if err := slot.Check(name, o.cfg.plugin, database); err != nil {
		return 0, err
	}
	if o.cfg.plugin == pgoutputPlugin && !o.cfg.isTwoPhase() {
		version, _ := c.Version()
		if err := slot.CheckUnprepared(name, version); err != nil {
			return 0, err
		}
	}
	if lost != nil && o.cfg.terminateOld && slot.ActivePID == lost.PID() {
		if err := o.terminate(ctx, c, lost); err != nil {
			return 0, err
		}
	}
	if lost == nil && o.cfg.checkpoints && o.cfg.isTwoPhase() && !slot.TwoPhase {
		if err := o.checkSwitch(slot.Confirmed); err != nil {
			return 0, err
		}
	}
	c.status.Told = slot.Confirmed // START_REPLICATION does not tell it; a COMMIT may be waiting to be told
	return slot.Confirmed, nil
}

// createLogical makes a slot and returns the position it begins at. After an error there is none.
func createLogical(ctx context.Context, c *connection, name string, cfg *config, temporary bool) (LSN, error) {
	made, err := c.Create(ctx, cfg.log, slots.New{Name: name, Temporary: temporary, Plugin: cfg.plugin, TwoPhase: cfg.isTwoPhase(), Failover: cfg.failover})
	return made.Start, err
}

// checkSwitch fails if the slot is behind the checkpoint when WithTwoPhase is switched on, which the server does for good: see
// begin.BehindCheckpoint.
func (o *owner) checkSwitch(slot LSN) error {
	cp, err := o.cfg.checkpoint(o.ctx)
	if err != nil {
		return err
	}
	if p := cp.c.Point; cp.c.Physical || p.IsComplete() && max(p.Through, p.Message) <= slot {
		return nil
	}
	return begin.BehindCheckpoint(o.source.Slot, slot)
}

// terminate ends the walsender of a lost connection, which may wait for us for long.
func (o *owner) terminate(ctx context.Context, c, lost *connection) error {
	if err := begin.Terminate(ctx, c.Conn, lost.PID(), lost.backendStart); err != nil {
		return err
	}
	o.cfg.log.Info("terminated the walsender of the lost connection", "slot", o.source.Slot, "pid", lost.PID())
	return nil
}

// slotOn is the stream's slot on a server.
func (o *owner) slotOn(c *connection) *begin.Slot {
	return &begin.Slot{Name: o.source.Slot, Plugin: o.cfg.plugin, Checkpoints: o.cfg.checkpoints, Standby: c.standby}
}
