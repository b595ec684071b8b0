package feed

import (
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/txn"
	"github.com/walchan/walchan/wal"
)

// Kind says what an Item is.
type Kind uint8

// The kinds. A message of the kind has the same number.
const (
	Insert Kind = iota + 1
	Update
	Delete
	Truncate       // Ext is a *Truncation
	LogicalMessage // Ext is a *Emitted
	Begin
	Commit // Ext is its end, a wal.LSN
	Raw
	Prepare          // Ext is its end, or nil if it came late
	CommitPrepared   // Ext is its end
	RollbackPrepared // Ext is a *resume.Place
	WAL              // Ext is a *Piece
	TimelineHistory  // Ext is a *Piece
)

// Item is what a message is made of.
type Item struct {
	Kind    Kind
	Ordinal uint32     // place in its transaction
	LSN     wal.LSN    // of its record
	Sent    int64      // the server's clock when it sent it, microseconds since 2000-01-01 UTC
	Split   uint32     // length of the old row's offset table at the end of Data; 0: no old row
	Hash    uint32     // of the transaction's messages up to this one: see resume.Hash
	Data    string     // row block (see pgoutput.Block) or payload
	Table   *txn.Table // of a row; nil: it is none
	Tx      *Tx        // nil: it is outside of transactions
	Ext     any        // what only some kinds have; of a row that is the last one of its transaction, a *LastEnd
}

// Tx is a transaction. A feed has one at a time, always in the same place: Number tells it from the one before.
type Tx struct {
	Number      uint64
	XID         uint32
	GID         string  // "": it was not prepared
	Commit      wal.LSN // of the record that commits or prepares; of a RollbackPrepared the end of its record
	Time        int64   // of that, microseconds since 2000-01-01 UTC
	Origin      string  // the replication origin it was replayed from; "": none
	Redelivered bool    // it comes again as a whole
	Prepared    bool    // it is delivered at its PREPARE
	Before      wal.LSN // everything that ended at or before it was delivered before the transaction
	Source      *resume.Source
}

// LastEnd is the end of the transaction of which a row is the last message.
type LastEnd wal.LSN

// Truncation is what a Truncate has.
type Truncation struct {
	Tables           []*txn.Table
	Cascade, Restart bool
	End              wal.LSN // of its transaction, if it is the last message of that
}

// Emitted is what a LogicalMessage has.
type Emitted struct {
	Prefix string
	End    wal.LSN       // of its transaction, if it is the last message of that
	At     *resume.Place // if it is outside of transactions
}

// Piece is what a WAL or a TimelineHistory has besides its bytes.
type Piece struct {
	Timeline int32
	At       resume.Place
}

// EndOf returns the end of the transaction, if ext is that of its last item.
func EndOf(ext any) wal.LSN {
	switch x := ext.(type) {
	case wal.LSN:
		return x
	case *LastEnd:
		return wal.LSN(*x)
	case *Truncation:
		return x.End
	case *Emitted:
		return x.End
	}
	return 0
}
