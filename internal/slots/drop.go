package slots

import (
	"context"
	"fmt"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
)

// Drop drops a slot over a walsender's connection. sql runs a query, perhaps over another one.
func Drop(ctx context.Context, c *session.Conn, sql Querying, name string, wait bool) error {
	command := "DROP_REPLICATION_SLOT " + pgsql.Quoted(name)
	if wait {
		command += " WAIT"
	}
	_, err := c.Query(ctx, command)
	switch sqlstate.Of(err) {
	case sqlstate.UndefinedObject:
		return missingToDrop(name, err)
	case sqlstate.ObjectInUse:
		return Active(ctx, sql, name, err)
	}
	if err != nil {
		return pgfail.Failed(fmt.Sprintf("drop slot %q", name), err)
	}
	return nil
}
