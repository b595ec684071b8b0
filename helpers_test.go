package walchan_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// patience is for what must happen, on however busy a machine.
const patience = time.Minute

// newSource is a database with a table t (id, v), which the publication p publishes, a table quiet, which is not published,
// and a slot, of the database's name, which begins here: what is done from now on is streamed, whenever Subscribe is called.
func newSource(t *testing.T) pgtest.DB {
	t.Helper()
	noLeaks(t)
	t.Parallel()
	db := pgtest.Database(t)
	prepare(t, db)
	return db
}

// ownServer is newSource on a cluster of its own, to be stopped, killed and configured.
func ownServer(t *testing.T, opts ...pgtest.Option) pgtest.DB {
	t.Helper()
	noLeaks(t)
	t.Parallel()
	db := pgtest.DB{Cluster: pgtest.Start(t, opts...), Name: "postgres"}
	prepare(t, db)
	return db
}

func prepare(t *testing.T, db pgtest.DB) {
	t.Helper()
	pgtest.Exec(t, db.DSN("options='-c synchronous_commit=local'"),
		"CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE quiet (id int)", "CREATE PUBLICATION p FOR TABLE t",
		"SELECT pg_create_logical_replication_slot('"+db.Name+"', 'pgoutput')")
}

// subscribe streams what the source publishes, with a tap on the connections. The test's end closes the stream.
func subscribe(t *testing.T, db pgtest.DB, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	s, _ := tapped(t, db, opts...)
	return s
}

func tapped(t *testing.T, db pgtest.DB, opts ...walchan.Option) (*walchan.Stream, *tap) {
	t.Helper()
	p := &tap{t: t}
	return open(t, t.Context(), db, append([]walchan.Option{p.option()}, opts...)...), p
}

// open is Subscribe, with the options every test needs.
func open(t *testing.T, ctx context.Context, db pgtest.DB, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	s, err := walchan.Subscribe(ctx, db.DSN(), append(usual(t, db), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func usual(t *testing.T, db pgtest.DB) []walchan.Option {
	return []walchan.Option{walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithLogger(logTo(t)), retrySoon}
}

var retrySoon = walchan.WithRetry(func() backoff.BackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(2*time.Millisecond), backoff.WithMaxInterval(200*time.Millisecond), backoff.WithMaxElapsedTime(0))
})

// logTo logs into the test's output, and fails the test if a position is logged as a number, as the JSONHandler shows an LSN.
func logTo(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if lsn, ok := a.Value.Any().(walchan.LSN); ok {
			t.Errorf("%s is logged as the number %d", a.Key, lsn)
		}
		return a
	}}))
}

// next returns the next message.
func next(t *testing.T, s *walchan.Stream) walchan.Message {
	t.Helper()
	select {
	case m, ok := <-s.C():
		if !ok {
			t.Fatalf("C is closed: %v", s.Err())
		}
		return m
	case <-time.After(patience):
		t.Fatalf("no message: %+v", s.Stats())
		panic("unreachable")
	}
}

// take returns the next n messages.
func take(t *testing.T, s *walchan.Stream, n int) []walchan.Message {
	t.Helper()
	ms := make([]walchan.Message, n)
	for i := range ms {
		ms[i] = next(t, s)
	}
	return ms
}

// rest returns what comes until C is closed.
func rest(t *testing.T, s *walchan.Stream) (ms []walchan.Message) {
	t.Helper()
	end := time.After(patience)
	for {
		select {
		case m, ok := <-s.C():
			if !ok {
				return ms
			}
			ms = append(ms, m)
		case <-end:
			t.Fatalf("C is not closed: %+v", s.Stats())
		}
	}
}

func ackAll(s *walchan.Stream, ms []walchan.Message) {
	for _, m := range ms {
		s.Ack(m)
	}
}

// insert makes transactions, each of some rows with the ids that follow.
func insert(t *testing.T, db pgtest.DB, first, rows, transactions int) {
	t.Helper()
	var sql []string
	for range transactions {
		sql = append(sql, fmt.Sprintf("INSERT INTO t SELECT g, 'v' || g FROM generate_series(%d, %d) g", first, first+rows-1))
		first += rows
	}
	db.Exec(t, sql...)
}

// id is the first column of the row a message is of, or the key of the row it has deleted.
func id(m walchan.Message) int {
	row := m.New()
	if row.Len() == 0 {
		row = m.Old()
	}
	if row.Len() == 0 {
		return 0
	}
	n, _ := strconv.Atoi(row.Text(0))
	return n
}

