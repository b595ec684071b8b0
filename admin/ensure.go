package admin

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// publication is a publication that EnsurePublication makes, or completes.
type publication struct {
	*PublicationSpec
	conn    *pgconn.PgConn
	version int
	log     *slog.Logger
}

// ensure looks and then acts, and may find that another process has acted in between. Then it looks again. Each time somebody has made progress.
func (p *publication) ensure(ctx context.Context) (created bool, err error) {
	for range 20 {
		created, err = p.attempt(ctx)
		switch sqlstate.Of(err) {
		case sqlstate.DuplicateObject, sqlstate.UniqueViolation, sqlstate.Deadlock, sqlstate.UndefinedTable, sqlstate.UndefinedObject:
		default:
			return created, err
		}
	}
	return created, err
}

func (p *publication) attempt(ctx context.Context) (created bool, err error) {
	exists, err := p.compare(ctx)
	if err != nil {
		return false, err
	}
	all, err := p.look(ctx)
	if err != nil {
		return false, err
	}
	statement := p.statement(exists, all)
	if statement == "" {
		return false, p.checkKeys(ctx, all)
	}
	if err := p.define(ctx, statement, all); err != nil {
		return false, err
	}
	if !exists && (p.AllTables || len(p.Schemas) > 0) && p.needsKeys() {
		p.log.Warn("tables that are made later are published, too: UPDATE and DELETE of one without a replica identity will fail", "publication", p.Name)
	}
	return !exists, nil
}

// define runs the statement that makes or extends the publication, unless UPDATE and DELETE of a table would fail. The tables are checked last,
// under the locks of the statement: then the check still holds at COMMIT.
func (p *publication) define(ctx context.Context, statement string, all members) (err error) {
	run := func(sql string) {
		if err == nil {
			if _, refused := session.Query(ctx, p.conn, sql); refused != nil {
				err = p.failed(refused)
			}
		}
	}
	run("BEGIN ISOLATION LEVEL READ COMMITTED")
	run(statement)
	if err == nil {
		err = p.checkKeys(ctx, all)
	}
	run("COMMIT")
	if err != nil {
		_, _ = session.Query(ctx, p.conn, "ROLLBACK")
	}
	return err
}

// compare reports whether the publication exists. It fails if that is another one than asked for.
func (p *publication) compare(ctx context.Context) (exists bool, err error) {
	rows, err := session.Query(ctx, p.conn, "SELECT puballtables, pubviaroot, pubinsert, pubupdate, pubdelete, pubtruncate "+
		"FROM pg_catalog.pg_publication WHERE pubname = "+pgsql.Literal(p.Name))
	if err != nil {
		return false, pgfail.Failed(fmt.Sprintf("look up publication %q", p.Name), err)
	}
	if len(rows) == 0 {
		return false, nil
	}
	allTables, viaRoot := rows[0][0] == "t", rows[0][1] == "t"
	var published []string
	for i, action := range actions {
		if rows[0][2+i] == "t" {
			published = append(published, action)
		}
	}
	var differs, advice []string
	if allTables != p.AllTables {
		is := "has a list of tables, not all tables"
		if allTables {
			is = "has all tables, not a list"
		}
		differs = append(differs, is)
		advice = append(advice, fmt.Sprintf("choose another name, or DROP PUBLICATION %s and make it anew while no stream uses it", pgsql.Ident(p.Name)))
	}
	if !slices.Equal(published, p.published()) {
		differs = append(differs, fmt.Sprintf("publishes %q, not %q", strings.Join(published, ", "), strings.Join(p.published(), ", ")))
		advice = append(advice, fmt.Sprintf("ALTER PUBLICATION %s SET (publish = '%s')", pgsql.Ident(p.Name), strings.Join(p.published(), ", ")))
	}
	if viaRoot != p.ViaRoot {
		differs = append(differs, fmt.Sprintf("has publish_via_partition_root = %t, not %t", viaRoot, p.ViaRoot))
		advice = append(advice, fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = %t)", pgsql.Ident(p.Name), p.ViaRoot))
	}
	if differs != nil {
		return true, &walerr.Error{Kind: walerr.Publication, What: fmt.Sprintf("publication %q %s", p.Name, strings.Join(differs, "; it ")),
			Advice: strings.Join(advice, "; ") + "; or ask for what it is"}
	}
	return true, nil
}

// statement returns what makes or extends the publication; "" if nothing lacks. Names are sorted, so that two processes do not wait for each
// other's locks.
func (p *publication) statement(exists bool, all members) string {
	lacks := func(objects []member, prefix string) (list []string) {
		for _, m := range objects {
			if !exists || !m.isThere { // it may have been made since it was looked up
				list = append(list, prefix+m.String())
			}
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	var parts []string
	// ONLY, because those that inherit are named themselves.
	if tables := lacks(all.tables, "ONLY "); tables != nil {
		parts = append(parts, "TABLE "+strings.Join(tables, ", "))
	}
	if schemas := lacks(all.schemas, ""); schemas != nil {
		parts = append(parts, "TABLES IN SCHEMA "+strings.Join(schemas, ", "))
	}
	what := strings.Join(parts, ", ")
	switch {
	case !exists:
		if p.AllTables {
			what = "ALL TABLES"
		}
		return fmt.Sprintf("CREATE PUBLICATION %s FOR %s WITH (publish = '%s', publish_via_partition_root = %t)",
			pgsql.Quoted(p.Name), what, strings.Join(p.published(), ", "), p.ViaRoot)
	case what != "":
		return "ALTER PUBLICATION " + pgsql.Quoted(p.Name) + " ADD " + what
	}
	return ""
}

// failed says what the refusal of a statement means that makes or extends the publication.
func (p *publication) failed(err error) error {
	e := pgfail.Failed(fmt.Sprintf("define publication %q", p.Name), err)
	switch state := sqlstate.Of(err); state {
	case sqlstate.NoPrivilege:
		e.Advice = "it takes CREATE on the database for a new publication, the ownership of one that exists and of the tables, " +
			"and a superuser for all tables or schemas"
	case sqlstate.UndefinedTable, sqlstate.UndefinedObject:
		e.Kind, e.Advice = walerr.TableMissing, "it does not exist, or was dropped meanwhile"
	case sqlstate.InvalidParameter, sqlstate.WrongObjectType, sqlstate.FeatureNotSupported:
		e.Kind, e.Advice = walerr.Publication, "only permanent tables and partitioned tables can be published, no views and no system tables"
		if slices.ContainsFunc(p.Tables, func(t PublishedTable) bool { return t.Columns != nil || t.Where != "" }) {
			e.Advice += "; see CREATE PUBLICATION for Columns and Where"
		}
	default:
		if strings.HasPrefix(state, "42") && state != sqlstate.DuplicateObject {
			e.Kind, e.Advice = walerr.Publication, "correct Columns or Where"
		}
	}
	return e
}
