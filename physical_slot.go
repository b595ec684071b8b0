package walchan

import (
	"context"
	"errors"
	"fmt"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/sqlstate"
)

// preparePhysicalSlot makes sure of the slot, and returns its position; 0: it has none.
func (o *owner) preparePhysicalSlot(ctx context.Context, c, lost *connection) (LSN, error) {
	name := o.cfg.slot
	restart, err := readPhysicalSlot(ctx, c, name)
	switch {
	case !errors.Is(err, ErrSlotMissing):
		return restart, err
	case lost != nil && c.standby && !lost.standby:
		return 0, slots.InRecovery(fmt.Sprintf("it does not have slot %q", name), nil)
	case lost != nil || !o.cfg.createSlot:
		return 0, err
	}
	_, err = createSlot(ctx, c, o.cfg, NewSlot{Name: name, Physical: true, ReserveWAL: true})
	if c.made = err == nil; err != nil && !errors.Is(err, ErrSlotExists) { // another process was faster
		return 0, err
	}
	return readPhysicalSlot(ctx, c, name)
}

// physicalError translates the refusal of START_REPLICATION.
func (o *owner) physicalError(ctx context.Context, c *connection, err error) error {
	name := o.cfg.slot
	switch state := sqlstate.Of(err); {
	case state == sqlstate.ObjectInUse:
		return slots.Active(ctx, c.sql, name, err)
	case state == sqlstate.UndefinedObject:
		return missingPhysicalSlot(name, err)
	case state == sqlstate.NotPrerequisite && name != "": // a lost slot, from PostgreSQL 18 on
		if slot, lookErr := slots.Read(ctx, c.sql, name); lookErr == nil && slot != nil && slot.WALStatus == "lost" {
			return begin.WALRemoved(err)
		}
	}
	return pgfail.Failed("start physical replication", err)
}
