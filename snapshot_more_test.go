package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// The connections of a snapshot, as pg_stat_activity knows them.
const (
	exporter = "backend_type = 'walsender'"
	keeper   = "backend_type <> 'walsender' AND state = 'idle in transaction' AND query NOT LIKE '%enable_%' AND query NOT LIKE 'COPY%'"
)

func terminateWhere(t *testing.T, db pgtest.DB, which string) {
	t.Helper()
	if n := db.Query(t, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'walchan' AND datname = '"+db.Name+"' AND "+which); n == "0" {
		t.Fatalf("there is no connection with %s", which)
	}
}

// When the connection breaks that holds the snapshot, or the one that holds the locks, the rows start over, and a SnapshotBegin says
// so. What is acknowledged of the first attempt confirms nothing.
func TestSnapshotStartsOverWhenItIsLost(t *testing.T) {
	for _, which := range []string{exporter, keeper} {
		t.Run(which[:12], func(t *testing.T) {
			db := newTables(t, 5000)
			s := subscribe(t, db, walchan.WithSnapshot())
			first := take(t, s, 100)
			ackAll(s, first)
			db.Exec(t, "DELETE FROM t WHERE id = 1") // in between
			terminateWhere(t, db, which)
			await(t, s, "it has noticed", func() bool { return s.Stats().Err != nil || s.Stats().Reconnects > 0 })
			var m walchan.Message
			for m = next(t, s); m.Kind == walchan.Read; m = next(t, s) {
				s.Ack(m)
			}
			if m.Kind != walchan.SnapshotBegin || m.Snapshot().Attempt != 2 {
				t.Fatalf("%v %+v, want the beginning of a second attempt", m, m.Snapshot())
			}
			s.Ack(m)
			seen := map[int]bool{}
			for m = next(t, s); m.Kind == walchan.Read; m = next(t, s) {
				seen[id(m)] = true
				s.Ack(m)
			}
			if m.Kind != walchan.SnapshotEnd || len(seen) != 4999 || seen[1] {
				t.Errorf("%d rows and %v, want 4999 and the end", len(seen), m)
			}
			s.Ack(m)
			insert(t, db, 6000, 1, 1)
			wantIDs(t, take(t, s, 1), 6000)
		})
	}
}

// A worker whose connection breaks reads on where it was, over another one. All ranges of a table together have each row once, also
// if it grows meanwhile.
func TestSnapshotWorkersGoOn(t *testing.T) {
	for _, binary := range []bool{false, true} {
		t.Run(fmt.Sprintf("binary %v", binary), func(t *testing.T) {
			const rows = 30_000
			db := newTables(t, 0)
			db.Exec(t, "ALTER TABLE t ALTER v SET STORAGE PLAIN", fmt.Sprintf("INSERT INTO t SELECT g, repeat('x', 1900) FROM generate_series(1, %d) g", rows))
			opts := []walchan.Option{walchan.WithSnapshot(), walchan.WithSnapshotJobs(3)}
			if binary {
				opts = append(opts, walchan.WithBinary())
			}
			s := subscribe(t, db, opts...)
			seen, killed := make([]int, rows+1), ""
			m := next(t, s)
			for n := 0; m.Kind != walchan.SnapshotEnd; n++ {
				s.Ack(m)
				if n > 0 {
					v, err := m.New().Value("id")
					if err != nil {
						t.Fatal(err)
					}
					seen[v.(int32)]++
				}
				if n%4000 == 0 { // what a broken connection has sent is still read: there may be no other yet
					killed += db.Query(t, "SELECT sign(count(pg_terminate_backend(pid))) FROM pg_stat_activity WHERE application_name = 'walchan' AND datname = '"+db.Name+"' AND query LIKE 'COPY%'")
					db.Exec(t, fmt.Sprintf("INSERT INTO t SELECT %d + g, repeat('y', 1900) FROM generate_series(1, 100) g", rows+n), "UPDATE t SET v = '' WHERE id % 100 = 0")
				}
				m = next(t, s)
			}
			if strings.Count(killed, "1") < 1 {
				t.Errorf("connections broke: %s", killed)
			}
			for i, n := range seen[1:] {
				if n != 1 {
					t.Fatalf("row %d came %d times", i+1, n)
				}
			}
			if p := s.Stats().Snapshot[0]; p.Rows != rows || p.EstimatedBytes < rows*1900 || p.Bytes < rows*1900 || !p.Done {
				t.Errorf("the progress is %+v", p)
			}
		})
	}
}

