package feed

import (
	"fmt"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/wal"
)

// A physical connection is on trial until its server has sent again what was delivered last. Positions and timelines can refuse a
// server, and they are equal in two standbys of one primary that were both promoted, or on a restored volume.
//
// Bytes once sent are never rewritten in one history. Only flushed WAL is sent, which ends at the end of a record or of a page. A
// record that a crash has broken off is superseded at the next page. So the hash of the same bytes must be the same.

// logTrial is what has come of the WAL that is compared.
type logTrial struct {
	timeline int32
	hash     uint32
}

// IsOnTrial says whether the connection is on trial.
func (f *Log) IsOnTrial() bool { return f.trial != nil }

// compare takes in what is compared. At the end it ends the trial, and leaves the rest.
func (f *Log) compare(t *Turn) (Act, error) {
	n := min(wal.LSN(len(f.wal)), f.last.Through-f.expect)
	f.trial.hash = resume.HashBytes(f.trial.hash, f.wal[:n])
	f.expect += n
	f.wal = f.wal[n:]
	switch {
	case f.expect < f.last.Through:
		return t.settled(f.expect, 0, nil)
	case f.trial.hash != f.last.Hash:
		return NextFrame, begin.OtherWAL(fmt.Sprintf("on timeline %d the server has other WAL between %s and %s than what was delivered", f.trial.timeline, f.last.From, f.last.Through))
	}
	f.trial = nil
	t.Received, t.Because = f.expect, fmt.Sprintf("its WAL from %s to %s is the same", f.last.From, f.last.Through)
	return AcceptServer, nil
}

// TimelineEnd fails if the server's timeline ends before what was delivered.
func (f *Log) TimelineEnd() error {
	if f.trial == nil {
		return nil
	}
	return begin.OtherWAL(fmt.Sprintf("on the server timeline %d ends at %s, before %s, to which it was delivered", f.trial.timeline, f.expect, f.last.Through))
}

// Waive ends the trial without a proof. Last becomes the beginning of what the next connection can prove.
func (f *Log) Waive() {
	f.trial = nil
	f.last = f.last.AsBeginning()
	if f.now.Through >= f.last.Through {
		f.now = f.now.AsBeginning()
	}
}
