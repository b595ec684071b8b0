package walrecord_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/walrecord"
)

// database makes a database with table t, publication p and a slot.
func database(t *testing.T, c *pgtest.Cluster) pgtest.DB {
	db := c.Database(t)
	db.Exec(t, "CREATE TABLE t (id int)", "CREATE PUBLICATION p FOR TABLE t",
		"SELECT pg_create_logical_replication_slot('"+db.Name+"', 'pgoutput', false, true)")
	return db
}

// decoded returns the transactions that contain a row and that pgoutput has sent since the last call. From PostgreSQL 15 on it sends
// PREPARE, too.
func decoded(t *testing.T, db pgtest.DB) []walrecord.Want {
	t.Helper()
	if db.Version() < 15 {
		return decode(t, db, db.Name, "'proto_version', '1'")
	}
	return decode(t, db, db.Name, "'proto_version', '3', 'two_phase', 'true'")
}

func decode(t *testing.T, db pgtest.DB, slot, options string) (wants []walrecord.Want) {
	t.Helper()
	var want walrecord.Want
	for msg := range strings.FieldsSeq(db.Query(t, "SELECT coalesce(string_agg(encode(substr(data, 1, 29), 'hex'), ' '), '') FROM pg_logical_slot_get_binary_changes('"+slot+"', NULL, NULL, 'publication_names', 'p', "+options+")")) {
		b, err := hex.DecodeString(msg)
		if err != nil {
			t.Fatal(err)
		}
		at := func(i int) uint64 { return binary.BigEndian.Uint64(b[i:]) }
		switch b[0] {
		case 'B':
			want = walrecord.Want{LSN: at(1), Time: int64(at(9)), XID: binary.BigEndian.Uint32(b[17:])}
		case 'b':
			want = walrecord.Want{LSN: at(1), Time: int64(at(17)), XID: binary.BigEndian.Uint32(b[25:]), Prepared: true}
		case 'I':
			if len(wants) == 0 || wants[len(wants)-1] != want {
				wants = append(wants, want)
			}
		}
	}
	return wants
}

// last returns the only transaction that was decoded since the last call.
func last(t *testing.T, db pgtest.DB) walrecord.Want {
	t.Helper()
	return only(t, decoded(t, db))
}

func only(t *testing.T, wants []walrecord.Want) walrecord.Want {
	t.Helper()
	if len(wants) != 1 {
		t.Fatalf("%d transactions: %v", len(wants), wants)
	}
	return wants[0]
}

