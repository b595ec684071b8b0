package walchan

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// EnsurePublication: interim, branch slots has the real one.
func EnsurePublication(ctx context.Context, connString, name string, tables ...string) error {
	conn, err := pgx.Connect(ctx, connString)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "CREATE PUBLICATION "+quoteIdent(name)+" FOR TABLE "+strings.Join(tables, ", "))
	return err
}
