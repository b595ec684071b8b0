package walchan

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan/internal/value"
)

// The types of the tests without a server.
const (
	nestedOID = 20000 + iota
	nestedArrayOID
	wordsOID
	wordsRangeOID
	wordsMultirangeOID
	shapeOID
)

func testSpecs() map[uint32]value.Spec {
	return map[uint32]value.Spec{
		nestedOID: {Kind: 'c', Name: "nested", Ever: 4, Attrs: []value.Attribute{{Name: "n", OID: pgtype.NumericOID}, {Name: `the "words"`, OID: wordsOID},
			{Name: "ok", OID: pgtype.BoolOID}, {Name: "at", OID: pgtype.TimestamptzOID}}},
		nestedArrayOID:     {Kind: 'a', Part: nestedOID, Delim: ','},
		wordsOID:           {Kind: 'd', Name: "words", Part: pgtype.TextArrayOID},
		wordsRangeOID:      {Kind: 'r', Name: "wordsrange", Part: pgtype.TextOID},
		wordsMultirangeOID: {Kind: 'm', Name: "wordsmultirange", Part: wordsRangeOID},
		shapeOID: {Kind: 'c', Name: "shape", Ever: 3, Attrs: []value.Attribute{{Name: "boxes", OID: pgtype.BoxArrayOID}, {Name: "all", OID: nestedArrayOID},
			{Name: "r", OID: wordsMultirangeOID}}},
	}
}

func testTypes() *value.Types {
	t := value.NewTypes()
	t.Specs = testSpecs()
	t.Known.Store(value.NewKnown(t.Specs))
	return t
}

