package walchan

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/value"
)

// Why there is no value. They are found with errors.Is in the errors of Row's methods.
var (
	// ErrUnchanged: an UPDATE did not change a large (TOASTed) value, so the server left it out. ALTER TABLE … REPLICA
	// IDENTITY FULL makes it send the whole old row, from which the value is filled in. Without that, State tells such a
	// column, and Scan leaves its field alone if that has the tag option "optional".
	ErrUnchanged = errors.New("the server left out an unchanged large value")

	// ErrNotSent: the column does not belong to the replica identity, and of the old row the server sent only that.
	// REPLICA IDENTITY FULL makes it send the whole.
	ErrNotSent = errors.New("the server sent only the replica identity of the old row")
)

var (
	errNoRow = errors.New("there is no row")
)

// ColumnError says which column's value could not be had. Its text never shows row data; the error it wraps may.
type ColumnError struct {
	Table  string // as Relation.String has it
	Column string
	Type   string // as Column.TypeName has it
	Reason string
	Err    error // ErrUnchanged, ErrNotSent or what the conversion said; may be nil
}

func (e *ColumnError) Error() string {
	return fmt.Sprintf("column %s of %s (%s): %s", pgsql.Ident(e.Column), e.Table, e.Type, e.Reason)
}

// Unwrap returns Err.
func (e *ColumnError) Unwrap() error { return e.Err }

func (r Row) columnError(i int, reason string, err error) error {
	name, typ := r.rel.Columns[i].Name, r.rel.layout().TypeName(i)
	return &ColumnError{Table: r.rel.String(), Column: name, Type: typ, Reason: reason, Err: err}
}

const withoutValue = `REPLICA IDENTITY FULL makes it send all, Scan's tag option "optional" does without`

// missing is the error for a column in a state without a value.
func (r Row) missing(i int, s State) error {
	err := ErrNotSent
	if s == Unchanged {
		err = ErrUnchanged
	}
	return r.columnError(i, err.Error()+"; "+withoutValue, err)
}

// Value returns the value of the column called name as pgx's Rows.Values does for a SELECT:
//
//	NULL                             nil
//	smallint, integer, bigint        int16, int32, int64
//	real, double precision           float32, float64
//	numeric                          pgtype.Numeric
//	boolean                          bool
//	text, varchar, char, name, enums string
//	bytea, xml                       []byte
//	timestamp, timestamptz, date     time.Time (UTC, Local, UTC), or pgtype.InfinityModifier
//	time, interval                   pgtype.Time, pgtype.Interval
//	uuid                             [16]byte
//	json, jsonb                      any, as encoding/json decodes it: numbers are float64
//	oid, xid, cid; xid8              uint32; uint64
//	inet, cidr; macaddr              netip.Prefix; net.HardwareAddr
//	bit, varbit, point, tid, …       pgtype.Bits, pgtype.Point, pgtype.TID, …
//	arrays                           []any, flat however many dimensions
//	ranges, multiranges              pgtype.Range[any], pgtype.Multirange[pgtype.Range[any]]
//	composite types                  map[string]any
//	domains                          as the type they are made of
//	other types                      string; []byte if they come in binary
//
// A composite value that has other attributes than the catalogue knows of (ALTER TYPE … ADD ATTRIBUTE) is given like those
// other types. It never asks the server. Scan and Text are the ways to another Go type.
//
// The error is a *ColumnError: ErrUnchanged or ErrNotSent where the server sent no value, another one where it is none of
// the type. A column that the table does not have is an error too, and so is the zero Row.
func (r Row) Value(name string) (any, error) {
	if r.rel == nil {
		return nil, errNoRow
	}
	i := r.rel.Index(name)
	if i < 0 {
		return nil, fmt.Errorf("%s has no column %s", r.rel, pgsql.Ident(name))
	}
	return r.ValueAt(i)
}

// ValueAt returns the value of column i as Value does. It panics if there is no such column.
func (r Row) ValueAt(i int) (any, error) { return r.value(r.rel.layout(), i) }

func (r Row) value(l *value.Layout, i int) (any, error) {
	state, v := r.column(i)
	format := int16(pgtype.TextFormatCode)
	switch state {
	case Null:
		return nil, nil
	case Unchanged, NotSent:
		return nil, r.missing(i, state)
	case Binary:
		format = pgtype.BinaryFormatCode
	}
	value, err := l.Decode(i, format, value.BytesOf(v))
	if err != nil {
		return nil, r.columnError(i, "the value cannot be converted", err)
	}
	return value, nil
}

// Map returns the values of all columns that have one, by name, as Value does: NULL is nil, and the columns that are
// Unchanged or NotSent are left out. It is nil for the zero Row.
func (r Row) Map() (map[string]any, error) {
	if r.rel == nil {
		return nil, nil
	}
	l, m := r.rel.layout(), make(map[string]any, r.Len())
	for i := range r.rel.Columns {
		if s := r.State(i); s == Unchanged || s == NotSent {
			continue
		}
		v, err := r.value(l, i)
		if err != nil {
			return nil, err
		}
		m[r.rel.Columns[i].Name] = v
	}
	return m, nil
}

// layout returns how the rows are laid out and converted.
func (r *Relation) layout() *value.Layout {
	if r.conv == nil {
		return value.Bare(r.valueColumns())
	}
	return r.conv.Current()
}

// valueColumns is what the conversion of values has to know of the columns.
func (r *Relation) valueColumns() []value.Column {
	cols := make([]value.Column, len(r.Columns))
	for i := range r.Columns {
		cols[i] = value.Column{Name: r.Columns[i].Name, OID: r.Columns[i].TypeOID}
	}
	return cols
}

// typeOIDs are the types of the columns.
func (r *Relation) typeOIDs() []uint32 {
	oids := make([]uint32, len(r.Columns))
	for i := range r.Columns {
		oids[i] = r.Columns[i].TypeOID
	}
	return oids
}

// bind makes the values of the rows be converted with what t knows, now and later, and names the types of the columns.
// It is called before anybody else sees r.
func (r *Relation) bind(t *value.Types) {
	r.conv = t.Conversion(r.valueColumns())
	for i := range r.Columns {
		r.Columns[i].TypeName = t.Name(r.Columns[i].TypeOID)
	}
}
