package walchantest

import (
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

// Entry is what a server has in its log: a Transaction; a Change, which then is a transaction by itself. Behind the last one
// there may be Idle or Fail.
type Entry interface{ addTo(*Server) }

// Transaction is a transaction. What is zero is filled in.
type Transaction struct {
	XID        uint32    // 700 for the first one, and so on
	CommitTime time.Time // 2026-01-01 00:00:00 UTC for the first one, then a second later each
	Origin     string    // the replication origin; "": it was made here
	Changes    []Change
}

// Tx is a transaction of these changes.
func Tx(changes ...Change) Transaction { return Transaction{Changes: changes} }

// Idle ends the entries: the stream stays open until it is cancelled or closed.
func Idle() Entry { return idle{} }

// Fail ends the entries: the connection breaks, cannot be made again because of err, and the stream gives up. What was
// delivered still comes out, then C is closed, and errors.Is finds err in the stream's Err.
func Fail(err error) Entry { return failure{err} }

type (
	idle    struct{}
	failure struct{ err error }
)

func (idle) addTo(s *Server)      { s.idle = true }
func (f failure) addTo(s *Server) { s.fail = f.err }

// placed is a transaction, or a message outside of transactions, in its place in the log.
type placed struct {
	Transaction
	first, commit, end walchan.LSN // commit 0: outside
}

// What lies between positions. In earnest it depends on the data.
const (
	changeSize = 0x80
	commitSize = 0x30
)

func (t Transaction) addTo(s *Server) {
	for _, c := range t.Changes {
		c.check()
	}
	if t.XID == 0 {
		t.XID = 700 + uint32(len(s.log))
	}
	if t.CommitTime.IsZero() {
		t.CommitTime = time.Date(2026, 1, 1, 0, 0, len(s.log), 0, time.UTC)
	}
	first := s.end()
	commit := first + changeSize*walchan.LSN(len(t.Changes)+1)
	s.log = append(s.log, placed{t, first, commit, commit + commitSize})
}

func (c Change) addTo(s *Server) {
	if c.kind == message && !c.transactional {
		first := s.end()
		s.log = append(s.log, placed{Tx(c), first, 0, first + changeSize})
		return
	}
	Tx(c).addTo(s)
}

// end returns the end of the log.
func (s *Server) end() walchan.LSN {
	if n := len(s.log); n > 0 {
		return s.log[n-1].end
	}
	return start
}

// relations are the tables that the server has described on a connection, by OID.
type relations map[uint32]*Table

// frames returns what the server sends.
func (p *placed) frames(known relations) []fakewal.Frame {
	if p.commit == 0 {
		return []fakewal.Frame{frame(p.end, p.Changes[0].encode(p.end))}
	}
	frames := []fakewal.Frame{frame(p.first, fakewal.Begin(p.commit, p.CommitTime, p.XID))}
	if p.Origin != "" {
		frames = append(frames, frame(0, fakewal.Origin(p.commit, p.Origin)))
	}
	for i, c := range p.Changes {
		for _, t := range c.tables {
			if known[t.rel.OID] != t {
				known[t.rel.OID] = t
				frames = append(frames, frame(0, t.rel.Encode()))
			}
		}
		lsn := p.first + changeSize*walchan.LSN(i+1)
		frames = append(frames, frame(lsn, c.encode(lsn)))
	}
	return append(frames, frame(p.end, fakewal.Commit(p.commit, p.end, p.CommitTime)))
}

func frame(lsn walchan.LSN, payload []byte) fakewal.Frame {
	return fakewal.Frame{Start: lsn, End: lsn, Payload: payload}
}
