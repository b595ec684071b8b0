package begin

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// missing is the error of the stream's slot, which does not exist.
func (r *Request) missing(err error) error {
	if r.Consumer != nil {
		return slots.Gone(r.Slot.Name, err)
	}
	return slots.Missing(r.Slot.Name, err)
}

// refused translates the refusal of START_REPLICATION. Some SQLSTATEs have several meanings: then the slot tells.
func (r *Request) refused(ctx context.Context, query slots.Querying, standby bool, err error) error {
	name := r.Slot.Name
	what := fmt.Sprintf("start replication from slot %q", name)
	switch state := sqlstate.Of(err); {
	case state == sqlstate.ObjectInUse:
		return slots.Active(ctx, query, name, err)
	case state == sqlstate.UndefinedObject:
		return r.missing(err)
	case standby && (state == sqlstate.NotPrerequisite || state == sqlstate.FeatureNotSupported):
		return slots.InRecovery(what, err)
	case state == sqlstate.NotPrerequisite:
		slot, lookErr := slots.Read(ctx, query, name)
		if lookErr == nil && slot != nil && slot.WALStatus == "lost" {
			return slots.Invalidated(name, "", err)
		}
	case state == sqlstate.UndefinedFile:
		return slots.MissingPlugin(r.Slot.Plugin, err)
	case isOptionRefused(sqlstate.Error(err)):
		return &walerr.Error{Kind: walerr.PluginOption, What: fmt.Sprintf("the output plugin %q refuses an option", r.Slot.Plugin), Err: err,
			Advice: "correct it (WithPlugin, WithPluginOption)"}
	}
	return pgfail.Failed(what, err)
}

// isOptionRefused says whether the output plugin has refused an option at START_REPLICATION. For an option that it does not know pgoutput
// has an internal error (parse_output_parameters in src/backend/replication/pgoutput/pgoutput.c). The name of the source file tells that
// from others.
func isOptionRefused(pg *pgconn.PgError) bool {
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

// RefusedPhysical is the same for a physical stream. name is "" of one without a slot.
func RefusedPhysical(ctx context.Context, query slots.Querying, name string, err error) error {
	switch state := sqlstate.Of(err); {
	case state == sqlstate.ObjectInUse:
		return slots.Active(ctx, query, name, err)
	case state == sqlstate.UndefinedObject:
		return slots.MissingPhysical(name, err)
	case state == sqlstate.NotPrerequisite && name != "": // a lost slot, from PostgreSQL 18 on
		if slot, lookErr := slots.Read(ctx, query, name); lookErr == nil && slot != nil && slot.WALStatus == "lost" {
			return WALRemoved(err)
		}
	}
	return pgfail.Failed("start physical replication", err)
}
