package walchan_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
)

// payloads receives n messages, acknowledges them, and returns what they carry.
func payloads(t *testing.T, s *walchan.Stream, n int) (got []string) {
	t.Helper()
	for range n {
		m, open := <-s.C()
		if !open {
			t.Fatalf("the channel is closed behind %q: %v", got, s.Err())
		}
		if _, ok := m.Position(); m.Kind != walchan.Raw || m.SentAt().IsZero() || ok || m.Tx != nil || m.Relation != nil || m.New().Len() != 0 {
			t.Errorf("%v, LSN %s, sent at %v", m, m.LSN, m.SentAt())
		}
		got = append(got, m.Payload())
		s.Ack(m)
	}
	return got
}

func equal(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// with makes the options for another plugin.
func with(slot, plugin string, args map[string]string) []walchan.Option {
	return []walchan.Option{walchan.WithSlot(slot), walchan.WithPlugin(plugin, args)}
}

// An option that the plugin refuses can be corrected, on the slot as it is.
func TestTestDecoding(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text, b bytea)")
	mustCreateSlot(t, db.DSN(), admin.SlotSpec{Name: db.Name, Plugin: "test_decoding"})
	db.Exec(t, `INSERT INTO t VALUES (1, 'it''s ü', '\x00ff')`, "SELECT pg_logical_emit_message(false, 'pre', 'content')", "UPDATE t SET id = 2", "DELETE FROM t")

	check(t, trySubscribe(t, db.DSN(), with(db.Name, "test_decoding", map[string]string{"include-xids": "perhaps"})...), walchan.ErrPluginOption, "include-xids", "perhaps")
	for _, binary := range []string{"true", "false"} { // on true the server does not look whether it is text
		s := mustSubscribe(t, db.DSN(), with(db.Name, "test_decoding", map[string]string{"include-xids": "false", "skip-empty-xacts": "1", "force-binary": binary})...)
		equal(t, payloads(t, s, 10), "BEGIN",
			`table public.t: INSERT: id[integer]:1 v[text]:'it''s ü' b[bytea]:'\x00ff'`,
			"COMMIT", "message: transactional: 0 prefix: pre, sz: 7 content:content", "BEGIN",
			`table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 v[text]:'it''s ü' b[bytea]:'\x00ff'`,
			"COMMIT", "BEGIN", "table public.t: DELETE: id[integer]:2", "COMMIT")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		db.Exec(t, `INSERT INTO t VALUES (1, 'it''s ü', '\x00ff')`, "SELECT pg_logical_emit_message(false, 'pre', 'content')", "UPDATE t SET id = 2", "DELETE FROM t")
	}
	s := mustSubscribe(t, db.DSN(), with(db.Name, "test_decoding", nil)...)
	if got := payloads(t, s, 10); !strings.HasPrefix(got[0], "BEGIN ") {
		t.Errorf("without options: %q", got)
	}
}

// A payload is what the plugin wrote, text or not.
func TestPayloadIsUnchanged(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	s := mustSubscribe(t, db.DSN(), with(db.Name, "test_decoding", map[string]string{"force-binary": "on"})[1:]...)
	content := strings.Repeat("\x00\x01\xff\xfe\n", 3) + strings.Repeat("x", 1<<20)
	db.Exec(t, `SELECT pg_logical_emit_message(false, '', decode('0001fffe0a0001fffe0a0001fffe0a', 'hex') || repeat('x', 1048576)::bytea)`)
	equal(t, payloads(t, s, 1), "message: transactional: 0 prefix: , sz: 1048591 content:"+content)
}

func TestWal2JSON(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	libraries := db.Query(t, "SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'")
	if _, err := os.Stat(filepath.Join(libraries, "wal2json.so")); err != nil {
		t.Skipf("wal2json is not installed (on Debian: postgresql-%d-wal2json): %v", db.Version(), err)
	}
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	one, two := db.Name+"_1", db.Name+"_2"
	for _, slot := range []string{one, two} {
		mustCreateSlot(t, db.DSN(), admin.SlotSpec{Name: slot, Plugin: "wal2json"})
	}
	db.Exec(t, "INSERT INTO t VALUES (1, 'ü'), (2, NULL)", "DELETE FROM t WHERE id = 2")

	check(t, trySubscribe(t, db.DSN(), with(two, "wal2json", map[string]string{"format-version": "7"})...), walchan.ErrPluginOption, `"wal2json"`, "format")
	s := mustSubscribe(t, db.DSN(), with(two, "wal2json", map[string]string{"format-version": "2", "include-types": "false"})...)
	equal(t, payloads(t, s, 7), `{"action":"B"}`,
		`{"action":"I","schema":"public","table":"t","columns":[{"name":"id","value":1},{"name":"v","value":"ü"}]}`,
		`{"action":"I","schema":"public","table":"t","columns":[{"name":"id","value":2},{"name":"v","value":null}]}`,
		`{"action":"C"}`, `{"action":"B"}`,
		`{"action":"D","schema":"public","table":"t","identity":[{"name":"id","value":2}]}`, `{"action":"C"}`)

	// Version 1 writes a transaction as one object, in as many lines as it likes.
	s = mustSubscribe(t, db.DSN(), with(one, "wal2json", map[string]string{"pretty-print": "1"})...)
	for i, rows := range []int{2, 1} {
		got := payloads(t, s, 1)
		var object struct{ Change []map[string]any }
		if err := json.Unmarshal([]byte(got[0]), &object); err != nil || len(object.Change) != rows || !strings.Contains(got[0], "\n") {
			t.Errorf("transaction %d: %q, %v", i, got, err)
		}
	}
}

