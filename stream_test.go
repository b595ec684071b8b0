package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

func TestOrderIsThatOfCommits(t *testing.T) {
	db := newSource(t)
	a, b := pgtest.Connect(t, db.DSN()), pgtest.Connect(t, db.DSN())
	run(t, a, "BEGIN", "INSERT INTO t VALUES (1)")
	run(t, b, "BEGIN", "INSERT INTO t VALUES (2)")
	run(t, a, "INSERT INTO t VALUES (3)")
	run(t, b, "INSERT INTO t VALUES (4)", "COMMIT")
	run(t, a, "UPDATE t SET id = 5 WHERE id = 1", "COMMIT")

	ms := take(t, subscribe(t, db), 5)
	wantIDs(t, ms, 2, 4, 1, 3, 5)
	for i, m := range ms {
		if want := uint32([]int{2, 3, 2, 3, 4}[i]); m.Ordinal != want {
			t.Errorf("message %d has ordinal %d, want %d", i, m.Ordinal, want)
		}
	}
	if ms[0].LSN < ms[2].LSN {
		t.Error("the transactions do not interleave: the test is none")
	}
}

// PostgreSQL's own decoding is the reference: several writers, savepoints rolled back, transactions rolled back.
func TestOrderIsThatOfTheServersOwnDecoding(t *testing.T) {
	db := newSource(t)
	createReference(t, db)
	var writers sync.WaitGroup
	for w := range 6 {
		conn := pgtest.Connect(t, db.DSN())
		writers.Go(func() {
			for n := range 40 {
				first := 1 + w*100_000 + n*100
				end := "COMMIT"
				if n%5 == 4 {
					end = "ROLLBACK"
				}
				run(t, conn, "BEGIN",
					fmt.Sprintf("INSERT INTO t SELECT generate_series(%d, %d)", first, first+n%4),
					"SAVEPOINT s",
					fmt.Sprintf("INSERT INTO t SELECT generate_series(%d, %d)", first+10, first+12),
					[]string{"ROLLBACK TO s", "RELEASE s"}[n%2],
					fmt.Sprintf("INSERT INTO t VALUES (%d)", first+20), end)
			}
		})
	}
	s := subscribe(t, db)
	writers.Wait()
	want := reference(t, db)
	if got := idsOf(take(t, s, len(want))); got != strings.Trim(fmt.Sprint(want), "[]") {
		t.Errorf("rows\n%s, want\n%d", got, want)
	}
}

// createReference makes a slot for reference.
func createReference(t *testing.T, db pgtest.DB) {
	t.Helper()
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+db.Name+"_ref', 'test_decoding')")
}

// reference returns the ids inserted into t since createReference, in the order in which the server decodes them.
func reference(t *testing.T, db pgtest.DB) (ids []int) {
	t.Helper()
	text := db.Query(t, `SELECT string_agg(substring(data FROM 'id\[integer\]:(\d+)'), ' ' ORDER BY n) `+
		`FROM pg_logical_slot_get_changes('`+db.Name+`_ref', NULL, NULL) WITH ORDINALITY AS c(lsn, xid, data, n) `+
		`WHERE data LIKE 'table public.t: INSERT:%'`)
	for f := range strings.FieldsSeq(text) {
		var id int
		fmt.Sscan(f, &id)
		ids = append(ids, id)
	}
	return ids
}

