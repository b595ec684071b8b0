package walchan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
)

const (
	late         = 10 * time.Millisecond  // behind the server's commits, changes may be later still by a quarter of that,
	later        = 10 * time.Millisecond  // but not more than this
	coalesce     = time.Millisecond       // between two statuses because the confirmed position moved
	replyPause   = 100 * time.Millisecond // between two statuses because the server asked
	firstPause   = 20 * time.Millisecond  // between the first two statuses of a connection
	settle       = time.Second            // a state must last before it is one: blocked, idle
	probeAfter   = 3 * time.Second        // without having caught up, the server is asked whether it is stopping
	grace        = 2 * time.Second        // for acknowledgements, before a stopping server is let go
	awaitTimeout = 10 * time.Second       // for what is asked of the server beside the stream
	pingsOfStop  = 3                      // early requests for a reply, behind the first at a position, that say the server is stopping
)

// connection is one connection of a stream, with what the server was told over it and what is known of its health. It
// belongs to the owner.
type connection struct {
	*session.Conn
	config  *pgconn.Config // it was made with
	address string         // it was made to
	origin  *resume.Source // of its messages
	history string         // of the server's timeline, where it was asked for
	from    LSN            // where the stream begins
	made    bool           // the slot was made for it
	succession

	snapshot *snapshot // to be taken before its stream begins; nil: none

	frame session.Frame
	gap   error // the server has left out changes; nil: it has not

	since        time.Time
	timeline     int32
	standby      bool   // it is in recovery
	backendStart string // with the PID it identifies the walsender

	serverStarted int64 // microseconds since 1970-01-01 UTC

	interval      time.Duration // between statuses
	senderTimeout time.Duration // the server's wal_sender_timeout; 0: none
	timeout       time.Duration // of silence

	// Telling.
	received   LSN // up to here the server has sent everything
	told       LSN // flush position of the last status
	confirmed  LSN // what is to be told
	limit      LSN // no more is told: the slot's own position, while the connection is on trial; never: there is none
	toldAt     time.Time
	wantsReply bool

	// Listening.
	busy     bool          // data came since idle looked
	dataAt   time.Time     // when it last had come
	sendLag  time.Duration // age of the last change when the server sent it, since its commit
	heardAt  time.Time     // the last bytes, or the last time we did not listen
	askedAt  time.Time     // when the server was asked for a sign of life; zero: was not
	waited   time.Time     // when there was last nothing to read
	caughtUp time.Time     // when the server last had nothing to send

	// A server that is stopping waits for us.
	pings    int
	pingAt   LSN
	leaveAt  time.Time // when to hang up; zero: it does not stop
	probedAt time.Time
	probing  sideTask
	refused  atomic.Bool // the probe was: the server is stopping

	// With checkpoints: see progress.go.
	ahead       LSN       // the last keepalive between two transactions was there
	progressAt  time.Time // of the last Progress
	looking     sideTask  // at synchronous_standby_names
	lookedAt    time.Time
	synchronous atomic.Bool // COMMITs may wait for this stream
}

// report writes a status if one is due: in time, because the confirmed position has moved, because the server asked, or
// because it must be. It returns when the next one is.
func (c *connection) report(confirmed LSN, now time.Time, must bool) (next time.Time, err error) {
	c.confirmed = confirmed
	if !must && now.Before(c.statusDue()) {
		return c.statusDue(), nil
	}
	if err := c.status(now, false); err != nil {
		return now, err
	}
	return now.Add(c.pause()), nil
}

func (c *connection) statusDue() time.Time {
	switch {
	case c.confirmed > c.told:
		return c.toldAt.Add(coalesce)
	case c.wantsReply:
		return c.toldAt.Add(min(replyPause, c.interval))
	}
	return c.toldAt.Add(c.pause())
}

// pause is what lies between two statuses without news. On a new connection it is short, and doubles: until the walsender has
// read what WAL there was, it lets nobody go who waits for a status in COMMIT, and does not look again at one it has had
// (SyncRepReleaseWaiters in src/backend/replication/syncrep.c, WALSNDSTATE_CATCHUP).
func (c *connection) pause() time.Duration {
	return min(max(c.toldAt.Sub(c.since), firstPause), c.interval)
}

