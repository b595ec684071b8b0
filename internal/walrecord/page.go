package walrecord

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pglogrepl"
)

// WAL is a sequence of pages. A record that does not fit into its page continues after the header of the next one
// (XLogPageHeaderData in src/include/access/xlog_internal.h).

const (
	pageHeader     = 24 // SizeOfXLogShortPHD
	longPageHeader = 40 // SizeOfXLogLongPHD: the first page of a segment
)

// Bits of xlp_info.
const (
	pageContinues  = 0x0001 // XLP_FIRST_IS_CONTRECORD
	pageIsLong     = 0x0002 // XLP_LONG_HEADER
	pageOverwrites = 0x0008 // XLP_FIRST_IS_OVERWRITE_CONTRECORD
)

// errAbsent says that the record is not there.
var errAbsent = errors.New("no such record")

// pages is WAL from the beginning of a page.
type pages struct {
	wal    []byte
	start  uint64 // LSN of wal[0]
	size   int    // of a page
	magic  uint16
	order  binary.ByteOrder
	layout layout
}

// layout is what differs between versions in the records of transactions. A server has the byte order of its machine.
type layout struct {
	dropped        uint64 // sizeof(xl_xact_stats_item)
	preparedOrigin uint64 // offset of origin_timestamp in xl_xact_prepare
}

// layouts is indexed by XLOG_PAGE_MAGIC, which every major version changes.
var layouts = map[uint16]layout{
	0xD10D: {0, 56},  // 14, whose records do not list dropped statistics
	0xD110: {12, 64}, // 15
	0xD113: {12, 64}, // 16
	0xD116: {12, 64}, // 17
	0xD118: {16, 64}, // 18
}

func checkBlockSize(n int) error {
	if n < 1<<10 || n > 1<<16 || n&(n-1) != 0 {
		return fmt.Errorf("wal_block_size is %d", n)
	}
	return nil
}

// openPages reads the header of the first page, and returns its length.
func openPages(wal []byte, start uint64, size int) (pages, int, error) {
	p := pages{wal: wal, start: start, size: size}
	if len(wal) < 2 {
		return p, 0, io.ErrUnexpectedEOF
	}
	var known bool
	for _, p.order = range []binary.ByteOrder{binary.BigEndian, binary.LittleEndian} {
		p.magic = p.order.Uint16(wal)
		if p.layout, known = layouts[p.magic]; known {
			break
		}
	}
	if !known && p.magic != 0 {
		return p, 0, fmt.Errorf("the WAL of this version of PostgreSQL is not known (page magic %04X)", p.magic)
	}
	h, err := p.header(0)
	return p, h.size, err
}

// header is the header of a page.
type header struct {
	info uint16
	left uint32 // bytes of the record that continues from the page before
	size int
}

// header reads and checks the header of the page at wal[at:].
func (p *pages) header(at int) (header, error) {
	if len(p.wal) < at+pageHeader {
		return header{}, io.ErrUnexpectedEOF
	}
	b, lsn := p.wal[at:], p.start+uint64(at)
	if [pageHeader]byte(b) == [pageHeader]byte{} {
		return header{}, errAbsent // pg_switch_wal leaves the rest of the segment zero
	}
	h := header{info: p.order.Uint16(b[2:]), left: p.order.Uint32(b[16:]), size: pageHeader}
	if magic, addr := p.order.Uint16(b), p.order.Uint64(b[8:]); magic != p.magic || addr != lsn {
		return header{}, fmt.Errorf("the WAL page at %s is damaged: magic %04X, address %s", pglogrepl.LSN(lsn), magic, pglogrepl.LSN(addr))
	}
	if h.info&pageIsLong != 0 {
		h.size = longPageHeader
		if len(b) < longPageHeader {
			return header{}, io.ErrUnexpectedEOF
		}
		if size := p.order.Uint32(b[36:]); size != uint32(p.size) {
			return header{}, fmt.Errorf("the WAL page at %s is damaged: its size is %d", pglogrepl.LSN(lsn), size)
		}
	}
	return h, nil
}

// continues reports whether the last left bytes of a record follow the header. They do not follow if the server crashed before it had written
// them. Then the transaction did not commit, although its record begins.
func (h header) continues(left int) bool {
	return h.info&pageContinues != 0 && h.info&pageOverwrites == 0 && h.left == uint32(left)
}

// record returns the first n bytes of the record of length total at wal[at:], without the page headers between them.
func (p *pages) record(at, n, total int) ([]byte, error) {
	if len(p.wal)-at < n { // before anything is copied
		return nil, io.ErrUnexpectedEOF
	}
	end := at - at%p.size + p.size
	if at+n <= end {
		return p.wal[at : at+n], nil
	}
	rec := make([]byte, 0, n)
	for {
		rec = append(rec, p.wal[at:min(end, at+n-len(rec))]...)
		if len(rec) == n {
			return rec, nil
		}
		h, err := p.header(end)
		if err != nil {
			return nil, err
		}
		if !h.continues(total - len(rec)) {
			return nil, errAbsent
		}
		at, end = end+h.size, end+p.size
		if len(p.wal) < min(end, at+n-len(rec)) {
			return nil, io.ErrUnexpectedEOF
		}
	}
}
