// Package slots reads, drops and judges replication slots, and says what a refusal means.
package slots

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
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
	mismatch := func(is, advice string) error {
		return &walerr.Error{Kind: walerr.SlotMismatch, What: fmt.Sprintf("slot %q is %s", name, is), Advice: advice}
	}
	switch {
	case slot.kind != "logical":
		return mismatch("a physical one", "use a logical slot")
	case slot.database != database:
		return mismatch(fmt.Sprintf("of the database %q, not of %q", slot.database, database), "connect to its database, or use another slot")
	case slot.plugin != plugin && slot.plugin != "": // while it is being made
		return mismatch(fmt.Sprintf("of the output plugin %q, not of %q", slot.plugin, plugin), "ask for it with WithPlugin, or use another slot")
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
	return &walerr.Error{Kind: walerr.SlotMismatch, What: fmt.Sprintf("slot %q has two-phase on: it sends transactions that are prepared and may not be committed", name),
		Advice: "ask for that with WithTwoPhase, or use another slot"}
}

// Missing is the error of a logical slot that does not exist.
func Missing(name string, err error) *walerr.Error {
	return &walerr.Error{Kind: walerr.SlotMissing, What: fmt.Sprintf("slot %q does not exist", name), Err: err,
		Advice: "create it with WithCreateSlot, or CreateSlot of package admin: it begins now, and what was changed before is not in it"}
}

// Invalidated says that the server has given up a slot. reason is pg_replication_slots.invalidation_reason, "" if not known.
func Invalidated(name, reason string, err error) error {
	advice := "begin anew: drop the slot, Subscribe with WithCreateSlot, and copy the tables again"
	if cause, ok := map[string]string{
		"":                       "if it was for too much WAL, see max_slot_wal_keep_size",
		"wal_removed":            "see max_slot_wal_keep_size",
		"rows_removed":           "see hot_standby_feedback",
		"wal_level_insufficient": "see wal_level on the primary",
		"idle_timeout":           "see idle_replication_slot_timeout",
	}[reason]; ok {
		advice += "; " + cause
	}
	what := fmt.Sprintf("slot %q was invalidated: the server no longer has the changes that follow", name)
	if reason != "" {
		what += " (" + reason + ")"
	}
	return &walerr.Error{Kind: walerr.SlotInvalidated, What: what, Err: err, Advice: advice}
}

// IsOptionRefused says whether the output plugin has refused an option at START_REPLICATION. For an option that it does not know pgoutput
// has an internal error (parse_output_parameters in src/backend/replication/pgoutput/pgoutput.c). The name of the source file tells that
// from others.
func IsOptionRefused(pg *pgconn.PgError) bool {
	if pg == nil {
		return false
	}
	switch pg.Code {
	case sqlstate.InvalidParameter, sqlstate.SyntaxError, sqlstate.InvalidName, sqlstate.FeatureNotSupported:
		return true
	case sqlstate.Internal:
		return pg.File == "pgoutput.c"
	}
	return false
}

// InRecovery is the failure of a standby, or of a server that recovers from a crash, that cannot continue the stream yet.
func InRecovery(what string, err error) error {
	return &walerr.Error{Kind: walerr.ServerDown, What: "the server is in recovery: " + what, Err: err, Advice: "wait for it to catch up or to be promoted, or connect to the primary"}
}
