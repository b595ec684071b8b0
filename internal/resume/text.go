package resume

import (
	"errors"
	"fmt"
	"hash/crc32"
	"net/url"
	"strconv"
	"strings"

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

	// Physical says that the checkpoint is one of a physical stream. Then Through is its position, and Hash that of the WAL from
	// From to Through.
	Physical bool
	From     LSN
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
//	wc1:SYSTEM:DATABASE:SLOT:TIMELINE:STARTED:THROUGH[m]:COMMIT:XID[p]:TIME:ORDINAL:HASH:CRC
//	wp1:SYSTEM:SLOT:TIMELINE:POSITION:FROM:HASH:CRC
//
// m stands for Single and p for Prepared. CRC is the CRC-32C of what stands before it.
func (c Checkpoint) String() string {
	if c == (Checkpoint{}) {
		return none
	}
	b := make([]byte, 0, 192)
	if c.Physical {
		b = fmt.Appendf(b, "wp1:%s:%s:%d:%s:%s:%08X:", escape(c.SystemID), escape(c.Slot), c.Timeline, c.Through, c.From, c.Hash)
	} else {
		b = fmt.Appendf(b, "wc1:%s:%s:%s:%d:%d:%s%s:%s:%d%s:%d:%d:%08X:", escape(c.SystemID), escape(c.Database), escape(c.Slot),
			c.Timeline, c.Started, c.Through, flag(c.Single, "m"), c.Commit, c.XID, flag(c.Prepared, "p"), c.Time, c.Ordinal, c.Hash)
	}
	return string(fmt.Appendf(b, "%08X", crc32.Checksum(b, castagnoli)))
}

func flag(on bool, letter string) string {
	if on {
		return letter
	}
	return ""
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
		c.Single = p.flag(6, "m")
		c.Through, c.Commit = p.lsn(6), p.lsn(7)
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
