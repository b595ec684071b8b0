package admin_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

func TestAdvanceSlot(t *testing.T) {
	t.Parallel()
	db, other := pgtest.Database(t), pgtest.Database(t)
	c := connect(t, db.DSN())
	made, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name, Plugin: "test_decoding"})
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
	middle, err := wal.ParseLSN(db.Query(t, "SELECT pg_current_wal_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "INSERT INTO t VALUES (2)")
	changes := func() string {
		return db.Query(t, "SELECT count(*) FROM pg_logical_slot_peek_changes('"+db.Name+"', NULL, NULL) WHERE data LIKE 'table%'")
	}
	if n := changes(); n != "2" {
		t.Fatalf("%s changes", n)
	}
	at, err := c.AdvanceSlot(t.Context(), db.Name, middle)
	if slot := slotNamed(t, c, db.Name); err != nil || at < made.Start || at > middle || slot.ConfirmedFlush != at || changes() != "1" {
		t.Errorf("%s, %v; made at %s, to %s: %+v", at, err, made.Start, middle, slot)
	}
	_, err = c.AdvanceSlot(t.Context(), db.Name, made.Start-1)
	check(t, err, walerr.Options, db.Name, "never goes back")
	end, err := c.AdvanceSlot(t.Context(), db.Name, wal.End)
	if err != nil || end <= middle || changes() != "0" {
		t.Errorf("to the end: %s, %v", end, err)
	}
	again, err := c.AdvanceSlot(t.Context(), db.Name, wal.End)
	if err != nil || again < end {
		t.Errorf("to the end again: %s, %v", again, err)
	}

	_, err = c.AdvanceSlot(t.Context(), "no slot", wal.End)
	check(t, err, walerr.Options, `"no slot"`)
	_, err = c.AdvanceSlot(t.Context(), db.Name, 0)
	check(t, err, walerr.Options, "wal.End")
	_, err = c.AdvanceSlot(t.Context(), "none", wal.End)
	check(t, err, walerr.SlotMissing, `"none"`)
	if _, err = connect(t, other.DSN()).AdvanceSlot(t.Context(), db.Name, wal.End); db.Version() < 17 || err != nil {
		check(t, err, walerr.SlotMismatch, db.Name, "database")
	}

	// A temporary slot belongs to the Conn that has made it.
	temporary := db.Name + "_t"
	if _, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: temporary, Temporary: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AdvanceSlot(t.Context(), temporary, wal.End); err != nil {
		t.Error(err)
	}
	_, err = connect(t, db.DSN()).AdvanceSlot(t.Context(), temporary, wal.End)
	check(t, err, walerr.SlotActive, temporary, "PID")

	physical := db.Name + "_p"
	if _, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: physical, Physical: true}); err != nil {
		t.Fatal(err)
	}
	defer c.DropSlot(context.Background(), physical, admin.DropOptions{})
	_, err = c.AdvanceSlot(t.Context(), physical, wal.End)
	check(t, err, walerr.SlotMismatch, physical, "ReserveWAL")
}

func TestAdvanceLostSlot(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t, pgtest.WithSetting("max_slot_wal_keep_size", "1MB"))
	c := connect(t, cluster.DSN())
	if _, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: "s"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		pgtest.Exec(t, cluster.DSN(), "SELECT pg_current_xact_id()", "SELECT pg_switch_wal()", "CHECKPOINT")
	}
	_, err := c.AdvanceSlot(t.Context(), "s", wal.End)
	check(t, err, walerr.SlotInvalidated, `"s"`)
}

func TestDropSlotIfExists(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	c := connect(t, db.DSN())
	if err := c.DropSlot(t.Context(), db.Name, admin.DropOptions{IfExists: true}); err != nil {
		t.Error(err)
	}
	check(t, c.DropSlot(t.Context(), db.Name, admin.DropOptions{}), walerr.SlotMissing, db.Name)
	check(t, c.DropSlot(t.Context(), "no slot", admin.DropOptions{IfExists: true}), walerr.Options, `"no slot"`)
	if _, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name, Temporary: true}); err != nil {
		t.Fatal(err)
	}
	other := connect(t, db.DSN())
	err := other.DropSlot(t.Context(), db.Name, admin.DropOptions{IfExists: true})
	check(t, err, walerr.SlotActive, db.Name)
	if e := (*walerr.Error)(nil); !errors.As(err, &e) || e.PID != slotNamed(t, c, db.Name).ActivePID || e.PID == 0 {
		t.Errorf("%+v", err)
	}
	if err := c.DropSlot(t.Context(), db.Name, admin.DropOptions{IfExists: true}); err != nil || slotNamed(t, c, db.Name) != nil {
		t.Error(err)
	}
}

