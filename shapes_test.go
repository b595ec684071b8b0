package walchan_test

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
)

// In whatever encoding a database is, names and values come as UTF-8, for that is what is asked for. Two things the server does not
// convert: what a message of pg_logical_emit_message carries, and what other plugins write. And of an SQL_ASCII database it
// knows no encoding: its bytes come as they are.
func TestDatabaseEncodings(t *testing.T) {
	noLeaks(t)
	t.Parallel()
	c := pgtest.Start(t)
	for _, e := range []struct {
		encoding, sql string // of a text
		text, raw     string // as UTF-8, and in the encoding
	}{
		{"LATIN1", `U&'caf\00e9 \00bd'`, "café ½", "caf\xe9 \xbd"},
		{"EUC_JP", `U&'\65e5\672c'`, "日本", "\xc6\xfc\xcb\xdc"},
		{"UTF8", `U&'\65e5 \+01d11e'`, "日 𝄞", "日 𝄞"},
		{"SQL_ASCII", `E'caf\xe9'`, "caf\xe9", "caf\xe9"},
	} {
		t.Run(e.encoding, func(t *testing.T) {
			db := pgtest.DB{Cluster: c, Name: strings.ToLower(e.encoding)}
			pgtest.Exec(t, c.DSN(), fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING %s LC_COLLATE 'C' LC_CTYPE 'C'", db.Name, e.encoding))
			name := `"plain"`
			if e.text != e.raw || e.encoding == "UTF8" {
				name = "U&" + strings.ReplaceAll(strings.TrimPrefix(e.sql, "U&"), "'", `"`)
			}
			typ := strings.TrimSuffix(name, `"`) + `t"`
			db.Exec(t, "CREATE TYPE "+typ+" AS ENUM ("+e.sql+")", "CREATE TABLE "+name+" ("+name+" text PRIMARY KEY, e "+typ+")")
			publication := "plain"
			if name != `"plain"` {
				publication = e.text
			}
			db.Exec(t, "CREATE PUBLICATION p")
			if _, err := operator(t, db.DSN()).EnsurePublication(t.Context(), admin.PublicationSpec{Name: publication, Tables: admin.Tables(`"` + publication + `"`)}); err != nil {
				t.Fatal(err)
			}
			for _, plugin := range []string{"pgoutput", "test_decoding"} {
				db.Exec(t, fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s_%s', '%s')", db.Name, plugin, plugin))
			}
			db.Exec(t, fmt.Sprintf("SELECT pg_copy_logical_replication_slot('%s_pgoutput', '%s_binary')", db.Name, db.Name))
			db.Exec(t, "INSERT INTO "+name+" VALUES ("+e.sql+", "+e.sql+")", "SELECT pg_logical_emit_message(false, "+e.sql+", "+e.sql+")")
			for _, format := range []string{"pgoutput", "binary"} {
				opts := []walchan.Option{walchan.WithSlot(db.Name + "_" + format), walchan.WithPublication(publication)}
				if format == "binary" {
					opts = append(opts, walchan.WithBinary())
				}
				ms := take(t, open(t, t.Context(), db, opts...), 2)
				row := ms[0].New()
				if got := row.Text(0); got != e.text || ms[0].Relation.Name != publication || ms[0].Relation.Columns[0].Name != publication {
					t.Errorf("%s: %q in %q, want %q in %q", format, got, ms[0].Relation.Name, e.text, publication)
				}
				if v, err := row.Value(publication); err != nil || v != e.text {
					t.Errorf("%s: value %q, %v", format, v, err)
				}
				if got := ms[0].Relation.Columns[1].TypeName; !strings.Contains(got, publication+"t") || row.Text(1) != e.text {
					t.Errorf("%s: %q of the type %s", format, row.Text(1), got)
				}
				if b, err := row.AppendJSON(nil); err != nil || !json.Valid(b) {
					t.Errorf("%s: %q, %v", format, b, err)
				}
				if ms[1].Prefix() != e.text || ms[1].Payload() != e.raw {
					t.Errorf("%s: prefix %q, payload %q, want %q, %q", format, ms[1].Prefix(), ms[1].Payload(), e.text, e.raw)
				}
			}
			s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name+"_test_decoding"), walchan.WithPlugin("test_decoding", nil), walchan.WithLogger(logTo(t)))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got := take(t, s, 3)[1].Payload(); !strings.Contains(got, "[text]:'"+e.raw+"'") {
				t.Errorf("test_decoding: %q", got)
			}
		})
	}
}

