package walchan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// customTypes are made of one another in every way.
const customTypes = `
CREATE SCHEMA shop;
CREATE TYPE shop.status AS ENUM ('new', 'in work', 'done "now"', E'back\\slash');
CREATE TYPE public."Größe" AS ENUM ('S', 'M');
CREATE DOMAIN shop.price AS numeric(12,2) CHECK (VALUE >= 0);
CREATE DOMAIN shop.dear AS shop.price CHECK (VALUE > 100);
CREATE DOMAIN shop.tags AS text[];
CREATE TYPE shop.point3 AS (x int, y double precision, "the label" text);
CREATE TYPE shop.item AS (no bigint, at shop.point3, tags shop.tags, state shop.status, cost shop.price,
	path shop.point3[], doc jsonb, made timestamptz, raw bytea, ok boolean);
CREATE DOMAIN shop.spot AS shop.point3;
CREATE TYPE shop.one AS (v text);
CREATE TYPE shop.none AS ();
CREATE TYPE shop.prices AS RANGE (SUBTYPE = shop.price);
CREATE TYPE shop.spots AS RANGE (SUBTYPE = text);
CREATE TABLE shop.line (id int, dropped text, note text);
ALTER TABLE shop.line DROP COLUMN dropped;`

var customNames = []string{"shop.status", "Größe", "shop.price", "shop.dear", "shop._dear", "shop.tags", "shop.point3", "shop.spot",
	"shop._spot",
	"shop._status", "shop.one", "shop.item", "shop._item", "shop.line", "shop.prices", "shop.spots",
	"information_schema.cardinal_number", "information_schema.yes_or_no"}

// testColumn is a column of the table of all types. opaque: neither pgx nor we read its binary format.
type testColumn struct {
	typ    string
	opaque bool
	values []string // SQL expressions
}

// name is the column's: a_numeric_10_3 of "numeric(10,3)", a_integer_array of "integer[]".
func (c testColumn) name() string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.TrimSuffix(c.typ, "[]"))
	if name = strings.Trim(name, "_"); strings.HasSuffix(c.typ, "[]") {
		name += "_array"
	}
	return "a_" + name
}

func q(values ...string) []string {
	for i, v := range values {
		values[i] = "'" + strings.ReplaceAll(v, "'", "''") + "'"
	}
	return values
}

