// Package txn keeps the messages of transactions whose outcome is not known yet, in memory up to a limit over all of them
// and then in temporary files, until they are read back in order or dropped.
//
// It knows the rules by which PostgreSQL's subtransactions nest, and nothing of what a message says. It is used by one
// goroutine.
package txn

import "encoding/binary"

// Record is a message of a transaction.
type Record struct {
	Seq    uint64 // what Add was given: the order in which messages came, over all transactions
	LSN    uint64
	SentAt int64
	Data   []byte // valid until the next one is read
}

const headerSize = 28 // of a record, before its Data

func (r *Record) put(b []byte, size int) {
	binary.LittleEndian.PutUint32(b, uint32(size))
	binary.LittleEndian.PutUint64(b[4:], r.Seq)
	binary.LittleEndian.PutUint64(b[12:], r.LSN)
	binary.LittleEndian.PutUint64(b[20:], uint64(r.SentAt))
}

// parse returns the size of the record with its header.
func (r *Record) parse(b []byte) int {
	r.Seq = binary.LittleEndian.Uint64(b[4:])
	r.LSN = binary.LittleEndian.Uint64(b[12:])
	r.SentAt = int64(binary.LittleEndian.Uint64(b[20:]))
	return headerSize + int(binary.LittleEndian.Uint32(b))
}

// Transaction is what has come of one transaction and was not rolled back.
type Transaction struct {
	XID      uint32
	Prepared bool // for the owner to note

	store *Store
	subs  []sub
	spool spool
}

// sub is a subtransaction that may be rolled back by itself.
type sub struct {
	xid   uint32
	begin int64 // where in the spool what it rolls back begins
}

// Add adds a message: rec but for its Data, which is kind and rest. subxid is the transaction or subtransaction that has made
// the change; 0 for what belongs to none in particular. An error is that of the temporary file.
func (t *Transaction) Add(subxid uint32, rec Record, kind byte, rest []byte) error {
	if subxid != 0 {
		t.enter(subxid)
	}
	b := t.spool.grow(t.store, headerSize+1+len(rest))
	rec.put(b, 1+len(rest))
	b[headerSize] = kind
	copy(b[headerSize+1:], rest)
	return t.store.bound()
}

// enter notes where a subtransaction begins.
//
// Changes come in the order in which they were made, and a session is in one subtransaction at a time. An XID is given to a
// (sub)transaction when it first writes, or one within it does: to the outer one first (AssignTransactionId in
// src/backend/access/transam/xact.c). So where a change of xid comes behind one of a higher XID, the latter belongs to a
// subtransaction within xid that is over, and that can now be rolled back only together with xid. Its beginning is that of
// xid then, if that is not known. What is left is in ascending order, of XIDs and beginnings, and as long as the
// subtransactions that have come since the last change outside of them.
func (t *Transaction) enter(xid uint32) {
	begin := t.spool.size
	n := len(t.subs)
	for n > 0 && after(t.subs[n-1].xid, xid) {
		n--
		begin = t.subs[n].begin
	}
	t.subs = t.subs[:n]
	if xid != t.XID && (n == 0 || t.subs[n-1].xid != xid) {
		t.subs = append(t.subs, sub{xid, begin})
	}
}

// rollBack drops what the subtransaction has made, and those within it. All of these have a higher XID, and so has everything
// that came behind: see enter. If the subtransaction is not known it was dropped with another one, or rolled back
// together with it in a moment, or has sent nothing.
func (t *Transaction) rollBack(subxid uint32) error {
	n := len(t.subs)
	for n > 0 && !after(subxid, t.subs[n-1].xid) {
		n--
	}
	if n == len(t.subs) {
		return nil
	}
	begin := t.subs[n].begin
	t.subs = t.subs[:n]
	return t.spool.cut(t.store, begin)
}

// after compares XIDs, which wrap around (TransactionIdFollows in src/backend/access/transam/transam.c).
func after(a, b uint32) bool { return int32(a-b) > 0 }

// Close drops the transaction, and its temporary file.
func (t *Transaction) Close() { t.spool.close(t.store) }