// The time-outs that somebody has set do not end a snapshot.
func TestSnapshotOutlivesTimeouts(t *testing.T) {
	db := newTables(t, 20000)
	timeouts := []string{"statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout", "idle_session_timeout"}
	if db.Version() >= 17 {
		timeouts = append(timeouts, "transaction_timeout")
	}
	for _, name := range timeouts {
		db.Exec(t, fmt.Sprintf("ALTER DATABASE %s SET %s = '3s'", db.Name, name))
	}
	pgtest.Connect(t, db.DSN("options='-c statement_timeout=0 -c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0'"))
	s := subscribe(t, db, walchan.WithSnapshot())
	ms := take(t, s, 10)
	end := time.Now().Add(4 * time.Second)
	await(t, s, "the time-outs are over", func() bool { return time.Now().After(end) })
	ms = append(ms, take(t, s, 20002-10)...)
	if last := ms[20001]; last.Kind != walchan.SnapshotEnd {
		t.Errorf("the last message is %v", last)
	}
	end = time.Now().Add(4 * time.Second)
	await(t, s, "the time-outs are over again", func() bool { return time.Now().After(end) })
	ackAll(s, ms)
	await(t, s, "the slot is there", func() bool { return s.Stats().State != walchan.StateSnapshot })
	if n := s.Stats().Reconnects; n > 0 {
		t.Errorf("%d reconnects", n)
	}
}

// What cannot be had is said before the first row, all of it.
func TestSnapshotRefuses(t *testing.T) {
	db := newTables(t, 1)
	role := db.Name + "_r"
	db.Exec(t, "CREATE ROLE "+role+" LOGIN REPLICATION", "CREATE TABLE a (id int)", "CREATE TABLE b (id int, secret int)", "CREATE TABLE c (id int)", "ALTER TABLE c ENABLE ROW LEVEL SECURITY",
		"CREATE TABLE parts (id int) PARTITION BY RANGE (id)", "CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (2)",
		"GRANT SELECT ON t, c, parts TO "+role, "GRANT SELECT (id) ON b TO "+role, "CREATE PUBLICATION many FOR TABLE t, a, b, c, parts",
		"CREATE VIEW v AS SELECT 1", "CREATE UNLOGGED TABLE u (id int)", "CREATE MATERIALIZED VIEW m AS SELECT 1")
	t.Cleanup(func() { db.Exec(t, "DROP OWNED BY "+role, "DROP ROLE "+role) })
	try := func(dsn string, opts ...walchan.Option) error {
		return trySubscribe(t, dsn, append([]walchan.Option{walchan.WithSlot(db.Name), walchan.WithPublication("many"), walchan.WithLogger(logTo(t))}, opts...)...)
	}
	check(t, try(db.DSN("user="+role), walchan.WithSnapshot()), walchan.ErrPermission, "public.a", "public.b", "public.c", "public.part")
	check(t, try(db.DSN(), walchan.WithSnapshot(), walchan.WithSnapshotKeys()), walchan.ErrTableKey, "public.a", "public.b", "public.c")
	check(t, try(db.DSN(), walchan.WithSnapshot(walchan.SnapshotTable{Name: "t"}, walchan.SnapshotTable{Name: "v"}, walchan.SnapshotTable{Name: "public.u"},
		walchan.SnapshotTable{Name: "m"}, walchan.SnapshotTable{Name: "quiet"}, walchan.SnapshotTable{Name: "gone"}, walchan.SnapshotTable{Name: "no*"})),
		walchan.ErrTableMissing, "v is a view", "public.u is an unlogged table", "m is a materialized view", "quiet is not published", "gone is", "no* is")
	check(t, try(db.DSN(), walchan.WithSnapshot(walchan.SnapshotTable{Name: "t", Columns: []string{"id", "w"}})), walchan.ErrPublication, "column w of public.t")
	check(t, try(db.DSN(), walchan.WithSnapshot(walchan.SnapshotTable{Name: "t", Where: "id ="})), walchan.ErrTableRead, "public.t")
	check(t, try(db.DSN(), walchan.WithSnapshot(walchan.SnapshotTable{Name: `"t`}), walchan.WithSnapshotJobs(0)), walchan.ErrOptions, `\"t`, "WithSnapshotJobs(0)")
	check(t, try(db.DSN(), walchan.WithSnapshot(), walchan.WithPlugin("test_decoding", nil)), walchan.ErrOptions, "WithSnapshot")
	db.Wait(t, "SELECT count(*) = 0 FROM pg_replication_slots WHERE database = '"+db.Name+"'")
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+db.Name+"', 'pgoutput')")
	check(t, try(db.DSN(), walchan.WithSnapshot()), walchan.ErrSlotExists, db.Name)
}