// pgoutput is decoded, also when it is named.
func TestPgoutputByName(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	s := mustSubscribe(t, db.DSN(), walchan.WithPlugin("pgoutput", map[string]string{"publication_names": "p", "messages": "false"}))
	db.Exec(t, "SELECT pg_logical_emit_message(true, 'pre', 'content')", "INSERT INTO t VALUES (1)")
	if m := <-s.C(); m.Kind != walchan.Insert || m.New().Text(0) != "1" {
		t.Errorf("%v", m)
	}
}

// Whatever the connection, the role or the database says of the style of dates, they are ISO.
func TestDateStyle(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (d date, i interval, f float8, b bytea)", "CREATE PUBLICATION p FOR TABLE t",
		"ALTER DATABASE "+db.Name+" SET datestyle = 'German'", "ALTER DATABASE "+db.Name+" SET bytea_output = 'escape'", "ALTER DATABASE "+db.Name+" SET intervalstyle = 'iso_8601'")
	for _, param := range []string{"options=-cdatestyle=german", "options='-c DateStyle=SQL,DMY -c intervalstyle=sql_standard'", "datestyle=german", "DATESTYLE=german"} {
		s := mustSubscribe(t, db.DSN(param), walchan.WithPublication("p"))
		db.Exec(t, `INSERT INTO t VALUES ('2026-02-01', '1 day 02:03:04', 0.1, '\x00ff')`)
		row := (<-s.C()).New()
		if row.Len() != 4 || row.Text(0) != "2026-02-01" || row.Text(1) != "1 day 02:03:04" || row.Text(2) != "0.1" || row.Text(3) != `\x00ff` {
			t.Errorf("with %s: %s, %s, %s, %s", param, row.Text(0), row.Text(1), row.Text(2), row.Text(3))
		}
		s.Close()
	}
}

// What the server meets while it decodes.
func TestDecodingErrors(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, y int)", "CREATE PUBLICATION p FOR TABLE t")
	s := mustSubscribe(t, db.DSN(), on(db.Name, walchan.WithCreateSlot())...)
	if db.Version() >= 15 {
		s.Close()
		retrying := make(chan error, 100)
		s = mustSubscribe(t, db.DSN(), on(db.Name, walchan.WithStateHook(func(st walchan.Stats) {
			if st.State == walchan.StateRetrying {
				retrying <- st.Err
			}
		}))...)
		db.Exec(t, "ALTER PUBLICATION p SET TABLE t WHERE (make_date(id, 1, 1) > '2000-01-01')")
		db.Exec(t, "INSERT INTO t VALUES (-7654321, 0)") // the server's message: date field value out of range: -7654321-01-01
		err := <-retrying
		var e *walchan.Error
		if !errors.As(err, &e) || e.Kind != walchan.ErrServer || !strings.Contains(err.Error(), "22008") || strings.Contains(err.Error(), "7654321") {
			t.Errorf("a row filter that fails: %v", err)
		}
		t.Log(err)
		s.Close() // it would be retried for ever
		db.Exec(t, "ALTER PUBLICATION p SET TABLE t")
		if err := dropSlot(t.Context(), db.DSN(), db.Name); err != nil {
			t.Fatal(err)
		}
		s = mustSubscribe(t, db.DSN(), on(db.Name, walchan.WithCreateSlot())...)
	}
	db.Exec(t, "DROP PUBLICATION p", "INSERT INTO t VALUES (3, 0)")
	if db.Version() < 18 { // which warns, and goes on without
		if m, open := <-s.C(); open {
			t.Errorf("%v", m)
		}
		check(t, s.Err(), walchan.ErrPublicationMissing, `"p"`, "make it again")
	}
}
