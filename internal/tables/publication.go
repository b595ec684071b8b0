package tables

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// EnsureAllTables makes sure that a publication exists and has all tables of the database.
func EnsureAllTables(ctx context.Context, conn *pgconn.PgConn, name string) error {
	return lookAgain(func() error { return ensureAllTables(ctx, conn, name) })
}

// EnsureTables makes sure that a publication exists and has the tables, which are named as in SQL.
func EnsureTables(ctx context.Context, conn *pgconn.PgConn, name string, tables []string) error {
	return lookAgain(func() error { return ensureTables(ctx, conn, name, tables) })
}

// lookAgain calls ensure, which looks and then acts, and may find that another process has done so in between. Then it looks
// again. Each time somebody has made progress.
func lookAgain(ensure func() error) (err error) {
	for range 20 {
		err = ensure()
		switch sqlstate.Of(err) {
		case sqlstate.DuplicateObject, sqlstate.UniqueViolation, sqlstate.Deadlock, sqlstate.UndefinedTable, sqlstate.UndefinedObject:
		default:
			return err
		}
	}
	return err
}

func ensureAllTables(ctx context.Context, conn *pgconn.PgConn, name string) error {
	rows, err := session.Query(ctx, conn, "SELECT puballtables FROM pg_catalog.pg_publication WHERE pubname = "+pgsql.Literal(name))
	switch {
	case err != nil:
		return pgfail.Failed(fmt.Sprintf("look up publication %q", name), err)
	case len(rows) == 0:
		return define(ctx, conn, name, "CREATE PUBLICATION "+pgsql.Quoted(name)+" FOR ALL TABLES")
	case rows[0][0] == "t":
		return nil
	}
	return &walerr.Error{Kind: walerr.Publication, What: fmt.Sprintf("publication %q has a list of tables, and cannot be made one of all tables", name),
		Advice: "choose another name, or DROP PUBLICATION and make it anew while no stream uses it"}
}

func ensureTables(ctx context.Context, conn *pgconn.PgConn, name string, tables []string) error {
	exists, missing, err := missingTables(ctx, conn, name, tables)
	switch {
	case err != nil:
		return err
	case !exists:
		return define(ctx, conn, name, "CREATE PUBLICATION "+pgsql.Quoted(name)+" FOR TABLE "+strings.Join(missing, ", "))
	case len(missing) > 0:
		return define(ctx, conn, name, "ALTER PUBLICATION "+pgsql.Quoted(name)+" ADD TABLE "+strings.Join(missing, ", "))
	}
	return nil
}

// missingTables returns whether the publication exists, and those of the tables that it does not have, neither in its list nor
// by a schema or a partitioned table or because it has all, qualified and quoted. They are sorted, so that two processes do not
// wait for each other's locks.
func missingTables(ctx context.Context, conn *pgconn.PgConn, name string, tables []string) (exists bool, missing []string, err error) {
	literals := make([]string, len(tables))
	for i, t := range tables {
		literals[i] = pgsql.Literal(t)
	}
	rows, err := session.Query(ctx, conn, `SELECT t.nr, CASE WHEN c.oid IS NOT NULL THEN pg_catalog.format('%I.%I', n.nspname, c.relname) END, p.oid,
		coalesce(p.puballtables, false)
		OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid)
		OR EXISTS (SELECT FROM pg_catalog.pg_publication_tables v WHERE v.pubname = p.pubname AND v.schemaname = n.nspname AND v.tablename = c.relname)
		FROM pg_catalog.unnest(ARRAY[`+strings.Join(literals, ", ")+`]::text[]) WITH ORDINALITY t(name, nr)
		LEFT JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(t.name)
		LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_catalog.pg_publication p ON p.pubname = `+pgsql.Literal(name)+` ORDER BY t.nr`)
	switch sqlstate.Of(err) {
	case sqlstate.InvalidName, sqlstate.SyntaxError, sqlstate.FeatureNotSupported: // not a name, says to_regclass before version 16
		return false, nil, missingTable(" among "+strings.Join(literals, ", "), err)
	}
	if err != nil {
		return false, nil, pgfail.Failed("look up the tables", err)
	}
	var unknown []string
	for i, r := range rows {
		exists = r[2] != ""
		switch {
		case r[1] == "":
			unknown = append(unknown, literals[i])
		case r[3] == "f":
			missing = append(missing, r[1])
		}
	}
	if len(unknown) > 0 {
		return false, nil, missingTable(": "+strings.Join(unknown, ", "), nil)
	}
	slices.Sort(missing)
	return exists, slices.Compact(missing), nil
}

func missingTable(which string, err error) error {
	return &walerr.Error{Kind: walerr.TableMissing, What: "no such table" + which, Err: err,
		Advice: `create it, or name it as in SQL: shop.orders, shop."Order"`}
}

// define runs a statement that makes or alters the publication.
func define(ctx context.Context, conn *pgconn.PgConn, name, sql string) error {
	_, err := session.Query(ctx, conn, sql)
	if err == nil {
		return nil
	}
	e := pgfail.Failed(fmt.Sprintf("define publication %q", name), err)
	switch sqlstate.Of(err) {
	case sqlstate.InvalidParameter, sqlstate.WrongObjectType, sqlstate.FeatureNotSupported:
		e.Kind, e.Advice = walerr.Publication, "only permanent tables and partitioned tables can be published, no views and no system tables"
	case sqlstate.NoPrivilege:
		e.Advice = "it takes CREATE on the database for a new publication, the ownership of one that exists and of the tables, " +
			"and a superuser for all tables"
	case sqlstate.UndefinedTable, sqlstate.UndefinedObject:
		e.Kind, e.Advice = walerr.TableMissing, "it was dropped meanwhile"
	}
	return e
}

// CheckPublications fails if one is missing. A server before version 18 says so only at the first change, later ones merely warn.
func CheckPublications(ctx context.Context, c *session.Conn, names []string) error {
	if len(names) == 0 {
		return nil
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = pgsql.Literal(n)
	}
	rows, err := c.Query(ctx, "SELECT pubname FROM pg_catalog.pg_publication WHERE pubname IN ("+strings.Join(quoted, ", ")+")")
	if err != nil {
		return pgfail.Failed("look up the publications", err)
	}
	var missing []string
	for _, n := range names {
		if !slices.ContainsFunc(rows, func(r []string) bool { return r[0] == n }) {
			missing = append(missing, fmt.Sprintf("%q", n))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &walerr.Error{Kind: walerr.PublicationMissing, What: "no such publication: " + strings.Join(missing, ", "),
		Advice: "create it: CREATE PUBLICATION, or EnsurePublication"}
}
