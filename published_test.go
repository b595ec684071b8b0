package walchan_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// since skips a test of what came with a version of PostgreSQL.
func since(t *testing.T, db pgtest.DB, version int, what string) {
	t.Helper()
	if db.Version() < version {
		t.Skipf("%s need PostgreSQL %d", what, version)
	}
}

// WithOrigin("none") leaves out what was replicated, and nothing else.
func TestOriginNone(t *testing.T) {
	db := newSource(t)
	opts := []walchan.Option{walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithOrigin("none")}
	if db.Version() < 16 {
		check(t, trySubscribe(t, db.DSN(), opts...), walchan.ErrServerVersion, "origin needs PostgreSQL 16 or later; this is "+itoa(db.Version()))
		return
	}
	check(t, trySubscribe(t, db.DSN(), append(opts, walchan.WithOrigin("somewhere"))...), walchan.ErrPluginOption, "somewhere")
	conn := pgtest.Connect(t, db.DSN())
	origin := "origin of " + db.Name
	run(t, conn, "SELECT pg_replication_origin_create('"+origin+"')", "SELECT pg_replication_origin_session_setup('"+origin+"')",
		"INSERT INTO t VALUES (1)", "SELECT pg_logical_emit_message(false, 'also', 'replicated')", "SELECT pg_replication_origin_session_reset()",
		"INSERT INTO t VALUES (2)", "SELECT pg_replication_origin_drop('"+origin+"')")
	db.Exec(t, "SELECT pg_copy_logical_replication_slot('"+db.Name+"', '"+db.Name+"_any')")
	wantShown(t, subscribe(t, db, walchan.WithOrigin("any"), walchan.WithSlot(db.Name+"_any")), "insert t → 1, <null>",
		"message also: replicated transactional false", "insert t → 2, <null>")
	for _, m := range wantShown(t, subscribe(t, db, walchan.WithOrigin("none"), walchan.WithStreaming()), "insert t → 2, <null>") {
		if m.Tx.Origin != "" {
			t.Errorf("%v comes from %q", m, m.Tx.Origin)
		}
	}
}

func TestOriginOptions(t *testing.T) {
	for want, opts := range map[string][]walchan.Option{
		"WithOrigin belongs to pgoutput":                            {walchan.WithPlugin("test_decoding", nil)},
		`WithOrigin("none") and WithPluginOption("origin", "any")`:  {walchan.WithPublication("p"), walchan.WithPluginOption("origin", "any")},
		`exclude one another`:                                       {walchan.WithPublication("p"), walchan.WithPluginOption("origin", "")},
		`WithPublication("` + strings.Repeat("x", 64) + `"): not a`: {walchan.WithPublication(strings.Repeat("x", 64))},
	} {
		check(t, trySubscribe(t, "host=none", append(opts, walchan.WithOrigin("none"))...), walchan.ErrOptions, want)
	}
}

// A row filter turns an update that moves a row across it into an insert or a delete, and says nothing of other rows.
func TestRowFilters(t *testing.T) {
	db := newSource(t)
	since(t, db, 15, "row filters")
	db.Exec(t, "CREATE TABLE f (id int PRIMARY KEY, v text)", "ALTER PUBLICATION p ADD TABLE f WHERE (id > 10)",
		"INSERT INTO f VALUES (1), (11), (12)", "UPDATE f SET id = 13 WHERE id = 1", "UPDATE f SET id = 2 WHERE id = 11",
		"UPDATE f SET v = 'v'", "DELETE FROM f", "INSERT INTO t VALUES (1)")
	wantShown(t, subscribe(t, db), "insert f → 11, <null>", "insert f → 12, <null>", "insert f → 13, <null>", "delete f 11, <not_sent>",
		"update f → 12, v", "update f → 13, v", "delete f 12, <not_sent>", "delete f 13, <not_sent>", "insert t → 1, <null>")
}

// Of a table with a column list there are no other columns: not in its Relation, either.
func TestColumnLists(t *testing.T) {
	db := newSource(t)
	since(t, db, 15, "column lists")
	db.Exec(t, "CREATE TABLE c (secret text, id int PRIMARY KEY, v text, w text)", "ALTER PUBLICATION p ADD TABLE c (v, id)",
		"INSERT INTO c VALUES ('s', 1, 'v', 'w')", "UPDATE c SET secret = 'x'", "UPDATE c SET id = 2", "DELETE FROM c")
	s := subscribe(t, db)
	ms := wantShown(t, s, "insert c → 1, v", "update c → 1, v", "update c 1, <not_sent> → 2, v", "delete c 2, <not_sent>")
	if r := ms[0].Relation; len(r.Columns) != 2 || r.Index("secret") >= 0 || !r.Columns[0].Key || r.Columns[1].Key {
		t.Errorf("relation is %+v", r)
	}
	// Two lists for one table are refused by the server, when it comes to that.
	closeBehind(t, s, ms)
	db.Exec(t, "CREATE PUBLICATION other FOR TABLE c (id, w)", "INSERT INTO c VALUES ('s', 3, 'v', 'w')")
	s = subscribe(t, db, walchan.WithPublication("other"))
	for m := range s.C() {
		s.Ack(m)
	}
	check(t, s.Err(), walchan.ErrPublication, "alter the publications")
}

