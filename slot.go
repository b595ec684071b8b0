package walchan

import (
	"context"
	"errors"
	"fmt"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/sqlstate"
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
		return 0, o.missingSlot(nil)
	}
	if err := slot.Check(name, o.cfg.plugin, database); err != nil {
		return 0, err
	}
	version, _ := c.Version()
	if err := o.cfg.checkTwoPhase(slot, name, version); err != nil {
		return 0, err
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

// checkSwitch fails if the slot is behind the checkpoint when WithTwoPhase is switched on, which the server does for good. It would then send
// what was prepared in between at its PREPARE, in the midst of what the consumer has, and at its COMMIT PREPARED not again.
func (o *owner) checkSwitch(slot LSN) error {
	cp, err := o.cfg.checkpoint(o.ctx)
	if err != nil {
		return err
	}
	if p := cp.c.Point; cp.c.Physical || p.IsComplete() && max(p.Through, p.Message) <= slot {
		return nil
	}
	return &Error{Kind: ErrOptions, What: fmt.Sprintf("WithTwoPhase is not switched on for slot %q, because that is at %s, behind the checkpoint, and what was prepared in between would be left out", o.source.Slot, slot),
		Advice: "stream without it until now (WithUntilNow), then with it"}
}

// terminate ends the walsender of a lost connection, which may wait for us for long.
func (o *owner) terminate(ctx context.Context, c, lost *connection) error {
	_, err := c.Query(ctx, fmt.Sprintf("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = %d AND backend_start::text = %s",
		lost.PID(), pgsql.Literal(lost.backendStart)))
	if err != nil {
		return pgfail.Failed(fmt.Sprintf("terminate our old walsender (PID %d)", lost.PID()), err)
	}
	o.cfg.log.Info("terminated the walsender of the lost connection", "slot", o.source.Slot, "pid", lost.PID())
	return nil
}

func (o *owner) missingSlot(err error) error {
	e := slots.Missing(o.source.Slot, err)
	if o.cfg.checkpoints {
		e.Advice = "a new one would leave a gap: copy the tables again (SubscribeAnew, with WithSnapshot)"
	}
	return e
}

// startError translates the refusal of START_REPLICATION. Some SQLSTATEs have several meanings: then the slot tells.
func (o *owner) startError(ctx context.Context, c *connection, err error) error {
	name := o.source.Slot
	what := fmt.Sprintf("start replication from slot %q", name)
	switch state := sqlstate.Of(err); {
	case state == sqlstate.ObjectInUse:
		return slots.Active(ctx, c.Query, name, err)
	case state == sqlstate.UndefinedObject:
		return o.missingSlot(err)
	case c.standby && (state == sqlstate.NotPrerequisite || state == sqlstate.FeatureNotSupported):
		return slots.InRecovery(what, err)
	case state == sqlstate.NotPrerequisite:
		slot, lookErr := slots.Read(ctx, c.Query, name)
		if lookErr == nil && slot != nil && slot.WALStatus == "lost" {
			return slots.Invalidated(name, "", err)
		}
	case state == sqlstate.UndefinedFile:
		return slots.MissingPlugin(o.cfg.plugin, err)
	case slots.IsOptionRefused(sqlstate.Error(err)):
		return &Error{Kind: ErrPluginOption, What: fmt.Sprintf("the output plugin %q refuses an option", o.cfg.plugin), Err: err,
			Advice: "correct it (WithPlugin, WithPluginOption)"}
	}
	return pgfail.Failed(what, err)
}
