package feed

import (
	"fmt"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/wal"
)

// Log is the feed of a physical stream. Its bytes follow one another, so a position says how far it is, and a hash of the bytes
// before it says in which history.
type Log struct {
	WholeSegments bool    // it begins at the first byte of a segment, also on a new timeline
	Segment       wal.LSN // wal_segment_size of the server

	timeline int32
	at       wal.LSN // where the WAL that is delivered next begins
	expect   wal.LSN // where the next WAL of the connection begins; it may lie before at while the connection is on trial

	now  resume.Place // of what was delivered
	last resume.Place // the furthest of these; it lies beyond now while the beginning of a segment is repeated

	trial *logTrial // nil: the server has the WAL before last
	left  departure

	wal    []byte // has come, and is not delivered
	sentAt int64  // when
	out    *Item  // is being delivered; nil: none

	history   string // to be delivered before the WAL; "": was, or there is none
	historyOf int32  // timeline
}

// Connected begins with a connection.
func (f *Log) Connected(Beginning) { f.wal, f.out = nil, nil }

// Disconnected ends with a connection.
func (f *Log) Disconnected() { f.wal, f.out = nil, nil }

// TakeBack: the consumer has not got the item that was given last.
func (f *Log) TakeBack() { f.out = nil }

// Held is 0.
func (f *Log) Held() int64 { return 0 }

// Delivered is the position up to which WAL was delivered.
func (f *Log) Delivered() resume.Point {
	return resume.Point{Through: f.last.Through, Message: f.last.Through}
}

// Last returns the furthest place to which WAL was delivered.
func (f *Log) Last() resume.Place { return f.last }

// Next takes in a frame, or goes on.
func (f *Log) Next(frame *session.Frame, t *Turn) (Act, error) {
	switch {
	case frame == nil && f.out != nil:
		return f.noteDelivered(t)
	case frame == nil || frame.Keepalive:
	case frame.Start != f.expect:
		return NextFrame, pgfail.Unexpected(fmt.Sprintf("WAL at %s: at %s it was left", frame.Start, f.expect))
	default:
		f.wal, f.sentAt = frame.Data, frame.SentAt
		if f.trial != nil {
			return f.compare(t)
		}
	}
	return f.hand(t)
}

// hand has the stream deliver what is there: the history of a timeline before its first WAL, with the place before it in its checkpoint.
func (f *Log) hand(t *Turn) (Act, error) {
	if len(f.wal) == 0 {
		f.wal = nil // or it would keep a large buffer that is let go
		return NextFrame, nil
	}
	if f.expect != f.at {
		return NextFrame, pgfail.Unexpected(fmt.Sprintf("WAL at %s: the timeline ends there", f.expect))
	}
	if f.history != "" {
		f.out = &Item{Kind: TimelineHistory, LSN: f.at, Sent: f.sentAt, Data: f.history, Ext: &Piece{f.timeline, f.last}}
	} else {
		f.out = &Item{Kind: WAL, LSN: f.at, Sent: f.sentAt, Data: string(f.wal), Ext: &Piece{f.timeline, f.now.With(f.wal, f.Segment)}}
	}
	t.Item = f.out
	return Deliver, nil
}

func (f *Log) noteDelivered(t *Turn) (Act, error) {
	m := f.out
	t.Item = nil
	if f.out = nil; m.Kind == TimelineHistory {
		f.history = ""
		return f.hand(t)
	}
	p := m.Ext.(*Piece).At
	f.wal, f.at, f.expect, f.now = nil, p.Through, p.Through, p
	if p.Through > f.last.Through {
		f.last = p
	}
	return t.settled(p.Through, f.confirmable(p), &f.now)
}

// Confirmable returns what may be confirmed if Last is acknowledged.
func (f *Log) Confirmable() wal.LSN { return f.confirmable(f.last) }

// confirmable returns what may be confirmed if p is acknowledged. The proof of p needs the segment that holds the byte before it. At
// the end of a segment the server would remove that one if it knew.
func (f *Log) confirmable(p resume.Place) wal.LSN {
	if p.Through%f.Segment == 0 && p.IsProvable() {
		return p.Through - 1
	}
	return p.Through
}