var allTypes = []testColumn{
	{typ: "smallint", values: q("0", "-32768", "32767")},
	{typ: "integer", values: q("0", "-2147483648", "2147483647")},
	{typ: "bigint", values: q("0", "-9223372036854775808", "9223372036854775807", "9007199254740993")},
	{typ: "real", values: q("0", "-0", "1.5", "0.1", "100000", "1e6", "1e-4", "1.17549435e-38", "3.4e38",
		"NaN", "Infinity", "-Infinity")},
	{typ: "double precision", values: q("0", "-0", "1.5", "0.1", "123456789012345", "1e15", "-1e15", "0.0001", "0.00001",
		"2.2250738585072014e-308", "1.7e308", "NaN", "Infinity", "-Infinity")},
	{typ: "numeric", values: q("0", "0.0", "-1.500", "12345678901234567890.123456789000", "1e30", "0.00001234", "10000", "99990000",
		"0.0000000001", "-0.5", "1e-20", "NaN", "Infinity", "-Infinity")},
	{typ: "numeric(10,3)", values: q("1234567.891", "0")},
	{typ: "boolean", values: q("t", "f")},
	{typ: "text", values: q("", "plain", `quote " back \ slash`,
		"line\nbreak\r\ttab\b\f\x01", "NULL", "ünïcödé ☃ 𝄞", "</script>\u2028", "{}")},
	{typ: "varchar(20)", values: q("x")},
	{typ: "character(5)", values: q("x")},
	{typ: `"char"`, values: q("x")},
	{typ: "name", values: q("a name")},
	{typ: "bytea", values: q(`\x`, `\x00ff5c22`)},
	{typ: "date", values: q("2026-01-02", "0044-03-15 BC", "0001-01-01", "infinity", "-infinity", "12345-06-07")},
	{typ: "time", values: q("00:00", "23:59:59.999999", "12:34:56.5", "24:00")},
	{typ: "time with time zone", opaque: true, values: q("12:34:56.5+02", "00:00-00:30")},
	{typ: "timestamp", values: q("2026-01-02 03:04:05", "2026-01-02 03:04:05.12", "1999-12-31 23:59:59.999999",
		"0044-03-15 12:00:00 BC", "infinity", "-infinity", "12345-06-07 00:00")},
	{typ: "timestamptz", values: q("2026-01-02 03:04:05+00", "2026-01-02 03:04:05.123456+05:30", "1999-12-31 23:59:59.5-08",
		"0044-03-15 12:00:00+00 BC", "infinity", "-infinity")},
	{typ: "interval", values: q("0", "1 year", "1 year 2 mons 3 days 04:05:06.789", "-1 year +3 days -04:00", "-1 mon 2 days",
		"1 mon -1 day", "-00:00:01", "14 mons 1 sec", "-1 day 5 hours", "100 hours")},
	{typ: "uuid", values: q("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")},
	{typ: "json", values: q(`{"a": [1, 2.50, null, "x\n"], "b" : {}}`, `null`, `"str"`, `12345678901234567890`, `[]`)},
	{typ: "jsonb", values: q(`{"a": [1, 2.50, null, "x\n\""], "b" : {}}`, `null`, `"str"`, `12345678901234567890`)},
	{typ: "xml", values: q("<a>b</a>")},
	{typ: "inet", values: q("10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::/32", "10.0.0.1/24")},
	{typ: "cidr", values: q("10.0.0.0/8", "10.0.0.1/32", "2001:db8::/32", "::1/128")},
	{typ: "macaddr", values: q("08:00:2b:01:02:03")},
	{typ: "macaddr8", values: q("08:00:2b:01:02:03:04:05")},
	{typ: "bit(5)", values: q("10101")},
	{typ: "bit varying", values: q("", "1", "101010101")},
	{typ: "point", values: q("(1,2.5)")},
	{typ: "line", values: q("{1,2,3}")},
	{typ: "lseg", values: q("[(1,2),(3,4)]")},
	{typ: "box", values: q("(3,4),(1,2)")},
	{typ: "path", values: q("[(1,2),(3,4)]", "((1,2),(3,4))")},
	{typ: "polygon", values: q("((1,2),(3,4),(5,6))")},
	{typ: "circle", values: q("<(1,2),3>")},
	{typ: "oid", values: q("4294967295")},
	{typ: "xid", values: q("7")},
	{typ: "xid8", values: q("18446744073709551615")},
	{typ: "cid", values: q("7")},
	{typ: "tid", values: q("(1,2)")},
	{typ: "tsvector", values: q("'a':1A 'b':2,3", "")},
	{typ: "tsquery", opaque: true, values: q("'a' & !'b'")},
	{typ: "money", opaque: true, values: q("12.34")},
	{typ: "pg_lsn", opaque: true, values: q("16/B374D848")},
	{typ: "regclass", opaque: true, values: q("pg_class")},
	{typ: "pg_snapshot", opaque: true, values: q("10:20:10,14")},
	{typ: "jsonpath", opaque: true, values: q("$.a[*]")},
	{typ: "int4range", values: q("[1,10)", "empty", "(,)", "[5,)")},
	{typ: "numrange", values: q("[1.50,2.5]", "(,2)")},
	{typ: "daterange", values: q("[2026-01-01,2026-02-01)", "[,infinity)")},
	{typ: "tsrange", values: q("[2026-01-01 10:00,2026-01-01 11:30:00.5)")},
	{typ: "tstzrange", values: q("[2026-01-01 10:00+00,2026-01-01 11:30:00.5+00)")},
	{typ: "int8multirange", values: q("{}", "{[1,3),[5,8)}")},
	{typ: "tstzmultirange", values: q("{[2026-01-01 10:00+00,2026-01-01 11:00+00)}")},

	{typ: "smallint[]", values: q("{}", "{1,NULL,3}")},
	{typ: "integer[]", values: q("{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={7,8}", "{{{1},{2}},{{3},{4}}}")},
	{typ: "text[]", values: q("{}", `{a,"b c","NULL",NULL,"","x\"y\\z","{,}",ü,"new
line"}`, `{{a,b},{"c,d",NULL}}`)},
	{typ: "boolean[]", values: q("{t,f,NULL}")},
	{typ: "numeric[]", values: q("{1.50,NaN,NULL}")},
	{typ: "double precision[]", values: q("{1.5,Infinity,1e300}")},
	{typ: "timestamptz[]", values: q(`{"2026-01-02 03:04:05+00",infinity,NULL}`)},
	{typ: "timestamp[]", values: q(`{"2026-01-02 03:04:05"}`)},
	{typ: "date[]", values: q(`{2026-01-02,"0044-03-15 BC"}`)},
	{typ: "bytea[]", values: q(`{"\\x00ff",NULL}`)},
	{typ: "jsonb[]", values: q(`{"{\"a\": \"q\\\"\"}",NULL,"null",1}`)},
	{typ: "json[]", values: q(`{"{\"a\": \"q\\\"\"}",NULL,"null",1}`)},
	{typ: "uuid[]", values: q("{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}")},
	{typ: "interval[]", values: q(`{"1 day 02:03:04"}`)},
	{typ: "box[]", values: q("{(3,4),(1,2);(5,6),(1,2)}")},
	{typ: "int4range[]", values: q(`{"[1,3)",empty}`)},
	{typ: "inet[]", values: q("{10.0.0.1,10.0.0.0/8}")},
	{typ: "char(3)[]", values: q("{ab,NULL}")},
	{typ: "money[]", opaque: true, values: q(`{1.5,NULL,"$2,000.00"}`)},
	{typ: "time with time zone[]", opaque: true, values: q("{10:00+00,11:00+01}")},
	{typ: "int8multirange[]", values: q(`{"{[1,3)}","{}"}`)},

	{typ: "shop.status", values: q("new", "in work", `done "now"`, `back\slash`)},
	{typ: `"Größe"`, values: q("S")},
	{typ: "shop.status[]", values: q(`{new,"in work",NULL,"done \"now\""}`)},
	{typ: "shop.price", values: q("1.50")},
	{typ: "shop.dear", values: q("101")},
	{typ: "shop.dear[]", values: q("{101,NULL}")},
	{typ: "shop.tags", values: q(`{a,"b c"}`, "{}")},
	{typ: "shop.point3", values: []string{"(1, 2.5, 'a \"label\", (with) \\ all')", "(NULL, NULL, NULL)", "(1, 'NaN', '')"}},
	{typ: "shop.spot", values: []string{"(1, 2.5, 'x')"}},
	{typ: "shop.spot[]", values: []string{"ARRAY[(1, 2.5, 'x'), NULL, (NULL, 1, 'a,\"b')]::shop.spot[]"}},
	{typ: "shop.one", values: []string{"ROW('x')", "ROW(NULL)", "ROW('')"}},
	{typ: "shop.item", values: []string{`(1, (2, 0.5, 'deep "er"')::shop.point3, '{a,"b c"}', 'in work', 7,
		ARRAY[(1, 2.5, 'x "y"'), NULL]::shop.point3[], '{"a": [1, "\""]}', '2026-01-02 03:04:05+00', '\x00ff', true)`}},
	{typ: "shop.item[]", values: []string{`ARRAY[(1, NULL, NULL, NULL, NULL, ARRAY[(1, 2.5, 'x')]::shop.point3[], NULL, NULL,
		'\x00', false)]::shop.item[]`}},
	{typ: "shop.line", values: []string{"(1, 'n')::shop.line"}},
	{typ: "shop.prices", values: q("[1.00,2.50)")},
	{typ: "shop.spots", values: q(`["a b","c,""d\\")`, "[a,)")},
	{typ: "information_schema.cardinal_number", values: q("7")},
	{typ: "information_schema.yes_or_no", values: q("YES")},
}

