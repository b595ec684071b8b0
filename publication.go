package walchan

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/tables"
)

// EnsurePublication makes sure that the publication exists and has the tables. It makes one (CREATE PUBLICATION … FOR
// TABLE), or adds what is missing; it never removes a table, nor changes one that is there, with its row filter or column
// list. It may be called at every start, also by several processes at once.
//
// Tables are named as in SQL: shop.orders, or in quotes where SQL needs them (shop."Order"), and without a schema found by
// the search_path. All must exist: ErrTableMissing names those that do not. The role needs the CREATE privilege on the
// database for a new publication, owns one that is extended, and owns the tables.
func EnsurePublication(ctx context.Context, connString, name string, names ...string) error {
	problems := publicationProblems(name)
	if len(names) == 0 {
		problems = append(problems, "no tables are named; for all of them use EnsurePublicationForAllTables")
	}
	if slices.ContainsFunc(names, func(t string) bool { return strings.ContainsRune(t, 0) }) {
		problems = append(problems, "the name of a table has a zero byte")
	}
	if err := invalid(problems...); err != nil {
		return err
	}
	return ensurePublication(ctx, connString, func(conn *pgconn.PgConn) error {
		return tables.EnsureTables(ctx, conn, name, names)
	})
}

// EnsurePublicationForAllTables makes sure that the publication exists and has all tables of the database, also those that
// are made later (CREATE PUBLICATION … FOR ALL TABLES), for which the role must be superuser. A publication that has a list
// of tables cannot become one: ErrPublication.
func EnsurePublicationForAllTables(ctx context.Context, connString, name string) error {
	if err := invalid(publicationProblems(name)...); err != nil {
		return err
	}
	return ensurePublication(ctx, connString, func(conn *pgconn.PgConn) error {
		return tables.EnsureAllTables(ctx, conn, name)
	})
}

func publicationProblems(name string) []string {
	if pgsql.IsName(name) {
		return nil
	}
	return []string{fmt.Sprintf("publication %q: not a name of 1 to 63 bytes", name)}
}

func ensurePublication(ctx context.Context, connString string, ensure func(*pgconn.PgConn) error) error {
	conn, err := connectOrdinary(ctx, connString)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return ensure(conn)
}