// Whatever does not look as it should is a string of its text, never an error and never broken JSON.
func TestMalformedText(t *testing.T) {
	types := testTypes()
	for _, c := range []struct {
		oid        uint32
		text, json string
	}{
		{pgtype.Int4OID, "", `""`},
		{pgtype.Int4OID, "-", `"-"`},
		{pgtype.Int4OID, "01", `"01"`},
		{pgtype.NumericOID, "1.", `"1."`},
		{pgtype.NumericOID, "1e", `"1e"`},
		{pgtype.NumericOID, "1e+", `"1e+"`},
		{pgtype.NumericOID, "1.5e-07", `1.5e-07`},
		{pgtype.NumericOID, "0x10", `"0x10"`},
		{pgtype.NumericOID, "NaN", `"NaN"`},
		{pgtype.BoolOID, "true", `"true"`},
		{pgtype.TimestampOID, "Sat Jan 3", `"Sat Jan 3"`},
		{pgtype.TimestampOID, "", `""`},
		{pgtype.Int4ArrayOID, "", `""`},
		{pgtype.Int4ArrayOID, "{", `"{"`},
		{pgtype.Int4ArrayOID, "{1", `"{1"`},
		{pgtype.Int4ArrayOID, "{1}}", `"{1}}"`},
		{pgtype.Int4ArrayOID, "{1,}", `"{1,}"`},
		{pgtype.Int4ArrayOID, "{1{2}}", `"{1{2}}"`},
		{pgtype.Int4ArrayOID, `{"1}`, `"{\"1}"`},
		{pgtype.Int4ArrayOID, `{"1"2}`, `"{\"1\"2}"`},
		{pgtype.Int4ArrayOID, `{"1\`, `"{\"1\\"`},
		{pgtype.Int4ArrayOID, "[0:1]", `"[0:1]"`},
		{pgtype.Int4ArrayOID, "[0:1]={1,NULL}", `[1,null]`},
		{pgtype.Int4ArrayOID, strings.Repeat("{", 7) + strings.Repeat("}", 7), `"{{{{{{{}}}}}}}"`},
		{pgtype.TextArrayOID, `{"","a\\b\"c",NULL,"NULL"}`, `["","a\\b\"c",null,"NULL"]`},
		{pgtype.TextArrayOID, `{"\"x"}`, `["\"x"]`},
		{pgtype.BoxArrayOID, `{(3,4),(1,2);(5,6),(1,2)}`, `["(3,4),(1,2)","(5,6),(1,2)"]`},
		{nestedOID, "", `""`},
		{nestedOID, "()", `{"n":null}`},
		{nestedOID, "(1,{a},t,)", `{"n":1,"the \"words\"":["a"],"ok":true,"at":null}`},
		{nestedOID, `(1,"{a,""b c""}",f,"2026-01-02 03:04:05+00")`,
			`{"n":1,"the \"words\"":["a","b c"],"ok":false,"at":"2026-01-02T03:04:05+00:00"}`},
		{nestedOID, "(1", `"(1"`},
		{nestedOID, "(1,2,3,4,5)", `"(1,2,3,4,5)"`},
		{nestedOID, `(1,"x)`, `"(1,\"x)"`},
		{nestedOID, `(1,"x"y,,)`, `"(1,\"x\"y,,)"`},
		{nestedOID, `(1,,,)x`, `"(1,,,)x"`},
		{nestedArrayOID, `{"(1,,,)",NULL}`, `[{"n":1,"the \"words\"":null,"ok":null,"at":null},null]`},
		{pgtype.TextOID, "a\xffb\x00\x1f\x7f", "\"a\uFFFDb\\u0000\\u001f\x7f\""},
		{pgtype.JSONOID, "{\"a\":\n\r\n [1]}", `{"a":    [1]}`},
		{pgtype.JSONOID, "\"a\xff\xfeb\"", "\"a\uFFFDb\""},
	} {
		rel := &Relation{Schema: "public", Name: "t", Columns: []Column{{Name: "v", TypeOID: c.oid}}}
		rel.bind(types)
		got := string(appendJSON(t, inserted(t, rel, text(c.text))))
		if want := `{"v":` + c.json + `}`; got != want {
			t.Errorf("%s %q\n got %s\nwant %s", rel.Columns[0].TypeName, c.text, got, want)
		}
	}
}

// The names of columns are escaped, and columns left out leave no comma.
func TestJSONNames(t *testing.T) {
	rel := relation("t", col{`a"b`, pgtype.Int4OID, true}, col{"ü\n", pgtype.Int4OID, false}, col{"", pgtype.Int4OID, false})
	r := message(t, Update, rel, tuple('N', unchanged, text("1"), unchanged)).New()
	if got := appendJSON(t, r); string(got) != `{"ü\n":1}` {
		t.Errorf("got %s", got)
	}
	r = message(t, Update, rel, tuple('N', text("1"), unchanged, null)).New()
	if got := appendJSON(t, r); string(got) != `{"a\"b":1,"":null}` {
		t.Errorf("got %s", got)
	}
	if got, err := json.Marshal(r); err != nil || string(got) != `{"a\"b":1,"":null}` {
		t.Errorf("Marshal: %s, %v", got, err)
	}
}

// A value in binary format that is not one is an error, and nothing is appended.
func TestMalformedBinary(t *testing.T) {
	types := testTypes()
	// an array of two thousand million arrays of no elements
	manyEmpty := "\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x17\x7f\xff\xff\xff\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01"
	for _, oid := range []uint32{pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID,
		pgtype.BoolOID, pgtype.TimestampOID, pgtype.TimestamptzOID, pgtype.DateOID, pgtype.TimeOID, pgtype.IntervalOID, pgtype.UUIDOID,
		pgtype.InetOID, pgtype.PointOID, pgtype.Int4rangeOID, pgtype.Int4multirangeOID, pgtype.Int4ArrayOID,
		wordsRangeOID, wordsMultirangeOID} {
		rel := &Relation{Schema: "public", Name: "t", Columns: []Column{{Name: "v", TypeOID: oid}}}
		rel.bind(types)
		for _, v := range []string{"", "\x00", "\x01\x02\x03\x04\x05", strings.Repeat("\x01", 33), strings.Repeat("\x7f", 33), manyEmpty} {
			b, err := inserted(t, rel, bin(v)).AppendJSON([]byte("x"))
			if err != nil && string(b) != "x" || err == nil && !json.Valid(b[1:]) {
				t.Errorf("%s %q: got %s, %v", rel.Columns[0].TypeName, v, b, err)
			}
			if err == nil && (v == "\x00" || v == manyEmpty) && oid != pgtype.BoolOID {
				t.Errorf("%s: no error", rel.Columns[0].TypeName)
			}
		}
	}
}

// What PostgreSQL 15 cannot send.
func TestBinaryText(t *testing.T) {
	for _, c := range []struct {
		oid       uint32
		bin, json string
	}{
		{pgtype.IntervalOID, "\x7f\xff\xff\xff\xff\xff\xff\xff\x7f\xff\xff\xff\x7f\xff\xff\xff", `"infinity"`}, // 17
		{pgtype.IntervalOID, "\x80\x00\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x80\x00\x00\x00", `"-infinity"`},
	} {
		r := inserted(t, relation("t", col{name: "v", oid: c.oid}), bin(c.bin))
		if got := appendJSON(t, r); string(got) != `{"v":`+c.json+`}` {
			t.Errorf("got %s", got)
		}
	}
}

// FuzzAppendJSON gives values of types that are made of others; what comes out is JSON on one line, or an error.
func FuzzAppendJSON(f *testing.F) {
	for _, s := range []string{
		`{}`, `{1,NULL,"a b"}`, `{{1,2},{3,4}}`, `[0:1]={7,8}`, `{(3,4),(1,2);(5,6),(1,2)}`, `{"a\\b\"c"}`,
		`(1,"{a,""b c""}",t,"2026-01-02 03:04:05+00")`, `(,,,)`, `{"(1,\"{a,\"\"b\"\"}\",t,)",NULL}`,
		`({(3,4),(1,2)},"{""(1,,,)""}","{[a,b)}")`, `["a b","c,""d\\")`, `{[a,b),"(c,d]"}`, `empty`,
		"2026-01-02 03:04:05.5-08", "0044-03-15 12:00:00+00:19:32 BC", "-1.5e-07", "NaN", "a\xff\n",
		"\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x19\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x01a\xff\xff\xff\xff",
		"\x00\x00\x00\x01\x00\x00\x00\x10\x00\x00\x00\x01\x01",
		"\x02\x00\x00\x00\x01a\x00\x00\x00\x01b",
		"\x00\x03\x00\x00\x00\x00\x00\x06\x00\x01\x09\x29\x1a\x85",
	} {
		f.Add(s)
	}
	types := testTypes()
	rel := &Relation{Schema: "public", Name: "t"}
	for _, oid := range []uint32{nestedOID, nestedArrayOID, wordsOID, wordsRangeOID, wordsMultirangeOID, shapeOID, pgtype.BoxArrayOID,
		pgtype.Int4ArrayOID, pgtype.NumericOID, pgtype.BoolOID, pgtype.TimestampOID, pgtype.TimestamptzOID, pgtype.IntervalOID,
		pgtype.DateOID, pgtype.TimeOID, pgtype.Float4OID, pgtype.InetOID, pgtype.TextOID, 99999} {
		rel.Columns = append(rel.Columns, Column{Name: "v", TypeOID: oid})
	}
	rel.bind(types)
	one := *rel
	f.Fuzz(func(t *testing.T, s string) {
		values := make([]boxed, len(rel.Columns))
		for i := range values {
			values[i] = text(s)
		}
		appendJSON(t, inserted(t, rel, values...))
		for i := range rel.Columns {
			one.Columns = rel.Columns[i : i+1]
			one.bind(types)
			b, err := inserted(t, &one, bin(s)).AppendJSON([]byte("x"))
			if err == nil && !json.Valid(b[1:]) || err != nil && string(b) != "x" {
				t.Errorf("%s: got %q, %v", one.Columns[0].TypeName, b, err)
			}
			if one.Columns[0].TypeOID == pgtype.NumericOID {
				continue // pgtype takes a second for a hundred thousand digits
			}
			for _, r := range []Row{inserted(t, &one, text(s)), inserted(t, &one, bin(s))} {
				r.Value("v")
				r.Scan(&struct{ V any }{})
				r.Scan(&struct{ V []*string }{})
			}
		}
	})
}
