package walchan_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// show writes a message as the tests want it: kind, table, old row → new row.
func show(m walchan.Message) string {
	var b strings.Builder
	b.WriteString(m.Kind.String())
	if m.Relation != nil {
		b.WriteString(" " + strings.TrimPrefix(m.Relation.String(), "public."))
	}
	if tables, cascade, restart := m.Truncated(); tables != nil {
		for _, r := range tables {
			b.WriteString(" " + strings.TrimPrefix(r.String(), "public."))
		}
		fmt.Fprintf(&b, " cascade %t restart %t", cascade, restart)
	}
	if m.Kind == walchan.LogicalMessage {
		fmt.Fprintf(&b, " %s: %s transactional %t", m.Prefix(), m.Payload(), m.Tx != nil)
	}
	if m.Kind == walchan.Raw {
		b.WriteString(" " + m.Payload())
	}
	b.WriteString(showRow(m.Old()))
	if m.Kind == walchan.Insert || m.Kind == walchan.Update {
		b.WriteString(" →" + showRow(m.New()))
	}
	return b.String()
}

func showRow(r walchan.Row) string {
	var cols []string
	for i := range r.Len() {
		switch r.State(i) {
		case walchan.Text:
			cols = append(cols, r.Text(i))
		default:
			cols = append(cols, "<"+r.State(i).String()+">")
		}
	}
	if cols == nil {
		return ""
	}
	return " " + strings.Join(cols, ", ")
}

// wantShown compares what comes with what is wanted, line by line.
func wantShown(t *testing.T, s *walchan.Stream, want ...string) []walchan.Message {
	t.Helper()
	ms := take(t, s, len(want))
	for i, m := range ms {
		if got := show(m); got != want[i] {
			t.Errorf("message %d is\n\t%s\nwant\n\t%s", i, got, want[i])
		}
	}
	return ms
}

func TestKindsOfRows(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "INSERT INTO t VALUES (1, 'a'), (2, NULL), (3, '')",
		"UPDATE t SET v = 'b' WHERE id = 1", "UPDATE t SET id = 4 WHERE id = 2", "DELETE FROM t WHERE id = 3")
	wantShown(t, subscribe(t, db),
		"insert t → 1, a", "insert t → 2, <null>", "insert t → 3, ",
		"update t → 1, b", "update t 2, <not_sent> → 4, <null>", "delete t 3, <not_sent>")
}

func TestKindsOfReplicaIdentity(t *testing.T) {
	for identity, want := range map[string][]string{
		"DEFAULT":       {"update x → 1, 2, c", "update x 1, <not_sent>, <not_sent> → 9, 2, c", "delete x 9, <not_sent>, <not_sent>"},
		"FULL":          {"update x 1, 2, <null> → 1, 2, c", "update x 1, 2, c → 9, 2, c", "delete x 9, 2, c"},
		"USING INDEX b": {"update x → 1, 2, c", "update x → 9, 2, c", "delete x <not_sent>, 2, <not_sent>"},
	} {
		t.Run(identity, func(t *testing.T) {
			db := newSource(t)
			db.Exec(t, "CREATE TABLE x (a int PRIMARY KEY, b int NOT NULL, c text)", "CREATE UNIQUE INDEX b ON x (b)",
				"ALTER TABLE x REPLICA IDENTITY "+identity, "ALTER PUBLICATION p ADD TABLE x",
				"INSERT INTO x VALUES (1, 2)", "UPDATE x SET c = 'c'", "UPDATE x SET a = 9", "DELETE FROM x")
			ms := wantShown(t, subscribe(t, db), append([]string{"insert x → 1, 2, <null>"}, want...)...)
			r := ms[0].Relation
			if got := r.ReplicaIdentity; !strings.HasPrefix(strings.ToLower(strings.TrimPrefix(identity, "USING ")), string(rune(got))) {
				t.Errorf("replica identity is %c", got)
			}
		})
	}
}

