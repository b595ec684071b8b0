package walchan

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/session"
)

const (
	coalesce     = time.Millisecond       // between two statuses because the confirmed position moved
	replyPause   = 100 * time.Millisecond // between two statuses because the server asked
	blockedAfter = time.Second            // of waiting for the consumer, the stream counts as blocked
	probeAfter   = 3 * time.Second        // without having caught up, the server is asked whether it is stopping
	grace        = 2 * time.Second        // for acknowledgements, before a stopping server is let go
	pingsOfStop  = 3                      // early requests for a reply at one position, that say the server is stopping
)

// connection is one connection of a stream, with what the server was told over it and what is known of its health. It
// belongs to the owner.
type connection struct {
	*session.Conn
	config *pgconn.Config // it was made with
	from   LSN            // where the stream begins
	frame  session.Frame

	interval      time.Duration // between statuses
	senderTimeout time.Duration // the server's wal_sender_timeout; 0: none
	timeout       time.Duration // of silence

	// Telling.
	received   LSN // highest position received
	told       LSN // flush position of the last status
	confirmed  LSN // what is to be told
	toldAt     time.Time
	wantsReply bool

	// Listening.
	heardAt  time.Time // the last bytes, or the last time we did not listen
	askedAt  time.Time // when the server was asked for a sign of life; zero: was not
	caughtUp time.Time // when there was last nothing to read

	// A server that is stopping waits for us.
	pings     int
	pingAt    LSN
	leaveAt   time.Time // when to hang up; zero: it does not stop
	probedAt  time.Time
	probing   chan struct{} // closed when the probe has ended; nil: none is under way
	stopProbe context.CancelFunc
	refused   atomic.Bool // the probe was: the server is stopping
}

// report writes a status if one is due: in time, because the confirmed position has moved, because the server asked, or
// because it must be. It returns when the next one is.
func (c *connection) report(confirmed LSN, now time.Time, must bool) (next time.Time, err error) {
	c.confirmed = confirmed
	if !must && now.Before(c.statusDue()) {
		return c.statusDue(), nil
	}
	return now.Add(c.interval), c.status(now, false)
}

func (c *connection) statusDue() time.Time {
	switch {
	case c.confirmed > c.told:
		return c.toldAt.Add(coalesce)
	case c.wantsReply:
		return c.toldAt.Add(min(replyPause, c.interval))
	}
	return c.toldAt.Add(c.interval)
}

// interest is what an acknowledgement need wake the owner for: nothing while a status is due anyway.
func (c *connection) interest() interest {
	if c.confirmed > c.told {
		return nothing
	}
	return nextMark
}

func (c *connection) status(now time.Time, askReply bool) error {
	// What is confirmed was received, if perhaps over an earlier connection.
	c.received = max(c.received, c.confirmed)
	if c.confirmed == 0 {
		return nil // PostgreSQL takes 0 as "no news", and other programs as "all"
	}
	if err := c.Status(c.received, c.confirmed, now, askReply); err != nil {
		return err
	}
	c.told, c.toldAt, c.wantsReply = c.confirmed, now, false
	return nil
}

// read reads once from the server. before is the time.
func (c *connection) read(before time.Time) error {
	err := c.Fill()
	now := time.Now()
	if now.Sub(before) > time.Millisecond {
		c.caughtUp = now // there was nothing to read
	}
	if err == nil {
		c.heardAt, c.askedAt = now, time.Time{}
	}
	return err
}

// alive asks a silent server for a sign of life at half of the timeout, and fails when there was none. It returns when it
// wants to be asked again.
func (c *connection) alive(now time.Time) (time.Time, error) {
	if c.askedAt.IsZero() {
		if ask := c.heardAt.Add(c.timeout / 2); now.Before(ask) {
			return ask, nil
		}
		if err := c.status(now, true); err != nil {
			return now, err
		}
		c.askedAt = now
	}
	end := c.askedAt.Add(c.timeout / 2)
	if !now.Before(end) {
		return now, silence(c.timeout)
	}
	return end, nil
}

// keepalive takes in the keepalive in c.frame.
//
// A server that stops fast waits until the client has confirmed all it was sent, and asks for it without a pause (WalSndDone
// in src/backend/replication/walsender.c); a server in good health asks only when it has not heard of us for half of
// wal_sender_timeout (WalSndKeepaliveIfNecessary).
func (c *connection) keepalive() {
	if !c.frame.ReplyRequested {
		return
	}
	c.wantsReply = true
	early := c.senderTimeout == 0 || c.heardAt.Sub(c.toldAt) < c.senderTimeout/2
	switch {
	case !early, c.frame.End != c.pingAt:
		c.pings, c.pingAt = 0, c.frame.End
	default:
		c.pings++
	}
}

// shutdown lets a server go that is stopping: after a grace for the acknowledgements it hangs up, for otherwise the server
// would wait for ever. Where the owner has not caught up for a while it cannot see the server asking; then an ordinary
// connection that is refused says it (a probe in a goroutine of its own).
func (c *connection) shutdown(s *Stream, now time.Time) (time.Time, error) {
	switch {
	case !c.leaveAt.IsZero():
		if now.Before(c.leaveAt) {
			return c.leaveAt, nil
		}
		if err := c.status(now, false); err != nil {
			return now, err
		}
		return now, &Error{Kind: ErrServerDown, What: "the server is stopping, and was let go before everything was acknowledged"}
	case c.pings >= pingsOfStop, c.refused.Load():
		c.leaveAt = now.Add(grace)
		s.cfg.log.Info("server is stopping: waiting for acknowledgements", "grace", grace, "confirmed", c.confirmed)
		return c.leaveAt, nil
	}
	due := c.caughtUp
	if c.probedAt.After(due) {
		due = c.probedAt
	}
	if due = due.Add(probeAfter); now.Before(due) {
		return due, nil
	}
	c.probedAt = now
	c.probe(s)
	return now.Add(probeAfter), nil
}

func (c *connection) probe(s *Stream) {
	if c.probing != nil {
		select {
		case <-c.probing:
		default:
			return // it takes its time
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, 2*probeAfter)
	c.probing, c.stopProbe = make(chan struct{}), cancel
	cfg := c.config.Copy()
	cfg.BuildFrontend, cfg.Fallbacks, cfg.ValidateConnect, cfg.AfterConnect = nil, nil, nil, nil
	delete(cfg.RuntimeParams, "replication")
	go func(done chan struct{}) {
		defer close(done)
		defer cancel()
		conn, err := pgconn.ConnectConfig(ctx, cfg)
		if err == nil {
			conn.Close(ctx)
		} else if sqlState(err) == stateCannotConnectNow {
			c.refused.Store(true)
			s.interrupt()
		}
	}(c.probing)
}

// farewell confirms the last position and ends the stream properly. nil: the server has it.
func (c *connection) farewell(last LSN, deadline time.Time) error {
	c.confirmed = last
	if err := c.status(time.Now(), false); err != nil {
		return err
	}
	return c.Finish(deadline)
}

// hangUp closes the connection and waits for the probe.
func (c *connection) hangUp() {
	if c.probing != nil {
		c.stopProbe()
		<-c.probing
	}
	c.Close()
}
