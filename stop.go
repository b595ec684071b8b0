package walchan

import (
	"errors"
	"time"

	"github.com/walchan/walchan/internal/ledger"
)

// end is the end of the stream: it closes the channel, waits for what is in hand, and says good-bye to the server.
func (o *owner) end(c *connection, err error) {
	stopped := errors.Is(err, errStopped) || err == errEnded
	if o.ctx.Err() == nil && !stopped {
		o.err = err
		o.setState(StateClosed, err)
	}
	close(o.gauge.ended)
	close(o.c)
	if c != nil && stopped {
		err = o.drain(c)
	}
	o.ledger.Close()
	o.closeErr = o.farewell(c, err)
	o.conn.Store(nil) // messages that are kept hold the stream, by their receipts, and need not hold its buffers
	o.setState(StateClosed, o.err)
}

// drain waits until everything delivered is acknowledged, at most for the drain timeout since the stream was told to stop, or
// until Close, or until the server is to be let go.
func (o *owner) drain(c *connection) error {
	if c.snapshot != nil {
		return c.snapshot.drain(o, c)
	}
	o.setState(StateDraining, nil)
	var told time.Time // to stop; zero: was not, but has come to its end
	err := o.hold(c, wait{}, func(now time.Time, w wait) (wait, bool, error) {
		if told.IsZero() && o.ctx.Err() != nil {
			told = now
		}
		if !told.IsZero() {
			end := told.Add(o.cfg.drainTimeout)
			if !now.Before(end) {
				return w, true, nil
			}
			w.until = earliest(w.until, end)
		}
		w.interest = ledger.All
		return w, o.closing.Load() || o.ledger.Outstanding() == 0, nil
	})
	if err == errLetGo {
		return nil
	}
	return err
}

// farewell tells the server the last position and makes sure it has it. err is why the connection cannot be used, if so.
func (o *owner) farewell(c *connection, err error) error {
	last := o.ledger.Advance()
	if c != nil {
		if err == nil {
			if err = c.Farewell(last, time.Now().Add(o.cfg.closeTimeout)); err == nil {
				o.known = c.Status.Confirmed
			}
		}
		c.hangUp()
	}
	if last <= o.known {
		return nil
	}
	return &UnconfirmedError{Acknowledged: last, Confirmed: o.known, Err: err}
}
