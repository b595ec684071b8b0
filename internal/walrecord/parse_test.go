package walrecord

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"
)

// writer makes WAL by hand: pages of any size, in either byte order.
type writer struct {
	magic   uint16
	order   binary.ByteOrder
	size    int
	segment uint64 // where it is a multiple of segment, a page has a long header
	at      uint64 // LSN of the next byte
	start   uint64 // LSN of wal[0]
	wal     []byte
}

// newWriter begins at a page, with the header of the first one.
func newWriter(magic uint16, order binary.ByteOrder, size int, start uint64) *writer {
	w := &writer{magic: magic, order: order, size: size, segment: 1 << 20, at: start, start: start}
	w.page(0)
	return w
}

func (w *writer) put(values ...any) {
	for _, v := range values {
		var err error
		if w.wal, err = binary.Append(w.wal, w.order, v); err != nil {
			panic(err)
		}
	}
	w.at = w.start + uint64(len(w.wal))
}

// page writes a page's header; left bytes of a record follow.
func (w *writer) page(left int) {
	at, info := w.at, uint16(0)
	if left > 0 {
		info |= pageContinues
	}
	if at%w.segment == 0 {
		info |= pageIsLong
	}
	w.put(w.magic, info, uint32(1), at, uint32(left), uint32(0))
	if info&pageIsLong != 0 {
		w.put(uint64(7e18), uint32(w.segment), uint32(w.size))
	}
}

// skipTo writes zeros, and the headers of pages, up to lsn.
func (w *writer) skipTo(lsn uint64) {
	for w.at < lsn {
		if w.at%uint64(w.size) == 0 {
			w.page(0)
		}
		w.put(make([]byte, min(lsn, w.at-w.at%uint64(w.size)+uint64(w.size))-w.at))
	}
}

// record writes a record, and returns where it begins.
func (w *writer) record(rec []byte) uint64 {
	if w.at%uint64(w.size) == 0 {
		w.page(0)
	}
	begin := w.at
	for len(rec) > 0 {
		if w.at%uint64(w.size) == 0 {
			w.page(len(rec))
		}
		n := min(len(rec), w.size-int(w.at%uint64(w.size)))
		w.put(rec[:n])
		rec = rec[n:]
	}
	return begin
}

// rec is a record of a transaction.
type rec struct {
	xid    uint32
	info   byte
	rmgr   byte
	before []byte // main data: origin and top-level XID
	main   []byte
	long   bool // even though the main data is short
}

func (r rec) encode(order binary.ByteOrder) []byte {
	body := append([]byte(nil), r.before...)
	if r.long || len(r.main) > 255 {
		body = append(body, idLong)
		body, _ = binary.Append(body, order, uint32(len(r.main)))
	} else {
		body = append(body, idShort, byte(len(r.main)))
	}
	body = append(body, r.main...)
	head, _ := binary.Append(nil, order, struct {
		Total, XID uint32
		Prev       uint64
		Info, Rmgr byte
		Pad        uint16
	}{uint32(recordHeader + len(body)), r.xid, 0x1000028, r.info, r.rmgr, 0})
	crc := crc32.Update(crc32.Checksum(body, castagnoli), castagnoli, head)
	head, _ = binary.Append(head, order, crc)
	return append(head, body...)
}

// join writes values one after another.
func join(order binary.ByteOrder, values ...any) (b []byte) {
	for _, v := range values {
		var err error
		if b, err = binary.Append(b, order, v); err != nil {
			panic(err)
		}
	}
	return b
}

const (
	xid    = uint32(4711)
	local  = int64(820454400123456)
	remote = int64(31622400000001)
)

// everything is a commit record with all that one can have.
func everything(order binary.ByteOrder, l layout, subxacts int) rec {
	bits := uint32(hasDatabase | hasSubxacts | hasRelations | hasInvals | hasTwoPhase | hasOrigin | hasGID)
	main := join(order, local, uint32(0), uint32(5), uint32(1663), uint32(subxacts), make([]uint32, subxacts),
		uint32(2), make([]byte, 2*12))
	if l.dropped > 0 {
		bits |= hasDropped
		main = append(main, join(order, uint32(3), make([]byte, 3*l.dropped))...)
	}
	main = append(main, join(order, uint32(5), make([]byte, 5*16), xid, []byte("a gid\x00"), uint64(0x16B374D848), remote)...)
	order.PutUint32(main[8:], bits)
	return rec{info: opCommitPrepared | infoHasXinfo, rmgr: rmgrTransaction, main: main,
		before: join(order, byte(idOrigin), uint16(1), byte(idTopLevel), uint32(12))}
}

func prepared(order binary.ByteOrder, l layout, origin int64) rec {
	main := join(order, uint32(0x57F94534), uint32(1000), xid, uint32(5), local, make([]byte, l.preparedOrigin-24), origin, []byte("a gid\x00"), make([]byte, 500))
	return rec{xid: xid, info: opPrepare, rmgr: rmgrTransaction, main: main}
}

