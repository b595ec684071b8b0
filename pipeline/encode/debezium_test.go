package encode_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline/encode"
)

func TestDebezium(t *testing.T) {
	db := source(t, "CREATE TABLE t (id int PRIMARY KEY, v text, n numeric); ALTER TABLE t ALTER v SET STORAGE EXTERNAL; CREATE TABLE f (v text); ALTER TABLE f REPLICA IDENTITY FULL")
	db.Exec(t, `BEGIN;
		INSERT INTO t VALUES (1, repeat('x', 5000), 1.50);
		UPDATE t SET n = NULL;
		UPDATE t SET id = 2, v = '';
		DELETE FROM t;
		INSERT INTO f VALUES ('a');
		UPDATE f SET v = 'b';
		SELECT pg_logical_emit_message(true, 'pre"fix', E'a\\000b'::bytea);
		TRUNCATE t;
		COMMIT`, "SELECT pg_logical_emit_message(false, 'out', '')")
	ms := changes(t, db)
	got := lines(t, encode.Debezium{Version: "1.0", Name: "shop", Database: db.Name}, ms)
	var want []string
	for i, c := range []struct{ before, after, schema, table, op, more string }{
		{},
		{"null", `{"id":1,"v":"` + strings.Repeat("x", 5000) + `","n":1.50}`, "public", "t", "c", ""},
		{"null", `{"id":1,"n":null,"v":"__debezium_unavailable_value"}`, "public", "t", "u", ""},
		{`{"id":1}`, `{"id":2,"v":"","n":null}`, "public", "t", "u", ""},
		{`{"id":2}`, "null", "public", "t", "d", ""},
		{"null", `{"v":"a"}`, "public", "f", "c", ""},
		{`{"v":"a"}`, `{"v":"b"}`, "public", "f", "u", ""},
		{"", "", "", "", "m", `,"message":{"prefix":"pre\"fix","content":"YQBi"}`},
		{"null", "null", "public", "t", "t", ""},
		{},
		{"", "", "", "", "m", `,"message":{"prefix":"out","content":""}`},
	} {
		if c.op == "" {
			continue
		}
		m, rows := ms[i], ""
		if c.before != "" {
			rows = `"before":` + c.before + `,"after":` + c.after + ","
		}
		at, xid := m.SentAt(), "null"
		if m.Tx != nil {
			at, xid = m.Tx.CommitTime, fmt.Sprint(m.Tx.XID)
		}
		want = append(want, fmt.Sprintf(`{%s"source":{"version":"1.0","connector":"postgresql","name":"shop","ts_ms":%d,"snapshot":"false","db":"%s","schema":"%s","table":"%s","txId":%s,"lsn":%d},"op":"%s","ts_ms":%d%s}`,
			rows, at.UnixMilli(), db.Name, c.schema, c.table, xid, uint64(m.LSN), c.op, m.SentAt().UnixMilli(), c.more))
	}
	compare(t, got, want)
	for _, line := range got {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}

	// The keys of the same messages.
	for i, want := range []struct {
		key, old  string
		tombstone bool
	}{
		{}, {`{"id":1}`, "", false}, {`{"id":1}`, "", false}, {`{"id":2}`, `{"id":1}`, false}, {`{"id":2}`, "", true},
		{`{"v":"a"}`, "", false}, {`{"v":"b"}`, `{"v":"a"}`, false}, {`{"prefix":"pre\"fix"}`, "", false}, {}, {}, {`{"prefix":"out"}`, "", false},
	} {
		key, err := encode.Key([]byte("x"), ms[i])
		old, err2 := encode.OldKey([]byte("x"), ms[i])
		if err != nil || err2 != nil || string(key) != "x"+want.key || string(old) != "x"+want.old || encode.Tombstone(ms[i]) != want.tombstone {
			t.Errorf("%v: key %s, %v, old %s, %v, tombstone %v", ms[i], key, err, old, err2, encode.Tombstone(ms[i]))
		}
	}
}

// With the whole old row an update of other columns has an old row too, and the same key as long as that is the primary key's.
func TestKeyOfSeveralColumns(t *testing.T) {
	db := source(t, "CREATE TABLE t (v text, b int, a text, PRIMARY KEY (a, b)); CREATE TABLE unkeyed (v text)")
	db.Exec(t, "INSERT INTO t VALUES ('x', 1, 'ü\"')", "UPDATE t SET v = ''", "UPDATE t SET b = 2", "INSERT INTO unkeyed VALUES ('x')")
	var got []string
	for _, m := range changes(t, db) {
		if m.Kind == walchan.Begin || m.Kind == walchan.Commit {
			continue
		}
		key, err := encode.Key(nil, m)
		old, err2 := encode.OldKey(nil, m)
		if err != nil || err2 != nil {
			t.Error(err, err2)
		}
		got = append(got, string(key)+" "+string(old))
	}
	compare(t, got, []string{`{"b":1,"a":"ü\""} `, `{"b":1,"a":"ü\""} `, `{"b":2,"a":"ü\""} {"b":1,"a":"ü\""}`, " "})
}

// A key that is so large that it lies apart comes as an old row with each update, changed or not (ExtractReplicaIdentity in
// src/backend/access/heap/heapam.c).
func TestLargeKey(t *testing.T) {
	db := source(t, "CREATE TABLE t (k text PRIMARY KEY, v text); ALTER TABLE t ALTER k SET STORAGE EXTERNAL")
	db.Exec(t, "INSERT INTO t VALUES (repeat('k', 2500), 'a')", "UPDATE t SET v = 'b'", "UPDATE t SET k = repeat('l', 2500)")
	k, l := `{"k":"`+strings.Repeat("k", 2500)+`"}`, `{"k":"`+strings.Repeat("l", 2500)+`"}`
	ms := changes(t, db)
	for i, want := range map[int]struct{ key, old string }{4: {k, ""}, 7: {l, k}} {
		key, err := encode.Key(nil, ms[i])
		old, err2 := encode.OldKey(nil, ms[i])
		if err != nil || err2 != nil || string(key) != want.key || string(old) != want.old {
			t.Errorf("%v: key %.20s, %v, old %.20s, %v", ms[i], key, err, old, err2)
		}
	}
	if old := ms[4].Old(); old.Identity() != walchan.KeyIdentity {
		t.Error("the key does not lie apart")
	}
	if got := lines(t, encode.Wal2JSON{}, ms[4:5]); !strings.Contains(got[0], `"identity":[{"name":"k"`) {
		t.Error(got)
	}
}
