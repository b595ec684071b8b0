package value

import (
	"bytes"
	"encoding/hex"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan/internal/pgtime"
)

// PostgreSQL's text of values in binary format, as its output functions write it.

// appendText appends PostgreSQL's text of a value in binary format; of a timestamptz that in UTC. Those types whose text
// pgtype writes as PostgreSQL does are left to it.
func (k *Known) appendText(b []byte, pg *pgtype.Type, s string) ([]byte, error) {
	switch codec := pg.Codec.(type) {
	case opaqueCodec:
		return appendHex(b, s), nil
	case pgtype.TextCodec, *pgtype.JSONCodec, *pgtype.XMLCodec:
		return append(b, s...), nil
	case *pgtype.RangeCodec:
		return k.appendRange(b, codec.ElementType, s)
	case *pgtype.MultirangeCodec:
		return k.appendMultirange(b, codec.ElementType, s)
	}
	r := reader{s, true}
	switch pg.OID {
	case pgtype.ByteaOID:
		return appendHex(b, r.bytes(len(s))), nil
	case pgtype.JSONBOID:
		if r.bytes(1) == "\x01" { // jsonb_send: a version
			b = append(b, r.bytes(len(r.s))...)
		} else {
			r.ok = false
		}
	case pgtype.Int2OID:
		b = strconv.AppendInt(b, int64(int16(r.uint16())), 10)
	case pgtype.Int4OID:
		b = strconv.AppendInt(b, int64(int32(r.uint32())), 10)
	case pgtype.Int8OID:
		b = strconv.AppendInt(b, int64(r.uint64()), 10)
	case pgtype.Float4OID:
		b = appendFloat(b, float64(math.Float32frombits(r.uint32())), 32)
	case pgtype.Float8OID:
		b = appendFloat(b, math.Float64frombits(r.uint64()), 64)
	case pgtype.NumericOID:
		b = appendNumeric(b, &r)
	case pgtype.DateOID:
		b = appendDate(b, int32(r.uint32()))
	case pgtype.TimestampOID:
		b = appendDateTime(b, int64(r.uint64()), "")
	case pgtype.TimestamptzOID:
		b = appendDateTime(b, int64(r.uint64()), "+00")
	case pgtype.TimeOID:
		b = appendTime(b, int64(r.uint64()))
	case pgtype.IntervalOID:
		b = appendInterval(b, int64(r.uint64()), int32(r.uint32()), int32(r.uint32()))
	case pgtype.InetOID:
		return k.appendInet(b, pg, s)
	default:
		return k.encode(b, pg, s)
	}
	if !r.ok || r.s != "" {
		return b, errBinary
	}
	return b, nil
}

// encode has pgtype make the text.
func (k *Known) encode(b []byte, pg *pgtype.Type, s string) ([]byte, error) {
	v, err := pg.Codec.DecodeValue(k.m, pg.OID, pgtype.BinaryFormatCode, BytesOf(s))
	if err != nil {
		return b, err
	}
	k.encoding.Lock()
	defer k.encoding.Unlock()
	return k.m.Encode(pg.OID, pgtype.TextFormatCode, v, b)
}

func appendHex(b []byte, s string) []byte {
	return hex.AppendEncode(append(b, '\\', 'x'), BytesOf(s))
}

// appendFloat follows float8out and float4out: the shortest digits, with an exponent where there are many zeros.
func appendFloat(b []byte, f float64, bits int) []byte {
	low, high := 1e-4, 1e15
	if bits == 32 {
		low, high = float64(float32(1e-4)), 1e6
	}
	switch abs := math.Abs(f); {
	case math.IsInf(f, 1):
		return append(b, "Infinity"...)
	case math.IsInf(f, -1):
		return append(b, "-Infinity"...)
	case abs != 0 && abs < low || abs >= high:
		return strconv.AppendFloat(b, f, 'e', -1, bits)
	}
	return strconv.AppendFloat(b, f, 'f', -1, bits)
}

// appendNumeric follows numeric_send: digits to the base of 10,000, the first of which counts 10,000 to the weight.
func appendNumeric(b []byte, r *reader) []byte {
	n, weight, sign, scale := int(r.uint16()), int(int16(r.uint16())), r.uint16(), int(r.uint16())
	switch sign {
	case 0xC000:
		return append(b, "NaN"...)
	case 0xD000:
		return append(b, "Infinity"...)
	case 0xF000:
		return append(b, "-Infinity"...)
	case 0x4000:
		b = append(b, '-')
	}
	digits := reader{r.bytes(2 * n), true}
	if weight < 0 {
		b = append(b, '0')
	}
	for i := 0; i <= weight; i++ {
		width := 4
		if i == 0 {
			width = 0
		}
		b = appendDigits(b, uint64(digits.next()), width)
	}
	if scale == 0 {
		return b
	}
	b = append(b, '.')
	end := len(b) + scale
	for i := -1; len(b) < end; i-- {
		d := uint16(0)
		if i <= weight { // else zeros between the point and the first digit
			d = digits.next()
		}
		b = appendDigits(b, uint64(d), 4)
	}
	return b[:end]
}

