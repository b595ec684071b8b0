// Package pgoutput decodes the messages of PostgreSQL's output plugin pgoutput, of protocol versions 1 to 4: bytes to
// events, and nothing else. It knows no connection and keeps no state but scratch memory.
//
// The format is described in the PostgreSQL documentation, "Logical Replication Message Formats", and made by
// src/backend/replication/logical/proto.c.
package pgoutput

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// The types of messages, by their first byte.
const (
	Begin    = 'B'
	Commit   = 'C'
	Origin   = 'O'
	Relation = 'R'
	Type     = 'Y'
	Insert   = 'I'
	Update   = 'U'
	Delete   = 'D'
	Truncate = 'T'
	Message  = 'M'

	// Of transactions in progress, from version 2 on.
	StreamStart  = 'S'
	StreamStop   = 'E'
	StreamAbort  = 'A'
	StreamCommit = 'c'

	// Of prepared transactions, from version 3 on.
	BeginPrepare     = 'b'
	Prepare          = 'P'
	StreamPrepare    = 'p'
	CommitPrepared   = 'K'
	RollbackPrepared = 'r'
)

// Event is one decoded message. Only the fields named beside its types are set; its strings and slices own their memory.
//
// An end is a Commit or StreamCommit, or of a prepared transaction a BeginPrepare, Prepare, StreamPrepare, CommitPrepared
// or RollbackPrepared.
type Event struct {
	Type byte

	XID    uint32 // Begin, StreamStart, StreamAbort, ends but Commit: of the whole transaction
	SubXID uint32 // StreamAbort: of what was rolled back; XID: all of it

	// Begin, ends: of the record that commits or prepares it; RollbackPrepared: the end of the one that prepared it;
	// StreamAbort: of its record, if Decoder.Parallel; Message: end of its record; Origin: the commit LSN there.
	LSN  uint64
	End  uint64 // ends: the end of their record
	Time int64  // Begin, ends, StreamAbort if Decoder.Parallel: microseconds since 2000-01-01 UTC

	OID     uint32 // Relation, Type, Insert, Update, Delete: pg_class.oid or pg_type.oid
	Schema  string // Relation, Type
	Name    string // Relation, Type, Origin; Message: prefix; ends of prepared transactions: the GID
	Columns []Col  // Relation
	Ident   byte   // Relation: pg_class.relreplident

	N     int    // Insert, Update, Delete: columns of each tuple
	Block string // Insert, Update, Delete: see block.go
	Split uint32 // length of the old tuple's table at the end of Block; 0 without old tuple

	Tables []uint32 // Truncate
	Flags  byte     // Truncate: 1 CASCADE, 2 RESTART IDENTITY; Message: 1 transactional; StreamStart: 1 the first block

	Content string // Message
}

// Col is a column of a Relation.
type Col struct {
	Name    string
	Key     bool
	TypeOID uint32
	TypeMod int32
}

// Error says where a message could not be understood. It shows no data.
type Error struct {
	Type   byte // the message's first byte; 0 if it is empty
	Offset int  // into the message
	Size   int  // of the message
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("malformed pgoutput message %q: %s at byte %d of %d", e.Type, e.Reason, e.Offset, e.Size)
}

// Decoder decodes. Its zero value is ready. It is not safe for concurrent use.
type Decoder struct {
	// Parallel says that the stream was asked for with streaming=parallel: StreamAbort then has position and time. The
	// option decides that, not the protocol's version (write_abort_info in src/backend/replication/pgoutput/pgoutput.c).
	Parallel bool

	ev      Event
	wide    bool            // it may have fields that rows do not set
	table   []byte          // scratch: offset tables
	rows    strings.Builder // the last small ones; it gives memory that is not cleared first
	b       []byte
	at      int
	problem string
	where   int
}

// Decode decodes one message. The event is valid until the next call; b is not kept. A message that stands between
// StreamStart and StreamStop is taken apart first, with [InBlock].
func (d *Decoder) Decode(b []byte) (*Event, error) {
	d.b, d.at, d.problem = b, 0, ""
	ev := &d.ev
	kind := d.byte()
	if isRow := kind == Insert || kind == Update || kind == Delete; !isRow || d.wide {
		*ev, d.wide = Event{}, !isRow // from row to row the same fields are set
	}
	ev.Type = kind
	switch kind {
	case Insert, Update, Delete:
		ev.OID, ev.Split = d.uint32(), 0
		d.row(ev)
	case Begin:
		ev.LSN, ev.Time, ev.XID = d.uint64(), int64(d.uint64()), d.uint32()
	case Commit:
		ev.Flags = d.byte()
		ev.LSN, ev.End, ev.Time = d.uint64(), d.uint64(), int64(d.uint64())
	case Origin:
		ev.LSN, ev.Name = d.uint64(), d.string()
	case Relation:
		d.relation(ev)
	case Type:
		ev.OID, ev.Schema, ev.Name = d.uint32(), d.string(), d.string()
	case Truncate:
		n := d.count(d.uint32(), 4)
		ev.Flags = d.byte()
		for range n {
			ev.Tables = append(ev.Tables, d.uint32())
		}
	case Message:
		ev.Flags, ev.LSN, ev.Name = d.byte(), d.uint64(), d.string()
		ev.Content = string(d.bytes(int64(d.uint32())))
	default:
		d.transaction(ev)
	}
	if d.problem == "" && d.at != len(b) {
		d.fail(d.at, "more bytes than expected")
	}
	d.b = nil // it may be part of a large buffer
	if d.problem != "" {
		return nil, &Error{Type: ev.Type, Offset: d.where, Size: len(b), Reason: d.problem}
	}
	return ev, nil
}