// Every kind of record, of every version, in both byte orders, over pages of several sizes, wherever it begins in its page.
func TestParse(t *testing.T) {
	t.Parallel()
	for magic, l := range layouts {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			for name, c := range map[string]struct {
				rec   rec
				times []int64
			}{
				"plain":                {rec{xid: xid, rmgr: rmgrTransaction, main: join(order, local)}, []int64{local}},
				"database":             {rec{xid: xid, info: infoHasXinfo, rmgr: rmgrTransaction, main: join(order, local, uint32(hasDatabase), uint64(5))}, []int64{local}},
				"long":                 {rec{xid: xid, rmgr: rmgrTransaction, main: join(order, local), long: true}, []int64{local}},
				"everything":           {everything(order, l, 3), []int64{local, remote}},
				"many subtransactions": {everything(order, l, 2000), []int64{local, remote}},
				"prepare":              {prepared(order, l, 0), []int64{local}},
				"prepare of an origin": {prepared(order, l, remote), []int64{local, remote}},
			} {
				testParse(t, fmt.Sprintf("%04X %s %s", magic, order, name), magic, order, c.rec, c.times)
			}
		}
	}
}

func testParse(t *testing.T, name string, magic uint16, order binary.ByteOrder, r rec, times []int64) {
	b := r.encode(order)
	for _, size := range []int{1 << 10, 8 << 10, 64 << 10} {
		for before := 8; before <= 64; before += 8 { // the end of the page
			for _, start := range []uint64{1<<20 - uint64(size), 5 << 20} { // the next page, this page is the first of a segment
				w := newWriter(magic, order, size, start)
				w.skipTo(start + uint64(size-before))
				want := Want{LSN: w.record(b), XID: xid, Prepared: r.info&opMask == opPrepare}
				for _, want.Time = range times {
					if got, err := Parse(w.wal, size, want); got != Yes || err != nil {
						t.Fatalf("%s, pages of %d, %d before the end of one: %v %v", name, size, before, got, err)
					}
					testOthers(t, name, w, want)
				}
			}
		}
	}
}

// testOthers looks for transactions that are not there, and in WAL that ends too early.
func testOthers(t *testing.T, name string, w *writer, want Want) {
	for what, other := range map[string]Want{
		"another XID":    {want.LSN, want.XID + 1, want.Time, want.Prepared},
		"another time":   {want.LSN, want.XID, want.Time + 1, want.Prepared},
		"another kind":   {want.LSN, want.XID, want.Time, !want.Prepared},
		"a byte too far": {want.LSN + 1, want.XID, want.Time, want.Prepared},
		"8 too far":      {want.LSN + 8, want.XID, want.Time, want.Prepared},
	} {
		if other.LSN/uint64(w.size) != w.start/uint64(w.size) {
			continue // that would be another page
		}
		if got, err := Parse(w.wal, w.size, other); got != No || err != nil {
			t.Fatalf("%s, %s: %v %v", name, what, got, err)
		}
	}
	for _, n := range []int{0, 1, 2, 23, 24, 39, int(want.LSN - w.start), int(want.LSN-w.start) + 23, len(w.wal) / 2, len(w.wal) - 1} {
		if got, err := Parse(w.wal[:n], w.size, want); got != None || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%s, %d bytes of %d: %v %v", name, n, len(w.wal), got, err)
		}
	}
}

