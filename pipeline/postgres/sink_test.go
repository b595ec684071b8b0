package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/postgres"
	"github.com/walchan/walchan/walchantest"
)

// What a test of a table does to it comes out the same in the target.
func TestTargetEqualsTheSource(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for name, test := range map[string]struct {
		table string
		sql   []string
	}{
		"upsert and delete": {"id int PRIMARY KEY, v text", []string{
			"INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 100) i",
			"UPDATE t SET v = NULL WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0; INSERT INTO t VALUES (5, 'again')",
		}},
		"types": {`id bigint PRIMARY KEY, b bit(3), vb bit varying, c char(5), vc varchar(5), "c1" "char", n numeric(30, 10), d date, ts timestamptz,
				iv interval, by bytea, a int[], ta text[], j jsonb, u uuid, r int4range, ip inet, "odd ""name" text, f float8`, []string{
			`INSERT INTO t VALUES (1, B'101', B'11001', 'ab', 'abcde', 'q', 12345.6789, '2026-01-02', '2026-01-02 03:04:05.6+07', '-1 day 02:00',
				'\x00ff', '{1,NULL,3}', '{"a,b","","c\"d",NULL}', '{"a": [1, "x"]}', '6ecd8c99-4036-403d-bf84-cf8400f67836', '[1,5)', '10.0.0.0/8', 'q''u', 1e-300)`,
			"INSERT INTO t (id, vc) VALUES (2, ''), (3, NULL)",
		}},
		"key changes": {"a int, b text, v text, PRIMARY KEY (b, a)", []string{
			"INSERT INTO t VALUES (1, 'x', 'one'), (2, 'x', 'two')",
			"UPDATE t SET a = a + 10; UPDATE t SET b = 'y', v = 'moved' WHERE a = 11",
			"UPDATE t SET a = 100 WHERE a = 12; INSERT INTO t VALUES (12, 'x', 'new'); UPDATE t SET a = 12, b = 'z' WHERE a = 100",
		}},
		"unchanged TOAST": {"id int PRIMARY KEY, v text, big text", []string{
			"ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
			"INSERT INTO t VALUES (1, 'a', '" + long + "'), (2, 'b', '" + long + "')",
			"UPDATE t SET v = 'A'",
			"UPDATE t SET id = id + 10, v = 'moved'",
			"INSERT INTO t VALUES (3, 'c', 'y" + long + "'); UPDATE t SET v = 'C' WHERE id = 3; UPDATE t SET big = NULL WHERE id = 11; UPDATE t SET v = 'last' WHERE id = 11",
		}},
		"truncate": {"id int PRIMARY KEY", []string{
			"INSERT INTO t VALUES (1), (2)", "INSERT INTO t VALUES (3); TRUNCATE t RESTART IDENTITY; INSERT INTO t VALUES (2), (4)",
		}},
		"unique values swapped": {"id int PRIMARY KEY, u int UNIQUE", []string{
			"INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)",
			"UPDATE t SET u = 0 WHERE id = 1; UPDATE t SET u = 1 WHERE id = 2; UPDATE t SET u = 2 WHERE id = 1",
			"DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (4, 3)",
		}},
		"deferred constraint": {"id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED", []string{
			"INSERT INTO t VALUES (1, 1), (2, 2)", "UPDATE t SET u = 3 - u",
		}},
		"references": {"id int PRIMARY KEY, parent int REFERENCES t", []string{
			"INSERT INTO t VALUES (1, NULL), (2, 1)", "INSERT INTO t VALUES (3, 2); DELETE FROM t WHERE id = 3; DELETE FROM t WHERE id = 2; DELETE FROM t",
		}},
		"identity full": {"id int PRIMARY KEY, v text, big text", []string{
			"ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
			"INSERT INTO t VALUES (1, 'a', '" + long + "'), (2, NULL, NULL), (3, 'c', 'x')",
			"UPDATE t SET v = 'A'; UPDATE t SET id = 20 WHERE id = 2; DELETE FROM t WHERE id = 3",
		}},
		"identity index": {"id int PRIMARY KEY, code text NOT NULL UNIQUE, v int", []string{
			"ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key",
			"INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)", "UPDATE t SET id = 10, v = 3 WHERE id = 1; UPDATE t SET code = 'c' WHERE id = 2; DELETE FROM t WHERE code = 'a'",
		}},
		"without key": {"v int", []string{"INSERT INTO t VALUES (1), (1), (NULL)", "TRUNCATE t", "INSERT INTO t VALUES (2), (2)"}},
		"generated columns": {"id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, w int GENERATED ALWAYS AS (v * 2) STORED", []string{
			"INSERT INTO t (v) VALUES (1), (2)", "UPDATE t SET v = 7 WHERE id = 1",
		}},
		"only a key": {"id int PRIMARY KEY", []string{"INSERT INTO t VALUES (1)", "UPDATE t SET id = 2; INSERT INTO t VALUES (1); UPDATE t SET id = 1 WHERE false"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, "CREATE TABLE t ("+test.table+")")
			p.source.Exec(t, test.sql...)
			p.catchUp(t)
			p.same(t, "t")
		})
	}
}

