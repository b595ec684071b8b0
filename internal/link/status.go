// Package link has the clocks of a connection: when a status is due, when a silent server is dead, when small messages may pile up, when a
// server that is stopping is let go. They are values. The time is told to them, and they do nothing.
package link

import (
	"time"

	"github.com/walchan/walchan/wal"
)

const (
	coalesce   = time.Millisecond       // between two statuses because the confirmed position moved
	replyPause = 100 * time.Millisecond // between two statuses because the server asked
	firstPause = 20 * time.Millisecond  // between the first two statuses of a connection
)

// Status says when the server is told the positions.
type Status struct {
	Interval time.Duration // between two without news
	Since    time.Time     // when the server began to stream

	Told       wal.LSN   // flush position of the last status
	At         time.Time // of the last status; zero: at once, because a COMMIT may be waiting for one that was lost with the last connection
	Confirmed  wal.LSN   // what is to be told
	WantsReply bool      // the server has asked
}

// Due returns when the next status is: because the confirmed position has moved, because the server asked, or in time.
func (s *Status) Due() time.Time {
	switch {
	case s.HasNews():
		return s.At.Add(coalesce)
	case s.WantsReply:
		return s.At.Add(min(replyPause, s.Interval))
	}
	return s.At.Add(s.Pause())
}

// HasNews says whether more is confirmed than was told.
func (s *Status) HasNews() bool { return s.Confirmed > s.Told }

// Pause is what lies between two statuses without news. On a new connection it is short, and doubles: until the walsender has
// read what WAL there was, it lets nobody go who waits for a status in COMMIT, and does not look again at one it has had
// (SyncRepReleaseWaiters in src/backend/replication/syncrep.c, WALSNDSTATE_CATCHUP).
func (s *Status) Pause() time.Duration {
	return min(max(s.At.Sub(s.Since), firstPause), s.Interval)
}

// Sent notes that the server was told what is confirmed.
func (s *Status) Sent(now time.Time) { s.Told, s.At, s.WantsReply = s.Confirmed, now, false }