// What may stand in the place of a record, or go wrong with it.
func TestParseOther(t *testing.T) {
	t.Parallel()
	order, l := binary.LittleEndian, layouts[0xD110]
	const size, start = 8 << 10, 16 << 20
	commit := func() rec { return rec{xid: xid, rmgr: rmgrTransaction, main: join(order, local)} }
	want := Want{XID: xid, Time: local}
	for name, c := range map[string]struct {
		change func(*rec)
		damage func(w *writer, at int) // wal[at:] is the record
		answer Answer
		err    string
	}{
		"unchanged":                      {answer: Yes},
		"another resource manager":       {change: func(r *rec) { r.rmgr = 10 }, answer: No},
		"abort":                          {change: func(r *rec) { r.info = 0x20 }, answer: No},
		"a block":                        {change: func(r *rec) { r.before = []byte{0} }, answer: No},
		"prepare of another":             {change: func(r *rec) { *r = prepared(order, l, 0); r.xid = 1 }, answer: No},
		"commit of another, prepared":    {change: func(r *rec) { *r = everything(order, l, 1); order.PutUint32(r.main[8:], hasTwoPhase) }, answer: No},
		"a list that does not end":       {change: func(r *rec) { *r = everything(order, l, 1); order.PutUint32(r.main[20:], 1<<31) }, answer: No},
		"a name that does not end":       {change: func(r *rec) { *r = everything(order, l, 1); r.main = r.main[:len(r.main)-17] }, answer: No},
		"no time":                        {change: func(r *rec) { r.main = nil }, answer: No},
		"half a time":                    {change: func(r *rec) { r.main = r.main[:4] }, answer: No},
		"rubbish after the data":         {damage: func(w *writer, at int) { w.wal[at+recordHeader+1]--; w.wal[at+recordHeader+1+8]++ }, answer: No},
		"no length":                      {damage: func(w *writer, at int) { order.PutUint32(w.wal[at:], 0) }, answer: No},
		"length of a header":             {damage: func(w *writer, at int) { order.PutUint32(w.wal[at:], recordHeader) }, answer: No},
		"length that no record has":      {damage: func(w *writer, at int) { order.PutUint32(w.wal[at:], 1<<31) }, answer: No},
		"a length by chance":             {damage: func(w *writer, at int) { order.PutUint32(w.wal[at:], 1<<29) }, answer: No},
		"long record, the rest not here": {change: func(r *rec) { r.main = make([]byte, 100_000) }, damage: func(w *writer, at int) { w.wal = w.wal[:size] }, err: "unexpected EOF"},
		"zeros":                          {damage: func(w *writer, at int) { clear(w.wal[at:]) }, answer: No},
		"zeros in the whole page":        {damage: func(w *writer, _ int) { clear(w.wal) }, answer: No},
		"a bit":                          {damage: func(w *writer, at int) { w.wal[at+8] ^= 1 }, err: "CRC"},
		"a new version":                  {damage: func(w *writer, _ int) { order.PutUint16(w.wal, 0xD11A) }, err: "D11A"},
		"another page":                   {damage: func(w *writer, _ int) { order.PutUint64(w.wal[8:], 0) }, err: "damaged"},
		"another size of pages":          {damage: func(w *writer, _ int) { order.PutUint32(w.wal[36:], 4096) }, err: "damaged"},
	} {
		r := commit()
		if c.change != nil {
			c.change(&r)
		}
		w := newWriter(0xD110, order, size, start)
		w.skipTo(start + 1000)
		want.LSN = w.record(r.encode(order))
		w.skipTo(start + 4000)
		if c.damage != nil {
			c.damage(w, 1000)
		}
		got, err := Parse(w.wal, size, want)
		if got != c.answer || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v %v, want %v %q", name, got, err, c.answer, c.err)
		}
	}
	for _, size := range []int{-8192, 0, 512, 8191, 1 << 20} {
		if got, err := Parse(nil, size, want); got != None || err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("pages of %d: %v %v", size, got, err)
		}
	}
}

// A crash can leave the beginning of a record without its end. Such a transaction has not committed.
func TestParseBrokenRecord(t *testing.T) {
	t.Parallel()
	order := binary.LittleEndian
	const size, start = 8 << 10, 16 << 20
	b := everything(order, layouts[0xD10D], 2000).encode(order)
	for name, c := range map[string]struct {
		damage func(page []byte)
		answer Answer
	}{
		"unchanged":          {func([]byte) {}, Yes},
		"overwritten":        {func(page []byte) { order.PutUint16(page[2:], pageOverwrites) }, No},
		"overwritten, both":  {func(page []byte) { order.PutUint16(page[2:], pageContinues|pageOverwrites) }, No},
		"not continued":      {func(page []byte) { order.PutUint16(page[2:], 0) }, No},
		"of another length":  {func(page []byte) { order.PutUint32(page[16:], 1) }, No},
		"zeros":              {func(page []byte) { clear(page[:pageHeader]) }, No},
		"a page of before":   {func(page []byte) { order.PutUint64(page[8:], 8<<20) }, None},
		"of another version": {func(page []byte) { order.PutUint16(page, 0xD110) }, None},
	} {
		w := newWriter(0xD10D, order, size, start)
		w.skipTo(start + 8000)
		want := Want{LSN: w.record(b), XID: xid, Time: local}
		c.damage(w.wal[size:])
		if got, err := Parse(w.wal, size, want); got != c.answer || (err != nil) != (c.answer == None) {
			t.Errorf("%s: %v %v, want %v", name, got, err, c.answer)
		}
	}
}

// FuzzParse reads any bytes as WAL: it does not panic, and once it has an answer, more bytes do not change it. The pages are smaller
// than a server's, so that records cross more of them.
func FuzzParse(f *testing.F) {
	order := binary.LittleEndian
	for magic, l := range layouts {
		for _, r := range []rec{{xid: xid, rmgr: rmgrTransaction, main: join(order, local)}, everything(order, l, 3), prepared(order, l, remote)} {
			for _, before := range []uint64{64, 16} {
				w := newWriter(magic, order, 128, 1<<20)
				w.skipTo(1<<20 + 128 - before)
				f.Add(w.record(r.encode(order)), xid, local, r.info&opMask == opPrepare, uint8(1), w.wal)
			}
		}
	}
	f.Fuzz(func(t *testing.T, lsn uint64, xid uint32, time int64, prepared bool, shift uint8, wal []byte) {
		want, size := Want{lsn, xid, time, prepared}, 64<<(shift%11)
		err := look(wal, size, want)
		longer := look(append(wal[:len(wal):len(wal)], make([]byte, size)...), size, want)
		if err != io.ErrUnexpectedEOF && fmt.Sprint(err) != fmt.Sprint(longer) {
			t.Fatalf("%v, and with more bytes %v", err, longer)
		}
		if half := look(wal[:len(wal)/2], size, want); half != io.ErrUnexpectedEOF && fmt.Sprint(err) != fmt.Sprint(half) {
			t.Fatalf("%v, and of the first half %v", err, half)
		}
	})
}
