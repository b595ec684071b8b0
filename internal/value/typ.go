package value

import (
	"database/sql/driver"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan/internal/pgjson"
)

// Known is what is known of types at one time. It is immutable.
type Known struct {
	types map[uint32]*Type // those that are not built in

	// pgtype.Map is not made for several goroutines, but two things alone write to one that has all its types: the first
	// TypeForValue, made here, and encoding, which remembers its plans. Decoding encodes where pgtype hands a binary
	// value to a sql.Scanner; that is done under encoding.
	m        *pgtype.Map
	encoding sync.Mutex
}

// Type says how the values of one type are converted.
type Type struct {
	name      string
	pg        *pgtype.Type // as what pgtype converts it: a domain as its base type
	form      form
	elem      *Type      // formArray
	delim     byte       // formArray
	composite *composite // formComposite
}

// form is what a value looks like as JSON.
type form uint8

const (
	formString form = iota
	formNumber
	formBool
	formTimestamp
	formTimestamptz
	formJSON
	formArray
	formComposite
)

type composite struct {
	fields []field
	ever   int         // attributes there ever were, dropped ones too
	stale  atomic.Bool // a value had more
}

type field struct {
	key string // its name as JSON, with the colon
	typ *Type
}

// fits reports whether the fields of a value that has n of them are known. A value has the attributes of the time when it
// was written; the catalogue was asked at another. Attributes are only ever added at the end, but also dropped.
func (c *composite) fits(n int) bool {
	if n > c.ever {
		c.stale.Store(true)
	}
	return n == len(c.fields) || 0 < n && n < len(c.fields) && len(c.fields) == c.ever
}

func NewKnown(specs map[uint32]Spec) *Known {
	k := &Known{types: make(map[uint32]*Type, len(specs)), m: pgtype.NewMap()}
	// pgtype reads its binary format as text, which has a version before it.
	k.m.RegisterType(&pgtype.Type{Name: "jsonpath", OID: pgtype.JSONPathOID, Codec: opaqueCodec{}})
	for oid := range specs {
		k.add(oid, specs)
	}
	k.m.TypeForValue(0)
	return k
}

func (k *Known) has(oid uint32) bool {
	if _, ok := k.types[oid]; ok {
		return true
	}
	_, ok := k.m.TypeForOID(oid)
	return ok
}

// Type returns the type called oid; one that is not known has a number for a name and is text.
func (k *Known) typ(oid uint32) *Type {
	if t, ok := k.types[oid]; ok {
		return t
	}
	if pg, ok := k.m.TypeForOID(oid); ok {
		return builtin(pg)
	}
	name := strconv.FormatUint(uint64(oid), 10)
	return &Type{name: name, pg: &pgtype.Type{Name: name, OID: oid, Codec: opaqueCodec{}}}
}

// builtin returns a type that pgtype knows by itself.
func builtin(pg *pgtype.Type) *Type {
	t := &Type{name: pg.Name, pg: pg, form: builtinForms[pg.OID]}
	if name, ok := builtinNames[pg.Name]; ok {
		t.name = name
	}
	if array, ok := pg.Codec.(*pgtype.ArrayCodec); ok {
		t.form, t.elem, t.delim = formArray, builtin(array.ElementType), array.Delimiter
		t.name = t.elem.name + "[]"
		if t.delim == 0 {
			t.delim = ','
		}
	}
	return t
}

var builtinForms = map[uint32]form{
	pgtype.Int2OID: formNumber, pgtype.Int4OID: formNumber, pgtype.Int8OID: formNumber,
	pgtype.Float4OID: formNumber, pgtype.Float8OID: formNumber, pgtype.NumericOID: formNumber,
	pgtype.BoolOID: formBool, pgtype.TimestampOID: formTimestamp, pgtype.TimestamptzOID: formTimestamptz,
	pgtype.JSONOID: formJSON, pgtype.JSONBOID: formJSON,
}

// builtinNames are the types whose names in SQL are not those in pg_type (format_type.c).
var builtinNames = map[string]string{
	"bool": "boolean", "bpchar": "character", "char": `"char"`, "float4": "real", "float8": "double precision",
	"int2": "smallint", "int4": "integer", "int8": "bigint", "time": "time without time zone",
	"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone", "varbit": "bit varying",
	"varchar": "character varying",
}

