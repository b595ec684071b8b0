package walchan

import (
	"fmt"
	"time"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
)

// walFeed is the feed of a physical stream. Its bytes follow one another, so a position says how far it is, and a hash of the bytes
// before it says in which history.
type walFeed struct {
	wholeSegments bool
	segment       LSN // size

	timeline int32
	at       LSN // where the WAL that is delivered next begins
	expect   LSN // where the next WAL of the connection begins; it may lie before at while the connection is on trial

	now  resume.Place // of what was delivered
	last resume.Place // the furthest of these; it lies beyond now while the beginning of a segment is repeated

	trial *walTrial // nil: the server has the WAL before last
	left  departure

	wal    []byte   // has come, and is not delivered
	sentAt int64    // when
	out    *Message // is being delivered; nil: none

	history   string // to be delivered before the WAL; "": was, or there is none
	historyOf int32  // timeline
}

// walMessage is what a WAL or a TimelineHistory carries besides its bytes.
type walMessage struct {
	timeline int32
	at       resume.Place
}

func (f *walFeed) connected(beginning) { f.wal, f.out = nil, nil }
func (f *walFeed) disconnected()       { f.wal, f.out = nil, nil }

func (f *walFeed) takeBack() { f.out = nil }

func (f *walFeed) held() int64 { return 0 }

func (f *walFeed) delivered() resume.Point {
	return resume.Point{Through: f.last.Through, Message: f.last.Through}
}

func (f *walFeed) next(frame *session.Frame, t *turn) (act, error) {
	switch {
	case frame == nil && f.out != nil:
		return f.noteDelivered(t)
	case frame == nil || frame.Keepalive:
	case frame.Start != f.expect:
		return nextFrame, pgfail.Unexpected(fmt.Sprintf("WAL at %s: at %s it was left", frame.Start, f.expect))
	default:
		f.wal, f.sentAt = frame.Data, frame.SentAt
		if f.trial != nil {
			return f.compare(t)
		}
	}
	return f.hand(t)
}

// hand has the stream deliver what is there: the history of a timeline before its first WAL, with the place before it in its checkpoint.
func (f *walFeed) hand(t *turn) (act, error) {
	if len(f.wal) == 0 {
		f.wal = nil // or it would keep a large buffer that is let go
		return nextFrame, nil
	}
	if f.expect != f.at {
		return nextFrame, pgfail.Unexpected(fmt.Sprintf("WAL at %s: the timeline ends there", f.expect))
	}
	if f.history != "" {
		f.out = &Message{Kind: TimelineHistory, LSN: f.at, sent: f.sentAt, data: f.history, ext: &walMessage{f.timeline, f.last}}
	} else {
		f.out = &Message{Kind: WAL, LSN: f.at, sent: f.sentAt, data: string(f.wal), ext: &walMessage{f.timeline, f.now.With(f.wal, f.segment)}}
	}
	t.message = f.out
	return deliver, nil
}

func (f *walFeed) noteDelivered(t *turn) (act, error) {
	m := f.out
	t.message = nil
	if f.out = nil; m.Kind == TimelineHistory {
		f.history = ""
		return f.hand(t)
	}
	p := m.ext.(*walMessage).at
	f.wal, f.at, f.expect, f.now = nil, p.Through, p.Through, p
	if p.Through > f.last.Through {
		f.last = p
	}
	return t.settled(p.Through, f.confirmable(p), &f.now)
}

// mark has the ledger confirm p once everything delivered so far is acknowledged.
func (f *walFeed) mark(o *owner, p resume.Place) {
	if lsn := f.confirmable(p); o.ledger.Storing {
		o.ledger.MarkBefore(lsn, &p)
	} else {
		o.ledger.Mark(lsn)
	}
}

// confirmable returns what may be confirmed if p is acknowledged. The proof of p needs the segment that holds the byte before it. At
// the end of a segment the server would remove that one if it knew.
func (f *walFeed) confirmable(p resume.Place) LSN {
	if p.Through%f.segment == 0 && p.IsProvable() {
		return p.Through - 1
	}
	return p.Through
}

// round returns where to begin for a position.
func (f *walFeed) round(lsn LSN) LSN {
	if f.wholeSegments {
		lsn -= lsn % f.segment
	}
	return lsn
}

// departure is the end of a timeline whose server had proven its history, or did not need to. The connection after it belongs to the
// same server, if it is made at once.
type departure struct {
	at      time.Time // zero: the timeline has not ended
	address string
	place   LSN
	again   bool // the same timeline has ended at the same place before
}

// atOnce is how long after the end of a timeline the same address is taken for the same server.
const atOnce = 30 * time.Second

func (f *walFeed) leave(c *connection) {
	f.left = departure{time.Now(), c.Address, f.last.Through, f.left.place == f.last.Through}
}

// leadsTo says whether a connection needs no proof after the departure. A second one at the same place is enough, because each
// connection may reach another address of the server, and the stream must get on.
func (d departure) leadsTo(c *connection) bool {
	return !d.at.IsZero() && (d.again || time.Since(d.at) < atOnce && d.address == c.Address)
}
