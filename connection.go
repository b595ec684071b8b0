package walchan

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
)

const probeTimeout = 6 * time.Second // for the question whether it is stopping

// connection is one connection of a stream, with what the server was told over it and what is known of its health. It
// belongs to the owner.
type connection struct {
	slots.Access
	remote
	succession

	origin   *resume.Source // of its messages
	from     LSN            // where the stream begins
	made     bool           // the slot was made for it
	snapshot *snapshotRun   // to be taken before its stream begins; nil: none

	frame    session.Frame
	gap      error // the server has left out changes; nil: it has not
	received LSN   // up to here the server has sent everything
	limit    LSN   // the highest position that may be told: while the connection is on trial, the slot's own; afterwards never, which is no limit
	health
	standing
}

// remote is what the server is.
type remote struct {
	timeline      int32
	history       string // of the timeline, where it was asked for
	standby       bool   // it is in recovery
	backendStart  string // with the PID it identifies the walsender
	serverStarted int64  // microseconds since 1970-01-01 UTC
}

// health is the clocks of a connection.
type health struct {
	status   link.Status
	liveness link.Liveness
	flow     link.Flow
	shutdown link.Shutdown
	probing  sideTask
	refused  atomic.Bool // the probe was: the server is stopping
}

// standing is where the server is between transactions, with checkpoints: see progress.go.
type standing struct {
	ahead       LSN       // the last keepalive between two transactions was there
	progressAt  time.Time // of the last Progress
	looking     sideTask  // at synchronous_standby_names
	lookedAt    time.Time
	synchronous atomic.Bool // COMMITs may wait for this stream
}

// report writes a status if one is due, or if it must be. It returns when the next one is.
func (c *connection) report(confirmed LSN, now time.Time, must bool) (next time.Time, err error) {
	c.status.Confirmed = confirmed
	if due := c.status.Due(); !must && now.Before(due) {
		return due, nil
	}
	if err := c.tell(now, false); err != nil {
		return now, err
	}
	return now.Add(c.status.Pause()), nil
}

// interest is what an acknowledgement need wake the owner for: nothing while a status is due anyway.
func (c *connection) interest() ledger.Interest {
	if c.status.HasNews() {
		return ledger.Nothing
	}
	return ledger.NextMark
}

// tell writes a status.
func (c *connection) tell(now time.Time, askReply bool) error {
	// What is confirmed was received, if perhaps over an earlier connection.
	c.received = max(c.received, c.status.Confirmed)
	if c.status.Confirmed == 0 {
		return nil // PostgreSQL takes 0 as "no news", and other programs as "all"
	}
	if err := c.Status(c.received, c.status.Confirmed, now, askReply); err != nil {
		return err
	}
	c.status.Sent(now)
	return nil
}

// read reads once from the server. before is the time.
func (c *connection) read(before time.Time, gathering bool) error {
	err := c.Fill()
	now := time.Now()
	if !gathering { // else it has not waited for want of data
		c.shutdown.Waited(now, now.Sub(before))
	}
	if err == nil {
		c.liveness.Heard(now)
	}
	return err
}

// listen notes that the server was not listened to until now.
func (c *connection) listen(now time.Time) {
	c.liveness.Heard(now)
	c.flow.DataAt = now
}

// alive asks a silent server for a sign of life at half of the timeout, and fails when there was none, unless it is seen to
// be busy. It returns when it wants to be asked again.
func (o *owner) alive(c *connection, now time.Time) (time.Time, error) {
	suspicion, next := c.liveness.Suspect(now)
	switch suspicion {
	case link.None:
		return next, nil
	case link.Ask:
		if err := c.tell(now, true); err != nil {
			return now, err
		}
		c.liveness.Asked(now)
		return c.liveness.Deadline(), nil
	}
	dead, err := o.await(c.checkBusy)
	if err != nil {
		return now, err
	}
	if dead != nil {
		return now, &Error{Kind: ErrUnreachable, What: fmt.Sprintf("the server has sent nothing for %v, also when it was asked", c.liveness.Timeout), Err: dead}
	}
	o.cfg.log.Info("the server is silent, for it is busy decoding: waiting", "slot", o.source.Slot, "walsender", c.PID())
	return time.Now().Add(c.liveness.Timeout / 2), nil
}

// checkBusy asks on an ordinary connection whether the walsender is at work, and fails if it is not: a walsender that
// decodes a transaction nobody has subscribed to can be silent for minutes, but then it does not wait for the network.
func (c *connection) checkBusy(ctx context.Context) error {
	if c.backendStart == "" {
		return errors.New("a walsender of physical replication does not decode")
	}
	conn, err := c.DialOrdinary(ctx)
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

// keepalive takes in the keepalive in c.frame.
func (c *connection) keepalive() {
	c.shutdown.Keepalive()
	if c.frame.ReplyRequested {
		c.status.WantsReply = true
		c.shutdown.Ping(c.frame.End, c.liveness.HeardAt.Sub(c.status.At))
	}
}

// letGo lets a server go that is stopping: after a grace for the acknowledgements it hangs up, for otherwise the server
// would wait for ever, and with a backlog to send for long.
func (c *connection) letGo(o *owner, now time.Time) (time.Time, error) {
	step, next := c.shutdown.Next(now, c.refused.Load())
	switch step {
	case link.Leave:
		if err := c.tell(now, false); err != nil {
			return now, err
		}
		return now, errLetGo
	case link.Announce:
		o.cfg.log.Info("server is stopping: waiting for acknowledgements", "grace", link.Grace, "confirmed", c.status.Confirmed)
	case link.Probe:
		c.probe(o)
	}
	return next, nil
}

var errLetGo error = &Error{Kind: ErrServerDown, What: "the server is stopping, and was let go before everything was acknowledged"}

func (c *connection) probe(o *owner) {
	ctx := context.WithoutCancel(o.ctx) // also while draining; hangUp ends it
	c.probing.begin(ctx, probeTimeout, func(ctx context.Context) {
		if dial.IsStopping(ctx, c.OrdinaryConfig()) {
			c.refused.Store(true)
			o.interrupt()
		}
	})
}

// farewell confirms the last position and ends the stream properly. nil: the server has it.
func (c *connection) farewell(last LSN, deadline time.Time) error {
	c.status.Confirmed = last
	if err := c.tell(time.Now(), false); err != nil {
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
