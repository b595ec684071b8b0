package walchan_test

import (
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

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
