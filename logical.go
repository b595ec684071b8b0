package walchan

import (
	"sync/atomic"

	"github.com/walchan/walchan/internal/backfill"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/txn"
	"github.com/walchan/walchan/internal/value"
)

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
	types        *value.Types
	reading      *atomic.Pointer[backfill.Notes] // the stream's

	in      txn.Assembler
	origin  *resume.Source
	flow    *link.Flow
	until   LSN
	made    made
	done    ready
	current current

	point resume.Point // what was delivered before the transaction that is coming
	ended LSN          // end of the last entry that was received as a whole
	anew  LSN          // commit LSN of the transaction that is to be delivered again
	trial *trial       // until the server's history is known to be that of point; nil: it is
}

// made is where messages and what they point to come from.
type made struct {
	relation *Relation  // most rows are of the table of the row before
	table    *txn.Table // its
	tables   int        // described over this connection
	txs      []Tx       // a slab: transactions are mostly small, and their messages keep them
	ends     []lastEnd  // likewise

	// The newest change of a transaction is kept until it is known whether it is the last one, because its checkpoint says so. With
	// WithTransactions no change is kept, because the Commit carries the end.
	msgs    [2]Message // scratch for two messages: msgs[turn] is taken in, the other one is kept
	turn    int
	keeping bool
	begin   Message      // scratch
	place   resume.Place // likewise
}

// ready is what the stream is still to do before more is taken in.
type ready struct {
	event    *txn.Event // to be taken in once more; nil: none
	asked    bool       // the server, for the last transaction
	table    *txn.Table // its types are looked up; nil: none
	alive    LSN        // of a keepalive; 0: none
	messages [2]*Message
	count    int // of them
	next     int // the one that is delivered next

	// After them:
	end    LSN           // what has ended there; 0: nothing
	single bool          // that was a message outside of transactions
	place  *resume.Place // its checkpoint says that; nil: it has none
}

func newChanges(cfg *config, types *value.Types, reading *atomic.Pointer[backfill.Notes]) *changes {
	return &changes{
		transactions: cfg.transactions,
		checkpoints:  cfg.checkpoints,
		types:        types,
		reading:      reading,
		in: txn.Assembler{
			Decoder: pgoutput.Decoder{Parallel: pgoutput.IsParallel(cfg.pgoutputArgs())},
			Store:   txn.Store{Limit: cfg.spoolMemory, Dir: cfg.spoolDir},
		},
	}
}

// connected: the server describes tables anew on each connection, and begins with a transaction.
func (f *changes) connected(b beginning) {
	f.in.Begin(b.from)
	f.origin, f.flow, f.until = b.origin, b.flow, b.until
	f.current, f.done = current{}, ready{}
	f.made.keeping, f.made.table, f.made.tables = false, nil, 0
}

func (f *changes) disconnected() {
	f.in.Drop()
	f.leave()
}

func (f *changes) held() int64 { return f.in.Store.Size() }

func (f *changes) next(frame *session.Frame, t *turn) (a act, err error) {
	switch {
	case frame != nil && !frame.Keepalive:
		ev, data, failed := f.in.Take(frame.Start, frame.SentAt, frame.Data)
		if ev == nil || failed != nil {
			return nextFrame, failed
		}
		a, err = f.take(t, ev, data)
	case frame != nil:
		f.done.alive = frame.End
		a, err = f.keepalive(t)
	default:
		a, err = f.goOn(t)
	}
	for a == nextFrame && err == nil {
		switch d := &f.done; {
		case d.next < d.count:
			return f.hand(t)
		case d.end != 0:
			return f.close(t)
		case !f.in.HasMore():
			return nextFrame, nil
		}
		ev, data, failed := f.in.Next()
		if ev == nil || failed != nil {
			return nextFrame, failed
		}
		a, err = f.take(t, ev, data)
	}
	return a, err
}

// goOn goes on once the stream has done what it was asked for.
func (f *changes) goOn(t *turn) (act, error) {
	d := &f.done
	if d.table != nil {
		f.bind(d.table)
		d.table = nil
	}
	if d.asked {
		f.acquit()
	}
	switch ev := d.event; {
	case d.alive != 0:
		return f.keepalive(t)
	case ev != nil:
		d.event = nil
		return f.take(t, ev, nil) // what begins or stands alone, and has no hash
	}
	return nextFrame, nil
}

// hand has the stream deliver the next message.
func (f *changes) hand(t *turn) (act, error) {
	d := &f.done
	m := d.messages[d.next]
	if d.next++; d.next == d.count {
		d.next, d.count = 0, 0
	}
	return f.give(t, m)
}

func (f *changes) push(m *Message) {
	f.done.messages[f.done.count] = m
	f.done.count++
}

// keepalive takes in how far the server has come, between two transactions.
func (f *changes) keepalive(t *turn) (act, error) {
	if a, err := f.witness(t, f.done.alive, nil, nil); a != nextFrame || err != nil {
		return a, err
	}
	t.received, f.done.alive = f.done.alive, 0
	if f.checkpoints && f.current.tx == nil && f.trial == nil {
		return isBetween, nil
	}
	return nextFrame, nil
}

