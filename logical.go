package walchan

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/session"
)

// feed turns the server's frames into messages and marks. It survives reconnects, and knows what it has delivered.
type feed interface {
	connected(from LSN) // a new connection, that streams from there
	data(*Stream, *session.Frame) error
	delivered() LSN // a server whose WAL ends before it cannot continue the stream
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
	relations    map[uint32]*Relation
	last         *Relation // most rows are of the table of the row before
	txs          []Tx      // a slab: transactions are mostly small, and their messages keep them
	msg          Message   // scratch

	tx        *Tx // nil between transactions
	begun     bool
	committed int64    // when tx was, microseconds since 2000-01-01 UTC
	at        progress // in tx, as the server sends it
	old       bool     // tx was delivered before, wholly

	done LSN      // end of the last complete entry that was delivered
	part progress // what was delivered of the transaction that is not complete
	anew LSN      // commit LSN of the transaction that is to be delivered again
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

// connected: the server describes tables anew on each connection, and begins with a transaction.
func (f *changes) connected(LSN) {
	f.relations, f.last, f.tx = map[uint32]*Relation{}, nil, nil
}

func (f *changes) data(s *Stream, frame *session.Frame) error {
	ev, err := f.decoder.Decode(frame.Data)
	if err != nil {
		return &Error{Kind: ErrProtocol, What: fmt.Sprintf("the server's data at %s", frame.Start), Err: err,
			Advice: "nothing behind it was delivered or confirmed; report it with the server's version"}
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
		return f.change(s, m, frame.Data)
	case pgoutput.Begin:
		f.committed = ev.Time
		return f.begin(ev)
	case pgoutput.Commit:
		return f.commit(s, m, ev)
	case pgoutput.Truncate:
		t := &truncation{cascade: ev.Flags&1 != 0, restart: ev.Flags&2 != 0}
		for _, oid := range ev.Tables {
			r, err := f.relation(oid, -1)
			if err != nil {
				return err
			}
			t.tables = append(t.tables, r)
		}
		m.Kind, m.ext = Truncate, t
		return f.change(s, m, frame.Data)
	case pgoutput.Message:
		m.Kind, m.ext, m.data, m.LSN = LogicalMessage, ev.Name, ev.Content, LSN(ev.LSN)
		if ev.Flags&1 != 0 {
			return f.change(s, m, frame.Data)
		}
		return f.message(s, m)
	case pgoutput.Relation:
		return f.table(s, ev)
	case pgoutput.Origin:
		if f.tx == nil {
			return f.outside("origin")
		}
		f.tx.Origin = ev.Name
	case pgoutput.Type:
		// The catalogue says more: see Stream.learnTypes.
	}
	return nil
}

func (f *changes) delivered() LSN { return max(f.done, f.part.commit+1) }

func (f *changes) begin(ev *pgoutput.Event) error {
	if f.tx != nil {
		return f.outside("begin inside of a transaction")
	}
	if len(f.txs) == cap(f.txs) {
		f.txs = make([]Tx, 0, 64)
	}
	f.txs = append(f.txs, Tx{XID: ev.XID, CommitLSN: LSN(ev.LSN), CommitTime: pgTime(ev.Time)})
	f.tx = &f.txs[len(f.txs)-1]
	f.tx.Redelivered = f.tx.CommitLSN == f.anew
	f.begun = false
	f.old = f.tx.CommitLSN < f.done
	f.at = progress{commit: f.tx.CommitLSN, ordinal: 1}
	if !f.old && f.part.commit != f.at.commit {
		f.part = progress{}
	}
	return nil
}

// change delivers a message of the transaction, unless it was delivered before.
func (f *changes) change(s *Stream, m *Message, b []byte) error {
	if f.tx == nil {
		return f.outside(m.Kind.String())
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

func (f *changes) commit(s *Stream, m *Message, ev *pgoutput.Event) error {
	switch {
	case f.tx == nil:
		return f.outside("commit")
	case LSN(ev.LSN) != f.tx.CommitLSN:
		return f.outside("commit of another transaction")
	case !f.old && f.at.ordinal < f.part.ordinal:
		return f.again(s)
	}
	// Servers before version 15 send transactions without changes, too: they are not delivered.
	if f.begun && !f.old {
		m.Kind, m.ext, m.LSN = Commit, LSN(ev.End), LSN(ev.LSN)
		f.at.add(nil)
		if err := f.pass(s, m); err != nil {
			return err
		}
	}
	f.tx = nil
	f.done = max(f.done, LSN(ev.End))
	s.received(LSN(ev.End))
	return nil
}

// message delivers a logical message that belongs to no transaction. Its LSN is the end of its record.
func (f *changes) message(s *Stream, m *Message) error {
	if m.LSN <= f.done {
		return nil
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

func (f *changes) relation(oid uint32, columns int) (*Relation, error) {
	r := f.last
	if r == nil || r.OID != oid {
		if r = f.relations[oid]; r == nil {
			return nil, f.outside(fmt.Sprintf("change of a table (OID %d) that was not described", oid))
		}
		f.last = r
	}
	if columns >= 0 && columns != len(r.Columns) {
		return nil, f.outside(fmt.Sprintf("row of %d columns for %s, which has %d", columns, r, len(r.Columns)))
	}
	return r, nil
}

func (f *changes) table(s *Stream, ev *pgoutput.Event) error {
	r := &Relation{OID: ev.OID, Schema: ev.Schema, Name: ev.Name, ReplicaIdentity: ReplicaIdentity(ev.Ident)}
	r.Columns = make([]Column, len(ev.Columns))
	for i, c := range ev.Columns {
		r.Columns[i] = Column{Name: c.Name, Key: c.Key, TypeOID: c.TypeOID, TypeMod: c.TypeMod}
	}
	if len(f.relations) == 0 || f.relations[ev.OID] != nil { // a new connection, or announced again
		s.types.forget()
	}
	if err := s.learnTypes(r); err != nil {
		return err
	}
	f.relations[ev.OID], f.last = r, nil
	return nil
}

func (f *changes) outside(what string) error {
	return &Error{Kind: ErrProtocol, What: "unexpected " + what, Advice: "nothing behind it was delivered or confirmed; report it with the server's version"}
}

// learnTypes has the types of a table's columns looked up that are not known yet, on a second connection. Should that fail
// they are converted with what was known before, or are their text.
func (s *Stream) learnTypes(r *Relation) error {
	if oids := append(s.types.unknown(r.Columns), s.types.stale()...); len(oids) > 0 {
		failed, err := s.await(func(ctx context.Context) error {
			conn, err := s.conn.Load().dialOrdinary(ctx)
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			return s.types.lookup(ctx, conn, oids)
		})
		if err != nil {
			return err
		}
		if failed != nil {
			s.cfg.log.Warn("types of a table could not be looked up: their values are text", "slot", s.source.Slot, "table", r.String(), "error", failed)
		}
	}
	s.types.bind(r)
	return nil
}
