package feed

import (
	"time"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/wal"
)

// Where a physical stream begins, and goes on with each connection. BeginAt and GoOnAfter are for the first one.

// BeginAt has the stream begin at a position. timeline is that of the WAL there; 0: what it is by the server's history.
func (f *Log) BeginAt(at wal.LSN, timeline int32, system session.System, history string) {
	// Rounded down it may lie on the timeline before, but the segment's file of this one has both.
	if timeline == 0 {
		timeline = resume.TimelineAt(at, history, system.Timeline)
	}
	f.at, f.timeline = f.round(at), timeline
}

// GoOnAfter has the stream go on after a checkpoint.
func (f *Log) GoOnAfter(cp *resume.Checkpoint) {
	f.at, f.timeline = cp.Through, cp.Timeline
	f.last = resume.Place{Source: &resume.Source{Origin: cp.Origin, Checkpoints: true}, Point: cp.Point}
	f.now = f.last
	if f.last.IsProvable() { // else it is that of the stream's first message, which may be a history
		f.historyOf = f.timeline
	}
}

// Locate finds the stream's place in the server's history.
func (f *Log) Locate(system session.System, history string, standby bool) error {
	p, err := begin.Place{At: f.at, Timeline: f.timeline}.Locate(system, history, standby, f.round)
	f.at, f.timeline = p.At, p.Timeline
	return err
}

// Timeline returns the timeline of the WAL that is delivered next.
func (f *Log) Timeline() int32 { return f.timeline }

// At returns where that WAL begins.
func (f *Log) At() wal.LSN { return f.at }

// Arrive decides whether the connection is on trial. source is what its items come from, and address that of the server.
func (f *Log) Arrive(source *resume.Source, address string) {
	here := resume.Place{Source: source, Point: resume.Point{Through: f.at, From: f.at}}
	switch {
	case f.last.Source == nil: // nothing was delivered
		f.now, f.last = here, here
	case f.now.Through != f.at: // the beginning of a segment is repeated
		f.now = here
	default:
		f.now.Source = source
	}
	f.trial, f.expect = nil, f.at
	trusted := f.left.leadsTo(address)
	f.left = departure{place: f.left.place}
	if !trusted && f.last.IsProvable() {
		// The timeline of what was delivered, and not a later one with which the stream may continue. The file of that one has the WAL before
		// the fork only if the fork lies in the middle of a segment.
		f.trial, f.expect = &logTrial{timeline: f.last.Timeline}, f.last.From
	}
}

// Sending returns where the server is to begin to send.
func (f *Log) Sending() (from wal.LSN, timeline int32) {
	if f.trial != nil {
		return f.expect, f.trial.timeline
	}
	return f.at, f.timeline
}

// LacksHistory says whether the history of the timeline is to be delivered, and has to be set.
func (f *Log) LacksHistory() bool { return f.timeline != f.historyOf }

// SetHistory sets the content of the timeline's history file; "": it has none.
func (f *Log) SetHistory(content string) { f.history, f.historyOf = content, f.timeline }

// round returns where to begin for a position.
func (f *Log) round(lsn wal.LSN) wal.LSN {
	if f.WholeSegments {
		lsn -= lsn % f.Segment
	}
	return lsn
}

// departure is the end of a timeline whose server had proven its history, or did not need to. The connection after it belongs to the
// same server, if it is made at once.
type departure struct {
	at      time.Time // zero: the timeline has not ended
	address string
	place   wal.LSN
	again   bool // the same timeline has ended at the same place before
}

// atOnce is how long after the end of a timeline the same address is taken for the same server.
const atOnce = 30 * time.Second

// Leave notes that a timeline has ended. address is that of the server that has said so.
func (f *Log) Leave(address string) {
	f.left = departure{time.Now(), address, f.last.Through, f.left.place == f.last.Through}
}

// leadsTo says whether a connection to an address needs no proof after the departure. A second one at the same place is enough, because
// each connection may reach another address of the server, and the stream must get on.
func (d departure) leadsTo(address string) bool {
	return !d.at.IsZero() && (d.again || time.Since(d.at) < atOnce && d.address == address)
}
