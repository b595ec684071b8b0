package walchan

import (
	"context"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// The names of all types of pg_catalog are format_type's, whether they are built in or looked up.
func TestTypeNames(t *testing.T) {
	w := newWAL(t)
	rows, err := w.conn.Query(t.Context(), `SELECT oid, format_type(oid, NULL) FROM pg_type
		WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype <> 'p' AND typname NOT LIKE '%pg\_%'`)
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint32]string{}
	var oids []uint32
	for rows.Next() {
		var oid uint32
		var name string
		if err := rows.Scan(&oid, &name); err != nil {
			t.Fatal(err)
		}
		want[oid] = name
		oids = append(oids, oid)
	}
	unknown := w.types.Unknown(oids)
	for _, oid := range unknown {
		if got := w.types.Name(oid); got != strconv.Itoa(int(oid)) {
			t.Errorf("%s is unknown and called %s", want[oid], got)
		}
	}
	if len(unknown) > len(want)/3 || rows.Err() != nil {
		t.Errorf("%d of %d built-in types are unknown (%v)", len(unknown), len(want), rows.Err())
	}
	w.lookup(t, unknown)
	for oid, name := range want {
		if got := w.types.Name(oid); got != name {
			t.Errorf("%s is called %s", name, got)
		}
	}
	if again := w.types.Unknown(oids); again != nil {
		t.Errorf("still unknown: %v", again)
	}
}