func run(t *testing.T, conn *pgx.Conn, sql ...string) {
	t.Helper()
	for _, s := range sql {
		if _, err := conn.Exec(context.Background(), s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// Each message goes to one of the goroutines that receive.
func TestOnceAmongSeveralReceivers(t *testing.T) {
	const rows = 5000
	db := newSource(t)
	insert(t, db, 1, 100, rows/100)
	s := subscribe(t, db)
	var mu sync.Mutex
	seen := map[int]int{}
	var receivers sync.WaitGroup
	for range 4 {
		receivers.Go(func() {
			for m := range s.C() {
				mu.Lock()
				seen[id(m)]++
				n := len(seen)
				mu.Unlock()
				s.Ack(m)
				if n == rows {
					go s.Close()
				}
			}
		})
	}
	receivers.Wait()
	if len(seen) != rows {
		t.Errorf("%d rows, want %d", len(seen), rows)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("row %d came %d times", id, n)
		}
	}
}

// A new process resumes after the last confirmed transaction. What it sees again has the same Position.
func TestOnceMoreInANewProcessWhatWasNotConfirmed(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 3, 4) // 1-3, 4-6, 7-9, 10-12
	s := subscribe(t, db)
	first := take(t, s, 10)
	ackAll(s, first[:7]) // the third transaction is only begun
	mustClose(t, s)

	s = subscribe(t, db)
	second := take(t, s, 6)
	wantRange(t, second, 7, 12)
	for i, m := range second[:4] {
		was, _ := first[6+i].Position()
		if is, ok := m.Position(); !ok || is != was {
			t.Errorf("row %d is at %s, and was at %s", id(m), is, was)
		}
	}
}

func TestPositionsAreInOrderAndUnique(t *testing.T) {
	db := newSource(t)
	for range 3 {
		db.Exec(t, "SELECT pg_logical_emit_message(false, 'x', 'y')", "BEGIN; INSERT INTO t SELECT count(*) FROM t; "+
			"SELECT pg_logical_emit_message(true, 'x', 'y'); UPDATE t SET v = 'z'; COMMIT")
	}
	ms := take(t, subscribe(t, db, walchan.WithTransactions()), 3+6+4+5+3)
	var last walchan.Position
	for _, m := range ms {
		p, ok := m.Position()
		if !ok || p.Compare(last) <= 0 {
			t.Errorf("%v: behind %s", m, last)
		}
		last = p
	}
}

// The zero Message is one that a receive from the closed channel gives.
func TestZeroMessage(t *testing.T) {
	var m walchan.Message
	if _, ok := m.Position(); ok || m.New().Len()+m.Old().Len() > 0 || m.Payload()+m.Prefix() != "" || m.End() != 0 || !m.SentAt().IsZero() {
		t.Errorf("the zero message has something: %v", m)
	}
}

// A message belongs to its receiver, and may be kept while the stream goes on and the connection's buffer is used again.
func TestMemoryOfKeptMessagesStaysIntact(t *testing.T) {
	const rows = 4000
	db := newSource(t)
	db.Exec(t, "ALTER TABLE t REPLICA IDENTITY FULL",
		fmt.Sprintf("INSERT INTO t SELECT g, repeat(g || ',', 20) FROM generate_series(1, %d) g", rows), "UPDATE t SET v = upper(v) || '!'")
	s := subscribe(t, db)
	kept := take(t, s, 2*rows)
	ackAll(s, kept)
	mustClose(t, s)
	for i, m := range kept {
		n := fmt.Sprint(i%rows + 1)
		text := strings.Repeat(n+",", 20)
		want := "insert t → " + n + ", " + text
		if i >= rows {
			want = "update t " + n + ", " + text + " → " + n + ", " + text + "!"
		}
		if got := show(m); got != want {
			t.Fatalf("message %d is\n%s, want\n%s", i, got, want)
		}
	}
}

// A message that is kept keeps its own bytes, and not the connection it came over with its buffers.
func TestMemoryOfAKeptMessageHoldsNoConnection(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 2)
	s, p := tapped(t, db)
	kept := next(t, s)
	s.Ack(kept)
	collected := p.collected.Load
	terminate(t, db)
	await(t, s, "it is connected again", func() bool { return s.Stats().Reconnects == 1 })
	await(t, s, "the first connection is let go", func() bool { runtime.GC(); return collected() == 1 })
	mustClose(t, s)
	await(t, s, "the second connection is let go", func() bool { runtime.GC(); return collected() == 2 })
	wantIDs(t, []walchan.Message{kept}, 1)
}

// What ends a stream for good comes behind what was received before it. A slot that is gone is not made anew: that would hide
// a gap.
func TestPermanentErrorComesBehindTheBuffer(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 10, 1)
	dropped := make(chan struct{})
	p := &tap{t: t, hold: dropped}
	s := open(t, t.Context(), db, p.option(), walchan.WithCreateSlot())
	await(t, s, "all is buffered", func() bool { return s.Stats().Buffered == 10 })
	terminate(t, db)
	db.Wait(t, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	close(dropped)
	awaitState(t, s, walchan.StateClosed)
	wantRange(t, rest(t, s), 1, 10)
	if err := s.Err(); !errors.Is(err, walchan.ErrSlotMissing) {
		t.Errorf("Err is %v, want ErrSlotMissing", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := s.Err(); !errors.Is(err, walchan.ErrSlotMissing) {
		t.Errorf("after Close Err is %v", err)
	}
}

func TestPermanentErrorOfATemporarySlot(t *testing.T) {
	db := newSource(t)
	s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithPublication("p"), walchan.WithLogger(logTo(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	insert(t, db, 1, 1, 1)
	s.Ack(next(t, s))
	db.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+s.Source().Slot+"'")
	if ms := rest(t, s); len(ms) > 0 {
		t.Errorf("another %d messages", len(ms))
	}
	if err := s.Err(); !errors.Is(err, walchan.ErrSlotLost) || !strings.Contains(err.Error(), s.Source().Slot) {
		t.Errorf("Err is %v, want ErrSlotLost with the slot's name", err)
	}
}

// While C is open, Err is nil, and when it is closed Err is set.
func TestErrIsSetBeforeCCloses(t *testing.T) {
	db := newSource(t)
	for range 20 {
		s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithPublication("p"), walchan.WithLogger(logTo(t)))
		if err != nil {
			t.Fatal(err)
		}
		if s.Err() != nil {
			t.Fatalf("Err is %v from the beginning", s.Err())
		}
		db.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+s.Source().Slot+"'")
		select {
		case _, open := <-s.C():
			if open || s.Err() == nil {
				t.Fatalf("open: %t, Err: %v", open, s.Err())
			}
		case <-time.After(patience):
			t.Fatal("C stays open")
		}
		s.Close()
	}
}
