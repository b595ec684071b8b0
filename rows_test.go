package walchan_test

import (
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// A stream looks the types of its tables up, and up again when a table is announced again or a value does not fit.
func TestStreamKnowsTypes(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TYPE mood AS ENUM ('glad', 'sad')", "CREATE TYPE pair AS (a int, b mood[])",
		"CREATE TABLE t (id int PRIMARY KEY, p pair[])", "CREATE PUBLICATION p FOR TABLE t")
	s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithCreateSlot(),
		walchan.WithPublication("p"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	insert := func(sql, want string) walchan.Message {
		t.Helper()
		db.Exec(t, sql)
		select {
		case m, ok := <-s.C():
			if !ok {
				t.Fatal(s.Err())
			}
			s.Ack(m)
			expect(t, m, want)
			return m
		case <-time.After(patience):
			t.Fatalf("nothing came: %+v", s.Stats())
		}
		panic("unreachable")
	}
	first := insert(`INSERT INTO t VALUES (1, '{"(1,{glad})"}')`, `{"id":1,"p":[{"a":1,"b":["glad"]}]}`)
	if name := first.Relation.Columns[1].TypeName; name != "public.pair[]" {
		t.Errorf("the type is called %s", name)
	}
	db.Exec(t, "ALTER TYPE mood ADD VALUE 'fair'", "ALTER TYPE pair ADD ATTRIBUTE c bool")
	wider := insert(`INSERT INTO t VALUES (2, '{"(1,{fair},t)"}')`, `{"id":2,"p":["(1,{fair},t)"]}`)
	db.Exec(t, "ANALYZE t") // has the table announced again
	insert(`INSERT INTO t VALUES (3, '{"(1,{fair},f)"}')`, `{"id":3,"p":[{"a":1,"b":["fair"],"c":false}]}`)
	expect(t, wider, `{"id":2,"p":[{"a":1,"b":["fair"],"c":true}]}`)
	expect(t, first, `{"id":1,"p":[{"a":1,"b":["glad"]}]}`)

	// While the connection is away, too.
	db.Exec(t, "ALTER TYPE pair RENAME ATTRIBUTE c TO d",
		"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	insert(`INSERT INTO t VALUES (4, '{"(1,{fair},f)"}')`, `{"id":4,"p":[{"a":1,"b":["fair"],"d":false}]}`)
}

func expect(t *testing.T, m walchan.Message, want string) {
	t.Helper()
	if got, err := m.New().AppendJSON(nil); err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}
