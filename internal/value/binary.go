package value

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan/internal/pgjson"
)

var errBinary = errors.New("malformed binary value")

// reader reads a value in binary format. After a read beyond the end ok is false, and stays so.
type reader struct {
	s  string
	ok bool
}

func (r *reader) bytes(n int) string {
	if n < 0 || n > len(r.s) {
		r.s, r.ok = "", false
		return ""
	}
	s := r.s[:n]
	r.s = r.s[n:]
	return s
}

func (r *reader) uint16() uint16 {
	if s := r.bytes(2); r.ok {
		return binary.BigEndian.Uint16(BytesOf(s))
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if s := r.bytes(4); r.ok {
		return binary.BigEndian.Uint32(BytesOf(s))
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if s := r.bytes(8); r.ok {
		return binary.BigEndian.Uint64(BytesOf(s))
	}
	return 0
}

// value reads a length and a value of that length; a length of -1 is NULL.
func (r *reader) value() (v string, null bool) {
	n := int(int32(r.uint32()))
	if n == -1 {
		return "", true
	}
	return r.bytes(n), false
}

// AppendJSONBinary appends a value in binary format as appendJSONText does its text.
func (k *Known) AppendJSONBinary(b []byte, t *Type, s string) ([]byte, error) {
	switch t.form {
	case formArray:
		return k.appendArrayBinary(b, s)
	case formComposite:
		if t.composite.fits(compositeLen(pgtype.BinaryFormatCode, BytesOf(s))) {
			return k.appendCompositeBinary(b, t.composite, s)
		}
		return pgjson.AppendString(b, string(appendHex(nil, s))), nil
	}
	var scratch [64]byte
	text, err := k.appendText(scratch[:0], t.pg, s)
	if err != nil {
		return b, err
	}
	return AppendJSONText(b, t, string(text)), nil
}

// appendArrayBinary follows array_send.
func (k *Known) appendArrayBinary(b []byte, s string) ([]byte, error) {
	r := reader{s, true}
	dims := int(r.uint32())
	r.uint32() // whether there are NULLs
	elem := k.typ(r.uint32())
	if !r.ok || dims > maxDimensions {
		return b, errBinary
	}
	if dims == 0 {
		return append(b, "[]"...), nil
	}
	var lengths [maxDimensions]int
	elements := 1
	for i := range dims {
		lengths[i] = int(int32(r.uint32()))
		r.uint32()                                                        // lower bound
		if elements *= lengths[i]; elements <= 0 || elements > len(s)/4 { // each has a length
			return b, errBinary
		}
	}
	b, err := k.appendElementsBinary(b, elem, &r, lengths[:dims])
	if err == nil && (!r.ok || r.s != "") {
		err = errBinary
	}
	return b, err
}

func (k *Known) appendElementsBinary(b []byte, elem *Type, r *reader, lengths []int) (_ []byte, err error) {
	b = append(b, '[')
	for i := range lengths[0] {
		if i > 0 {
			b = append(b, ',')
		}
		if len(lengths) > 1 {
			b, err = k.appendElementsBinary(b, elem, r, lengths[1:])
		} else {
			b, err = k.appendPart(b, elem, r)
		}
		if err != nil {
			return b, err
		}
	}
	return append(b, ']'), nil
}

// appendPart appends the next value of r, which has a length, as JSON.
func (k *Known) appendPart(b []byte, t *Type, r *reader) ([]byte, error) {
	v, null := r.value()
	switch {
	case !r.ok:
		return b, errBinary
	case null:
		return append(b, "null"...), nil
	}
	return k.AppendJSONBinary(b, t, v)
}

// appendCompositeBinary follows record_send, which names the type of each attribute.
func (k *Known) appendCompositeBinary(b []byte, c *composite, s string) (_ []byte, err error) {
	r := reader{s, true}
	b = append(b, '{')
	for i := range int(r.uint32()) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, c.fields[i].key...)
		if b, err = k.appendPart(b, k.typ(r.uint32()), &r); err != nil {
			return b, err
		}
	}
	if r.s != "" {
		return b, errBinary
	}
	return append(b, '}'), nil
}

// Flags of a range in binary format (rangetypes.h).
const (
	rangeEmpty    = 0x01
	rangeLowerInc = 0x02
	rangeUpperInc = 0x04
	rangeLowerInf = 0x08
	rangeUpperInf = 0x10
)

// appendRange follows range_send and range_out.
func (k *Known) appendRange(b []byte, elem *pgtype.Type, s string) ([]byte, error) {
	r := reader{s, true}
	flags := r.bytes(1)
	if !r.ok {
		return b, errBinary
	}
	f := flags[0]
	if f&rangeEmpty != 0 {
		return append(b, "empty"...), nil
	}
	b = append(b, bracket(f&rangeLowerInc != 0, '[', '('))
	b, err := k.appendBound(b, elem, &r, f&rangeLowerInf != 0)
	if err != nil {
		return b, err
	}
	b, err = k.appendBound(append(b, ','), elem, &r, f&rangeUpperInf != 0)
	if err == nil && (!r.ok || r.s != "") {
		err = errBinary
	}
	return append(b, bracket(f&rangeUpperInc != 0, ']', ')')), err
}

func bracket(inclusive bool, yes, no byte) byte {
	if inclusive {
		return yes
	}
	return no
}

// appendBound appends a bound, quoted as range_bound_escape does it.
func (k *Known) appendBound(b []byte, elem *pgtype.Type, r *reader, infinite bool) ([]byte, error) {
	if infinite {
		return b, nil
	}
	v, null := r.value()
	if null || !r.ok {
		return b, errBinary
	}
	var scratch [64]byte
	text, err := k.appendText(scratch[:0], elem, v)
	quote := len(text) == 0
	for _, c := range text {
		quote = quote || c == '"' || c == '\\' || c == '(' || c == ')' || c == '[' || c == ']' || c == ',' ||
			c == ' ' || '\t' <= c && c <= '\r'
	}
	if !quote {
		return append(b, text...), err
	}
	b = append(b, '"')
	for _, c := range text {
		if c == '"' || c == '\\' {
			b = append(b, c)
		}
		b = append(b, c)
	}
	return append(b, '"'), err
}

// appendMultirange follows multirange_send and multirange_out.
func (k *Known) appendMultirange(b []byte, rang *pgtype.Type, s string) ([]byte, error) {
	codec, ok := rang.Codec.(*pgtype.RangeCodec)
	r := reader{s, true}
	n := int(r.uint32())
	if !ok || n > len(r.s)/4 {
		return b, fmt.Errorf("multirange: %w", errBinary)
	}
	b = append(b, '{')
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		v, _ := r.value()
		var err error
		if b, err = k.appendRange(b, codec.ElementType, v); err != nil {
			return b, err
		}
	}
	if !r.ok || r.s != "" {
		return b, errBinary
	}
	return append(b, '}'), nil
}