func idsOf(ms []walchan.Message) string {
	var b strings.Builder
	for _, m := range ms {
		fmt.Fprintf(&b, "%d ", id(m))
	}
	return strings.TrimSpace(b.String())
}

func wantIDs(t *testing.T, ms []walchan.Message, want ...int) {
	t.Helper()
	if got := idsOf(ms); got != strings.Trim(fmt.Sprint(want), "[]") {
		t.Fatalf("rows %s, want %d", got, want)
	}
}

// wantRange wants the rows from first to last, each once and in order.
func wantRange(t *testing.T, ms []walchan.Message, first, last int) {
	t.Helper()
	if len(ms) != last-first+1 {
		t.Fatalf("%d messages, want %d", len(ms), last-first+1)
	}
	for i, m := range ms {
		if id(m) != first+i {
			t.Fatalf("row %d, want %d", id(m), first+i)
		}
	}
}

// confirmed returns what the server has as confirmed when it has taken in all that was acknowledged before the call.
func confirmed(t *testing.T, s *walchan.Stream, db pgtest.DB) walchan.LSN {
	t.Helper()
	// Twice, for the server shows the time of a status before it has dealt with it. And Flush twice, for the status of the
	// first may be dated from just before.
	for range 2 {
		now := time.Now().UTC().Format("2006-01-02 15:04:05.000000Z07:00")
		flush(t, s)
		flush(t, s)
		db.Wait(t, "SELECT count(*) = 1 FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid "+
			"WHERE slot_name = '"+db.Name+"' AND reply_time >= '"+now+"'")
	}
	return slotAt(t, db)
}

func slotAt(t *testing.T, db pgtest.DB) walchan.LSN {
	t.Helper()
	return parseLSN(t, db.Query(t, "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'"))
}

func waitSlotAt(t *testing.T, db pgtest.DB, lsn walchan.LSN) {
	t.Helper()
	db.Wait(t, "SELECT confirmed_flush_lsn >= '"+lsn.String()+"' FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
}

func parseLSN(t *testing.T, s string) walchan.LSN {
	t.Helper()
	lsn, err := walchan.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// walEnd is the position up to which the server has written.
func walEnd(t *testing.T, db pgtest.DB) walchan.LSN {
	t.Helper()
	return parseLSN(t, db.Query(t, "SELECT pg_current_wal_flush_lsn()"))
}

func flush(t *testing.T, s *walchan.Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := s.Flush(ctx); err != nil {
		t.Fatalf("Flush: %v", err)
	}
}

// await asks until the answer is yes, of what there is no event for.
func await(t *testing.T, s *walchan.Stream, what string, yes func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !yes(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting until %s: %+v", what, s.Stats())
		}
	}
}

func awaitState(t *testing.T, s *walchan.Stream, state walchan.StreamState) {
	t.Helper()
	await(t, s, "it is "+state.String(), func() bool { return s.Stats().State == state })
}

// closeBehind acknowledges, and closes once the commit of the last message is in. So its transaction does not come again.
func closeBehind(t *testing.T, s *walchan.Stream, ms []walchan.Message) {
	t.Helper()
	ackAll(s, ms)
	await(t, s, "the commit is in", func() bool { return s.Stats().Received > ms[len(ms)-1].Tx.CommitLSN })
	mustClose(t, s)
}

// mustClose closes the stream, in time and without an error.
func mustClose(t *testing.T, s *walchan.Stream) {
	t.Helper()
	if err := closeWithin(t, s, 5*time.Second); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func closeWithin(t *testing.T, s *walchan.Stream, limit time.Duration) error {
	t.Helper()
	began, closed := time.Now(), make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if d := time.Since(began); d > limit {
			t.Errorf("Close took %v", d)
		}
		return err
	case <-time.After(limit + patience):
		t.Fatalf("Close does not return: %+v", s.Stats())
		panic("unreachable")
	}
}

// walsender returns the process that serves the slot, once there is one.
func walsender(t *testing.T, db pgtest.DB) string {
	t.Helper()
	db.Wait(t, "SELECT active_pid IS NOT NULL FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	return db.Query(t, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
}

// terminate ends the connection of the slot's stream from the server's side.
func terminate(t *testing.T, db pgtest.DB) {
	t.Helper()
	db.Exec(t, "SELECT pg_terminate_backend("+walsender(t, db)+")")
}

func itoa(n int) string { return strconv.Itoa(n) }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
