package pgtest

import "testing"

const (
	rowsOf   = "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM t"
	slotAt   = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 's'"
	system   = "SELECT system_identifier FROM pg_control_system()"
	timeline = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"
)

func want(t *testing.T, c *Cluster, sql, want string) {
	t.Helper()
	if got := Query(t, c.DSN(), sql); got != want {
		t.Errorf("%s: %s, want %s", sql, got, want)
	}
}

// withSlot is a cluster with a slot and a table with the row 1.
func withSlot(t *testing.T, opts ...Option) *Cluster {
	c := Start(t, opts...)
	Exec(t, c.DSN(), "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)", "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
	return c
}

func stop(t *testing.T, c *Cluster, mode Mode) {
	t.Helper()
	if err := c.Stop(t.Context(), mode); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func promote(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestCopyIsPutBack(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		part             Part
		oldRows, oldSlot bool
	}{
		"everything":    {Everything, true, true},
		"all but slots": {AllButSlots, true, false},
		"only slots":    {OnlySlots, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := withSlot(t)
			oldSlot := Query(t, c.DSN(), slotAt)
			stop(t, c, Immediate)
			p := c.Copy(t)
			start(t, c)
			Exec(t, c.DSN(), "INSERT INTO t VALUES (2)", "SELECT pg_replication_slot_advance('s', pg_current_wal_lsn())", "CHECKPOINT")
			newSlot := Query(t, c.DSN(), slotAt)
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				c.PutBack(t, p, x.part)
				start(t, c)
				want(t, c, rowsOf, map[bool]string{true: "1", false: "1 2"}[x.oldRows])
				want(t, c, slotAt, map[bool]string{true: oldSlot, false: newSlot}[x.oldSlot])
				stop(t, c, Fast)
			}
		})
	}
}

func TestTwins(t *testing.T) {
	t.Parallel()
	c := withSlot(t)
	position := Query(t, c.DSN(), slotAt)
	stop(t, c, Fast)
	p := c.Copy(t)
	start(t, c)
	twin := p.Twin(t)
	Exec(t, c.DSN(), "INSERT INTO t VALUES (2)")
	Exec(t, twin.DSN(), "INSERT INTO t VALUES (3)")
	want(t, c, rowsOf, "1 2")
	want(t, twin, rowsOf, "1 3")
	want(t, twin, slotAt, position)
	want(t, twin, system, Query(t, c.DSN(), system))
	want(t, twin, timeline, "00000001")
	// The one is put back from the other.
	stop(t, c, Fast)
	stop(t, twin, Fast)
	twin.PutBack(t, c.Copy(t), Everything)
	start(t, c)
	start(t, twin)
	want(t, twin, rowsOf, "1 2")
}

func TestStandbysAreCutOffAndPromotedToOneNumber(t *testing.T) {
	t.Parallel()
	c := withSlot(t)
	stop(t, c, Fast)
	p := c.Copy(t)
	start(t, c)
	a, b := p.Standby(t, c), c.Standby(t)
	Exec(t, c.DSN(), "INSERT INTO t VALUES (2)")
	a.CatchUp(t, c)
	b.CatchUp(t, c)
	a.CutOff(t)
	b.CutOff(t)
	Exec(t, c.DSN(), "INSERT INTO t VALUES (3)")
	b.Attach(t, c)
	b.CatchUp(t, c)
	b.PauseReplay(t)
	Exec(t, c.DSN(), "INSERT INTO t VALUES (4)")
	Wait(t, c.DSN(), "SELECT min(flush_lsn) = pg_current_wal_flush_lsn() FROM pg_stat_replication")
	want(t, a, rowsOf, "1 2")
	want(t, b, rowsOf, "1 2 3")
	b.ResumeReplay(t)
	b.CatchUp(t, c)
	want(t, b, rowsOf, "1 2 3 4")
	promote(t, a)
	promote(t, b)
	for _, s := range []*Cluster{a, b} {
		want(t, s, timeline, "00000002")
	}
	// The slot is where it was copied.
	if got := Query(t, a.DSN(), slotAt); got != Query(t, c.DSN(), slotAt) {
		t.Errorf("the slot is at %s", got)
	}
	want(t, b, "SELECT count(*) FROM pg_replication_slots", "0")
}

func TestRecover(t *testing.T) {
	t.Parallel()
	c := withSlot(t)
	stop(t, c, Fast)
	p := c.Copy(t)
	start(t, c)
	Exec(t, c.DSN(), "INSERT INTO t VALUES (2)")
	target := Query(t, c.DSN(), "SELECT pg_current_wal_lsn()")
	Exec(t, c.DSN(), "INSERT INTO t VALUES (3)")
	r := p.Recover(t, c, WithSetting("recovery_target_lsn", target))
	want(t, r, rowsOf, "1 2")
	want(t, r, timeline, "00000002")
	want(t, r, slotAt, Query(t, c.DSN(), slotAt))
}

func TestSyncSlot(t *testing.T) {
	t.Parallel()
	if Shared(t).Version() < 17 {
		t.Skip("fail-over slots came with PostgreSQL 17")
	}
	c := Start(t)
	Exec(t, c.DSN(), "SELECT pg_create_logical_replication_slot('s', 'pgoutput', failover => true)")
	s := c.Standby(t, WithSetting("hot_standby_feedback", "on"))
	for n := range 10 {
		Exec(t, c.DSN(), "SELECT pg_log_standby_snapshot()", "SELECT pg_logical_emit_message(false, 'p', '')", "SELECT pg_replication_slot_advance('s', pg_current_wal_lsn())")
		if s.SyncSlot(t, c, "s") && n > 3 {
			break
		}
	}
	position := Query(t, c.DSN(), slotAt)
	promote(t, s)
	want(t, s, slotAt, position)
}