// add makes the type called oid, and before it those it is made of.
func (k *Known) add(oid uint32, specs map[uint32]Spec) *Type {
	s, ok := specs[oid]
	if !ok || k.has(oid) {
		return k.typ(oid)
	}
	t := &Type{name: s.Name, pg: &pgtype.Type{Name: s.Name, OID: oid, Codec: opaqueCodec{}}}
	k.types[oid] = t
	switch s.Kind {
	case 'a':
		t.elem, t.form, t.delim = k.add(s.Part, specs), formArray, s.Delim
		t.name = t.elem.name + "[]"
		t.pg.Codec = &pgtype.ArrayCodec{ElementType: t.elem.pg, Delimiter: s.Delim}
	case 'c':
		if len(s.Attrs) > 0 { // else the text "()" has no attribute, and looks like one that is null
			k.addComposite(t, s, specs)
		}
	case 'd':
		*t = *k.add(s.Part, specs)
		t.name = s.Name
		k.m.RegisterType(&pgtype.Type{Name: s.Name, OID: oid, Codec: t.pg.Codec}) // as a part of other types
		return t
	case 'e':
		t.pg.Codec = pgtype.TextCodec{} // not EnumCodec: that one remembers labels, unguarded
	case 'r':
		t.pg.Codec = &pgtype.RangeCodec{ElementType: k.add(s.Part, specs).pg}
	case 'm':
		t.pg.Codec = &pgtype.MultirangeCodec{ElementType: k.add(s.Part, specs).pg}
	default:
		if s.category == 'S' { // string types, such as citext: binary is text
			t.pg.Codec = pgtype.TextCodec{}
		}
	}
	k.m.RegisterType(t.pg)
	return t
}

func (k *Known) addComposite(t *Type, s Spec, specs map[uint32]Spec) {
	c := &composite{ever: s.Ever}
	codec := &compositeCodec{composite: c}
	for _, a := range s.Attrs {
		f := field{key: string(append(pgjson.AppendString(nil, a.Name), ':')), typ: k.add(a.OID, specs)}
		c.fields = append(c.fields, f)
		codec.Fields = append(codec.Fields, pgtype.CompositeCodecField{Name: a.Name, Type: f.typ.pg})
	}
	t.form, t.composite, t.pg.Codec = formComposite, c, codec
}

// opaqueCodec is for a type of which nothing is known: text is text, binary is bytes.
type opaqueCodec struct{ pgtype.TextCodec }

func (opaqueCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if format == pgtype.BinaryFormatCode {
		return pgtype.ByteaCodec{}.PlanScan(m, oid, format, target)
	}
	return pgtype.TextCodec{}.PlanScan(m, oid, format, target)
}

func (c opaqueCodec) DecodeDatabaseSQLValue(m *pgtype.Map, oid uint32, format int16, src []byte) (driver.Value, error) {
	return c.DecodeValue(m, oid, format, src)
}

func (opaqueCodec) DecodeValue(m *pgtype.Map, oid uint32, format int16, src []byte) (any, error) {
	if format == pgtype.BinaryFormatCode {
		return pgtype.ByteaCodec{}.DecodeValue(m, oid, format, src)
	}
	return pgtype.TextCodec{}.DecodeValue(m, oid, format, src)
}

// compositeCodec gives a value whose attributes are not the known ones as it would an unknown type's.
type compositeCodec struct {
	pgtype.CompositeCodec
	composite *composite
}

func (c *compositeCodec) DecodeValue(m *pgtype.Map, oid uint32, format int16, src []byte) (any, error) {
	if src != nil && !c.composite.fits(compositeLen(format, src)) {
		return opaqueCodec{}.DecodeValue(m, oid, format, src)
	}
	return c.CompositeCodec.DecodeValue(m, oid, format, src)
}

func (c *compositeCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	next := c.CompositeCodec.PlanScan(m, oid, format, target)
	if next == nil {
		return nil
	}
	return &compositePlan{c.composite, format, next}
}

type compositePlan struct {
	composite *composite
	format    int16
	next      pgtype.ScanPlan
}

func (p *compositePlan) Scan(src []byte, target any) error {
	if src != nil && !p.composite.fits(compositeLen(p.format, src)) {
		return ErrAttributes
	}
	return p.next.Scan(src, target)
}