// run runs statements one by one.
func run(t *testing.T, conn *pgconn.PgConn, sql ...string) (value string) {
	t.Helper()
	for _, s := range sql {
		rows, err := session.Query(t.Context(), conn, s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if len(rows) > 0 && len(rows[0]) > 0 {
			value = rows[0][0]
		}
	}
	return value
}

func find(t *testing.T, dsn string, timeline int32, want walrecord.Want) (walrecord.Answer, error) {
	t.Helper()
	conn := pgtest.Connect(t, dsn+" replication=database").PgConn()
	defer conn.Close(context.Background())
	return walrecord.Find(t.Context(), conn, timeline, want)
}

// check looks for a transaction, and for others in its place.
func check(t *testing.T, dsn string, timeline int32, want walrecord.Want) {
	t.Helper()
	if got, err := find(t, dsn, timeline, want); got != walrecord.Yes {
		t.Errorf("%+v: %v %v", want, got, err)
	}
	for what, other := range map[string]walrecord.Want{
		"another XID":  {LSN: want.LSN, XID: want.XID + 1, Time: want.Time, Prepared: want.Prepared},
		"another time": {LSN: want.LSN, XID: want.XID, Time: want.Time + 1, Prepared: want.Prepared},
		"another kind": {LSN: want.LSN, XID: want.XID, Time: want.Time, Prepared: !want.Prepared},
		"1 before":     {LSN: want.LSN - 1, XID: want.XID, Time: want.Time, Prepared: want.Prepared},
		"8 before":     {LSN: want.LSN - 8, XID: want.XID, Time: want.Time, Prepared: want.Prepared},
		"1 after":      {LSN: want.LSN + 1, XID: want.XID, Time: want.Time, Prepared: want.Prepared},
		"8 after":      {LSN: want.LSN + 8, XID: want.XID, Time: want.Time, Prepared: want.Prepared},
	} {
		if got, err := find(t, dsn, timeline, other); got != walrecord.No {
			t.Errorf("%+v, %s: %v %v", want, what, got, err)
		}
	}
}

func TestCommit(t *testing.T) {
	t.Parallel()
	db := database(t, pgtest.Shared(t))
	stats := "SELECT pg_stat_force_next_flush()" // the statistics of a table that is dropped are part of the record
	if db.Version() < 15 {
		stats = "SELECT"
	}
	for name, sql := range map[string]string{
		"plain":           "INSERT INTO t VALUES (1)",
		"subtransactions": "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2); SAVEPOINT b; INSERT INTO t VALUES (3); COMMIT",
		"many subtransactions": `DO $$ BEGIN FOR i IN 1..3000 LOOP BEGIN INSERT INTO t VALUES (i);
			EXCEPTION WHEN division_by_zero THEN END; END LOOP; END $$`,
		"dropped tables": "CREATE TABLE a (id serial PRIMARY KEY, x text); CREATE TABLE b (id serial); INSERT INTO a (x) VALUES (1); " + stats +
			"; BEGIN; INSERT INTO t VALUES (1); DROP TABLE a, b; COMMIT",
		"truncate": "BEGIN; TRUNCATE t; INSERT INTO t VALUES (1); COMMIT",
		"DDL":      "BEGIN; ALTER TABLE t ADD c text DEFAULT 'x'; CREATE INDEX ON t (id); INSERT INTO t VALUES (1); COMMIT",
	} {
		db.Exec(t, sql)
		want := last(t, db)
		if check(t, db.DSN(), 1, want); t.Failed() {
			t.Fatal(name)
		}
	}
}

// A prepared transaction is looked for by its PREPARE, or by its COMMIT PREPARED.
func TestPrepared(t *testing.T) {
	t.Parallel()
	db := database(t, pgtest.Shared(t))
	plain := db.Name + "_plain"
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+plain+"', 'pgoutput')")
	db.Exec(t, "CREATE TABLE a (id serial PRIMARY KEY)", everything+"PREPARE TRANSACTION '"+db.Name+"'")
	if db.Version() >= 15 { // pgoutput does not know PREPARE before
		want := last(t, db)
		if !want.Prepared {
			t.Fatal(want)
		}
		check(t, db.DSN(), 1, want)
	}
	db.Exec(t, "COMMIT PREPARED '"+db.Name+"'")
	want := only(t, decode(t, db, plain, "'proto_version', '1'"))
	if want.Prepared {
		t.Fatal(want)
	}
	check(t, db.DSN(), 1, want)
}

// everything is a transaction whose record has all parts that one can have. It is left open.
const everything = "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2); DROP TABLE a; ALTER TABLE t ADD c text; TRUNCATE t; INSERT INTO t VALUES (3); "

// There is exactly one position with the PREPARE record. The server's own view of prepared transactions says the rest.
func TestPreparedByPosition(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithSetting("autovacuum", "off"))
	conn := pgtest.Connect(t, c.DSN()).PgConn()
	run(t, conn, "CREATE TABLE t (id int)", "BEGIN", "INSERT INTO t VALUES (1)")
	from, xid := position(t, conn), run(t, conn, "SELECT pg_current_xact_id()")
	run(t, conn, "PREPARE TRANSACTION 'x'")
	to := position(t, conn)
	want := walrecord.Want{Prepared: true}
	fmt.Sscan(xid, &want.XID)
	fmt.Sscan(run(t, conn, "SELECT ((extract(epoch FROM prepared) - 946684800) * 1000000)::bigint FROM pg_prepared_xacts"), &want.Time)
	found := 0
	for want.LSN = from; want.LSN < to; want.LSN += 8 {
		got, err := find(t, c.DSN(), 1, want)
		if err != nil {
			t.Fatal(err)
		}
		if got == walrecord.Yes {
			found++
		}
	}
	if found != 1 {
		t.Errorf("found %d times between %x and %x", found, from, to)
	}
}

