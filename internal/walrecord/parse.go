package walrecord

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A record has a header, references to blocks, and main data. A transaction's has no blocks (src/include/access/xlogrecord.h).

const (
	recordHeader = 24             // SizeOfXLogRecord
	headers      = 24 + 3 + 5 + 5 // and origin, top-level XID and the length of the main data
	recordMost   = 1 << 30        // MaxAllocSize: PostgreSQL could not read a longer one
)

// What may follow the header: XLR_BLOCK_ID_ORIGIN and so on.
const (
	idOrigin   = 253
	idTopLevel = 252
	idShort    = 255 // the length of the main data in a byte
	idLong     = 254 // … in four
)

// Records of transactions (src/include/access/xact.h).
const (
	rmgrTransaction = 1 // RM_XACT_ID

	opMask           = 0x70 // XLOG_XACT_OPMASK
	opCommit         = 0x00
	opPrepare        = 0x10
	opCommitPrepared = 0x30
	infoHasXinfo     = 0x80 // XLOG_XACT_HAS_INFO
)

// Bits of xinfo: what else a commit record contains. readCommit has the order.
const (
	hasDatabase  = 1 << 0
	hasSubxacts  = 1 << 1
	hasRelations = 1 << 2
	hasInvals    = 1 << 3
	hasTwoPhase  = 1 << 4
	hasOrigin    = 1 << 5
	hasGID       = 1 << 7
	hasDropped   = 1 << 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Parse looks for the record in wal, which begins with the page that holds want.LSN. The answer is None if and only if the error is not nil.
// The error is io.ErrUnexpectedEOF if more bytes are needed.
func Parse(wal []byte, blockSize int, want Want) (Answer, error) {
	if err := checkBlockSize(blockSize); err != nil {
		return None, err
	}
	switch err := look(wal, blockSize, want); {
	case err == nil:
		return Yes, nil
	case errors.Is(err, errAbsent):
		return No, nil
	default:
		return None, err
	}
}

// look returns nil if the transaction is there, and errAbsent if it is not.
func look(wal []byte, blockSize int, want Want) error {
	at := int(want.LSN % uint64(blockSize))
	p, first, err := openPages(wal, want.LSN-uint64(at), blockSize)
	if err != nil {
		return err
	}
	if at < first || at%4 != 0 { // records begin at multiples of MAXALIGN, thus their first field lies in one page
		return errAbsent
	}
	length, err := p.record(at, 4, 4)
	if err != nil {
		return err
	}
	total := p.order.Uint32(length)
	if total < recordHeader || total > recordMost {
		return errAbsent
	}
	head, err := p.record(at, recordHeader, int(total))
	if err != nil {
		return err
	}
	if !possible(head, p.order, want) {
		return errAbsent
	}
	if head, err = p.record(at, min(headers, int(total)), int(total)); err != nil {
		return err
	}
	begin, ok := mainData(head, p.order)
	if !ok {
		return errAbsent
	}
	rec, err := p.record(at, int(total), int(total)) // to its end: see header.continues
	if err != nil {
		return err
	}
	if !p.matches(rec, begin, want) {
		return errAbsent
	}
	crc := crc32.Update(crc32.Checksum(rec[recordHeader:], castagnoli), castagnoli, rec[:20])
	if crc != p.order.Uint32(rec[20:]) {
		return errors.New("the record is damaged: wrong CRC")
	}
	return nil
}

// mainData returns where the main data begins, which is the rest of the record. It reports false if the record has blocks, or if the lengths
// contradict each other: Find must not wait for more bytes because rubbish looks like the length of a record.
func mainData(head []byte, order binary.ByteOrder) (begin int, ok bool) {
	f := fields{b: head[recordHeader:], order: order}
	for {
		var n uint32
		switch f.u8() {
		case idOrigin:
			f.skip(2)
			continue
		case idTopLevel:
			f.skip(4)
			continue
		case idShort:
			n = uint32(f.u8())
		case idLong:
			n = f.u32()
		default: // a block, or the end
			return 0, false
		}
		begin = len(head) - len(f.b)
		return begin, !f.short && uint64(begin)+uint64(n) == uint64(order.Uint32(head))
	}
}

// possible reports whether the record with this header can be the wanted one.
func possible(head []byte, order binary.ByteOrder, want Want) bool {
	op, xid := head[16]&opMask, order.Uint32(head[4:])
	switch {
	case head[17] != rmgrTransaction:
		return false
	case op == opCommitPrepared: // the header has the XID of the session that commits it: none
		return !want.Prepared
	case op == opCommit:
		return !want.Prepared && xid == want.XID
	case op == opPrepare:
		return want.Prepared && xid == want.XID
	}
	return false
}

// matches reports whether the record is the transaction's. Its main data begins at begin. A transaction that was replayed from an origin has
// two times, and pgoutput sends the origin's (DecodeCommit in src/backend/replication/logical/decode.c). Either is a match.
func (p *pages) matches(rec []byte, begin int, want Want) bool {
	x := transaction{xid: p.order.Uint32(rec[4:])}
	f := fields{b: rec[begin:], order: p.order}
	if info := rec[16]; info&opMask == opPrepare {
		x.readPrepare(&f, p.layout)
	} else {
		x.readCommit(&f, info, p.layout)
	}
	return !f.short && x.xid == want.XID && (x.time == want.Time || x.replayed && x.originTime == want.Time)
}

// transaction is what a record says of its transaction.
type transaction struct {
	xid        uint32
	time       int64
	replayed   bool
	originTime int64
}

// readCommit reads the main data of COMMIT and COMMIT PREPARED (ParseCommitRecord in src/backend/access/rmgrdesc/xactdesc.c).
func (x *transaction) readCommit(f *fields, info byte, l layout) {
	x.time = f.i64()
	var xinfo uint32
	if info&infoHasXinfo != 0 {
		xinfo = f.u32()
	}
	if xinfo&hasDatabase != 0 {
		f.skip(8)
	}
	for _, list := range []struct {
		bit  uint32
		size uint64
	}{{hasSubxacts, 4}, {hasRelations, 12}, {hasDropped, l.dropped}, {hasInvals, 16}} {
		if xinfo&list.bit != 0 {
			f.skip(uint64(f.u32()) * list.size)
		}
	}
	if xinfo&hasTwoPhase != 0 {
		x.xid = f.u32()
		if xinfo&hasGID != 0 {
			f.skipString()
		}
	}
	if xinfo&hasOrigin != 0 {
		f.skip(8) // position
		x.originTime, x.replayed = f.i64(), true
	}
}

// readPrepare reads the beginning of the main data of PREPARE (xl_xact_prepare in src/include/access/xact.h).
func (x *transaction) readPrepare(f *fields, l layout) {
	f.skip(8)
	x.xid = f.u32()
	f.skip(4)
	x.time = f.i64()
	f.skip(l.preparedOrigin - 24)
	x.originTime = f.i64()
	x.replayed = x.originTime != 0
}

// fields reads one field after another. Beyond the end all are 0.
type fields struct {
	b     []byte
	order binary.ByteOrder
	short bool // it ended too early
}

func (f *fields) skip(n uint64) {
	if n > uint64(len(f.b)) {
		f.b, f.short = nil, true
		return
	}
	f.b = f.b[n:]
}

func (f *fields) skipString() {
	_, rest, ok := bytes.Cut(f.b, []byte{0})
	f.b, f.short = rest, f.short || !ok
}

// take returns the next n bytes, at most eight.
func (f *fields) take(n int) []byte {
	b := f.b
	if f.skip(uint64(n)); f.short {
		return make([]byte, n)
	}
	return b
}

func (f *fields) u8() uint8   { return f.take(1)[0] }
func (f *fields) u32() uint32 { return f.order.Uint32(f.take(4)) }
func (f *fields) i64() int64  { return int64(f.order.Uint64(f.take(8))) }
