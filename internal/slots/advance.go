package slots

import (
	"context"
	"errors"
	"fmt"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// Advance moves a slot forward, as if everything before to were confirmed, and returns its new position. The server goes no further than
// to the end of its WAL.
func Advance(ctx context.Context, query Querying, name string, to wal.LSN) (wal.LSN, error) {
	what := fmt.Sprintf("advance slot %q", name)
	rows, err := query(ctx, fmt.Sprintf("SELECT end_lsn FROM pg_catalog.pg_replication_slot_advance(%s, '%s')", pgsql.Literal(name), to))
	if err != nil {
		return 0, advanceError(ctx, query, name, to, pgfail.Failed(what, err))
	}
	if len(rows) != 1 {
		return 0, pgfail.Failed(what, errors.New("unexpected answer"))
	}
	lsn, err := wal.ParseLSN(rows[0][0])
	if err != nil {
		return 0, pgfail.Failed(what, err)
	}
	return lsn, nil
}

// advanceError says why a slot cannot be advanced (pg_replication_slot_advance in src/backend/replication/slotfuncs.c).
func advanceError(ctx context.Context, query Querying, name string, to wal.LSN, e *walerr.Error) error {
	switch sqlstate.Of(e.Err) {
	case sqlstate.UndefinedObject:
		e.Kind, e.Advice = walerr.SlotMissing, "check the name: pg_replication_slots has those that exist"
	case sqlstate.ObjectInUse:
		return Active(ctx, query, name, e.Err)
	case sqlstate.NotPrerequisite:
		all, _ := List(ctx, query)
		for _, slot := range all {
			switch {
			case slot.Name != name:
			case slot.WALStatus == "lost":
				return Invalidated(name, slot.InvalidationReason, e.Err)
			case to < max(slot.ConfirmedFlush, slot.RestartLSN):
				e.Kind, e.Advice = walerr.Options, "a slot never goes back"
			case slot.RestartLSN == 0:
				e.Kind, e.Advice = walerr.SlotMismatch, "it has no position yet: make it with ReserveWAL, or stream from it first"
			default:
				e.Kind, e.Advice = walerr.SlotMismatch, "connect to the slot's database"
			}
		}
	}
	return e
}
