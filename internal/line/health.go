package line

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/walerr"
)

// Suspect asks a silent server for a sign of life at half of the timeout. If there was none, it says that the server is in doubt: then
// CheckBusy is to be called. It returns when it wants to be called again.
func (l *Line) Suspect(now time.Time) (inDoubt bool, next time.Time, err error) {
	suspicion, next := l.Liveness.Suspect(now)
	switch suspicion {
	case link.None:
		return false, next, nil
	case link.Ask:
		if err := l.tell(now, true); err != nil {
			return false, now, err
		}
		l.Liveness.Asked(now)
		return false, l.Liveness.Deadline(), nil
	}
	return true, now, nil
}

// CheckBusy asks on an ordinary connection whether the walsender is at work. It fails if not. A walsender that decodes a transaction of
// which it sends nothing can be silent for minutes, but then it does not wait for the network.
func (l *Line) CheckBusy(ctx context.Context) error {
	if why := l.whyIdle(ctx); why != nil {
		return &walerr.Error{Kind: walerr.Unreachable, What: fmt.Sprintf("the server has sent nothing for %v, also when it was asked", l.Liveness.Timeout), Err: why}
	}
	return nil
}

// whyIdle returns nil if the walsender is at work, and else what it does.
func (l *Line) whyIdle(ctx context.Context) error {
	if l.BackendStart == "" {
		return errors.New("a walsender of physical replication does not decode")
	}
	conn, err := l.DialOrdinary(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := session.Query(ctx, conn, fmt.Sprintf("SELECT coalesce(wait_event_type, ''), coalesce(wait_event, '') FROM pg_catalog.pg_stat_activity "+
		"WHERE pid = %d AND backend_start::text = %s", l.PID(), pgsql.Literal(l.BackendStart)))
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

// probe asks over ordinary connections whether the server is stopping.
type probe struct {
	task
	refused atomic.Bool // it is
}

const probeTimeout = 6 * time.Second

// LetGo lets a server go that is stopping: after a grace for the acknowledgements it returns Leave. Otherwise the server would wait for
// ever, and with a backlog to send for long. When a probe is due, LetGo makes it, which lasts until ctx ends at most, and calls wake if
// the server is stopping. It returns when it wants to be called again.
func (l *Line) LetGo(ctx context.Context, now time.Time, wake func()) (link.Step, time.Time, error) {
	step, next := l.Shutdown.Next(now, l.probe.refused.Load())
	switch step {
	case link.Leave:
		return step, now, l.tell(now, false)
	case link.Probe:
		l.probe.begin(ctx, probeTimeout, func(ctx context.Context) {
			if dial.IsStopping(ctx, l.OrdinaryConfig()) {
				l.probe.refused.Store(true)
				wake()
			}
		})
	}
	return step, next, nil
}
