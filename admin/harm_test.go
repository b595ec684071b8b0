package admin_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// shape is a table as an application may have it. It has the columns id and v.
type shape struct {
	name   string   // of the table, as in SQL
	sql    []string // makes it; %s is the name
	leaves []string // further tables to write to
	from   int      // version
}

var shapes = []shape{
	{name: "keyed", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text)"}},
	{name: "keyless", sql: []string{"CREATE TABLE %s (id int, v text)"}},
	{name: "deferred", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY DEFERRABLE, v text)"}},
	{name: "uniq", sql: []string{"CREATE TABLE %s (id int UNIQUE NOT NULL, v text)"}},
	{name: "indexed", sql: []string{"CREATE TABLE %s (id int NOT NULL, v text)", "CREATE UNIQUE INDEX i ON %s (id)", "ALTER TABLE %s REPLICA IDENTITY USING INDEX i"}},
	{name: "other_index", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text NOT NULL)", "CREATE UNIQUE INDEX j ON %s (v)", "ALTER TABLE %s REPLICA IDENTITY USING INDEX j"}},
	{name: "index_gone", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text NOT NULL)", "CREATE UNIQUE INDEX k ON %s (v)", "ALTER TABLE %s REPLICA IDENTITY USING INDEX k", "DROP INDEX k"}},
	{name: "including", sql: []string{"CREATE TABLE %s (id int, v text, PRIMARY KEY (id) INCLUDE (v))"}},
	{name: "two_columns", sql: []string{"CREATE TABLE %s (id int, v text, w int, PRIMARY KEY (v, id))"}},
	{name: "nothing", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text)", "ALTER TABLE %s REPLICA IDENTITY NOTHING"}},
	{name: "complete", sql: []string{"CREATE TABLE %s (id int, v text)", "ALTER TABLE %s REPLICA IDENTITY FULL"}},
	{name: "key_gone", sql: []string{"CREATE TABLE %s (id int CONSTRAINT gone PRIMARY KEY, v text)", "ALTER TABLE %s DROP CONSTRAINT gone"}},
	{name: "dropped_column", sql: []string{"CREATE TABLE %s (old int, id int PRIMARY KEY, v text)", "ALTER TABLE %s DROP old"}},
	{name: "unlogged", sql: []string{"CREATE UNLOGGED TABLE %s (id int, v text)"}},
	{name: `"Quoted ""name"""`, sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text)"}},
	{name: `"keyless.table"`, sql: []string{"CREATE TABLE %s (id int, v text)"}},

	{name: "gen", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id + 1) STORED)"}},
	{name: "generated_full", sql: []string{"CREATE TABLE %s (id int, v text, g int GENERATED ALWAYS AS (id + 1) STORED)", "ALTER TABLE %s REPLICA IDENTITY FULL"}},
	{name: "generated_key", sql: []string{"CREATE TABLE %s (id int, v text, g int GENERATED ALWAYS AS (id + 1) STORED PRIMARY KEY)"}},
	{name: "virtual", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id + 1) VIRTUAL)"}, from: 18},
	{name: "virtual_full", sql: []string{"CREATE TABLE %s (id int, v text, g int GENERATED ALWAYS AS (id + 1) VIRTUAL)", "ALTER TABLE %s REPLICA IDENTITY FULL"}, from: 18},
	{name: "generated_gone", sql: []string{"CREATE TABLE %s (id int, v text, g int GENERATED ALWAYS AS (id + 1) STORED)", "ALTER TABLE %s REPLICA IDENTITY FULL", "ALTER TABLE %s DROP g"}},

	{name: "parted", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
		"CREATE TABLE parted_1 PARTITION OF %s FOR VALUES FROM (0) TO (10)", "CREATE TABLE parted_2 PARTITION OF %s DEFAULT"}, leaves: []string{"parted_1"}},
	{name: "parted_keyless", sql: []string{"CREATE TABLE %s (id int, v text) PARTITION BY RANGE (id)",
		"CREATE TABLE parted_keyless_1 PARTITION OF %s FOR VALUES FROM (0) TO (10)"}, leaves: []string{"parted_keyless_1"}},
	{name: "parted_below", sql: []string{"CREATE TABLE %s (id int, v text) PARTITION BY RANGE (id)",
		"CREATE TABLE parted_below_1 PARTITION OF %s FOR VALUES FROM (0) TO (10)", "ALTER TABLE parted_below_1 ADD PRIMARY KEY (id)"}, leaves: []string{"parted_below_1"}},
	{name: "parted_half", sql: []string{"CREATE TABLE %s (id int, v text) PARTITION BY RANGE (id)",
		"CREATE TABLE parted_half_1 PARTITION OF %s FOR VALUES FROM (0) TO (10)", "CREATE TABLE parted_half_2 PARTITION OF %s FOR VALUES FROM (10) TO (20)",
		"ALTER TABLE parted_half_1 ADD PRIMARY KEY (id)"}, leaves: []string{"parted_half_1", "parted_half_2"}},
	{name: "parted_deep", sql: []string{"CREATE TABLE %s (id int, v text) PARTITION BY RANGE (id)",
		"CREATE TABLE parted_deep_1 PARTITION OF %s FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id)",
		"CREATE TABLE parted_deep_11 (v text, id int PRIMARY KEY)", "ALTER TABLE parted_deep_1 ATTACH PARTITION parted_deep_11 FOR VALUES FROM (0) TO (5)",
		"CREATE TABLE parted_deep_12 PARTITION OF parted_deep_1 FOR VALUES FROM (5) TO (10)", "ALTER TABLE parted_deep_12 REPLICA IDENTITY FULL"},
		leaves: []string{"parted_deep_1", "parted_deep_11", "parted_deep_12"}},
	{name: "parted_nothing", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
		"CREATE TABLE parted_nothing_1 PARTITION OF %s FOR VALUES FROM (0) TO (10)", "ALTER TABLE parted_nothing_1 REPLICA IDENTITY NOTHING"}, leaves: []string{"parted_nothing_1"}},
	{name: "parted_rootless", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
		"CREATE TABLE parted_rootless_1 PARTITION OF %s FOR VALUES FROM (0) TO (10)", "ALTER TABLE %s REPLICA IDENTITY NOTHING"}, leaves: []string{"parted_rootless_1"}},
	{name: "parted_unlogged", sql: []string{"CREATE TABLE %s (id int, v text) PARTITION BY RANGE (id)",
		"CREATE UNLOGGED TABLE parted_unlogged_1 PARTITION OF %s FOR VALUES FROM (0) TO (10)"}, leaves: []string{"parted_unlogged_1"}},
	{name: "heir", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text)", "CREATE TABLE heir_1 () INHERITS (%s)", "CREATE TABLE heir_11 () INHERITS (heir_1)", "ALTER TABLE heir_1 ADD PRIMARY KEY (id)"},
		leaves: []string{"heir_1", "heir_11"}},
	{name: "heirs", sql: []string{"CREATE TABLE %s (id int PRIMARY KEY, v text)", "CREATE TABLE heirs_1 () INHERITS (%s)", "ALTER TABLE heirs_1 ADD PRIMARY KEY (id)"},
		leaves: []string{"heirs_1"}},
}

