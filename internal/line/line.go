// Package line is a connection over which a stream comes, with its clocks. It tells the server the positions when that is due, asks a
// silent server for a sign of life, and lets one go that is stopping. What it cannot decide it returns. What is asked over other connections
// meanwhile runs in goroutines, and ends with the line.
package line

import (
	"time"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
)

// Line is a connection with its clocks.
type Line struct {
	slots.Access
	begin.Remote

	From     wal.LSN // where the stream begins
	Received wal.LSN // up to here the server has sent everything
	Limit    wal.LSN // the highest position that may be told: while the connection is on trial, the slot's own; afterwards NoLimit

	Timers   link.Timers
	Status   link.Status
	Liveness link.Liveness
	Flow     link.Flow
	Shutdown link.Shutdown

	probe    probe
	standbys standbys
}

// NoLimit lets every position be told.
const NoLimit = ^wal.LSN(0)

// Meet notes which server this is.
func (l *Line) Meet(r begin.Remote, t link.Timers) {
	l.Remote, l.Timers = r, t
	l.Status.Interval, l.Liveness.Timeout, l.Shutdown.SenderTimeout = t.Status, t.Receive, t.Sender
}

// Begin notes that the server streams from a position. told is what it has as confirmed.
func (l *Line) Begin(now time.Time, from, told wal.LSN) {
	l.From, l.Received, l.Limit = from, from, NoLimit
	l.Status.Told, l.Status.Confirmed, l.Status.Since = told, from, now
	l.Shutdown.Begin(now)
	l.standbys.lookedAt = now
	l.standbys.haveUs.Store(l.isNamed(l.StandbyNames))
	l.Listen(now)
}

// Report writes a status if one is due, or if it must be. It returns when the next one is.
func (l *Line) Report(confirmed wal.LSN, now time.Time, must bool) (next time.Time, err error) {
	l.Status.Confirmed = min(confirmed, l.Limit)
	if due := l.Status.Due(); !must && now.Before(due) {
		return due, nil
	}
	if err := l.tell(now, false); err != nil {
		return now, err
	}
	return now.Add(l.Status.Pause()), nil
}

// tell writes a status.
func (l *Line) tell(now time.Time, askReply bool) error {
	// What is confirmed was received, if perhaps over an earlier connection.
	l.Received = max(l.Received, l.Status.Confirmed)
	if l.Status.Confirmed == 0 {
		return nil // PostgreSQL takes 0 as "no news", and other programs as "all"
	}
	if err := l.Conn.Status(l.Received, l.Status.Confirmed, now, askReply); err != nil {
		return err
	}
	l.Status.Sent(now)
	return nil
}

// Farewell confirms the last position, as far as it may be told, and ends the stream properly. nil: the server has it.
func (l *Line) Farewell(last wal.LSN, deadline time.Time) error {
	l.Status.Confirmed = min(last, l.Limit)
	if err := l.tell(time.Now(), false); err != nil {
		return err
	}
	return l.Finish(deadline)
}

// Read reads once from the server. before is the time.
func (l *Line) Read(before time.Time, gathering bool) error {
	err := l.Fill()
	now := time.Now()
	if !gathering { // else it has not waited for want of data
		l.Shutdown.Waited(now, now.Sub(before))
	}
	if err == nil {
		l.Liveness.Heard(now)
	}
	return err
}

// Listen notes that the server was not listened to until now.
func (l *Line) Listen(now time.Time) {
	l.Liveness.Heard(now)
	l.Flow.DataAt = now
}

// Keepalive takes in a keepalive.
func (l *Line) Keepalive(f *session.Frame) {
	l.Shutdown.Keepalive()
	if f.ReplyRequested {
		l.Status.WantsReply = true
		l.Shutdown.Ping(f.End, l.Liveness.HeardAt.Sub(l.Status.At))
	}
}

// HangUp closes the connection and waits for what was asked beside it.
func (l *Line) HangUp() {
	l.probe.end()
	l.standbys.end()
	l.Close()
}
