// Package pgjson writes JSON as PostgreSQL does.
package pgjson

import (
	"strings"
	"unicode/utf8"
)

// escapes has what stands behind the backslash for bytes that need one; 'u' for \u00xx.
var escapes = func() (t [256]byte) {
	for c := range 0x20 {
		t[c] = 'u'
	}
	t['\b'], t['\f'], t['\n'], t['\r'], t['\t'] = 'b', 'f', 'n', 'r', 't'
	t['"'], t['\\'] = '"', '\\'
	return t
}()

// AppendString appends s as a JSON string, escaped as PostgreSQL's escape_json does it (src/backend/utils/adt/json.c).
// What is not UTF-8 becomes U+FFFD.
func AppendString(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	b = append(b, '"')
	start := 0
	for i := range len(s) {
		e := escapes[s[i]]
		if e == 0 {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		b = append(b, '\\', e)
		if e == 'u' {
			b = append(b, '0', '0', hexDigits[s[i]>>4], hexDigits[s[i]&15])
		}
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

const hexDigits = "0123456789abcdef"
