// Package resume knows how far a consumer has come, how that is written down, and whether a server can continue from there.
//
// The same numbers mean something else in another history of the same cluster: after a fail-over, a restore, or with other
// publications. So a place is not a number. A Point names the last transaction by its position, XID and time, and has a hash of
// the part that was delivered. An Origin names the server. A Checkpoint is both, and has a text form.
//
// The package does no I/O and knows neither connections nor messages.
package resume

import (
	"fmt"

	"github.com/jackc/pglogrepl"
)

// LSN is a position in the write-ahead log.
type LSN = pglogrepl.LSN

// Point is how far a consumer has come in the order of delivery.
type Point struct {
	// Through is a position: everything that ended at or before it is contained.
	Through LSN

	// Message is the end of the last message outside of transactions, if one was delivered after the last transaction. 0: none.
	Message LSN

	// The last transaction of which anything was delivered. All zero: there is none yet.

	Commit   LSN    // of the record that commits or prepares it
	XID      uint32 // 0 in a position that an older version has stored: see IsBare
	Time     int64  // of that record, in microseconds since 2000-01-01 UTC
	Prepared bool   // it was delivered at its PREPARE

	Ordinal uint32 // of its last message that was delivered
	Hash    uint32 // of its messages up to that one: see Hash

	// From is for a physical stream: Through is its position, and Hash is that of the WAL from From to Through. 0: a logical one.
	From LSN
}

// HasTransaction says whether there is a last transaction.
func (p Point) HasTransaction() bool { return p.Commit != 0 }

// IsComplete says whether all of the last transaction was delivered. It is true, too, if there is none.
func (p Point) IsComplete() bool { return p.Through > p.Commit || p.Commit == 0 }

// IsBare says whether the last transaction is known by its position alone, as older versions have stored it: nothing can be proven
// of it.
func (p Point) IsBare() bool { return p.Commit != 0 && p.XID == 0 }

// Covers says whether the whole transaction that was committed at a position is contained. One that was committed after the last
// transaction is not, whatever Through is: Through may be a keepalive's position, and in another history there may be
// transactions before it.
func (p Point) Covers(commit LSN) bool {
	if p.HasTransaction() {
		return commit < p.Commit || commit == p.Commit && p.IsComplete()
	}
	return commit < p.Through
}

// Contains says whether a message is contained. lsn is its transaction's commit, or the end of a single message.
func (p Point) Contains(lsn LSN, ordinal uint32, single bool) bool {
	if single {
		return lsn <= max(p.Commit, p.Message)
	}
	return p.Covers(lsn) || lsn == p.Commit && ordinal <= p.Ordinal
}

// Is says whether the transaction is the last one of the point. A transaction of another history may have the same position
// and XID; then its time differs.
func (p Point) Is(xid uint32, time int64) bool { return p.IsBare() || p.XID == xid && p.Time == time }

// Position describes the last message by its transaction's position and its ordinal there, or by its end outside of transactions.
func (p Point) Position() string {
	if p.Message != 0 {
		return fmt.Sprintf("%s:0", p.Message)
	}
	return fmt.Sprintf("%s:%d", p.Commit, p.Ordinal)
}

// Needed is the position before which a server's WAL must not end. If it ends earlier, it lacks what was delivered.
func (p Point) Needed() LSN {
	if p.Commit >= p.Message && p.Commit != 0 {
		return p.Commit + 1 // the record is longer
	}
	return p.Message
}

// Compare returns -1, 0 or +1 if p lies before, at or after q in the order of delivery.
func (p Point) Compare(q Point) int {
	for _, d := range [...][2]uint64{{uint64(p.Commit), uint64(q.Commit)}, {uint64(p.Ordinal), uint64(q.Ordinal)}, {uint64(p.Through), uint64(q.Through)}} {
		if d[0] < d[1] {
			return -1
		}
		if d[0] > d[1] {
			return 1
		}
	}
	return 0
}
