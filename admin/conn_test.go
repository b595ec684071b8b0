package admin_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

func TestConnect(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	_, err := admin.Connect(t.Context(), "port=x password=secret", admin.WithConnect(nil), admin.WithLogger(nil))
	check(t, err, walerr.Options, "connection string", "WithConnect(nil)", "WithLogger(nil)")
	if strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	_, err = admin.Connect(t.Context(), db.DSN("dbname=none"))
	check(t, err, walerr.DatabaseMissing, `"none"`)
	refusal := errors.New("no password today")
	_, err = admin.Connect(t.Context(), db.DSN(), admin.WithConnect(func(context.Context, *pgconn.Config) error { return refusal }))
	check(t, err, refusal)

	// The connection string may be one for replication.
	for _, replication := range []string{"database", "true"} {
		c := connect(t, db.DSN("replication="+replication))
		if _, err := c.Slots(t.Context()); err != nil {
			t.Error(err)
		}
		if s, err := c.System(t.Context()); err != nil || s.Database != db.Name {
			t.Error(s, err)
		}
	}
}

// Connections are made when a command needs them: to one server, each with a configuration of its own.
func TestConnectionsGoToOneServer(t *testing.T) {
	t.Parallel()
	a, b := pgtest.Start(t), pgtest.Start(t)
	dsn := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=postgres sslmode=disable", a.Port(), b.Port())
	var configured int
	isDown := true
	c := connect(t, dsn, admin.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
		configured++
		dial := cfg.DialFunc
		cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			if isDown && strings.HasSuffix(address, fmt.Sprint(":", a.Port())) {
				return nil, errors.New("it is down")
			}
			return dial(ctx, network, address)
		}
		return nil
	}))
	if configured != 1 {
		t.Errorf("%d connections", configured)
	}
	isDown = false // from now on the first host would do
	s, err := c.System(t.Context())
	if want := pgtest.Query(t, b.DSN(), "SELECT system_identifier FROM pg_control_system()"); err != nil || s.ID != want {
		t.Errorf("%+v, %v; want %s", s, err, want)
	}
	if _, err := c.Slots(t.Context()); err != nil || configured != 2 {
		t.Error(err, configured)
	}
}

// Without a database there is only the log.
func TestPhysicalConn(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t, pgtest.WithHBA("host replication archivist 127.0.0.1/32 trust", "host all archivist 127.0.0.1/32 reject"))
	pgtest.Exec(t, cluster.DSN(), "CREATE ROLE archivist LOGIN REPLICATION")
	dsn := cluster.DSN("user=archivist")
	_, err := admin.Connect(t.Context(), dsn)
	check(t, err, walerr.Authentication, "pg_hba.conf")
	c := connect(t, dsn, admin.WithPhysical())
	if s, err := c.System(t.Context()); err != nil || s.Database != "" {
		t.Error(s, err)
	}
	if _, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: "s", Physical: true, ReserveWAL: true}); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"Slots":             second(c.Slots(t.Context())),
		"EnsurePublication": second(c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", AllTables: true})),
		"DropPublication":   c.DropPublication(t.Context(), "p"),
		"AdvanceSlot":       second(c.AdvanceSlot(t.Context(), "s", wal.End)),
		"a logical slot":    second(c.CreateSlot(t.Context(), admin.SlotSpec{Name: "l"})),
	} {
		check(t, err, walerr.Options, what, "WithPhysical")
	}
	if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("it runs SQL")
	}
	if err := c.DropSlot(t.Context(), "s", admin.DropOptions{}); err != nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

// What copies data is refused, and the Conn goes on.
func TestExecTakesNoCopies(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int)", "CREATE PUBLICATION p FOR TABLE t")
	c := connect(t, db.DSN())
	if _, err := c.CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name}); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{
		"COPY t FROM STDIN", "COPY t TO STDOUT", "COPY (SELECT generate_series(1, 1000000)) TO STDOUT", "SELECT 1; /* */ COPY t FROM STDIN",
		`START_REPLICATION SLOT "` + db.Name + `" LOGICAL 0/0 (proto_version '1', publication_names 'p')`,
		"\tBASE_BACKUP (LABEL 'x')", "base_backup",
	} {
		_, err := c.Exec(t.Context(), command)
		check(t, err, walerr.Options, "COPY")
		if rows, err := c.Exec(t.Context(), "SELECT 1, NULL"); err != nil || fmt.Sprint(rows) != "[[1 ]]" {
			t.Errorf("after %s: %q, %v", command, rows, err)
		}
	}
	_, err := c.Exec(t.Context(), "SELECT nosuch")
	check(t, err, walerr.Server, "42703")
	if rows, err := c.Exec(t.Context(), "CREATE TABLE u (id int); INSERT INTO u VALUES (1) RETURNING id; SELECT 2"); err != nil || fmt.Sprint(rows) != "[[1] [2]]" {
		t.Errorf("%q, %v", rows, err)
	}
	// A command whose context ends breaks the Conn.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Exec(ctx, "SELECT 1"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_, err = c.Exec(t.Context(), "SELECT 1")
	check(t, err, walerr.Unreachable)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The server's notices are logged.
func TestNoticesAreLogged(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	var b strings.Builder
	c := connect(t, db.DSN(), admin.WithLogger(slog.New(slog.NewTextHandler(&b, nil))))
	for _, sql := range []string{"DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$", "DROP TABLE IF EXISTS none"} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{`level=INFO msg="notice from the server" severity=NOTICE`, `level=WARN`, "a warning", "none"} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("%q is missing in %s", line, &b)
		}
	}
}
