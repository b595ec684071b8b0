package walchan

import (
	"context"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
)

// While a stream has a temporary slot, of which its own will be a copy, others may begin to make the same slot. The first of them to
// complete it would leave the others with rows and checkpoints that do not belong to it. So the names of temporary slots say which slot
// is being made, and whoever sees another one gives way.

// temporarySlot returns the name of the slot from which the stream's own will be made. It is another one for each attempt, because the
// server may keep the last one until it notices that the connection is lost.
func (o *owner) temporarySlot() string {
	return fmt.Sprintf("%s%x_%d", makingPrefix(o.cfg.slot), o.id, o.snapshots.attempt)
}

func makingPrefix(slot string) string {
	h := fnv.New64a()
	h.Write([]byte(slot))
	return fmt.Sprintf("walchan_%x_", h.Sum64())
}

// rivals is a condition for rows of pg_replication_slots: another process is making the stream's slot.
func (o *owner) rivals() string {
	like := strings.NewReplacer("_", `\_`).Replace
	prefix := makingPrefix(o.cfg.slot)
	return fmt.Sprintf("temporary AND active AND slot_name LIKE '%s%%' AND slot_name NOT LIKE '%s%%'", like(prefix), like(fmt.Sprintf("%s%x_", prefix, o.id)))
}

// checkAlone fails if another process is making the slot, or has made it, or has stored a checkpoint of it, by the time that the temporary one
// is there.
func (o *owner) checkAlone(c *connection) error {
	if o.cfg.slot == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(o.ctx, c.patience())
	defer cancel()
	conn, err := c.DialOrdinary(ctx) // on c the snapshot ends with the next command
	if err != nil {
		return pgfail.Failed("look for others that make the slot", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := session.Query(ctx, conn, "SELECT slot_name, coalesce(active_pid, 0) FROM pg_catalog.pg_replication_slots WHERE "+o.rivals()+
		" OR slot_name = "+pgsql.Literal(o.cfg.slot))
	if err != nil {
		return pgfail.Failed("look for others that make the slot", err)
	}
	for _, row := range rows {
		if row[0] != o.cfg.slot {
			pid, _ := strconv.ParseUint(row[1], 10, 32)
			return &Error{Kind: ErrSlotActive, What: fmt.Sprintf("slot %q is being made by another process, PID %d", o.cfg.slot, pid), PID: uint32(pid),
				Advice: "wait until it is made (WithWaitForSlot), or end that process"}
		}
	}
	if len(rows) > 0 {
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
