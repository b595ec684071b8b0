package pgtest

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestDatabase(t *testing.T) {
	t.Parallel()
	a, b := Database(t), Database(t)
	a.Exec(t, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)")
	b.Exec(t, "CREATE TABLE t (id int)")
	if got := a.Query(t, "SELECT count(*) FROM t"); got != "2" {
		t.Errorf("a has %s rows", got)
	}
	if got := Query(t, b.SocketDSN(), "SELECT count(*) FROM t"); got != "0" {
		t.Errorf("b has %s rows", got)
	}
	if got := b.Query(t, "SELECT current_database()"); got != b.Name {
		t.Errorf("in %q, not %q", got, b.Name)
	}
	if a.Cluster != b.Cluster {
		t.Error("two clusters")
	}
	a.Wait(t, "SELECT true")
}

// What a test leaves behind goes with its database: a prepared transaction, connections, and slots, one of them in use by a
// client that connects again at once.
func TestDatabaseIsDropped(t *testing.T) {
	t.Parallel()
	var db DB
	var client *pgconn.PgConn
	gone := make(chan struct{})
	t.Run("messy", func(t *testing.T) {
		db = Database(t)
		ctx := context.Background() // t.Context ends, and with it a connection's use, before the database is dropped
		var err error
		if client, err = pgconn.Connect(ctx, db.DSN()); err != nil {
			t.Fatal(err)
		}
		db.Exec(t, "CREATE TABLE t (id int)")
		for _, slot := range []string{db.Name, db.Name + "_idle"} {
			db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'test_decoding')")
		}
		db.Exec(t, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION '"+db.Name+"'")
		go func() {
			replicate(ctx, db)
			close(gone)
		}()
		db.Wait(t, "SELECT active FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	})
	for what, sql := range map[string]string{
		"databases":             "SELECT count(*) FROM pg_database WHERE datname = '",
		"slots":                 "SELECT count(*) FROM pg_replication_slots WHERE database = '",
		"prepared transactions": "SELECT count(*) FROM pg_prepared_xacts WHERE database = '",
		"connections":           "SELECT count(*) FROM pg_stat_activity WHERE datname = '",
	} {
		if got := Query(t, db.Cluster.DSN(), sql+db.Name+"'"); got != "0" {
			t.Errorf("%s %s left", got, what)
		}
	}
	if t.Failed() {
		return
	}
	if err := client.Exec(t.Context(), "SELECT").Close(); err == nil {
		t.Error("the connection is alive")
	}
	<-gone
}

// replicate returns when the database is gone.
func replicate(ctx context.Context, db DB) {
	for {
		conn, err := pgconn.Connect(ctx, db.DSN("replication=database"))
		if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code == "3D000" {
			return
		}
		if err == nil {
			_ = conn.Exec(ctx, "START_REPLICATION SLOT "+db.Name+" LOGICAL 0/0").Close()
			_ = conn.Close(ctx)
		}
	}
}