// A condition that fails on a row ends the stream, and does not show the row.
func TestSnapshotOfARowThatCannotBeRead(t *testing.T) {
	db := newTables(t, 1000)
	db.Exec(t, "INSERT INTO t VALUES (0, 's3cret')")
	s := subscribe(t, db, walchan.WithSnapshot(walchan.SnapshotTable{Name: "t", Where: "v::text <> 's3cret' OR v::int > 0"}))
	rest(t, s)
	if err := s.Err(); !errors.Is(err, walchan.ErrTableRead) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("Err is %v", err)
	}
}

// Tables are chosen by name, schema and pattern; columns and rows narrow what the publication has.
func TestSnapshotOfChosenTables(t *testing.T) {
	db := newTables(t, 10)
	db.Exec(t, "CREATE SCHEMA shop", `CREATE TABLE shop."Order" (id int PRIMARY KEY, v text, w text)`, "CREATE TABLE shop.order_log (id int)", "CREATE TABLE shop.other (id int)",
		`INSERT INTO shop."Order" SELECT g, 'v', 'w' FROM generate_series(1, 4) g`, "INSERT INTO shop.order_log VALUES (1)", "INSERT INTO shop.other VALUES (1)",
		"CREATE PUBLICATION many FOR TABLE t, shop.\"Order\", shop.order_log, shop.other")
	for _, test := range []struct {
		want   string
		choice []walchan.SnapshotTable
	}{
		{"public.t 10 id,v", []walchan.SnapshotTable{{Name: "T"}}},
		{`shop."Order" 2 id,w`, []walchan.SnapshotTable{{Name: `shop."Order"`, Columns: []string{"w", "id"}, Where: "id > 2 -- a remark"}}},
		{"shop.order_log 1 id", []walchan.SnapshotTable{{Name: "shop.o*_log"}}},
		{"public.t 0 id,v; shop.order_log 1 id; shop.other 1 id", []walchan.SnapshotTable{{Name: "t", Where: "false"}, {Name: "shop.o*"}}},
		{"public.t 5 id,v; shop.\"Order\" 4 id,v,w; shop.order_log 1 id; shop.other 1 id", []walchan.SnapshotTable{{Name: "public.t", Where: "id <= 5"}, {Name: "*"}}},
	} {
		s := subscribe(t, db, walchan.WithPublication("many"), walchan.WithSnapshot(test.choice...))
		begin, rows, _ := takeSnapshot(t, s)
		var got []string
		for _, rel := range begin.Snapshot().Tables {
			n := 0
			for _, m := range rows {
				n += btoi(m.Relation == rel)
			}
			var columns []string
			for _, c := range rel.Columns {
				columns = append(columns, c.Name)
			}
			got = append(got, fmt.Sprintf("%s %d %s", rel, n, strings.Join(columns, ",")))
		}
		slices.Sort(got)
		if strings.Join(got, "; ") != test.want {
			t.Errorf("%+v: %s, want %s", test.choice, strings.Join(got, "; "), test.want)
		}
		mustClose(t, s)
	}
}

// A partition that cannot be streamed is left out.
func TestSnapshotLeavesOutForeignAndUnloggedPartitions(t *testing.T) {
	db := newTables(t, 0)
	db.Exec(t, "CREATE TABLE parts (id int) PARTITION BY RANGE (id)", "CREATE TABLE one PARTITION OF parts FOR VALUES FROM (1) TO (2)",
		"CREATE UNLOGGED TABLE two PARTITION OF parts FOR VALUES FROM (2) TO (3)", "CREATE FOREIGN DATA WRAPPER none", "CREATE SERVER none FOREIGN DATA WRAPPER none",
		"CREATE PUBLICATION many FOR TABLE parts WITH (publish_via_partition_root)",
		"CREATE FOREIGN TABLE three PARTITION OF parts FOR VALUES FROM (3) TO (4) SERVER none", "INSERT INTO parts VALUES (1), (2)")
	_, rows, _ := takeSnapshot(t, open(t, t.Context(), db, walchan.WithPublication("many"), walchan.WithSnapshot(walchan.SnapshotTable{Name: "parts"})))
	wantIDs(t, rows, 1)
	if got := rows[0].Relation.String(); got != "public.parts" {
		t.Errorf("the row is of %s", got)
	}
}

