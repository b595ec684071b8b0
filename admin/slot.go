package admin

import (
	"context"
	"time"

	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
)

// Slot is a row of pg_replication_slots. What an older server does not know is zero.
type Slot struct {
	Name      string
	Type      string // "logical" or "physical"
	Plugin    string // of a logical slot
	Database  string // of a logical slot
	Temporary bool

	Active    bool   // a client streams from it
	ActivePID uint32 // that client's server process; 0: none

	RestartLSN     wal.LSN // the server keeps WAL from here on; 0: none
	ConfirmedFlush wal.LSN // of a logical slot: confirmed up to here
	Retained       int64   // bytes of WAL from RestartLSN to its end

	// WALStatus is "reserved" (all is well), "extended" (it keeps more than max_wal_size), "unreserved" (it is about to be
	// invalidated), "lost" (it was: walerr.SlotInvalidated), or "" (it keeps none).
	WALStatus string

	// SafeWALSize is how many bytes of WAL can be written before the slot is in danger of WALStatus "lost". It is nil if max_slot_wal_keep_size
	// sets no limit, and if the slot is lost.
	SafeWALSize *int64

	// XMin and CatalogXMin are the oldest transactions whose dead rows VACUUM keeps for the slot, in all tables or in those of
	// the catalogue; 0: none.
	XMin, CatalogXMin uint32

	TwoPhase           bool      // prepared transactions are decoded at PREPARE
	InvalidationReason string    // "wal_removed", "rows_removed", "wal_level_insufficient", "idle_timeout"; "": none (from 17 on)
	InactiveSince      time.Time // zero: it is active (from 17 on)
	Failover           bool      // standbys keep copies of it (from 17 on)
	Synced             bool      // it is such a copy (from 17 on)
	Conflicting        bool      // on a standby, invalidated by what the primary did (from 16 on)
}

// Slots lists the slots of all databases, physical ones too, by name. The role needs no privilege.
func (c *Conn) Slots(ctx context.Context) ([]Slot, error) {
	conn, err := c.database(ctx, "Slots")
	if err != nil {
		return nil, err
	}
	list, err := slots.List(ctx, slots.Over(conn))
	if err != nil {
		return nil, err
	}
	all := make([]Slot, len(list))
	for i, s := range list {
		all[i] = Slot(s)
	}
	return all, nil
}
