package txn

import (
	"fmt"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/wal"
)

// Assembler makes one transaction after the other, each whole, out of what pgoutput sends.
//
// The server sends a large transaction while it goes on (protocol version 2), in blocks between which others come. Its messages are
// kept in the Store until its end is known. Then they come like those of a transaction that is sent at its commit. After a reconnect
// the server may send it in other blocks, or in none: what comes out is the same. A position that the server tells between the blocks
// may be confirmed without regard to what is kept. It lies before the commits of these transactions, and the server sends them again,
// from their beginning.
//
// A prepared transaction is sent at its PREPARE (protocol version 3), and later only whether it was committed. It is confirmed at
// its PREPARE, and then not sent again, whatever becomes of it. In the order of transactions it stands there, too.
//
// A transaction that was prepared before the slot knew of two-phase comes late. It is sent when it is committed, with the position of
// the PREPARE, which may lie before what was delivered. It is known by lying before From. It is kept, too, until the COMMIT PREPARED
// that follows it says where in the order it stands (ReorderBufferFinishPrepared in src/backend/replication/logical/reorderbuffer.c).
type Assembler struct {
	Store   Store
	Decoder pgoutput.Decoder
	From    wal.LSN // where the connection's stream begins

	ev       Event // scratch
	tables   map[uint32]described
	last     *Table       // most rows are of the table of the row before
	received uint64       // messages
	open     bool         // a transaction has begun, and not ended
	keeping  *Transaction // the one of which messages are coming that are kept; nil: none
	late     bool         // it was prepared before From

	ending
}

// ending is a transaction that comes at its end.
type ending struct {
	rest   rest
	ended  pgoutput.Event
	at     wal.LSN // of ended
	sentAt int64
	player *player              // of what was kept; nil: nothing is coming
	played int                  // bytes since the last Pause
	before map[uint32]described // the tables, before what was kept has said something of them
}

// rest is what is still to come of a transaction whose end was received, behind what was kept of it.
type rest uint8

const (
	nothing rest = iota
	prepareAndEnd
	end
)

// Step is what an Event is to the transactions.
type Step uint8

// The steps. Each transaction is a Begins, any number of Within, and an Ends.
const (
	Begins    Step = iota + 1 // XID, LSN, Time; Name of a prepared one
	Within                    // Insert, Update, Delete, Truncate, Message, Origin
	Prepared                  // the PREPARE of a transaction that came late; its CommitPrepared ends it
	Ends                      // Commit, Prepare or CommitPrepared, also of one in progress: LSN, End
	Alone                     // outside of transactions: Message, RollbackPrepared
	Describes                 // Table is new, or was altered
	Pause                     // nothing: much has come of what was kept, and the connection may need attention
)

// Event is a message of pgoutput at its place.
type Event struct {
	*pgoutput.Event
	Step   Step
	At     wal.LSN // where its message lies in the log
	SentAt int64   // when the server sent it, microseconds since 2000-01-01 UTC

	AtPrepare bool // Begins: the transaction stands where it was prepared
	Bare      bool // Begins: nothing but the CommitPrepared follows, because the changes stand at the PREPARE

	Table  *Table   // of a row; of Describes
	Tables []*Table // of a Truncate
}

// Table is a table as the server has described it over this connection. The same pointer means the same description.
type Table struct {
	OID     uint32
	Schema  string
	Name    string
	Ident   byte // pg_class.relreplident
	Columns []pgoutput.Col

	Again bool // it was described before, over this connection
	Owner any  // what the caller makes of it
}

type described struct {
	*Table
	seq uint64 // of the message that did
}

// Begin begins with a connection. The server describes tables anew, and begins with a transaction.
func (a *Assembler) Begin(from wal.LSN) {
	a.Drop()
	a.From, a.tables, a.last = from, map[uint32]described{}, nil
}

// Drop gives up what is not complete: it is sent again.
func (a *Assembler) Drop() {
	a.stopPlaying()
	a.Store.Reset()
	a.keeping, a.rest, a.open = nil, nothing, false
}

