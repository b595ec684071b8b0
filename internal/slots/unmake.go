package slots

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// A slot whose maker has given up: nobody knows of it, and it keeps WAL for ever. CREATE_REPLICATION_SLOT may complete although the
// client no longer waits for it. So the statement is cancelled, its answer awaited, and the slot dropped if it was made.

// cleanUpTimeout bounds the wait for the answer to a cancelled CREATE_REPLICATION_SLOT, and then the dropping of the slot.
const cleanUpTimeout = 5 * time.Second

// Maker says who has made a slot that nobody wants.
type Maker uint8

// The makers.
const (
	MadeByUs   Maker = iota // the server has said so
	MissedOnce              // it was missing before it was asked for: if it exists now, it is ours
	NotKnown                // it may be somebody else's
)

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
func (a *Access) lacks(ctx context.Context, n *New) bool {
	switch {
	case n.Temporary, n.Snapshot == "use": // there the transaction must begin with CREATE_REPLICATION_SLOT
		return false
	case a.IsPhysical():
		_, err := a.ReadPhysical(ctx, n.Name)
		return errors.Is(err, walerr.SlotMissing)
	}
	slot, err := Read(ctx, a.Query, n.Name)
	return err == nil && slot == nil
}

// ClearAway drops a slot that was made over the connection, or may have been, also if the connection is broken by then. What it
// cannot drop it logs.
func (a *Access) ClearAway(log *slog.Logger, name string, by Maker) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
	defer cancel()
	err := a.dropUnwanted(ctx, name, by)
	if errors.Is(err, walerr.Unreachable) || errors.Is(err, walerr.ServerDown) {
		err = a.dropElsewhere(ctx, name, by)
	}
	switch {
	case err == nil:
	case errors.Is(err, walerr.SlotActive):
		log.Info("the slot that was made stays, because it is in use already", "slot", name, "error", err)
	default:
		log.Warn("a slot that was made may be left: it keeps WAL until it is used or dropped", "slot", name, "error", err)
	}
}

// dropUnwanted drops the slot if it is there and ours.
func (a *Access) dropUnwanted(ctx context.Context, name string, by Maker) error {
	if by == NotKnown {
		slot, err := Read(ctx, a.SQL, name)
		if err != nil || slot == nil {
			return err
		}
		return perhapsOfAnother(name)
	}
	err := Drop(ctx, a.Conn, a.SQL, name, false)
	if errors.Is(err, walerr.SlotMissing) {
		return nil
	}
	return err
}

// dropElsewhere drops the slot over another connection to the same server, after the walsender of the broken one has ended: until
// then it may still make the slot, or hold it.
func (a *Access) dropElsewhere(ctx context.Context, name string, by Maker) error {
	a.Close()
	other, err := a.dialAgain(ctx)
	if err != nil {
		return err
	}
	defer other.Close()
	soon, cancel := context.WithTimeout(ctx, cleanUpTimeout*3/4)
	defer cancel()
	for pause := 5 * time.Millisecond; other.serves(soon, a); pause = min(2*pause, 200*time.Millisecond) {
		_ = a.Cancel(soon) // it does not notice a broken connection while it waits for transactions to end
		if !link.Sleep(soon, pause) {
			break // half-open: it waits for the next command, which does no harm
		}
	}
	return other.dropUnwanted(ctx, name, by)
}

// serves says whether the walsender of another connection is known to live.
func (a *Access) serves(ctx context.Context, other *Access) bool {
	rows, err := a.SQL(ctx, fmt.Sprintf("SELECT FROM pg_catalog.pg_stat_activity WHERE pid = %d AND backend_type = 'walsender'", other.PID()))
	return err == nil && len(rows) > 0
}

// dialAgain makes a connection of the same kind to the same server.
func (a *Access) dialAgain(ctx context.Context) (*Access, error) {
	again := session.Dial
	if a.IsPhysical() {
		again = session.DialPhysical
	}
	conn, err := again(ctx, a.OrdinaryConfig())
	if err != nil {
		return nil, dial.Error(err, a.Config)
	}
	return &Access{conn, a.Reached}, nil
}