// Generated columns are columns like others, where they are published: stored ones, from PostgreSQL 18 on.
func TestGeneratedColumns(t *testing.T) {
	db := newSource(t)
	since(t, db, 18, "published generated columns")
	db.Exec(t, "CREATE TABLE g (id int PRIMARY KEY, double int GENERATED ALWAYS AS (2 * id) STORED, v text, never int GENERATED ALWAYS AS (3 * id) VIRTUAL)",
		"CREATE PUBLICATION stored FOR TABLE g WITH (publish_generated_columns = stored)", "CREATE PUBLICATION listed FOR TABLE g (id, double)",
		"CREATE PUBLICATION without FOR TABLE g")
	published := map[string]string{"stored": "→ 4, 8, v", "listed": "→ 4, 8", "without": "→ 4, v"}
	for publication := range published {
		copies(t, db, db.Name+publication)
	}
	db.Exec(t, "INSERT INTO g (id, v) VALUES (4, 'v')")
	for publication, want := range published {
		wantShown(t, subscribe(t, db, walchan.WithSlot(db.Name+publication), walchan.WithPluginOption("publication_names", publication)), "insert g "+want)
	}
}

// What is published counts as of the change: a table that is added, taken out or given other operations while the stream runs.
func TestPublicationIsAlteredWhileStreaming(t *testing.T) {
	db := newSource(t)
	s := subscribe(t, db)
	db.Exec(t, "INSERT INTO quiet VALUES (1)", "INSERT INTO t VALUES (1)", "ALTER PUBLICATION p ADD TABLE quiet", "INSERT INTO quiet VALUES (2)",
		"ALTER PUBLICATION p SET (publish = 'insert')", "UPDATE t SET v = 'x'", "INSERT INTO t VALUES (2)",
		"ALTER PUBLICATION p SET (publish = 'insert, delete')", "DELETE FROM t WHERE id = 1",
		"ALTER PUBLICATION p DROP TABLE t", "INSERT INTO t VALUES (3)", "INSERT INTO quiet VALUES (3)",
		"ALTER PUBLICATION p SET TABLE t", "INSERT INTO quiet VALUES (4)", "INSERT INTO t VALUES (4)")
	wantShown(t, s, "insert t → 1, <null>", "insert quiet → 2", "insert t → 2, <null>", "delete t 1, <not_sent>", "insert quiet → 3", "insert t → 4, <null>")
	db.Exec(t, "ALTER PUBLICATION p RENAME TO q", "CREATE PUBLICATION p FOR ALL TABLES", "INSERT INTO quiet VALUES (5)", "CREATE TABLE new (id int PRIMARY KEY)", "INSERT INTO new VALUES (6)")
	wantShown(t, s, "insert quiet → 5", "insert new → 6")
}

// Tables are altered, renamed, moved and dropped while the stream runs; another table may have the name of one that was. Each change
// has the table as it was then.
func TestTablesAreAlteredWhileStreaming(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE SCHEMA s", "DROP PUBLICATION p", "CREATE PUBLICATION p FOR ALL TABLES")
	s := subscribe(t, db)
	db.Exec(t, "INSERT INTO t VALUES (1, 'a')", "ALTER TABLE t ADD n numeric(5, 2) DEFAULT 1.5", "INSERT INTO t VALUES (2, 'b')",
		"ALTER TABLE t RENAME v TO w", "UPDATE t SET w = 'c' WHERE id = 1", "ALTER TABLE t ALTER n TYPE text USING 'n' || n", "INSERT INTO t VALUES (3, 'd', 'e')",
		"ALTER TABLE t SET SCHEMA s", "INSERT INTO s.t VALUES (4)", "ALTER TABLE s.t RENAME TO u", "DELETE FROM s.u WHERE id = 1",
		"DROP TABLE s.u", "CREATE TABLE t (v text, id int)", "INSERT INTO t VALUES ('new', 1)",
		"BEGIN; INSERT INTO t VALUES ('x', 2); ALTER TABLE t DROP v; INSERT INTO t VALUES (3); ALTER TABLE t ADD v int; INSERT INTO t VALUES (4, 5); DROP TABLE t; COMMIT",
		"INSERT INTO quiet VALUES (9)")
	ms := wantShown(t, s, "insert t → 1, a", "insert t → 2, b, 1.50", "update t → 1, c, 1.50", "insert t → 3, d, e", "insert s.t → 4, <null>, 1.5",
		"delete s.u 1, <not_sent>, <not_sent>", "insert t → new, 1", "insert t → x, 2", "insert t → 3", "insert t → 4, 5", "insert quiet → 9")
	columns := func(m walchan.Message) (names string) {
		for _, c := range m.Relation.Columns {
			names += fmt.Sprintf("%s %s %d, ", c.Name, c.TypeName, c.TypeMod)
		}
		return names
	}
	for i, want := range map[int]string{0: "id integer -1, v text -1, ", 1: "id integer -1, v text -1, n numeric 327686, ", 2: "id integer -1, w text -1, n numeric 327686, ",
		3: "id integer -1, w text -1, n text -1, ", 6: "v text -1, id integer -1, ", 9: "id integer -1, v integer -1, "} {
		if got := columns(ms[i]); got != want {
			t.Errorf("message %d: columns %s, want %s", i, got, want)
		}
	}
	if ms[0].Relation.OID != ms[5].Relation.OID || ms[0].Relation.OID == ms[6].Relation.OID {
		t.Error("the OIDs are not those of the tables")
	}
}

