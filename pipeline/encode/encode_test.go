package encode_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline/encode"
	"github.com/walchan/walchan/walchantest"
)

var encoders = []appender{encode.Bottledwater{}, encode.Debezium{}, encode.Wal2JSON{}}

// wantError wants an error of an encoder, which names things, shows no row data, and leaves the buffer as it was.
func wantError(t *testing.T, e appender, m walchan.Message, kind error, names ...string) {
	t.Helper()
	b, err := e.Append([]byte("before"), m)
	if !errors.Is(err, kind) || string(b) != "before" {
		t.Errorf("%T, %v: %q, %v", e, m, b, err)
		return
	}
	for _, name := range names {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%T, %v: no %q in %v", e, m, name, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("%T: row data in %v", e, err)
	}
}

// A change that a format has no form for is an error, a mark is nothing.
func TestKindsWithoutForm(t *testing.T) {
	db := source(t, "CREATE TABLE t (id int)")
	if db.Version() < 15 {
		t.Skip("two-phase needs PostgreSQL 15")
	}
	db.Exec(t, "SELECT pg_logical_emit_message(true, 'p', 'secret')", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION '"+db.Name+"'", "COMMIT PREPARED '"+db.Name+"'")
	var without []walchan.Kind
	for _, m := range changes(t, db, walchan.WithTwoPhase()) {
		switch m.Kind {
		case walchan.Prepare, walchan.CommitPrepared, walchan.RollbackPrepared:
			without = append(without, m.Kind)
			for _, e := range encoders {
				wantError(t, e, m, encode.ErrKind, m.Kind.String())
			}
		case walchan.LogicalMessage:
			wantError(t, encode.Bottledwater{}, m, encode.ErrKind, "message")
		case walchan.Begin, walchan.Commit:
			if b, err := (encode.Debezium{}).Append(nil, m); len(b) > 0 || err != nil {
				t.Errorf("%v: %q, %v", m, b, err)
			}
		}
	}
	if len(without) != 2 {
		t.Errorf("there were %v", without)
	}
	for _, e := range encoders {
		wantError(t, e, walchan.Message{}, encode.ErrKind)
	}
}

// The rows that exist have a form in each of them, the marks around them in none.
func TestSnapshotRows(t *testing.T) {
	db := source(t, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (7)")
	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	ended := false
	ms := receive(t, db, func(m walchan.Message) bool {
		defer func() { ended = m.Kind == walchan.SnapshotEnd }()
		if m.Kind == walchan.SnapshotEnd {
			db.Exec(t, "SELECT pg_logical_emit_message(false, 'behind', '')")
		}
		return ended
	}, walchan.WithSnapshot())
	if len(ms) != 3 || ms[1].Kind != walchan.Read {
		t.Fatalf("%v", ms)
	}
	at := ms[1].SentAt().UnixMilli()
	for i, want := range []string{
		`{ "command": "INSERT", "xid": 0, "dbname": "d", "relname": "t", "relnamespace": "public", "key": ["id"], "newtuple": {"id":7} }`,
		fmt.Sprintf(`{"before":null,"after":{"id":7},"source":{"version":"v","connector":"postgresql","name":"n","ts_ms":%d,"snapshot":"true","db":"d",`+
			`"schema":"public","table":"t","txId":null,"lsn":%d},"op":"r","ts_ms":%d}`, at, uint64(ms[1].LSN), at),
		`{"action":"I","xid":null,"schema":"public","table":"t","columns":[{"name":"id","type":"integer","value":7}]}`,
	} {
		e := []appender{encode.Bottledwater{Database: "d"}, encode.Debezium{Version: "v", Name: "n", Database: "d"}, encode.Wal2JSON{IncludeXIDs: true}}[i]
		compare(t, lines(t, e, ms), []string{want})
	}
	if key, err := encode.Key(nil, ms[1]); string(key) != `{"id":7}` || err != nil {
		t.Errorf("the key is %s, %v", key, err)
	}
}

// JSON comes from binary values too, wal2json's text does not.
func TestBinary(t *testing.T) {
	db := source(t, "CREATE TABLE t (id int, v text)")
	db.Exec(t, "INSERT INTO t VALUES (1, 'secret')")
	m := changes(t, db, walchan.WithBinary())[1]
	wantError(t, encode.Wal2JSON{}, m, encode.ErrBinary, "column id", "public.t")
	for _, e := range encoders[:2] {
		if b, err := e.Append(nil, m); err != nil || !strings.Contains(string(b), `{"id":1,"v":"secret"}`) {
			t.Errorf("%T: %s, %v", e, b, err)
		}
	}
}

var orders = walchantest.NewTable("shop.orders", "id bigint primary key", "status text", "price numeric(10,2)", "tags text[]",
	"doc jsonb", "at timestamptz", "ok boolean")

func order(id int) walchantest.Change {
	return orders.Insert(id, "in \"work\"\n", "99.50", "{a,\"b c\"}", `{"a": [1, 2]}`, "2026-02-03 04:05:06.789+00", true)
}

// Into a buffer that is large enough encoders allocate nothing.
func TestAllocations(t *testing.T) {
	ms := walchantest.Messages(order(1), orders.Update(2, "", nil, nil, nil, nil, nil).From(1), orders.Delete(2))
	b := make([]byte, 0, 4096)
	for _, e := range encoders {
		for _, m := range ms {
			if n := testing.AllocsPerRun(100, func() { _, _ = e.Append(b, m) }); n > 0 {
				t.Errorf("%T, %v: %v allocations", e, m, n)
			}
		}
	}
	for _, m := range ms {
		if n := testing.AllocsPerRun(100, func() { _, _ = encode.Key(b, m) }); n > 0 {
			t.Errorf("the key of %v: %v allocations", m, n)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	m := walchantest.Messages(order(1))[0]
	for name, e := range map[string]appender{"bottledwater": encoders[0], "debezium": encoders[1], "wal2json": encoders[2]} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				var err error
				if buf, err = e.Append(buf[:0], m); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(buf)))
		})
	}
	b.Run("avro", func(b *testing.B) {
		b.ReportAllocs()
		e := encode.NewAvro(m.Relation)
		var buf []byte
		for b.Loop() {
			var err error
			if buf, err = e.AppendRow(buf[:0], m.New()); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(len(buf)))
	})
}
