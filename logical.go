package walchan

import (
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/txn"
)

// feed turns the server's frames into messages and marks. It survives reconnects, and knows what it has delivered.
type feed interface {
	connected(from LSN) // a new connection, that streams from there
	data(*Stream, *session.Frame) error
	disconnected()
	delivered() LSN // a server whose WAL ends before it cannot continue the stream
	held() int64    // bytes kept of transactions that are not complete
}

// changes is the feed of pgoutput.
//
// After a reconnect the server sends every unconfirmed transaction again. What was delivered is recognised by position:
// a transaction whose commit LSN lies before the end of the last complete one is old. Of the one that was being
// delivered when the connection broke, as many messages are skipped as were delivered, if they are the same: their hash
// tells. An ALTER PUBLICATION meanwhile can change what an older transaction is sent as; then counting would lose a row, and
// the transaction is delivered again as a whole.
type changes struct {
	transactions bool
	decoder      pgoutput.Decoder
	relations    map[uint32]table
	last         *Relation // most rows are of the table of the row before
	txs          []Tx      // a slab: transactions are mostly small, and their messages keep them
	msg          Message   // scratch
	frames       uint64    // received so far

	from     LSN              // where the connection's stream begins
	spools   txn.Store        // transactions whose outcome is not known yet
	spooling *txn.Transaction // the one of them of which messages are coming; nil: none
	late     bool             // it was prepared before from

	tx        *Tx // nil between transactions
	begun     bool
	committed int64    // when tx was, microseconds since 2000-01-01 UTC
	at        progress // in tx, as the server sends it
	old       bool     // tx was delivered before, wholly

	done LSN      // end of the last complete entry that was delivered
	part progress // what was delivered of the transaction that is not complete
	anew LSN      // commit LSN of the transaction that is to be delivered again
}

func newChanges(cfg *config) *changes {
	return &changes{
		transactions: cfg.transactions,
		decoder:      pgoutput.Decoder{Parallel: isParallel(cfg.pgoutputArgs())},
		spools:       txn.Store{Limit: cfg.spoolMemory, Dir: cfg.spoolDir},
	}
}

// progress is how far a transaction has come.
type progress struct {
	commit  LSN
	ordinal uint32
	hash    uint64 // of the messages up to ordinal
}

var hashSeed = maphash.MakeSeed()

func (p *progress) add(b []byte) {
	p.ordinal++
	p.hash = roll(p.hash, b)
}

// roll adds a message to the hash of those before it.
func roll(hash uint64, b []byte) uint64 {
	return hash*0x9E3779B97F4A7C15 + maphash.Bytes(hashSeed, b)
}

func rollString(hash uint64, s string) uint64 {
	return hash*0x9E3779B97F4A7C15 + maphash.String(hashSeed, s)
}

// connected: the server describes tables anew on each connection, and begins with a transaction.
func (f *changes) connected(from LSN) {
	f.relations, f.last, f.tx, f.from = map[uint32]table{}, nil, nil, from
}

// disconnected: what was not complete is sent again.
func (f *changes) disconnected() {
	f.spools.Reset()
	f.spooling = nil
}

func (f *changes) data(s *Stream, frame *session.Frame) error {
	f.frames++
	if f.spooling != nil {
		return f.spool(frame)
	}
	return f.take(s, frame, f.frames)
}

// take takes in a message: the seq-th that was received.
func (f *changes) take(s *Stream, frame *session.Frame, seq uint64) error {
	ev, err := f.decoder.Decode(frame.Data)
	if err != nil {
		return malformed(frame.Start, err)
	}
	m := &f.msg
	*m = Message{LSN: frame.Start, sent: frame.SentAt}
	switch ev.Type {
	case pgoutput.Insert, pgoutput.Update, pgoutput.Delete:
		m.Kind = Insert + Kind(btoi(ev.Type == pgoutput.Update)+2*btoi(ev.Type == pgoutput.Delete))
		if m.Relation, err = f.relation(ev.OID, ev.N); err != nil {
			return err
		}
		m.data, m.split = ev.Block, ev.Split
		if x := s.reading.Load(); x != nil && f.tx != nil {
			x.note(m, f.tx.XID)
		}
		return f.change(s, m, frame.Data)
	case pgoutput.Begin:
		f.committed = ev.Time
		return f.begin(s, m, ev)
	case pgoutput.Commit:
		return f.end(s, m, ev, Commit)
	case pgoutput.Truncate:
		if m.ext, err = f.truncation(ev); err != nil {
			return err
		}
		m.Kind = Truncate
		if x := s.reading.Load(); x != nil && f.tx != nil {
			x.note(m, f.tx.XID)
		}
		return f.change(s, m, frame.Data)
	case pgoutput.Message:
		m.Kind, m.ext, m.data, m.LSN = LogicalMessage, ev.Name, ev.Content, LSN(ev.LSN)
		if ev.Name == readRowsPrefix {
			if x := s.reading.Load(); x != nil {
				return x.mark(s, m)
			}
			return nil
		}
		if ev.Flags&1 != 0 {
			return f.change(s, m, frame.Data)
		}
		return f.single(s, m)
	case pgoutput.Relation:
		return f.describe(s, ev, seq)
	case pgoutput.Origin:
		if f.tx == nil {
			return unexpected("origin")
		}
		f.tx.Origin = ev.Name
		return nil
	case pgoutput.Type:
		return nil // the catalogue says more: see Stream.learnTypes
	case pgoutput.StreamStart, pgoutput.StreamAbort, pgoutput.StreamCommit:
		return f.inProgress(s, m, ev)
	case pgoutput.BeginPrepare, pgoutput.Prepare, pgoutput.StreamPrepare, pgoutput.CommitPrepared, pgoutput.RollbackPrepared:
		return f.twoPhase(s, m, ev)
	}
	return unexpected(fmt.Sprintf("message %q", ev.Type))
}

