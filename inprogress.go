package walchan

import (
	"fmt"
	"maps"
	"time"

	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/txn"
)

// Transactions in progress (protocol version 2, WithStreaming).
//
// The server sends a large transaction while it goes on, in blocks between which others come. Its messages are kept in a
// spool until its end is known, and then played: they take the same way as those of a transaction that is sent at its
// commit, and make the same messages, ordinals and hash. After a reconnect the server may send it in other blocks, or in
// none; what was delivered of it is recognised all the same.
//
// A position that the server tells between the blocks may be confirmed without regard to the spools: it lies before the
// commits of their transactions, and the server sends these again, from their beginning.
func (f *changes) inProgress(s *Stream, m *Message, ev *pgoutput.Event) error {
	switch {
	case ev.Type == pgoutput.StreamAbort:
		// Of one that is not known, too: PostgreSQL 18 announces the end of transactions of which it has sent nothing.
		return spoolError(f.spools.Rollback(ev.XID, ev.SubXID))
	case ev.Type == pgoutput.StreamCommit:
		return f.complete(s, m, ev, Commit)
	case f.tx != nil:
		return unexpected("block of a transaction in progress inside of another transaction")
	case ev.Flags&1 != 0:
		return f.beginSpool(ev.XID, false)
	}
	if f.spooling, f.late = f.spools.Get(ev.XID), false; f.spooling == nil {
		return withoutBeginning(ev)
	}
	return nil
}

func withoutBeginning(ev *pgoutput.Event) error {
	return unexpected(fmt.Sprintf("message %q of a transaction in progress whose first block has not come", ev.Type))
}

func (f *changes) beginSpool(xid uint32, late bool) error {
	if f.spools.Get(xid) != nil {
		return unexpected("second beginning of a transaction in progress")
	}
	f.spooling, f.late = f.spools.Begin(xid), late
	return nil
}

// spool keeps a message for later.
func (f *changes) spool(frame *session.Frame) error {
	if f.late {
		return f.spoolPrepared(frame)
	}
	xid, rest, err := pgoutput.InBlock(frame.Data)
	if err != nil {
		return malformed(frame.Start, err)
	}
	switch frame.Data[0] {
	case pgoutput.StreamStop:
		f.spooling = nil
		return nil
	case pgoutput.Message:
		xid = 0 // it has the XID of the whole transaction, also in a savepoint (pgoutput_message in pgoutput.c)
	}
	return f.keep(xid, frame, rest)
}

func (f *changes) keep(xid uint32, frame *session.Frame, rest []byte) error {
	rec := txn.Record{Seq: f.frames, LSN: uint64(frame.Start), SentAt: frame.SentAt}
	return spoolError(f.spooling.Add(xid, rec, frame.Data[0], rest))
}

// complete delivers a transaction in progress, now that its end has come.
func (f *changes) complete(s *Stream, m *Message, ev *pgoutput.Event, kind Kind) error {
	t := f.spools.Take(ev.XID)
	if t == nil {
		return withoutBeginning(ev)
	}
	defer t.Close()
	last, end := *m, *ev // playing overwrites them
	if err := f.begin(s, m, ev); err != nil {
		return err
	}
	if err := f.play(s, t); err != nil {
		return err
	}
	return f.end(s, &last, &end, kind)
}

// attendEvery so many bytes of a spool the connection is attended to, as otherwise between two reads.
const attendEvery = 256 << 10

// play takes in the messages of a spool. What they say of tables holds for others from then on, unless these were described
// otherwise since: the server sends a description once to a transaction in progress and once to all others, and takes the
// former for sent to all when it is committed (cleanup_rel_sync_cache in src/backend/replication/pgoutput/pgoutput.c).
func (f *changes) play(s *Stream, t *txn.Transaction) error {
	c, before, n := s.conn.Load(), maps.Clone(f.relations), 0
	var frame session.Frame
	for rec, err := range t.Records() {
		if err != nil {
			return spoolError(err)
		}
		frame.Start, frame.SentAt, frame.Data = LSN(rec.LSN), rec.SentAt, rec.Data
		if err := f.take(s, &frame, rec.Seq); err != nil {
			return err
		}
		if n += len(rec.Data); n >= attendEvery {
			n = 0
			if _, err := s.attend(c, time.Now()); err != nil {
				return err
			}
		}
	}
	f.keepNewer(before)
	c.listen(time.Now())
	return nil
}

// held returns how much the spools hold.
func (f *changes) held() int64 { return f.spools.Size() }

func spoolError(err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: ErrSpool, What: "keep a transaction in progress in a temporary file", Err: err,
		Advice: "make room, or name another directory (WithSpool); of what was not delivered nothing was confirmed"}
}
