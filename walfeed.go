package walchan

import (
	"fmt"
	"time"

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
	next     LSN // where the next WAL of the connection begins; it may lie before at while the connection is on trial

	now  resume.Place // of what was delivered
	last resume.Place // the furthest of these; it lies beyond now while the beginning of a segment is repeated

	trial *walTrial // nil: the server has the WAL before last
	left  departure

	history   string // to be delivered before the WAL; "": was, or there is none
	historyOf int32  // timeline
}

// walMessage is what a WAL or a TimelineHistory carries besides its bytes.
type walMessage struct {
	timeline int32
	at       resume.Place
}

func (f *walFeed) connected(*connection) {}
func (f *walFeed) disconnected()         {}

func (f *walFeed) keepalive(*Stream, *connection) error { return nil }

func (f *walFeed) held() int64 { return 0 }

func (f *walFeed) delivered() resume.Point {
	return resume.Point{Through: f.last.Through, Message: f.last.Through}
}

func (f *walFeed) data(s *Stream, frame *session.Frame) error {
	if frame.Start != f.next {
		return unexpected(fmt.Sprintf("WAL at %s: at %s it was left", frame.Start, f.next))
	}
	s.gauge.walEnd.Store(uint64(frame.End))
	wal := frame.Data
	if f.trial != nil {
		var err error
		if wal, err = f.compare(s, wal); err != nil || len(wal) == 0 {
			return err
		}
	}
	if f.next != f.at {
		return unexpected(fmt.Sprintf("WAL at %s: the timeline ends there", f.next))
	}
	if err := f.deliverHistory(s, frame); err != nil {
		return err
	}
	m := Message{Kind: WAL, LSN: f.at, sent: frame.SentAt, data: string(wal), ext: &walMessage{f.timeline, f.now.With(wal, f.segment)}}
	if err := s.deliver(&m); err != nil {
		return err
	}
	f.advance(s, m.ext.(*walMessage).at)
	return nil
}

// deliverHistory delivers the history of a timeline before its first WAL. Its checkpoint is the place before it.
func (f *walFeed) deliverHistory(s *Stream, frame *session.Frame) error {
	if f.history == "" {
		return nil
	}
	m := Message{Kind: TimelineHistory, LSN: f.at, sent: frame.SentAt, data: f.history, ext: &walMessage{f.timeline, f.last}}
	err := s.deliver(&m)
	if err == nil {
		f.history = ""
	}
	return err
}

// advance notes that the WAL up to p was delivered.
func (f *walFeed) advance(s *Stream, p resume.Place) {
	f.at, f.next, f.now = p.Through, p.Through, p
	if p.Through > f.last.Through {
		f.last = p
	}
	f.mark(s, p)
	s.received(f.at)
}

// mark has the ledger confirm p once everything delivered so far is acknowledged.
func (f *walFeed) mark(s *Stream, p resume.Place) {
	if lsn := f.confirmable(p); s.ledger.Storing {
		s.ledger.MarkBefore(lsn, p)
	} else {
		s.ledger.Mark(lsn)
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
	f.left = departure{time.Now(), c.address, f.last.Through, f.left.place == f.last.Through}
}

// leadsTo says whether a connection needs no proof after the departure. A second one at the same place is enough, because each
// connection may reach another address of the server, and the stream must get on.
func (d departure) leadsTo(c *connection) bool {
	return !d.at.IsZero() && (d.again || time.Since(d.at) < atOnce && d.address == c.address)
}
