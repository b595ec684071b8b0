package walchan

import (
	"strings"
	"unicode/utf8"

	"github.com/walchan/walchan/internal/pgjson"
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
	for i := range l.types {
		state, v := r.column(i)
		if state == Unchanged || state == NotSent {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, l.keys[i]...)
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

func (r Row) appendJSONColumn(b []byte, l *layout, i int, state State, v string) ([]byte, error) {
	switch state {
	case Null:
		return append(b, "null"...), nil
	case Text:
		return appendJSONText(b, l.types[i], v), nil
	}
	start := len(b)
	b, err := l.known.appendJSONBinary(b, l.types[i], v)
	if err != nil {
		return b[:start], r.columnError(i, "the value is not one of the type", err)
	}
	return b, nil
}

// MarshalJSON implements json.Marshaler with AppendJSON.
func (r Row) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil) }

// appendJSONText appends a value in text format. What does not look as it should becomes a string.
func appendJSONText(b []byte, t *typ, s string) []byte {
	start := len(b)
	ok := false
	switch t.form {
	case formNumber:
		if isNumber(s) {
			return append(b, s...)
		}
	case formBool:
		switch s {
		case "t":
			return append(b, "true"...)
		case "f":
			return append(b, "false"...)
		}
	case formTimestamp, formTimestamptz:
		if isTimestamp(s) {
			return appendTimestamp(b, s, t.form == formTimestamptz)
		}
	case formJSON:
		return appendRaw(b, s)
	case formArray:
		if b, ok = appendArray(b, t, s); ok {
			return b
		}
	case formComposite:
		if b, ok = appendComposite(b, t.composite, s); ok {
			return b
		}
	}
	return pgjson.AppendString(b[:start], s)
}

// isNumber reports whether s is a number in JSON's syntax.
func isNumber(s string) bool {
	if s != "" && s[0] == '-' {
		s = s[1:]
	}
	whole := digits(s)
	if whole == 0 || whole > 1 && s[0] == '0' {
		return false
	}
	if s = s[whole:]; s != "" && s[0] == '.' {
		n := digits(s[1:])
		if n == 0 {
			return false
		}
		s = s[1+n:]
	}
	if s == "" {
		return true
	}
	if s[0] != 'e' && s[0] != 'E' {
		return false
	}
	if s = s[1:]; s != "" && (s[0] == '+' || s[0] == '-') {
		s = s[1:]
	}
	return s != "" && digits(s) == len(s)
}

// digits returns how many digits s starts with.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n]-'0' <= 9 {
		n++
	}
	return n
}

// isTimestamp reports whether s may be a timestamp in ISO format: "2026-01-02 03:04:05.123456+00", with more digits to
// the year, or " BC" at the end.
func isTimestamp(s string) bool {
	for i := range len(s) {
		if c := s[i]; c-'0' > 9 && !strings.ContainsRune("-+:. BC", rune(c)) {
			return false
		}
	}
	return len(s) > 0 && s[0]-'0' <= 9
}

func appendTimestamp(b []byte, s string, zone bool) []byte {
	s, bc := strings.CutSuffix(s, " BC")
	date, time, _ := strings.Cut(s, " ")
	b = append(b, '"')
	b = append(b, date...)
	b = append(b, 'T')
	b = append(b, time...)
	if offset := strings.LastIndexAny(time, "+-"); zone && offset >= 0 && len(time)-offset == len("+00") {
		b = append(b, ":00"...) // EncodeTimezone leaves the minutes out where they are 0
	}
	if bc {
		b = append(b, " BC"...)
	}
	return append(b, '"')
}

// appendRaw appends JSON as it is, except for line breaks, which are blanks.
func appendRaw(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	start := len(b)
	b = append(b, s...)
	for i, c := range b[start:] {
		if c == '\n' || c == '\r' {
			b[start+i] = ' '
		}
	}
	return b
}

func appendArray(b []byte, t *typ, s string) ([]byte, bool) {
	if s != "" && s[0] == '[' { // lower bounds: "[0:1]={1,2}"
		_, s, _ = strings.Cut(s, "=")
	}
	b, rest, ok := appendElements(b, t, s, 0)
	return b, ok && rest == ""
}

// maxDimensions is MAXDIM in PostgreSQL's c.h.
const maxDimensions = 6

func appendElements(b []byte, t *typ, s string, depth int) (_ []byte, rest string, ok bool) {
	if s == "" || s[0] != '{' || depth == maxDimensions {
		return b, "", false
	}
	b = append(b, '[')
	if strings.HasPrefix(s, "{}") {
		return append(b, ']'), s[2:], true
	}
	for {
		if s = s[1:]; s != "" && s[0] == '{' {
			b, s, ok = appendElements(b, t, s, depth+1)
		} else {
			var v string
			var null bool
			if v, null, s, ok = element(s, t.delim); null {
				b = append(b, "null"...)
			} else if ok {
				b = appendJSONText(b, t.elem, v)
			}
		}
		if !ok || s == "" || s[0] != t.delim && s[0] != '}' {
			return b, "", false
		}
		if s[0] == '}' {
			return append(b, ']'), s[1:], true
		}
		b = append(b, ',')
	}
}

func appendComposite(b []byte, c *composite, s string) ([]byte, bool) {
	if !c.fits(compositeLen(0, bytesOf(s))) {
		return b, false
	}
	b = append(b, '{')
	attributes(s, func(i int, v string, null bool) bool {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, c.fields[i].key...)
		if null {
			b = append(b, "null"...)
		} else {
			b = appendJSONText(b, c.fields[i].typ, v)
		}
		return true
	})
	return append(b, '}'), true
}
