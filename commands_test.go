package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

func connection(t *testing.T, connect func(context.Context, string, ...walchan.Option) (*walchan.Conn, error), dsn string) *walchan.Conn {
	t.Helper()
	c, err := connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestCommands(t *testing.T) {
	noLeaks(t)
	t.Parallel()
	primary := pgtest.Start(t)
	standby := primary.Standby(t)
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := walchan.System{ID: pgtest.Query(t, primary.DSN(), "SELECT system_identifier FROM pg_control_system()"), Timeline: 2}
	for name, connect := range map[string]func(context.Context, string, ...walchan.Option) (*walchan.Conn, error){"postgres": walchan.Connect, "": walchan.ConnectPhysical} {
		c := connection(t, connect, standby.DSN())
		want.Database = name
		got, err := c.IdentifySystem(t.Context())
		if end := flushed(t, standby); err != nil || got.Flushed == 0 || got.Flushed > end {
			t.Errorf("%+v, %v; the WAL ends at %s", got, err, end)
		}
		if got.Flushed = 0; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if h, err := c.TimelineHistory(t.Context(), 2); err != nil || !strings.HasPrefix(h, "1\t") {
			t.Errorf("history %q, %v", h, err)
		}
		if h, err := c.TimelineHistory(t.Context(), 1); err != nil || h != "" {
			t.Errorf("history %q, %v", h, err)
		}
		if v, err := c.Show(t.Context(), "wal_segment_size"); err != nil || v != "16MB" {
			t.Errorf("%q, %v", v, err)
		}
		_, err = c.Show(t.Context(), "nosuch")
		check(t, err, walchan.ErrServer, "nosuch", "SQLSTATE 42704")
		rows, err := c.Exec(t.Context(), "SELECT 1, NULL")
		if physical := name == ""; physical != (err != nil) || !physical && fmt.Sprint(rows) != "[[1 ]]" {
			t.Errorf("SQL: %v, %v", rows, err)
		}
		if _, err := c.IdentifySystem(t.Context()); err != nil {
			t.Errorf("after an error: %v", err)
		}
	}
	_, err := walchan.Connect(t.Context(), primary.DSN("dbname=none"))
	check(t, err, walchan.ErrDatabaseMissing, `"none"`)
}

func TestNewSlot(t *testing.T) {
	noLeaks(t)
	t.Parallel()
	db := pgtest.DB{Cluster: pgtest.Start(t), Name: "postgres"}
	c := connection(t, walchan.Connect, db.DSN())
	for _, tt := range []struct {
		slot walchan.NewSlot
		want walchan.Slot
		from int // version
	}{
		{walchan.NewSlot{Name: "a"}, walchan.Slot{Type: "logical", Plugin: "pgoutput"}, 14},
		{walchan.NewSlot{Name: "b", Plugin: "test_decoding", Temporary: true}, walchan.Slot{Type: "logical", Plugin: "test_decoding", Temporary: true}, 14},
		{walchan.NewSlot{Name: "c", TwoPhase: true}, walchan.Slot{Type: "logical", Plugin: "pgoutput", TwoPhase: true}, 15},
		{walchan.NewSlot{Name: "d", Failover: true}, walchan.Slot{Type: "logical", Plugin: "pgoutput", Failover: true}, 17},
		{walchan.NewSlot{Name: "e", Failover: true, TwoPhase: true, Snapshot: walchan.SnapshotExport}, walchan.Slot{Type: "logical", Plugin: "pgoutput", Failover: true, TwoPhase: true}, 17},
		{walchan.NewSlot{Name: "f", Physical: true}, walchan.Slot{Type: "physical"}, 14},
		{walchan.NewSlot{Name: "g", Physical: true, ReserveWAL: true, Temporary: true}, walchan.Slot{Type: "physical", Temporary: true}, 14},
	} {
		made, err := c.CreateSlot(t.Context(), tt.slot)
		if db.Version() < tt.from {
			check(t, err, walchan.ErrServerVersion, fmt.Sprintf("needs PostgreSQL %d or later; this is %d.", tt.from, db.Version()))
			if slot := slotNamed(t, db.DSN(), tt.slot.Name); slot != nil {
				t.Errorf("made nevertheless: %+v", slot)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		slot := *slotNamed(t, db.DSN(), tt.slot.Name)
		if made.Name != slot.Name || made.Start != slot.ConfirmedFlush || (made.Snapshot != "") != (tt.slot.Snapshot == walchan.SnapshotExport) {
			t.Errorf("%+v of %+v", made, slot)
		}
		if (slot.RestartLSN != 0) != (!tt.slot.Physical || tt.slot.ReserveWAL) || slot.Active != tt.slot.Temporary {
			t.Errorf("%+v", slot)
		}
		got := walchan.Slot{Type: slot.Type, Plugin: slot.Plugin, Temporary: slot.Temporary, TwoPhase: slot.TwoPhase, Failover: slot.Failover}
		if got != tt.want {
			t.Errorf("%+v, want %+v", got, tt.want)
		}
		_, err = c.CreateSlot(t.Context(), tt.slot)
		check(t, err, walchan.ErrSlotExists, `"`+tt.slot.Name+`"`)
	}
	_, err := c.CreateSlot(t.Context(), walchan.NewSlot{Name: "X", Plugin: "p", Physical: true, TwoPhase: true, Failover: true, Temporary: true, Snapshot: walchan.SnapshotUse})
	check(t, err, walchan.ErrOptions, `"X"`, "no Plugin", "no TwoPhase", "no Failover", "no Snapshot", "temporary")
	_, err = c.CreateSlot(t.Context(), walchan.NewSlot{Name: "h", ReserveWAL: true})
	check(t, err, walchan.ErrOptions, "ReserveWAL")
	_, err = c.CreateSlot(t.Context(), walchan.NewSlot{Name: "h", Plugin: "none"})
	check(t, err, walchan.ErrPluginMissing, `"none"`)
	check(t, c.DropSlot(t.Context(), "none"), walchan.ErrSlotMissing, `"none"`)
	if err := c.DropSlot(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	c.Close()
	db.Wait(t, "SELECT count(*) = 0 FROM pg_replication_slots WHERE temporary")

	// A physical connection makes physical slots.
	c = connection(t, walchan.ConnectPhysical, db.DSN())
	_, err = c.CreateSlot(t.Context(), walchan.NewSlot{Name: "h"})
	check(t, err, walchan.ErrOptions, "Connect")
	if _, err := c.CreateSlot(t.Context(), walchan.NewSlot{Name: "h", Physical: true}); err != nil {
		t.Error(err)
	}
	if err := c.DropSlot(t.Context(), "h"); err != nil {
		t.Error(err)
	}
}

// The snapshot sees what the slot will not send.
func TestNewSlotSnapshot(t *testing.T) {
	noLeaks(t)
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
	count := func(conn func(string) ([][]string, error)) string {
		t.Helper()
		rows, err := conn("SELECT count(*) FROM t")
		if err != nil || len(rows) != 1 {
			t.Fatal(rows, err)
		}
		return rows[0][0]
	}

	c := connection(t, walchan.Connect, db.DSN())
	made, err := c.CreateSlot(t.Context(), walchan.NewSlot{Name: db.Name + "_e", Temporary: true, Snapshot: walchan.SnapshotExport})
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "INSERT INTO t VALUES (2)")
	other := connection(t, walchan.Connect, db.DSN())
	exec := func(sql string) ([][]string, error) { return other.Exec(t.Context(), sql) }
	for _, sql := range []string{"BEGIN ISOLATION LEVEL REPEATABLE READ", "SET TRANSACTION SNAPSHOT '" + made.Snapshot + "'"} {
		if _, err := exec(sql); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(exec); n != "1" {
		t.Errorf("the exported snapshot sees %s rows", n)
	}

	exec = func(sql string) ([][]string, error) { return c.Exec(t.Context(), sql) }
	if _, err := exec("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateSlot(t.Context(), walchan.NewSlot{Name: db.Name + "_u", Temporary: true, Snapshot: walchan.SnapshotUse}); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "INSERT INTO t VALUES (3)")
	if n := count(exec); n != "2" {
		t.Errorf("the snapshot of the slot sees %s rows", n)
	}
	c.Close()
	other.Close()
}

// DropSlotWait waits for the one who streams from the slot.
func TestDropSlotWait(t *testing.T) {
	db := newSource(t)
	s := subscribe(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := walchan.DropSlotWait(ctx, db.DSN(), db.Name); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is in use: %v", err)
	}
	dropped := make(chan error)
	go func() { dropped <- walchan.DropSlotWait(t.Context(), db.DSN("application_name=dropper"), db.Name) }()
	db.Wait(t, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'dropper' AND wait_event = 'ReplicationSlotDrop')")
	mustClose(t, s)
	if err := <-dropped; err != nil {
		t.Error(err)
	}
	if slot := slotNamed(t, db.DSN(), db.Name); slot != nil {
		t.Errorf("%+v", slot)
	}
	check(t, walchan.DropSlotWait(t.Context(), db.DSN(), db.Name), walchan.ErrSlotMissing, db.Name)
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

// A role that may connect for physical replication only can stream.
func TestPhysicalNeedsNoDatabase(t *testing.T) {
	c := ownCluster(t, pgtest.WithHBA("host replication archivist 127.0.0.1/32 trust", "host all archivist 127.0.0.1/32 reject"))
	pgtest.Exec(t, c.DSN(), "CREATE ROLE archivist LOGIN REPLICATION")
	dsn := c.DSN("user=archivist")
	_, err := walchan.Connect(t.Context(), dsn)
	check(t, err, walchan.ErrAuthentication, "pg_hba.conf")
	if err := walchan.CreatePhysicalSlot(t.Context(), dsn, "s"); err != nil {
		t.Fatal(err)
	}
	if c.Version() < 15 {
		_, err := walchan.SubscribePhysical(t.Context(), dsn, walchan.WithSlot("s"))
		check(t, err, walchan.ErrAuthentication, "pg_hba.conf") // the slot is looked up in the catalogue
	} else {
		s, err := walchan.SubscribePhysical(t.Context(), dsn, walchan.WithSlot("s"))
		if err != nil {
			t.Fatal(err)
		}
		s.Ack(next(t, s))
		mustClose(t, s)
	}
	conn, err := pgconn.Connect(t.Context(), dsn)
	if err == nil {
		conn.Close(t.Context())
		t.Error("the role may connect")
	}
}
