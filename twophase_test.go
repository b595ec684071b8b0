package walchan_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

func twoPhaseDatabase(t *testing.T) pgtest.DB {
	t.Helper()
	if pgtest.Shared(t).Version() < 15 {
		t.Skip("pgoutput knows two-phase from PostgreSQL 15 on")
	}
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE PUBLICATION p FOR TABLE t")
	return db
}

func prepareRow(db pgtest.DB, t *testing.T, gid string, id int) {
	t.Helper()
	db.Exec(t, fmt.Sprintf("BEGIN; INSERT INTO t VALUES (%d); PREPARE TRANSACTION '%s'", id, gid))
}

// told describes n messages as "kind gid row".
func told(t *testing.T, s *walchan.Stream, n int, ack bool) (got []string) {
	t.Helper()
	var last walchan.Position
	for range n {
		m := receiveOne(t, s)
		what := m.Kind.String()
		if m.Tx.GID != "" {
			what += " " + m.Tx.GID
		}
		if m.Kind == walchan.Insert {
			what += " " + m.New().Text(0)
		}
		got = append(got, what)
		p, ok := m.Position()
		if !ok || p.Compare(last) <= 0 {
			t.Errorf("%v stands at %v, behind %v", m, p, last)
		}
		last = p
		if ack {
			s.Ack(m)
		}
	}
	return got
}