// transaction reads the messages of transactions that are in progress or prepared.
func (d *Decoder) transaction(ev *Event) {
	switch ev.Type {
	case StreamStart:
		ev.XID, ev.Flags = d.uint32(), d.byte()
	case StreamStop:
	case StreamAbort:
		ev.XID, ev.SubXID = d.uint32(), d.uint32()
		if d.Parallel {
			ev.LSN, ev.Time = d.uint64(), int64(d.uint64())
		}
	case StreamCommit:
		ev.XID, ev.Flags = d.uint32(), d.byte()
		ev.LSN, ev.End, ev.Time = d.uint64(), d.uint64(), int64(d.uint64())
	case BeginPrepare:
		d.prepared(ev)
	case Prepare, StreamPrepare, CommitPrepared:
		ev.Flags = d.byte()
		d.prepared(ev)
	case RollbackPrepared:
		ev.Flags = d.byte()
		ev.LSN, ev.End = d.uint64(), d.uint64()
		d.uint64() // when it was prepared
		ev.Time, ev.XID, ev.Name = int64(d.uint64()), d.uint32(), d.string()
	default:
		if d.problem == "" {
			d.fail(0, "unknown type")
		}
	}
}

func (d *Decoder) prepared(ev *Event) {
	ev.LSN, ev.End, ev.Time, ev.XID, ev.Name = d.uint64(), d.uint64(), int64(d.uint64()), d.uint32(), d.string()
}

// InBlock takes a message apart that stands between StreamStart and StreamStop: into the XID of the transaction or
// subtransaction it belongs to, and the rest behind its type and that. The type and the rest are the message as it would be
// in an ordinary transaction. Origin and StreamStop have no XID: it is 0.
func InBlock(b []byte) (xid uint32, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, &Error{Reason: "truncated"}
	}
	switch b[0] {
	case Insert, Update, Delete, Truncate, Message, Relation, Type:
		if len(b) < 5 {
			return 0, nil, &Error{Type: b[0], Offset: 1, Size: len(b), Reason: "truncated"}
		}
		return binary.BigEndian.Uint32(b[1:]), b[5:], nil
	case Origin, StreamStop:
		return 0, b[1:], nil
	}
	return 0, nil, &Error{Type: b[0], Size: len(b), Reason: "not expected in a block of a transaction in progress"}
}

func (d *Decoder) relation(ev *Event) {
	ev.OID, ev.Schema, ev.Name, ev.Ident = d.uint32(), d.string(), d.string(), d.byte()
	if ev.Schema == "" {
		ev.Schema = "pg_catalog" // logicalrep_write_namespace leaves it empty
	}
	n := d.count(uint32(d.uint16()), 10)
	ev.Columns = make([]Col, n)
	for i := range ev.Columns {
		ev.Columns[i] = Col{Key: d.byte()&1 != 0, Name: d.string(), TypeOID: d.uint32(), TypeMod: int32(d.uint32())}
	}
}

func (d *Decoder) fail(at int, problem string) {
	if d.problem == "" {
		d.problem, d.where = problem, at
	}
	d.at = len(d.b)
}

// count checks that n things of at least size bytes can follow, so that a wrong number does not allocate.
func (d *Decoder) count(n uint32, size int) int {
	if uint64(n)*uint64(size) > uint64(len(d.b)-d.at) {
		d.fail(d.at, "more entries than bytes")
		return 0
	}
	return int(n)
}

func (d *Decoder) bytes(n int64) []byte {
	if int64(len(d.b)-d.at) < n {
		d.fail(d.at, "truncated")
		return nil
	}
	b := d.b[d.at : d.at+int(n)]
	d.at += int(n)
	return b
}

func (d *Decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *Decoder) uint16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *Decoder) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *Decoder) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// string reads up to a zero byte.
func (d *Decoder) string() string {
	for i := d.at; i < len(d.b); i++ {
		if d.b[i] == 0 {
			s := string(d.b[d.at:i])
			d.at = i + 1
			return s
		}
	}
	d.fail(d.at, "string without end")
	return ""
}
