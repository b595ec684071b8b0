package encode

import (
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgjson"
)

// appendValue appends a value in text format, by its own type: that of a domain is none of these.
func appendValue(b []byte, oid uint32, v string) []byte {
	switch oid {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID:
		if v == "NaN" || v == "Infinity" || v == "-Infinity" {
			return append(b, "null"...)
		}
		return append(b, v...)
	case pgtype.BoolOID:
		return strconv.AppendBool(b, v == "t")
	case pgtype.ByteaOID:
		return pgjson.AppendString(b, strings.TrimPrefix(v, `\x`))
	}
	return pgjson.AppendString(b, v)
}

// appendType appends the name of the column's type with its modifier, as a JSON string. Like the plugin it takes a name that
// SQL has to quote for one that is a string already.
func appendType(b []byte, c *walchan.Column) []byte {
	start := len(b)
	b = appendTypeName(append(b, '"'), c)
	if name := b[start+1:]; name[0] == '"' {
		if name[len(name)-1] == '"' {
			return b[:start+copy(b[start:], name)]
		}
		return pgjson.AppendString(b[:start], string(name))
	}
	if !plain(b[start+1:]) {
		return pgjson.AppendString(b[:start], string(b[start+1:]))
	}
	return append(b, '"')
}

// plain says whether a name needs no escapes.
func plain(name []byte) bool {
	for _, c := range name {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x80 {
			return false
		}
	}
	return true
}

// appendTypeName follows format_type_with_typemod (src/backend/utils/adt/format_type.c).
func appendTypeName(b []byte, c *walchan.Column) []byte {
	name, array := strings.CutSuffix(strings.TrimPrefix(c.TypeName, "public."), "[]")
	switch {
	case c.TypeMod >= 0:
		b = appendTypeMod(b, name, c.TypeMod)
	case name == "character":
		b = append(b, "bpchar"...) // without a length it is another type than character, which is character(1)
	case name == "bit":
		b = append(b, `"bit"`...)
	default:
		b = append(b, name...)
	}
	if array {
		b = append(b, "[]"...)
	}
	return b
}

// varHeader is VARHDRSZ, which the modifiers of some types include.
const varHeader = 4

// appendTypeMod appends a type's name with a modifier, which for times stands in its middle (the typmodout functions).
func appendTypeMod(b []byte, name string, mod int32) []byte {
	number := func(b []byte, n int32) []byte { return append(strconv.AppendInt(append(b, '('), int64(n), 10), ')') }
	switch name {
	case "character", "character varying":
		return number(append(b, name...), mod-varHeader)
	case "bit", "bit varying":
		return number(append(b, name...), mod)
	case "numeric":
		mod -= varHeader
		b = strconv.AppendInt(append(b, "numeric("...), int64(mod>>16&0xffff), 10)
		// numeric_typmod_scale: 11 bits with a sign, since PostgreSQL 15
		return append(strconv.AppendInt(append(b, ','), int64((mod&0x7ff^1024)-1024), 10), ')')
	case "interval":
		return appendIntervalMod(b, mod)
	}
	for _, prefix := range []string{"timestamp", "time"} {
		if rest, ok := strings.CutPrefix(name, prefix+" "); ok {
			return append(append(number(append(b, prefix...), mod), ' '), rest...)
		}
	}
	return append(b, name...) // of an extension: how it is printed only that knows
}

// appendIntervalMod follows intervaltypmodout (src/backend/utils/adt/timestamp.c): the fields in the upper half, the precision in
// the lower.
func appendIntervalMod(b []byte, mod int32) []byte {
	b = append(b, "interval"...)
	b = append(b, intervalFields[mod>>16&0x7fff]...)
	if precision := mod & 0xffff; precision != 0xffff {
		b = append(strconv.AppendInt(append(b, '('), int64(precision), 10), ')')
	}
	return b
}

// intervalFields are bits, as of INTERVAL_MASK in src/include/utils/timestamp.h and the fields in datetime.h.
var intervalFields = map[int32]string{
	1 << 2:                       " year",
	1 << 1:                       " month",
	1 << 3:                       " day",
	1 << 10:                      " hour",
	1 << 11:                      " minute",
	1 << 12:                      " second",
	1<<2 | 1<<1:                  " year to month",
	1<<3 | 1<<10:                 " day to hour",
	1<<3 | 1<<10 | 1<<11:         " day to minute",
	1<<3 | 1<<10 | 1<<11 | 1<<12: " day to second",
	1<<10 | 1<<11:                " hour to minute",
	1<<10 | 1<<11 | 1<<12:        " hour to second",
	1<<11 | 1<<12:                " minute to second",
}