func TestTwoPhase(t *testing.T) {
	t.Parallel()
	db := twoPhaseDatabase(t)
	opts := []walchan.Option{walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"), walchan.WithTwoPhase()}
	s, err := walchan.Subscribe(t.Context(), db.DSN(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	prepareRow(db, t, "a", 1)
	prepareRow(db, t, "b", 2)
	db.Exec(t, "INSERT INTO t VALUES (3)", "COMMIT PREPARED 'a'", "ROLLBACK PREPARED 'b'")
	equal(t, told(t, s, 5, true), "insert a 1", "insert b 2", "insert 3", "commit_prepared a", "rollback_prepared b")

	// What was acknowledged when it was prepared is confirmed, and does not come again; its outcome does.
	prepareRow(db, t, "c", 4)
	m := receiveOne(t, s)
	s.Ack(m)
	if m.End() != 0 || m.Tx.GID != "c" || m.Tx.CommitTime.IsZero() {
		t.Errorf("%v: end %s, transaction %+v", m, m.End(), m.Tx)
	}
	db.Wait(t, fmt.Sprintf("SELECT confirmed_flush_lsn > '%s' FROM pg_replication_slots WHERE slot_name = '%s'", m.Tx.CommitLSN, db.Name))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "COMMIT PREPARED 'c'")
	if _, err := walchan.Subscribe(t.Context(), db.DSN(), opts[:3]...); !errors.Is(err, walchan.ErrSlotMismatch) {
		t.Errorf("without the option: %v", err)
	}
	s, err = walchan.Subscribe(t.Context(), db.DSN(), append(opts, walchan.WithTransactions())...)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	prepareRow(db, t, "d", 5)
	equal(t, told(t, s, 1, true), "commit_prepared c")
	equal(t, told(t, s, 2, true), "begin d", "insert d 5")
	last := receiveOne(t, s)
	if last.Kind != walchan.Prepare || last.End() <= last.Tx.CommitLSN {
		t.Errorf("%v, end %s", last, last.End())
	}
	db.Exec(t, "COMMIT PREPARED 'd'")
	outcome := receiveOne(t, s)
	if outcome.Kind != walchan.CommitPrepared || outcome.Tx.XID != last.Tx.XID || outcome.End() <= outcome.Tx.CommitLSN || outcome.Ordinal != 1 {
		t.Errorf("%v, end %s", outcome, outcome.End())
	}
	s.Ack(outcome)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Acknowledged >= last.End() {
		t.Errorf("acknowledged to %s though the Prepare that ends at %s is in hand", st.Acknowledged, last.End())
	}
	s.Ack(last)
	db.Wait(t, fmt.Sprintf("SELECT confirmed_flush_lsn >= '%s' FROM pg_replication_slots WHERE slot_name = '%s'", outcome.End(), db.Name))
}

// What was prepared before two-phase was switched on comes when it is committed, in the place of that.
func TestTwoPhaseIsSwitchedOn(t *testing.T) {
	t.Parallel()
	for _, transactions := range []bool{false, true} {
		db := twoPhaseDatabase(t)
		db.Exec(t, fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", db.Name))
		prepareRow(db, t, "early", 1)
		db.Exec(t, "BEGIN; INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1000, 1999) g; PREPARE TRANSACTION 'large'")
		prepareRow(db, t, "rolled back", 2)
		// The slot is at a position behind these.
		db.Exec(t, fmt.Sprintf("SELECT pg_replication_slot_advance('%s', pg_current_wal_lsn())", db.Name))
		opts := []walchan.Option{walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithTwoPhase(), walchan.WithStreaming(),
			walchan.WithStatusInterval(100 * time.Millisecond)} // that a lost connection is seen while the buffer is full
		if transactions {
			opts = append(opts, walchan.WithTransactions())
		}
		s, err := walchan.Subscribe(t.Context(), db.DSN(smallWorkMem), opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		prepareRow(db, t, "normal", 3)
		db.Exec(t, "COMMIT PREPARED 'early'", "ROLLBACK PREPARED 'rolled back'", "COMMIT PREPARED 'large'", "COMMIT PREPARED 'normal'")
		// Nothing is acknowledged: it comes again, once, over the next connection.
		restart := func() {
			db.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
			for end := time.Now().Add(patience); s.Stats().Reconnects == 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("no reconnect")
				}
			}
		}
		var large []string
		if transactions {
			equal(t, told(t, s, 3, false), "begin normal", "insert normal 3", "prepare normal")
			restart()
			equal(t, told(t, s, 5, false), "begin early", "insert early 1", "prepare early", "commit_prepared early", "rollback_prepared rolled back")
			large = told(t, s, 1003, false)
			if large[0] != "begin large" || large[1001] != "prepare large" || large[1002] != "commit_prepared large" {
				t.Errorf("%q", large)
			}
			large = large[1:]
		} else {
			equal(t, told(t, s, 2, false), "insert normal 3", "insert early 1")
			restart()
			equal(t, told(t, s, 2, false), "commit_prepared early", "rollback_prepared rolled back")
			large = told(t, s, 1001, false)
			if large[1000] != "commit_prepared large" {
				t.Errorf("%q", large)
			}
		}
		for i := range 1000 {
			if large[i] != fmt.Sprint("insert large ", 1000+i) {
				t.Errorf("the %d-th of 'large' is %s", i, large[i])
			}
		}
		equal(t, told(t, s, 1, false), "commit_prepared normal")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTwoPhaseOfATemporarySlot(t *testing.T) {
	t.Parallel()
	db := twoPhaseDatabase(t)
	s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithPublication("p"), walchan.WithTwoPhase())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	prepareRow(db, t, "temporary", 1)
	equal(t, told(t, s, 1, true), "insert temporary 1")
}

// Before PostgreSQL 18 the server sends blocks of a transaction that was acknowledged when it was prepared, if its memory gets
// full: its changes do not come again.
func TestAcknowledgedAtPrepareAndSentInBlocks(t *testing.T) {
	t.Parallel()
	db := twoPhaseDatabase(t)
	opts := []walchan.Option{walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"), walchan.WithTwoPhase(), walchan.WithStreaming()}
	s, err := walchan.Subscribe(t.Context(), db.DSN(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "BEGIN; "+insertLong(1, 800)+"; PREPARE TRANSACTION 'x'")
	var last walchan.Message
	for range 800 {
		last = receiveOne(t, s)
		s.Ack(last)
	}
	db.Wait(t, fmt.Sprintf("SELECT confirmed_flush_lsn > '%s' FROM pg_replication_slots WHERE slot_name = '%s'", last.Tx.CommitLSN, db.Name))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = walchan.Subscribe(t.Context(), db.DSN("options='-c logical_decoding_work_mem=256kB'"), opts...); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db.Exec(t, insertLong(1001, 600), "COMMIT PREPARED 'x'", "INSERT INTO t VALUES (-1)")
	for i := range 600 {
		if m := receiveOne(t, s); m.Tx.GID != "" || m.New().Text(0) != fmt.Sprint(1001+i) {
			t.Fatalf("there came %v: %s", m, m.New().Text(0))
		}
	}
	equal(t, told(t, s, 2, true), "commit_prepared x", "insert -1")
}

// The server may send less of a transaction that was rolled back since it was prepared: repeats, no loss.
func TestRolledBackBeforeItIsSentAgain(t *testing.T) {
	t.Parallel()
	db := twoPhaseDatabase(t)
	s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"), walchan.WithTwoPhase(),
		walchan.WithBuffer(1, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db.Exec(t, "BEGIN; INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 20000) g; PREPARE TRANSACTION 'undone'")
	equal(t, told(t, s, 2, false), "insert undone 1", "insert undone 2")
	db.Exec(t, "ROLLBACK PREPARED 'undone'", "INSERT INTO t VALUES (-1)")
	db.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	outcomes := 0
	for {
		m := receiveOne(t, s)
		s.Ack(m)
		switch {
		case m.Kind == walchan.RollbackPrepared && m.Tx.GID == "undone":
			outcomes++
		case m.Kind == walchan.Insert && m.Tx.GID == "undone":
		case m.Kind == walchan.Insert && m.New().Text(0) == "-1" && outcomes == 1:
			return
		default:
			t.Fatalf("there came %v, behind %d outcomes", m, outcomes)
		}
	}
}
