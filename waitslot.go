package walchan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walchan/walchan/internal/pgsql"
)

// Waiting for a slot that another client streams from (WithWaitForSlot). The server tells nobody that a slot is free, so the catalogue is
// asked, over one connection that is kept. It is a walsender's, because a smart stop of the server does not wait for those.

const (
	slotPoll  = 700 * time.Millisecond // between two looks at the slot
	firstPoll = 50 * time.Millisecond  // the same in the first second: the holder may have been killed just now
)

// slotWait is a wait for a slot.
type slotWait struct {
	since  time.Time
	looks  int
	holder slotHolder // as it was logged
	logAt  time.Time  // when to log it again
	logged int
}

// slotHolder is the client that streams from a slot, as far as the role may see it.
type slotHolder struct {
	pid, application, address string
}

// untilFree returns when the slot is free, or when it cannot be asked any more: then the next attempt says why. It returns the error
// of Subscribe if the stream's context ends. active is why the slot could not be used.
func (o *owner) untilFree(w *slotWait, active error) error {
	if w.since.IsZero() {
		w.since = time.Now()
	}
	w.waiting(o, active)
	var conn *connection
	defer func() {
		if conn != nil {
			conn.hangUp()
		}
	}()
	for {
		pause := slotPoll
		if time.Since(w.since) < time.Second {
			pause = firstPoll
		}
		if !o.pauseFor(pause) {
			return fmt.Errorf("%w: %w", context.Cause(o.ctx), waitingError(active))
		}
		var err error
		if conn == nil {
			if conn, err = o.dialToLook(); err != nil {
				return o.lookAgain(w, active)
			}
		}
		holder, err := o.lookForHolder(conn)
		if err != nil || holder.pid == "" {
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
	if w.since.IsZero() {
		w.since = time.Now()
	}
	if time.Since(w.since) >= leavingTime {
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
		w.report(o, slotHolder{pid: fmt.Sprint(e.PID)}, active)
	} else {
		w.report(o, slotHolder{}, active)
	}
	if !o.pauseFor(slotPoll) {
		return fmt.Errorf("%w: %w", context.Cause(o.ctx), waitingError(active))
	}
	return nil
}

// dialToLook makes the connection over which the slot is looked at.
func (o *owner) dialToLook() (*connection, error) {
	cfg := *o.cfg
	cfg.physical = false // that has no SQL
	return cfg.dial(o.ctx, o.source.Slot)
}

func (o *owner) lookForHolder(c *connection) (h slotHolder, err error) {
	ctx, cancel := context.WithTimeout(o.ctx, awaitTimeout)
	defer cancel()
	rows, err := c.Query(ctx, "SELECT coalesce(s.active_pid::text, ''), coalesce(a.application_name, ''), coalesce(a.client_addr::text, '') "+
		"FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = "+pgsql.Literal(o.source.Slot)+
		" OR "+o.rivals()+" ORDER BY s.active_pid LIMIT 1") // the one in use first
	if err != nil || len(rows) == 0 { // it was dropped
		return h, err
	}
	return slotHolder{rows[0][0], rows[0][1], rows[0][2]}, nil
}

// report logs who holds the slot: at first, when that changes, and now and then.
func (w *slotWait) report(o *owner, h slotHolder, active error) {
	now := time.Now()
	if w.logged > 0 && h == w.holder && now.Before(w.logAt) {
		return
	}
	if h != w.holder {
		w.logged = 0
	}
	w.holder, w.logAt = h, now.Add(reportPause(w.logged))
	w.logged++
	o.cfg.log.Info("waiting for the slot, from which another client streams", "slot", o.source.Slot, "pid", h.pid, "application_name", h.application,
		"client_addr", h.address, "waited", now.Sub(w.since).Round(time.Second))
	w.waiting(o, active)
}

// reportPause lies behind the n-th report.
func reportPause(n int) time.Duration {
	pauses := [...]time.Duration{1, 2, 5, 10, 30, 60}
	return pauses[min(n, len(pauses)-1)] * time.Minute
}

// waiting publishes the state.
func (w *slotWait) waiting(o *owner, active error) {
	w.looks++
	o.gauge.mu.Lock()
	o.gauge.attempt, o.gauge.delay = w.looks, slotPoll
	o.gauge.mu.Unlock()
	o.setState(StateRetrying, waitingError(active))
}

// waitingError is the error without the advice to end the client that holds the slot.
func waitingError(active error) error {
	e := (*Error)(nil)
	if !errors.As(active, &e) || e.Kind != ErrSlotActive {
		return active
	}
	waiting := *e
	waiting.Advice = "WithWaitForSlot waits until it is free"
	return &waiting
}
