package link

import (
	"time"

	"github.com/walchan/walchan/wal"
)

const (
	// Grace is how long a server that is stopping waits for acknowledgements before the stream hangs up.
	Grace = 2 * time.Second

	probeAfter  = 3 * time.Second // without having caught up, the server is asked whether it is stopping
	pingsOfStop = 3               // early requests for a reply, behind the first at a position, that say the server is stopping
)

// Shutdown notices a server that is stopping, which waits for us.
//
// A server that stops fast waits until the client has confirmed all it was sent, and asks for it without a pause (WalSndDone
// in src/backend/replication/walsender.c); a server in good health asks only when it has not heard of us for half of
// wal_sender_timeout (WalSndKeepaliveIfNecessary). One that has sent all it has says how far it has come before it waits
// (WalSndWaitForWal): if there was no more to read, either, the stream has caught up. Where the stream has not caught up for a while it
// cannot see the server asking; then an ordinary connection that is refused says it (a probe).
type Shutdown struct {
	SenderTimeout time.Duration // the server's wal_sender_timeout; 0: none

	pings    int
	pingAt   wal.LSN
	waited   time.Time // when there was last nothing to read
	caughtUp time.Time // when the server last had nothing to send
	probedAt time.Time
	leaveAt  time.Time // when to hang up; zero: it does not stop
}

// Step is what is to be done about a server that may be stopping.
type Step uint8

const (
	Stay     Step = iota // look again at the returned time
	Probe                // ask over another connection whether it is stopping
	Announce             // it is stopping: it is let go after the grace
	Leave                // the grace is over
)

// Begin forgets the last connection.
func (s *Shutdown) Begin(now time.Time) { s.probedAt, s.caughtUp = now, now }

// Waited notes that a read has waited for so long.
func (s *Shutdown) Waited(now time.Time, long time.Duration) {
	switch {
	case long > Settle:
		s.caughtUp = now
		fallthrough
	case long > time.Millisecond:
		s.waited = now // there was nothing to read: either the server has nothing, or it decodes slowly, or the network is slow
	}
}

// Keepalive notes that the server says how far it has come.
func (s *Shutdown) Keepalive() {
	if s.waited.After(s.caughtUp) {
		s.caughtUp = s.waited
	}
}

// Ping notes that the server asks for a reply at a position, so long after it was last told something.
func (s *Shutdown) Ping(at wal.LSN, untold time.Duration) {
	early := s.SenderTimeout == 0 || untold < s.SenderTimeout/2
	switch {
	case !early, at != s.pingAt:
		s.pings, s.pingAt = 0, at
	default:
		s.pings++
	}
}

// IsNoticed says whether the server is known to be stopping.
func (s *Shutdown) IsNoticed() bool { return s.pings >= pingsOfStop || !s.leaveAt.IsZero() }

// Next returns what is to be done. refused says that a probe was refused.
func (s *Shutdown) Next(now time.Time, refused bool) (Step, time.Time) {
	switch {
	case !s.leaveAt.IsZero() && now.Before(s.leaveAt):
		return Stay, s.leaveAt
	case !s.leaveAt.IsZero():
		return Leave, now
	case s.pings >= pingsOfStop, refused:
		s.leaveAt = now.Add(Grace)
		return Announce, s.leaveAt
	}
	due := s.caughtUp
	if s.probedAt.After(due) {
		due = s.probedAt
	}
	if due = due.Add(probeAfter); now.Before(due) {
		return Stay, due
	}
	s.probedAt = now
	return Probe, now.Add(probeAfter)
}
