package encode_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline/encode"
)

// types are those of the tests that are not built in.
const types = `
CREATE SCHEMA shop;
CREATE TYPE shop.status AS ENUM ('new', 'in work', 'done "now"', E'back\\slash');
CREATE TYPE public."Größe" AS ENUM ('S', 'M');
CREATE TYPE shop."Odd" AS ENUM ('x');
CREATE DOMAIN price AS numeric(12,2);
CREATE DOMAIN shop.tags AS text[];
CREATE TYPE shop.part AS (n numeric, "the label" text, at timestamptz, doc json);
CREATE TYPE shop.item AS (no bigint, part shop.part, tags shop.tags, parts shop.part[], ok boolean, size "Größe");
CREATE TYPE shop.words AS RANGE (SUBTYPE = text, COLLATION = "C");`

// randomTypes are the columns of the table every, with what makes SQL expressions of random values for them.
var randomTypes = []struct {
	name string
	make func(*rand.Rand) string
}{
	{"smallint", func(r *rand.Rand) string { return quote(strconv.Itoa(int(int16(r.Uint32())))) }},
	{"integer", func(r *rand.Rand) string { return quote(strconv.Itoa(int(int32(r.Uint32())) >> r.IntN(32))) }},
	{"bigint", func(r *rand.Rand) string { return quote(strconv.FormatInt(int64(r.Uint64())>>r.IntN(64), 10)) }},
	{"real", func(r *rand.Rand) string {
		return quote(strconv.FormatFloat(float64(math.Float32frombits(r.Uint32())), 'g', -1, 32))
	}},
	{"double precision", func(r *rand.Rand) string {
		f := math.Float64frombits(r.Uint64())
		if r.IntN(2) == 0 {
			f = (r.Float64() - 0.5) * math.Pow10(r.IntN(20)-6)
		}
		return quote(strconv.FormatFloat(f, 'g', -1, 64))
	}},
	{"numeric", randomNumeric},
	{"numeric(30,4)", func(r *rand.Rand) string { return quote(digits(r, 20) + "." + digits(r, 6)) }},
	{"boolean", func(r *rand.Rand) string { return quote([]string{"t", "f"}[r.IntN(2)]) }},
	{"text", func(r *rand.Rand) string { return quote(randomText(r)) }},
	{"varchar(50)", func(r *rand.Rand) string { return quote(randomText(r)) + "::varchar(50)" }},
	{"character(7)", func(r *rand.Rand) string { return quote(randomText(r)) + "::char(7)" }},
	{`"char"`, func(r *rand.Rand) string { return quote(string(rune('!' + r.IntN(90)))) }},
	{"name", func(r *rand.Rand) string { return quote(randomText(r)) + "::text::name" }},
	{"bytea", func(r *rand.Rand) string { return fmt.Sprintf(`'\x%x'`, randomText(r)) }},
	{"date", func(r *rand.Rand) string { return quote(randomDate(r)) }},
	{"time", func(r *rand.Rand) string { return quote(randomTime(r)) }},
	{"timetz", func(r *rand.Rand) string { return quote(randomTime(r) + randomZone(r)) }},
	{"timestamp", func(r *rand.Rand) string { return quote(randomTimestamp(r, "")) }},
	{"timestamptz", func(r *rand.Rand) string { return quote(randomTimestamp(r, randomZone(r))) }},
	{"timestamp(3)", func(r *rand.Rand) string { return quote(randomTimestamp(r, "")) }},
	{"interval", func(r *rand.Rand) string {
		return quote(fmt.Sprintf("%d mons %d days %d.%s secs", r.IntN(400)-200, r.IntN(400)-200, r.IntN(1e7)-5e6, digits(r, 6)))
	}},
	{"uuid", func(r *rand.Rand) string { return "md5(" + quote(digits(r, 9)) + ")::uuid" }},
	{"json", func(r *rand.Rand) string { return quote(randomJSON(r, 0)) }},
	{"jsonb", func(r *rand.Rand) string { return quote(randomJSON(r, 0)) }},
	{"xml", func(r *rand.Rand) string { return quote("<a>" + digits(r, 3) + "\n</a>") }},
	{"inet", func(r *rand.Rand) string { return quote(randomInet(r)) }},
	{"cidr", func(r *rand.Rand) string { return "set_masklen(" + quote(randomInet(r)) + "::inet, 16)::cidr" }},
	{"macaddr", func(r *rand.Rand) string { return quote(fmt.Sprintf("%012x", r.Uint64()>>16)) }},
	{"bit varying", func(r *rand.Rand) string { return quote(strconv.FormatUint(r.Uint64()>>r.IntN(64), 2)) }},
	{"point", func(r *rand.Rand) string { return fmt.Sprintf("point(%g, %g)", r.NormFloat64(), r.NormFloat64()) }},
	{"box", func(r *rand.Rand) string { return fmt.Sprintf("'(%d,%d),(0,0)'", r.IntN(9), r.IntN(9)) }},
	{"oid", func(r *rand.Rand) string { return quote(strconv.FormatUint(uint64(r.Uint32()), 10)) }},
	{"tsvector", func(r *rand.Rand) string { return "to_tsvector('simple', " + quote(randomText(r)) + ")" }},
	{"money", func(r *rand.Rand) string { return quote(strconv.Itoa(r.IntN(2e9)-1e9)) + "::numeric::money" }},
	{"pg_lsn", func(r *rand.Rand) string { return fmt.Sprintf("'%X/%X'", r.Uint32N(300), r.Uint32()) }},
	{"int4range", func(r *rand.Rand) string { return fmt.Sprintf("int4range(%d, %s)", r.IntN(100), maybe(r, "100")) }},
	{"numrange", func(r *rand.Rand) string { return fmt.Sprintf("numrange(%s, 100.50, '[]')", maybe(r, "0.10")) }},
	{"tstzrange", func(r *rand.Rand) string { return "tstzrange(NULL, " + quote(randomTimestamp(r, "+00")) + ")" }},
	{"int8multirange", func(r *rand.Rand) string {
		return fmt.Sprintf("int8multirange(int8range(0, %d), int8range(200, %s))", r.IntN(100), maybe(r, "300"))
	}},

	{"integer[]", func(r *rand.Rand) string {
		return array(r, "integer", func(r *rand.Rand) string { return quote(strconv.Itoa(r.IntN(99))) })
	}},
	{"text[]", func(r *rand.Rand) string {
		return array(r, "text", func(r *rand.Rand) string { return quote(randomText(r)) })
	}},
	{"numeric[]", func(r *rand.Rand) string { return array(r, "numeric", randomNumeric) }},
	{"jsonb[]", func(r *rand.Rand) string {
		return array(r, "jsonb", func(r *rand.Rand) string { return quote(randomJSON(r, 0)) })
	}},
	{"timestamptz[]", func(r *rand.Rand) string {
		return array(r, "timestamptz", func(r *rand.Rand) string { return quote(randomTimestamp(r, "+02")) })
	}},
	{"box[]", func(r *rand.Rand) string { return array(r, "box", func(*rand.Rand) string { return "'(3,4),(1,2)'" }) }},

	{"shop.status", randomStatus},
	{`"Größe"`, func(r *rand.Rand) string { return quote([]string{"S", "M"}[r.IntN(2)]) }},
	{"shop.status[]", func(r *rand.Rand) string { return array(r, "shop.status", randomStatus) }},
	{"price", func(r *rand.Rand) string { return quote(digits(r, 6) + "." + digits(r, 2)) }},
	{"price[]", func(r *rand.Rand) string {
		return array(r, "price", func(r *rand.Rand) string { return quote(digits(r, 3)) })
	}},
	{"shop.tags", func(r *rand.Rand) string {
		return array(r, "text", func(r *rand.Rand) string { return quote(randomText(r)) })
	}},
	{"shop.part", randomPart},
	{"shop.item", func(r *rand.Rand) string {
		return fmt.Sprintf("ROW(%d, %s, %s, %s, %s, 'S')::shop.item", r.Int64(), maybe(r, randomPart(r)),
			array(r, "text", func(r *rand.Rand) string { return quote(randomText(r)) }), array(r, "shop.part", randomPart), maybe(r, "true"))
	}},
	{"shop.words", func(r *rand.Rand) string { return fmt.Sprintf("shop.words('', %s)", quote("z"+randomText(r))) }},
}

