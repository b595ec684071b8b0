package slots

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// Access is a walsender's connection, and how its server was reached: some questions take another connection to it.
type Access struct {
	*session.Conn
	dial.Reached
}

// SQL runs a query. A physical connection has no SQL: then it makes an ordinary one for the query.
func (a *Access) SQL(ctx context.Context, query string) ([][]string, error) {
	if !a.IsPhysical() {
		return a.Query(ctx, query)
	}
	cfg := a.OrdinaryConfig()
	delete(cfg.RuntimeParams, "replication")
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, dial.Error(err, cfg)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return session.Query(ctx, conn, query)
}

// ReadPhysical returns the restart_lsn of a physical slot, 0 if it has none. From PostgreSQL 15 on there is a command for
// it; before, it takes an ordinary connection.
func (a *Access) ReadPhysical(ctx context.Context, name string) (wal.LSN, error) {
	var kind, restart string
	if version, _ := a.Version(); version >= 150000 {
		rows, err := a.Query(ctx, "READ_REPLICATION_SLOT "+pgsql.Quoted(name))
		switch {
		case sqlstate.Of(err) == sqlstate.FeatureNotSupported:
			kind = "logical"
		case err != nil:
			return 0, pgfail.Failed(fmt.Sprintf("look up slot %q", name), err)
		case len(rows) != 1 || len(rows[0]) < 2:
			return 0, pgfail.Failed(fmt.Sprintf("look up slot %q", name), errors.New("unexpected answer"))
		default:
			kind, restart = rows[0][0], rows[0][1]
		}
	} else {
		rows, err := a.SQL(ctx, "SELECT slot_type, coalesce(restart_lsn::text, '') FROM pg_catalog.pg_replication_slots WHERE slot_name = "+pgsql.Literal(name))
		if err != nil {
			return 0, pgfail.Failed(fmt.Sprintf("look up slot %q", name), err)
		}
		if len(rows) > 0 {
			kind, restart = rows[0][0], rows[0][1]
		}
	}
	switch {
	case kind == "":
		return 0, MissingPhysical(name, nil)
	case kind != "physical":
		return 0, notPhysical(name)
	case restart == "":
		return 0, nil
	}
	lsn, err := wal.ParseLSN(restart)
	if err != nil {
		return 0, pgfail.Failed(fmt.Sprintf("look up slot %q", name), err)
	}
	return lsn, nil
}

// MissingPhysical is the error of a physical slot that does not exist.
func MissingPhysical(name string, err error) error {
	return &walerr.Error{Kind: walerr.SlotMissing, What: fmt.Sprintf("slot %q does not exist", name), Err: err,
		Advice: "create it with WithCreateSlot, or CreateSlot of package admin"}
}

func notPhysical(name string) error {
	return &walerr.Error{Kind: walerr.SlotMismatch, What: fmt.Sprintf("slot %q is a logical one", name), Advice: "use a physical slot"}
}
