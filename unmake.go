package walchan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/sqlstate"
)

// A slot whose maker has given up: nobody knows of it, and it keeps WAL for ever. CREATE_REPLICATION_SLOT may complete although the
// client no longer waits for it. So the statement is cancelled, its answer awaited, and the slot dropped if it was made.

// cleanUpTimeout bounds the wait for the answer to a cancelled CREATE_REPLICATION_SLOT, and then the dropping of the slot.
const cleanUpTimeout = 5 * time.Second

// maker says who has made a slot that nobody wants.
type maker uint8

const (
	madeByUs   maker = iota // the server has said so
	missedOnce              // it was missing before it was asked for: if it exists now, it is ours
	notKnown                // it may be somebody else's
)

// makeSlot runs CREATE_REPLICATION_SLOT, and returns its row. After an error there is no slot.
func (c *connection) makeSlot(ctx context.Context, cfg *config, n *NewSlot) ([]string, error) {
	by := notKnown
	if c.lacks(ctx, n) {
		by = missedOnce
	}
	rows, err := c.QueryAnswered(ctx, n.command(), cleanUpTimeout)
	if err == nil {
		by = madeByUs
		if len(rows) != 1 || len(rows[0]) < 3 {
			err = errors.New("unexpected answer")
		}
	}
	if ended := ctx.Err(); ended != nil {
		if err == nil || errors.Is(err, ended) || sqlstate.Of(err) == sqlstate.QueryCanceled {
			err = ended
		}
	}
	switch {
	case err == nil:
		return rows[0], nil
	case by == madeByUs, !n.Temporary && isOpen(err):
		c.clearAway(cfg, n.Name, by)
	}
	return nil, slots.CreateError(ctx, c.Conn, n.Name, n.plugin(), err)
}

// isOpen says whether a slot may have been made in spite of the error. A physical slot is permanent before the statement is complete,
// and a logical one for a moment (CreateReplicationSlot in src/backend/replication/walsender.c).
func isOpen(err error) bool {
	switch sqlstate.Of(err) {
	case "", sqlstate.QueryCanceled, sqlstate.AdminShutdown, sqlstate.CrashShutdown:
		return true
	}
	return false
}

// lacks says whether the slot is certainly missing.
func (c *connection) lacks(ctx context.Context, n *NewSlot) bool {
	switch {
	case n.Temporary, n.Snapshot == SnapshotUse: // there the transaction must begin with CREATE_REPLICATION_SLOT
		return false
	case c.isPhysical():
		_, err := readPhysicalSlot(ctx, c, n.Name)
		return errors.Is(err, ErrSlotMissing)
	}
	slot, err := slots.Read(ctx, c.Query, n.Name)
	return err == nil && slot == nil
}

// clearAway drops a slot that was made over the connection, or may have been, also if the connection is broken by then. What it
// cannot drop it logs.
func (c *connection) clearAway(cfg *config, name string, by maker) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
	defer cancel()
	if !c.status.Since.IsZero() {
		c.Close() // it streams already, and takes no commands
	}
	err := c.dropUnwanted(ctx, name, by)
	if errors.Is(err, ErrUnreachable) || errors.Is(err, ErrServerDown) {
		err = c.dropElsewhere(ctx, name, by)
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrSlotActive):
		cfg.log.Info("the slot that was made stays, because it is in use already", "slot", name, "error", err)
	default:
		cfg.log.Warn("a slot that was made may be left: it keeps WAL until it is used or dropped (DropSlot)", "slot", name, "error", err)
	}
}

// dropUnwanted drops the slot if it is there and ours.
func (c *connection) dropUnwanted(ctx context.Context, name string, by maker) error {
	if by == notKnown {
		slot, err := slots.Read(ctx, c.sql, name)
		if err != nil || slot == nil {
			return err
		}
		return &Error{Kind: ErrServer, What: fmt.Sprintf("slot %q exists, but perhaps somebody else has made it", name)}
	}
	err := slots.Drop(ctx, c.Conn, c.sql, name, false)
	if errors.Is(err, ErrSlotMissing) {
		return nil
	}
	return err
}

// dropElsewhere drops the slot over another connection to the same server, after the walsender of the broken one has ended: until
// then it may still make the slot, or hold it.
func (c *connection) dropElsewhere(ctx context.Context, name string, by maker) error {
	c.Close()
	other, err := c.dialAgain(ctx)
	if err != nil {
		return err
	}
	defer other.Close()
	soon, cancel := context.WithTimeout(ctx, cleanUpTimeout*3/4)
	defer cancel()
	for pause := 5 * time.Millisecond; other.serves(soon, c); pause = min(2*pause, 200*time.Millisecond) {
		_ = c.Cancel(soon) // it does not notice a broken connection while it waits for transactions to end
		if !link.Sleep(soon, pause) {
			break // half-open: it waits for the next command, which does no harm
		}
	}
	return other.dropUnwanted(ctx, name, by)
}

// serves says whether the walsender of another connection is known to live.
func (c *connection) serves(ctx context.Context, other *connection) bool {
	rows, err := c.sql(ctx, fmt.Sprintf("SELECT FROM pg_catalog.pg_stat_activity WHERE pid = %d AND backend_type = 'walsender'", other.PID()))
	return err == nil && len(rows) > 0
}

// dialAgain makes a connection of the same kind to the same server.
func (c *connection) dialAgain(ctx context.Context) (*connection, error) {
	again := session.Dial
	if c.isPhysical() {
		again = session.DialPhysical
	}
	conn, err := again(ctx, c.ordinaryConfig())
	if err != nil {
		return nil, dial.Error(err, c.config)
	}
	return &connection{Conn: conn, reached: c.reached}, nil
}

// isPhysical says whether the connection is for physical replication, and has no SQL.
func (c *connection) isPhysical() bool { return c.config.RuntimeParams["replication"] == "true" }