// Random transactions over tables that refer to each other.
func TestTargetEqualsTheSourceOfRandomTraffic(t *testing.T) {
	t.Parallel()
	p := newPair(t, schema...)
	r := pgtest.Seeded(t)
	for range 8 {
		for range 50 {
			p.source.Exec(t, randomTransaction(r))
		}
		p.catchUp(t)
		for _, table := range tables {
			p.same(t, table)
		}
		if t.Failed() {
			return
		}
	}
}

var (
	schema = []string{
		`CREATE TABLE parents (id int PRIMARY KEY, v text, big text, u int UNIQUE);
		ALTER TABLE parents ALTER big SET STORAGE EXTERNAL`,
		`CREATE TABLE children (id int, parent int REFERENCES parents ON UPDATE CASCADE ON DELETE CASCADE, n int, v text, PRIMARY KEY (parent, n))`,
		`CREATE TABLE journal (v text)`,
		`CREATE SEQUENCE journal_id`,
	}
	tables = []string{"parents", "children", "journal"}
)

// randomTransaction returns statements that succeed whatever is there.
func randomTransaction(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString("BEGIN;")
	for range 1 + r.IntN(6) {
		id, other := r.IntN(60), r.IntN(60)
		switch r.IntN(12) {
		case 0, 1, 2:
			fmt.Fprintf(&b, "INSERT INTO parents VALUES (%d, 'v%d', repeat('%d', %d), %d) ON CONFLICT DO NOTHING;", id, r.IntN(100), r.IntN(10), r.IntN(2)*6000, r.IntN(1000))
		case 3:
			fmt.Fprintf(&b, "UPDATE parents SET v = 'w%d' WHERE id BETWEEN %d AND %d;", r.IntN(100), id, id+5)
		case 4:
			fmt.Fprintf(&b, "UPDATE parents SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM parents WHERE id = %d);", other, id, other)
		case 5:
			fmt.Fprintf(&b, "DELETE FROM parents WHERE id = %d;", id)
		case 6, 7:
			fmt.Fprintf(&b, "INSERT INTO children SELECT %d, id, %d, 'c' FROM parents WHERE id = %d ON CONFLICT DO NOTHING;", id, r.IntN(3), other)
		case 8:
			fmt.Fprintf(&b, "UPDATE children SET v = 'd%d' WHERE parent < %d;", r.IntN(100), id)
		case 9: // rows swap a unique value
			fmt.Fprintf(&b, "UPDATE parents SET u = NULL WHERE u IN (-%d, -%d); UPDATE parents SET u = -id WHERE id IN (%d, %d); UPDATE parents SET u = NULL WHERE id = %d;",
				id, other, id, other, id)
		case 10:
			if r.IntN(20) == 0 {
				b.WriteString("TRUNCATE parents, children;")
			}
		}
	}
	fmt.Fprintf(&b, "INSERT INTO journal VALUES (nextval('journal_id')); %s;", []string{"COMMIT", "COMMIT", "COMMIT", "ROLLBACK"}[r.IntN(4)])
	return b.String()
}