// A table that is rewritten between the snapshot and the lock looks empty to the snapshot: it is taken again.
func TestSnapshotOfATableThatIsRewrittenMeanwhile(t *testing.T) {
	for _, sql := range []string{"ALTER TABLE t ALTER id TYPE bigint", "TRUNCATE t"} {
		t.Run(sql[:10], func(t *testing.T) {
			db := newTables(t, 100)
			var dials atomic.Int32
			s, err := walchan.Subscribe(t.Context(), db.DSN(), append(usual(t, db), walchan.WithSnapshot(),
				walchan.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
					dial := cfg.DialFunc
					cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
						if dials.Add(1) == 2 { // the keeper's: the snapshot is there
							db.Exec(t, sql)
						}
						return dial(ctx, network, address)
					}
					return nil
				}))...)
			if err == nil {
				s.Close()
			}
			check(t, err, walchan.ErrServer)
		})
	}
}

// WithMaxUnacked bounds the rows of a snapshot, too.
func TestSnapshotHeedsMaxUnacked(t *testing.T) {
	db := newTables(t, 100)
	s := subscribe(t, db, walchan.WithSnapshot(), walchan.WithMaxUnacked(10))
	ms := take(t, s, 10)
	awaitState(t, s, walchan.StateUnacked)
	ackAll(s, ms)
	ms = take(t, s, 10)
	s.AckThrough(ms[9])
	take(t, s, 10)
}

// A snapshot waits for a consumer that takes nothing, and says so.
func TestSnapshotWaitsForTheConsumer(t *testing.T) {
	db := newTables(t, 100)
	s := subscribe(t, db, walchan.WithSnapshot(), walchan.WithBuffer(1, 1))
	awaitState(t, s, walchan.StateBlocked)
	take(t, s, 102)
	awaitState(t, s, walchan.StateSnapshot)
}

// Whoever has acknowledged all and closes at once keeps the slot; so does a drain.
func TestSnapshotIsKeptByAStop(t *testing.T) {
	db := newTables(t, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i, stop := range []func(*walchan.Stream, []walchan.Message){
		func(s *walchan.Stream, ms []walchan.Message) {
			ackAll(s, ms)
			mustClose(t, s)
		},
		func(s *walchan.Stream, ms []walchan.Message) {
			ackAll(s, ms[:11])
			cancel()
			awaitState(t, s, walchan.StateDraining)
			ackAll(s, ms)
			awaitState(t, s, walchan.StateClosed)
			mustClose(t, s)
		},
	} {
		s := open(t, ctx, db, walchan.WithSnapshot())
		stop(s, take(t, s, 12))
		if got := slots(t, db); got != db.Name {
			t.Errorf("%d: the slots are %q", i, got)
		}
		insert(t, db, 11, 1, 1)
		after := subscribe(t, db)
		wantIDs(t, take(t, after, 1), 11)
		mustClose(t, after)
		db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')", "DELETE FROM t WHERE id = 11")
	}
}

// Of two processes that take a snapshot at the same time one gets the slot.
func TestSnapshotWhoseSlotSomebodyElseHasMade(t *testing.T) {
	db := newTables(t, 10)
	s := subscribe(t, db, walchan.WithSnapshot())
	ms := take(t, s, 12)
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+db.Name+"', 'pgoutput')")
	ackAll(s, ms)
	rest(t, s)
	check(t, s.Err(), walchan.ErrSlotExists, db.Name)
}

// A transaction that was prepared before the snapshot and is committed later comes with its COMMIT PREPARED, and the slot has two-phase
// on.
func TestSnapshotAndTwoPhase(t *testing.T) {
	if pgtest.Shared(t).Version() < 15 {
		t.Skip("PostgreSQL 15 does that")
	}
	db := newTables(t, 10)
	conn := pgtest.Connect(t, db.DSN())
	s := subscribe(t, db, walchan.WithSnapshot(), walchan.WithTwoPhase())
	run(t, conn, "BEGIN", "INSERT INTO t VALUES (11)", "PREPARE TRANSACTION '"+db.Name+"'")
	_, rows, end := takeSnapshot(t, s)
	wantRange(t, rows, 1, 10)
	s.AckThrough(end)
	m := next(t, s)
	if m.Kind != walchan.Insert || m.Tx.GID != db.Name {
		t.Errorf("%v, want the row that was prepared", m)
	}
	run(t, conn, "COMMIT PREPARED '"+db.Name+"'")
	if m := next(t, s); m.Kind != walchan.CommitPrepared {
		t.Errorf("%v, want its outcome", m)
	}
	if got := db.Query(t, "SELECT two_phase FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'"); got != "t" {
		t.Errorf("two_phase is %s", got)
	}
}