// position returns where the next record begins.
func position(t *testing.T, conn *pgconn.PgConn) uint64 {
	t.Helper()
	lsn, err := pglogrepl.ParseLSN(run(t, conn, "SELECT pg_current_wal_insert_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	return uint64(lsn)
}

// pgoutput sends the origin's time of a transaction that was replayed.
func TestOrigin(t *testing.T) {
	t.Parallel()
	db := database(t, pgtest.Shared(t))
	plain := db.Name + "_plain"
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+plain+"', 'pgoutput')", "CREATE TABLE a (id serial PRIMARY KEY)")
	conn := pgtest.Connect(t, db.DSN()).PgConn()
	origin := func(when string) string {
		return "SELECT pg_replication_origin_xact_setup('16/B374D848', '" + when + "')"
	}
	run(t, conn, "SELECT pg_replication_origin_create('"+db.Name+"')", "SELECT pg_replication_origin_session_setup('"+db.Name+"')",
		"BEGIN", "INSERT INTO t VALUES (1)", origin("2001-02-03 04:05:06.789012+00"), "COMMIT")
	want := last(t, db)
	if year := time.UnixMicro(want.Time + 946_684_800_000_000).UTC().Year(); year != 2001 {
		t.Fatal(year)
	}
	check(t, db.DSN(), 1, want)

	run(t, conn, strings.Split(strings.TrimSuffix(everything, "; "), "; ")...)
	run(t, conn, origin("2002-02-03 04:05:06.789012+00"), "PREPARE TRANSACTION '"+db.Name+"'")
	if db.Version() >= 15 {
		check(t, db.DSN(), 1, last(t, db))
	}
	run(t, conn, origin("2003-02-03 04:05:06.789012+00"), "COMMIT PREPARED '"+db.Name+"'", "SELECT pg_replication_origin_session_reset()",
		"SELECT pg_replication_origin_drop('"+db.Name+"')")
	wants := decode(t, db, plain, "'proto_version', '1'")
	want = wants[len(wants)-1]
	if year := time.UnixMicro(want.Time + 946_684_800_000_000).UTC().Year(); year != 2003 {
		t.Fatal(year)
	}
	check(t, db.DSN(), 1, want)
}

const segmentSize = 16 << 20

// Records at the end of a page and of a segment, at every distance. Some just fit; of others even the header continues on the next page.
func TestBoundaries(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithSetting("autovacuum", "off"))
	db := database(t, c)
	conn := pgtest.Connect(t, db.DSN()).PgConn()
	const subtransactions = `DO $$ BEGIN FOR i IN 1..5000 LOOP BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN division_by_zero THEN END; END LOOP; END $$`
	for _, at := range []struct {
		size   uint64 // of a page or segment
		before uint64 // the beginning of the record
		sql    string
	}{
		{blockSize, 0, ""}, {blockSize, 8, ""}, {blockSize, 16, ""}, {blockSize, 24, ""}, {blockSize, 32, ""}, {blockSize, 40, ""}, {blockSize, 48, ""}, {blockSize, 56, ""},
		{segmentSize, 8, ""}, {segmentSize, 40, ""}, {segmentSize, 9000, subtransactions},
	} {
		want := commitAt(t, db, conn, at.size, at.before, at.sql)
		if got, err := find(t, c.DSN(), 1, want); got != walrecord.Yes {
			t.Errorf("%d before the end of %d, at %x: %v %v", at.before, at.size, want.LSN, got, err)
		}
		want.Time++
		if got, err := find(t, c.DSN(), 1, want); got != walrecord.No {
			t.Errorf("another time %d before the end of %d, at %x: %v %v", at.before, at.size, want.LSN, got, err)
		}
	}
}

// commitAt commits a transaction whose record begins before bytes ahead of a multiple of size.
func commitAt(t *testing.T, db pgtest.DB, conn *pgconn.PgConn, size, before uint64, sql string) walrecord.Want {
	t.Helper()
	for range 10 {
		run(t, conn, "BEGIN", "INSERT INTO t VALUES (1)", cmp.Or(sql, "SELECT"))
		target := fill(t, conn, size, before)
		run(t, conn, "COMMIT")
		want := last(t, db)
		if want.LSN == target {
			return want
		}
	}
	t.Fatalf("no record begins %d before a multiple of %d", before, size)
	panic("unreachable")
}

// fill writes WAL until the next record begins before bytes ahead of a multiple of size, and returns its position. Another process may write, too.
func fill(t *testing.T, conn *pgconn.PgConn, size, before uint64) uint64 {
	t.Helper()
	const (
		overhead = 55  // of a message: its record, the header of the main data, the prefix
		least    = 400 // with less the header of the main data is shorter
	)
	emit := func(record uint64) {
		run(t, conn, fmt.Sprintf("SELECT pg_logical_emit_message(false, 'f', repeat('x', %d))", record-overhead))
	}
	now := position(t, conn)
	target := ((now+2*blockSize+before)/size+1)*size - before
	for page := (target - 1) / blockSize * blockSize; now < page; now = position(t, conn) {
		emit(max(least, min(1<<20, page-now)))
	}
	emit(target - now)
	if before > 0 {
		return target
	}
	return position(t, conn) // after the header of the page
}

// A server may have removed the WAL.
func TestRemoved(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithSetting("autovacuum", "off"))
	db := database(t, c)
	db.Exec(t, "INSERT INTO t VALUES (1)")
	want := last(t, db)
	check(t, c.DSN(), 1, want)
	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	for range 3 {
		db.Exec(t, "SELECT pg_switch_wal()", "CHECKPOINT")
	}
	got, err := find(t, c.DSN(), 1, want)
	if pgErr := (*pgconn.PgError)(nil); got != walrecord.None || !errors.As(err, &pgErr) || pgErr.Code != "58P01" {
		t.Errorf("%v %v", got, err)
	}
}

