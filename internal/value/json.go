package value

import (
	"strings"
	"unicode/utf8"

	"github.com/walchan/walchan/internal/pgjson"
)

// AppendJSONText appends a value in text format. What does not look as it should becomes a string.
func AppendJSONText(b []byte, t *Type, s string) []byte {
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

func appendArray(b []byte, t *Type, s string) ([]byte, bool) {
	if s != "" && s[0] == '[' { // lower bounds: "[0:1]={1,2}"
		_, s, _ = strings.Cut(s, "=")
	}
	b, rest, ok := appendElements(b, t, s, 0)
	return b, ok && rest == ""
}

// maxDimensions is MAXDIM in PostgreSQL's c.h.
const maxDimensions = 6

func appendElements(b []byte, t *Type, s string, depth int) (_ []byte, rest string, ok bool) {
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
				b = AppendJSONText(b, t.elem, v)
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
	if !c.fits(compositeLen(0, BytesOf(s))) {
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
			b = AppendJSONText(b, c.fields[i].typ, v)
		}
		return true
	})
	return append(b, '}'), true
}