// take takes in what comes next.
func (f *changes) take(t *turn, ev *txn.Event, data []byte) (act, error) {
	switch ev.Step {
	case txn.Within:
		return f.within(t, ev, data)
	case txn.Begins:
		return f.begin(t, ev)
	case txn.Ends:
		return f.end(t, ev)
	case txn.Alone:
		return f.alone(t, ev)
	case txn.Describes:
		return f.describe(t, ev.Table)
	case txn.Prepared:
		if !f.current.begun || f.current.old {
			f.current.at.add(nil) // ordinals do not depend on options
			return nextFrame, nil
		}
		m := f.message(ev)
		m.Kind, m.LSN = Prepare, LSN(ev.LSN)
		f.current.at.add(nil)
		return f.pass(t, m)
	}
	return breathe, nil
}

// message returns scratch for the message that is taken in.
func (f *changes) message(ev *txn.Event) *Message {
	m := &f.made.msgs[f.made.turn]
	*m = Message{LSN: ev.At, sent: ev.SentAt}
	return m
}

// row is message for a row. It does not clear the scratch, which mostly has a row of the same table: pass sets the rest.
func (f *changes) row(ev *txn.Event) *Message {
	w := &f.made
	if ev.Table != w.table {
		w.table, w.relation = ev.Table, ev.Table.Owner.(*Relation)
	}
	m := &w.msgs[w.turn]
	m.Kind = Insert + Kind(btoi(ev.Type == pgoutput.Update)+2*btoi(ev.Type == pgoutput.Delete))
	m.LSN, m.sent, m.data, m.split = ev.At, ev.SentAt, ev.Block, ev.Split
	if m.Relation != w.relation {
		m.Relation = w.relation
	}
	if m.ext != nil {
		m.ext = nil
	}
	return m
}

func (f *changes) within(t *turn, ev *txn.Event, data []byte) (act, error) {
	var m *Message
	switch ev.Type {
	case pgoutput.Insert, pgoutput.Update, pgoutput.Delete:
		m = f.row(ev)
	case pgoutput.Truncate:
		m = f.message(ev)
		x := &truncation{cascade: ev.Flags&1 != 0, restart: ev.Flags&2 != 0}
		for _, table := range ev.Tables {
			x.tables = append(x.tables, table.Owner.(*Relation))
		}
		m.Kind, m.ext = Truncate, x
	case pgoutput.Message:
		m = f.message(ev)
		f.logicalMessage(m, ev)
		if ev.Name == backfill.Prefix {
			return f.piece(t, m)
		}
		return f.change(t, m, data)
	default: // pgoutput.Origin
		f.current.tx.Origin = ev.Name
		return nextFrame, nil
	}
	if x := f.reading.Load(); x != nil {
		x.Note(ev, f.current.tx.XID)
	}
	return f.change(t, m, data)
}

func (f *changes) logicalMessage(m *Message, ev *txn.Event) {
	m.Kind, m.ext, m.data, m.LSN = LogicalMessage, &logicalMessage{prefix: ev.Name}, ev.Content, LSN(ev.LSN)
}

// piece is for a mark of ReadRows.
func (f *changes) piece(t *turn, mark *Message) (act, error) {
	if f.reading.Load() == nil {
		return nextFrame, nil
	}
	t.message, t.place = mark, f.here()
	return deliverPiece, nil
}

// here is what the checkpoint of a message outside of transactions says.
func (f *changes) here() *resume.Place { return &resume.Place{Source: f.origin, Point: f.delivered()} }

// alone delivers a message that is sent by itself. Its LSN is the end of its record.
func (f *changes) alone(t *turn, ev *txn.Event) (act, error) {
	m := f.message(ev)
	if ev.Type == pgoutput.RollbackPrepared { // it has no position of its record, only that of its end
		m.Kind, m.LSN = RollbackPrepared, LSN(ev.End)
		m.Tx = f.newTx(ev)
		m.Tx.CommitLSN = LSN(ev.End)
	} else {
		f.logicalMessage(m, ev)
		if ev.Name == backfill.Prefix {
			return f.piece(t, m)
		}
	}
	if a, err := f.witness(t, m.LSN, nil, ev); a != nextFrame || err != nil {
		return a, err
	}
	switch {
	case m.LSN <= max(f.ended, f.point.Commit):
		return nextFrame, nil
	case m.LSN > f.until:
		t.received = 0
		return finish, nil
	}
	at := f.here()
	at.Through, at.Message = max(at.Through, m.LSN), m.LSN
	if l, ok := m.ext.(*logicalMessage); ok {
		l.at = at
	} else {
		m.ext = at
	}
	f.push(m)
	f.done.end, f.done.single = m.LSN, true
	if f.checkpoints {
		f.done.place = at
	}
	return nextFrame, nil
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
