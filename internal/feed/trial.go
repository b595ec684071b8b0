package feed

import (
	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/txn"
	"github.com/walchan/walchan/wal"
)

// A connection is on trial until its server is known to have the history of what the consumer has. The slot is the first witness: where
// history may have changed its position is old, and the server sends the last transaction a second time. Then its XID and time must
// be the same.

// Trial is what is still open.
type Trial struct {
	begin.Past
	Proven bool // the history is the same, but the last transaction has not come by
}

// Try has the last transaction expected on the connection that begins; nil: it is not.
func (f *Changes) Try(x *Trial) { f.trial = x }

// witness looks at what comes by, as long as the last transaction is expected. begins is the beginning of a transaction; nil for a
// message outside of transactions and for a keepalive. ev is to be taken in once more when that is settled.
func (f *Changes) witness(t *Turn, lsn wal.LSN, begins, ev *txn.Event) (Act, error) {
	x := f.trial
	switch {
	case x == nil || lsn < x.Commit || lsn == x.Commit && begins == nil:
		return NextFrame, nil
	case lsn > x.Commit:
		f.done.asked, f.done.event, t.Trial = true, ev, x
		return AskServer, nil
	case !x.Is(begins.XID, begins.Time):
		return NextFrame, begin.AnotherThere(x.Point, lsn, begins.XID, begins.Time)
	}
	f.trial = nil
	if x.Proven {
		return NextFrame, nil
	}
	f.done.event, t.Received, t.Because = ev, 0, "the last transaction came again"
	return AcceptServer, nil
}

// acquit ends the trial although the last transaction has not come: the stream has asked for it.
func (f *Changes) acquit() {
	f.trial, f.done.asked = nil, false
	if !f.point.IsComplete() {
		f.point.Through = f.point.Commit + 1
	}
}
