package walchan_test

import (
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

func TestReconnectAfterTerminate(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'", "INSERT INTO t VALUES (1)")
	m := <-s.C()
	if m.Kind != walchan.Insert {
		t.Fatalf("%v, %v", m, s.Err())
	}
	s.Ack(m)
	if n := s.Stats().Reconnects; n == 0 {
		t.Error("there was no reconnect")
	}
}
