package walchan_test

import (
	"context"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

func TestFirst(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE PUBLICATION p FOR TABLE t")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := walchan.Subscribe(ctx, db.DSN(), walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"), walchan.WithTransactions())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db.Exec(t, "INSERT INTO t SELECT g, 'x' || g FROM generate_series(1,3) g", "UPDATE t SET v='y' WHERE id=2", "DELETE FROM t WHERE id = 3", "TRUNCATE t",
		"SELECT pg_logical_emit_message(false, 'pre', 'content')", "INSERT INTO t VALUES (100)")
	n := 0
	for m := range s.C() {
		t.Log(m, m.New().Len(), m.Old().Identity())
		s.Ack(m)
		if n++; m.Kind == walchan.Insert && m.New().Text(0) == "100" {
			break
		}
	}
	t.Log(s.Stats())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", s.Stats())
	t.Log(db.Query(t, "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'"))
}
