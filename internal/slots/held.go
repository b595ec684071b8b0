package slots

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/walchan/walchan/internal/link"
)

// CREATE_REPLICATION_SLOT waits for the transactions that are running, one after the other, and says nothing of it.

// The wait is logged soon, and then at growing intervals.
const (
	firstReport = 3 * time.Second
	mostQuiet   = 5 * time.Minute
)

// reportWait logs for which transactions the making of a slot waits, until stop is called.
func (a *Access) reportWait(ctx context.Context, log *slog.Logger, slot string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		began := time.Now()
		for pause := firstReport; link.Sleep(ctx, pause); pause = min(2*pause, mostQuiet) {
			by, err := a.heldBy(ctx)
			waited := time.Since(began).Round(time.Second)
			switch {
			case ctx.Err() != nil:
			case err != nil:
				log.Warn("a new slot is not made yet, and what it waits for could not be asked", "slot", slot, "waited", waited, "error", err)
			case by == "":
				log.Warn("a new slot is not made yet: it waits for no transaction of this server (a standby waits for its primary: SELECT pg_log_standby_snapshot() there)",
					"slot", slot, "waited", waited)
			default:
				log.Warn("a new slot waits for a transaction to end", "slot", slot, "transaction", by, "waited", waited)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// heldBy returns the transaction that the walsender waits for, "" if there is none. It asks over a connection of its own.
func (a *Access) heldBy(ctx context.Context) (string, error) {
	conn, err := a.DialOrdinary(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := Over(conn)(ctx, fmt.Sprintf(`SELECT 'of PID ' || a.pid || coalesce(' (' || nullif(a.application_name, '') || ')', '') || coalesce(', begun at ' || a.xact_start, '')
		FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY (pg_catalog.pg_blocking_pids(%[1]d))
		UNION ALL SELECT 'prepared as ' || pg_catalog.quote_literal(x.gid) || ' at ' || x.prepared
		FROM pg_catalog.pg_prepared_xacts x JOIN pg_catalog.pg_locks l ON l.transactionid = x.transaction AND l.pid = %[1]d AND NOT l.granted`, a.PID()))
	var by []string
	for _, r := range rows {
		by = append(by, r[0])
	}
	return strings.Join(by, "; "), err
}
