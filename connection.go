package walchan

import (
	"context"
	"time"

	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/internal/line"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
)

// connection is one connection of a stream, and what comes over it. It belongs to the owner.
type connection struct {
	line.Line
	succession

	origin    *resume.Source // of its messages
	made      bool           // the physical slot was made for it
	described bool           // the server has described a table over it
	snapshot  *snapshotRun   // to be taken before its stream begins; nil: none

	frame session.Frame
	gap   error // the server has left out changes; nil: it has not

	// With checkpoints: see progress.go.
	ahead      LSN       // the last keepalive between two transactions was there
	progressAt time.Time // of the last Progress
}

// interest is what an acknowledgement need wake the owner for: nothing while a status is due anyway.
func (c *connection) interest() ledger.Interest {
	if c.Status.HasNews() {
		return ledger.Nothing
	}
	return ledger.NextMark
}

// alive fails when a silent server has given no sign of life, unless it is seen to be busy. It returns when it wants to be asked again.
func (o *owner) alive(c *connection, now time.Time) (time.Time, error) {
	inDoubt, next, err := c.Suspect(now)
	if !inDoubt || err != nil {
		return next, err
	}
	dead, err := o.await(c.CheckBusy)
	if err != nil {
		return now, err
	}
	if dead != nil {
		return now, dead
	}
	o.cfg.log.Info("the server is silent, for it is busy decoding: waiting", "slot", o.source.Slot, "walsender", c.PID())
	return time.Now().Add(c.Timers.Receive / 2), nil
}

// letGo ends the connection to a server that is stopping, after a grace. It returns when it wants to be called again.
func (o *owner) letGo(c *connection, now time.Time) (time.Time, error) {
	ctx := context.WithoutCancel(o.ctx) // also while draining; hangUp ends it
	step, next, err := c.LetGo(ctx, now, o.interrupt)
	switch {
	case err != nil:
		return now, err
	case step == link.Leave:
		return now, errLetGo
	case step == link.Announce:
		o.cfg.log.Info("server is stopping: waiting for acknowledgements", "grace", link.Grace, "confirmed", c.Status.Confirmed.String())
	}
	return next, nil
}

var errLetGo error = &Error{Kind: ErrServerDown, What: "the server is stopping, and was let go before everything was acknowledged"}

// hangUp closes the connection and waits for what was asked beside it.
func (c *connection) hangUp() {
	c.finish()
	if c.snapshot != nil {
		c.snapshot.close()
	}
	c.HangUp()
}
