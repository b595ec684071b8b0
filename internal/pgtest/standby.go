package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

var standbys atomic.Int32

// NewStandby makes a hot standby of c. It streams from c through a physical slot of its own, and has c's configuration
// except for what opts change. Close it before c or after.
func (c *Cluster) NewStandby(ctx context.Context, opts ...Option) (*Cluster, error) {
	slot := fmt.Sprintf("standby_%d", standbys.Add(1))
	s, err := build(c.options.with(opts), func(s *Cluster) error { return c.backup(ctx, s, slot) })
	if err != nil {
		return nil, err
	}
	if err := s.startOnFreePort(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// backup copies the running c into s, which is to stream from it through the slot. Not with pg_basebackup, which is not
// everywhere where a server is: see "Making a Base Backup Using the Low Level API" in the PostgreSQL documentation.
func (c *Cluster) backup(ctx context.Context, s *Cluster, slot string) error {
	start, stop := "pg_backup_start('standby', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if c.Version() < 15 {
		start, stop = "pg_start_backup('standby', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	var label string
	err := connected(ctx, c.SocketDSN(), func(conn *pgconn.PgConn) error {
		// The slot first: it keeps the WAL that the copy needs.
		_, err := queryOne(ctx, conn, "SELECT pg_create_physical_replication_slot('"+slot+"', true), "+start)
		if err == nil {
			err = copyRunning(c.DataDir(), s.DataDir())
		}
		if err == nil {
			label, err = queryOne(ctx, conn, stop)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("pgtest: make a standby: %w", err)
	}
	return errors.Join(
		s.writeData("backup_label", strings.TrimRight(label, "\n")),
		s.writeData("standby.signal"),
		s.writeData("postgresql.auto.conf",
			setting("primary_conninfo", c.SocketDSN("application_name="+slot)),
			setting("primary_slot_name", slot)),
	)
}

// copyRunning copies the data directory of a running server, whose files may go away meanwhile, without what a backup leaves
// out.
func copyRunning(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(from, path)
		switch parent, _ := filepath.Split(rel); {
		case errors.Is(err, fs.ErrNotExist), rel == "postmaster.pid", rel == "postmaster.opts":
			return nil
		case err != nil:
			return err
		case parent == "pg_wal/" && !d.IsDir():
			return nil
		case parent == "pg_replslot/", parent == "pg_dynshmem/", parent == "pg_stat_tmp/":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			err = os.Mkdir(target, 0o700)
		} else {
			var data []byte
			if data, err = os.ReadFile(path); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			err = errors.Join(err, os.WriteFile(target, data, 0o600))
		}
		return errors.Join(err, giveToServer(target))
	})
}

// Standby is NewStandby for tests, as Start is New.
func (c *Cluster) Standby(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	s, err := c.NewStandby(t.Context(), opts...)
	return s.owned(t, err)
}

// Promote ends a standby's recovery, and returns when it takes writes, on a new timeline.
func (c *Cluster) Promote(ctx context.Context) error {
	return execSQL(ctx, c.SocketDSN(), "SELECT pg_promote()")
}