// A table without replica identity can have no updates and deletes published, but inserts.
func TestKindsOfReplicaIdentityNothing(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE TABLE x (a int PRIMARY KEY)", "ALTER TABLE x REPLICA IDENTITY NOTHING",
		"CREATE PUBLICATION inserts FOR TABLE x WITH (publish = 'insert')", "INSERT INTO x VALUES (1)", "UPDATE x SET a = 2", "INSERT INTO x VALUES (3)")
	s := subscribe(t, db, walchan.WithPublication("inserts"))
	ms := wantShown(t, s, "insert x → 1", "insert x → 3")
	if got := ms[0].Relation.ReplicaIdentity; got != walchan.ReplicaIdentityNothing {
		t.Errorf("replica identity is %c", got)
	}
}

// A TOASTed value that an UPDATE does not touch is not sent: it is Unchanged, and not NULL. With the whole old row it is known.
func TestKindsOfUnchangedTOAST(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE TABLE x (a int PRIMARY KEY, b text, big text)", "ALTER TABLE x ALTER big SET STORAGE EXTERNAL",
		"ALTER PUBLICATION p ADD TABLE x", "INSERT INTO x VALUES (1, 'b', repeat('0123456789', 1000))",
		"UPDATE x SET b = 'c'", "ALTER TABLE x REPLICA IDENTITY FULL", "UPDATE x SET b = 'd'")
	big := strings.Repeat("0123456789", 1000)
	wantShown(t, subscribe(t, db), "insert x → 1, b, "+big, "update x → 1, c, <unchanged>", "update x 1, c, "+big+" → 1, d, "+big)
}

