package txn

import (
	"fmt"
	"maps"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// What is kept, and how it comes.

func (a *Assembler) inProgress(ev *pgoutput.Event) (*Event, error) {
	switch {
	case ev.Type == pgoutput.StreamAbort:
		// The transaction may be unknown: PostgreSQL 18 announces the end of transactions of which it has sent nothing.
		return nil, storeError(a.Store.Rollback(ev.XID, ev.SubXID))
	case ev.Type == pgoutput.StreamCommit:
		return a.complete(ev)
	case a.open:
		return nil, pgfail.Unexpected("block of a transaction in progress inside of another transaction")
	case ev.Flags&1 != 0:
		return nil, a.beginKeeping(ev.XID, false)
	}
	if a.keeping, a.late = a.Store.Get(ev.XID), false; a.keeping == nil {
		return nil, withoutBeginning(ev)
	}
	return nil, nil
}

func withoutBeginning(ev *pgoutput.Event) error {
	return pgfail.Unexpected(fmt.Sprintf("message %q of a transaction in progress whose first block has not come", ev.Type))
}

func (a *Assembler) twoPhase(ev *pgoutput.Event) (*Event, error) {
	late := wal.LSN(ev.LSN) < a.From
	switch ev.Type {
	case pgoutput.BeginPrepare:
		if late {
			return nil, a.beginKeeping(ev.XID, true)
		}
		return a.begin(ev)
	case pgoutput.Prepare:
		switch {
		case a.open:
			return a.end(ev)
		case late:
			return nil, nil
		}
		return a.whole(ev, nil) // of a transaction without changes PostgreSQL 18 sends this only, others nothing (ReorderBufferPrepare)
	case pgoutput.StreamPrepare:
		if t := a.Store.Get(ev.XID); late && t != nil {
			t.Prepared = true
			return nil, nil
		}
		return a.complete(ev)
	case pgoutput.CommitPrepared:
		return a.commitPrepared(ev)
	}
	if a.open {
		return nil, pgfail.Unexpected("rollback prepared inside of a transaction")
	}
	return a.step(Alone, ev), storeError(a.Store.Rollback(ev.XID, ev.XID))
}

// commitPrepared: the changes came at PREPARE, unless they come late. If what was kept does not end with a Prepare, the transaction
// came before: PostgreSQL before 18 may send blocks of it when its memory is full, as if it were in progress.
func (a *Assembler) commitPrepared(ev *pgoutput.Event) (*Event, error) {
	t := a.Store.Take(ev.XID)
	if t != nil && !t.Prepared {
		t.Close()
		t = nil
	}
	e, err := a.whole(ev, t)
	switch {
	case err != nil:
	case t == nil:
		e.Bare = true
	default:
		a.rest = prepareAndEnd
	}
	return e, err
}

func (a *Assembler) beginKeeping(xid uint32, late bool) error {
	if a.Store.Get(xid) != nil {
		return pgfail.Unexpected("second beginning of a transaction in progress")
	}
	a.keeping, a.late = a.Store.Begin(xid), late
	return nil
}

// keep keeps a message for later.
func (a *Assembler) keep(message []byte) error {
	xid, rest, err := uint32(0), []byte(nil), error(nil)
	if a.late {
		ev, err := a.Decoder.Decode(message)
		switch {
		case err != nil:
			return pgfail.Malformed(a.ev.At, err)
		case ev.Type == pgoutput.Prepare:
			a.keeping.Prepared, a.keeping = true, nil
			return nil
		}
		rest = message[1:]
	} else {
		if xid, rest, err = pgoutput.InBlock(message); err != nil {
			return pgfail.Malformed(a.ev.At, err)
		}
		switch message[0] {
		case pgoutput.StreamStop:
			a.keeping = nil
			return nil
		case pgoutput.Message:
			xid = 0 // it has the XID of the whole transaction, also in a savepoint (pgoutput_message in pgoutput.c)
		}
	}
	return storeError(a.keeping.Add(xid, Record{Seq: a.received, LSN: uint64(a.ev.At), SentAt: a.ev.SentAt}, message[0], rest))
}

// complete returns the beginning of a transaction that was in progress, now that its end has come.
func (a *Assembler) complete(ev *pgoutput.Event) (*Event, error) {
	t := a.Store.Take(ev.XID)
	if t == nil {
		return nil, withoutBeginning(ev)
	}
	return a.whole(ev, t)
}

// whole returns the beginning of a transaction whose end is ev. t is what was kept of it; nil: nothing.
func (a *Assembler) whole(ev *pgoutput.Event, t *Transaction) (*Event, error) {
	a.ended, a.at, a.sentAt, a.rest = *ev, a.ev.At, a.ev.SentAt, end // these are overwritten meanwhile
	if t != nil {
		a.player, a.played, a.before = t.play(), 0, maps.Clone(a.tables)
	}
	return a.begin(&a.ended)
}

// goOn returns the rest of a transaction whose end has come.
func (a *Assembler) goOn() (*Event, []byte, error) {
	if a.player != nil {
		if ev, data, err := a.play(); ev != nil || err != nil {
			return ev, data, err
		}
	}
	a.ev.At, a.ev.SentAt = a.at, a.sentAt
	if a.rest == prepareAndEnd {
		a.rest = end
		return a.step(Prepared, &a.ended), nil, nil
	}
	a.rest = nothing
	ev, err := a.end(&a.ended)
	return ev, nil, err
}

// pauseEvery so many bytes of what was kept there is a Pause.
const pauseEvery = 256 << 10

// play returns what was kept, and nil after that. What it says of tables holds for all from then on, unless they were described
// since. The server sends a description once to a transaction in progress, and once to all others. When that transaction commits,
// it takes the description for sent to all (cleanup_rel_sync_cache in src/backend/replication/pgoutput/pgoutput.c).
func (a *Assembler) play() (*Event, []byte, error) {
	for {
		if a.played >= pauseEvery {
			a.played = 0
			return a.step(Pause, &a.ended), nil, nil
		}
		rec, err := a.player.next()
		if err != nil {
			return nil, nil, storeError(err)
		}
		if rec == nil {
			break
		}
		a.played += len(rec.Data)
		a.ev.At, a.ev.SentAt = wal.LSN(rec.LSN), rec.SentAt
		if ev, err := a.take(rec.Data, rec.Seq); ev != nil || err != nil {
			return ev, rec.Data, err
		}
	}
	for oid, t := range a.before {
		if t.seq > a.tables[oid].seq {
			a.tables[oid] = t
		}
	}
	a.last = nil
	a.stopPlaying()
	return nil, nil, nil
}

func (a *Assembler) stopPlaying() {
	if a.player != nil {
		a.player.of.Close()
		a.player, a.before = nil, nil
	}
}

func storeError(err error) error {
	if err == nil {
		return nil
	}
	return &walerr.Error{Kind: walerr.Spool, What: "keep a transaction in progress in a temporary file", Err: err,
		Advice: "make room, or name another directory (WithSpool); of what was not delivered nothing was confirmed"}
}
