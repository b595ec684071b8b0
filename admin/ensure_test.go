package admin_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/walerr"
)

func TestEnsurePublication(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, `CREATE TABLE orders (id int PRIMARY KEY, v text)`, `CREATE SCHEMA "Shop"`, `CREATE TABLE "Shop"."Order ""Items""" (id int PRIMARY KEY)`,
		`CREATE TABLE "public"."user" (id int)`, `CREATE TABLE parts (id int) PARTITION BY RANGE (id)`, `CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)`,
		`CREATE TABLE "back\slash" (id int)`)
	c := connect(t, db.DSN())
	ensureSpec := func(spec admin.PublicationSpec) {
		t.Helper()
		spec.AllowUnkeyed = true
		if _, err := c.EnsurePublication(t.Context(), spec); err != nil {
			t.Error(err)
		}
	}
	ensure := func(name string, names ...string) {
		t.Helper()
		ensureSpec(admin.PublicationSpec{Name: name, Tables: admin.Tables(names...)})
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
	ensureSpec(admin.PublicationSpec{Name: "inserts", Tables: admin.Tables("orders", "parts"), Publish: []string{"insert"}})
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
		ensureSpec(admin.PublicationSpec{Name: "all", AllTables: true})
	}
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
	owner, nobody := connect(t, db.DSN()), connect(t, db.DSN("user="+db.Name))
	ensure := func(c *admin.Conn, names ...string) error {
		_, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", Tables: admin.Tables(names...)})
		return err
	}
	all := func(c *admin.Conn, name string) error {
		_, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: name, AllTables: true})
		return err
	}
	check(t, ensure(owner, "t", "nosuch", `"T"`, "nosuch.t"), walerr.TableMissing, `table: 'nosuch', '"T"', 'nosuch.t';`)
	check(t, ensure(owner, "a..b"), walerr.TableMissing, "a..b")
	check(t, ensure(owner, ""), walerr.TableMissing, "''")
	check(t, ensure(owner, "a.b.c.d"), walerr.TableMissing, "a.b.c.d")
	check(t, ensure(owner, "elsewhere.public.t"), walerr.TableMissing, "elsewhere.public.t")
	check(t, ensure(owner, "t; DROP TABLE t"), walerr.TableMissing, "DROP")
	check(t, ensure(owner, "v"), walerr.Publication, `"v"`, "no views")
	check(t, ensure(owner, "u"), walerr.Publication, `"u"`, "permanent")
	check(t, ensure(owner, "i_pkey"), walerr.Publication, `"i_pkey"`)
	check(t, ensure(owner, "pg_class"), walerr.Publication, `"pg_class"`)
	check(t, ensure(nobody, "t"), walerr.Permission, `"p"`, "CREATE on the database")
	check(t, ensure(nobody, "hidden.t"), walerr.Permission, "hidden")
	check(t, all(nobody, "p"), walerr.Permission, "superuser")
	check(t, all(owner, "list"), walerr.Publication, `"list"`, "another name")
	if got := db.Query(t, "SELECT count(*) FROM pg_publication"); got != "1" {
		t.Errorf("%s publications", got)
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
	var conns []*admin.Conn
	for range 2 * len(names) {
		conns = append(conns, connect(t, db.DSN()))
	}
	for round := range 10 {
		name := fmt.Sprint("p", round)
		errs := make(chan error)
		ensure := func(c *admin.Conn, spec admin.PublicationSpec) {
			spec.AllowUnkeyed = true
			_, err := c.EnsurePublication(t.Context(), spec)
			errs <- err
		}
		for i := range names {
			mine := slices.Concat(names[i:], names[:i])[:4]
			go ensure(conns[2*i], admin.PublicationSpec{Name: name, Tables: admin.Tables(mine...)})
			go ensure(conns[2*i+1], admin.PublicationSpec{Name: name + "_all", AllTables: true})
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
