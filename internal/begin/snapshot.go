package begin

import (
	"context"
	"errors"
	"fmt"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/sqlstate"
)

// How a stream begins with existing rows: with a temporary slot, of which its own will be a copy.

// ErrStoredMore says that the consumer has stored another checkpoint by the time the slot was held, or that another process has made the
// slot. The stream begins after that checkpoint, over a new connection.
var ErrStoredMore = errors.New("walchan: another checkpoint is stored")

// openSnapshot exports a snapshot, unless the slot exists: then it returns false, and the stream goes on from that.
func (a *attempt) openSnapshot(ctx context.Context) (bool, error) {
	s := &a.is.Snapshot
	temporary := a.Slot.Name
	if !a.Slot.Temporary {
		slot, err := slots.Read(ctx, a.c.Query, a.Slot.Name)
		switch {
		case err != nil:
			return false, err
		case slot != nil && s.Attempt == 0 && a.Create,
			slot != nil && s.Kept != 0 && slot.Confirmed == s.Kept: // it was kept, and the answer was lost
			s.Due = false
			if s.Kept == 0 {
				return false, nil
			}
			return false, a.setFailover(ctx, a.c)
		case slot != nil:
			return false, slots.ExistsBeforeSnapshot(a.Slot.Name)
		}
		if err := checkRoom(ctx, a.c, a.Slot.Name); err != nil {
			return false, err
		}
		temporary = a.making().Temporary(s.Attempt)
	}
	if err := a.export(temporary); err != nil {
		return false, err
	}
	return true, a.checkAlone()
}

// checkRoom makes sure that there can be the temporary slot and beside it, when all rows are acknowledged, the permanent one.
func checkRoom(ctx context.Context, c *slots.Access, name string) error {
	rows, err := c.Query(ctx, "SELECT count(*) + 2 > pg_catalog.current_setting('max_replication_slots')::pg_catalog.int8 FROM pg_catalog.pg_replication_slots")
	switch {
	case err != nil || len(rows) != 1:
		return pgfail.Failed("count the slots", err)
	case rows[0][0] == "t":
		return slots.NoRoomForSnapshot(name)
	}
	return nil
}

// export makes the temporary slot and its snapshot. The time-outs would end the connection, which is idle in a transaction as the server
// sees it.
func (a *attempt) export(temporary string) error {
	version, _ := a.c.Version()
	if _, err := a.c.Query(a.ctx, session.NoTimeouts(version)); err != nil {
		return pgfail.Failed("set the time-outs", err)
	}
	a.c.KeepAlive()
	slot, err := a.c.Create(a.ctx, a.Log, slots.New{Name: temporary, Plugin: a.Slot.Plugin, Temporary: true, TwoPhase: a.Slot.TwoPhase, Snapshot: "export"})
	a.is.Exported = &Exported{Slot: temporary, Name: slot.Snapshot, From: slot.Start}
	return err
}

// checkAlone fails if another process is making the slot, or has made it, or has stored a checkpoint of it, by the time that the temporary one
// is there.
func (a *attempt) checkAlone() error {
	if a.Slot.Temporary {
		return nil
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.is.Timers.Patience())
	defer cancel()
	conn, err := a.c.DialOrdinary(ctx) // on the stream's the snapshot ends with the next command
	if err != nil {
		return pgfail.Failed("look for others that make the slot", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	made, err := a.making().IsMade(ctx, slots.Over(conn))
	if err != nil {
		return err
	}
	if made {
		return ErrStoredMore
	}
	if a.Consumer != nil && a.is.Snapshot.Attempt == 0 {
		cp, err := a.Consumer.Checkpoint(a.ctx)
		if err == nil && cp != a.given {
			err = ErrStoredMore
		}
		return err
	}
	return nil
}

// KeepSlot makes the permanent slot, now that all rows are acknowledged: a copy of the temporary one, with its position. The copy has
// two-phase and failover off (create_logical_replication_slot in src/backend/replication/slotfuncs.c); START_REPLICATION switches
// two-phase on.
func (r *Request) KeepSlot(ctx context.Context, c *slots.Access, temporary string) error {
	if r.Slot.Temporary {
		return nil
	}
	_, err := c.Query(ctx, fmt.Sprintf("SELECT pg_catalog.pg_copy_logical_replication_slot(%s, %s, false)", pgsql.Literal(temporary), pgsql.Literal(r.Slot.Name)))
	if err != nil {
		return r.copyError(ctx, c, temporary, err)
	}
	if err := r.setFailover(ctx, c); err != nil {
		return err
	}
	if _, err := c.Query(ctx, "DROP_REPLICATION_SLOT "+pgsql.Quoted(temporary)); err != nil {
		return pgfail.Failed("drop the temporary slot", err)
	}
	return nil
}

func (r *Request) setFailover(ctx context.Context, c *slots.Access) error {
	if !r.Slot.Failover {
		return nil
	}
	if _, err := c.Query(ctx, "ALTER_REPLICATION_SLOT "+pgsql.Quoted(r.Slot.Name)+" (FAILOVER true)"); err != nil {
		return pgfail.Failed("set the slot's failover", err)
	}
	return nil
}

func (r *Request) copyError(ctx context.Context, c *slots.Access, temporary string, err error) error {
	if ctx.Err() != nil {
		return pgfail.Failed("make the slot", err)
	}
	if sqlstate.Of(err) == sqlstate.NotPrerequisite {
		if slot, lookErr := slots.Read(ctx, c.Query, temporary); lookErr == nil && slot != nil && slot.WALStatus == "lost" {
			return slots.Invalidated(temporary, "", err)
		}
	}
	return slots.CreateError(ctx, c.Conn, r.Slot.Name, r.Slot.Plugin, err)
}
