package pgtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A DB is a database of its own for one test, empty at first.
type DB struct {
	*Cluster
	Name string // also a good name for a slot
}

var shared = sync.OnceValues(func() (*Cluster, error) { return New(context.Background()) })

// Shared is the cluster that the tests of one binary share. It is made when first asked for and goes with the process. Do not
// stop, kill or configure it.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Database makes a database in the shared cluster: see [Cluster.Database].
func Database(t testing.TB) DB {
	t.Helper()
	return Shared(t).Database(t)
}

var databases atomic.Int32

// Database makes an empty database. When the test ends it is dropped, with the connections, slots and prepared
// transactions in it; if the test failed, the server's log since its beginning is part of its output.
func (c *Cluster) Database(t testing.TB) DB {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(t.Name()))
	db := DB{c, fmt.Sprintf("%.40s_%d", name, databases.Add(1))}
	logged := len(c.Log())
	Exec(t, c.SocketDSN(), fmt.Sprintf("CREATE DATABASE %q TEMPLATE template0", db.Name))
	t.Cleanup(func() {
		if err := db.drop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("end of the server's log:\n%s", lastLines(c.Log()[logged:], 60))
		}
	})
	return db
}

// drop drops the database, and before that what would prevent it: DROP DATABASE takes the slots and WITH (FORCE) the
// connections, but it refuses if there are prepared transactions or if a slot is active.
func (db DB) drop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := connected(ctx, db.SocketDSN(), func(conn *pgconn.PgConn) error {
		for {
			gid, err := queryOne(ctx, conn, "SELECT min(gid) FROM pg_prepared_xacts WHERE database = current_database()")
			if gid == "" || err != nil {
				return err
			}
			if err := conn.Exec(ctx, "ROLLBACK PREPARED "+quoteLiteral(gid)).Close(); err != nil {
				return fmt.Errorf("pgtest: %w", err)
			}
		}
	})
	if err != nil {
		return err
	}
	return execSQL(ctx, db.Cluster.SocketDSN(),
		fmt.Sprintf("ALTER DATABASE %q ALLOW_CONNECTIONS false", db.Name), // nobody connects again
		fmt.Sprintf("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '%s'", db.Name),
		fmt.Sprintf("DROP DATABASE %q WITH (FORCE)", db.Name))
}

// DSN is [Cluster.DSN] for the database.
func (db DB) DSN(params ...string) string { return db.Cluster.DSN(db.params(params)...) }

// SocketDSN is [Cluster.SocketDSN] for the database.
func (db DB) SocketDSN(params ...string) string { return db.Cluster.SocketDSN(db.params(params)...) }

func (db DB) params(params []string) []string {
	return append([]string{"dbname=" + db.Name}, params...)
}

// Exec is [Exec] in the database.
func (db DB) Exec(t testing.TB, sql ...string) {
	t.Helper()
	Exec(t, db.DSN(), sql...)
}

// Query is [Query] in the database.
func (db DB) Query(t testing.TB, sql string) string {
	t.Helper()
	return Query(t, db.DSN(), sql)
}

// Wait is [Wait] in the database.
func (db DB) Wait(t testing.TB, sql string) {
	t.Helper()
	Wait(t, db.DSN(), sql)
}