// everyType is the table every, with a column for each of the types, without a key.
func everyType() string {
	columns := make([]string, len(randomTypes))
	for i, c := range randomTypes {
		columns[i] = fmt.Sprintf("c%d %s", i, c.name)
	}
	return "CREATE TABLE every (" + strings.Join(columns, ", ") + ", nr serial)"
}

// randomRows inserts n rows into every.
func randomRows(r *rand.Rand, n int) string {
	rows := make([]string, n)
	for i := range rows {
		values := make([]string, len(randomTypes))
		for j, c := range randomTypes {
			values[j] = maybe(r, c.make(r))
		}
		rows[i] = "INSERT INTO every VALUES (" + strings.Join(values, ", ") + ")"
	}
	return strings.Join(rows, ";\n")
}

// The tuples are, byte for byte, what the server's row_to_json makes of the rows, on one line.
func TestTuplesAreThoseOfRowToJSON(t *testing.T) {
	db := source(t, types, everyType())
	r := pgtest.Seeded(t)
	for range 30 {
		db.Exec(t, randomRows(r, 20))
	}
	want := query(t, db, "SELECT row_to_json(e)::text FROM every e ORDER BY nr")
	var rows []walchan.Message
	for _, m := range changes(t, db) {
		if m.Kind == walchan.Insert {
			rows = append(rows, m)
		}
	}
	got := lines(t, encode.Bottledwater{}, rows)
	for i, line := range got {
		_, tuple, _ := strings.Cut(line, `"newtuple": `)
		got[i] = strings.TrimSuffix(tuple, " }")
		want[i] = oneLine.Replace(want[i])
	}
	if len(got) != 600 {
		t.Errorf("%d rows", len(got))
	}
	compare(t, got, want)
}

