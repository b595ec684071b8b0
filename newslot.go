package walchan

import (
	"context"
	"fmt"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
)

// NewSlot says what slot Conn.CreateSlot is to make. With only a Name it is a permanent logical one of pgoutput.
type NewSlot struct {
	Name      string
	Temporary bool // it goes with the connection that makes it

	Plugin   string       // of a logical slot; "": pgoutput
	TwoPhase bool         // logical: transactions are decoded when they are prepared (PostgreSQL 15 or later)
	Failover bool         // logical: standbys keep copies of it (PostgreSQL 17 or later; sync_replication_slots there)
	Snapshot SlotSnapshot // logical: what becomes of the snapshot it begins with

	Physical   bool
	ReserveWAL bool // physical: the server keeps WAL from its last checkpoint on; false: from when the slot is first streamed from
}

// SlotSnapshot says what becomes of the snapshot with which a logical slot begins: it sees exactly the transactions that the
// slot will not send.
type SlotSnapshot uint8

// The uses of a slot's first snapshot.
const (
	SnapshotNone   SlotSnapshot = iota // none
	SnapshotExport                     // for others, by CreatedSlot.Snapshot (SET TRANSACTION SNAPSHOT), until the connection's next command
	SnapshotUse                        // for the connection's own transaction, which Conn.Exec has begun (BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ)
)

// CreatedSlot is a slot that was made.
type CreatedSlot struct {
	Name     string
	Start    LSN    // where a logical slot begins; 0 of a physical one
	Snapshot string // SnapshotExport: its name
}

// validate names everything that is wrong at once.
func (n *NewSlot) validate() error {
	var problems []string
	if !pgsql.IsSlotName(n.Name) {
		problems = append(problems, pgsql.NotSlotName(n.Name))
	}
	for _, p := range []struct {
		is   bool
		what string
	}{
		{n.Plugin != "" && !pgsql.IsName(n.Plugin), fmt.Sprintf("the plugin %q: not a name of 1 to 63 bytes", n.Plugin)},
		{n.Physical && n.Plugin != "", "a physical slot has no Plugin"},
		{n.Physical && n.TwoPhase, "a physical slot has no TwoPhase"},
		{n.Physical && n.Failover, "a physical slot has no Failover"},
		{n.Physical && n.Snapshot != SnapshotNone, "a physical slot has no Snapshot"},
		{!n.Physical && n.ReserveWAL, "ReserveWAL is for a physical slot: a logical one always does"},
		{n.Temporary && n.Failover, "a temporary slot cannot have Failover"},
		{n.Snapshot > SnapshotUse, fmt.Sprintf("Snapshot %d: there is no such", n.Snapshot)},
	} {
		if p.is {
			problems = append(problems, p.what)
		}
	}
	return invalid(problems...)
}

func (n *NewSlot) plugin() string {
	if n.Plugin == "" {
		return pgoutputPlugin
	}
	return n.Plugin
}

// checkVersion fails if the server is too old for the slot.
func (n *NewSlot) checkVersion(c *session.Conn) error {
	version, text := c.Version()
	var missing []string
	if n.TwoPhase {
		missing = pgfail.Needs(missing, version, "two-phase", 15)
	}
	if n.Failover {
		missing = pgfail.Needs(missing, version, "failover", failoverServer)
	}
	return pgfail.TooOld(missing, text)
}

const failoverServer = 17

// command returns CREATE_REPLICATION_SLOT in the form that PostgreSQL 14 knows as well, if it can be: FAILOVER came later.
func (n *NewSlot) command() string {
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
	b.WriteString(" LOGICAL " + pgsql.Quoted(n.plugin()))
	if n.Failover {
		fmt.Fprintf(&b, " (FAILOVER, SNAPSHOT '%s'%s)", []string{"nothing", "export", "use"}[n.Snapshot], []string{"", ", TWO_PHASE"}[btoi(n.TwoPhase)])
		return b.String()
	}
	b.WriteString([]string{" NOEXPORT_SNAPSHOT", " EXPORT_SNAPSHOT", " USE_SNAPSHOT"}[n.Snapshot] + []string{"", " TWO_PHASE"}[btoi(n.TwoPhase)])
	return b.String()
}

func createSlot(ctx context.Context, c *connection, cfg *config, n NewSlot) (CreatedSlot, error) {
	if err := n.checkVersion(c.Conn); err != nil {
		return CreatedSlot{}, err
	}
	row, err := c.makeSlot(ctx, cfg, &n)
	if err != nil {
		return CreatedSlot{}, err
	}
	start, err := ParseLSN(row[1])
	return CreatedSlot{row[0], start, row[2]}, err
}
