package walchan

import (
	"context"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/slots"
)

// making is what the stream is among those who make its slot: see slots.Making.
func (o *owner) making() slots.Making { return slots.Making{Slot: o.cfg.slot, ID: o.id} }

// checkAlone fails if another process is making the slot, or has made it, or has stored a checkpoint of it, by the time that the temporary one
// is there.
func (o *owner) checkAlone(c *connection) error {
	if o.cfg.slot == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(o.ctx, c.Timers.Patience())
	defer cancel()
	conn, err := c.DialOrdinary(ctx) // on c the snapshot ends with the next command
	if err != nil {
		return pgfail.Failed("look for others that make the slot", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	made, err := o.making().IsMade(ctx, slots.Over(conn))
	if err != nil {
		return err
	}
	if made {
		return errStoredMore
	}
	if o.cfg.checkpoints && o.snapshots.attempt == 0 {
		cp, err := o.cfg.checkpoint(o.ctx)
		if err == nil && cp != o.given {
			err = errStoredMore
		}
		return err
	}
	return nil
}