// A type's name has its schema, wherever the session's search_path leads, and quotes where they are needed.
func TestCustomTypeNames(t *testing.T) {
	w := newWAL(t, customTypes, `CREATE TABLE t (a shop.status, b shop.status[], c "Größe", d shop.tags, e shop.dear,
		f shop.prices,		g shop.prices[], h int, i shop.line, j information_schema.yes_or_no, k varchar(10), l text[])`)
	m := w.changes(t, "INSERT INTO t VALUES ('new')")[0]
	var got []string
	for _, c := range m.Relation.Columns {
		got = append(got, c.TypeName)
	}
	want := []string{"shop.status", "shop.status[]", `public."Größe"`, "shop.tags", "shop.dear", "shop.prices", "shop.prices[]",
		"integer", "shop.line", "information_schema.yes_or_no", "character varying", "text[]"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// An unknown type, and one whose type is gone from the catalogue, is its text.
func TestUnknownType(t *testing.T) {
	rel := relation("t", col{name: "v", oid: 99999})
	for state, v := range map[State]boxed{Text: text("(1,2)"), Binary: bin("\x00\xff")} {
		r := inserted(t, rel, v)
		want, json := any("(1,2)"), `{"v":"(1,2)"}`
		if state == Binary {
			want, json = []byte("\x00\xff"), `{"v":"\\x00ff"}`
		}
		if got, err := r.Value("v"); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v", got, err)
		}
		if got := appendJSON(t, r); string(got) != json {
			t.Errorf("got %s", got)
		}
	}
	var s struct{ V string }
	if err := inserted(t, rel, text("x")).Scan(&s); err != nil || s.V != "x" {
		t.Errorf("got %q, %v", s.V, err)
	}
	if rel.Columns[0].TypeName != "99999" {
		t.Errorf("called %s", rel.Columns[0].TypeName)
	}

	w := newWAL(t, "CREATE TYPE e AS ENUM ('a'); CREATE TYPE c AS (x int)", "CREATE TABLE t (v e[], w c)")
	w.exec(t, `INSERT INTO t VALUES ('{a}', '(1)')`, "DROP TABLE t", "DROP TYPE e", "DROP TYPE c")
	if got := appendJSON(t, w.decode(t, w.raw(t, "get"))[0].New()); string(got) != `{"v":"{a}","w":"(1)"}` {
		t.Errorf("got %s", got)
	}
}

// A composite value that was written before or after its attributes were looked up is converted where that is safe, and
// text where it is not; a new look-up repairs it for rows that are already there.
func TestAlteredComposite(t *testing.T) {
	w := newWAL(t, "CREATE TYPE c AS (a int)", "CREATE TABLE t (id int, v c, vs c[])")
	first := w.changes(t, `INSERT INTO t VALUES (1, '(1)', '{(1)}')`)[0].New()
	w.exec(t, "ALTER TYPE c ADD ATTRIBUTE b text")
	row := w.changes(t, `INSERT INTO t VALUES (1, '(1,x)', '{"(1,x)"}')`)[0].New()
	expect := func(r Row, v, vs string) {
		t.Helper()
		if got, want := string(appendJSON(t, r)), `{"id":1,"v":`+v+`,"vs":[`+vs+`]}`; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	both := func(r Row, s string) { t.Helper(); expect(r, s, s) }
	both(row, `{"a":1,"b":"x"}`)
	both(first, `{"a":1}`) // the attribute was not there yet

	w.deaf = true // altering a type announces nothing
	w.exec(t, "ALTER TYPE c ADD ATTRIBUTE d int")
	wider := w.changes(t, `INSERT INTO t VALUES (1, '(1,x,3)', '{"(1,x,3)"}')`)[0].New()
	if stale := w.types.Stale(); stale != nil {
		t.Errorf("stale: %v", stale)
	}
	both(wider, `"(1,x,3)"`)
	if v, err := wider.Value("v"); v != "(1,x,3)" || err != nil {
		t.Errorf("got %v, %v", v, err)
	}
	stale := w.types.Stale()
	if len(stale) != 1 || w.types.Name(stale[0]) != "public.c" {
		t.Fatalf("stale: %v", stale)
	}
	w.lookup(t, stale)
	if stale := w.types.Stale(); stale != nil {
		t.Errorf("still stale: %v", stale)
	}
	both(wider, `{"a":1,"b":"x","d":3}`)
	both(row, `{"a":1,"b":"x"}`)
	if v, err := row.Value("v"); err != nil || !reflect.DeepEqual(v, map[string]any{"a": int32(1), "b": "x"}) {
		t.Errorf("got %v, %v", v, err)
	}

	w.deaf = false
	w.exec(t, "ALTER TYPE c DROP ATTRIBUTE b")
	narrower := w.changes(t, `INSERT INTO t VALUES (1, '(1,3)', '{"(1,3)"}')`)[0].New()
	both(narrower, `{"a":1,"d":3}`)
	both(wider, `"(1,x,3)"`) // which of the three are a and d cannot be known
	both(first, `"(1)"`)
	var s struct{ V struct{ A, D int } }
	altered := "column v of public.t (public.c): the attributes of the composite type have changed"
	if err := wider.Scan(&s); err == nil || err.Error() != altered {
		t.Errorf("got %v", err)
	}
	if err := narrower.Scan(&s); err != nil || s.V.D != 3 {
		t.Errorf("got %+v, %v", s, err)
	}
	if stale := w.types.Stale(); stale != nil {
		t.Errorf("stale: %v", stale)
	}
}

// What is forgotten is looked up again and converted meanwhile.
func TestForget(t *testing.T) {
	w := newWAL(t, "CREATE TYPE e AS ENUM ('a')", "CREATE TABLE t (id int, v e[])")
	rel := w.changes(t, "INSERT INTO t VALUES (1, '{a}')")[0].Relation
	cols := rel.Columns
	if oids := w.types.Unknown(rel.typeOIDs()); oids != nil {
		t.Errorf("unknown: %v", oids)
	}
	w.exec(t, "ALTER TYPE e RENAME TO f")
	w.types.Forget()
	oids := w.types.Unknown(append(rel.typeOIDs(), rel.typeOIDs()...))
	if !slices.Equal(oids, []uint32{cols[1].TypeOID}) || w.types.Name(oids[0]) != "public.e[]" {
		t.Errorf("unknown: %v", oids)
	}
	w.lookup(t, oids)
	if name := w.types.Name(oids[0]); name != "public.f[]" {
		t.Errorf("called %s", name)
	}
	w.types.Forget()
	w.exec(t, "DROP TABLE t", "DROP TYPE f")
	w.lookup(t, w.types.Unknown(rel.typeOIDs()))
	if name := w.types.Name(oids[0]); name != "public.f[]" { // there is no knowing better
		t.Errorf("called %s", name)
	}
}

// A look-up that fails leaves its types unknown, and says what it was about.
func TestLookupFails(t *testing.T) {
	w := newWAL(t)
	conn := w.conn.PgConn()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := w.types.Lookup(ctx, conn, []uint32{16999})
	if err == nil || err.Error()[:len("look up types: ")] != "look up types: " {
		t.Errorf("got %v", err)
	}
	if oids := w.types.Unknown([]uint32{16999}); len(oids) != 1 {
		t.Errorf("unknown: %v", oids)
	}
}

// Rows are converted in many goroutines while types are looked up. It is for the race detector.
func TestConvertWhileLookingUp(t *testing.T) {
	ddl, insert := everything()
	w := newWAL(t, customTypes, ddl, insert)
	rows := w.changes(t, "UPDATE everything SET id = id")
	rows = append(rows, w.changes(t, "UPDATE everything SET id = id", "binary", "true")...)

	var done atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := 0; n < len(rows) || !done.Load(); n++ {
				r := rows[n%len(rows)].New()
				if _, err := r.Map(); err != nil {
					t.Error(err)
				}
				if _, err := r.AppendJSON(nil); err != nil {
					t.Error(err)
				}
				if err := r.Scan(new(everyKind)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		w.types.Forget()
		w.lookup(t, w.types.Unknown(rows[0].Relation.typeOIDs()))
	}
	done.Store(true)
	wg.Wait()
}

// Types that extensions bring: of a string type (citext) the binary format is text, of others it is bytes.
func TestExtensionTypes(t *testing.T) {
	w := newWAL(t)
	if n := len(w.query(t, "SELECT name::text FROM pg_available_extensions WHERE name IN ('citext', 'hstore')")); n < 2 {
		t.Skip("the server has no citext and hstore")
	}
	w.exec(t, "CREATE EXTENSION citext", "CREATE EXTENSION hstore", "CREATE TABLE t (c citext, cs citext[], h hstore)")
	insert := `INSERT INTO t VALUES ('Ab', '{Ab,"c d"}', 'k=>v')`
	for binary, want := range map[string]string{
		"false": `{"c":"Ab","cs":["Ab","c d"],"h":"\"k\"=>\"v\""}`,
		"true":  `{"c":"Ab","cs":["Ab","c d"],"h":"\\x00000001000000016b0000000176"}`,
	} {
		r := w.changes(t, insert, "binary", binary)[0].New()
		if got := appendJSON(t, r); string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		var s struct {
			C  string
			CS []string `db:"cs"`
		}
		if err := r.Scan(&s); err != nil || s.C != "Ab" || !slices.Equal(s.CS, []string{"Ab", "c d"}) {
			t.Errorf("got %+v, %v", s, err)
		}
	}
}
