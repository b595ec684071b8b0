package walchan_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// beforePlan has sql run once the snapshot is there, and before it is looked what to read: when the keeper dials.
func beforePlan(t *testing.T, db pgtest.DB, sql ...string) walchan.Option {
	var dials atomic.Int32
	return walchan.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
		dial := cfg.DialFunc
		cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) == 2 {
				db.Exec(t, sql...)
			}
			return dial(ctx, network, address)
		}
		return nil
	})
}

// What was altered between the snapshot and the look at the catalogue would leave a gap: it is taken again.
func TestSnapshotOfWhatIsAlteredMeanwhile(t *testing.T) {
	for name, sql := range map[string][]string{
		"another table has the name now": {"ALTER TABLE t RENAME TO old", "CREATE TABLE t (LIKE old INCLUDING ALL)", "INSERT INTO t VALUES (1000)"},
		// Row 1 is not in the snapshot, nor in the stream, for the table was not published then.
		"a table is added to the publication": {"INSERT INTO quiet VALUES (1)", "ALTER PUBLICATION p ADD TABLE quiet"},
	} {
		t.Run(name, func(t *testing.T) {
			db := newTables(t, 100)
			s, err := walchan.Subscribe(t.Context(), db.DSN(), append(usual(t, db), walchan.WithSnapshot(), beforePlan(t, db, sql...))...)
			if err == nil {
				s.Close()
			}
			check(t, err, walchan.ErrServer)
		})
	}
}

// Who wants to alter a table waits until the snapshot is read; a worker that comes to the table behind him does not wait for him.
func TestSnapshotPassesAWaitingAlterTable(t *testing.T) {
	db := newTables(t, 20_000)
	db.Exec(t, "CREATE TABLE u (id int PRIMARY KEY)", "INSERT INTO u SELECT generate_series(1, 500)", "ALTER PUBLICATION p ADD TABLE u")
	s := subscribe(t, db, walchan.WithSnapshot(), walchan.WithSnapshotJobs(1))
	s.Ack(next(t, s))
	altered := make(chan struct{})
	conn := pgtest.Connect(t, db.DSN())
	go func() {
		defer close(altered)
		run(t, conn, "ALTER TABLE u ALTER id TYPE bigint")
	}()
	db.Wait(t, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'u'::regclass")
	rows := map[string]int{}
	for m := next(t, s); m.Kind != walchan.SnapshotEnd; m = next(t, s) {
		if m.Kind != walchan.Read {
			t.Fatalf("%v, want rows", m)
		}
		rows[m.Relation.Name]++
		s.Ack(m)
	}
	if rows["t"] != 20_000 || rows["u"] != 500 {
		t.Errorf("the rows are %v", rows)
	}
	<-altered
}

// A condition may give other rows each time it is asked: then a worker cannot go on where it was over another connection.
func TestSnapshotWhoseRowsAreOthersTheSecondTime(t *testing.T) {
	db := newTables(t, 0)
	db.Exec(t, "ALTER TABLE t ALTER v SET STORAGE PLAIN", "INSERT INTO t SELECT g, repeat('x', 1900) FROM generate_series(1, 20000) g") // more than fits into the network
	s := subscribe(t, db, walchan.WithSnapshot(walchan.SnapshotTable{Name: "t", Where: "(id + pg_backend_pid()) % 509 <> 0"}), walchan.WithSnapshotJobs(1))
	for range 1000 {
		s.Ack(next(t, s))
	}
	terminateWhere(t, db, "state = 'active' AND query LIKE 'COPY%'")
	var m walchan.Message
	for m = next(t, s); m.Kind == walchan.Read; m = next(t, s) {
		s.Ack(m)
	}
	if m.Kind != walchan.SnapshotBegin || m.Snapshot().Attempt != 2 {
		t.Errorf("%v, want a second attempt", m)
	}
}

// The permanent slot is made at the end, beside the temporary one. That there is no room for it is said at the beginning.
func TestSnapshotNeedsAnotherSlot(t *testing.T) {
	db := ownServer(t, pgtest.WithSetting("max_replication_slots", "2"))
	s, err := walchan.Subscribe(t.Context(), db.DSN(), append(usual(t, db), walchan.WithSlot("another"), walchan.WithSnapshot())...)
	if err == nil {
		s.Close()
	}
	check(t, err, walchan.ErrNoFreeSlot, "another", "max_replication_slots")
}