// make makes the table. It returns it and all tables below it.
func (s *shape) make(t *testing.T, db pgtest.DB) []string {
	t.Helper()
	for _, sql := range s.sql {
		db.Exec(t, strings.ReplaceAll(strings.ReplaceAll(sql, "%s", s.name), "%%", "%"))
	}
	return append([]string{s.name}, s.leaves...)
}

// application writes to tables.
type application struct {
	t    *testing.T
	conn *pgconn.PgConn
}

func newApplication(t *testing.T, db pgtest.DB) *application {
	t.Helper()
	return &application{t, pgtest.Connect(t, db.DSN()).PgConn()}
}

// writes are an application's.
var writes = []string{
	"INSERT INTO %s (id, v) VALUES (1, 'a')",
	"UPDATE %s SET v = 'b'",
	"UPDATE %s SET id = 2",
	"DELETE FROM %s",
	"DELETE FROM %s WHERE false",
	"TRUNCATE %s",
}

// fails returns what of the application's writes fails, one at a line. That a partition is for other rows is no failure.
func (a *application) fails(tables ...string) string {
	var failed []string
	for _, table := range tables {
		if a.rolledBack(strings.ReplaceAll(strings.Join(writes, ";"), "%s", table)) == nil {
			continue
		}
		for _, write := range writes {
			sql := fmt.Sprintf(write, table)
			if err := a.rolledBack(sql); err != nil && sqlstate.Of(err) != "23514" {
				failed = append(failed, fmt.Sprintf("%s: %v", sql, err))
			}
		}
	}
	return strings.Join(failed, "\n")
}

// rolledBack runs statements in a transaction that is rolled back.
func (a *application) rolledBack(sql string) error {
	a.t.Helper()
	refused := a.conn.Exec(context.Background(), "BEGIN; "+sql+"; ROLLBACK").Close()
	if refused != nil {
		if err := a.conn.Exec(context.Background(), "ROLLBACK").Close(); err != nil {
			a.t.Fatal(err)
		}
	}
	return refused
}

