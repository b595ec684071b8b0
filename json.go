package walchan

import (
	"github.com/walchan/walchan/internal/value"
)

// AppendJSON appends the row as one JSON object on one line, as row_to_json makes it:
//
//   - columns without a value (Unchanged, NotSent) are left out, NULL is null;
//   - integers, floats and numeric are numbers with every digit as the server sent it; NaN and the infinities strings;
//   - boolean is true or false; json and jsonb stand as they are;
//   - arrays are arrays, without their lower bounds; composite values are objects;
//   - timestamps are ISO 8601 ("2026-01-02T03:04:05.123456+00:00", "infinity");
//   - everything else is a string of PostgreSQL's text: bytea "\\x…", ranges "[1,10)", bit strings, types not known.
//
// Line breaks within json, where they are blanks, become blanks, and bytes that are not UTF-8 U+FFFD. Types that an
// extension has brought are strings, also where the server has a cast to json for them, such as hstore's.
//
// Columns in binary format give the same, but for timestamptz, which is in UTC and not in the session's time zone, for
// floats within geometric types, which have no exponents, and for types whose binary format pgx does not know (money,
// timetz, those of extensions), which are strings of "\\x…".
//
// The zero Row is null. The error is a *ColumnError, for a value in binary format that is not one of its type; b is then
// returned as it was.
func (r Row) AppendJSON(b []byte) ([]byte, error) {
	if r.rel == nil {
		return append(b, "null"...), nil
	}
	l, start := r.rel.layout(), len(b)
	b = append(b, '{')
	for i := range l.Types {
		state, v := r.column(i)
		if state == Unchanged || state == NotSent {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, l.Keys[i]...)
		var err error
		if b, err = r.appendJSONColumn(b, l, i, state, v); err != nil {
			return b[:start], err
		}
	}
	return append(b, '}'), nil
}

// AppendJSONAt appends the value of column i as AppendJSON does within the row. It panics if there is no such column.
//
// The error is a *ColumnError: ErrUnchanged or ErrNotSent where there is no value, or that of AppendJSON; b is then returned
// as it was.
func (r Row) AppendJSONAt(b []byte, i int) ([]byte, error) {
	state, v := r.column(i)
	if state == Unchanged || state == NotSent {
		return b, r.missing(i, state)
	}
	return r.appendJSONColumn(b, r.rel.layout(), i, state, v)
}

func (r Row) appendJSONColumn(b []byte, l *value.Layout, i int, state State, v string) ([]byte, error) {
	switch state {
	case Null:
		return append(b, "null"...), nil
	case Text:
		return value.AppendJSONText(b, l.Types[i], v), nil
	}
	start := len(b)
	b, err := l.Known.AppendJSONBinary(b, l.Types[i], v)
	if err != nil {
		return b[:start], r.columnError(i, "the value is not one of the type", err)
	}
	return b, nil
}

// MarshalJSON implements json.Marshaler with AppendJSON.
func (r Row) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil) }
