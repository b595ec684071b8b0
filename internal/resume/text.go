package resume

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pglogrepl"
)

// Origin is what a Point belongs to.
type Origin struct {
	SystemID string
	Database string // "" of a physical stream
	Slot     string // "" of a physical stream without a slot

	// Timeline is that of a primary. It is 0 for a standby, because a standby may be promoted under its connections.
	Timeline int32

	// Started is when the server was started, in microseconds since 1970-01-01 UTC. It is 0 for a physical stream.
	Started int64
}

// Checkpoint is a place in the log of one server, which its text form keeps.
type Checkpoint struct {
	Origin
	Point

	// Physical says that the checkpoint is one of a physical stream.
	Physical bool
}

// The text of the zero Checkpoint. The empty string is not that: a file that was cut off is torn.
const none = "none"

// The errors of Parse.
var (
	ErrTorn  = errors.New("it is torn, or no checkpoint")
	ErrNewer = errors.New("a newer version of walchan has written it")
)

// String returns one line of ASCII:
//
//	wc1:SYSTEM:DATABASE:SLOT:TIMELINE:STARTED:THROUGH[m[MESSAGE]]:COMMIT:XID[p]:TIME:ORDINAL:HASH:CRC
//	wp1:SYSTEM:SLOT:TIMELINE:POSITION:FROM:HASH:CRC
//
// m stands for a message outside of transactions, which ends at THROUGH or at MESSAGE, and p for Prepared. CRC is the CRC-32C of what stands before it.
func (c Checkpoint) String() string {
	if c.Through == 0 && c == (Checkpoint{}) {
		return none
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	if s.origin != c.Origin || s.physical != c.Physical {
		s.begin(&c)
	}
	b := s.text
	if c.Physical {
		b = appendWAL(b, &c.Point)
	} else {
		b = appendPoint(b, &c.Point)
	}
	b = appendHash(b, crc32.Update(s.crc, castagnoli, b[len(s.text):]))
	s.text = b[:len(s.text)]
	return string(b)
}

// scratch is where a text is written. The origin stays there, because the next text is mostly of the same one.
type scratch struct {
	origin   Origin
	physical bool
	text     []byte // the fields of the origin
	crc      uint32 // of them
}

var scratches = sync.Pool{New: func() any {
	s := &scratch{text: make([]byte, 0, 256)}
	s.begin(&Checkpoint{})
	return s
}}

func (s *scratch) begin(c *Checkpoint) {
	s.origin, s.physical = c.Origin, c.Physical
	b := s.text[:0]
	if c.Physical {
		b = append(append(b, "wp1:"...), escape(c.SystemID)...)
	} else {
		b = append(append(b, "wc1:"...), escape(c.SystemID)...)
		b = append(append(b, ':'), escape(c.Database)...)
	}
	b = append(append(append(b, ':'), escape(c.Slot)...), ':')
	b = append(strconv.AppendInt(b, int64(c.Timeline), 10), ':')
	if !c.Physical {
		b = append(strconv.AppendInt(b, c.Started, 10), ':')
	}
	s.text, s.crc = b, crc32.Checksum(b, castagnoli)
}

func appendPoint(b []byte, p *Point) []byte {
	b = append(appendFlag(appendLSN(b, p.Through), p.Message != 0, 'm'), ':')
	if p.Message != 0 && p.Message != p.Through {
		b = append(appendLSN(b[:len(b)-1], p.Message), ':')
	}
	b = append(appendLSN(b, p.Commit), ':')
	b = append(appendFlag(strconv.AppendUint(b, uint64(p.XID), 10), p.Prepared, 'p'), ':')
	b = append(strconv.AppendInt(b, p.Time, 10), ':')
	b = append(strconv.AppendUint(b, uint64(p.Ordinal), 10), ':')
	return append(appendHash(b, p.Hash), ':')
}

func appendWAL(b []byte, p *Point) []byte {
	b = append(appendLSN(b, p.Through), ':')
	b = append(appendLSN(b, p.From), ':')
	return append(appendHash(b, p.Hash), ':')
}

func appendFlag(b []byte, on bool, letter byte) []byte {
	if on {
		return append(b, letter)
	}
	return b
}

const hexDigits = "0123456789ABCDEF"

// appendLSN writes a position as PostgreSQL does: "16/B374D848".
func appendLSN(b []byte, lsn LSN) []byte {
	return appendHex(append(appendHex(b, uint32(lsn>>32)), '/'), uint32(lsn))
}

// appendHex writes a number without leading zeros.
func appendHex(b []byte, n uint32) []byte {
	for shift := (bits.Len32(n|1) - 1) &^ 3; shift >= 0; shift -= 4 {
		b = append(b, hexDigits[n>>shift&0xF])
	}
	return b
}

// appendHash writes eight digits.
func appendHash(b []byte, n uint32) []byte {
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, hexDigits[n>>shift&0xF])
	}
	return b
}