// After pg_switch_wal the rest of a segment is zeros.
func TestZeros(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithSetting("autovacuum", "off"))
	conn := pgtest.Connect(t, c.DSN()).PgConn()
	at := position(t, conn)
	run(t, conn, "SELECT pg_switch_wal()", "SELECT pg_logical_emit_message(true, 'p', 'x')")
	for _, lsn := range []uint64{at + 64, at + 5*blockSize, at/segmentSize*segmentSize + segmentSize - 64} {
		if got, err := find(t, c.DSN(), 1, walrecord.Want{LSN: lsn, XID: 700}); got != walrecord.No {
			t.Errorf("%x: %v %v", lsn, got, err)
		}
	}
}

// Beyond the end of its WAL the server would wait for more. Find does not.
func TestEndOfWAL(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithSetting("autovacuum", "off"))
	conn := pgtest.Connect(t, c.DSN()).PgConn()
	fill(t, conn, blockSize, 4096)
	run(t, conn, "SELECT pg_logical_emit_message(true, 'p', 'x')") // so that all is flushed
	end := position(t, conn)
	for name, want := range map[string]struct {
		lsn     uint64
		timeout time.Duration
		err     string
	}{
		"in its last page": {end + 2048, time.Minute, "the server's WAL ends at"},
		"beyond it":        {end + 1<<20, time.Minute, "the server's WAL ends at"},
		"without time":     {end, 0, context.DeadlineExceeded.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := pgtest.Connect(t, c.DSN()+" replication=database").PgConn()
			ctx, cancel := context.WithTimeout(t.Context(), want.timeout)
			defer cancel()
			got, err := walrecord.Find(ctx, conn, 1, walrecord.Want{LSN: want.lsn, XID: 700})
			if got != walrecord.None || err == nil || !strings.Contains(err.Error(), want.err) {
				t.Errorf("%v %v", got, err)
			}
		})
	}
}

// REPLICATION suffices. pg_hba.conf need not let the role in for physical replication, because the connection has a database.
func TestRoles(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithHBA("host replication all 127.0.0.1/32 reject"))
	db := database(t, c)
	db.Exec(t, "CREATE ROLE replicator LOGIN REPLICATION", "CREATE ROLE reader LOGIN", "INSERT INTO t VALUES (1)")
	want := last(t, db)
	if _, err := pgconn.Connect(t.Context(), c.DSN("user=replicator", "replication=true")); err == nil {
		t.Error("physical replication is allowed")
	}
	check(t, db.DSN("user=replicator"), 1, want)

	_, err := pgconn.Connect(t.Context(), db.DSN("user=reader", "replication=database"))
	if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "42501" {
		t.Error(err)
	}
	got, err := walrecord.Find(t.Context(), pgtest.Connect(t, db.DSN("user=reader")).PgConn(), 1, want)
	if pgErr := (*pgconn.PgError)(nil); got != walrecord.None || !errors.As(err, &pgErr) || pgErr.Code != "42601" {
		t.Errorf("over an ordinary connection: %v %v", got, err)
	}
}

// A standby has the record before its promotion and after it, in the timeline that wrote it.
func TestPromoted(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithSetting("autovacuum", "off"))
	db := database(t, c)
	standby := c.Standby(t)
	db.Exec(t, "INSERT INTO t VALUES (1)")
	first := last(t, db)
	pgtest.Wait(t, standby.DSN("dbname="+db.Name), "SELECT count(*) = 1 FROM t")
	check(t, standby.DSN(), 1, first)

	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	promoted := pgtest.DB{Cluster: standby, Name: db.Name}
	promoted.Exec(t, "SELECT pg_create_logical_replication_slot('"+db.Name+"', 'pgoutput')", "INSERT INTO t VALUES (2)")
	second := last(t, promoted)
	check(t, standby.DSN(), 1, first)
	check(t, standby.DSN(), 2, second)
	if got, err := find(t, standby.DSN(), 1, second); got != walrecord.None || err == nil {
		t.Errorf("a record of timeline 2, in timeline 1: %v %v", got, err)
	}

	// The primary goes on as well. It does not have what the standby has written.
	for range 3 {
		db.Exec(t, "INSERT INTO t VALUES (3)", "SELECT pg_logical_emit_message(true, 'p', repeat('x', 10000))")
	}
	for _, want := range decoded(t, db) {
		check(t, c.DSN(), 1, want)
	}
	if got, err := find(t, c.DSN(), 1, second); got != walrecord.No {
		t.Errorf("a record of the standby, at the primary: %v %v", got, err)
	}
}