func TestKindsOfTruncate(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (a int REFERENCES a)", `CREATE TABLE "Ünlaut ""q""" (id serial)`,
		`ALTER PUBLICATION p ADD TABLE a, b, "Ünlaut ""q"""`,
		`TRUNCATE b, "Ünlaut ""q"""`, "TRUNCATE a CASCADE", `TRUNCATE "Ünlaut ""q""" RESTART IDENTITY`, "TRUNCATE a RESTART IDENTITY CASCADE")
	wantShown(t, subscribe(t, db),
		`truncate b "Ünlaut ""q""" cascade false restart false`, "truncate a b cascade true restart false",
		`truncate "Ünlaut ""q""" cascade false restart true`, "truncate a b cascade true restart true")
}

func TestKindsOfLogicalMessages(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "BEGIN; INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(true, 'with', 'commit'); "+
		"SELECT pg_logical_emit_message(false, 'at', 'once'); INSERT INTO t VALUES (2); COMMIT",
		"BEGIN; SELECT pg_logical_emit_message(false, 'also', 'of a rollback'); SELECT pg_logical_emit_message(true, 'not', 'this'); ROLLBACK",
		"SELECT pg_logical_emit_message(true, '', '')")
	s := subscribe(t, db)
	ms := wantShown(t, s, "message at: once transactional false", "insert t → 1, <null>", "message with: commit transactional true",
		"insert t → 2, <null>", "message also: of a rollback transactional false", "message :  transactional true")
	ackAll(s, ms)
	if got := confirmed(t, s, db); got < ms[5].LSN {
		t.Errorf("confirmed is %s, before the last message, %v", got, ms[5])
	}
}

func TestKindsBeginAndCommit(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "BEGIN; INSERT INTO t VALUES (1); UPDATE t SET v = 'x'; COMMIT", "INSERT INTO quiet VALUES (1)", "DELETE FROM t")
	ms := wantShown(t, subscribe(t, db, walchan.WithTransactions()),
		"begin", "insert t → 1, <null>", "update t → 1, x", "commit", "begin", "delete t 1, <not_sent>", "commit")
	for i, m := range ms {
		if want := []uint32{1, 2, 3, 4, 1, 2, 3}[i]; m.Ordinal != want {
			t.Errorf("%v has ordinal %d, want %d", m, m.Ordinal, want)
		}
		if m.Tx != ms[4*(i/4)].Tx {
			t.Errorf("%v has another Tx than its Begin", m)
		}
	}
	tx, end := ms[0].Tx, ms[3].End()
	if end <= tx.CommitLSN || ms[4].Tx.CommitLSN < end {
		t.Errorf("transaction of commit %s ends at %s, and the next one's commit is %s", tx.CommitLSN, end, ms[4].Tx.CommitLSN)
	}
	if got := db.Query(t, fmt.Sprintf("SELECT now() - '%s' BETWEEN '0' AND '1min'", tx.CommitTime.Format("2006-01-02 15:04:05.999999Z07"))); got != "t" {
		t.Errorf("commit time is %s", tx.CommitTime)
	}
	if tx.XID == 0 || tx.Redelivered || ms[1].SentAt().Before(tx.CommitTime) {
		t.Errorf("transaction %+v, sent at %s", tx, ms[1].SentAt())
	}
}

// Ordinals and commits are the same with Begin and Commit and without: they are a key.
func TestKindsBeginAndCommitDoNotChangePositions(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 2, 2)
	s := subscribe(t, db)
	without := take(t, s, 4)
	mustClose(t, s)
	with := take(t, subscribe(t, db, walchan.WithTransactions()), 8)
	for i, m := range without {
		was, _ := m.Position()
		if is, _ := with[[]int{1, 2, 5, 6}[i]].Position(); is != was {
			t.Errorf("row %d is at %s, and at %s with transactions", id(m), was, is)
		}
	}
}

func TestKindsOrigin(t *testing.T) {
	db := newSource(t)
	conn := pgtest.Connect(t, db.DSN())
	origin := "from " + db.Name // origins are the cluster's
	run(t, conn, "SELECT pg_replication_origin_create('"+origin+"')", "SELECT pg_replication_origin_session_setup('"+origin+"')",
		"INSERT INTO t VALUES (1)", "SELECT pg_replication_origin_session_reset()", "INSERT INTO t VALUES (2)",
		"SELECT pg_replication_origin_drop('"+origin+"')")
	ms := wantShown(t, subscribe(t, db, walchan.WithTransactions()),
		"begin", "insert t → 1, <null>", "commit", "begin", "insert t → 2, <null>", "commit")
	for i, m := range ms {
		if want := []string{origin, ""}[i/3]; m.Tx.Origin != want {
			t.Errorf("%v has origin %q, want %q", m, m.Tx.Origin, want)
		}
	}
}

func TestKindsOfTablesWithOddShapes(t *testing.T) {
	db := newSource(t)
	db.Exec(t, `CREATE SCHEMA "Sché""ma"`, `CREATE TABLE "Sché""ma"."a.b ""c""" ("Col ""1""" int PRIMARY KEY, "ж" text)`,
		"CREATE TABLE none ()", "ALTER TABLE none REPLICA IDENTITY FULL",
		"CREATE TABLE generated (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a + 1) STORED, c text)",
		"CREATE TABLE dropped (a int PRIMARY KEY, b text, c text)", "ALTER TABLE dropped DROP b",
		`ALTER PUBLICATION p ADD TABLE "Sché""ma"."a.b ""c""", none, generated, dropped`,
		`INSERT INTO "Sché""ma"."a.b ""c""" VALUES (1, 'ü')`, "INSERT INTO none DEFAULT VALUES", "DELETE FROM none",
		"INSERT INTO generated (a, c) VALUES (1, 'c')", "INSERT INTO dropped VALUES (1, 'c')")
	ms := wantShown(t, subscribe(t, db), `insert "Sché""ma"."a.b ""c""" → 1, ü`, "insert none →", "delete none",
		"insert generated → 1, c", "insert dropped → 1, c")
	r := ms[0].Relation
	if r.Schema != `Sché"ma` || r.Name != `a.b "c"` || r.Columns[0].Name != `Col "1"` || !r.Columns[0].Key || r.Columns[1].Key || r.Index("ж") != 1 {
		t.Errorf("relation is %+v", r)
	}
	if ms[1].Relation != ms[2].Relation {
		t.Error("the same table is another Relation")
	}
}