func TestTablesMapped(t *testing.T) {
	t.Parallel()
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE private (id int PRIMARY KEY)")
	p.target.Exec(t, `CREATE SCHEMA "Copy"; CREATE TABLE "Copy"."of t" (extra text DEFAULT 'kept', v text, id int PRIMARY KEY)`)
	p.source.Exec(t, "INSERT INTO t VALUES (1, 'a'), (2, 'b')", "INSERT INTO private VALUES (1)", "TRUNCATE private", "UPDATE t SET v = 'c' WHERE id = 1")
	p.catchUp(t, postgres.WithTables(func(r *walchan.Relation) (string, string, bool) { return "Copy", "of " + r.Name, r.Name != "private" }))
	if got := p.target.Query(t, `SELECT string_agg(t::text, ' ' ORDER BY id) FROM "Copy"."of t" t`); got != "(kept,c,1) (kept,b,2)" {
		t.Errorf("target has %s", got)
	}
}

var items = walchantest.NewTable("items", "id int primary key", "v text")

func open(t testing.TB, db pgtest.DB, opts ...postgres.Option) *postgres.Sink {
	t.Helper()
	sink, err := postgres.Open(t.Context(), db.DSN(), append([]postgres.Option{postgres.WithLogger(quiet)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink
}

// What was applied before is left out, whether the process lives or not.
func TestAppliedOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE items (id int, v text)") // whoever applies twice has a row twice
	insertOnly := walchantest.NewTable("items", "id int", "v text")
	msgs := walchantest.Messages(insertOnly.Insert(1, "a"), walchantest.Tx(insertOnly.Insert(2, "b"), insertOnly.Insert(3, "c")), insertOnly.Insert(4, "d"))
	sink := open(t, db)
	for _, batch := range [][]walchan.Message{msgs[:2], msgs[:3]} { // within a transaction, too
		if err := sink.Write(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	sink.Close()
	sink = open(t, db)
	for range 2 {
		if err := sink.Write(t.Context(), msgs); err != nil {
			t.Fatal(err)
		}
	}
	if got := db.Query(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM items"); got != "1,2,3,4" {
		t.Errorf("rows %s", got)
	}
}

// The position goes back with the changes if the connection breaks in between.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE items (id int PRIMARY KEY, v text)")
	sink := open(t, db)
	msgs := walchantest.Messages(items.Insert(1, "a"), items.Insert(2, "b"))
	if err := sink.Write(t.Context(), msgs[:1]); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
	if err := pipeline.Retry(sink, soon).Write(t.Context(), msgs); err != nil {
		t.Fatal(err)
	}
	if got := db.Query(t, "SELECT count(*) FROM items"); got != "2" {
		t.Errorf("%s rows", got)
	}
}

// What a target has of one source is of no use for another one; both are named.
func TestCheckpointOfAnotherSource(t *testing.T) {
	t.Parallel()
	p, other := newPair(t), newPair(t)
	_, err := other.subscribe(t.Context(), open(t, p.target))
	if !errors.Is(err, walchan.ErrCheckpoint) || !strings.Contains(err.Error(), p.source.Name) || !strings.Contains(err.Error(), other.source.Name) {
		t.Errorf("error is %v", err)
	}
}

// One sink at a time: the second one waits for the first.
func TestSecondSinkWaits(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	first, second := open(t, db), open(t, db)
	if _, err := first.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error)
	go func() {
		_, err := second.Checkpoint(context.Background())
		opened <- err
	}()
	db.Wait(t, "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
	select {
	case err := <-opened:
		t.Errorf("it has a checkpoint: %v", err)
	default:
	}
	first.Close()
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// One change that the target refuses is named, and does not keep the others.
func TestRefusedChange(t *testing.T) {
	t.Parallel()
	for name, constraint := range map[string]string{
		"at once": "CHECK (v <> 'secret')",
		"later":   "",
	} {
		t.Run(name, func(t *testing.T) {
			db := pgtest.Database(t)
			db.Exec(t, "CREATE TABLE items (id int PRIMARY KEY, v text "+constraint+")")
			if constraint == "" {
				db.Exec(t, `CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not %', NEW.v; END $$;
					CREATE CONSTRAINT TRIGGER no AFTER INSERT ON items DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.v = 'secret') EXECUTE FUNCTION no()`)
			}
			sink := open(t, db)
			msgs := walchantest.Messages(items.Insert(1, "a"), items.Insert(2, "secret"), items.Insert(3, "c"))
			var refused *pipeline.RefusedError
			err := sink.Write(t.Context(), msgs)
			if !errors.As(err, &refused) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error is %v", err)
			} else if constraint != "" && refused.Item != 1 {
				t.Errorf("refused is item %d", refused.Item)
			}
			var log bytes.Buffer
			if err := pipeline.Skip(sink, slog.New(slog.NewTextHandler(&log, nil))).Write(t.Context(), msgs); err != nil {
				t.Fatal(err)
			}
			if got := db.Query(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM items"); got != "1,3" {
				t.Errorf("rows %s", got)
			}
			if l := log.String(); !strings.Contains(l, "insert public.items") || strings.Contains(l, "secret") {
				t.Errorf("log: %s", l)
			}
		})
	}
}

// Changes keep their order where the table is altered among them.
func TestTableAlteredWithinABatch(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE items (id int PRIMARY KEY, v text, w text)")
	altered := walchantest.NewTable("items", "id int primary key", "v text", "w text")
	msgs := walchantest.Messages(items.Insert(1, "a"), items.Insert(2, "b"), items.Delete(1), altered.Insert(1, "new", "new"), altered.Delete(2))
	if err := open(t, db).Write(t.Context(), msgs); err != nil {
		t.Fatal(err)
	}
	if got := db.Query(t, "SELECT string_agg(i::text, ' ') FROM items i"); got != "(1,new,new)" {
		t.Errorf("rows %s", got)
	}
}

// What somebody can mend in the target is waited for.
func TestTargetAltered(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	sink := open(t, db)
	msgs := walchantest.Messages(items.Insert(1, "a"))
	attempt := func(want string) {
		t.Helper()
		var refused *pipeline.RefusedError
		if err := sink.Write(t.Context(), msgs); err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v", err)
		}
	}
	attempt(`there is no "public"."items"`)
	db.Exec(t, "CREATE TABLE items (id int)")
	attempt(`has no column "v"`)
	db.Exec(t, "ALTER TABLE items ADD v text")
	attempt("unique index")
	db.Exec(t, "ALTER TABLE items ADD PRIMARY KEY (id)")
	if err := sink.Write(t.Context(), msgs); err != nil {
		t.Fatal(err)
	}
}

// Options of the stream that do not go with the sink stop it, and are not tried again.
func TestStreamWithOtherOptions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		option walchan.Option
		sql    string
	}{
		"WithBinary":   {walchan.WithBinary(), "INSERT INTO t VALUES (1)"},
		"WithTwoPhase": {walchan.WithTwoPhase(), "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'of sink'"},
	} {
		t.Run(name, func(t *testing.T) {
			db, target := pgtest.Database(t), pgtest.Database(t)
			if name == "WithTwoPhase" && db.Version() < 15 {
				t.Skip("PostgreSQL 15 has it")
			}
			db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
			target.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)")
			sink := open(t, target)
			stream, err := subscribe(t.Context(), db.DSN(), db.Name, sink, walchan.WithCreateSlot(), test.option)
			if err != nil {
				t.Fatal(err)
			}
			g := pipeline.New(t.Context(), stream, time.Minute)
			pipeline.Into(g, pipeline.Batch(g, g.Source(), pipeline.Limit{}), pipeline.Retry(sink, soon))
			db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+db.Name+"' AND NOT temporary")
			db.Exec(t, test.sql)
			if err := g.Wait(); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("Wait: %v", err)
			}
		})
	}
}

func TestOpenWithoutServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := postgres.Open(ctx, "host=127.0.0.1 port=1 password=secret"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error is %v", err)
	}
}

// A sink waits half a minute for the lock of another one, and then fails.
func TestBusy(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	if _, err := open(t, db).Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, db).Checkpoint(t.Context())
	if !errors.Is(err, postgres.ErrBusy) || !strings.Contains(err.Error(), "WithName") {
		t.Errorf("error is %v", err)
	}
	if _, err := open(t, db, postgres.WithName("another")).Checkpoint(t.Context()); err != nil {
		t.Error(err)
	}
}
