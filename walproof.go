package walchan

import (
	"errors"
	"fmt"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/causes"
	"github.com/walchan/walchan/internal/resume"
)

// A physical connection is on trial until its server has sent again what was delivered last. Positions and timelines can refuse a
// server, and they are equal in two standbys of one primary that were both promoted, or on a restored volume.
//
// Bytes once sent are never rewritten in one history. Only flushed WAL is sent, which ends at the end of a record or of a page. A
// record that a crash has broken off is superseded at the next page. So the hash of the same bytes must be the same.

// walTrial is what has come of the WAL that is compared.
type walTrial struct {
	timeline int32
	hash     uint32
}

// begin decides where the connection begins to send, and whether that is a trial.
func (f *walFeed) begin(c *connection) (from LSN, timeline int32) {
	f.trial, f.expect = nil, f.at
	trusted := f.left.leadsTo(c)
	f.left = departure{place: f.left.place}
	if trusted || !f.last.IsProvable() {
		return f.at, f.timeline
	}
	// The timeline of what was delivered, and not a later one with which the stream may continue. The file of that one has the WAL before
	// the fork only if the fork lies in the middle of a segment.
	f.trial, f.expect = &walTrial{timeline: f.last.Timeline}, f.last.From
	return f.expect, f.last.Timeline
}

// compare takes in what is compared. At the end it ends the trial, and leaves the rest.
func (f *walFeed) compare(t *turn) (act, error) {
	n := min(LSN(len(f.wal)), f.last.Through-f.expect)
	f.trial.hash = resume.HashBytes(f.trial.hash, f.wal[:n])
	f.expect += n
	f.wal = f.wal[n:]
	switch {
	case f.expect < f.last.Through:
		return t.settled(f.expect, 0, nil)
	case f.trial.hash != f.last.Hash:
		return nextFrame, begin.OtherWAL(fmt.Sprintf("on timeline %d the server has other WAL between %s and %s than what was delivered", f.trial.timeline, f.last.From, f.last.Through))
	}
	f.trial = nil
	t.received, t.because = f.expect, fmt.Sprintf("its WAL from %s to %s is the same", f.last.From, f.last.Through)
	return acceptServer, nil
}

// timelineEnd is what the end of a timeline means.
func (f *walFeed) timelineEnd() error {
	if f.trial != nil {
		return begin.OtherWAL(fmt.Sprintf("on the server timeline %d ends at %s, before %s, to which it was delivered", f.trial.timeline, f.expect, f.last.Through))
	}
	return errTimelineEnd
}

// errUnprovable says that the server does not have the WAL that is compared. The stream goes on without it over a new connection.
var errUnprovable = errors.New("walchan: the WAL that was delivered last is removed")

// removed is what it means that the server has removed the WAL that is asked for.
func (o *owner) removed(err error) error {
	f := o.feed.(*walFeed)
	if f.trial == nil {
		return begin.WALRemoved(err)
	}
	if o.cfg.proof == proofRequired {
		return begin.UnprovenWAL(f.last.From, f.last.Through, err)
	}
	o.doubt(o.conn.Load(), causes.Line(begin.WALRemoved(err)))
	f.trial = nil
	f.last = f.last.AsBeginning()
	if f.now.Through >= f.last.Through {
		f.now = f.now.AsBeginning()
	}
	f.mark(o, f.last)
	return errUnprovable
}