// next returns the next digit of a numeric; trailing zeros are not sent.
func (r *reader) next() uint16 {
	if r.s == "" {
		return 0
	}
	return r.uint16()
}

// appendDigits appends n in at least width digits.
func appendDigits(b []byte, n uint64, width int) []byte {
	for limit := uint64(10); width > 1; width-- {
		if n < limit {
			b = append(b, '0')
		}
		limit *= 10
	}
	return strconv.AppendUint(b, n, 10)
}

const (
	microsecond = 1_000_000
	day         = 24 * 60 * 60 * microsecond
)

// appendDate appends a date, in days since 2000-01-01.
func appendDate(b []byte, days int32) []byte {
	switch days {
	case math.MaxInt32:
		return append(b, "infinity"...)
	case math.MinInt32:
		return append(b, "-infinity"...)
	}
	return appendEra(appendYMD(b, days), days)
}

func ymd(days int32) (year, month, dom int) {
	y, m, d := time.Unix(pgtime.Epoch/microsecond+int64(days)*(day/microsecond), 0).UTC().Date()
	return y, int(m), d
}

func appendYMD(b []byte, days int32) []byte {
	year, month, dom := ymd(days)
	if year <= 0 {
		year = 1 - year
	}
	b = append(appendDigits(b, uint64(year), 4), '-')
	b = append(appendDigits(b, uint64(month), 2), '-')
	return appendDigits(b, uint64(dom), 2)
}

func appendEra(b []byte, days int32) []byte {
	if year, _, _ := ymd(days); year <= 0 {
		return append(b, " BC"...)
	}
	return b
}

// appendDateTime appends a timestamp, in microseconds since 2000-01-01.
func appendDateTime(b []byte, µs int64, zone string) []byte {
	switch µs {
	case math.MaxInt64:
		return append(b, "infinity"...)
	case math.MinInt64:
		return append(b, "-infinity"...)
	}
	days, rest := µs/day, µs%day
	if rest < 0 {
		days, rest = days-1, rest+day
	}
	b = append(appendYMD(b, int32(days)), ' ')
	b = append(appendTime(b, rest), zone...)
	return appendEra(b, int32(days))
}

// appendTime appends a time, in microseconds, as hours, minutes and seconds; fractions as far as there are any.
func appendTime(b []byte, µs int64) []byte {
	s := uint64(µs) / microsecond
	b = append(appendDigits(b, s/3600, 2), ':')
	b = append(appendDigits(b, s/60%60, 2), ':')
	b = appendDigits(b, s%60, 2)
	fraction := uint64(µs) % microsecond
	if fraction == 0 {
		return b
	}
	b = appendDigits(append(b, '.'), fraction, 6)
	for b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

// appendInterval follows EncodeInterval with IntervalStyle postgres.
func appendInterval(b []byte, µs int64, days, months int32) []byte {
	switch { // since PostgreSQL 17
	case µs == math.MaxInt64 && days == math.MaxInt32 && months == math.MaxInt32:
		return append(b, "infinity"...)
	case µs == math.MinInt64 && days == math.MinInt32 && months == math.MinInt32:
		return append(b, "-infinity"...)
	}
	start, negative := len(b), false
	part := func(n int32, unit string) {
		if n == 0 {
			return
		}
		if len(b) > start {
			b = append(b, ' ')
		}
		if negative && n > 0 {
			b = append(b, '+')
		}
		b = append(append(strconv.AppendInt(b, int64(n), 10), ' '), unit...)
		if n != 1 {
			b = append(b, 's')
		}
		negative = n < 0
	}
	part(months/12, "year")
	part(months%12, "mon")
	part(days, "day")
	if µs == 0 && len(b) > start {
		return b
	}
	if len(b) > start {
		b = append(b, ' ')
	}
	if µs < 0 {
		return appendTime(append(b, '-'), -µs)
	}
	if negative {
		b = append(b, '+')
	}
	return appendTime(b, µs)
}

// appendInet follows network_out: an inet that is one address has no mask.
func (k *Known) appendInet(b []byte, pg *pgtype.Type, s string) ([]byte, error) {
	start := len(b)
	b, err := k.encode(b, pg, s)
	if bytes.IndexByte(b[start:], ':') >= 0 {
		return bytes.TrimSuffix(b, []byte("/128")), err
	}
	return bytes.TrimSuffix(b, []byte("/32")), err
}