// Parse reads what String has written. Its errors are ErrTorn and ErrNewer.
func Parse(text string) (Checkpoint, error) {
	if text == none {
		return Checkpoint{}, nil
	}
	fields := strings.Split(text, ":")
	p := parser{fields: fields}
	var c Checkpoint
	switch {
	case fields[0] == "wc1" && len(fields) == 13:
		c.SystemID, c.Database, c.Slot = p.name(1), p.name(2), p.name(3)
		c.Timeline, c.Started = int32(p.number(4, 31)), int64(p.number(5, 63))
		var message string
		var single bool
		p.fields[6], message, single = strings.Cut(p.fields[6], "m")
		c.Through, c.Commit = p.lsn(6), p.lsn(7)
		if p.fields[6] = message; message != "" {
			c.Message = p.lsn(6)
		} else if single {
			c.Message = c.Through
		}
		c.Prepared = p.flag(8, "p")
		c.XID, c.Time, c.Ordinal, c.Hash = uint32(p.number(8, 32)), p.time(9), uint32(p.number(10, 32)), p.hash(11)
	case fields[0] == "wp1" && len(fields) == 8:
		c.Physical = true
		c.SystemID, c.Slot, c.Timeline = p.name(1), p.name(2), int32(p.number(3, 31))
		c.Through, c.From, c.Hash = p.lsn(4), p.lsn(5), p.hash(6)
	case isNewer(fields[0]):
		return Checkpoint{}, ErrNewer
	default:
		return Checkpoint{}, ErrTorn
	}
	// One text for each checkpoint: what String would not have written is torn. That has the CRC in it.
	if p.bad || c.String() != text {
		return Checkpoint{}, ErrTorn
	}
	return c, nil
}

// isNewer says whether a later version may have written the first field: wc2, wp10.
func isNewer(s string) bool {
	for _, prefix := range []string{"wc", "wp"} {
		if digits, ok := strings.CutPrefix(s, prefix); ok {
			n, err := strconv.ParseUint(digits, 10, 16)
			return err == nil && n > 1
		}
	}
	return false
}

// parser reads the fields of a text. It notes that one is bad.
type parser struct {
	fields []string
	bad    bool
}

func (p *parser) note(err error) { p.bad = p.bad || err != nil }

func (p *parser) name(i int) string {
	s, err := url.PathUnescape(p.fields[i])
	p.note(err)
	return s
}

func (p *parser) number(i, bits int) uint64 {
	n, err := strconv.ParseUint(p.fields[i], 10, bits)
	p.note(err)
	return n
}

func (p *parser) time(i int) int64 {
	n, err := strconv.ParseInt(p.fields[i], 10, 64)
	p.note(err)
	return n
}

func (p *parser) hash(i int) uint32 {
	n, err := strconv.ParseUint(p.fields[i], 16, 32)
	p.note(err)
	return uint32(n)
}

func (p *parser) lsn(i int) LSN {
	lsn, err := pglogrepl.ParseLSN(p.fields[i])
	p.note(err)
	return lsn
}

// flag takes a letter off the end of a field.
func (p *parser) flag(i int, letter string) (on bool) {
	p.fields[i], on = strings.CutSuffix(p.fields[i], letter)
	return on
}

// escape writes a name without colons, blanks and bytes that are not ASCII.
func escape(s string) string {
	plain := true
	for i := 0; i < len(s); i++ {
		plain = plain && isPlain(s[i])
	}
	if plain {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if isPlain(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

func isPlain(c byte) bool { return c > ' ' && c < 0x7F && c != ':' && c != '%' }
