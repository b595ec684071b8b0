package fakewal

import (
	"fmt"
	"slices"
	"time"
)

// The messages of pgoutput, as "Logical Replication Message Formats" of the PostgreSQL documentation has them. Each
// function returns one payload for a Frame.
//
// A column is nil (NULL), a string (text), a []byte (binary) or Unchanged.

// Unchanged is a TOASTed column that an UPDATE left alone and that is therefore not sent.
var Unchanged = unchanged{}

type unchanged struct{}

// Relation is a table. Its zero Identity is 'd'.
type Relation struct {
	OID      uint32
	Schema   string // "" is pg_catalog
	Name     string
	Identity byte // pg_class.relreplident: d, n, f, i
	Columns  []Column
}

// Column is a column of a Relation. Its zero Type is text (25).
type Column struct {
	Name string
	Key  bool
	Type uint32
	Mod  int32 // atttypmod; -1 is none
}

// Encode returns the Relation message.
func (r Relation) Encode() []byte {
	b := be.AppendUint32([]byte{'R'}, r.OID)
	b = append(append(b, r.Schema...), 0)
	b = append(append(b, r.Name...), 0)
	if r.Identity == 0 {
		r.Identity = 'd'
	}
	b = append(b, r.Identity)
	b = be.AppendUint16(b, uint16(len(r.Columns)))
	for _, c := range r.Columns {
		if c.Type == 0 {
			c.Type = 25
		}
		b = append(b, flag(c.Key, 1))
		b = append(append(b, c.Name...), 0)
		b = be.AppendUint32(b, c.Type)
		b = be.AppendUint32(b, uint32(c.Mod))
	}
	return b
}

// Begin opens the transaction xid. commit is the LSN of its commit record.
func Begin(commit LSN, at time.Time, xid uint32) []byte {
	return be.AppendUint32(lsnTime([]byte{'B'}, at, commit), xid)
}

// Commit ends it. end is the end of the transaction: what the client confirms.
func Commit(commit, end LSN, at time.Time) []byte { return lsnTime([]byte{'C', 0}, at, commit, end) }

// Origin follows Begin where the transaction came from another server, where it committed at lsn.
func Origin(lsn LSN, name string) []byte {
	return append(append(be.AppendUint64([]byte{'O'}, uint64(lsn)), name...), 0)
}

// Type precedes the Relation that has columns of it, unless it is built in.
func Type(oid uint32, schema, name string) []byte {
	b := be.AppendUint32([]byte{'Y'}, oid)
	b = append(append(b, schema...), 0)
	return append(append(b, name...), 0)
}

// Insert of a row.
func Insert(oid uint32, row ...any) []byte {
	return tuple(be.AppendUint32([]byte{'I'}, oid), 'N', row)
}

// Update of a row. kind says what the old row is: 'K' its key (the other columns are nil), 'O' all of it, 0 not sent.
func Update(oid uint32, kind byte, old, row []any) []byte {
	b := be.AppendUint32([]byte{'U'}, oid)
	if kind != 0 {
		b = tuple(b, kind, old)
	}
	return tuple(b, 'N', row)
}

// Delete of a row, kind 'K' or 'O'.
func Delete(oid uint32, kind byte, old ...any) []byte {
	return tuple(be.AppendUint32([]byte{'D'}, oid), kind, old)
}

// Truncate of tables together.
func Truncate(cascade, restartIdentity bool, oids ...uint32) []byte {
	b := be.AppendUint32([]byte{'T'}, uint32(len(oids)))
	b = append(b, flag(cascade, 1)|flag(restartIdentity, 2))
	for _, oid := range oids {
		b = be.AppendUint32(b, oid)
	}
	return b
}

// Message is a logical message; lsn is the end of its record.
func Message(transactional bool, lsn LSN, prefix string, content []byte) []byte {
	b := be.AppendUint64([]byte{'M', flag(transactional, 1)}, uint64(lsn))
	b = append(append(b, prefix...), 0)
	b = be.AppendUint32(b, uint32(len(content)))
	return append(b, content...)
}

