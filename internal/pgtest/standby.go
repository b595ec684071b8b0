package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

var standbys atomic.Int32

func newStandbySlot() string { return fmt.Sprintf("standby_%d", standbys.Add(1)) }

// NewStandby makes a hot standby of c. It streams from c through a physical slot that is made for it, and has c's configuration
// except for what opts change. Close it before c or after.
func (c *Cluster) NewStandby(ctx context.Context, opts ...Option) (*Cluster, error) {
	slot := newStandbySlot()
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
			err = copyData(c.DataDir(), s.DataDir(), isLeftOut)
		}
		if err == nil {
			label, err = queryOne(ctx, conn, stop)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("pgtest: make a standby: %w", err)
	}
	return errors.Join(s.writeData("backup_label", strings.TrimRight(label, "\n")), s.follow(c, slot))
}

// isLeftOut says what a backup of a running server leaves out.
func isLeftOut(rel string, d fs.DirEntry) bool {
	switch filepath.Dir(rel) {
	case "pg_wal":
		return !d.IsDir()
	case slotsDir, "pg_dynshmem", "pg_stat_tmp":
		return true
	}
	return false
}

// follow makes a cluster that is not running a standby, which streams from the primary through the slot.
func (c *Cluster) follow(primary *Cluster, slot string) error {
	return errors.Join(
		c.writeData("standby.signal"),
		c.writeData("postgresql.auto.conf",
			setting("primary_conninfo", primary.conninfo(slot)),
			setting("primary_slot_name", slot)))
}

// conninfo is the primary_conninfo of the standby with that slot.
func (c *Cluster) conninfo(slot string) string { return c.SocketDSN("application_name=" + slot) }

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

// CutOff separates a standby from its primary, as a broken network does. WAL that has not reached it by then never does.
func (c *Cluster) CutOff(t testing.TB) {
	t.Helper()
	Exec(t, c.SocketDSN(), "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
	Wait(t, c.SocketDSN(), "SELECT count(*) = 0 FROM pg_stat_wal_receiver")
}

// Attach has a standby stream from a primary: from its own one again after CutOff, or from another one.
func (c *Cluster) Attach(t testing.TB, primary *Cluster) {
	t.Helper()
	slot := Query(t, c.SocketDSN(), "SHOW primary_slot_name")
	Exec(t, primary.SocketDSN(), "SELECT pg_create_physical_replication_slot('"+slot+"', true) "+
		"WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '"+slot+"')")
	Exec(t, c.SocketDSN(), "ALTER SYSTEM SET primary_conninfo = "+quoteLiteral(primary.conninfo(slot)), "SELECT pg_reload_conf()")
	Wait(t, primary.SocketDSN(), "SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = '"+slot+"'")
}

// CatchUp waits until a standby has replayed what the primary has written so far.
func (c *Cluster) CatchUp(t testing.TB, primary *Cluster) {
	t.Helper()
	Wait(t, c.SocketDSN(), "SELECT pg_last_wal_replay_lsn() >= '"+Query(t, primary.SocketDSN(), "SELECT pg_current_wal_flush_lsn()")+"'")
}

// PauseReplay has a standby receive WAL and not replay it. Promote replays it all the same.
func (c *Cluster) PauseReplay(t testing.TB) {
	t.Helper()
	Exec(t, c.SocketDSN(), "SELECT pg_wal_replay_pause()")
	Wait(t, c.SocketDSN(), "SELECT pg_get_wal_replay_pause_state() = 'paused'")
}

// ResumeReplay ends PauseReplay.
func (c *Cluster) ResumeReplay(t testing.TB) {
	t.Helper()
	Exec(t, c.SocketDSN(), "SELECT pg_wal_replay_resume()")
}

// SyncSlot tries to bring a standby's copy of a fail-over slot up to date with the primary's (PostgreSQL 17 or later), and returns
// whether it is. The standby needs hot_standby_feedback. A first copy succeeds only if the primary's slot has confirmed more than a
// snapshot of the running transactions (pg_log_standby_snapshot), after which none has begun.
func (c *Cluster) SyncSlot(t testing.TB, primary *Cluster, slot string) bool {
	t.Helper()
	state := "SELECT coalesce(max(confirmed_flush_lsn::text), '') FROM pg_replication_slots WHERE slot_name = '" + slot + "' AND NOT temporary"
	want := Query(t, primary.SocketDSN(), state)
	c.CatchUp(t, primary)
	Exec(t, c.SocketDSN(), "SELECT pg_sync_replication_slots()")
	return want != "" && Query(t, c.SocketDSN(), state+" AND synced") == want
}
