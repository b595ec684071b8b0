package walchan

import (
	"errors"
	"time"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/pgtime"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/txn"
)

// current is the transaction that is coming.
type current struct {
	tx        *Tx // nil between transactions
	begun     bool
	fresh     bool     // nothing of it was delivered before
	old       bool     // it was delivered before, wholly
	committed int64    // when, microseconds since 2000-01-01 UTC
	at        progress // as the server sends it
	skip      progress // up to which it was delivered before
	given     progress // what was delivered of it now; zero: nothing
	was       progress // given, before the last message
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

func (f *changes) begin(t *turn, ev *txn.Event) (act, error) {
	lsn := LSN(ev.LSN)
	if f.trial != nil {
		if a, err := f.witness(t, lsn, ev, ev); a != nextFrame || err != nil {
			return a, err
		}
	}
	if lsn >= f.until {
		t.received = f.until // the slot is to come there, too, beyond changes that nobody was sent
		return finish, nil
	}
	tx := f.newTx(ev)
	tx.Redelivered = lsn == f.anew
	tx.prepared = ev.AtPrepare
	x := &f.current
	x.tx, x.committed = tx, ev.Time
	x.begun, x.old, x.fresh = false, f.point.Covers(lsn), lsn != f.point.Commit || f.point.IsBare()
	x.at, x.skip, x.given = progress{ordinal: 1}, progress{}, progress{}
	if ev.Bare {
		x.at.ordinal = 0
	}
	if lsn == f.point.Commit {
		x.skip = progress{f.point.Ordinal, f.point.Hash}
	}
	return nextFrame, nil
}

func (f *changes) newTx(ev *txn.Event) *Tx {
	w := &f.made
	if len(w.txs) == cap(w.txs) {
		w.txs = make([]Tx, 0, 64)
	}
	w.txs = w.txs[:len(w.txs)+1]
	tx := &w.txs[len(w.txs)-1] // zero
	tx.XID, tx.GID, tx.CommitLSN, tx.CommitTime = ev.XID, ev.Name, LSN(ev.LSN), pgtime.Time(ev.Time)
	tx.origin, tx.before = f.origin, min(f.point.Through, tx.CommitLSN)
	return tx
}

// change delivers a message of the transaction, unless it was delivered before.
func (f *changes) change(t *turn, m *Message, b []byte) (act, error) {
	x := &f.current
	f.flow.Lag = time.Duration(m.sent-x.committed) * time.Microsecond
	if x.old {
		return nextFrame, nil
	}
	if f.transactions && !x.begun { // not at once, because the transaction's origin comes between
		x.begun = true
		begin := &f.made.begin
		*begin = Message{Kind: Begin, LSN: x.tx.CommitLSN, sent: m.sent}
		if x.skip.ordinal == 0 {
			begin.Tx, begin.Ordinal = x.tx, 1
			f.push(begin)
		}
	}
	x.at.add(b)
	return f.pass(t, m)
}

// pass has the message delivered, unless it belongs to what was delivered of the transaction before.
func (f *changes) pass(t *turn, m *Message) (act, error) {
	x := &f.current
	if x.at.ordinal <= x.skip.ordinal {
		if x.at.ordinal == x.skip.ordinal && x.at.hash != x.skip.hash && !f.point.IsBare() {
			return f.again(t)
		}
		return nextFrame, nil
	}
	m.Tx, m.Ordinal, m.hash = x.tx, x.at.ordinal, x.at.hash
	if f.checkpoints && !f.transactions {
		if m = f.made.keep(); m == nil {
			return nextFrame, nil
		}
	}
	if f.done.count > 0 {
		f.push(m)
		return nextFrame, nil
	}
	return f.give(t, m)
}

// keep keeps the message that is taken in until the next one comes, or the end. It returns the one that was kept; nil: there was none.
func (w *made) keep() (was *Message) {
	if w.keeping {
		was = w.kept()
	}
	w.turn, w.keeping = 1-w.turn, true
	return was
}

// letGo lets large rows go, which the scratch would keep for as long as the stream is quiet.
func (w *made) letGo() {
	for i := range w.msgs {
		if len(w.msgs[i].data) > 64<<10 {
			w.msgs[i] = Message{}
		}
	}
}

func (w *made) kept() *Message { return &w.msgs[1-w.turn] }

// give has a message delivered, and notes that the consumer has it.
func (f *changes) give(t *turn, m *Message) (act, error) {
	t.message = m
	x := &f.current
	if x.tx == nil {
		return deliver, nil // close notes it
	}
	x.was, x.given = x.given, progress{m.Ordinal, m.hash}
	if f.checkpoints && m.ext != nil {
		if end := m.end(); end != 0 {
			f.done.place = &f.made.place
			*f.done.place = resume.Place{Source: f.origin, Point: f.delivered()}
			f.done.place.Through, f.done.place.Message = end, 0
		}
	}
	if f.done.count == 0 && f.done.end == 0 && !f.in.HasMore() {
		return deliverLast, nil
	}
	return deliver, nil
}

// takeBack: the consumer has not got it.
func (f *changes) takeBack() {
	f.current.given = f.current.was
	f.done.place = nil
}

// delivered is point, with what was delivered of the transaction that is coming.
func (f *changes) delivered() resume.Point {
	p, x := f.point, &f.current
	if x.given == (progress{}) {
		return p
	}
	if x.fresh {
		p = resume.Point{Through: x.tx.before, Commit: x.tx.CommitLSN, XID: x.tx.XID, Time: x.committed, Prepared: x.tx.prepared}
	}
	p.Ordinal, p.Hash = x.given.ordinal, x.given.hash
	return p
}

// leave has point say what was delivered of the transaction that is coming: it is over, or will come again.
func (f *changes) leave() {
	x := &f.current
	if x.given != (progress{}) {
		f.point = f.delivered()
	}
	x.tx, x.given, x.was = nil, progress{}, progress{}
}

// moved notes that a Progress was delivered, also in the midst of a transaction.
func (f *changes) moved(p resume.Point) { f.point, f.current.fresh = p, false }

// pushLast has the change delivered that was kept, now that it is known to be the transaction's last.
func (f *changes) pushLast(end LSN) {
	w := &f.made
	if !w.keeping {
		return
	}
	w.keeping = false
	m := w.kept()
	switch x := m.ext.(type) {
	case nil:
		if len(w.ends) == cap(w.ends) {
			w.ends = make([]lastEnd, 0, 64)
		}
		w.ends = append(w.ends, lastEnd(end))
		m.ext = &w.ends[len(w.ends)-1]
	case *truncation:
		x.end = end
	case *logicalMessage:
		x.end = end
	}
	f.push(m)
}

// end closes the transaction, with a message that says so if its Begin was delivered; the outcome of a prepared one always is.
func (f *changes) end(t *turn, ev *txn.Event) (act, error) {
	x, kind := &f.current, Commit
	switch ev.Type {
	case pgoutput.Prepare, pgoutput.StreamPrepare:
		kind = Prepare
	case pgoutput.CommitPrepared:
		kind = CommitPrepared
	}
	switch {
	case LSN(ev.LSN) != x.tx.CommitLSN:
		return nextFrame, pgfail.Unexpected(kind.String() + " of another transaction")
	case !x.old && x.at.ordinal < x.skip.ordinal && !f.point.IsBare():
		return f.again(t)
	}
	// Servers before version 15 send transactions without changes, too: they are not delivered.
	f.done.end = LSN(ev.End)
	a, err := nextFrame, error(nil)
	if (x.begun || kind == CommitPrepared) && !x.old {
		m := f.message(ev)
		m.Kind, m.ext, m.LSN = kind, LSN(ev.End), LSN(ev.LSN)
		x.at.add(nil)
		a, err = f.pass(t, m)
	}
	f.pushLast(LSN(ev.End))
	return a, err
}

// again has the transaction delivered once more.
func (f *changes) again(t *turn) (act, error) {
	x := &f.current
	t.details = []any{"xid", x.tx.XID, "commit", x.tx.CommitLSN, "delivered", f.point.Ordinal, "sent", x.at.ordinal}
	f.anew = x.tx.CommitLSN
	f.point.Ordinal, f.point.Hash = 0, 0
	return repeat, nil
}

var errAgain = errors.New("walchan: a transaction is delivered again")

// close ends a transaction, or what stands outside of transactions, of which everything was delivered.
func (f *changes) close(t *turn) (act, error) {
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
