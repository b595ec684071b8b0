package slots

import (
	"context"
	"fmt"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// CreateError translates the refusal of CREATE_REPLICATION_SLOT.
func CreateError(ctx context.Context, c *session.Conn, name, plugin string, err error) error {
	e := pgfail.Failed(fmt.Sprintf("create slot %q", name), err)
	switch state := sqlstate.Of(err); {
	case ctx.Err() != nil:
		e.Advice = "it waits for the transactions that are running (xact_start in pg_stat_activity): give it more time"
	case state == sqlstate.DuplicateObject:
		e.Kind, e.Advice = walerr.SlotExists, "use it, choose another name, or drop it first"
	case state == sqlstate.ConfigLimit:
		e.Kind, e.Advice = walerr.NoFreeSlot, "drop a slot that nobody uses (see pg_replication_slots), or raise max_replication_slots"
	case state == sqlstate.UndefinedFile, state == sqlstate.Internal && sqlstate.Error(err).Routine == "LoadOutputPlugin":
		return MissingPlugin(plugin, err)
	case state == sqlstate.NotPrerequisite, state == sqlstate.FeatureNotSupported:
		return unpreparedServer(ctx, c, e)
	}
	return e
}

func MissingPlugin(plugin string, err error) error {
	return &walerr.Error{Kind: walerr.PluginMissing, What: fmt.Sprintf("no output plugin %q on the server", plugin), Err: err,
		Advice: "install it there, or use another (pgoutput and test_decoding come with PostgreSQL)"}
}

// unpreparedServer looks at the server for why it makes no slot, which its SQLSTATE leaves open.
func unpreparedServer(ctx context.Context, c *session.Conn, e *walerr.Error) error {
	rows, err := c.Query(ctx, "SELECT pg_catalog.current_setting('wal_level'), pg_catalog.current_setting('max_replication_slots'), pg_catalog.pg_is_in_recovery()")
	if err != nil || len(rows) != 1 {
		return e
	}
	level, slots, recovery := rows[0][0], rows[0][1], rows[0][2]
	switch {
	case level != "logical":
		return &walerr.Error{Kind: walerr.WALLevel, What: "wal_level is " + level, Err: e.Err,
			Advice: "ALTER SYSTEM SET wal_level = logical (a managed service has a parameter for it), and restart the server"}
	case slots == "0":
		return &walerr.Error{Kind: walerr.NoFreeSlot, What: "max_replication_slots is 0", Err: e.Err, Advice: "raise it, and restart the server"}
	case recovery == "t":
		return InRecovery(e.What, e.Err)
	}
	return e
}

// Drop drops a slot over a walsender's connection. sql runs a query, perhaps over another one.
func Drop(ctx context.Context, c *session.Conn, sql Querying, name string, wait bool) error {
	command := "DROP_REPLICATION_SLOT " + pgsql.Quoted(name)
	if wait {
		command += " WAIT"
	}
	_, err := c.Query(ctx, command)
	switch sqlstate.Of(err) {
	case sqlstate.UndefinedObject:
		return &walerr.Error{Kind: walerr.SlotMissing, What: fmt.Sprintf("slot %q does not exist", name), Err: err, Advice: "check the name: pg_replication_slots has those that exist"}
	case sqlstate.ObjectInUse:
		return Active(ctx, sql, name, err)
	}
	if err != nil {
		return pgfail.Failed(fmt.Sprintf("drop slot %q", name), err)
	}
	return nil
}

// Active is the refusal of a slot that is in use. By whom stands in the server's message, in its language; in the
// catalogue it may have changed.
func Active(ctx context.Context, query Querying, name string, err error) error {
	e := &walerr.Error{Kind: walerr.SlotActive, What: fmt.Sprintf("slot %q is in use", name), Err: err, Advice: "try again"}
	if slot, err := Read(ctx, query, name); err == nil && slot != nil && slot.ActivePID != 0 {
		e.PID = slot.ActivePID
		e.What += fmt.Sprintf(" by PID %d", e.PID)
		e.Advice = fmt.Sprintf("wait until it is free (WithWaitForSlot), end that client (see pg_stat_replication; SELECT pg_terminate_backend(%d)), or use another slot", e.PID)
	}
	return e
}
