package encode_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline/encode"
)

// needWal2json skips the test where the server does not have the extension.
func needWal2json(t *testing.T, db pgtest.DB) {
	t.Helper()
	libraries := db.Query(t, "SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'")
	if _, err := os.Stat(filepath.Join(libraries, "wal2json.so")); err != nil {
		t.Skipf("wal2json is not installed (on Debian: postgresql-%d-wal2json): %v", db.Version(), err)
	}
}

// The real extension writes the same.
func TestWal2JSONIsThatOfTheExtension(t *testing.T) {
	db := source(t, types, everyType(), `CREATE TABLE k (id int, v text, n numeric(10,2), PRIMARY KEY (n, id)); ALTER TABLE k ALTER v SET STORAGE EXTERNAL`,
		`CREATE SCHEMA "odd one"; CREATE TABLE "odd one"."t ""1""" (a text NOT NULL, "b ""c""" int); CREATE UNIQUE INDEX u ON "odd one"."t ""1""" (a);
		ALTER TABLE "odd one"."t ""1""" REPLICA IDENTITY USING INDEX u`,
		`CREATE TABLE f (id int PRIMARY KEY, v text, d float8); ALTER TABLE f REPLICA IDENTITY FULL`,
		`CREATE TABLE modifiers (
			id int PRIMARY KEY,
			a varchar(20), b char(5), c "char", d bpchar, e bit(5), f bit varying(7), g bit varying, h numeric(10,3), i numeric(5), j numeric,
			k timestamp(3), l timestamptz(0), m time(2), n timetz(4), o timestamp, p interval(3), q interval year to month,
			r interval day to second(2), s interval hour, t varchar(20)[], u numeric(10,3)[], v timestamp(3)[], w interval second(1),
			x "Größe", y "Größe"[], z shop.status, aa shop.status[], ab price, ac char(3)[], ad name, ae oid, af interval, ag shop."Odd")`)
	needWal2json(t, db)
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+db.Name+"_w', 'wal2json')")
	r := pgtest.Seeded(t)
	for range 20 {
		db.Exec(t, randomRows(r, 10))
	}
	db.Exec(t,
		"INSERT INTO k VALUES (1, repeat('x', 5000), 1.50), (2, E'line\\nbreak \\\"q\\\" \\\\', 0), (3, NULL, -1)",
		"UPDATE k SET id = 4 WHERE id = 1", // large value: unchanged
		"UPDATE k SET v = 'new' WHERE id = 2",
		"DELETE FROM k WHERE id = 3",
		`INSERT INTO "odd one"."t ""1""" VALUES ('ü', 1)`,
		`UPDATE "odd one"."t ""1""" SET a = 'v'`,
		`UPDATE "odd one"."t ""1""" SET "b ""c""" = 2`,
		`DELETE FROM "odd one"."t ""1"""`,
		"INSERT INTO f VALUES (1, NULL, 'NaN'), (2, 'x', '-Infinity'), (3, '', 1e300)",
		"UPDATE f SET v = 'y'", "DELETE FROM f WHERE id = 2",
		"INSERT INTO modifiers VALUES (1)", "INSERT INTO modifiers (id, c, d, e, h, j, x, y, ae) VALUES (2, 'c', 'd', '10101', 1.5, 1e20, 'S', '{S,M}', 4000000000)",
		"BEGIN; SELECT pg_logical_emit_message(true, 'pre\"fix', 'content \"x\"'); INSERT INTO f VALUES (9); TRUNCATE f, k; COMMIT",
		"SELECT pg_logical_emit_message(false, '', E'a\\\\000b'::bytea)",
	)
	ms := changes(t, db)
	for _, xids := range []bool{false, true} {
		option := ""
		if xids {
			option = ", 'include-xids', 'true'"
		}
		want := query(t, db, "SELECT data FROM pg_logical_slot_peek_changes('"+db.Name+"_w', NULL, NULL, 'format-version', '2'"+option+")")
		got := lines(t, encode.Wal2JSON{IncludeXIDs: xids}, ms)
		var without []string
		for _, w := range want {
			if !strings.Contains(w, `"prefix":"end"`) {
				without = append(without, w)
			}
		}
		if len(got) < 200 {
			t.Errorf("%d lines", len(got))
		}
		compare(t, got, without)
	}
}
