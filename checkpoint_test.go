package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/walchantest"
)

// copyOf is a target that keeps rows and the checkpoint together.
type copyOf struct {
	rows       []string
	checkpoint string // its text; "": none
}

func (k *copyOf) last(t *testing.T) walchan.Checkpoint {
	t.Helper()
	if k.checkpoint == "" {
		return walchan.Checkpoint{}
	}
	c, err := walchan.ParseCheckpoint(k.checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// apply stores what a message says, and its checkpoint.
func (k *copyOf) apply(t *testing.T, m walchan.Message) {
	t.Helper()
	if m.Relation != nil {
		row := m.New()
		if row.Len() == 0 {
			row = m.Old()
		}
		k.rows = append(k.rows, fmt.Sprintf("%s %s", m.Kind, row.Text(0)))
	}
	c := m.Checkpoint()
	if v, err := c.Value(); err != nil {
		t.Fatal(err)
	} else if v != nil {
		k.checkpoint = c.String()
	}
}

// take receives, stores and acknowledges messages until the stream has delivered n rows.
func (k *copyOf) take(t *testing.T, s *walchan.Stream, n int) {
	t.Helper()
	for before := len(k.rows); len(k.rows) < before+n; {
		select {
		case m, ok := <-s.C():
			if !ok {
				t.Fatalf("the channel is closed after %v: %v", k.rows, s.Err())
			}
			k.apply(t, m)
			s.Ack(m)
		case <-time.After(patience):
			t.Fatalf("nothing came after %v: %+v", k.rows, s.Stats())
		}
	}
}

func (k *copyOf) subscribe(t *testing.T, dsn, slot string, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	opts = append([]walchan.Option{walchan.WithSlot(slot), walchan.WithPublication("p"), walchan.WithCheckpoint(k.last(t))}, opts...)
	s, err := walchan.Subscribe(t.Context(), dsn, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestCheckpointContinuesInTheNextProcess(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]walchan.Option{"rows": nil, "transactions": {walchan.WithTransactions()}} {
		db := pgtest.Database(t)
		db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
		k := &copyOf{}
		opts = append(opts, walchan.WithCreateSlot())
		s := k.subscribe(t, db.DSN(), db.Name, opts...)
		m := <-s.C()
		if m.Kind != walchan.Progress {
			t.Fatalf("first came %v", m)
		}
		k.apply(t, m)
		s.Ack(m)
		db.Exec(t, "INSERT INTO t SELECT generate_series(1, 5)", "INSERT INTO t VALUES (6)")
		k.take(t, s, 3) // in the middle of a transaction
		s.Close()
		s = k.subscribe(t, db.DSN(), db.Name, opts...)
		k.take(t, s, 3)
		s.Close()
		s = k.subscribe(t, db.DSN(), db.Name, opts...)
		db.Exec(t, "INSERT INTO t VALUES (7)")
		k.take(t, s, 1)
		s.Close()
		if want := []string{"insert 1", "insert 2", "insert 3", "insert 4", "insert 5", "insert 6", "insert 7"}; !slices.Equal(k.rows, want) {
			t.Errorf("%s: rows are %v", name, k.rows)
		}
	}
}

func TestSlotIsMadeOnceTheFirstCheckpointIsStored(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	k := &copyOf{}
	s := k.subscribe(t, db.DSN(), db.Name, walchan.WithCreateSlot())
	m := <-s.C()
	s.Close()
	if got := db.Query(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'"); got != "0" {
		t.Fatal("the slot is there although nothing was stored")
	}
	k.apply(t, m)
	_, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithCreateSlot(), walchan.WithCheckpoint(k.last(t)))
	if !errors.Is(err, walchan.ErrSlotMissing) {
		t.Fatalf("a checkpoint without its slot: %v", err)
	}
}

// A consumer that skips everything stores the stream's checkpoint.
func TestSlotIsMadeOnceAConsumerThatSkipsHasStored(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	k := &copyOf{}
	s := k.subscribe(t, db.DSN(), db.Name, walchan.WithCreateSlot())
	first := <-s.C()
	s.Skip(first)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for s.Checkpoint() != first.Checkpoint() {
		if err := s.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.Stored(s.Checkpoint())
	db.Exec(t, "INSERT INTO t VALUES (1)")
	db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	db.Exec(t, "INSERT INTO t VALUES (2)")
	k.take(t, s, 1)
	if got := k.rows[len(k.rows)-1]; got != "insert 1" {
		t.Error(got)
	}
}

func TestMissingSlotAndCheckpoint(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	subscribe := func(opts ...walchan.Option) (*walchan.Stream, error) {
		return walchan.Subscribe(t.Context(), db.DSN(), append([]walchan.Option{walchan.WithSlot(db.Name), walchan.WithPublication("p")}, opts...)...)
	}
	k := &copyOf{}
	s := k.subscribe(t, db.DSN(), db.Name, walchan.WithCreateSlot())
	m := <-s.C()
	k.apply(t, m)
	s.Ack(m)
	db.Exec(t, "INSERT INTO t VALUES (1)")
	k.take(t, s, 1)
	s.Close()
	if _, err := subscribe(walchan.WithCheckpoint(walchan.Checkpoint{})); !errors.Is(err, walchan.ErrCheckpoint) {
		t.Errorf("a slot and no checkpoint: %v", err)
	}
	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	for name, begin := range map[string]walchan.Option{"a new slot": walchan.WithCreateSlot(), "a snapshot": walchan.WithSnapshot()} {
		if s, err := subscribe(begin, walchan.WithCheckpoint(k.last(t))); !errors.Is(err, walchan.ErrSlotMissing) {
			t.Errorf("%s behind a checkpoint of a slot that is gone: %v", name, err)
			if err == nil {
				s.Close()
			}
		}
	}
	failed := errors.New("the store is down")
	_, err := subscribe(walchan.WithCreateSlot(), walchan.WithCheckpointFrom(func(context.Context) (walchan.Checkpoint, error) { return walchan.Checkpoint{}, failed }))
	if !errors.Is(err, failed) {
		t.Errorf("error is %v", err)
	}
}

// A person gives the checkpoint up: the slot is made again, the rows come first. A restart of the same process goes on.
func TestSubscribeAnew(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	k := &copyOf{}
	s := k.subscribe(t, db.DSN(), db.Name, walchan.WithCreateSlot())
	m := <-s.C()
	k.apply(t, m)
	s.Ack(m)
	db.Exec(t, "INSERT INTO t VALUES (1)")
	k.take(t, s, 1)
	s.Close()
	db.Exec(t, "INSERT INTO t VALUES (2)")
	db.Exec(t, "SELECT pg_replication_slot_advance('"+db.Name+"', pg_current_wal_lsn())")
	opts := []walchan.Option{walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithSnapshot(),
		walchan.WithCheckpointFrom(func(context.Context) (walchan.Checkpoint, error) { return k.last(t), nil })}
	if _, err := walchan.Subscribe(t.Context(), db.DSN(), append(opts, walchan.WithCreateSlot())...); !errors.Is(err, walchan.ErrSlotMoved) {
		t.Fatalf("error is %v", err)
	}
	lost := k.last(t)
	for round, want := range [][]string{{"read 1", "read 2", "insert 3"}, {"insert 4"}} {
		s, err := walchan.SubscribeAnew(t.Context(), db.DSN(), lost, append(opts, walchan.WithCreateSlot())...)
		if err != nil {
			t.Fatal(err)
		}
		k.rows = nil
		if round == 0 {
			k.take(t, s, 2)
			m := <-s.C()
			k.apply(t, m)
			s.Ack(m)
		}
		db.Exec(t, fmt.Sprintf("INSERT INTO t VALUES (%d)", 3+round))
		k.take(t, s, 1)
		s.Close()
		if !slices.Equal(k.rows, want) {
			t.Errorf("round %d: %v, want %v", round, k.rows, want)
		}
	}
}

// A consumer that takes its time to say what it has is waited for. Meanwhile the server hears of us.
func TestSlowCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		items := walchantest.NewTable("items", "id int primary key")
		srv := walchantest.NewServer(items.Insert(1))
		defer srv.Close()
		slow := func(context.Context) (walchan.Checkpoint, error) {
			time.Sleep(time.Minute)
			return walchan.Checkpoint{}, nil
		}
		s, err := srv.Subscribe(t.Context(), walchan.WithCheckpointFrom(slow), walchan.WithFrom(0x1000000))
		if err != nil {
			t.Fatal(err)
		}
		if m := <-s.C(); m.Kind != walchan.Insert {
			t.Errorf("came %v", m)
		}
	})
}