// Enums, domains and composite types are altered while the stream runs, and new ones made: the values are as they were then.
func TestTypesAreAlteredWhileStreaming(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE TYPE mood AS ENUM ('fine')", "CREATE DOMAIN small AS int CHECK (VALUE < 10)", "CREATE TYPE pair AS (a int, b text)",
		"CREATE TABLE x (id int PRIMARY KEY, m mood, d small, p pair, l mood[])", "DROP PUBLICATION p", "CREATE PUBLICATION p FOR ALL TABLES")
	for _, binary := range []bool{false, true} {
		name := fmt.Sprintf("%s_%d", db.Name, btoi(binary))
		copies(t, db, name)
	}
	db.Exec(t, "INSERT INTO x VALUES (1, 'fine', 9, '(1,b)', '{fine}')", "ALTER TYPE mood ADD VALUE 'so so' BEFORE 'fine'", "ALTER DOMAIN small DROP CONSTRAINT small_check",
		"INSERT INTO x VALUES (2, 'so so', 10, '(2,b)', '{fine,\"so so\"}')", "ALTER TYPE mood RENAME VALUE 'fine' TO 'good'", "ALTER TYPE mood RENAME TO feeling",
		"ALTER TYPE pair ADD ATTRIBUTE c numeric CASCADE", "INSERT INTO x VALUES (3, 'good', 11, '(3,b,1.5)', '{good}')",
		"CREATE TYPE grade AS ENUM ('a', 'b')", "ALTER TABLE x ADD g grade DEFAULT 'b'", "INSERT INTO x VALUES (4, 'good', 12, NULL, NULL)")
	for _, binary := range []bool{false, true} {
		opts := []walchan.Option{walchan.WithSlot(fmt.Sprintf("%s_%d", db.Name, btoi(binary)))}
		if binary {
			opts = append(opts, walchan.WithBinary())
		}
		s := subscribe(t, db, opts...)
		var got []string
		for _, m := range take(t, s, 4) {
			b, err := m.New().AppendJSON(nil)
			if err != nil {
				t.Error(err)
			}
			got = append(got, string(b))
		}
		equal(t, got, `{"id":1,"m":"fine","d":9,"p":{"a":1,"b":"b"},"l":["fine"]}`, `{"id":2,"m":"so so","d":10,"p":{"a":2,"b":"b"},"l":["fine","so so"]}`,
			`{"id":3,"m":"good","d":11,"p":{"a":3,"b":"b","c":1.5},"l":["good"]}`, `{"id":4,"m":"good","d":12,"p":null,"l":null,"g":"b"}`)
		mustClose(t, s)
	}
}

