package walchan

import (
	"fmt"
	"slices"
	"testing"

	"github.com/walchan/walchan/internal/pgtest"
)

// The rows of a snapshot are, value by value and definition by definition, what the stream would have delivered had it seen them
// inserted: whatever their types, of the tables, columns and rows that are published, and of no others.
func TestSnapshotRowsAreThoseOfTheStream(t *testing.T) {
	t.Parallel()
	version := pgtest.Shared(t).Version()
	for _, viaRoot := range []bool{false, true} {
		for _, binary := range []bool{false, true} {
			t.Run(fmt.Sprintf("via root %v, binary %v", viaRoot, binary), func(t *testing.T) {
				t.Parallel()
				db := pgtest.Database(t)
				ddl, insert := everything()
				db.Exec(t, customTypes, ddl+";ALTER TABLE everything ADD COLUMN acl aclitem", odd)
				publish := "CREATE PUBLICATION p FOR ALL TABLES"
				if version >= 15 && viaRoot {
					publish = `CREATE PUBLICATION p FOR TABLE everything, "Odd "" name", none, generated, parent, parts,
						nokey, filtered (id, v, x) WHERE (id > 1 AND v <> 'no')`
				}
				db.Exec(t, fmt.Sprintf("%s WITH (publish_via_partition_root = %v)", publish, viaRoot))
				opts := []Option{WithPublication("p"), WithTransactions()}
				if binary {
					opts = append(opts, WithBinary())
				}
				// "none" last, as it has no columns.
				changes := subscribe(t, db, append(opts, WithSlot(db.Name+"_changes"), WithCreateSlot()))
				db.Exec(t, insert+";UPDATE everything SET acl = 'postgres=r/postgres' WHERE id = 1", "TRUNCATE everything", insert, oddRows)
				streamed := map[string][]Message{}
				for last := false; !last; {
					m := next(t, changes)
					if m.Kind == Insert {
						streamed[m.Relation.String()] = append(streamed[m.Relation.String()], m)
						last = m.Relation.Name == "none"
					}
					if m.Kind == Truncate {
						clear(streamed)
					}
				}
				read := map[string][]Message{}
				s := subscribe(t, db, append(opts, WithSlot(db.Name), WithSnapshot(), WithSnapshotJobs(1)))
				for m := next(t, s); m.Kind != SnapshotEnd; m = next(t, s) {
					if m.Kind == Read {
						read[m.Relation.String()] = append(read[m.Relation.String()], m)
					}
				}
				if len(read) != len(streamed) {
					t.Errorf("%d tables were read, %d streamed", len(read), len(streamed))
				}
				for table, want := range streamed {
					compareTables(t, table, read[table], want)
				}
			})
		}
	}
}

func compareTables(t *testing.T, table string, read, streamed []Message) {
	t.Helper()
	if len(read) != len(streamed) {
		t.Errorf("%s: %d rows were read, %d streamed", table, len(read), len(streamed))
		return
	}
	for i := range read {
		got, want := read[i].New(), streamed[i].New()
		if !slices.Equal(got.rel.Columns, want.rel.Columns) || got.rel.OID != want.rel.OID || got.rel.ReplicaIdentity != want.rel.ReplicaIdentity {
			t.Errorf("%s: it is\n%+v, want\n%+v", table, got.rel, want.rel)
			return
		}
		if got.data.text() != want.data.text() {
			for c := range got.Len() {
				if got.State(c) != want.State(c) || got.Text(c) != want.Text(c) {
					t.Errorf("%s: row %d, column %s is %v %q, want %v %q", table, i, got.rel.Columns[c].Name, got.State(c), got.Text(c), want.State(c), want.Text(c))
				}
			}
			t.Errorf("%s: row %d has another block", table, i)
		}
	}
}

// odd are tables of which not all is published, or not as themselves.
const odd = `
CREATE TABLE "Odd "" name" ("a ""b" int, "DROPPED" text, "select" text, PRIMARY KEY ("select", "a ""b"));
ALTER TABLE "Odd "" name" DROP COLUMN "DROPPED";
CREATE TABLE none ();
CREATE TABLE generated (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (2 * id) STORED, v text);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (v text) INHERITS (parent);
CREATE TABLE parts (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 (v text, gone int, id int NOT NULL);
ALTER TABLE parts_1 DROP COLUMN gone;
ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (1) TO (10);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (30) PARTITION BY RANGE (id);
CREATE TABLE parts_2_1 PARTITION OF parts_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE nokey (v text);
CREATE TABLE filtered (id int, v text, secret text, x numeric, PRIMARY KEY (id, v));
CREATE UNLOGGED TABLE unlogged (id int);
CREATE VIEW view AS SELECT * FROM parent`

const oddRows = `INSERT INTO "Odd "" name" VALUES (1, E'back \\ slash'), (2, E'a\tb\nc\\N'), (3, '\N'), (4, '');
INSERT INTO generated VALUES (1, DEFAULT, 'x'), (2, DEFAULT, NULL);
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (3, 'x');
INSERT INTO parts VALUES (1, 'one'), (2, NULL), (11, 'eleven');
INSERT INTO nokey VALUES ('x'), ('x'), (NULL);
INSERT INTO filtered VALUES (1, 'yes', 's', 1.50), (2, 'no', 's', 2), (3, 'yes', 's', NULL);
INSERT INTO unlogged VALUES (1);
INSERT INTO none DEFAULT VALUES`
