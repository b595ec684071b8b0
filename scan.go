package walchan

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Scan fills the struct that dst points to, each field from the column of its name, converted as pgx's Rows.Scan does.
//
// Names match as in pgx.RowToStructByName: the tag `db:"name"` names the column, exactly or else but for case; without tag
// the field's own name does, but for case and underscores; `db:"-"` and unexported fields are left alone; the fields of
// embedded structs count as fields. Columns without a field are ignored, for tables get new columns while programs run.
//
// A field is filled or there is an error: a field without a column, NULL for a Go type that has none, a value that the
// server did not send (ErrUnchanged, ErrNotSent). The tag option "optional", as in `db:"body,optional"` or
// `db:",optional"`, makes an exception: where the column is missing, unchanged or not sent the field keeps what it holds.
// State tells these cases apart.
//
// Errors about a value are *ColumnErrors. After an error some of the fields are filled. What is scanned owns its memory.
func (r Row) Scan(dst any) error {
	if r.rel == nil {
		return errNoRow
	}
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("cannot scan a row into %T, only into a non-nil pointer to a struct", dst)
	}
	l := r.rel.layout()
	v = v.Elem()
	plan, err := l.plan(r.rel.String(), v.Type())
	if err != nil {
		return err
	}
	for i := range plan {
		f := &plan[i]
		state, s := r.column(f.column)
		var err error
		switch state {
		case Text:
			err = f.text.Scan(bytesOf(s), f.target(v))
		case Null:
			err = f.text.Scan(nil, f.target(v))
		case Binary:
			err = f.binary.Scan(bytesOf(s), f.target(v))
		default:
			if !f.optional {
				return r.missing(f.column, state)
			}
		}
		if err != nil {
			return r.scanError(f, state, err)
		}
	}
	return nil
}

func (r Row) scanError(f *fieldPlan, s State, err error) error {
	switch {
	case s == Null:
		return r.columnError(f.column, fmt.Sprintf("NULL does not go into %s", f.typ), err)
	case errors.Is(err, errAttributes):
		return r.columnError(f.column, errAttributes.Error(), err)
	}
	return r.columnError(f.column, fmt.Sprintf("the value does not go into %s", f.typ), err)
}

// fieldPlan says how one field is filled. pgtype's plans hold no state, so all goroutines share them.
type fieldPlan struct {
	column       int
	path         []int // reflect's index
	typ          reflect.Type
	text, binary pgtype.ScanPlan
	optional     bool
}

// target returns a pointer to the field in v.
func (f *fieldPlan) target(v reflect.Value) any {
	if len(f.path) == 1 {
		return v.Field(f.path[0]).Addr().Interface()
	}
	return v.FieldByIndex(f.path).Addr().Interface()
}

// plan returns how a row of the table is scanned into a struct of type t.
func (l *layout) plan(table string, t reflect.Type) ([]fieldPlan, error) {
	if p, ok := l.plans.Load(t); ok {
		return p.([]fieldPlan), nil
	}
	p, err := l.fields(nil, table, t, nil)
	if err != nil {
		return nil, err
	}
	l.plans.Store(t, p)
	return p, nil
}

// fields appends the plans of the fields of struct type t, which is embedded at path.
func (l *layout) fields(plans []fieldPlan, table string, t reflect.Type, path []int) ([]fieldPlan, error) {
	for i := range t.NumField() {
		sf := t.Field(i)
		at := append(path[:len(path):len(path)], i)
		if sf.Anonymous && sf.Type.Kind() == reflect.Struct {
			var err error
			if plans, err = l.fields(plans, table, sf.Type, at); err != nil {
				return nil, err
			}
			continue
		}
		name, options, _ := strings.Cut(sf.Tag.Get("db"), ",")
		if !sf.IsExported() || name == "-" {
			continue
		}
		optional := slices.Contains(strings.Split(options, ","), "optional")
		column := findColumn(l.columns, name, sf.Name)
		switch {
		case column >= 0:
			f := fieldPlan{column: column, path: at, typ: sf.Type, optional: optional}
			l.known.planField(&f, l.types[column].pg.OID)
			plans = append(plans, f)
		case !optional:
			return nil, fmt.Errorf("%s has no column for field %s of %s", table, sf.Name, t)
		}
	}
	return plans, nil
}

// findColumn returns the column for a field, -1 if there is none. Its rules are pgx's.
func findColumn(cols []column, tag, field string) int {
	if tag != "" {
		for i := range cols {
			if cols[i].name == tag {
				return i
			}
		}
	}
	plain := strings.ReplaceAll(field, "_", "")
	for i := range cols {
		if tag != "" && strings.EqualFold(cols[i].name, tag) ||
			tag == "" && strings.EqualFold(strings.ReplaceAll(cols[i].name, "_", ""), plain) {
			return i
		}
	}
	return -1
}

func (k *known) planField(f *fieldPlan, oid uint32) {
	target := reflect.New(f.typ).Interface()
	f.text = k.m.PlanScan(oid, pgtype.TextFormatCode, target)
	f.binary = k.m.PlanScan(oid, pgtype.BinaryFormatCode, target)
	if !isPlain(f.typ) {
		f.binary = &lockedPlan{&k.encoding, f.binary}
	}
	if f.typ == reflect.TypeFor[pgtype.DriverBytes]() {
		f.text, f.binary = &clonePlan{f.text}, &clonePlan{f.binary}
	}
}

// isPlain reports whether pgtype fills t without asking t how.
func isPlain(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return t.Name() == "" && isPlain(t.Elem())
	case reflect.Struct:
		return t == reflect.TypeFor[time.Time]()
	case reflect.Interface:
		return t.NumMethod() == 0
	}
	return t.PkgPath() == "" && (t.Kind() <= reflect.Float64 || t.Kind() == reflect.String)
}

// lockedPlan scans with known.encoding held.
type lockedPlan struct {
	mu   *sync.Mutex
	next pgtype.ScanPlan
}

func (p *lockedPlan) Scan(src []byte, target any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next.Scan(src, target)
}

// clonePlan is for targets that keep what they are given.
type clonePlan struct{ next pgtype.ScanPlan }

func (p *clonePlan) Scan(src []byte, target any) error { return p.next.Scan(bytes.Clone(src), target) }
