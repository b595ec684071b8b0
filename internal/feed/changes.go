package feed

import (
	"sync/atomic"

	"github.com/walchan/walchan/internal/backfill"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/txn"
	"github.com/walchan/walchan/wal"
)

// Changes is the feed of pgoutput.
//
// After a reconnect, and after a checkpoint, the server sends every unconfirmed transaction again. What was delivered is recognised by
// position: a transaction is old if its commit LSN lies before that of the last one. The last one may have been delivered in part. As many
// of its messages are skipped as were delivered, if their hash is the same. With other publications than before, the server may send it as
// something else. Counting would then lose a row, so the transaction is delivered again as a whole.
type Changes struct {
	transactions bool
	checkpoints  bool
	reading      *atomic.Pointer[backfill.Notes]

	in      txn.Assembler
	source  *resume.Source
	flow    *link.Flow
	until   wal.LSN
	made    made
	done    ready
	current current

	point resume.Point // what was delivered before the transaction that is coming
	ended wal.LSN      // end of the last entry that was received as a whole
	anew  wal.LSN      // commit LSN of the transaction that is to be delivered again
	trial *Trial       // until the server's history is known to be that of point; nil: it is
}

// Options are those of Changes.
type Options struct {
	Transactions bool // a Begin and a Commit enclose the changes of a transaction
	Checkpoints  bool // the last message of a transaction says that it is the last one
	Parallel     bool // see pgoutput.Decoder
	Store        txn.Store
	Reading      *atomic.Pointer[backfill.Notes] // of the call of ReadRows that is at work
}

// made is where items and what they point to come from.
type made struct {
	txs  uint64    // how many transactions there were
	ends []LastEnd // a slab: transactions are mostly small, and their messages keep these

	// The newest change of a transaction is kept until it is known whether it is the last one, because its checkpoint says so. With
	// Transactions no change is kept, because the Commit carries the end.
	items   [2]Item // scratch for two items: items[turn] is taken in, the other one is kept
	turn    int
	keeping bool
	begin   Item         // scratch
	place   resume.Place // likewise
}

// ready is what the stream is still to do before more is taken in.
type ready struct {
	event *txn.Event // to be taken in once more; nil: none
	asked bool       // the server, for the last transaction
	alive wal.LSN    // of a keepalive; 0: none
	items [2]*Item
	count int // of them
	next  int // the one that is delivered next

	// After them:
	end    wal.LSN       // what has ended there; 0: nothing
	single bool          // that was a message outside of transactions
	place  *resume.Place // its checkpoint says that; nil: it has none
}

// NewChanges returns the feed of a stream of which nothing was delivered.
func NewChanges(o Options) *Changes {
	return &Changes{
		transactions: o.Transactions,
		checkpoints:  o.Checkpoints,
		reading:      o.Reading,
		in:           txn.Assembler{Decoder: pgoutput.Decoder{Parallel: o.Parallel}, Store: o.Store},
	}
}

// Connected begins with a connection. The server describes tables anew on it, and begins with a transaction.
func (f *Changes) Connected(b Beginning) {
	f.in.Begin(b.From)
	f.source, f.flow, f.until = b.Source, b.Flow, b.Until
	f.current, f.done = current{}, ready{}
	f.made.keeping = false
}

// Disconnected ends with a connection.
func (f *Changes) Disconnected() {
	f.in.Drop()
	f.leave()
}

// Held returns how many bytes are kept of transactions that are not complete.
func (f *Changes) Held() int64 { return f.in.Store.Size() }

// Next takes in a frame, or goes on.
func (f *Changes) Next(frame *session.Frame, t *Turn) (a Act, err error) {
	switch {
	case frame != nil && !frame.Keepalive:
		ev, data, failed := f.in.Take(frame.Start, frame.SentAt, frame.Data)
		if ev == nil || failed != nil {
			return NextFrame, failed
		}
		a, err = f.take(t, ev, data)
	case frame != nil:
		f.done.alive = frame.End
		a, err = f.keepalive(t)
	default:
		a, err = f.goOn(t)
	}
	for a == NextFrame && err == nil {
		switch d := &f.done; {
		case d.next < d.count:
			return f.hand(t)
		case d.end != 0:
			return f.close(t)
		case !f.in.HasMore():
			return NextFrame, nil
		}
		ev, data, failed := f.in.Next()
		if ev == nil || failed != nil {
			return NextFrame, failed
		}
		a, err = f.take(t, ev, data)
	}
	return a, err
}

// goOn goes on once the stream has done what it was asked for.
func (f *Changes) goOn(t *Turn) (Act, error) {
	d := &f.done
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
	return NextFrame, nil
}

// hand has the stream deliver the next item.
func (f *Changes) hand(t *Turn) (Act, error) {
	d := &f.done
	m := d.items[d.next]
	if d.next++; d.next == d.count {
		d.next, d.count = 0, 0
	}
	return f.give(t, m)
}

func (f *Changes) push(m *Item) {
	f.done.items[f.done.count] = m
	f.done.count++
}

// keepalive takes in how far the server has come, between two transactions.
func (f *Changes) keepalive(t *Turn) (Act, error) {
	if a, err := f.witness(t, f.done.alive, nil, nil); a != NextFrame || err != nil {
		return a, err
	}
	t.Received, f.done.alive = f.done.alive, 0
	if f.TakesProgress() {
		return IsBetween, nil
	}
	return NextFrame, nil
}