// The replica identity is changed while the stream runs: old rows and keys are as of the change.
func TestReplicaIdentityIsChangedWhileStreaming(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE TABLE x (a int PRIMARY KEY, b int NOT NULL, c text)", "CREATE UNIQUE INDEX x_b ON x (b)", "ALTER PUBLICATION p ADD TABLE x")
	s := subscribe(t, db)
	db.Exec(t, "INSERT INTO x VALUES (1, 2, 'c'), (2, 3, 'c'), (3, 4, 'c'), (4, 5, 'c')", "UPDATE x SET a = 5 WHERE a = 1", "DELETE FROM x WHERE a = 5",
		"ALTER TABLE x REPLICA IDENTITY FULL", "UPDATE x SET c = 'd' WHERE a = 2", "DELETE FROM x WHERE a = 2",
		"ALTER TABLE x REPLICA IDENTITY USING INDEX x_b", "UPDATE x SET a = 6 WHERE a = 3", "UPDATE x SET b = 7 WHERE a = 6", "DELETE FROM x WHERE a = 6",
		"ALTER PUBLICATION p SET (publish = 'insert')", "ALTER TABLE x REPLICA IDENTITY NOTHING", "DELETE FROM x", "INSERT INTO x VALUES (8, 8, 'e')")
	ms := wantShown(t, s, "insert x → 1, 2, c", "insert x → 2, 3, c", "insert x → 3, 4, c", "insert x → 4, 5, c",
		"update x 1, <not_sent>, <not_sent> → 5, 2, c", "delete x 5, <not_sent>, <not_sent>",
		"update x 2, 3, c → 2, 3, d", "delete x 2, 3, d", "update x → 6, 4, c", "update x <not_sent>, 4, <not_sent> → 6, 7, c", "delete x <not_sent>, 7, <not_sent>", "insert x → 8, 8, e")
	for i, want := range map[int]walchan.ReplicaIdentity{0: walchan.ReplicaIdentityDefault, 6: walchan.ReplicaIdentityFull, 8: walchan.ReplicaIdentityIndex, 11: walchan.ReplicaIdentityNothing} {
		if got := ms[i].Relation.ReplicaIdentity; got != want {
			t.Errorf("message %d: replica identity %c, want %c", i, got, want)
		}
	}
}

// publish_via_partition_root makes the changes of partitions those of their root, whose columns may stand in another order, at
// every level; without, they are those of the leaves.
func TestPartitionsViaTheirRoot(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE TABLE r (a int, b text, PRIMARY KEY (a)) PARTITION BY RANGE (a)", "CREATE TABLE r1 (x int, b text, a int NOT NULL)", "ALTER TABLE r1 DROP x",
		"ALTER TABLE r ATTACH PARTITION r1 FOR VALUES FROM (0) TO (10)", "CREATE TABLE r2 PARTITION OF r FOR VALUES FROM (10) TO (30) PARTITION BY RANGE (a)",
		"CREATE TABLE r21 PARTITION OF r2 FOR VALUES FROM (10) TO (20)",
		"CREATE PUBLICATION root FOR TABLE r WITH (publish_via_partition_root)", "ALTER PUBLICATION p SET TABLE r")
	copies(t, db, db.Name+"_root")
	db.Exec(t, "INSERT INTO r VALUES (1, 'x'), (11, 'y')", "UPDATE r SET b = 'z' WHERE a = 1", "UPDATE r SET a = 12 WHERE a = 1",
		"DELETE FROM r WHERE a = 11", "TRUNCATE r", "INSERT INTO r VALUES (13)")
	wantShown(t, subscribe(t, db), "insert r1 → x, 1", "insert r21 → 11, y", "update r1 → z, 1", "delete r1 <not_sent>, 1", "insert r21 → 12, z",
		"delete r21 11, <not_sent>", "truncate r1 r21 cascade false restart false", "insert r21 → 13, <null>")
	s := subscribe(t, db, walchan.WithSlot(db.Name+"_root"), walchan.WithPluginOption("publication_names", "root"))
	wantShown(t, s, "insert r → 1, x", "insert r → 11, y", "update r → 1, z", "delete r 1, <not_sent>", "insert r → 12, z",
		"delete r 11, <not_sent>", "truncate r cascade false restart false", "insert r → 13, <null>")
}

// What the server has to say is logged, or given to whom it concerns.
func TestNotices(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 1)
	verbose := db.DSN("options='-c client_min_messages=debug1'") // which a walsender has enough of
	var mu sync.Mutex
	var heard []string
	var logged bytes.Buffer
	opts := []walchan.Option{walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithLogger(slog.New(slog.NewTextHandler(&logged, nil)))}
	for _, hook := range []bool{false, true} {
		with := opts
		if hook {
			with = append(with, walchan.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
				cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
					mu.Lock()
					defer mu.Unlock()
					heard = append(heard, n.Severity+" "+n.Message)
				}
				return nil
			}))
		}
		s, err := walchan.Subscribe(t.Context(), verbose, with...)
		if err != nil {
			t.Fatal(err)
		}
		next(t, s)
		mustClose(t, s)
		text := logged.String()
		logged.Reset()
		if is := strings.Contains(text, `msg="notice from the server"`) && strings.Contains(text, "severity=LOG"); is == hook {
			t.Errorf("with a hook %t: logged is\n%s", hook, text)
		}
	}
	if !slices.ContainsFunc(heard, func(n string) bool { return strings.HasPrefix(n, "LOG starting logical decoding") }) {
		t.Errorf("heard is %q", heard)
	}
}