// interest is what an acknowledgement need wake the owner for: nothing while a status is due anyway.
func (c *connection) interest() ledger.Interest {
	if c.confirmed > c.told {
		return ledger.Nothing
	}
	return ledger.NextMark
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
func (c *connection) read(before time.Time, gathering bool) error {
	err := c.Fill()
	now := time.Now()
	switch waited := now.Sub(before); {
	case gathering: // and not for want of data
	case waited > settle:
		c.caughtUp = now
		fallthrough
	case waited > time.Millisecond:
		c.waited = now // there was nothing to read: either the server has nothing, or it decodes slowly, or the network is slow
	}
	if err == nil {
		c.heardAt, c.askedAt = now, time.Time{}
	}
	return err
}

// listen notes that the server was not listened to until now: what it sent meanwhile is still to be read.
func (c *connection) listen(now time.Time) { c.heardAt, c.askedAt, c.dataAt = now, time.Time{}, now }

// idle says whether nothing but keepalives has come for a while.
func (c *connection) idle(now time.Time) bool {
	if c.busy {
		c.busy, c.dataAt = false, now
	}
	if now.Sub(c.dataAt) < settle {
		return false
	}
	c.sendLag = 0
	return true
}

// alive asks a silent server for a sign of life at half of the timeout, and fails when there was none, unless it is seen to
// be busy. It returns when it wants to be asked again.
func (s *Stream) alive(c *connection, now time.Time) (time.Time, error) {
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
	if now.Before(end) {
		return end, nil
	}
	dead, err := s.await(c.checkBusy)
	if err != nil {
		return now, err
	}
	if dead != nil {
		return now, &Error{Kind: ErrUnreachable, What: fmt.Sprintf("the server has sent nothing for %v, also when it was asked", c.timeout), Err: dead}
	}
	s.cfg.log.Info("the server is silent, for it is busy decoding: waiting", "slot", s.source.Slot, "walsender", c.PID())
	return time.Now().Add(c.timeout / 2), nil
}

// checkBusy asks on an ordinary connection whether the walsender is at work, and fails if it is not: a walsender that
// decodes a transaction nobody has subscribed to can be silent for minutes, but then it does not wait for the network.
func (c *connection) checkBusy(ctx context.Context) error {
	if c.backendStart == "" {
		return errors.New("a walsender of physical replication does not decode")
	}
	conn, err := c.dialOrdinary(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := session.Query(ctx, conn, fmt.Sprintf("SELECT coalesce(wait_event_type, ''), coalesce(wait_event, '') FROM pg_catalog.pg_stat_activity "+
		"WHERE pid = %d AND backend_start::text = %s", c.PID(), pgsql.Literal(c.backendStart)))
	switch {
	case err != nil:
		return err
	case len(rows) == 0:
		return errors.New("its walsender is gone")
	case rows[0][0] == "Client" || rows[0][0] == "Activity":
		return fmt.Errorf("its walsender waits (%s %s)", rows[0][0], rows[0][1])
	}
	return nil
}

// dialOrdinary makes an ordinary connection to the server of this one.
func (c *connection) dialOrdinary(ctx context.Context) (*pgconn.PgConn, error) {
	return pgconn.ConnectConfig(ctx, c.ordinaryConfig())
}

// ordinaryConfig is for an ordinary connection to the server of this one: of several hosts only to the one that was reached.
func (c *connection) ordinaryConfig() *pgconn.Config {
	cfg := c.config.Copy()
	cfg.ValidateConnect, cfg.AfterConnect = nil, nil
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != c.address {
			return nil, errors.New("not the server of the stream")
		}
		return c.config.DialFunc(ctx, network, address)
	}
	return cfg
}

// keepalive takes in the keepalive in c.frame.
//
// A server that stops fast waits until the client has confirmed all it was sent, and asks for it without a pause (WalSndDone
// in src/backend/replication/walsender.c); a server in good health asks only when it has not heard of us for half of
// wal_sender_timeout (WalSndKeepaliveIfNecessary). One that has sent all it has says how far it has come before it waits
// (WalSndWaitForWal): if there was no more to read, either, the stream has caught up.
func (c *connection) keepalive() {
	if c.waited.After(c.caughtUp) {
		c.caughtUp = c.waited
	}
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
// would wait for ever, and with a backlog to send for long. Where the stream has not caught up for a while it cannot see
// the server asking; then an ordinary connection that is refused says it (a probe in a goroutine of its own).
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
	ctx := context.WithoutCancel(s.ctx) // also while draining; hangUp ends it
	c.probing.begin(ctx, 2*probeAfter, func(ctx context.Context) {
		if c.isStopping(ctx) {
			c.refused.Store(true)
			s.interrupt()
		}
	})
}

// farewell confirms the last position and ends the stream properly. nil: the server has it.
func (c *connection) farewell(last LSN, deadline time.Time) error {
	c.confirmed = last
	if err := c.status(time.Now(), false); err != nil {
		return err
	}
	return c.Finish(deadline)
}

// hangUp closes the connection and waits for what was asked beside it.
func (c *connection) hangUp() {
	c.finish()
	c.probing.end()
	c.looking.end()
	if c.snapshot != nil {
		c.snapshot.close()
	}
	c.Close()
}
