package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// A smart stop waits until the ordinary sessions have ended, and takes no new ones.

// stopSmart begins a smart stop, and returns once the server refuses connections. The returned function waits for its end.
func stopSmart(t *testing.T, db pgtest.DB) (wait func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	stopped, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		stopped <- db.Stop(ctx, pgtest.Smart)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	for refused := (*pgconn.PgError)(nil); !errors.As(dialOnce(ctx, db), &refused) || refused.Code != "57P03"; time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			break
		}
		if len(stopped) > 0 { // it was fast
			break
		}
	}
	return func() {
		t.Helper()
		if err := <-stopped; err != nil {
			t.Fatalf("%v; %s", err, db.Log())
		}
	}
}

func dialOnce(ctx context.Context, db pgtest.DB) error {
	c, err := pgconn.Connect(ctx, db.DSN())
	if err == nil {
		c.Close(ctx)
	}
	return err
}

// onWalsender has a connection for SQL for which a smart stop does not wait.
func onWalsender(t *testing.T, db pgtest.DB) (exec func(string), hangUp func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	c, err := pgconn.Connect(ctx, db.DSN("replication=database"))
	if err != nil {
		t.Fatal(err)
	}
	return func(sql string) {
		t.Helper()
		if err := c.Exec(ctx, sql).Close(); err != nil {
			t.Fatal(err)
		}
	}, func() { c.Close(ctx) }
}

func startAgain(t *testing.T, db pgtest.DB) {
	t.Helper()
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestSmartStopWhileStreaming(t *testing.T) {
	db := ownServer(t)
	s := subscribe(t, db)
	insert(t, db, 1, 1, 10)
	ackAll(s, take(t, s, 10))
	stopSmart(t, db)()
	startAgain(t, db)
	insert(t, db, 11, 1, 10)
	wantRange(t, take(t, s, 10), 11, 20)
}

// readingBig has rows 1 to n of the table big delivered among the changes, and returns what ReadRows will.
func readingBig(t *testing.T, db pgtest.DB, n int) (*walchan.Stream, chan error) {
	t.Helper()
	db.Exec(t, bigTable, fmt.Sprintf("INSERT INTO big SELECT g, 0, repeat('x', 100) FROM generate_series(1, %d) g", n), "ALTER PUBLICATION p ADD TABLE big")
	s, done := open(t, t.Context(), db), make(chan error, 1)
	return s, done
}

// takeBig takes messages until SnapshotEnd, and wants each row of the table to be read once.
func takeBig(t *testing.T, db pgtest.DB, s *walchan.Stream, c *rowCopy, done <-chan error) {
	t.Helper()
	for {
		m := next(t, s)
		c.apply(m)
		s.Ack(m)
		if m.Kind == walchan.SnapshotEnd {
			break
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, row := range c.rows {
		row[2] = md5Of(row[2])
	}
	if why := c.differs(t, db); why != "" {
		t.Error(why)
	}
	for id, n := range c.reads {
		if n != 1 {
			t.Fatalf("row %s was read %d times", id, n)
		}
	}
}

// The consumer takes nothing for so long, and the stream does not come to the mark for which ReadRows waits.
func TestSmartStopInTheMiddleOfReadRows(t *testing.T) {
	db := ownServer(t)
	s, done := readingBig(t, db, 20_000)
	go func() { done <- s.ReadRows(t.Context(), walchan.SnapshotTable{Name: "big"}) }()
	c := newRowCopy("big")
	for _, m := range take(t, s, 3000) {
		c.apply(m)
		s.Ack(m)
	}
	stopSmart(t, db)()
	startAgain(t, db)
	db.Exec(t, "UPDATE big SET n = 1 WHERE id % 10 = 0", "DELETE FROM big WHERE id % 10 = 1")
	takeBig(t, db, s, c, done)
}

// ReadRows waits for a transaction, and the stream, which is idle, does not notice that the server stops.
func TestSmartStopAtTheBeginningOfReadRows(t *testing.T) {
	db := ownServer(t)
	s, done := readingBig(t, db, 100)
	db.Exec(t, "BEGIN; INSERT INTO quiet VALUES (1); PREPARE TRANSACTION 'it'")
	go func() { done <- s.ReadRows(t.Context(), walchan.SnapshotTable{Name: "big"}) }()
	db.Wait(t, "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pg_current_snapshot()' AND pid <> pg_backend_pid()")
	stopSmart(t, db)()
	startAgain(t, db)
	db.Exec(t, "COMMIT PREPARED 'it'")
	takeBig(t, db, s, newRowCopy("big"), done)
}

// Existing rows are read to their end before the server stops, as for any client, and the slot is kept.
func TestSmartStopInTheMiddleOfASnapshot(t *testing.T) {
	db := newCluster(t)
	db.Exec(t, "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g")
	s := subscribe(t, db, walchan.WithSnapshot())
	ms := take(t, s, 3000)
	exec, hangUp := onWalsender(t, db)
	wait := stopSmart(t, db)
	ms = append(ms, take(t, s, 20_002-3000)...)
	if end := ms[len(ms)-1]; ms[0].Kind != walchan.SnapshotBegin || end.Kind != walchan.SnapshotEnd {
		t.Fatalf("from %v to %v", ms[0], end)
	}
	for range 100 { // so long the server waits for the acknowledgements, or else it would have ended this connection
		exec("SELECT pg_sleep(0.01)")
	}
	hangUp()
	ackAll(s, ms)
	wait()
	startAgain(t, db)
	insert(t, db, 30_000, 1, 1)
	wantIDs(t, []walchan.Message{next(t, s)}, 30_000)
}

// A connection that reads rows is lost, and cannot be made again: then the rows start over when the server is back.
func TestSmartStopWithALostConnectionOfASnapshot(t *testing.T) {
	db := newCluster(t)
	db.Exec(t, "INSERT INTO t SELECT g, repeat('x', 2000) FROM generate_series(1, 20000) g")
	s := subscribe(t, db, walchan.WithSnapshot())
	ackAll(s, take(t, s, 3000))
	exec, hangUp := onWalsender(t, db)
	wait := stopSmart(t, db)
	exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%'")
	hangUp()
	await(t, s, "the snapshot is given up, and what was read of it taken", func() bool {
		for {
			select {
			case m := <-s.C():
				s.Ack(m)
				continue
			default:
			}
			return s.Stats().State == walchan.StateRetrying
		}
	})
	wait()
	startAgain(t, db)
	begin, rows, end := takeSnapshot(t, s)
	if begin.Snapshot().Attempt < 2 || len(rows) != 20_000 {
		t.Errorf("attempt %d, %d rows", begin.Snapshot().Attempt, len(rows))
	}
	s.AckThrough(end)
	db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE NOT temporary")
}
