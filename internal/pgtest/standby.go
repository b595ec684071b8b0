package pgtest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
)

var standbys atomic.Int32

// NewStandby makes a hot standby of c by pg_basebackup. It streams from c through a physical slot of its own, and has c's
// configuration except for what opts change. Close it before c or after.
func (c *Cluster) NewStandby(ctx context.Context, opts ...Option) (*Cluster, error) {
	slot := fmt.Sprintf("standby_%d", standbys.Add(1))
	s, err := build(c.options.with(opts), func(s *Cluster) error {
		return s.run(ctx, "pg_basebackup", "-d", c.SocketDSN("application_name="+slot), "-D", s.DataDir(),
			"--write-recovery-conf", "--create-slot", "--slot", slot, "--wal-method=stream", "--checkpoint=fast", "--no-sync")
	})
	if err != nil {
		return nil, err
	}
	if err := s.startOnFreePort(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
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
