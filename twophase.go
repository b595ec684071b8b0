package walchan

import (
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/session"
)

// Prepared transactions (protocol version 3, WithTwoPhase).
//
// The server sends a transaction at PREPARE TRANSACTION, and later only whether it was committed. So its changes are
// delivered, acknowledged and confirmed at PREPARE: one that is confirmed is not sent again, whatever becomes of it. In the
// order of transactions it stands where it was prepared.
//
// A transaction that was prepared before the slot knew of two-phase comes late: its changes are sent when it is committed,
// with the position of the PREPARE, which may lie before what was delivered. It is told by lying before the stream's beginning,
// and kept in a spool until the COMMIT PREPARED that follows it says where in the order it stands (ReorderBufferFinishPrepared
// in src/backend/replication/logical/reorderbuffer.c).
func (f *changes) twoPhase(s *Stream, m *Message, ev *pgoutput.Event) error {
	late := LSN(ev.LSN) < f.from
	switch ev.Type {
	case pgoutput.BeginPrepare:
		if late {
			return f.beginSpool(ev.XID, true)
		}
		return f.begin(s, m, ev)
	case pgoutput.Prepare:
		if f.tx == nil {
			// Of a transaction without changes PostgreSQL 18 sends this only, others nothing (ReorderBufferPrepare).
			if late {
				return nil
			}
			if err := f.begin(s, m, ev); err != nil {
				return err
			}
		}
		return f.end(s, m, ev, Prepare)
	case pgoutput.StreamPrepare:
		if t := f.spools.Get(ev.XID); late && t != nil {
			t.Prepared = true
			return nil
		}
		return f.complete(s, m, ev, Prepare)
	case pgoutput.CommitPrepared:
		return f.commitPrepared(s, m, ev)
	}
	return f.rollbackPrepared(s, m, ev)
}

// spoolPrepared keeps a message of a transaction that comes late.
func (f *changes) spoolPrepared(frame *session.Frame) error {
	ev, err := f.decoder.Decode(frame.Data)
	switch {
	case err != nil:
		return malformed(frame.Start, err)
	case ev.Type == pgoutput.Prepare:
		f.spooling.Prepared, f.spooling = true, nil
		return nil
	}
	return f.keep(0, frame, frame.Data[1:])
}

// commitPrepared: the changes were delivered at PREPARE, unless they come late. A spool that does not end with a Prepare is of
// one that was: before PostgreSQL 18 the server may send blocks of it when its memory is full, as if it were in progress.
func (f *changes) commitPrepared(s *Stream, m *Message, ev *pgoutput.Event) error {
	last, end := *m, *ev
	if err := f.begin(s, m, ev); err != nil {
		return err
	}
	t := f.spools.Take(ev.XID)
	if t != nil {
		defer t.Close()
	}
	if t == nil || !t.Prepared {
		f.at.ordinal = 0
		return f.end(s, &last, &end, CommitPrepared)
	}
	if err := f.play(s, t); err != nil {
		return err
	}
	if f.begun && !f.old {
		prepare := last
		prepare.Kind, prepare.LSN = Prepare, LSN(end.LSN)
		if err := f.mark(s, &prepare); err != nil {
			return err
		}
	} else {
		f.at.add(nil) // ordinals do not depend on options
	}
	return f.end(s, &last, &end, CommitPrepared)
}

// rollbackPrepared has no position of its record, only that of its end.
func (f *changes) rollbackPrepared(s *Stream, m *Message, ev *pgoutput.Event) error {
	if f.tx != nil {
		return unexpected("rollback prepared inside of a transaction")
	}
	if err := f.spools.Rollback(ev.XID, ev.XID); err != nil {
		return spoolError(err)
	}
	m.Kind, m.LSN = RollbackPrepared, LSN(ev.End)
	m.Tx = f.newTx(ev)
	m.Tx.CommitLSN = LSN(ev.End)
	return f.single(s, m)
}