// specs are the ways in which a table is published, and a partition beside it.
func specs(s *shape, version int) (all []admin.PublicationSpec) {
	columns, wheres := [][]string{nil}, []string{""}
	if version >= 15 {
		columns = append(columns, []string{"id"}, []string{"v"}, []string{"id", "v"})
		wheres = append(wheres, "id > 0", "v <> ':varattno 1' -- )")
	}
	for _, viaRoot := range []bool{false, true} {
		spec := admin.PublicationSpec{Name: "p", ViaRoot: viaRoot}
		for _, columns := range columns {
			for _, where := range wheres {
				spec.Tables = []admin.PublishedTable{{Name: s.name, Columns: columns, Where: where}}
				all = append(all, spec)
			}
		}
		for _, spec.Publish = range [][]string{{"insert", "truncate"}, {"update"}, {"delete"}} {
			all = append(all, spec)
			some := spec
			some.Tables = []admin.PublishedTable{{Name: s.name}}
			all = append(all, some)
		}
		if version < 15 {
			continue
		}
		spec = admin.PublicationSpec{Name: "p", Schemas: []string{"public"}, ViaRoot: viaRoot}
		all = append(all, spec)
		if strings.HasPrefix(s.name, "parted") {
			plain, filtered := admin.PublishedTable{Name: s.name}, admin.PublishedTable{Name: s.leaves[0], Where: "v <> 'x'"}
			some := spec
			some.Tables = []admin.PublishedTable{filtered}
			all = append(all, some)
			some.Schemas, some.Tables = nil, []admin.PublishedTable{plain, filtered}
			all = append(all, some)
			plain.Name, filtered.Name = filtered.Name, plain.Name
			some.Tables = []admin.PublishedTable{plain, filtered}
			all = append(all, some)
		}
	}
	return all
}

// What an application writes works after EnsurePublication as it did before, or EnsurePublication has refused. It refuses nothing without
// need: accepted, what it refuses does break.
func TestEnsurePublicationBreaksNothing(t *testing.T) {
	t.Parallel()
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t)
			if db.Version() < s.from {
				t.Skipf("PostgreSQL %d has no such tables", db.Version())
			}
			tables := s.make(t, db)
			app, c := newApplication(t, db), connect(t, db.DSN())
			if failed := app.fails(tables...); failed != "" {
				t.Fatalf("before: %s", failed)
			}
			for _, spec := range specs(&s, db.Version()) {
				_, err := c.EnsurePublication(t.Context(), spec)
				if failed := app.fails(tables...); failed != "" {
					t.Errorf("%+v, %v:\n%s", spec, err, failed)
				}
				if errors.Is(err, walerr.TableKey) {
					spec.AllowUnkeyed = true
					if _, err := c.EnsurePublication(t.Context(), spec); err != nil {
						t.Errorf("%+v, accepted: %v", spec, err)
					}
					if failed := app.fails(tables...); failed == "" {
						t.Errorf("%+v is refused, and breaks nothing: %v", spec, err)
					}
				} else if err != nil && !errors.Is(err, walerr.Publication) {
					t.Errorf("%+v: %v", spec, err)
				}
				if err := c.DropPublication(t.Context(), spec.Name); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// All tables at once: the error names those that would break, and no others.
func TestEnsurePublicationOfAllTablesBreaksNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	var tables []string
	for _, s := range shapes {
		if db.Version() >= s.from {
			tables = append(tables, s.make(t, db)...)
		}
	}
	app, c := newApplication(t, db), connect(t, db.DSN())
	for _, viaRoot := range []bool{false, true} {
		spec := admin.PublicationSpec{Name: "p", AllTables: true, ViaRoot: viaRoot}
		_, err := c.EnsurePublication(t.Context(), spec)
		check(t, err, walerr.TableKey, `"p"`, "REPLICA IDENTITY FULL", "publish = 'insert, truncate'", "AllowUnkeyed")
		if failed := app.fails(tables...); failed != "" {
			t.Errorf("refused: %s", failed)
		}
		spec.AllowUnkeyed = true
		if created, err := c.EnsurePublication(t.Context(), spec); err != nil || !created {
			t.Error(created, err)
		}
		for _, table := range tables {
			isParted := db.Query(t, "SELECT relkind IN ('p') OR relhassubclass FROM pg_class WHERE oid = '"+strings.ReplaceAll(table, "'", "''")+"'::regclass") == "t"
			if failed := app.fails(table); !isParted && (failed != "") != names(err, "public."+table) {
				t.Errorf("%s fails: %s; %v", table, failed, err)
			}
		}
		if err := c.DropPublication(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		if created, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", AllTables: true, Publish: []string{"insert", "truncate"}}); err != nil || !created {
			t.Error(created, err)
		}
		if failed := app.fails(tables...); failed != "" {
			t.Errorf("without update and delete: %s", failed)
		}
		if err := c.DropPublication(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
	}
}

// names reports whether an error names a table in its list.
func names(err error, table string) bool {
	return strings.Contains(err.Error(), table+", ") || strings.Contains(err.Error(), table+" (")
}