// everything is the table with a column of each type.
func everything() (ddl, insert string) {
	rows := 0
	for _, c := range allTypes {
		rows = max(rows, len(c.values))
	}
	var defs []string
	for _, c := range allTypes {
		defs = append(defs, c.name()+" "+c.typ)
	}
	var tuples []string
	for r := range rows + 1 { // one more: all NULL
		values := []string{fmt.Sprint(r)}
		for _, c := range allTypes {
			v := "NULL"
			if r < rows {
				v = c.values[r%len(c.values)]
			}
			values = append(values, v)
		}
		tuples = append(tuples, "("+strings.Join(values, ", ")+")")
	}
	return "CREATE TABLE everything (id int PRIMARY KEY, " + strings.Join(defs, ",\n") + ");\n" +
			"ALTER TABLE everything REPLICA IDENTITY FULL", // or an UPDATE would leave out what is TOASTed
		"INSERT INTO everything VALUES " + strings.Join(tuples, ",\n")
}

// The JSON of a row in text format is, byte for byte, what the server makes of it; in binary format it is the same.
func TestAllTypesJSON(t *testing.T) {
	ddl, insert := everything()
	w := newWAL(t, customTypes, ddl, insert, "SET timezone = 'Asia/Kolkata'")
	msgs := w.changes(t, "UPDATE everything SET id = id")
	want := w.query(t, "SELECT row_to_json(e)::text FROM everything e ORDER BY id")
	if len(msgs) != len(want) {
		t.Fatalf("%d messages for %d rows", len(msgs), len(want))
	}
	for i, m := range msgs {
		got := appendJSON(t, m.New())
		compareColumns(t, m.New(), []byte(want[i]), got)
		if string(got) != want[i] {
			t.Errorf("row %d\n got %s\nwant %s", i, got, want[i])
		}
	}

	w.exec(t, "SET timezone = 'UTC'")
	want = w.query(t, "SELECT row_to_json(e)::text FROM everything e ORDER BY id")
	msgs = w.changes(t, "UPDATE everything SET id = id", "binary", "true")
	for i, m := range msgs {
		compareColumns(t, m.New(), []byte(want[i]), appendJSON(t, m.New()))
		for j, c := range allTypes {
			if s := m.New().State(j + 1); s == Text {
				t.Errorf("%s came as text", c.typ)
			}
		}
	}
}