// An application writes before, while and after a slot is made, moved and dropped.
func TestSlotsBreakNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	app, c := newApplication(t, db), connect(t, db.DSN())
	db.Exec(t, "CREATE TABLE keyed (id int PRIMARY KEY, v text)", "CREATE TABLE keyless (id int, v text)", "CREATE PUBLICATION p FOR TABLE keyed")
	works := func(when string, err error) {
		t.Helper()
		if failed := app.fails("keyed", "keyless"); failed != "" || err != nil {
			t.Errorf("%s: %v; %s", when, err, failed)
		}
	}
	works("before", nil)
	for i, spec := range []admin.SlotSpec{
		{}, {Plugin: "test_decoding"}, {Temporary: true}, {Physical: true}, {Physical: true, ReserveWAL: true}, {Export: admin.ExportName}, {TwoPhase: true}, {Failover: true},
	} {
		spec.Name = fmt.Sprint(db.Name, "_", i)
		_, err := c.CreateSlot(t.Context(), spec)
		if errors.Is(err, walerr.ServerVersion) {
			continue
		}
		works(fmt.Sprintf("after CreateSlot of %+v", spec), err)
		if !spec.Physical || spec.ReserveWAL {
			_, err := c.AdvanceSlot(t.Context(), spec.Name, wal.End)
			works("after AdvanceSlot", err)
		}
		works("after DropSlot", c.DropSlot(t.Context(), spec.Name, admin.DropOptions{}))
	}

	// While a slot is made, which waits for a transaction.
	open := newApplication(t, db).conn
	if err := open.Exec(t.Context(), "BEGIN; SELECT pg_current_xact_id()").Close(); err != nil {
		t.Fatal(err)
	}
	made := make(chan error)
	go func() { made <- second(c.CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name})) }()
	db.Wait(t, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '"+db.Name+"' AND backend_type = 'walsender' AND wait_event = 'transactionid')")
	works("during CreateSlot", nil)
	if err := open.Exec(t.Context(), "COMMIT").Close(); err != nil {
		t.Fatal(err)
	}
	works("after it", <-made)
}

// logBuffer is a log that one goroutine writes and another one reads.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// A slot that waits says for whom.
func TestCreateSlotSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	open := newApplication(t, db).conn
	if err := open.Exec(t.Context(), "SET application_name = 'nightly report'; BEGIN; SELECT pg_current_xact_id()").Close(); err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	c := connect(t, db.DSN(), admin.WithLogger(log.logger()))
	made := make(chan error)
	go func() { made <- second(c.CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name})) }()
	waitFor(t, func() bool {
		return strings.Contains(log.String(), fmt.Sprintf("of PID %d (nightly report), begun at ", open.PID()))
	}, &log)
	if err := open.Exec(t.Context(), "PREPARE TRANSACTION '"+db.Name+"'").Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(log.String(), "prepared as '"+db.Name+"'") }, &log)
	if err := open.Exec(t.Context(), "ROLLBACK PREPARED '"+db.Name+"'").Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-made; err != nil {
		t.Error(err)
	}
}

// It does so, too, if it cannot be asked for whom.
func TestCreateSlotSaysThatItWaits(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	open := newApplication(t, db).conn
	if err := open.Exec(t.Context(), "BEGIN; SELECT pg_current_xact_id()").Close(); err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	var refuses atomic.Bool
	c := connect(t, db.DSN(), admin.WithLogger(log.logger()), admin.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
		dial := cfg.DialFunc
		cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			if refuses.Load() {
				return nil, errors.New("no more connections")
			}
			return dial(ctx, network, address)
		}
		return nil
	}))
	made := make(chan error)
	go func() { made <- second(c.CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name})) }()
	db.Wait(t, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '"+db.Name+"' AND backend_type = 'walsender' AND wait_event = 'transactionid')")
	refuses.Store(true)
	waitFor(t, func() bool {
		return strings.Contains(log.String(), "what it waits for could not be asked") && strings.Contains(log.String(), "no more connections")
	}, &log)
	if err := open.Exec(t.Context(), "ROLLBACK").Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-made; err != nil {
		t.Error(err)
	}
}
