package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
)

// on makes the options for a slot with publication "p" that most tests here begin with.
func on(slot string, opts ...walchan.Option) []walchan.Option {
	return append([]walchan.Option{walchan.WithSlot(slot), walchan.WithPublication("p"), walchan.WithLogger(slog.New(slog.DiscardHandler))}, opts...)
}

func mustSubscribe(t *testing.T, dsn string, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	s, err := walchan.Subscribe(t.Context(), dsn, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// operator is a Conn that lasts until the test ends.
func operator(t *testing.T, dsn string, opts ...admin.Option) *admin.Conn {
	t.Helper()
	c, err := admin.Connect(t.Context(), dsn, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func mustCreateSlot(t *testing.T, dsn string, spec admin.SlotSpec) walchan.LSN {
	t.Helper()
	c := operator(t, dsn)
	defer c.Close()
	made, err := c.CreateSlot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return made.Start
}

// createPhysicalSlot makes one that keeps WAL from now on.
func createPhysicalSlot(t *testing.T, dsn, name string) {
	t.Helper()
	c := operator(t, dsn, admin.WithPhysical())
	defer c.Close()
	if _, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: name, Physical: true, ReserveWAL: true}); err != nil {
		t.Fatal(err)
	}
}

// dropSlot drops a slot, unless it is in use.
func dropSlot(ctx context.Context, dsn, name string) error {
	c, err := admin.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.DropSlot(ctx, name, admin.DropOptions{})
}

// slotNamed finds a slot in the list; nil if it is not there.
func slotNamed(t *testing.T, dsn, name string) *admin.Slot {
	t.Helper()
	c := operator(t, dsn)
	defer c.Close()
	slots, err := c.Slots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range slots {
		if s.Name == name {
			return &s
		}
	}
	return nil
}

// CREATE_REPLICATION_SLOT waits for running transactions.
func TestCreateSlotIsCancelled(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	open := begin(t, db)
	for _, create := range []func(context.Context) error{
		func(ctx context.Context) error {
			_, err := operator(t, db.DSN()).CreateSlot(ctx, admin.SlotSpec{Name: db.Name})
			return err
		},
		func(ctx context.Context) error {
			_, err := walchan.Subscribe(ctx, db.DSN(), on(db.Name, walchan.WithCreateSlot())...)
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error)
		go func() { done <- create(ctx) }()
		db.Wait(t, "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '"+db.Name+"')")
		if slot := slotNamed(t, db.DSN(), db.Name); !slot.Active {
			t.Errorf("while it is made: %+v", slot)
		}
		check(t, trySubscribe(t, db.DSN(), on(db.Name, walchan.WithCreateSlot())...), walchan.ErrSlotActive, db.Name)
		cancel()
		err := <-done
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "transactions that are running") {
			t.Errorf("cancelled: %v", err)
		}
		result, err := open.Exec(t.Context(), "SELECT FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'").ReadAll() // at once
		if err != nil || len(result[0].Rows) > 0 {
			t.Errorf("the slot is left behind, or %v", err)
		}
	}
	open.Close(t.Context())
}

// begin opens a transaction that has written.
func begin(t *testing.T, db pgtest.DB) *pgconn.PgConn {
	t.Helper()
	conn := pgtest.Connect(t, db.DSN()).PgConn()
	if err := conn.Exec(t.Context(), "BEGIN; SELECT pg_current_xact_id()").Close(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// To stream, a role needs REPLICATION, and no right on the tables.
func TestRoleNeedsOnlyReplication(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, e jsonb)", "CREATE TYPE mood AS ENUM ('ok')", "ALTER TABLE t ADD m mood", "CREATE PUBLICATION p FOR TABLE t",
		"CREATE ROLE "+db.Name+" LOGIN REPLICATION")
	t.Cleanup(func() { pgtest.Exec(t, db.DSN(), "DROP ROLE "+db.Name) })
	dsn := db.DSN("user=" + db.Name)
	mustCreateSlot(t, dsn, admin.SlotSpec{Name: db.Name})
	s := mustSubscribe(t, dsn, on(db.Name)...)
	for id := range 2 {
		db.Exec(t, fmt.Sprintf(`INSERT INTO t VALUES (%d, '{}', 'ok')`, id))
		m := <-s.C()
		if m.Kind != walchan.Insert || m.New().Text(2) != "ok" {
			t.Fatalf("%v, %v", m, s.Err())
		}
		s.Ack(m)
		db.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	}
	if err := s.Close(); err != nil && !errors.As(err, new(*walchan.UnconfirmedError)) {
		t.Error(err)
	}
	var err error
	for err = walchan.ErrSlotActive; errors.Is(err, walchan.ErrSlotActive); { // the one that was terminated
		err = dropSlot(t.Context(), dsn, db.Name)
	}
	if err != nil {
		t.Error(err)
	}
}

// What is wrong with a slot, a publication or a plugin.
func testSlotErrors(t *testing.T, c *pgtest.Cluster) {
	db, other := c.Database(t), c.Database(t)
	name := db.Name
	db.Exec(t, "CREATE PUBLICATION p FOR ALL TABLES", "SELECT pg_create_physical_replication_slot('"+name+"_ph')")
	other.Exec(t, "CREATE PUBLICATION p FOR ALL TABLES")
	t.Cleanup(func() { dropSlot(context.Background(), db.DSN(), name+"_ph") })
	mustCreateSlot(t, db.DSN(), admin.SlotSpec{Name: name})
	mustCreateSlot(t, db.DSN(), admin.SlotSpec{Name: name + "_td", Plugin: "test_decoding"})
	mustCreateSlot(t, other.DSN(), admin.SlotSpec{Name: name + "_other"})
	mustSubscribe(t, db.DSN(), on(name+"_active", walchan.WithCreateSlot())...)

	for _, tt := range []struct {
		name  string
		opts  []walchan.Option
		kind  error
		names []string
	}{
		{"missing", on(name + "_no"), walchan.ErrSlotMissing, []string{name + "_no", "WithCreateSlot"}},
		{"active", on(name + "_active"), walchan.ErrSlotActive, []string{name + "_active", "pg_terminate_backend("}},
		{"plugin", on(name + "_td"), walchan.ErrSlotMismatch, []string{"test_decoding", "pgoutput", "WithPlugin"}},
		{"database", on(name + "_other"), walchan.ErrSlotMismatch, []string{name, other.Name}},
		{"physical", on(name + "_ph"), walchan.ErrSlotMismatch, []string{"physical"}},
		{"publication", on(name, walchan.WithPublication("q", "r")), walchan.ErrPublicationMissing, []string{`"q", "r"`, "EnsurePublication"}},
		{"plugin missing", []walchan.Option{walchan.WithPlugin("nosuch", nil)}, walchan.ErrPluginMissing, []string{`"nosuch"`, "install"}},
		{"no plugin", []walchan.Option{walchan.WithPlugin("plpgsql", nil)}, walchan.ErrPluginMissing, []string{`"plpgsql"`}},
		{"option", on(name, walchan.WithPluginOption("nosuch", "1")), walchan.ErrPluginOption, []string{`"pgoutput"`, "nosuch", "WithPluginOption"}},
		{"option's value", on(name, walchan.WithPluginOption("binary", "maybe")), walchan.ErrPluginOption, []string{"binary"}},
		{"version", on(name, walchan.WithPluginOption("proto_version", "99")), walchan.ErrPluginOption, []string{"proto_version=99"}},
		{"names", on(name, walchan.WithPluginOption("publication_names", `"p`)), walchan.ErrPluginOption, []string{"publication_names"}},
		{"other plugin's option", []walchan.Option{walchan.WithSlot(name + "_td"), walchan.WithPlugin("test_decoding", map[string]string{"nosuch": "1"})},
			walchan.ErrPluginOption, []string{`"test_decoding"`, `"nosuch"`, "WithPlugin"}},
		{"temporary slot", []walchan.Option{walchan.WithPublication("p"), walchan.WithPluginOption("nosuch", "1")}, walchan.ErrPluginOption, []string{"nosuch"}},
		{"new slot", on(name+"_new", walchan.WithCreateSlot(), walchan.WithPluginOption("nosuch", "1")), walchan.ErrPluginOption, []string{"nosuch"}},
	} {
		t.Run(tt.name, func(t *testing.T) { check(t, trySubscribe(t, db.DSN(), tt.opts...), tt.kind, tt.names...) })
	}
	if slot := slotNamed(t, db.DSN(), name+"_new"); slot != nil {
		t.Errorf("a Subscribe that failed has left its slot behind: %+v", slot)
	}
	if slot := slotNamed(t, db.DSN(), name); slot == nil {
		t.Error("a Subscribe that failed has dropped a slot it has not made")
	}
}

func TestSlotErrors(t *testing.T) { testSlotErrors(t, pgtest.Shared(t)) }

// The server's messages may be in any language.
func TestSlotErrorsInGerman(t *testing.T) {
	c := german(t)
	testSlotErrors(t, c)
	db := c.Database(t)
	err := trySubscribe(t, db.DSN("dbname=nosuch"), on("s")...)
	check(t, err, walchan.ErrDatabaseMissing, "existiert nicht")
}

// german starts a server whose messages are German, if this machine has what it takes.
func german(t *testing.T) *pgtest.Cluster {
	dir, err := os.MkdirTemp("", "walchan-locale")
	if err == nil {
		err = os.Chmod(dir, 0o755) // for the server's user
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	locale := filepath.Join(dir, "de_DE") // its name alone leads to the translations
	out, err := exec.Command("localedef", "-c", "-i", "POSIX", "-f", "ANSI_X3.4-1968", locale).CombinedOutput()
	if _, missing := os.Stat(locale); missing != nil {
		t.Skipf("no German locale can be made here: %v, %s", err, out)
	}
	t.Setenv("LOCPATH", dir)
	c, err := pgtest.New(t.Context(), pgtest.WithSetting("lc_messages", "de_DE"))
	if err != nil {
		if strings.Contains(err.Error(), "lc_messages") {
			t.Skipf("the German locale does not work here: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := trySubscribe(t, c.DSN("dbname=nosuch"), on("s")...); !strings.Contains(err.Error(), "existiert") {
		t.Skipf("this PostgreSQL does not speak German: %v", err)
	}
	return c
}

// Two processes that start at once, with nothing there yet: one streams, the other is told that.
func TestSubscribeTwiceAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE PUBLICATION p FOR ALL TABLES")
	for range 20 {
		results := make(chan error)
		streams := make(chan *walchan.Stream, 2)
		for range 2 {
			go func() {
				s, err := walchan.Subscribe(t.Context(), db.DSN(), on(db.Name, walchan.WithCreateSlot())...)
				if err == nil {
					streams <- s
				}
				results <- err
			}()
		}
		for _, err := range []error{<-results, <-results} {
			if err != nil && !errors.Is(err, walchan.ErrSlotActive) {
				t.Error(err)
			}
		}
		if len(streams) != 1 {
			t.Fatalf("%d streams", len(streams))
		}
		if err := (<-streams).Close(); err != nil {
			t.Error(err)
		}
		if err := dropSlot(t.Context(), db.DSN(), db.Name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithSetting("max_wal_senders", "1"), pgtest.WithSetting("max_replication_slots", "1"),
		pgtest.WithSetting("max_slot_wal_keep_size", "1MB"))
	pgtest.Exec(t, c.DSN(), "CREATE TABLE t (id int)", "CREATE PUBLICATION p FOR TABLE t")
	s := mustSubscribe(t, c.DSN(), on("one", walchan.WithCreateSlot())...)
	check(t, trySubscribe(t, c.DSN(), on("two", walchan.WithCreateSlot())...), walchan.ErrTooManyClients, "max_wal_senders", "pg_stat_replication")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// A connection that is closed may still count for a moment.
	subscribe := func(opts ...walchan.Option) (s *walchan.Stream, err error) {
		for err = walchan.ErrTooManyClients; errors.Is(err, walchan.ErrTooManyClients); {
			s, err = walchan.Subscribe(t.Context(), c.DSN(), opts...)
		}
		return s, err
	}
	_, err := subscribe(on("two", walchan.WithCreateSlot())...)
	check(t, err, walchan.ErrNoFreeSlot, `"two"`, "max_replication_slots")
	_, err = subscribe(walchan.WithPublication("p"))
	check(t, err, walchan.ErrNoFreeSlot, "max_replication_slots")

	if s, err = subscribe(on("one")...); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pgtest.Exec(t, c.DSN(), "INSERT INTO t VALUES (1)")
	m := <-s.C() // not acknowledged: WAL is kept for it, more than is allowed
	for range 3 {
		pgtest.Exec(t, c.DSN(), "INSERT INTO t VALUES (1)", "SELECT pg_switch_wal()", "CHECKPOINT")
	}
	for range s.C() {
	}
	check(t, s.Err(), walchan.ErrSlotInvalidated, `"one"`, "max_slot_wal_keep_size")
	s.Ack(m)
	_, err = subscribe(on("one")...)
	check(t, err, walchan.ErrSlotInvalidated, `"one"`, "max_slot_wal_keep_size", "drop the slot")
	if slot := slotNamed(t, c.DSN(), "one"); slot.WALStatus != "lost" || c.Version() >= 17 && slot.InvalidationReason != "wal_removed" {
		t.Errorf("%+v", slot)
	}
	for err = walchan.ErrTooManyClients; errors.Is(err, walchan.ErrTooManyClients); {
		err = dropSlot(t.Context(), c.DSN(), "one")
	}
	if err != nil {
		t.Error(err)
	}
}

func TestUnpreparedServer(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithSetting("wal_level", "replica"))
	pgtest.Exec(t, c.DSN(), "CREATE PUBLICATION p FOR ALL TABLES")
	check(t, trySubscribe(t, c.DSN(), on("s", walchan.WithCreateSlot())...), walchan.ErrWALLevel, "wal_level is replica", "ALTER SYSTEM SET wal_level = logical")
	check(t, trySubscribe(t, c.DSN(), on("")...), walchan.ErrWALLevel, "wal_level is replica")

	none := pgtest.Start(t, pgtest.WithSetting("max_replication_slots", "0"))
	_, err := operator(t, none.DSN()).CreateSlot(t.Context(), admin.SlotSpec{Name: "s"})
	check(t, err, walchan.ErrNoFreeSlot, "max_replication_slots is 0")

	primary := pgtest.Start(t)
	standby := primary.Standby(t)
	if _, err := operator(t, standby.DSN()).EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", AllTables: true}); err != nil {
		check(t, err, walchan.ErrServerDown, `"p"`, "standby")
	} else {
		t.Error("a standby makes publications")
	}
	if _, err := operator(t, standby.DSN()).Slots(t.Context()); err != nil {
		t.Error(err)
	}
	if standby.Version() < 16 {
		_, err = operator(t, standby.DSN()).CreateSlot(t.Context(), admin.SlotSpec{Name: "s"})
		check(t, err, walchan.ErrServerDown, "recovery", `"s"`)
	}

	open := pgtest.Connect(t, primary.DSN()).PgConn() // a smart shutdown waits for it
	stopped := make(chan error)
	go func() { stopped <- primary.Stop(context.Background(), pgtest.Smart) }()
	for !strings.Contains(primary.Log(), "received smart shutdown request") {
		time.Sleep(time.Millisecond)
	}
	check(t, trySubscribe(t, primary.DSN(), on("s")...), walchan.ErrServerDown, "57P03")
	open.Close(t.Context())
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
