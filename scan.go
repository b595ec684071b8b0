package walchan

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/walchan/walchan/internal/value"
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
	plan, err := l.Plan(r.rel.String(), v.Type())
	if err != nil {
		return err
	}
	for i := range plan {
		f := &plan[i]
		state, s := r.column(f.Column)
		var err error
		switch state {
		case Text:
			err = f.Text.Scan(value.BytesOf(s), f.Target(v))
		case Null:
			err = f.Text.Scan(nil, f.Target(v))
		case Binary:
			err = f.Binary.Scan(value.BytesOf(s), f.Target(v))
		default:
			if !f.Optional {
				return r.missing(f.Column, state)
			}
		}
		if err != nil {
			return r.scanError(f, state, err)
		}
	}
	return nil
}

func (r Row) scanError(f *value.FieldPlan, s State, err error) error {
	switch {
	case s == Null:
		return r.columnError(f.Column, fmt.Sprintf("NULL does not go into %s", f.Type), err)
	case errors.Is(err, value.ErrAttributes):
		return r.columnError(f.Column, value.ErrAttributes.Error(), err)
	}
	return r.columnError(f.Column, fmt.Sprintf("the value does not go into %s", f.Type), err)
}
