package begin

import (
	"context"
	"errors"

	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/walerr"
)

// prepareSlot makes sure of the slot, and notes what it has as confirmed.
func (a *attempt) prepareSlot(ctx context.Context) error {
	if a.Slot.Temporary {
		return a.create()
	}
	name, lost := a.Slot.Name, a.Lost
	slot, err := slots.Read(ctx, a.c.Query, name)
	if err == nil && slot == nil && lost == nil && a.Create {
		if err := a.create(); !errors.Is(err, walerr.SlotExists) {
			a.made = err == nil
			return err
		}
		slot, err = slots.Read(ctx, a.c.Query, name) // another process was faster
	}
	switch {
	case err != nil:
		return err
	case slot == nil && lost != nil && a.is.Standby && !lost.Remote.Standby:
		return slots.LackedByStandby(name)
	case slot == nil:
		return a.missing(nil)
	}
	if err := slot.Check(name, a.Slot.Plugin, a.is.System.Database); err != nil {
		return err
	}
	if a.Slot.Plugin == "pgoutput" && !a.Slot.TwoPhase {
		version, _ := a.c.Version()
		if err := slot.CheckUnprepared(name, version); err != nil {
			return err
		}
	}
	if lost != nil && a.Terminate && slot.ActivePID == lost.PID {
		if err := a.terminate(ctx); err != nil {
			return err
		}
	}
	if lost == nil && a.Consumer != nil && a.Slot.TwoPhase && !slot.TwoPhase {
		if err := a.checkSwitch(slot); err != nil {
			return err
		}
	}
	a.confirmed = slot.Confirmed
	return nil
}

// create makes the slot. That may take its time.
func (a *attempt) create() error {
	slot, err := a.c.Create(a.ctx, a.Log, a.Slot)
	a.confirmed = slot.Start
	return err
}

// checkSwitch fails if the slot is behind the checkpoint when two-phase is switched on, which the server does for good: see
// slots.BehindCheckpoint.
func (a *attempt) checkSwitch(slot *slots.Row) error {
	cp, err := a.Consumer.Checkpoint(a.ctx)
	if err != nil {
		return err
	}
	if p := cp.Point; cp.Physical || p.IsComplete() && max(p.Through, p.Message) <= slot.Confirmed {
		return nil
	}
	return slots.BehindCheckpoint(a.Slot.Name, slot.Confirmed)
}

// terminate ends the walsender of the lost connection, which may wait for us for long.
func (a *attempt) terminate(ctx context.Context) error {
	if err := terminate(ctx, a.c.Conn, a.Lost.PID, a.Lost.Remote.BackendStart); err != nil {
		return err
	}
	a.Log.Info("terminated the walsender of the lost connection", "slot", a.Slot.Name, "pid", a.Lost.PID)
	return nil
}

// making is what the stream is among those who make its slot.
func (r *Request) making() slots.Making {
	if r.Slot.Temporary {
		return slots.Making{ID: r.Maker}
	}
	return slots.Making{Slot: r.Slot.Name, ID: r.Maker}
}
