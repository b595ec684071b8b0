package tables_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/internal/tables"
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
	conn := pgtest.Connect(t, db.DSN()).PgConn()
	ensure := func(name string, names ...string) {
		t.Helper()
		if err := tables.EnsureTables(t.Context(), conn, name, names); err != nil {
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
		if err := tables.EnsureAllTables(t.Context(), conn, "all"); err != nil {
			t.Error(err)
		}
	}
	ensure("all", "orders", `public."user"`)
	if got := db.Query(t, "SELECT puballtables FROM pg_publication WHERE pubname = 'all'"); got != "t" {
		t.Error("it does not have all tables")
	}
}

// Processes that start at once, each with some of the tables.
func TestEnsurePublicationAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	names := []string{"a", "b", "c", "d", "e", "f"}
	for _, table := range names {
		db.Exec(t, "CREATE TABLE "+table+" (id int)")
	}
	var conns []*pgconn.PgConn
	for range 2 * len(names) {
		conns = append(conns, pgtest.Connect(t, db.DSN()).PgConn())
	}
	for round := range 10 {
		name := fmt.Sprint("p", round)
		errs := make(chan error)
		for i := range names {
			mine := slices.Concat(names[i:], names[:i])[:4]
			go func() { errs <- tables.EnsureTables(t.Context(), conns[2*i], name, mine) }()
			go func() { errs <- tables.EnsureAllTables(t.Context(), conns[2*i+1], name+"_all") }()
		}
		for range conns {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if got, want := published(t, db, name), "public."+strings.Join(names, ",public."); got != want {
			t.Errorf("published are %s", got)
		}
	}
}
