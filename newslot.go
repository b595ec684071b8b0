package walchan

import (
	"context"
	"fmt"

	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/slots"
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

// createSlot makes a slot. After an error there is none.
func createSlot(ctx context.Context, c *connection, cfg *config, n NewSlot) (CreatedSlot, error) {
	if n.Plugin == "" {
		n.Plugin = pgoutputPlugin
	}
	made, err := c.Create(ctx, cfg.log, slots.New{Name: n.Name, Temporary: n.Temporary, Plugin: n.Plugin, TwoPhase: n.TwoPhase, Failover: n.Failover,
		Snapshot: [...]string{SnapshotExport: "export", SnapshotUse: "use"}[n.Snapshot], Physical: n.Physical, ReserveWAL: n.ReserveWAL})
	return CreatedSlot(made), err
}
