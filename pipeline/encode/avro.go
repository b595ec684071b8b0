package encode

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgjson"
)

// Avro encodes the rows of a table in Avro's binary encoding. One is made for each walchan.Relation that comes: another pointer
// is another definition. It may be used by several goroutines.
//
// A row is a record called as the table, in a namespace called as its schema. Each column is a union of null and
//
//	boolean                   boolean
//	smallint, integer         int
//	bigint, oid, xid, cid     long
//	real, double precision    float, double
//	bytea                     bytes
//	date                      int, date
//	time                      long, time-micros
//	timestamp, timestamptz    long, local-timestamp-micros and timestamp-micros
//	uuid                      string, uuid
//	everything else           string: PostgreSQL's text, with every digit of a numeric
//
// In names what Avro does not allow is replaced by "_"; the field's attribute "column" then has the column's name.
//
// What Avro's type does not have is an error, a *walchan.ColumnError: infinity among dates and timestamps (ErrRange), and
// values in binary format (ErrBinary). Values that are Unchanged or NotSent are null: Unchanged has the names of the former.
type Avro struct {
	Schema    string // of rows, as JSON
	KeySchema string // of keys; "" for a table without a replica identity
	fields    []avroField
}

type avroField struct {
	name string
	oid  uint32
	key  bool
}

// NewAvro makes the schemas of a table.
func NewAvro(rel *walchan.Relation) *Avro {
	a := &Avro{fields: make([]avroField, len(rel.Columns))}
	taken := map[string]bool{}
	var row, key strings.Builder
	for i, c := range rel.Columns {
		name := avroName(c.Name)
		for taken[name] {
			name += "_"
		}
		taken[name] = true
		a.fields[i] = avroField{name, c.TypeOID, c.Key}
		field := avroFieldSchema(name, c)
		addField(&row, field)
		if c.Key {
			addField(&key, field)
		}
	}
	a.Schema = avroRecord(rel, "", row.String())
	if key.Len() > 0 {
		a.KeySchema = avroRecord(rel, "_key", key.String())
	}
	return a
}

func addField(fields *strings.Builder, field string) {
	if fields.Len() > 0 {
		fields.WriteByte(',')
	}
	fields.WriteString(field)
}

func avroRecord(rel *walchan.Relation, suffix, fields string) string {
	return `{"type":"record","name":"` + avroName(rel.Name) + suffix + `","namespace":"` + avroName(rel.Schema) + `","fields":[` + fields + `]}`
}

func avroFieldSchema(name string, c walchan.Column) string {
	column := ""
	if name != c.Name {
		column = `,"column":` + string(pgjson.AppendString(nil, c.Name))
	}
	typ, ok := avroTypes[c.TypeOID]
	if !ok {
		typ = `"string"`
	}
	return `{"name":"` + name + `","type":["null",` + typ + `],"default":null` + column + `}`
}

// avroName makes a name of Avro's: letters, digits and "_", no digit first (Avro specification, "Names").
func avroName(s string) string {
	name := strings.Map(func(r rune) rune {
		if r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, s)
	if name == "" || name[0] <= '9' {
		return "_" + name
	}
	return name
}

var avroTypes = map[uint32]string{
	pgtype.BoolOID: `"boolean"`, pgtype.Int2OID: `"int"`, pgtype.Int4OID: `"int"`, pgtype.Int8OID: `"long"`,
	pgtype.OIDOID: `"long"`, pgtype.XIDOID: `"long"`, pgtype.CIDOID: `"long"`,
	pgtype.Float4OID: `"float"`, pgtype.Float8OID: `"double"`, pgtype.ByteaOID: `"bytes"`,
	pgtype.DateOID:        `{"type":"int","logicalType":"date"}`,
	pgtype.TimeOID:        `{"type":"long","logicalType":"time-micros"}`,
	pgtype.TimestampOID:   `{"type":"long","logicalType":"local-timestamp-micros"}`,
	pgtype.TimestamptzOID: `{"type":"long","logicalType":"timestamp-micros"}`,
	pgtype.UUIDOID:        `{"type":"string","logicalType":"uuid"}`,
}

// AppendRow appends a row of the table, as Schema says.
func (a *Avro) AppendRow(b []byte, r walchan.Row) ([]byte, error) { return a.append(b, r, false) }

// AppendKey appends the key of a row of the table, as KeySchema says; nothing if there is none.
func (a *Avro) AppendKey(b []byte, r walchan.Row) ([]byte, error) { return a.append(b, r, true) }

// Unchanged returns the fields of a row that are null because the update did not change a large value, and the server left
// it out.
func (a *Avro) Unchanged(r walchan.Row) (names []string) {
	for i := range r.Len() {
		if r.State(i) == walchan.Unchanged {
			names = append(names, a.fields[i].name)
		}
	}
	return names
}

func (a *Avro) append(b []byte, r walchan.Row, key bool) (_ []byte, err error) {
	start := len(b)
	for i := range r.Len() {
		if key && !a.fields[i].key {
			continue
		}
		switch r.State(i) {
		case walchan.Text:
			b, err = a.appendValue(append(b, 2), r, i) // the union's second branch
		case walchan.Binary:
			err = ErrBinary
		default:
			b = append(b, 0)
		}
		if err != nil {
			return b[:start], columnError(r, i, err)
		}
	}
	return b, nil
}

func (a *Avro) appendValue(b []byte, r walchan.Row, i int) ([]byte, error) {
	v := r.Text(i)
	switch a.fields[i].oid {
	case pgtype.BoolOID:
		if v == "t" {
			return append(b, 1), nil
		}
		return append(b, 0), nil
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.XIDOID, pgtype.CIDOID:
		n, err := strconv.ParseInt(v, 10, 64)
		return binary.AppendVarint(b, n), err
	case pgtype.Float4OID:
		f, err := strconv.ParseFloat(v, 32)
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(f))), err
	case pgtype.Float8OID:
		f, err := strconv.ParseFloat(v, 64)
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(f)), err
	case pgtype.ByteaOID:
		v = strings.TrimPrefix(v, `\x`)
		return hex.AppendDecode(binary.AppendVarint(b, int64(len(v)/2)), []byte(v))
	case pgtype.DateOID, pgtype.TimeOID, pgtype.TimestampOID, pgtype.TimestamptzOID:
		return appendAvroTime(b, r, i)
	}
	return append(binary.AppendVarint(b, int64(len(v))), v...), nil
}

func appendAvroTime(b []byte, r walchan.Row, i int) ([]byte, error) {
	v, err := r.ValueAt(i)
	if err != nil {
		return b, err
	}
	switch v := v.(type) {
	case pgtype.Time:
		return binary.AppendVarint(b, v.Microseconds), nil
	case time.Time:
		if r.Relation().Columns[i].TypeOID == pgtype.DateOID {
			return binary.AppendVarint(b, floorDiv(v.Unix(), 24*60*60)), nil
		}
		if v.Year() <= 292_000 {
			return binary.AppendVarint(b, v.UnixMicro()), nil
		}
	}
	return b, ErrRange
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
