package admin_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	standby := primary.Standby(t)
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := admin.System{ID: pgtest.Query(t, primary.DSN(), "SELECT system_identifier FROM pg_control_system()"), Timeline: 2}
	for name, opts := range map[string][]admin.Option{"postgres": nil, "": {admin.WithPhysical()}} {
		c := connect(t, standby.DSN(), opts...)
		want.Database = name
		got, err := c.System(t.Context())
		if end := parseLSN(t, pgtest.Query(t, standby.DSN(), "SELECT pg_current_wal_flush_lsn()")); err != nil || got.Flushed == 0 || got.Flushed > end {
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
		check(t, err, walerr.Server, "nosuch", "SQLSTATE 42704")
		rows, err := c.Exec(t.Context(), "SELECT 1, NULL")
		if physical := name == ""; physical != (err != nil) || !physical && fmt.Sprint(rows) != "[[1 ]]" {
			t.Errorf("SQL: %v, %v", rows, err)
		}
		if _, err := c.System(t.Context()); err != nil {
			t.Errorf("after an error: %v", err)
		}
	}
	_, err := admin.Connect(t.Context(), primary.DSN("dbname=none"))
	check(t, err, walerr.DatabaseMissing, `"none"`)
}

func parseLSN(t *testing.T, s string) wal.LSN {
	t.Helper()
	lsn, err := wal.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

func TestNewSlot(t *testing.T) {
	t.Parallel()
	db := pgtest.DB{Cluster: pgtest.Start(t), Name: "postgres"}
	c, look := connect(t, db.DSN()), connect(t, db.DSN())
	for _, tt := range []struct {
		slot admin.SlotSpec
		want admin.Slot
		from int // version
	}{
		{admin.SlotSpec{Name: "a"}, admin.Slot{Type: "logical", Plugin: "pgoutput"}, 14},
		{admin.SlotSpec{Name: "b", Plugin: "test_decoding", Temporary: true}, admin.Slot{Type: "logical", Plugin: "test_decoding", Temporary: true}, 14},
		{admin.SlotSpec{Name: "c", TwoPhase: true}, admin.Slot{Type: "logical", Plugin: "pgoutput", TwoPhase: true}, 15},
		{admin.SlotSpec{Name: "d", Failover: true}, admin.Slot{Type: "logical", Plugin: "pgoutput", Failover: true}, 17},
		{admin.SlotSpec{Name: "e", Failover: true, TwoPhase: true, Export: admin.ExportName}, admin.Slot{Type: "logical", Plugin: "pgoutput", Failover: true, TwoPhase: true}, 17},
		{admin.SlotSpec{Name: "f", Physical: true}, admin.Slot{Type: "physical"}, 14},
		{admin.SlotSpec{Name: "g", Physical: true, ReserveWAL: true, Temporary: true}, admin.Slot{Type: "physical", Temporary: true}, 14},
	} {
		made, err := c.CreateSlot(t.Context(), tt.slot)
		if db.Version() < tt.from {
			check(t, err, walerr.ServerVersion, fmt.Sprintf("needs PostgreSQL %d or later; this is %d.", tt.from, db.Version()))
			if slot := slotNamed(t, look, tt.slot.Name); slot != nil {
				t.Errorf("made nevertheless: %+v", slot)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		slot := *slotNamed(t, look, tt.slot.Name)
		if made.Name != slot.Name || made.Start != slot.ConfirmedFlush || (made.Snapshot != "") != (tt.slot.Export == admin.ExportName) {
			t.Errorf("%+v of %+v", made, slot)
		}
		if (slot.RestartLSN != 0) != (!tt.slot.Physical || tt.slot.ReserveWAL) || slot.Active != tt.slot.Temporary {
			t.Errorf("%+v", slot)
		}
		got := admin.Slot{Type: slot.Type, Plugin: slot.Plugin, Temporary: slot.Temporary, TwoPhase: slot.TwoPhase, Failover: slot.Failover}
		if got != tt.want {
			t.Errorf("%+v, want %+v", got, tt.want)
		}
		_, err = c.CreateSlot(t.Context(), tt.slot)
		check(t, err, walerr.SlotExists, `"`+tt.slot.Name+`"`)
	}
	_, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: "X", Plugin: "p", Physical: true, TwoPhase: true, Failover: true, Temporary: true, Export: admin.ExportUse})
	check(t, err, walerr.Options, `"X"`, "no Plugin", "no TwoPhase", "no Failover", "no Export", "temporary")
	_, err = c.CreateSlot(t.Context(), admin.SlotSpec{Name: "h", ReserveWAL: true, Export: 3})
	check(t, err, walerr.Options, "ReserveWAL", "Export 3")
	_, err = c.CreateSlot(t.Context(), admin.SlotSpec{Name: "h", Plugin: "none"})
	check(t, err, walerr.PluginMissing, `"none"`)
	check(t, c.DropSlot(t.Context(), "none", admin.DropOptions{}), walerr.SlotMissing, `"none"`)
	if err := c.DropSlot(t.Context(), "a", admin.DropOptions{}); err != nil {
		t.Error(err)
	}
	c.Close()
	db.Wait(t, "SELECT count(*) = 0 FROM pg_replication_slots WHERE temporary")

	// Without a database there are physical slots only.
	c = connect(t, db.DSN(), admin.WithPhysical())
	_, err = c.CreateSlot(t.Context(), admin.SlotSpec{Name: "h"})
	check(t, err, walerr.Options, "WithPhysical")
	if _, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: "h", Physical: true}); err != nil {
		t.Error(err)
	}
	if err := c.DropSlot(t.Context(), "h", admin.DropOptions{}); err != nil {
		t.Error(err)
	}
}

// The snapshot sees what the slot will not send.
func TestNewSlotSnapshot(t *testing.T) {
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

	c := connect(t, db.DSN())
	made, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name + "_e", Temporary: true, Export: admin.ExportName})
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "INSERT INTO t VALUES (2)")
	other := connect(t, db.DSN())
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
	if _, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name + "_u", Temporary: true, Export: admin.ExportUse}); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "INSERT INTO t VALUES (3)")
	if n := count(exec); n != "2" {
		t.Errorf("the snapshot of the slot sees %s rows", n)
	}
	c.Close()
	other.Close()
}

// subscribe streams from the slot, with the publication p.
func subscribe(t *testing.T, dsn, slot string, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	s, err := walchan.Subscribe(t.Context(), dsn, append(opts, walchan.WithSlot(slot), walchan.WithPublication("p"), walchan.WithLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// DropSlot with Wait waits for the one who streams from the slot.
func TestDropSlotWait(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE PUBLICATION p FOR ALL TABLES")
	s := subscribe(t, db.DSN(), db.Name, walchan.WithCreateSlot())
	wait := admin.DropOptions{Wait: true}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := connect(t, db.DSN()).DropSlot(ctx, db.Name, wait); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is in use: %v", err)
	}
	dropped := make(chan error)
	dropper := connect(t, db.DSN("application_name=dropper"))
	go func() { dropped <- dropper.DropSlot(t.Context(), db.Name, wait) }()
	db.Wait(t, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'dropper' AND wait_event = 'ReplicationSlotDrop')")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-dropped; err != nil {
		t.Error(err)
	}
	if slot := slotNamed(t, dropper, db.Name); slot != nil {
		t.Errorf("%+v", slot)
	}
	check(t, dropper.DropSlot(t.Context(), db.Name, wait), walerr.SlotMissing, db.Name)
}
