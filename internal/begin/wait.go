package begin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/walerr"
)

// Waiting for a slot that another client streams from. The server tells nobody that a slot is free, so the catalogue is asked, over one
// connection that is kept.

// SlotPoll is between two looks at the slot.
const SlotPoll = 700 * time.Millisecond

// firstPoll is the same in the first second: the holder may have been killed just now.
const firstPoll = 50 * time.Millisecond

// A process that has ended, or was killed, leaves a walsender that needs a moment to end.
const (
	leavingTime  = 2 * time.Second
	leavingPause = 100 * time.Millisecond
)

// Wait is a wait for a slot.
type Wait struct {
	Making  slots.Making // the stream among those who make the slot
	Log     *slog.Logger
	Waiting func(call int, why error) // is called as the wait begins, and when it is logged who holds the slot; call counts from 1

	calls  int // of Waiting
	since  time.Time
	holder holder    // as it was logged
	logAt  time.Time // when to log it again
	logged int
}

// UntilFree returns when the slot is free, or when it cannot be asked any more: then the next attempt says why. It returns the error
// of Subscribe if ctx ends. active is why the slot could not be used.
func (w *Wait) UntilFree(ctx context.Context, dial func() (*session.Conn, error), active error) error {
	w.begin(time.Now())
	w.publish(active)
	var conn *session.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for {
		if !link.Sleep(ctx, w.pause()) {
			return ended(ctx, waiting(active))
		}
		var err error
		if conn == nil {
			if conn, err = dial(); err != nil {
				return w.lookAgain(ctx, active)
			}
		}
		h, err := w.look(ctx, conn)
		if err != nil || h.pid == "" {
			return nil
		}
		w.report(h, active)
	}
}

// IfLeaving returns nil if the slot is worth another attempt, because its holder may be about to leave.
func (w *Wait) IfLeaving(ctx context.Context, active error) error {
	w.begin(time.Now())
	if w.lasts() >= leavingTime {
		return active
	}
	if !link.Sleep(ctx, leavingPause) {
		return ended(ctx, active)
	}
	return nil
}

// lookAgain is for a client that is not let into the database, as a physical one may not be: the next attempt shows whether the slot is free.
func (w *Wait) lookAgain(ctx context.Context, active error) error {
	var h holder
	if e := (*walerr.Error)(nil); errors.As(active, &e) && e.PID != 0 {
		h.pid = fmt.Sprint(e.PID)
	}
	w.report(h, active)
	if !link.Sleep(ctx, SlotPoll) {
		return ended(ctx, waiting(active))
	}
	return nil
}

// ended is the error of a wait whose context has ended.
func ended(ctx context.Context, why error) error {
	return fmt.Errorf("%w: %w", context.Cause(ctx), why)
}

// holder is the client that streams from a slot, as far as the role may see it.
type holder struct {
	pid, application, address string
}

// look returns who streams from the slot, or makes it. It returns the zero holder if nobody does.
func (w *Wait) look(ctx context.Context, c *session.Conn) (h holder, err error) {
	ctx, cancel := context.WithTimeout(ctx, link.AskTimeout)
	defer cancel()
	rows, err := c.Query(ctx, "SELECT coalesce(s.active_pid::text, ''), coalesce(a.application_name, ''), coalesce(a.client_addr::text, '') "+
		"FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = "+pgsql.Literal(w.Making.Slot)+
		" OR "+w.Making.Rivals()+" ORDER BY s.active_pid LIMIT 1") // the one in use first
	if err != nil || len(rows) == 0 { // it was dropped
		return h, err
	}
	return holder{rows[0][0], rows[0][1], rows[0][2]}, nil
}

// begin notes when the wait has begun, if it has not begun yet.
func (w *Wait) begin(now time.Time) {
	if w.since.IsZero() {
		w.since = now
	}
}

// lasts is for how long the wait has lasted.
func (w *Wait) lasts() time.Duration { return time.Since(w.since) }

// pause is until the next look at the slot.
func (w *Wait) pause() time.Duration {
	if w.lasts() < time.Second {
		return firstPoll
	}
	return SlotPoll
}

// report logs who holds the slot: at first, when that changes, and now and then.
func (w *Wait) report(h holder, active error) {
	now := time.Now()
	if w.logged > 0 && h == w.holder && now.Before(w.logAt) {
		return
	}
	if h != w.holder {
		w.logged = 0
	}
	w.holder, w.logAt = h, now.Add(reportPause(w.logged))
	w.logged++
	w.Log.Info("waiting for the slot, from which another client streams", "slot", w.Making.Slot, "pid", h.pid, "application_name", h.application,
		"client_addr", h.address, "waited", now.Sub(w.since).Round(time.Second))
	w.publish(active)
}

// reportPause lies behind the n-th report.
func reportPause(n int) time.Duration {
	pauses := [...]time.Duration{1, 2, 5, 10, 30, 60}
	return pauses[min(n, len(pauses)-1)] * time.Minute
}

func (w *Wait) publish(active error) {
	w.calls++
	w.Waiting(w.calls, waiting(active))
}

// waiting is the error of a slot in use without the advice to end the client that holds it.
func waiting(active error) error {
	e := (*walerr.Error)(nil)
	if !errors.As(active, &e) || e.Kind != walerr.SlotActive {
		return active
	}
	waits := *e
	waits.Advice = "WithWaitForSlot waits until it is free"
	return &waits
}
