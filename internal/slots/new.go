package slots

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/wal"
)

// New says what slot is to be made.
type New struct {
	Name      string
	Temporary bool

	Plugin             string // of a logical slot
	TwoPhase, Failover bool
	Snapshot           string // what becomes of the snapshot with which a logical slot begins: "export", "use"; "": nothing

	Physical, ReserveWAL bool
}

// Created is a slot that was made.
type Created struct {
	Name     string
	Start    wal.LSN // where a logical slot begins; 0 of a physical one
	Snapshot string  // its name, if it is exported
}

// FailoverServer is the first version whose standbys keep copies of slots.
const FailoverServer = 17

// checkVersion fails if the server is too old for the slot.
func (n *New) checkVersion(c *session.Conn) error {
	version, text := c.Version()
	var missing []string
	if n.TwoPhase {
		missing = pgfail.Needs(missing, version, "two-phase", 15)
	}
	if n.Failover {
		missing = pgfail.Needs(missing, version, "failover", FailoverServer)
	}
	return pgfail.TooOld(missing, text)
}

// command returns CREATE_REPLICATION_SLOT in the form that PostgreSQL 14 knows as well, if it can be: FAILOVER came later.
func (n *New) command() string {
	var b strings.Builder
	b.WriteString("CREATE_REPLICATION_SLOT " + pgsql.Quoted(n.Name))
	if n.Temporary {
		b.WriteString(" TEMPORARY")
	}
	if n.Physical {
		b.WriteString(" PHYSICAL")
		if n.ReserveWAL {
			b.WriteString(" RESERVE_WAL")
		}
		return b.String()
	}
	b.WriteString(" LOGICAL " + pgsql.Quoted(n.Plugin))
	twoPhase := func(option string) string {
		if n.TwoPhase {
			return option
		}
		return ""
	}
	if n.Failover {
		fmt.Fprintf(&b, " (FAILOVER, SNAPSHOT '%s'%s)", cmp.Or(n.Snapshot, "nothing"), twoPhase(", TWO_PHASE"))
		return b.String()
	}
	fmt.Fprintf(&b, " %s_SNAPSHOT%s", strings.ToUpper(cmp.Or(n.Snapshot, "noexport")), twoPhase(" TWO_PHASE"))
	return b.String()
}

// Create makes a slot. After an error there is none: what cannot be dropped is logged.
func (a *Access) Create(ctx context.Context, log *slog.Logger, n New) (Created, error) {
	if err := n.checkVersion(a.Conn); err != nil {
		return Created{}, err
	}
	row, err := a.make(ctx, log, &n)
	if err != nil {
		return Created{}, err
	}
	start, err := wal.ParseLSN(row[1])
	return Created{row[0], start, row[2]}, err
}

// make runs CREATE_REPLICATION_SLOT, and returns its row. After an error there is no slot.
func (a *Access) make(ctx context.Context, log *slog.Logger, n *New) ([]string, error) {
	by := NotKnown
	if a.lacks(ctx, n) {
		by = MissedOnce
	}
	answered := a.reportWait(ctx, log, n.Name)
	rows, err := a.QueryAnswered(ctx, n.command(), cleanUpTimeout)
	answered()
	if err == nil {
		by = MadeByUs
		if len(rows) != 1 || len(rows[0]) < 3 {
			err = errors.New("unexpected answer")
		}
	}
	if ended := ctx.Err(); ended != nil {
		if err == nil || errors.Is(err, ended) || sqlstate.Of(err) == sqlstate.QueryCanceled {
			err = ended
		}
	}
	switch {
	case err == nil:
		return rows[0], nil
	case by == MadeByUs, !n.Temporary && isOpen(err):
		a.ClearAway(log, n.Name, by)
	}
	return nil, CreateError(ctx, a.Conn, n.Name, n.Plugin, err)
}
