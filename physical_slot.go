package walchan

import (
	"context"
	"errors"

	"github.com/walchan/walchan/internal/slots"
)

// preparePhysicalSlot makes sure of the slot, and returns its position; 0: it has none.
func (o *owner) preparePhysicalSlot(ctx context.Context, c, lost *connection) (LSN, error) {
	name := o.cfg.slot
	restart, err := c.ReadPhysical(ctx, name)
	switch {
	case !errors.Is(err, ErrSlotMissing):
		return restart, err
	case lost != nil && c.Standby && !lost.Standby:
		return 0, slots.LackedByStandby(name)
	case lost != nil || !o.cfg.createSlot:
		return 0, err
	}
	_, err = c.Create(ctx, o.cfg.log, slots.New{Name: name, Physical: true, ReserveWAL: true})
	if c.made = err == nil; err != nil && !errors.Is(err, ErrSlotExists) { // another process was faster
		return 0, err
	}
	return c.ReadPhysical(ctx, name)
}
