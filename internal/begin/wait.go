package begin

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/walerr"
)

// Waiting for a slot that another client streams from. The server tells nobody that a slot is free, so the catalogue is asked.

// SlotPoll is between two looks at the slot.
const SlotPoll = 700 * time.Millisecond

// firstPoll is the same in the first second: the holder may have been killed just now.
const firstPoll = 50 * time.Millisecond

// Holder is the client that streams from a slot, as far as the role may see it.
type Holder struct {
	PID, Application, Address string
}

// LookForHolder returns who streams from the slot, or makes it. It returns the zero Holder if nobody does.
func LookForHolder(ctx context.Context, query slots.Querying, making slots.Making) (h Holder, err error) {
	rows, err := query(ctx, "SELECT coalesce(s.active_pid::text, ''), coalesce(a.application_name, ''), coalesce(a.client_addr::text, '') "+
		"FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = "+pgsql.Literal(making.Slot)+
		" OR "+making.Rivals()+" ORDER BY s.active_pid LIMIT 1") // the one in use first
	if err != nil || len(rows) == 0 { // it was dropped
		return h, err
	}
	return Holder{rows[0][0], rows[0][1], rows[0][2]}, nil
}

// Wait is a wait for a slot.
type Wait struct {
	since  time.Time
	holder Holder    // as it was logged
	logAt  time.Time // when to log it again
	logged int
}

// Begin notes when the wait has begun, if it has not begun yet.
func (w *Wait) Begin(now time.Time) {
	if w.since.IsZero() {
		w.since = now
	}
}

// Lasts is for how long the wait has lasted.
func (w *Wait) Lasts() time.Duration { return time.Since(w.since) }

// Pause is until the next look at the slot.
func (w *Wait) Pause() time.Duration {
	if w.Lasts() < time.Second {
		return firstPoll
	}
	return SlotPoll
}

// Report logs who holds the slot: at first, when that changes, and now and then. It says whether it has.
func (w *Wait) Report(log *slog.Logger, slot string, h Holder) bool {
	now := time.Now()
	if w.logged > 0 && h == w.holder && now.Before(w.logAt) {
		return false
	}
	if h != w.holder {
		w.logged = 0
	}
	w.holder, w.logAt = h, now.Add(reportPause(w.logged))
	w.logged++
	log.Info("waiting for the slot, from which another client streams", "slot", slot, "pid", h.PID, "application_name", h.Application,
		"client_addr", h.Address, "waited", now.Sub(w.since).Round(time.Second))
	return true
}

// reportPause lies behind the n-th report.
func reportPause(n int) time.Duration {
	pauses := [...]time.Duration{1, 2, 5, 10, 30, 60}
	return pauses[min(n, len(pauses)-1)] * time.Minute
}

// Waiting is the error of a slot in use without the advice to end the client that holds it.
func Waiting(active error) error {
	e := (*walerr.Error)(nil)
	if !errors.As(active, &e) || e.Kind != walerr.SlotActive {
		return active
	}
	waiting := *e
	waiting.Advice = "WithWaitForSlot waits until it is free"
	return &waiting
}
