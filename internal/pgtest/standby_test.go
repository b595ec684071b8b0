package pgtest

import "testing"

func TestStandbyAndPromote(t *testing.T) {
	t.Parallel()
	c := Start(t, WithTLS(), WithSCRAM("secret"), WithSetting("wal_sender_timeout", "3s"))
	Exec(t, c.DSN(), "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
	s := c.Standby(t, WithSetting("cluster_name", "the standby"))
	Exec(t, c.DSN(), "INSERT INTO t VALUES (2)")
	Wait(t, s.DSN(), "SELECT count(*) = 2 FROM t")
	for sql, want := range map[string]string{
		"SELECT pg_is_in_recovery()":                        "t",
		"SHOW wal_sender_timeout":                           "3s",
		"SHOW cluster_name":                                 "the standby",
		"SELECT system_identifier FROM pg_control_system()": Query(t, c.DSN(), "SELECT system_identifier FROM pg_control_system()"),
	} {
		if got := Query(t, s.DSN(), sql); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	Exec(t, s.DSN(), "INSERT INTO t VALUES (3)")
	if got := Query(t, s.DSN(), "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"); got != "00000002" {
		t.Errorf("the timeline is %s", got)
	}
	if err := s.Promote(t.Context()); err == nil {
		t.Error("a primary was promoted")
	}
}
