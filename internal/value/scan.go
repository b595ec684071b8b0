package value

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// FieldPlan says how one field is filled. pgtype's plans hold no state, so all goroutines share them.
type FieldPlan struct {
	Column       int
	path         []int // reflect's index
	Type         reflect.Type
	Text, Binary pgtype.ScanPlan
	Optional     bool
}

// Target returns a pointer to the field in v.
func (f *FieldPlan) Target(v reflect.Value) any {
	if len(f.path) == 1 {
		return v.Field(f.path[0]).Addr().Interface()
	}
	return v.FieldByIndex(f.path).Addr().Interface()
}

// Plan returns how a row of the table is scanned into a struct of type t.
func (l *Layout) Plan(table string, t reflect.Type) ([]FieldPlan, error) {
	if p, ok := l.plans.Load(t); ok {
		return p.([]FieldPlan), nil
	}
	p, err := l.fields(nil, table, t, nil)
	if err != nil {
		return nil, err
	}
	l.plans.Store(t, p)
	return p, nil
}

// fields appends the plans of the fields of struct type t, which is embedded at path.
func (l *Layout) fields(plans []FieldPlan, table string, t reflect.Type, path []int) ([]FieldPlan, error) {
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
			f := FieldPlan{Column: column, path: at, Type: sf.Type, Optional: optional}
			l.Known.planField(&f, l.Types[column].pg.OID)
			plans = append(plans, f)
		case !optional:
			return nil, fmt.Errorf("%s has no column for field %s of %s", table, sf.Name, t)
		}
	}
	return plans, nil
}

// findColumn returns the column for a field, -1 if there is none. Its rules are pgx's.
func findColumn(cols []Column, tag, field string) int {
	if tag != "" {
		for i := range cols {
			if cols[i].Name == tag {
				return i
			}
		}
	}
	plain := strings.ReplaceAll(field, "_", "")
	for i := range cols {
		if tag != "" && strings.EqualFold(cols[i].Name, tag) ||
			tag == "" && strings.EqualFold(strings.ReplaceAll(cols[i].Name, "_", ""), plain) {
			return i
		}
	}
	return -1
}

func (k *Known) planField(f *FieldPlan, oid uint32) {
	target := reflect.New(f.Type).Interface()
	f.Text = k.m.PlanScan(oid, pgtype.TextFormatCode, target)
	f.Binary = k.m.PlanScan(oid, pgtype.BinaryFormatCode, target)
	if !isPlain(f.Type) {
		f.Binary = &lockedPlan{&k.encoding, f.Binary}
	}
	if f.Type == reflect.TypeFor[pgtype.DriverBytes]() {
		f.Text, f.Binary = &clonePlan{f.Text}, &clonePlan{f.Binary}
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