func (f *changes) delivered() LSN { return max(f.done, f.part.commit+1) }

func (f *changes) begin(s *Stream, m *Message, ev *pgoutput.Event) error {
	if f.tx != nil {
		return unexpected("begin inside of a transaction")
	}
	if LSN(ev.LSN) >= s.until {
		return errEnded
	}
	f.tx = f.newTx(ev)
	f.tx.Redelivered = f.tx.CommitLSN == f.anew
	f.begun = false
	f.old = f.tx.CommitLSN < f.done
	f.at = progress{commit: f.tx.CommitLSN, ordinal: 1}
	if !f.old && f.part.commit != f.at.commit {
		f.part = progress{}
	}
	return nil
}

func (f *changes) newTx(ev *pgoutput.Event) *Tx {
	if len(f.txs) == cap(f.txs) {
		f.txs = make([]Tx, 0, 64)
	}
	f.txs = append(f.txs, Tx{XID: ev.XID, GID: ev.Name, CommitLSN: LSN(ev.LSN), CommitTime: pgTime(ev.Time)})
	return &f.txs[len(f.txs)-1]
}

// change delivers a message of the transaction, unless it was delivered before.
func (f *changes) change(s *Stream, m *Message, b []byte) error {
	if f.tx == nil {
		return unexpected(m.Kind.String())
	}
	s.conn.Load().sendLag = time.Duration(m.sent-f.committed) * time.Microsecond
	if f.old {
		return nil
	}
	if err := f.announce(s, m); err != nil {
		return err
	}
	f.at.add(b)
	return f.pass(s, m)
}

// announce delivers the Begin, if those are asked for: not at once, for the transaction's origin follows it.
func (f *changes) announce(s *Stream, m *Message) error {
	if f.begun || !f.transactions {
		return nil
	}
	f.begun = true
	begin := &Message{Kind: Begin, LSN: f.tx.CommitLSN, sent: m.sent}
	return f.pass(s, begin)
}

// pass delivers the message at f.at, unless it belongs to what was delivered of the transaction before.
func (f *changes) pass(s *Stream, m *Message) error {
	if f.at.ordinal <= f.part.ordinal {
		if f.at.ordinal == f.part.ordinal && f.at.hash != f.part.hash {
			return f.again(s)
		}
		return nil
	}
	m.Tx, m.Ordinal = f.tx, f.at.ordinal
	if err := s.deliver(m); err != nil {
		return err
	}
	f.part = f.at
	return nil
}

// end closes the transaction, with a message that says so if its Begin was delivered; the outcome of a prepared one always is.
func (f *changes) end(s *Stream, m *Message, ev *pgoutput.Event, kind Kind) error {
	switch {
	case f.tx == nil:
		return unexpected(kind.String())
	case LSN(ev.LSN) != f.tx.CommitLSN:
		return unexpected(kind.String() + " of another transaction")
	case !f.old && f.at.ordinal < f.part.ordinal:
		return f.again(s)
	}
	// Servers before version 15 send transactions without changes, too: they are not delivered.
	if (f.begun || kind == CommitPrepared) && !f.old {
		m.Kind, m.ext, m.LSN = kind, LSN(ev.End), LSN(ev.LSN)
		if err := f.mark(s, m); err != nil {
			return err
		}
	}
	f.tx = nil
	f.done = max(f.done, LSN(ev.End))
	s.received(LSN(ev.End))
	return nil
}

// mark delivers a message of the transaction that is no change.
func (f *changes) mark(s *Stream, m *Message) error {
	f.at.add(nil)
	return f.pass(s, m)
}

// single delivers a message that is sent by itself. Its LSN is the end of its record.
func (f *changes) single(s *Stream, m *Message) error {
	if m.LSN <= f.done {
		return nil
	}
	if m.LSN > s.until {
		return errEnded
	}
	if err := s.deliver(m); err != nil {
		return err
	}
	f.done = m.LSN
	s.received(m.LSN)
	return nil
}

// again has the transaction delivered once more, from its beginning, over a new connection.
func (f *changes) again(s *Stream) error {
	s.cfg.log.Warn("the server sends a transaction differently than before the reconnect (was a publication altered?): it is delivered again as a whole",
		"slot", s.source.Slot, "xid", f.tx.XID, "commit", f.tx.CommitLSN, "delivered", f.part.ordinal)
	f.anew, f.part = f.tx.CommitLSN, progress{}
	return errAgain
}

var errAgain = errors.New("walchan: a transaction is delivered again")

func (f *changes) truncation(ev *pgoutput.Event) (*truncation, error) {
	t := &truncation{cascade: ev.Flags&1 != 0, restart: ev.Flags&2 != 0}
	for _, oid := range ev.Tables {
		r, err := f.relation(oid, -1)
		if err != nil {
			return nil, err
		}
		t.tables = append(t.tables, r)
	}
	return t, nil
}

// malformed is the error of a message of pgoutput that cannot be decoded.
func malformed(at LSN, err error) error {
	return &Error{Kind: ErrProtocol, What: fmt.Sprintf("the server's data at %s", at), Err: err, Advice: reportIt}
}

// unexpected is the error of one that cannot stand where it does.
func unexpected(what string) error {
	return &Error{Kind: ErrProtocol, What: "unexpected " + what, Advice: reportIt}
}

const reportIt = "nothing behind it was delivered or confirmed; report it with the server's version"
