package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// SlotSpec describes a slot. With only a Name it is a permanent logical slot of pgoutput.
type SlotSpec struct {
	Name      string
	Temporary bool // it ends with the Conn

	Plugin   string     // of a logical slot; default pgoutput
	TwoPhase bool       // logical: transactions are decoded when they are prepared (PostgreSQL 15 or later)
	Failover bool       // logical: standbys keep copies of it (PostgreSQL 17 or later; see sync_replication_slots there)
	Export   ExportMode // logical: what happens to its first snapshot

	Physical   bool // it excludes the four fields above
	ReserveWAL bool // physical: the server keeps WAL from its last checkpoint on; default: from the slot's first use on
}

// ExportMode says what happens to the first snapshot of a logical slot. That snapshot sees exactly the transactions that the slot will not
// send.
type ExportMode uint8

// The uses of a slot's first snapshot.
const (
	ExportNone ExportMode = iota
	ExportName            // others use it: CreatedSlot.Snapshot is its name (SET TRANSACTION SNAPSHOT), until the next command of the Conn
	ExportUse             // the transaction uses it that Exec has begun (BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ)
)

// CreatedSlot is the result of CreateSlot.
type CreatedSlot struct {
	Name     string
	Start    wal.LSN // where a logical slot begins; 0 of a physical one
	Snapshot string  // ExportName: the snapshot's name
}

// CreateSlot makes a slot. From then on the server keeps WAL until a stream confirms it or the slot is dropped.
//
// A logical slot waits for the transactions that are running (CREATE_REPLICATION_SLOT in the PostgreSQL documentation), which can be long.
// If ctx ends, CreateSlot cancels the statement on the server and drops the slot if it was made, which can take a few seconds. If the
// server cannot be reached for that, it logs a warning. If the server is too old for what is asked (walerr.ServerVersion), no slot is made.
func (c *Conn) CreateSlot(ctx context.Context, spec SlotSpec) (CreatedSlot, error) {
	if err := spec.validate(); err != nil {
		return CreatedSlot{}, err
	}
	if c.physical && !spec.Physical {
		return CreatedSlot{}, needsDatabase("a logical slot")
	}
	w, err := c.replication(ctx)
	if err != nil {
		return CreatedSlot{}, err
	}
	if spec.Plugin == "" {
		spec.Plugin = "pgoutput"
	}
	made, err := w.Create(ctx, c.log, slots.New{Name: spec.Name, Temporary: spec.Temporary, Plugin: spec.Plugin, TwoPhase: spec.TwoPhase, Failover: spec.Failover,
		Snapshot: [...]string{ExportName: "export", ExportUse: "use"}[spec.Export], Physical: spec.Physical, ReserveWAL: spec.ReserveWAL})
	return CreatedSlot(made), err
}

// validate names everything that is wrong at once.
func (s *SlotSpec) validate() error {
	var problems []string
	if !pgsql.IsSlotName(s.Name) {
		problems = append(problems, pgsql.NotSlotName(s.Name))
	}
	for _, p := range []struct {
		is   bool
		what string
	}{
		{s.Plugin != "" && !pgsql.IsName(s.Plugin), fmt.Sprintf("the plugin %q: not a name of 1 to 63 bytes", s.Plugin)},
		{s.Physical && s.Plugin != "", "a physical slot has no Plugin"},
		{s.Physical && s.TwoPhase, "a physical slot has no TwoPhase"},
		{s.Physical && s.Failover, "a physical slot has no Failover"},
		{s.Physical && s.Export != ExportNone, "a physical slot has no Export"},
		{!s.Physical && s.ReserveWAL, "ReserveWAL is for a physical slot: a logical one always does"},
		{s.Temporary && s.Failover, "a temporary slot cannot have Failover"},
		{s.Export > ExportUse, fmt.Sprintf("Export %d: there is no such mode", s.Export)},
	} {
		if p.is {
			problems = append(problems, p.what)
		}
	}
	return pgfail.Invalid(problems...)
}

// DropOptions are the choices of DropSlot.
type DropOptions struct {
	Wait     bool // wait until the slot is free or ctx ends
	IfExists bool // a missing slot is no error
}

// DropSlot drops a slot of any kind and database. Its consumer loses what is not confirmed. If the slot is in use, the error is
// walerr.SlotActive with the PID of the server process; with Wait it is not, and a consumer that is only reconnecting loses its slot.
func (c *Conn) DropSlot(ctx context.Context, name string, o DropOptions) error {
	if !pgsql.IsSlotName(name) {
		return pgfail.Invalid(pgsql.NotSlotName(name))
	}
	w, err := c.replication(ctx)
	if err != nil {
		return err
	}
	err = slots.Drop(ctx, w.Conn, w.SQL, name, o.Wait)
	if o.IfExists && errors.Is(err, walerr.SlotMissing) {
		return nil
	}
	return err
}

// AdvanceSlot gives up everything before to (wal.End: all there is) and returns the slot's new position. A slot never goes back: that is
// walerr.Options. If the slot is in use, the error is walerr.SlotActive. Before PostgreSQL 17 a logical slot must belong to the database of the
// Conn.
//
// It is a way out for a slot that is older than its publication, if nobody needs the changes in between. The server decodes them, which takes
// its time.
func (c *Conn) AdvanceSlot(ctx context.Context, name string, to wal.LSN) (wal.LSN, error) {
	switch {
	case !pgsql.IsSlotName(name):
		return 0, pgfail.Invalid(pgsql.NotSlotName(name))
	case to == 0:
		return 0, pgfail.Invalid("AdvanceSlot to 0/0: for all there is use wal.End")
	case c.physical:
		return 0, needsDatabase("AdvanceSlot")
	}
	w, err := c.replication(ctx) // a temporary slot belongs to it
	if err != nil {
		return 0, err
	}
	return slots.Advance(ctx, w.Query, name, to)
}
