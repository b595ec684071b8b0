// Package value converts the values of rows: to Go, to JSON and to text. It knows the types of the catalogue, and no table.
package value

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/walchan/walchan/internal/pgjson"
)

// ErrAttributes says that a composite value does not fit the attributes that are known.
var ErrAttributes = errors.New("the attributes of the composite type have changed")

// Conversion is how the values of one table's rows are converted.
type Conversion struct {
	types   *Types
	columns []Column
	layout  atomic.Pointer[Layout]
}

// Column is a column of a table.
type Column struct {
	Name string
	OID  uint32 // of its type
}

// Layout is what is worked out once for a table and what is known of its types.
type Layout struct {
	columns []Column
	Known   *Known
	Types   []*Type
	Keys    []string // the columns' names as JSON, with the colon
	plans   sync.Map // reflect.Type of a struct to []fieldPlan
}

func newLayout(columns []Column, k *Known) *Layout {
	l := &Layout{columns: columns, Known: k, Types: make([]*Type, len(columns)), Keys: make([]string, len(columns))}
	for i, c := range columns {
		l.Types[i] = k.typ(c.OID)
		l.Keys[i] = string(append(pgjson.AppendString(nil, c.Name), ':'))
	}
	return l
}

// Current returns the table's layout, a new one if more has become known. Two goroutines may make it at once: they
// make the same.
func (v *Conversion) Current() *Layout {
	k := v.types.Known.Load()
	if l := v.layout.Load(); l != nil && l.Known == k {
		return l
	}
	l := newLayout(v.columns, k)
	v.layout.Store(l)
	return l
}

// Decode returns the value of column i as pgx has it.
func (l *Layout) Decode(i int, format int16, v []byte) (any, error) {
	pg := l.Types[i].pg
	return pg.Codec.DecodeValue(l.Known.m, pg.OID, format, v)
}

// TypeName returns the name of the type of column i.
func (l *Layout) TypeName(i int) string { return l.Types[i].name }

// Bare is the layout of a table of which no catalogue was asked.
func Bare(columns []Column) *Layout { return newLayout(columns, builtins()) }

// builtins is what is known without a catalogue.
var builtins = sync.OnceValue(func() *Known { return NewKnown(nil) })