// TakesProgress says whether a Progress may be delivered: the stream has checkpoints, and is between two transactions.
func (f *Changes) TakesProgress() bool { return f.checkpoints && !f.current.open && f.trial == nil }

// take takes in what comes next.
func (f *Changes) take(t *Turn, ev *txn.Event, data []byte) (Act, error) {
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
		t.Table = ev.Table
		return Describe, nil
	case txn.Prepared:
		if !f.current.begun || f.current.old {
			f.current.at.add(nil) // ordinals do not depend on options
			return NextFrame, nil
		}
		m := f.item(ev)
		m.Kind, m.LSN = Prepare, wal.LSN(ev.LSN)
		f.current.at.add(nil)
		return f.pass(t, m)
	}
	return Breathe, nil
}

// item returns scratch for the item that is taken in.
func (f *Changes) item(ev *txn.Event) *Item {
	m := &f.made.items[f.made.turn]
	*m = Item{LSN: ev.At, Sent: ev.SentAt}
	return m
}

// row is item for a row. It does not clear the scratch, which mostly has a row of the same table: pass sets the rest.
func (f *Changes) row(ev *txn.Event) *Item {
	m := &f.made.items[f.made.turn]
	m.Kind, m.LSN, m.Sent, m.Split, m.Data = rows[ev.Type], ev.At, ev.SentAt, ev.Split, ev.Block
	if m.Table != ev.Table {
		m.Table = ev.Table
	}
	if m.Ext != nil {
		m.Ext = nil
	}
	return m
}

// rows are the kinds of rows.
var rows = [256]Kind{pgoutput.Insert: Insert, pgoutput.Update: Update, pgoutput.Delete: Delete}

func (f *Changes) within(t *Turn, ev *txn.Event, data []byte) (Act, error) {
	var m *Item
	switch ev.Type {
	case pgoutput.Insert, pgoutput.Update, pgoutput.Delete:
		m = f.row(ev)
	case pgoutput.Truncate:
		m = f.item(ev)
		m.Kind, m.Ext = Truncate, &Truncation{Tables: ev.Tables, Cascade: ev.Flags&1 != 0, Restart: ev.Flags&2 != 0}
	case pgoutput.Message:
		m = f.item(ev)
		f.emitted(m, ev)
		if ev.Name == backfill.Prefix {
			return f.piece(t, m)
		}
		return f.change(t, m, data)
	default: // pgoutput.Origin
		f.current.tx.Origin = ev.Name
		return NextFrame, nil
	}
	if x := f.reading.Load(); x != nil {
		x.Note(ev, f.current.tx.XID)
	}
	return f.change(t, m, data)
}

func (f *Changes) emitted(m *Item, ev *txn.Event) {
	m.Kind, m.Ext, m.Data, m.LSN = LogicalMessage, &Emitted{Prefix: ev.Name}, ev.Content, wal.LSN(ev.LSN)
}

// piece is for a mark of ReadRows.
func (f *Changes) piece(t *Turn, mark *Item) (Act, error) {
	if f.reading.Load() == nil {
		return NextFrame, nil
	}
	t.Item, t.Place = mark, f.Here()
	return DeliverPiece, nil
}

// Here is what the checkpoint of a message outside of transactions says.
func (f *Changes) Here() *resume.Place { return &resume.Place{Source: f.source, Point: f.Delivered()} }

// alone delivers a message that is sent by itself. Its LSN is the end of its record.
func (f *Changes) alone(t *Turn, ev *txn.Event) (Act, error) {
	m := f.item(ev)
	if ev.Type == pgoutput.RollbackPrepared { // it has no position of its record, only that of its end
		m.Kind, m.LSN = RollbackPrepared, wal.LSN(ev.End)
		m.Tx = f.newTx(ev, m.LSN)
	} else {
		f.emitted(m, ev)
		if ev.Name == backfill.Prefix {
			return f.piece(t, m)
		}
	}
	if a, err := f.witness(t, m.LSN, nil, ev); a != NextFrame || err != nil {
		return a, err
	}
	switch {
	case m.LSN <= max(f.ended, f.point.Commit):
		return NextFrame, nil
	case m.LSN > f.until:
		t.Received = 0
		return Finish, nil
	}
	at := f.Here()
	at.Through, at.Message = max(at.Through, m.LSN), m.LSN
	if x, ok := m.Ext.(*Emitted); ok {
		x.At = at
	} else {
		m.Ext = at
	}
	f.push(m)
	f.done.end, f.done.single = m.LSN, true
	if f.checkpoints {
		f.done.place = at
	}
	return NextFrame, nil
}

// Resume sets what was delivered before the stream begins.
func (f *Changes) Resume(p resume.Point) {
	f.point, f.ended = p, p.Message
}

// Rewind takes back a position that only a keepalive had: in the history of the server that continues there may be transactions
// before it. limit is one that this server has itself.
func (f *Changes) Rewind(limit wal.LSN) {
	p := &f.point
	kept := max(limit, f.ended, p.Commit)
	if p.HasTransaction() && p.IsComplete() {
		kept = max(kept, p.Commit+1)
	}
	p.Through = min(p.Through, kept)
}

// Certain returns the highest position that lies in the history of what was delivered for certain. A keepalive's position may not.
func (f *Changes) Certain() wal.LSN { return max(f.ended, f.Delivered().Commit) }
