package walchan_test

import (
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// A stream with checkpoints serves its server as one without does.

// storing opens a stream of a slot that exists, whose consumer stores every checkpoint at once.
func storing(t *testing.T, db pgtest.DB, opts ...walchan.Option) *copyOf {
	t.Helper()
	from := parseLSN(t, db.Query(t, "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'"))
	s := openAs(t, db, "consumer", append(opts, walchan.WithCheckpoint(walchan.Checkpoint{}), walchan.WithFrom(from))...)
	k := &copyOf{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m := range s.C() {
			k.apply(t, m)
			s.Ack(m)
		}
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return k
}

func TestCheckpointedIdleServerStops(t *testing.T) {
	db := ownServer(t)
	storing(t, db)
	insert(t, db, 1, 10, 1)
	db.Exec(t, "INSERT INTO quiet SELECT generate_series(1, 10000)")
	stopInTime(t, db)
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A COMMIT waits for the stream also if it has changed nothing that is published.
func TestCheckpointedCommitIsConfirmed(t *testing.T) {
	db := ownServer(t, pgtest.WithSetting("synchronous_standby_names", "consumer"))
	storing(t, db)
	for i := range 20 {
		began := time.Now()
		if i%2 == 0 {
			insert(t, db, i, 1, 1)
		} else {
			db.Exec(t, "INSERT INTO quiet VALUES (1)")
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("COMMIT %d waited %v", i, d)
		}
	}
}

// A slot whose stream has nothing to deliver keeps no more WAL than a segment or two.
func TestCheckpointedIdleSlotReleasesWAL(t *testing.T) {
	db := ownServer(t)
	storing(t, db)
	for range 5 {
		db.Exec(t, "INSERT INTO quiet SELECT generate_series(1, 200000)")
	}
	end := walEnd(t, db)
	waitSlotAt(t, db, end-20<<20)
}
