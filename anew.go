package walchan

import (
	"context"
	"errors"
	"time"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/slots"
)

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
