package line

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/session"
)

// standbys looks from time to time at synchronous_standby_names. pg_stat_replication does not tell an ordinary role.
type standbys struct {
	task
	lookedAt time.Time
	haveUs   atomic.Bool
}

const lookPause = 10 * time.Second // between two looks

// IsSynchronous says whether COMMITs may wait for this stream.
func (l *Line) IsSynchronous() bool { return l.standbys.haveUs.Load() }

// LookAtStandbys finds out whether that has changed, if it was not looked for a while. It calls wake if so. It returns when it wants to be
// called again.
func (l *Line) LookAtStandbys(ctx context.Context, now time.Time, wake func()) (next time.Time) {
	s := &l.standbys
	if next := s.lookedAt.Add(lookPause); now.Before(next) {
		return next
	}
	s.lookedAt = now
	s.begin(ctx, link.AskTimeout, func(ctx context.Context) {
		conn, err := l.DialOrdinary(ctx)
		if err != nil {
			return
		}
		defer conn.Close(ctx)
		rows, err := session.Query(ctx, conn, "SHOW synchronous_standby_names")
		if err == nil && len(rows) == 1 && s.haveUs.Swap(l.isNamed(rows[0][0])) != s.haveUs.Load() {
			wake()
		}
	})
	return now.Add(lookPause)
}

// isNamed says whether synchronous_standby_names has the stream.
func (l *Line) isNamed(setting string) bool {
	return begin.NamesStandby(setting, l.Config.RuntimeParams["application_name"])
}