// compareColumns compares the columns' JSON, which must have no blanks that row_to_json does not write.
func compareColumns(t *testing.T, r Row, want, got []byte) {
	t.Helper()
	var w, g map[string]json.RawMessage
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	for i, c := range allTypes {
		name := c.name()
		if c.opaque && r.State(i+1) == Binary {
			if !bytes.Contains(g[name], []byte(`"\\x`)) {
				t.Errorf("%s: got %s", c.typ, g[name])
			}
			continue
		}
		if string(w[name]) != string(g[name]) {
			t.Errorf("%s (%s)\n got %s\nwant %s", c.typ, r.Relation().Columns[i+1].TypeName, g[name], w[name])
		}
	}
}

func appendJSON(t testing.TB, r Row) []byte {
	t.Helper()
	b, err := r.AppendJSON([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b[1:]) || b[0] != 'x' || bytes.ContainsAny(b, "\n\r") {
		t.Errorf("not JSON on one line: %s", b)
	}
	return b[1:]
}

// Value gives what pgx gives for the same SELECT, in both formats.
func TestAllTypesValue(t *testing.T) {
	ddl, insert := everything()
	w := newWAL(t, customTypes, ddl, insert)
	loaded, err := w.conn.LoadTypes(t.Context(), customNames)
	if err != nil {
		t.Fatal(err)
	}
	w.conn.TypeMap().RegisterTypes(loaded)
	for i, format := range []int16{pgtype.TextFormatCode, pgtype.BinaryFormatCode} {
		msgs := w.changes(t, "UPDATE everything SET id = id", "binary", fmt.Sprint(i == 1))
		rows, err := w.conn.Query(t.Context(), "SELECT * FROM everything ORDER BY id", pgx.QueryResultFormats{format})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range msgs {
			if !rows.Next() {
				t.Fatal(rows.Err())
			}
			want, err := rows.Values()
			if err != nil {
				t.Fatal(err)
			}
			all, err := m.New().Map()
			if err != nil {
				t.Fatal(err)
			}
			for j, c := range allTypes {
				got, err := m.New().Value(c.name())
				if c.opaque || c.typ == "int8multirange[]" { // pgx knows less
					continue
				}
				if err != nil || !same(got, want[j+1]) {
					t.Errorf("%s, format %d: got %T %v, %v\nwant %T %v", c.typ, format, got, got, err, want[j+1], want[j+1])
				}
				if m := all[c.name()]; !same(m, got) {
					t.Errorf("%s in Map: %v", c.typ, m)
				}
			}
		}
		rows.Close()
	}
}

// same is DeepEqual, but for NaN and for zones.
func same(a, b any) bool {
	return reflect.DeepEqual(plain(a), plain(b))
}

func plain(v any) any {
	switch v := v.(type) {
	case float32:
		return math.Float32bits(v)
	case float64:
		return math.Float64bits(v)
	case time.Time:
		return v.UTC()
	case []any:
		s := make([]any, len(v))
		for i := range v {
			s[i] = plain(v[i])
		}
		return s
	case map[string]any:
		m := map[string]any{}
		for k := range v {
			m[k] = plain(v[k])
		}
		return m
	case pgtype.Range[any]:
		v.Lower, v.Upper = plain(v.Lower), plain(v.Upper)
		return v
	}
	return v
}

// everyKind has fields that pgtype fills in all its ways: by itself, by asking them, by encoding what they are to scan.
type everyKind struct {
	ID       int
	Numeric  scanner                      `db:"a_numeric"`
	Text     *string                      `db:"a_text"`
	Time     pgtype.Timestamptz           `db:"a_timestamptz"`
	Interval scanner                      `db:"a_interval"`
	Point    scanner                      `db:"a_point"`
	JSON     any                          `db:"a_jsonb"`
	Bytes    []byte                       `db:"a_bytea"`
	UUID     *[16]byte                    `db:"a_uuid"`
	Dates    []pgtype.Date                `db:"a_date_array"`
	Numbers  []scanner                    `db:"a_numeric_array"`
	Status   *status                      `db:"a_shop_status"`
	States   []*status                    `db:"a_shop_status_array"`
	Price    *pgtype.Numeric              `db:"a_shop_dear"`
	Tags     []string                     `db:"a_shop_tags"`
	Spots    []*point3                    `db:"a_shop_spot_array"`
	One      *struct{ V scanner }         `db:"a_shop_one"`
	Item     *item                        `db:"a_shop_item"`
	Items    []item                       `db:"a_shop_item_array"`
	Prices   pgtype.Range[pgtype.Numeric] `db:"a_shop_prices"`
	Money    scanner                      `db:"a_money"`
	Snapshot []byte                       `db:"a_pg_snapshot"`
}

type status string

type point3 struct {
	X     *int
	Y     *float64
	Label *string
}

type item struct {
	No    int
	At    *point3
	Tags  []string
	State *status
	Cost  *pgtype.Numeric
	Path  []*point3
	Doc   any
	Made  *time.Time
	Raw   []byte
	OK    bool
}

// scanner is what database/sql would scan into.
type scanner string

func (s *scanner) Scan(src any) error {
	if b, ok := src.([]byte); ok {
		src = string(b)
	}
	*s = scanner(fmt.Sprint(src))
	return nil
}

// Scan gives what pgx scans from the same SELECT, in both formats.
func TestAllTypesScan(t *testing.T) {
	ddl, insert := everything()
	w := newWAL(t, customTypes, ddl, insert)
	loaded, err := w.conn.LoadTypes(t.Context(), customNames)
	if err != nil {
		t.Fatal(err)
	}
	w.conn.TypeMap().RegisterTypes(loaded)
	columns := []string{"id"}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[everyKind]()) {
		if name := f.Tag.Get("db"); name != "" {
			columns = append(columns, name)
		}
	}
	for format, binary := range []string{"false", "true"} {
		rows, err := w.conn.Query(t.Context(), "SELECT "+strings.Join(columns, ", ")+" FROM everything ORDER BY id",
			pgx.QueryResultFormats{int16(format)})
		if err != nil {
			t.Fatal(err)
		}
		want, err := pgx.CollectRows(rows, pgx.RowToStructByName[everyKind])
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range w.changes(t, "UPDATE everything SET id = id", "binary", binary) {
			var got everyKind
			if err := m.New().Scan(&got); err != nil {
				t.Fatal(err)
			}
			g, w := reflect.ValueOf(got), reflect.ValueOf(want[i])
			for _, f := range reflect.VisibleFields(g.Type()) {
				g, w := g.FieldByIndex(f.Index).Interface(), w.FieldByIndex(f.Index).Interface()
				if !reflect.DeepEqual(g, w) {
					t.Errorf("%s, binary %s: got %#v, want %#v", f.Name, binary, g, w)
				}
			}
		}
	}
}
