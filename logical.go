package walchan

import (
	"errors"
	"fmt"
	"time"

	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/pgtime"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/txn"
)

// feed turns the server's frames into messages and marks. It survives reconnects, and knows what it has delivered.
type feed interface {
	connected(*connection)
	data(*Stream, *session.Frame) error
	keepalive(*Stream, *connection) error
	disconnected()
	delivered() resume.Point // a server that does not have it cannot continue the stream
	held() int64             // bytes kept of transactions that are not complete
}

// changes is the feed of pgoutput.
//
// After a reconnect, and behind a checkpoint, the server sends every unconfirmed transaction again. What was delivered is
// recognised by position: a transaction whose commit LSN lies before that of the last one is old. Of the last one as many
// messages are skipped as were delivered, if they are the same: their hash tells. With other publications than before an
// older transaction may be sent as something else; then counting would lose a row, and the transaction is delivered again
// as a whole.
type changes struct {
	transactions bool
	checkpoints  bool
	decoder      pgoutput.Decoder
	relations    map[uint32]table
	last         *Relation // most rows are of the table of the row before
	txs          []Tx      // a slab: transactions are mostly small, and their messages keep them
	ends         []lastEnd // likewise
	frames       uint64    // received so far

	origin   *resume.Source   // of the connection
	from     LSN              // where its stream begins
	spools   txn.Store        // transactions whose outcome is not known yet
	spooling *txn.Transaction // the one of them of which messages are coming; nil: none
	late     bool             // it was prepared before from

	tx        *Tx // nil between transactions
	begun     bool
	fresh     bool     // nothing of tx was delivered
	committed int64    // when tx was, microseconds since 2000-01-01 UTC
	at        progress // in tx, as the server sends it
	skip      progress // in tx, up to which it was delivered before
	old       bool     // tx was delivered before, wholly

	// The newest change of tx is kept until it is known whether it is the last one, because its checkpoint says so. With Commit
	// messages none is kept, because they carry the end.
	msgs    [2]Message // scratch: the one that is taken in, and the one that is kept
	turn    int        // the place of the former
	keeping bool

	point resume.Point // what was delivered
	ended LSN          // end of the last entry that was received as a whole
	anew  LSN          // commit LSN of the transaction that is to be delivered again
	trial *trial       // until the server's history is known to be that of point; nil: it is
}

func newChanges(cfg *config) *changes {
	return &changes{
		transactions: cfg.transactions,
		checkpoints:  cfg.checkpoints,
		decoder:      pgoutput.Decoder{Parallel: isParallel(cfg.pgoutputArgs())},
		spools:       txn.Store{Limit: cfg.spoolMemory, Dir: cfg.spoolDir},
	}
}

// progress is how far a transaction has come.
type progress struct {
	ordinal uint32
	hash    uint32 // of the messages up to ordinal
}

func (p *progress) add(b []byte) {
	p.ordinal++
	p.hash = resume.Hash(p.hash, b)
}

