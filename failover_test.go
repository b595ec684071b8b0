package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// pair is a primary and its standby, behind one name: the stream is led to the one that at says.
type pair struct {
	primary, standby *pgtest.Cluster
	at               atomic.Pointer[pgtest.Cluster]
}

func newPair(t *testing.T, opts ...pgtest.Option) *pair {
	p := &pair{primary: pgtest.Start(t, opts...)}
	pgtest.Exec(t, p.primary.DSN(), "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	p.standby = p.primary.Standby(t)
	p.at.Store(p.primary)
	return p
}

func (p *pair) subscribe(t *testing.T) *walchan.Stream {
	s, err := walchan.Subscribe(t.Context(), p.primary.DSN(), walchan.WithSlot("s"), walchan.WithPublication("p"),
		walchan.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
			cfg.Port = uint16(p.at.Load().Port())
			return nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// ids receives and acknowledges until n have come.
func ids(t *testing.T, s *walchan.Stream, n int) (got []int) {
	for len(got) < n {
		select {
		case m, ok := <-s.C():
			if !ok {
				t.Fatalf("the channel is closed after %v: %v", got, s.Err())
			}
			var id int
			fmt.Sscan(m.New().Text(0), &id)
			got = append(got, id)
			s.Ack(m)
		case <-time.After(patience):
			t.Fatalf("nothing came behind %v: %+v", got, s.Stats())
		}
	}
	return got
}

func TestFailoverThatLostWhatWasDeliveredIsDivergence(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	pgtest.Exec(t, p.primary.DSN(), "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
	s := p.subscribe(t)
	pgtest.Exec(t, p.primary.DSN(), "INSERT INTO t VALUES (1)")
	ids(t, s, 1)
	// The standby is cut off, misses a transaction that is delivered, and is promoted.
	pgtest.Exec(t, p.standby.DSN(), "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
	pgtest.Wait(t, p.standby.DSN(), "SELECT count(*) = 0 FROM pg_stat_wal_receiver")
	pgtest.Exec(t, p.primary.DSN(), "INSERT INTO t VALUES (2)")
	ids(t, s, 1)
	if err := p.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	// It writes more WAL than the primary had, so that its position tells nothing, and has a slot of that name.
	pgtest.Exec(t, p.standby.DSN(), "SELECT pg_create_logical_replication_slot('s', 'pgoutput')", "INSERT INTO t SELECT generate_series(100, 2000)")
	p.at.Store(p.standby)
	for range s.C() {
		t.Error("a message came from the diverged server")
	}
	if err := s.Err(); !errors.Is(err, walchan.ErrDiverged) {
		t.Fatalf("error is %v", err)
	}
}

func TestStandbyThatIsNotYetPromotedIsWaitedFor(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	pgtest.Exec(t, p.primary.DSN(), "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
	s := p.subscribe(t)
	pgtest.Exec(t, p.primary.DSN(), "INSERT INTO t VALUES (1)")
	ids(t, s, 1)
	p.at.Store(p.standby)
	pgtest.Exec(t, p.primary.DSN(), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 's'")
	for st := s.Stats(); st.State != walchan.StateRetrying || st.Attempt < 3 || !errors.Is(st.Err, walchan.ErrServerDown); st = s.Stats() {
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
		time.Sleep(10 * time.Millisecond)
	}
	pgtest.Exec(t, p.primary.DSN(), "INSERT INTO t VALUES (2)")
	p.at.Store(p.primary)
	if got := ids(t, s, 1); got[0] != 2 {
		t.Fatal(got)
	}
}

// A slot that is made again after a fail-over has left out an unknown part. A person who knows that nothing was written
// meanwhile says so with WithFrom.
func TestGapOfAFailoverIsAccepted(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	k := &copyOf{}
	s := k.subscribe(t, p.primary.DSN(), "s", walchan.WithCreateSlot())
	m := <-s.C()
	k.apply(t, m)
	s.Ack(m)
	pgtest.Exec(t, p.primary.DSN(), "INSERT INTO t VALUES (1)")
	k.take(t, s, 1)
	s.Close()
	if err := p.primary.Stop(t.Context(), pgtest.Fast); err != nil { // the standby has everything
		t.Fatal(err)
	}
	if err := p.standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, p.standby.DSN(), "SELECT pg_create_logical_replication_slot('s', 'pgoutput')", "INSERT INTO t VALUES (2)")
	at, err := walchan.ParseLSN(pgtest.Query(t, p.standby.DSN(), "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 's'"))
	if err != nil {
		t.Fatal(err)
	}
	subscribe := func(from walchan.LSN) error {
		s, err := walchan.Subscribe(t.Context(), p.standby.DSN(), walchan.WithSlot("s"), walchan.WithPublication("p"), walchan.WithCheckpoint(k.last(t)), walchan.WithFrom(from))
		if err == nil {
			s.Close()
		}
		return err
	}
	for _, from := range []walchan.LSN{0, at - 1} {
		if err := subscribe(from); !errors.Is(err, walchan.ErrSlotMoved) {
			t.Errorf("from %s: %v", from, err)
		}
	}
	s = k.subscribe(t, p.standby.DSN(), "s", walchan.WithFrom(at))
	k.take(t, s, 1)
	s.Close()
	if want := []string{"insert 1", "insert 2"}; !slices.Equal(k.rows, want) {
		t.Errorf("rows are %v", k.rows)
	}
}

// From PostgreSQL 17 on a slot can exist on the standby, too.
func TestFailoverSlotContinues(t *testing.T) {
	t.Parallel()
	if pgtest.Shared(t).Version() < 17 {
		t.Skip("fail-over slots came with PostgreSQL 17")
	}
	p := newPair(t, pgtest.WithSetting("hot_standby_feedback", "on"), pgtest.WithSetting("sync_replication_slots", "on"))
	pgtest.Exec(t, p.standby.DSN(), "ALTER SYSTEM SET primary_conninfo = '"+strings.ReplaceAll(p.primary.DSN(), "'", "''")+"'", "SELECT pg_reload_conf()")
	pgtest.Exec(t, p.primary.DSN(), "SELECT pg_create_logical_replication_slot('s', 'pgoutput', failover => true)")
	s := p.subscribe(t)
	pgtest.Exec(t, p.primary.DSN(), "INSERT INTO t SELECT generate_series(1, 3)")
	got := ids(t, s, 3)
	pgtest.Wait(t, p.standby.DSN(), "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 's' AND synced AND NOT temporary)")
	pgtest.Exec(t, p.primary.DSN(), "INSERT INTO t SELECT generate_series(4, 6)")
	got = append(got, ids(t, s, 3)...)
	lsn := pgtest.Query(t, p.primary.DSN(), "SELECT pg_current_wal_flush_lsn()")
	pgtest.Wait(t, p.standby.DSN(), "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"'")
	if err := p.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	p.at.Store(p.standby)
	if err := p.standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, p.standby.DSN(), "INSERT INTO t SELECT generate_series(7, 9)")
	got = append(got, ids(t, s, 3)...)
	if !slices.Equal(got, []int{1, 2, 3, 4, 5, 6, 7, 8, 9}) {
		t.Fatal(got)
	}
	if s.Stats().Reconnects == 0 {
		t.Fatal("there was no reconnect")
	}
}

func TestFailoverSlot(t *testing.T) {
	noLeaks(t)
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE PUBLICATION p FOR ALL TABLES")
	check(t, trySubscribe(t, db.DSN(), walchan.WithPublication("p"), walchan.WithFailover()), walchan.ErrOptions, "WithFailover needs WithSlot")
	if db.Version() < 17 {
		opts := on(db.Name, walchan.WithFailover(), walchan.WithCreateSlot())
		check(t, trySubscribe(t, db.DSN(), opts...), walchan.ErrServerVersion, fmt.Sprintf("failover needs PostgreSQL 17 or later; this is %d.", db.Version()))
		if slot := slotNamed(t, db.DSN(), db.Name); slot != nil {
			t.Errorf("%+v", slot)
		}
		return
	}
	s := mustSubscribe(t, db.DSN(), on(db.Name, walchan.WithFailover(), walchan.WithCreateSlot())...)
	if slot := slotNamed(t, db.DSN(), db.Name); slot == nil || !slot.Failover {
		t.Errorf("%+v", slot)
	}
	mustClose(t, s)

	after := db.Name + "_snapshot"
	s = mustSubscribe(t, db.DSN(), on(after, walchan.WithFailover(), walchan.WithSnapshot())...)
	ackAll(s, take(t, s, 2))
	await(t, s, "the slot", func() bool { return slotNamed(t, db.DSN(), after) != nil })
	mustClose(t, s)
	if slot := slotNamed(t, db.DSN(), after); slot == nil || !slot.Failover {
		t.Errorf("behind a snapshot: %+v", slot)
	}
}
