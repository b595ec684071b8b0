package walchan_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// newTables is newSource without the slot, and with rows 1 to n in t.
func newTables(t *testing.T, rows int) pgtest.DB {
	t.Helper()
	noLeaks(t)
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE quiet (id int)", "CREATE PUBLICATION p FOR TABLE t",
		fmt.Sprintf("INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, %d) g", rows))
	return db
}

func slots(t *testing.T, db pgtest.DB) string {
	t.Helper()
	return db.Query(t, "SELECT coalesce(string_agg(slot_name || CASE WHEN temporary THEN ' (temporary)' ELSE '' END, ', '), '') FROM pg_replication_slots WHERE database = '"+db.Name+"'")
}

// takeSnapshot takes the messages of one attempt, which must be whole, and returns its rows.
func takeSnapshot(t *testing.T, s *walchan.Stream) (begin walchan.Message, rows []walchan.Message, end walchan.Message) {
	t.Helper()
	begin = next(t, s)
	if begin.Kind != walchan.SnapshotBegin {
		t.Fatalf("%v, want the beginning of a snapshot", begin)
	}
	for {
		m := next(t, s)
		switch m.Kind {
		case walchan.Read:
			rows = append(rows, m)
		case walchan.SnapshotEnd:
			return begin, rows, m
		default:
			t.Fatalf("%v within a snapshot", m)
		}
	}
}

// First the rows, then the changes since; and the slot exists once the rows are acknowledged, not before.
func TestSnapshotComesBeforeTheChanges(t *testing.T) {
	db := newTables(t, 1000)
	s := subscribe(t, db, walchan.WithSnapshot(), walchan.WithSnapshotJobs(1))
	insert(t, db, 1001, 10, 1)
	db.Exec(t, "UPDATE t SET v = 'new' WHERE id = 1")
	begin, rows, end := takeSnapshot(t, s)
	wantRange(t, rows, 1, 1000)
	if got := rows[0].New().Text(1); got != "v1" {
		t.Errorf("row 1 has %q, which is not what it was", got)
	}
	if snap := begin.Snapshot(); snap != end.Snapshot() || snap.Attempt != 1 || len(snap.Tables) != 1 || snap.Tables[0] != rows[0].Relation {
		t.Errorf("the snapshot is %+v", snap)
	}
	s.Ack(begin)
	ackAll(s, rows)
	flush(t, s)
	if got := slots(t, db); got == "" || got == db.Name {
		t.Errorf("the slots are %s before the snapshot is acknowledged", got)
	}
	if got := s.Stats(); got.State != walchan.StateSnapshot || got.Snapshot[0].Rows != 1000 || !got.Snapshot[0].Done {
		t.Errorf("Stats are %+v", got)
	}
	s.Ack(end)
	ms := take(t, s, 11)
	wantRange(t, ms[:10], 1001, 1010)
	if m := ms[10]; m.Kind != walchan.Update || id(m) != 1 {
		t.Errorf("%v, want the update", m)
	}
	if got := slots(t, db); got != db.Name {
		t.Errorf("the slots are %s", got)
	}
	closeBehind(t, s, ms)
	insert(t, db, 2000, 1, 1)
	wantIDs(t, []walchan.Message{next(t, subscribe(t, db, walchan.WithSnapshot(), walchan.WithCreateSlot()))}, 2000)
}

// A stream that ends before all is acknowledged leaves nothing behind.
func TestSnapshotThatIsNotAcknowledgedLeavesNothing(t *testing.T) {
	db := newTables(t, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i, stop := range []func(*walchan.Stream){
		func(s *walchan.Stream) { mustClose(t, s) },
		func(*walchan.Stream) { cancel() },
	} {
		s := open(t, ctx, db, walchan.WithSnapshot())
		ackAll(s, take(t, s, 500))
		stop(s)
		rest(t, s)
		mustClose(t, s)
		db.Wait(t, "SELECT count(*) = 0 FROM pg_replication_slots WHERE database = '"+db.Name+"'")
		if s.Err() != nil {
			t.Errorf("%d: %v", i, s.Err())
		}
	}
}
