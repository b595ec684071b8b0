// Package slots reads, makes, drops and judges replication slots. The texts of all refusals about a slot stand in refusals.go.
package slots

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/wal"
)

// Row is what pg_replication_slots says of a slot.
type Row struct {
	kind, plugin, database string
	TwoPhase               bool
	ActivePID              uint32
	Confirmed              wal.LSN
	WALStatus              string
}

// Querying runs a query, whose values come as text.
type Querying = func(context.Context, string) ([][]string, error)

// Over asks over a connection.
func Over(conn *pgconn.PgConn) Querying {
	return func(ctx context.Context, sql string) ([][]string, error) { return session.Query(ctx, conn, sql) }
}

// Read returns the row of a slot, nil if there is none.
func Read(ctx context.Context, query Querying, name string) (*Row, error) {
	rows, err := query(ctx, "SELECT slot_type, coalesce(plugin, ''), coalesce(database, ''), coalesce(active_pid, 0), "+
		"coalesce(confirmed_flush_lsn, '0/0'), coalesce(wal_status, ''), two_phase FROM pg_catalog.pg_replication_slots WHERE slot_name = "+pgsql.Literal(name))
	if err != nil {
		return nil, pgfail.Failed(fmt.Sprintf("look up slot %q", name), err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	r := rows[0]
	slot := &Row{kind: r[0], plugin: r[1], database: r[2], WALStatus: r[5], TwoPhase: r[6] == "t"}
	fmt.Sscanf(r[3], "%d", &slot.ActivePID)
	if slot.Confirmed, err = wal.ParseLSN(r[4]); err != nil {
		return nil, pgfail.Failed(fmt.Sprintf("look up slot %q", name), err)
	}
	return slot, nil
}

// Check says whether a stream can be had from the slot.
func (slot *Row) Check(name, plugin, database string) error {
	switch {
	case slot.kind != "logical":
		return notLogical(name)
	case slot.database != database:
		return ofOtherDatabase(name, slot.database, database)
	case slot.plugin != plugin && slot.plugin != "": // while it is being made
		return ofOtherPlugin(name, slot.plugin, plugin)
	case slot.WALStatus == "lost":
		return Invalidated(name, "", nil)
	}
	return nil
}

// CheckUnprepared fails if the slot would send prepared transactions that the stream has not asked for. Since PostgreSQL 15 pgoutput does
// so once the slot has two-phase on, whatever the options of the stream (CreateDecodingContext in
// src/backend/replication/logical/logical.c).
func (slot *Row) CheckUnprepared(name string, version int) error {
	if !slot.TwoPhase || version/10000 == 14 {
		return nil
	}
	return sendsPrepared(name)
}
