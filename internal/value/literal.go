package value

import (
	"encoding/binary"
	"strings"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"
)

// The text of arrays and composite values (documentation, "Array Input and Output Syntax" and "Composite Type Input and
// Output Syntax"), as array_out and record_out write it: without blanks, and NULL in capitals.

// quoted reads a quoted string at the start of s and returns it without quotes and escapes, and what follows. Within
// arrays a backslash escapes; within composite values a quote is written twice, too.
func quoted(s string, twice bool) (value, rest string, ok bool) {
	var unescaped []byte
	start := 1
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s), twice && s[i] == '"' && i+1 < len(s) && s[i+1] == '"':
			unescaped = append(unescaped, s[start:i]...)
			i++
			start = i // the escaped character belongs to the next piece
		case s[i] == '"':
			if start == 1 {
				return s[1:i], s[i+1:], true
			}
			return stringOf(append(unescaped, s[start:i]...)), s[i+1:], true
		}
	}
	return "", "", false
}

// element reads an element of an array, which is no array itself, at the start of s, and returns what follows.
func element(s string, delim byte) (value string, null bool, rest string, ok bool) {
	if s != "" && s[0] == '"' {
		value, rest, ok = quoted(s, false)
		return value, false, rest, ok
	}
	i := 0
	for i < len(s) && s[i] != delim && s[i] != '}' {
		if s[i] == '"' || s[i] == '\\' || s[i] == '{' {
			return "", false, "", false
		}
		i++
	}
	return s[:i], s[:i] == "NULL", s[i:], i > 0
}

// attributes calls f with each attribute of a composite value's text, until it returns false. It returns false if f did,
// or if s is no such text.
func attributes(s string, f func(i int, value string, null bool) bool) bool {
	if s == "" || s[0] != '(' {
		return false
	}
	for i := 0; ; i++ {
		var value string
		null, ok := false, true
		if s = s[1:]; s != "" && s[0] == '"' {
			value, s, ok = quoted(s, true)
		} else {
			end := strings.IndexAny(s, `,)("\`)
			if end < 0 {
				return false
			}
			value, s, null = s[:end], s[end:], end == 0
		}
		if !ok || s == "" || s[0] != ',' && s[0] != ')' || !f(i, value, null) {
			return false
		}
		if s[0] == ')' {
			return len(s) == 1
		}
	}
}

// compositeLen returns the number of attributes of a composite value, -1 if it is not one.
func compositeLen(format int16, src []byte) int {
	if format == pgtype.BinaryFormatCode {
		if len(src) < 4 {
			return -1
		}
		return int(int32(binary.BigEndian.Uint32(src)))
	}
	n := 0
	if !attributes(stringOf(src), func(int, string, bool) bool { n++; return true }) {
		return -1
	}
	return n
}

// BytesOf returns the bytes of s without a copy, not nil for "". They must not be written to.
func BytesOf(s string) []byte {
	if s == "" {
		return []byte{}
	}
	return unsafe.Slice(unsafe.StringData(s), len(s))
}

// stringOf returns b as a string without a copy. b must not be written to afterwards.
func stringOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