// Names of 63 bytes, with quotes, commas, dots, spaces and characters of several bytes; reserved words too.
func TestLongAndQuotedNames(t *testing.T) {
	db := newSource(t)
	long := func(s string) string { return s + strings.Repeat("n", 63-len(s)) }
	schema, table, column, publication := long(`sché."ma",`), long(`日本 'table' \ `), long(`"`), long(`pub, "lication"; ü`)
	q := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	slot := long(strings.ToLower(db.Name) + "_")
	db.Exec(t, "CREATE SCHEMA "+q(schema), fmt.Sprintf("CREATE TYPE %s.%s AS ENUM (%s)", q(schema), q(column), "'"+strings.Repeat("e", 63)+"'"),
		fmt.Sprintf(`CREATE TABLE %s.%s (%s int PRIMARY KEY, "select" %s.%s)`, q(schema), q(table), q(column), q(schema), q(column)))
	if _, err := operator(t, db.DSN()).EnsurePublication(t.Context(), admin.PublicationSpec{Name: publication, Tables: admin.Tables(q(schema) + "." + q(table))}); err != nil {
		t.Fatal(err)
	}
	mustCreateSlot(t, db.DSN(), admin.SlotSpec{Name: slot})
	db.Exec(t, fmt.Sprintf("INSERT INTO %s.%s VALUES (1, '%s')", q(schema), q(table), strings.Repeat("e", 63)))
	m := next(t, open(t, t.Context(), db, walchan.WithSlot(slot), walchan.WithPublication(publication)))
	r := m.Relation
	if r.Schema != schema || r.Name != table || r.Columns[0].Name != column || r.String() != q(schema)+"."+q(table) {
		t.Errorf("relation is %+v", r)
	}
	if want := q(schema) + "." + q(column); r.Columns[1].TypeName != want {
		t.Errorf("type is %s, want %s", r.Columns[1].TypeName, want)
	}
	b, err := m.New().AppendJSON(nil)
	var row map[string]any
	if err != nil || json.Unmarshal(b, &row) != nil || row[column] != 1. || row["select"] != strings.Repeat("e", 63) {
		t.Errorf("%s, %v", b, err)
	}
}

// A table of as many columns as there can be, in text and binary, whole and only the key; and an update that leaves most alone.
func TestSixteenHundredColumns(t *testing.T) {
	const n = 1600
	db := newSource(t)
	var columns, values []string
	for i := range n {
		columns, values = append(columns, fmt.Sprintf("c%d int", i)), append(values, itoa(i))
	}
	columns[7] = "c7 text"
	values[7] = "repeat('0123456789', 1000)"
	db.Exec(t, "CREATE TABLE wide ("+strings.Join(columns, ", ")+", PRIMARY KEY (c1599))", "ALTER TABLE wide ALTER c7 SET STORAGE EXTERNAL", "ALTER PUBLICATION p ADD TABLE wide")
	copies(t, db, db.Name+"_b")
	db.Exec(t, "INSERT INTO wide VALUES ("+strings.Join(values, ", ")+")", "UPDATE wide SET c1599 = -1, c0 = NULL", "DELETE FROM wide",
		"ALTER TABLE wide REPLICA IDENTITY FULL", "INSERT INTO wide (c1599) VALUES (5)", "DELETE FROM wide")
	for _, opts := range [][]walchan.Option{nil, {walchan.WithSlot(db.Name + "_b"), walchan.WithBinary()}} {
		ms := take(t, subscribe(t, db, opts...), 5)
		row, err := ms[0].New().Map()
		for i := range n {
			if c := fmt.Sprintf("c%d", i); i != 7 && row[c] != int32(i) {
				t.Fatalf("%s is %v: %v", c, row[c], err)
			}
		}
		update, old := ms[1].New(), ms[1].Old()
		if update.State(7) != walchan.Unchanged || update.State(0) != walchan.Null || old.State(0) != walchan.NotSent {
			t.Errorf("states %v, %v, %v", update.State(7), update.State(0), old.State(0))
		}
		if v, err := old.Value("c1599"); err != nil || v != int32(n-1) {
			t.Errorf("the old key is %v, %v", v, err)
		}
		if whole := ms[4].Old(); whole.Len() != n || whole.Identity() != walchan.FullIdentity || whole.State(n-2) != walchan.Null {
			t.Errorf("the deleted row has %d columns", whole.Len())
		}
	}
}

// Rows of 20 MB and a value of 100 MB (with WALCHAN_HUGE=1 five times as large) take the memory that one message needs: itself, in the channel, in the stream's hand and in
// the consumer's, and the buffer it was read into. Nothing of that stays.
func TestHugeMessages(t *testing.T) {
	const mb = 1 << 20
	sizes := []struct{ rows, size int }{{4, 20 * mb}, {1, 100 * mb}}
	if os.Getenv("WALCHAN_HUGE") != "" {
		sizes = []struct{ rows, size int }{{4, 100 * mb}, {1, 500 * mb}} // a minute, and gigabytes
	}
	db := pgtest.Database(t) // alone, for the memory is the process's
	prepare(t, db)
	for _, huge := range sizes {
		db.Exec(t, fmt.Sprintf("INSERT INTO t SELECT g, repeat('x', %d) FROM generate_series(1, %d) g", huge.size, huge.rows), "DELETE FROM t", "INSERT INTO t VALUES (0, 'small')")
		s := open(t, t.Context(), db)
		peak := watchMemory(t)
		for i := range huge.rows {
			var m walchan.Message
			select {
			case m = <-s.C():
			case <-time.After(10 * patience): // the server works on it
				t.Fatalf("no message: %+v", s.Stats())
			}
			if id(m) != i+1 || len(m.New().Text(1)) != huge.size {
				t.Fatalf("row %d of %d bytes", id(m), len(m.New().Text(1)))
			}
			s.Ack(m)
		}
		used := peak()
		if limit := uint64(5*huge.size + 64*mb); used > limit {
			t.Errorf("%d MB were in use, with rows of %d", used/mb, huge.size/mb)
		}
		ackAll(s, take(t, s, huge.rows+1))
		var m runtime.MemStats
		await(t, s, "the memory is free", func() bool {
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc < 64*mb
		})
		t.Logf("rows of %d MB: %d MB at most, then %d", huge.size/mb, used/mb, m.HeapAlloc/mb)
		confirmed(t, s, db)
		mustClose(t, s)
	}
}
