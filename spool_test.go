package walchan_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// smallWorkMem makes the server stream what exceeds 64 kB, the least that can be set.
const smallWorkMem = "options='-c logical_decoding_work_mem=64kB'"

// rowsOf returns WALCHAN_ROWS, or what is enough for a test that is run often.
func rowsOf(t *testing.T, few int) int {
	s := os.Getenv("WALCHAN_ROWS")
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// inTransaction is a session that is in a transaction.
type inTransaction struct {
	t    *testing.T
	conn *pgconn.PgConn
}

func longTransaction(t *testing.T, db pgtest.DB) inTransaction {
	t.Helper()
	conn := pgtest.Connect(t, db.DSN()).PgConn()
	w := inTransaction{t, conn}
	w.exec("BEGIN")
	return w
}

func (w inTransaction) exec(sql string) {
	w.t.Helper()
	if err := w.conn.Exec(w.t.Context(), sql).Close(); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// until waits until what the stream says of itself is as ok says. Meanwhile others commit, into a table that is not
// published: what nobody has flushed the server does not decode.
func until(t *testing.T, db pgtest.DB, s *walchan.Stream, what string, ok func(walchan.Stats) bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(s.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) || s.Err() != nil {
			t.Fatalf("waiting until %s: %+v, %v", what, s.Stats(), s.Err())
		}
		db.Exec(t, "INSERT INTO flush VALUES (1)")
	}
}

// One large transaction, half of it in savepoints that are rolled back after they were sent: its rows come, in order, and
// no others; memory stays within the limit, and no file is left.
func TestSpilledTransaction(t *testing.T) {
	rows := rowsOf(t, 100_000)
	const batches = 20
	memory := 1 << 20
	if rows > 1_000_000 {
		memory = 16 << 20
	}
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE flush (i int)", "CREATE PUBLICATION p FOR TABLE t")
	dir := t.TempDir()
	s, err := walchan.Subscribe(t.Context(), db.DSN(smallWorkMem), walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"),
		walchan.WithStreaming(), walchan.WithSpool(memory, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	peak := watchMemory(t)
	w := longTransaction(t, db)
	var spooled int64
	size := rows / batches / 2 * 2
	for i := range batches {
		// A row takes at least 112 bytes in the spool, and the server may hold back 100 kB.
		before, batch := s.Stats().Spooled, int64(size*112)
		w.exec("SAVEPOINT a")
		w.exec(insertLong(i*size, size/2))
		w.exec("SAVEPOINT b") // what is rolled back is nested, too
		w.exec(insertLong(i*size+size/2, size/2))
		w.exec("RELEASE b")
		until(t, db, s, "the batch is spooled", func(st walchan.Stats) bool { return st.Spooled >= before+batch-100_000 })
		spooled = max(spooled, s.Stats().Spooled)
		if i%2 == 1 {
			w.exec("ROLLBACK TO a")
			until(t, db, s, "what was rolled back is dropped", func(st walchan.Stats) bool { return st.Spooled < before+batch/2 })
		}
	}
	if files, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(files) > 0 {
		t.Errorf("%v, %v in the directory of temporary files", files, err)
	}
	if n := openFiles(t, dir); n != 1 {
		t.Errorf("%d temporary files are open", n)
	}
	w.exec("COMMIT")
	committed := time.Now()
	for i := 0; i < batches; i += 2 {
		for j := range size {
			m := receiveOne(t, s)
			if got, want := m.New().Text(0), fmt.Sprint(i*size+j); got != want {
				t.Fatalf("row %s, want %s", got, want)
			}
			s.Ack(m)
		}
	}
	took := time.Since(committed)
	db.Exec(t, "INSERT INTO t VALUES (-1)")
	if m := receiveOne(t, s); m.New().Text(0) != "-1" {
		t.Errorf("row %s behind the transaction", m.New().Text(0))
	}
	if st := s.Stats(); st.Spooled != 0 || st.Reconnects != 0 {
		t.Errorf("%+v", st)
	}
	if n := openFiles(t, dir); n != 0 {
		t.Errorf("%d temporary files are left", n)
	}
	if spooled < int64(2*memory) {
		t.Errorf("only %d bytes were spooled: no test of the limit", spooled)
	}
	t.Logf("%d rows written, half of them rolled back; %d MB spooled at most, heap at most %d MB above the beginning, last row %v after COMMIT",
		rows, spooled>>20, peak()>>20, took.Round(time.Millisecond))
	if most := uint64(memory + 16<<20); peak() > most {
		t.Errorf("%d bytes of memory, more than %d", peak(), most)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func insertLong(from, n int) string {
	return fmt.Sprintf("INSERT INTO t SELECT g, 'value ' || g || repeat('.', 60) FROM generate_series(%d, %d) g", from, from+n-1)
}

func receiveOne(t *testing.T, s *walchan.Stream) walchan.Message {
	t.Helper()
	select {
	case m, ok := <-s.C():
		if !ok {
			t.Fatalf("closed: %v", s.Err())
		}
		return m
	case <-time.After(time.Minute):
		t.Fatalf("nothing came: %+v", s.Stats())
	}
	panic("not reached")
}

// watchMemory looks at the heap again and again. It returns by how much it has grown at most.
func watchMemory(t *testing.T) (peak func() uint64) {
	// Garbage counts as well: it is collected as soon as it is a tenth of what is in use.
	old := debug.SetGCPercent(10)
	t.Cleanup(func() { debug.SetGCPercent(old) })
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	begin := heap()
	stop, most := make(chan struct{}), make(chan uint64)
	go func() {
		defer close(most)
		var max uint64
		for tick := time.Tick(5 * time.Millisecond); ; {
			select {
			case <-tick:
				if h := heap(); h > begin && h-begin > max {
					max = h - begin
				}
			case most <- max:
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-most })
	return func() uint64 { return <-most }
}

// openFiles counts the open files of dir, also those that are removed.
func openFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("this system does not tell the open files")
	}
	for _, fd := range fds {
		if name, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err == nil && strings.HasPrefix(name, dir+"/") {
			n++
		}
	}
	return n
}

// From COMMIT to the last row it takes less time if the rows were sent before. That they were is seen above; how much less is
// measured on request, with WALCHAN_ROWS=1000000 or so and without -race.
func TestStreamedTransactionIsCompleteSooner(t *testing.T) {
	rows := rowsOf(t, 0)
	if rows == 0 {
		t.Skip("WALCHAN_ROWS is not set")
	}
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE flush (i int)", "CREATE PUBLICATION p FOR TABLE t")
	took := func(workMem int, opts ...walchan.Option) time.Duration {
		dsn := db.DSN(fmt.Sprintf("options='-c logical_decoding_work_mem=%dkB'", workMem))
		opts = append(opts, walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"))
		s, err := walchan.Subscribe(t.Context(), dsn, opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer dropSlot(context.WithoutCancel(t.Context()), db.DSN(), db.Name)
		defer s.Close()
		w := longTransaction(t, db)
		w.exec("TRUNCATE t")
		w.exec(insertLong(1, rows))
		end := pgtest.Query(t, db.DSN(), "SELECT pg_current_wal_insert_lsn()")
		db.Exec(t, "INSERT INTO flush VALUES (1)")
		waitDecoded(t, db, end)
		w.exec("COMMIT")
		committed, n := time.Now(), 0
		for m := range s.C() {
			s.Ack(m)
			if n++; n == 1+rows { // TRUNCATE is one
				break
			}
		}
		return time.Since(committed)
	}
	for _, workMem := range []int{64, 64 << 10} {
		without, with := took(workMem), took(workMem, walchan.WithStreaming())
		t.Logf("%d rows, logical_decoding_work_mem %d kB, from COMMIT to the last row: %v at the commit, %v in progress",
			rows, workMem, without.Round(time.Millisecond), with.Round(time.Millisecond))
		if with > without*3/4 {
			t.Error("it is not sooner")
		}
	}
}

// waitDecoded waits until the server has decoded its log up to lsn.
func waitDecoded(t *testing.T, db pgtest.DB, lsn string) {
	t.Helper()
	for decoded := ""; decoded != "t"; time.Sleep(10 * time.Millisecond) {
		decoded = db.Query(t, "SELECT bool_and(sent_lsn >= '"+lsn+"') FROM pg_stat_replication WHERE application_name = 'walchan'")
	}
}