// connected: the server describes tables anew on each connection, and begins with a transaction.
func (f *changes) connected(c *connection) {
	f.relations, f.last, f.tx, f.from, f.origin = map[uint32]table{}, nil, nil, c.from, c.origin
	f.keeping = false
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
	m := &f.msgs[f.turn]
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
		m.Kind, m.ext, m.data, m.LSN = LogicalMessage, &logicalMessage{prefix: ev.Name}, ev.Content, LSN(ev.LSN)
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

func (f *changes) delivered() resume.Point { return f.point }

// here is what the checkpoint of a message outside of transactions says.
func (f *changes) here() *resume.Place { return &resume.Place{Source: f.origin, Point: f.point} }

func (f *changes) begin(s *Stream, m *Message, ev *pgoutput.Event) error {
	if f.tx != nil {
		return unexpected("begin inside of a transaction")
	}
	if err := f.witness(s, LSN(ev.LSN), ev); err != nil {
		return err
	}
	if LSN(ev.LSN) >= s.until {
		s.received(s.until) // all before has come; the slot is to come there, too, beyond changes that nobody was sent
		return errEnded
	}
	f.tx, f.committed = f.newTx(ev), ev.Time
	f.tx.Redelivered = f.tx.CommitLSN == f.anew
	f.tx.prepared = ev.Type == pgoutput.BeginPrepare || ev.Type == pgoutput.StreamPrepare || ev.Type == pgoutput.Prepare
	f.begun = false
	f.old = f.point.Covers(f.tx.CommitLSN)
	f.at, f.skip = progress{ordinal: 1}, progress{}
	f.fresh = f.tx.CommitLSN != f.point.Commit || f.point.IsBare()
	if f.tx.CommitLSN == f.point.Commit {
		f.skip = progress{f.point.Ordinal, f.point.Hash}
	}
	return nil
}

func (f *changes) newTx(ev *pgoutput.Event) *Tx {
	if len(f.txs) == cap(f.txs) {
		f.txs = make([]Tx, 0, 64)
	}
	f.txs = append(f.txs, Tx{XID: ev.XID, GID: ev.Name, CommitLSN: LSN(ev.LSN), CommitTime: pgtime.Time(ev.Time), origin: f.origin, before: min(f.point.Through, LSN(ev.LSN))})
	return &f.txs[len(f.txs)-1]
}

// change delivers a message of the transaction, unless it was delivered before.
func (f *changes) change(s *Stream, m *Message, b []byte) error {
	if f.tx == nil {
		return unexpected(m.Kind.String())
	}
	s.conn.Load().flow.Lag = time.Duration(m.sent-f.committed) * time.Microsecond
	if f.old {
		return nil
	}
	if f.transactions && !f.begun {
		if err := f.announce(s, m); err != nil {
			return err
		}
	}
	f.at.add(b)
	return f.pass(s, m)
}

// announce delivers the Begin, if those are asked for: not at once, for the transaction's origin follows it.
func (f *changes) announce(s *Stream, m *Message) error {
	f.begun = true
	begin := &Message{Kind: Begin, LSN: f.tx.CommitLSN, sent: m.sent}
	return f.pass(s, begin)
}

// pass delivers the message at f.at, unless it belongs to what was delivered of the transaction before.
func (f *changes) pass(s *Stream, m *Message) error {
	if f.at.ordinal <= f.skip.ordinal {
		if f.at.ordinal == f.skip.ordinal && f.at.hash != f.skip.hash && !f.point.IsBare() {
			return f.again(s)
		}
		return nil
	}
	m.Tx, m.Ordinal, m.hash = f.tx, f.at.ordinal, f.at.hash
	if !f.checkpoints || f.transactions {
		return f.hand(s, m)
	}
	if f.keeping {
		if err := f.hand(s, f.kept()); err != nil {
			return err
		}
	}
	if scratch := &f.msgs[f.turn]; m != scratch {
		*scratch = *m
	}
	f.turn, f.keeping = 1-f.turn, true
	return nil
}

func (f *changes) kept() *Message { return &f.msgs[1-f.turn] }

// hand delivers a message of the transaction.
func (f *changes) hand(s *Stream, m *Message) error {
	if err := s.deliver(m); err != nil {
		return err
	}
	if f.fresh {
		f.fresh = false
		f.point = resume.Point{Through: f.tx.before, Commit: f.tx.CommitLSN, XID: f.tx.XID, Time: f.committed, Prepared: f.tx.prepared}
	}
	f.point.Ordinal, f.point.Hash = m.Ordinal, m.hash
	if f.checkpoints && m.ext != nil {
		if end := m.end(); end != 0 {
			at := resume.Place{Source: f.origin, Point: f.point}
			at.Through, at.Message = end, 0
			s.ledger.MarkAt(at)
		}
	}
	return nil
}

// handLast delivers the change that was kept, now that it is known to be the transaction's last.
func (f *changes) handLast(s *Stream, end LSN) error {
	if !f.keeping {
		return nil
	}
	f.keeping = false
	m := f.kept()
	switch x := m.ext.(type) {
	case nil:
		if len(f.ends) == cap(f.ends) {
			f.ends = make([]lastEnd, 0, 64)
		}
		f.ends = append(f.ends, lastEnd(end))
		m.ext = &f.ends[len(f.ends)-1]
	case *truncation:
		x.end = end
	case *logicalMessage:
		x.end = end
	}
	return f.hand(s, m)
}

// end closes the transaction, with a message that says so if its Begin was delivered; the outcome of a prepared one always is.
func (f *changes) end(s *Stream, m *Message, ev *pgoutput.Event, kind Kind) error {
	switch {
	case f.tx == nil:
		return unexpected(kind.String())
	case LSN(ev.LSN) != f.tx.CommitLSN:
		return unexpected(kind.String() + " of another transaction")
	case !f.old && f.at.ordinal < f.skip.ordinal && !f.point.IsBare():
		return f.again(s)
	}
	// Servers before version 15 send transactions without changes, too: they are not delivered.
	if (f.begun || kind == CommitPrepared) && !f.old {
		m.Kind, m.ext, m.LSN = kind, LSN(ev.End), LSN(ev.LSN)
		if err := f.mark(s, m); err != nil {
			return err
		}
	}
	if err := f.handLast(s, LSN(ev.End)); err != nil {
		return err
	}
	f.tx = nil
	f.received(s, LSN(ev.End), false)
	return nil
}

// received notes that everything up to a position was received and delivered. single says that it is the end of a message outside of
// transactions.
func (f *changes) received(s *Stream, lsn LSN, single bool) {
	f.ended = max(f.ended, lsn)
	if lsn > f.point.Through {
		f.point.Through = lsn
	}
	if single {
		f.point.Message = lsn
	}
	s.received(lsn)
}

// resume sets what was delivered before the stream began.
func (f *changes) resume(p resume.Point) {
	f.point, f.ended = p, p.Message
}

// rewind takes back a position that only a keepalive had: in the history of the server that continues there may be transactions
// before it. limit is one that this server has itself.
func (f *changes) rewind(limit LSN) {
	p := &f.point
	kept := max(limit, f.ended, p.Commit)
	if p.HasTransaction() && p.IsComplete() {
		kept = max(kept, p.Commit+1)
	}
	p.Through = min(p.Through, kept)
}

// mark delivers a message of the transaction that is no change.
func (f *changes) mark(s *Stream, m *Message) error {
	f.at.add(nil)
	return f.pass(s, m)
}

// single delivers a message that is sent by itself. Its LSN is the end of its record.
func (f *changes) single(s *Stream, m *Message) error {
	if err := f.witness(s, m.LSN, nil); err != nil {
		return err
	}
	if m.LSN <= max(f.ended, f.point.Commit) {
		return nil
	}
	if m.LSN > s.until {
		return errEnded
	}
	at := f.here()
	at.Through, at.Message = max(at.Through, m.LSN), m.LSN
	if l, ok := m.ext.(*logicalMessage); ok {
		l.at = at
	} else {
		m.ext = at
	}
	if err := s.deliver(m); err != nil {
		return err
	}
	if f.checkpoints {
		s.ledger.MarkAt(*at)
	}
	f.received(s, m.LSN, true)
	return nil
}

// again has the transaction delivered once more, from its beginning, over a new connection.
func (f *changes) again(s *Stream) error {
	s.cfg.log.Warn("the server sends a transaction differently than before (was a publication altered, or is it another list?): it is delivered again as a whole",
		"slot", s.source.Slot, "xid", f.tx.XID, "commit", f.tx.CommitLSN, "delivered", f.point.Ordinal, "sent", f.at.ordinal)
	f.anew = f.tx.CommitLSN
	f.point.Ordinal, f.point.Hash = 0, 0
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
