package pgtest

import (
	"testing"
)

func TestDatabase(t *testing.T) {
	db := Database(t)
	db.Exec(t, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1), (2)")
	if got := db.Query(t, "SELECT count(*) FROM t"); got != "2" {
		t.Errorf("count is %s", got)
	}
}

func TestKill(t *testing.T) {
	c := Start(t)
	Exec(t, c.DSN(), "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1), (2)")
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context(), Fast); err != nil {
		t.Fatal(err)
	}
	if got := Query(t, c.DSN(), "SELECT count(*) FROM t"); got != "2" {
		t.Errorf("count is %s", got)
	}
}