// oneLine: in what row_to_json makes, line breaks are blanks within values of type json; in strings they are escaped.
var oneLine = strings.NewReplacer("\n", " ", "\r", " ")

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// maybe is NULL in one of eight cases.
func maybe(r *rand.Rand, sql string) string {
	if r.IntN(8) == 0 {
		return "NULL"
	}
	return sql
}

func digits(r *rand.Rand, most int) string {
	b := make([]byte, 1+r.IntN(most))
	for i := range b {
		b[i] = '0' + byte(r.IntN(10))
	}
	return string(b)
}

func randomNumeric(r *rand.Rand) string {
	switch r.IntN(10) {
	case 0:
		return quote("NaN")
	case 1:
		return quote([]string{"Infinity", "-Infinity"}[r.IntN(2)])
	case 2:
		return quote("-" + digits(r, 9) + "e" + strconv.Itoa(r.IntN(60)-30))
	}
	return quote([]string{"", "-"}[r.IntN(2)] + digits(r, 40) + "." + digits(r, 20))
}

// randomText has of everything: what JSON, arrays and composite values escape, controls, and characters of all lengths.
func randomText(r *rand.Rand) string {
	b := make([]rune, r.IntN(12))
	for i := range b {
		switch r.IntN(4) {
		case 0:
			b[i] = []rune(`"\'{}(),[]/ <>&:`)[r.IntN(16)]
		case 1:
			b[i] = rune(1 + r.IntN(0x7f))
		case 2:
			b[i] = []rune{'ü', '☃', '𝄞', 0x2028, 0xfeff, 0x85, 0xfffd, 0x10ffff}[r.IntN(8)]
		default:
			b[i] = rune('a' + r.IntN(26))
		}
	}
	return string(b)
}

func randomDate(r *rand.Rand) string {
	switch r.IntN(12) {
	case 0:
		return []string{"infinity", "-infinity"}[r.IntN(2)]
	case 1:
		return fmt.Sprintf("%04d-%02d-%02d BC", 1+r.IntN(4000), 1+r.IntN(12), 1+r.IntN(28))
	case 2:
		return fmt.Sprintf("%d-%02d-%02d", 10000+r.IntN(200000), 1+r.IntN(12), 1+r.IntN(28))
	}
	return fmt.Sprintf("%04d-%02d-%02d", 1+r.IntN(3000), 1+r.IntN(12), 1+r.IntN(28))
}

func randomTime(r *rand.Rand) string {
	return fmt.Sprintf("%02d:%02d:%02d.%s", r.IntN(24), r.IntN(60), r.IntN(60), digits(r, 6))
}

func randomZone(r *rand.Rand) string {
	return fmt.Sprintf("%+03d:%02d", r.IntN(24)-12, 30*r.IntN(2))
}

func randomTimestamp(r *rand.Rand, zone string) string {
	date, bc := strings.CutSuffix(randomDate(r), " BC")
	if strings.HasSuffix(date, "infinity") {
		return date
	}
	s := date + " " + randomTime(r) + zone
	if bc {
		s += " BC"
	}
	return s
}

func randomInet(r *rand.Rand) string {
	if r.IntN(2) == 0 {
		return fmt.Sprintf("%d.%d.0.0/%d", r.IntN(256), r.IntN(256), 16+r.IntN(17))
	}
	return fmt.Sprintf("2001:%x::/%d", r.IntN(65536), 32+r.IntN(97))
}

// randomJSON has blanks and line breaks wherever they are allowed.
func randomJSON(r *rand.Rand, depth int) string {
	blank := []string{"", " ", "\n", "\r\n\t", "  "}[r.IntN(5)]
	switch n := r.IntN(8); {
	case n < 2 && depth < 4:
		return "[" + blank + randomJSON(r, depth+1) + "," + randomJSON(r, depth+1) + blank + "]"
	case n < 5 && depth < 4:
		return "{" + blank + `"k` + digits(r, 2) + `"` + blank + ":" + randomJSON(r, depth+1) + blank + "}"
	case n == 5:
		return blank + []string{"true", "null", "-0.5e-7", "12345678901234567890.10"}[r.IntN(4)]
	}
	return blank + `"a\n\"\\ü` + digits(r, 3) + `"` + blank
}

func randomStatus(r *rand.Rand) string {
	return quote([]string{"new", "in work", `done "now"`, `back\slash`}[r.IntN(4)]) + "::shop.status"
}

func randomPart(r *rand.Rand) string {
	return fmt.Sprintf("ROW(%s, %s, %s, %s)::shop.part", maybe(r, randomNumeric(r)), maybe(r, quote(randomText(r))),
		maybe(r, quote(randomTimestamp(r, "+01"))), maybe(r, quote(randomJSON(r, 0))))
}

// array is an array of none to three elements, of one dimension or of two.
func array(r *rand.Rand, elem string, make func(*rand.Rand) string) string {
	var elems []string
	for range r.IntN(4) {
		elems = append(elems, maybe(r, make(r)))
	}
	list := strings.Join(elems, ", ")
	if len(elems) > 0 && r.IntN(4) == 0 {
		list = "ARRAY[" + list + "], ARRAY[" + list + "]"
	}
	return "ARRAY[" + list + "]::" + elem + "[]"
}