// Without WithSlot the slot stays temporary.
func TestSnapshotWithATemporarySlot(t *testing.T) {
	db := newTables(t, 10)
	s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithPublication("p"), walchan.WithSnapshot(), walchan.WithLogger(logTo(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, rows, end := takeSnapshot(t, s)
	wantRange(t, rows, 1, 10)
	s.AckThrough(end)
	insert(t, db, 11, 1, 1)
	wantIDs(t, take(t, s, 1), 11)
}

// Memory does not grow with the tables. WALCHAN_SNAPSHOT_ROWS is how many rows there are.
func TestSnapshotMemoryIsBounded(t *testing.T) {
	noLeaks(t) // not parallel: it measures the heap of the process
	rows := env(t, "WALCHAN_SNAPSHOT_ROWS", 300_000)
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id bigint, v text, n numeric)", "CREATE PUBLICATION p FOR TABLE t",
		fmt.Sprintf("INSERT INTO t SELECT g, md5(g::text), g / 7.0 FROM generate_series(1, %d) g", rows))
	s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithSnapshot(), walchan.WithLogger(logTo(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var most, n uint64
	var sum, want int64
	began := time.Now()
	for m := range s.C() {
		if m.Kind == walchan.SnapshotEnd {
			break
		}
		if m.Kind == walchan.Read {
			sum += int64(id(m))
			n++
		}
		if n%(uint64(rows)/20) == 0 {
			runtime.GC()
			var mem runtime.MemStats
			runtime.ReadMemStats(&mem)
			most = max(most, mem.HeapAlloc)
		}
		s.Ack(m)
	}
	want = int64(rows) * int64(rows+1) / 2
	if n != uint64(rows) || sum != want {
		t.Errorf("%d rows with a sum of %d, want %d with %d", n, sum, rows, want)
	}
	t.Logf("%d rows in %v; at most %.1f MiB on the heap", n, time.Since(began).Round(time.Millisecond), float64(most)/(1<<20))
	if most > 16<<20 {
		t.Errorf("%d bytes on the heap", most)
	}
}

// The locks may be lost without anybody looking in time: then the end is not said, for a table may have been rewritten.
func TestSnapshotLosesItsLocksAtTheEnd(t *testing.T) {
	db := newTables(t, 20)
	s := subscribe(t, db, walchan.WithSnapshot(), walchan.WithBuffer(1, 1<<20))
	take(t, s, 19)
	terminateWhere(t, db, keeper)
	var m walchan.Message
	for m = next(t, s); m.Kind == walchan.Read; m = next(t, s) {
	}
	if m.Kind != walchan.SnapshotBegin || m.Snapshot().Attempt != 2 {
		t.Errorf("%v %+v, want a second attempt", m, m.Snapshot())
	}
}

// A partition in one publication and its root in another comes as the root; row filters of several publications are ORed.
func TestSnapshotOfSeveralPublications(t *testing.T) {
	db := newTables(t, 10)
	db.Exec(t, "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)", "CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (9)", "INSERT INTO parts VALUES (3)",
		"CREATE PUBLICATION root FOR TABLE parts WITH (publish_via_partition_root)", "CREATE PUBLICATION leaf FOR TABLE part")
	names := []string{"root", "leaf"}
	want := []string{"public.parts 1"}
	if db.Version() >= 15 {
		db.Exec(t, "CREATE PUBLICATION few FOR TABLE t WHERE (id < 3)", "CREATE PUBLICATION more FOR TABLE t WHERE (id > 8)")
		names = append(names, "few", "more")
		want = append(want, "public.t 4")
	}
	s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithSnapshot(), walchan.WithPublication(names...), walchan.WithLogger(logTo(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	begin, rows, _ := takeSnapshot(t, s)
	var got []string
	for _, rel := range begin.Snapshot().Tables {
		n := 0
		for _, m := range rows {
			n += btoi(m.Relation == rel)
		}
		if n > 0 {
			got = append(got, fmt.Sprintf("%s %d", rel, n))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
