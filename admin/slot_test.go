package admin_test

import (
	"errors"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/walerr"
)

func TestCreateAndDropSlot(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	_, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithPublication("p"))
	check(t, err, walerr.SlotMissing, db.Name, "WithCreateSlot")

	c := connect(t, db.DSN())
	db.Exec(t, "INSERT INTO t VALUES (1)")
	made, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name})
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "INSERT INTO t VALUES (2)")
	_, err = c.CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name})
	check(t, err, walerr.SlotExists, db.Name)
	if slot := slotNamed(t, c, db.Name); slot == nil || slot.ConfirmedFlush != made.Start || made.Start == 0 || slot.SafeWALSize != nil {
		t.Errorf("made at %s: %+v", made.Start, slot)
	}

	s := subscribe(t, db.DSN(), db.Name)
	m := <-s.C()
	if m.New().Text(0) != "2" {
		t.Errorf("the first message is %v", m)
	}
	s.Ack(m)
	err = c.DropSlot(t.Context(), db.Name, admin.DropOptions{})
	pid := slotNamed(t, c, db.Name).ActivePID
	check(t, err, walerr.SlotActive, db.Name)
	if e := (*walerr.Error)(nil); !errors.As(err, &e) || e.PID != pid || pid == 0 {
		t.Errorf("PID %d: %+v", pid, err)
	}

	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := c.DropSlot(t.Context(), db.Name, admin.DropOptions{}); err != nil {
		t.Error(err)
	}
	check(t, c.DropSlot(t.Context(), db.Name, admin.DropOptions{}), walerr.SlotMissing, db.Name)
}

func TestSlots(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t, pgtest.WithSetting("max_slot_wal_keep_size", "1GB"))
	db := cluster.Database(t)
	db.Exec(t, "CREATE TABLE t (id int)", "CREATE PUBLICATION p FOR TABLE t",
		"SELECT pg_create_physical_replication_slot('b_physical'), pg_create_physical_replication_slot('c_reserved', true)")
	c := connect(t, cluster.DSN("replication=database"))
	if slots, err := c.Slots(t.Context()); err != nil || len(slots) != 2 {
		t.Errorf("%+v, %v", slots, err)
	}
	if _, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: "d_other_database", Plugin: "test_decoding"}); err != nil {
		t.Fatal(err)
	}
	subscribe(t, db.DSN(), "a_active", walchan.WithCreateSlot())
	subscribe(t, db.DSN(), "") // temporary, called walchan_…

	before := slotNamed(t, c, "c_reserved").Retained
	db.Exec(t, "INSERT INTO t SELECT generate_series(1, 10000)")
	if after := slotNamed(t, c, "c_reserved").Retained; after < before+100_000 {
		t.Errorf("retained %d, then %d", before, after)
	}
	slots, err := c.Slots(t.Context())
	if err != nil || len(slots) != 5 {
		t.Fatalf("%+v, %v", slots, err)
	}
	for i, s := range slots {
		if s.SafeWALSize == nil || *s.SafeWALSize < 100<<20 || *s.SafeWALSize > 2<<30 {
			t.Errorf("%s: safe WAL size", s.Name)
		}
		if since := s.InactiveSince; cluster.Version() >= 17 && since.IsZero() != s.Active || since.After(time.Now().Add(time.Minute)) {
			t.Errorf("%s: inactive since %v", s.Name, since)
		}
		got := s
		got.Name, got.ActivePID, got.RestartLSN, got.ConfirmedFlush, got.Retained, got.SafeWALSize, got.InactiveSince, got.CatalogXMin = "", 0, 0, 0, 0, nil, time.Time{}, 0
		want := []admin.Slot{
			{Type: "logical", Plugin: "pgoutput", Database: db.Name, Active: true, WALStatus: "reserved"},
			{Type: "physical"},
			{Type: "physical", WALStatus: "reserved"},
			{Type: "logical", Plugin: "test_decoding", Database: "postgres", WALStatus: "reserved"},
			{Type: "logical", Plugin: "pgoutput", Database: db.Name, Temporary: true, Active: true, WALStatus: "reserved"},
		}[i]
		if got != want || s.Active != (s.ActivePID != 0) || (s.Type == "logical") != (s.ConfirmedFlush != 0) || (s.Type == "logical") != (s.CatalogXMin != 0) {
			t.Errorf("%+v, want %+v", s, want)
		}
	}
}