// A table that is altered is another Relation, from that change on.
func TestKindsAlteredTable(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "INSERT INTO t VALUES (1, 'a')", "ALTER TABLE t ADD w int DEFAULT 7", "INSERT INTO t VALUES (2, 'b', 3)",
		"ALTER TABLE t DROP v", "ALTER TABLE t RENAME TO u", "UPDATE u SET w = 8 WHERE id = 1")
	ms := wantShown(t, subscribe(t, db), "insert t → 1, a", "insert t → 2, b, 3", "update u → 1, 8")
	if ms[0].Relation == ms[1].Relation || ms[0].Relation.OID != ms[2].Relation.OID {
		t.Error("wrong Relation")
	}
}

func TestKindsOfPartitionedTables(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE TABLE x (a int PRIMARY KEY) PARTITION BY RANGE (a)", "CREATE TABLE x1 PARTITION OF x FOR VALUES FROM (0) TO (10)",
		"CREATE TABLE x2 PARTITION OF x FOR VALUES FROM (10) TO (20)", "ALTER PUBLICATION p ADD TABLE x",
		"INSERT INTO x VALUES (1), (11)", "UPDATE x SET a = 12 WHERE a = 1",
		"CREATE PUBLICATION root FOR TABLE x WITH (publish_via_partition_root)", "INSERT INTO x VALUES (2)")
	s := subscribe(t, db)
	wantShown(t, s, "insert x1 → 1", "insert x2 → 11", "delete x1 1", "insert x2 → 12", "insert x1 → 2")
	mustClose(t, s)
}

// Values of whatever size and content arrive as they are.
func TestKindsOfValues(t *testing.T) {
	db := newSource(t)
	for _, v := range []string{"''", "repeat('x', 3000000)", "E'\\\\ \\n '' \" € 𝄞'", "repeat('ü', 70000)"} {
		db.Exec(t, "INSERT INTO t SELECT count(*), "+v+" FROM t")
	}
	s := subscribe(t, db)
	for i := range 4 {
		m := next(t, s)
		if want := db.Query(t, fmt.Sprintf("SELECT v FROM t WHERE id = %d", i)); m.New().Text(1) != want {
			t.Errorf("row %d: %d bytes, want %d", i, len(m.New().Text(1)), len(want))
		}
	}
}

// Raw messages of another plugin.
func TestKindsRaw(t *testing.T) {
	db := newSource(t)
	s := subscribeDecoding(t, db)
	db.Exec(t, "INSERT INTO t VALUES (1, 'a')", "SELECT pg_logical_emit_message(false, 'p', 'x')")
	ms := wantShown(t, s, "raw BEGIN", "raw table public.t: INSERT: id[integer]:1 v[text]:'a'", "raw COMMIT", "raw message: transactional: 0 prefix: p, sz: 1 content:x")
	for _, m := range ms {
		if _, ok := m.Position(); ok || m.Tx != nil {
			t.Errorf("%v has a position, or a transaction", m)
		}
	}
	ackAll(s, ms)
	flush(t, s)
	db.Wait(t, "SELECT confirmed_flush_lsn >= '"+ms[3].LSN.String()+"' FROM pg_replication_slots WHERE slot_name = '"+db.Name+"_td'")
}

// subscribeDecoding streams the source's database with test_decoding.
func subscribeDecoding(t *testing.T, db pgtest.DB, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	s, err := walchan.Subscribe(t.Context(), db.DSN(), append([]walchan.Option{
		walchan.WithSlot(db.Name + "_td"), walchan.WithCreateSlot(), walchan.WithLogger(logTo(t)), retrySoon,
		walchan.WithPlugin("test_decoding", map[string]string{"include-xids": "off", "skip-empty-xacts": "on"})}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
