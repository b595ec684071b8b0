package walchan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walchan/walchan/internal/begin"
)

// Waiting for a slot that another client streams from (WithWaitForSlot). The catalogue is asked over one connection that is kept. It is
// a walsender's, because a smart stop of the server does not wait for those.

// slotWait is a wait for the stream's slot.
type slotWait struct {
	begin.Wait
	looks int
}

// untilFree returns when the slot is free, or when it cannot be asked any more: then the next attempt says why. It returns the error
// of Subscribe if the stream's context ends. active is why the slot could not be used.
func (o *owner) untilFree(w *slotWait, active error) error {
	w.Begin(time.Now())
	w.waiting(o, active)
	var conn *connection
	defer func() {
		if conn != nil {
			conn.hangUp()
		}
	}()
	for {
		if !o.pauseFor(w.Pause()) {
			return fmt.Errorf("%w: %w", context.Cause(o.ctx), begin.Waiting(active))
		}
		var err error
		if conn == nil {
			if conn, err = o.dialToLook(); err != nil {
				return o.lookAgain(w, active)
			}
		}
		holder, err := o.lookForHolder(conn)
		if err != nil || holder.PID == "" {
			return nil
		}
		w.report(o, holder, active)
	}
}

// A process that has ended, or was killed, leaves a walsender that needs a moment to end.
const (
	leavingTime  = 2 * time.Second
	leavingPause = 100 * time.Millisecond
)

// ifLeaving returns nil if the slot is worth another attempt, because its holder may be about to leave.
func (o *owner) ifLeaving(w *slotWait, active error) error {
	w.Begin(time.Now())
	if w.Lasts() >= leavingTime {
		return active
	}
	if !o.pauseFor(leavingPause) {
		return fmt.Errorf("%w: %w", context.Cause(o.ctx), active)
	}
	return nil
}

// lookAgain is for a client that is not let into the database, as a physical one may not be: the next attempt shows whether the slot is free.
func (o *owner) lookAgain(w *slotWait, active error) error {
	if e := (*Error)(nil); errors.As(active, &e) && e.PID != 0 {
		w.report(o, begin.Holder{PID: fmt.Sprint(e.PID)}, active)
	} else {
		w.report(o, begin.Holder{}, active)
	}
	if !o.pauseFor(begin.SlotPoll) {
		return fmt.Errorf("%w: %w", context.Cause(o.ctx), begin.Waiting(active))
	}
	return nil
}

// dialToLook makes the connection over which the slot is looked at.
func (o *owner) dialToLook() (*connection, error) {
	cfg := *o.cfg
	cfg.physical = false // that has no SQL
	return cfg.dial(o.ctx, o.source.Slot)
}

func (o *owner) lookForHolder(c *connection) (begin.Holder, error) {
	ctx, cancel := context.WithTimeout(o.ctx, awaitTimeout)
	defer cancel()
	return begin.LookForHolder(ctx, c.Query, o.making())
}

// report logs who holds the slot, if that is due, and publishes the state.
func (w *slotWait) report(o *owner, h begin.Holder, active error) {
	if w.Report(o.cfg.log, o.source.Slot, h) {
		w.waiting(o, active)
	}
}

// waiting publishes the state.
func (w *slotWait) waiting(o *owner, active error) {
	w.looks++
	o.gauge.mu.Lock()
	o.gauge.attempt, o.gauge.delay = w.looks, begin.SlotPoll
	o.gauge.mu.Unlock()
	o.setState(StateRetrying, begin.Waiting(active))
}