// InStream is a change, Relation, Type or transactional Message as it stands between Stream Start and Stream Stop: with the
// XID of its transaction or subtransaction.
func InStream(xid uint32, msg []byte) []byte {
	return slices.Concat(msg[:1], be.AppendUint32(nil, xid), msg[1:])
}

// StreamStart opens a block of a transaction in progress; first says that it is the transaction's first.
func StreamStart(xid uint32, first bool) []byte {
	return append(be.AppendUint32([]byte{'S'}, xid), flag(first, 1))
}

// StreamStop closes the block.
func StreamStop() []byte { return []byte{'E'} }

// StreamCommit ends a streamed transaction.
func StreamCommit(xid uint32, commit, end LSN, at time.Time) []byte {
	return lsnTime(append(be.AppendUint32([]byte{'c'}, xid), 0), at, commit, end)
}

// StreamAbort rolls back the subtransaction subxid, or all where it equals xid.
func StreamAbort(xid, subxid uint32) []byte {
	return be.AppendUint32(be.AppendUint32([]byte{'A'}, xid), subxid)
}

// StreamAbortParallel is StreamAbort as it is with streaming=parallel: abort is the LSN of the abort.
func StreamAbortParallel(xid, subxid uint32, abort LSN, at time.Time) []byte {
	return lsnTime(StreamAbort(xid, subxid), at, abort)
}

// BeginPrepare opens a transaction that was prepared: prepare is the LSN of that record, end its end.
func BeginPrepare(prepare, end LSN, at time.Time, xid uint32, gid string) []byte {
	return prepared(lsnTime([]byte{'b'}, at, prepare, end), xid, gid)
}

// Prepare ends it.
func Prepare(prepare, end LSN, at time.Time, xid uint32, gid string) []byte {
	return prepared(lsnTime([]byte{'P', 0}, at, prepare, end), xid, gid)
}

// StreamPrepare ends a streamed transaction that was prepared.
func StreamPrepare(prepare, end LSN, at time.Time, xid uint32, gid string) []byte {
	return prepared(lsnTime([]byte{'p', 0}, at, prepare, end), xid, gid)
}

// CommitPrepared commits a transaction that was prepared before.
func CommitPrepared(commit, end LSN, at time.Time, xid uint32, gid string) []byte {
	return prepared(lsnTime([]byte{'K', 0}, at, commit, end), xid, gid)
}

// RollbackPrepared rolls it back. prepareEnd is the end of the prepare's record, rollbackEnd that of its own.
func RollbackPrepared(prepareEnd, rollbackEnd LSN, preparedAt, at time.Time, xid uint32, gid string) []byte {
	b := lsnTime([]byte{'r', 0}, preparedAt, prepareEnd, rollbackEnd)
	return prepared(be.AppendUint64(b, uint64(micros(at))), xid, gid)
}

func prepared(b []byte, xid uint32, gid string) []byte {
	return append(append(be.AppendUint32(b, xid), gid...), 0)
}

func lsnTime(b []byte, at time.Time, lsns ...LSN) []byte {
	for _, lsn := range lsns {
		b = be.AppendUint64(b, uint64(lsn))
	}
	return be.AppendUint64(b, uint64(micros(at)))
}

func tuple(b []byte, kind byte, row []any) []byte {
	b = be.AppendUint16(append(b, kind), uint16(len(row)))
	for _, v := range row {
		switch v := v.(type) {
		case nil:
			b = append(b, 'n')
		case unchanged:
			b = append(b, 'u')
		case string:
			b = append(be.AppendUint32(append(b, 't'), uint32(len(v))), v...)
		case []byte:
			b = append(be.AppendUint32(append(b, 'b'), uint32(len(v))), v...)
		default:
			panic(fmt.Sprintf("fakewal: a column cannot be a %T", v))
		}
	}
	return b
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}
