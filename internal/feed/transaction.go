package feed

import (
	"fmt"
	"time"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/txn"
	"github.com/walchan/walchan/wal"
)

// current is the transaction that is coming.
type current struct {
	tx    Tx
	open  bool     // it has begun, and not ended
	begun bool     // an item of it was to be delivered, with Options.Transactions
	fresh bool     // nothing of it was delivered before
	old   bool     // it was delivered before, wholly
	at    progress // as the server sends it
	skip  progress // up to which it was delivered before
	given progress // what was delivered of it now; zero: nothing
	was   progress // given, before the last message
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

func (f *Changes) begin(t *Turn, ev *txn.Event) (Act, error) {
	lsn := wal.LSN(ev.LSN)
	if f.trial != nil {
		if a, err := f.witness(t, lsn, ev, ev); a != NextFrame || err != nil {
			return a, err
		}
	}
	if lsn >= f.until {
		t.Received = f.until // the slot is to come there, too, beyond changes that nobody was sent
		return Finish, nil
	}
	tx := f.newTx(ev, lsn)
	tx.Redelivered, tx.Prepared = lsn == f.anew, ev.AtPrepare
	x := &f.current
	x.open, x.begun, x.old, x.fresh = true, false, f.point.Covers(lsn), lsn != f.point.Commit || f.point.IsBare()
	x.at, x.skip, x.given = progress{ordinal: 1}, progress{}, progress{}
	if ev.Bare {
		x.at.ordinal = 0
	}
	if lsn == f.point.Commit {
		x.skip = progress{f.point.Ordinal, f.point.Hash}
	}
	return NextFrame, nil
}

// newTx notes which transaction is coming, or was rolled back.
func (f *Changes) newTx(ev *txn.Event, commit wal.LSN) *Tx {
	f.made.txs++
	tx := &f.current.tx // field by field: a literal would be made beside it and copied
	tx.Number, tx.XID, tx.GID, tx.Commit, tx.Time = f.made.txs, ev.XID, ev.Name, commit, ev.Time
	tx.Origin, tx.Redelivered, tx.Prepared = "", false, false
	tx.Before, tx.Source = min(f.point.Through, commit), f.source
	return tx
}

// change delivers an item of the transaction, unless it was delivered before.
func (f *Changes) change(t *Turn, m *Item, b []byte) (Act, error) {
	x := &f.current
	f.flow.Lag = time.Duration(m.Sent-x.tx.Time) * time.Microsecond
	if x.old {
		return NextFrame, nil
	}
	if f.transactions && !x.begun { // not at once, because the transaction's origin comes between
		x.begun = true
		begin := &f.made.begin
		*begin = Item{Kind: Begin, LSN: x.tx.Commit, Sent: m.Sent}
		if x.skip.ordinal == 0 {
			begin.Tx, begin.Ordinal = &x.tx, 1
			f.push(begin)
		}
	}
	x.at.add(b)
	return f.pass(t, m)
}

// pass has the item delivered, unless it belongs to what was delivered of the transaction before.
func (f *Changes) pass(t *Turn, m *Item) (Act, error) {
	x := &f.current
	if x.at.ordinal <= x.skip.ordinal {
		if x.at.ordinal == x.skip.ordinal && x.at.hash != x.skip.hash && !f.point.IsBare() {
			return f.again(t)
		}
		return NextFrame, nil
	}
	if m.Tx == nil {
		m.Tx = &x.tx
	}
	m.Ordinal, m.Hash = x.at.ordinal, x.at.hash
	if f.checkpoints && !f.transactions {
		if m = f.made.keep(); m == nil {
			return NextFrame, nil
		}
	}
	if f.done.count > 0 {
		f.push(m)
		return NextFrame, nil
	}
	return f.give(t, m)
}

// keep keeps the item that is taken in until the next one comes, or the end. It returns the one that was kept; nil: there was none.
func (w *made) keep() (was *Item) {
	if w.keeping {
		was = w.kept()
	}
	w.turn, w.keeping = 1-w.turn, true
	return was
}

// letGo lets large rows go, which the scratch would keep for as long as the stream is quiet.
func (w *made) letGo() {
	for i := range w.items {
		if len(w.items[i].Data) > 64<<10 {
			w.items[i] = Item{}
		}
	}
}

func (w *made) kept() *Item { return &w.items[1-w.turn] }

// give has an item delivered, and notes that the consumer has it.
func (f *Changes) give(t *Turn, m *Item) (Act, error) {
	if t.Item != m {
		t.Item = m
	}
	x := &f.current
	if !x.open {
		return Deliver, nil // close notes it
	}
	x.was, x.given = x.given, progress{m.Ordinal, m.Hash}
	if f.checkpoints && m.Ext != nil {
		if end := EndOf(m.Ext); end != 0 {
			f.done.place = &f.made.place
			*f.done.place = resume.Place{Source: f.source, Point: f.Delivered()}
			f.done.place.Through, f.done.place.Message = end, 0
		}
	}
	if f.done.count == 0 && f.done.end == 0 && !f.in.HasMore() {
		return DeliverLast, nil
	}
	return Deliver, nil
}

// TakeBack: the consumer has not got the item that was given last.
func (f *Changes) TakeBack() {
	f.current.given = f.current.was
	f.done.place = nil
}

// Delivered is point, with what was delivered of the transaction that is coming.
func (f *Changes) Delivered() resume.Point {
	p, x := f.point, &f.current
	if x.given == (progress{}) {
		return p
	}
	if x.fresh {
		p = resume.Point{Through: x.tx.Before, Commit: x.tx.Commit, XID: x.tx.XID, Time: x.tx.Time, Prepared: x.tx.Prepared}
	}
	p.Ordinal, p.Hash = x.given.ordinal, x.given.hash
	return p
}

// leave has point say what was delivered of the transaction that is coming: it is over, or will come again.
func (f *Changes) leave() {
	x := &f.current
	if x.given != (progress{}) {
		f.point = f.Delivered()
	}
	x.open, x.given, x.was = false, progress{}, progress{}
}

// Moved notes that a Progress was delivered, also in the midst of a transaction.
func (f *Changes) Moved(p resume.Point) { f.point, f.current.fresh = p, false }

// pushLast has the change delivered that was kept, now that it is known to be the transaction's last.
func (f *Changes) pushLast(end wal.LSN) {
	w := &f.made
	if !w.keeping {
		return
	}
	w.keeping = false
	m := w.kept()
	switch x := m.Ext.(type) {
	case nil:
		if len(w.ends) == cap(w.ends) {
			w.ends = make([]LastEnd, 0, 64)
		}
		w.ends = append(w.ends, LastEnd(end))
		m.Ext = &w.ends[len(w.ends)-1]
	case *Truncation:
		x.End = end
	case *Emitted:
		x.End = end
	}
	f.push(m)
}

// end closes the transaction, with an item that says so if its Begin was delivered; the outcome of a prepared one always is.
func (f *Changes) end(t *Turn, ev *txn.Event) (Act, error) {
	x, kind := &f.current, Commit
	switch ev.Type {
	case pgoutput.Prepare, pgoutput.StreamPrepare:
		kind = Prepare
	case pgoutput.CommitPrepared:
		kind = CommitPrepared
	}
	switch {
	case wal.LSN(ev.LSN) != x.tx.Commit:
		return NextFrame, pgfail.Unexpected(fmt.Sprintf("message %q of another transaction", ev.Type))
	case !x.old && x.at.ordinal < x.skip.ordinal && !f.point.IsBare():
		return f.again(t)
	}
	// Servers before version 15 send transactions without changes, too: they are not delivered.
	f.done.end = wal.LSN(ev.End)
	a, err := NextFrame, error(nil)
	if (x.begun || kind == CommitPrepared) && !x.old {
		m := f.item(ev)
		m.Kind, m.Ext, m.LSN = kind, wal.LSN(ev.End), wal.LSN(ev.LSN)
		x.at.add(nil)
		a, err = f.pass(t, m)
	}
	f.pushLast(wal.LSN(ev.End))
	return a, err
}

// again has the transaction delivered once more.
func (f *Changes) again(t *Turn) (Act, error) {
	x := &f.current
	t.Details = []any{"xid", x.tx.XID, "commit", x.tx.Commit.String(), "delivered", f.point.Ordinal, "sent", x.at.ordinal}
	f.anew = x.tx.Commit
	f.point.Ordinal, f.point.Hash = 0, 0
	return Repeat, nil
}

// close ends a transaction, or what stands outside of transactions, of which everything was delivered.
func (f *Changes) close(t *Turn) (Act, error) {
	d := &f.done
	lsn, place := d.end, d.place
	f.leave()
	f.ended = max(f.ended, lsn)
	f.point.Through = max(f.point.Through, lsn)
	if d.single {
		f.point.Message = lsn
	}
	d.end, d.place, d.single = 0, nil, false
	f.made.letGo()
	confirm := lsn
	if place != nil {
		confirm = place.Through
	}
	return t.settled(lsn, confirm, place)
}