// Take takes in a message of the server, and returns what comes next: nil if there is nothing until the next message. data are the
// bytes of what is returned. It is valid until the next call.
func (a *Assembler) Take(at wal.LSN, sentAt int64, message []byte) (ev *Event, data []byte, err error) {
	a.received++
	a.ev.At, a.ev.SentAt = at, sentAt
	if a.keeping != nil {
		return nil, nil, a.keep(message)
	}
	ev, err = a.take(message, a.received)
	return ev, message, err
}

// HasMore says whether the last message has brought more than was returned.
func (a *Assembler) HasMore() bool { return a.rest != nothing }

// Next returns the rest of what the last message has brought; nil: there is no more.
func (a *Assembler) Next() (ev *Event, data []byte, err error) {
	if a.rest == nothing {
		return nil, nil, nil
	}
	return a.goOn()
}

// take takes in a message that is not kept, or not any more. It was the seq-th.
func (a *Assembler) take(message []byte, seq uint64) (*Event, error) {
	ev, err := a.Decoder.Decode(message)
	if err != nil {
		return nil, pgfail.Malformed(a.ev.At, err)
	}
	switch ev.Type {
	case pgoutput.Insert, pgoutput.Update, pgoutput.Delete:
		t := a.last
		if t == nil || t.OID != ev.OID {
			if t, err = a.table(ev.OID); err != nil {
				return nil, err
			}
			a.last, a.ev.Table = t, t
		}
		if ev.N != len(t.Columns) {
			return nil, pgfail.Unexpected(fmt.Sprintf("row of %d columns for %s.%s, which has %d", ev.N, t.Schema, t.Name, len(t.Columns)))
		}
	case pgoutput.Begin:
		return a.begin(ev)
	case pgoutput.Commit:
		return a.end(ev)
	case pgoutput.Truncate:
		if a.ev.Tables, err = a.truncated(ev); err != nil {
			return nil, err
		}
	case pgoutput.Message:
		switch {
		case ev.Flags&1 != 0:
		case a.open:
			return nil, pgfail.Unexpected("message outside of transactions inside of one")
		default:
			return a.step(Alone, ev), nil
		}
	case pgoutput.Origin:
	case pgoutput.Relation:
		return a.describe(ev, seq)
	case pgoutput.Type:
		return nil, nil // the catalogue says more
	case pgoutput.StreamStart, pgoutput.StreamAbort, pgoutput.StreamCommit:
		return a.inProgress(ev)
	case pgoutput.BeginPrepare, pgoutput.Prepare, pgoutput.StreamPrepare, pgoutput.CommitPrepared, pgoutput.RollbackPrepared:
		return a.twoPhase(ev)
	default:
		return nil, unexpected(ev)
	}
	if !a.open {
		return nil, unexpected(ev)
	}
	return a.step(Within, ev), nil
}

func unexpected(ev *pgoutput.Event) error {
	return pgfail.Unexpected(fmt.Sprintf("message %q", ev.Type))
}

func (a *Assembler) step(step Step, ev *pgoutput.Event) *Event {
	if a.ev.Step = step; a.ev.Event != ev { // mostly it is the decoder's
		a.ev.Event = ev
	}
	return &a.ev
}

func (a *Assembler) begin(ev *pgoutput.Event) (*Event, error) {
	if a.open {
		return nil, pgfail.Unexpected("begin inside of a transaction")
	}
	a.open = true
	a.ev.AtPrepare = ev.Type == pgoutput.BeginPrepare || ev.Type == pgoutput.Prepare || ev.Type == pgoutput.StreamPrepare
	a.ev.Bare = false
	return a.step(Begins, ev), nil
}

func (a *Assembler) end(ev *pgoutput.Event) (*Event, error) {
	if !a.open {
		return nil, unexpected(ev)
	}
	a.open = false
	return a.step(Ends, ev), nil
}
