package walchan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// published returns the tables of a publication, by a comma.
func published(t *testing.T, db pgtest.DB, name string) string {
	t.Helper()
	return db.Query(t, "SELECT coalesce(string_agg(format('%I.%I', schemaname, tablename), ',' ORDER BY schemaname COLLATE \"C\", tablename COLLATE \"C\"), '') FROM pg_publication_tables WHERE pubname = '"+name+"'")
}

func TestEnsurePublication(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, `CREATE TABLE orders (id int PRIMARY KEY, v text)`, `CREATE SCHEMA "Shop"`, `CREATE TABLE "Shop"."Order ""Items""" (id int PRIMARY KEY)`,
		`CREATE TABLE "public"."user" (id int)`, `CREATE TABLE parts (id int) PARTITION BY RANGE (id)`, `CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)`,
		`CREATE TABLE "back\slash" (id int)`)
	ensure := func(name string, tables ...string) {
		t.Helper()
		if err := walchan.EnsurePublication(t.Context(), db.DSN(), name, tables...); err != nil {
			t.Error(err)
		}
	}
	is := func(name, want string) {
		t.Helper()
		if got := published(t, db, name); got != want {
			t.Errorf("%s has %s, want %s", name, got, want)
		}
	}
	for range 2 {
		ensure("p", "orders", "public.orders", "ORDERS")
		is("p", `public.orders`)
	}
	for range 2 {
		ensure("p", `"Shop"."Order ""Items"""`, "orders", `public."user"`, `"back\slash"`)
		is("p", `"Shop"."Order ""Items""",public."back\slash",public.orders,public."user"`)
	}
	ensure("p", "orders")
	is("p", `"Shop"."Order ""Items""",public."back\slash",public.orders,public."user"`)

	ensure(`it's "p" \`, "orders")
	if got := db.Query(t, `SELECT count(*) FROM pg_publication WHERE pubname = E'it\'s "p" \\'`); got != "1" {
		t.Error("the publication has another name")
	}
	ensure("partitioned", "parts")
	ensure("partitioned", "parts_1") // it is there with its parent
	if got := db.Query(t, "SELECT count(*) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = prpubid WHERE pubname = 'partitioned'"); got != "1" {
		t.Errorf("a partition was added beside its parent: %s", got)
	}

	// What is there stays as it is.
	db.Exec(t, "CREATE PUBLICATION inserts FOR TABLE orders WITH (publish = 'insert')")
	ensure("inserts", "orders", "parts")
	if got := db.Query(t, "SELECT pubupdate FROM pg_publication WHERE pubname = 'inserts'"); got != "f" {
		t.Error("it publishes updates now")
	}
	if db.Version() >= 15 {
		db.Exec(t, "CREATE PUBLICATION filtered FOR TABLE orders (id) WHERE (id > 5)", `CREATE PUBLICATION schema FOR TABLES IN SCHEMA "Shop"`)
		ensure("filtered", "orders", "parts")
		if got := db.Query(t, "SELECT rowfilter || attnames::text FROM pg_publication_tables WHERE pubname = 'filtered' AND tablename = 'orders'"); got != "(id > 5){id}" {
			t.Errorf("the filter is %s", got)
		}
		ensure("schema", `"Shop"."Order ""Items"""`, "orders")
		is("schema", `"Shop"."Order ""Items""",public.orders`)
	}

	for range 2 {
		if err := walchan.EnsurePublicationForAllTables(t.Context(), db.DSN(), "all"); err != nil {
			t.Error(err)
		}
	}
	ensure("all", "orders", `public."user"`)
	if got := db.Query(t, "SELECT puballtables FROM pg_publication WHERE pubname = 'all'"); got != "t" {
		t.Error("it does not have all tables")
	}
}

func TestEnsurePublicationErrors(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int)", "CREATE VIEW v AS SELECT 1", "CREATE UNLOGGED TABLE u (id int)", "CREATE TABLE i (id int PRIMARY KEY)", "CREATE PUBLICATION list FOR TABLE t",
		"CREATE ROLE "+db.Name+" LOGIN", "CREATE SCHEMA hidden")
	t.Cleanup(func() {
		pgtest.Exec(t, db.DSN(), "DROP OWNED BY "+db.Name+"; DROP ROLE "+db.Name)
	})
	nobody := db.DSN("user=" + db.Name)
	ensure := func(dsn string, tables ...string) error {
		return walchan.EnsurePublication(t.Context(), dsn, "p", tables...)
	}
	check(t, ensure(db.DSN(), "t", "nosuch", `"T"`, "nosuch.t"), walchan.ErrTableMissing, `table: 'nosuch', '"T"', 'nosuch.t';`)
	check(t, ensure(db.DSN(), "a..b"), walchan.ErrTableMissing, "a..b")
	check(t, ensure(db.DSN(), ""), walchan.ErrTableMissing, "''")
	check(t, ensure(db.DSN(), "a.b.c.d"), walchan.ErrTableMissing, "a.b.c.d")
	check(t, ensure(db.DSN(), "elsewhere.public.t"), walchan.ErrTableMissing, "elsewhere.public.t")
	check(t, ensure(db.DSN(), "t; DROP TABLE t"), walchan.ErrTableMissing, "DROP")
	check(t, ensure(db.DSN(), "v"), walchan.ErrPublication, `"v"`, "no views")
	check(t, ensure(db.DSN(), "u"), walchan.ErrPublication, `"u"`, "permanent")
	check(t, ensure(db.DSN(), "i_pkey"), walchan.ErrPublication, `"i_pkey"`)
	check(t, ensure(db.DSN(), "pg_class"), walchan.ErrPublication, `"pg_class"`)
	check(t, ensure(nobody, "t"), walchan.ErrPermission, `"p"`, "CREATE on the database")
	check(t, ensure(nobody, "hidden.t"), walchan.ErrPermission, "hidden")
	check(t, walchan.EnsurePublicationForAllTables(t.Context(), nobody, "p"), walchan.ErrPermission, "superuser")
	check(t, walchan.EnsurePublicationForAllTables(t.Context(), db.DSN(), "list"), walchan.ErrPublication, `"list"`, "another name")
	if got := db.Query(t, "SELECT count(*) FROM pg_publication"); got != "1" {
		t.Errorf("%s publications", got)
	}
}

// Processes that start at once, each with some of the tables.
func TestEnsurePublicationAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	tables := []string{"a", "b", "c", "d", "e", "f"}
	for _, table := range tables {
		db.Exec(t, "CREATE TABLE "+table+" (id int)")
	}
	for round := range 10 {
		name := fmt.Sprint("p", round)
		errs := make(chan error)
		for i := range tables {
			mine := slices.Concat(tables[i:], tables[:i])[:4]
			go func() { errs <- walchan.EnsurePublication(t.Context(), db.DSN(), name, mine...) }()
			go func() { errs <- walchan.EnsurePublicationForAllTables(t.Context(), db.DSN(), name+"_all") }()
		}
		for range 2 * len(tables) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if got, want := published(t, db, name), "public."+strings.Join(tables, ",public."); got != want {
			t.Errorf("published are %s", got)
		}
	}
}
