package walchan

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/slots"
)

// Slot is a replication slot as the server has it: a row of pg_replication_slots. What an older server does not know is the
// zero value.
type Slot struct {
	Name      string
	Type      string // "logical" or "physical"
	Plugin    string // of a logical slot
	Database  string // of a logical slot
	Temporary bool

	Active    bool   // somebody streams from it
	ActivePID uint32 // that one's server process; 0: nobody

	RestartLSN     LSN   // the server keeps WAL from here on; 0: none
	ConfirmedFlush LSN   // of a logical slot: confirmed up to here
	Retained       int64 // bytes of WAL from RestartLSN to its end

	// WALStatus is "reserved" (all is well), "extended" (it keeps more than max_wal_size), "unreserved" (it is about to be
	// invalidated), "lost" (it was: ErrSlotInvalidated), or "" (it keeps none).
	WALStatus string

	// SafeWALSize is how many bytes of WAL can be written before the slot is in danger of WALStatus "lost"; nil without
	// that danger, for max_slot_wal_keep_size is not set, and when it has happened.
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

// Slots lists the replication slots of the server, those of other databases and physical ones too, by name. It takes an
// ordinary connection, and a role that needs no privileges.
func Slots(ctx context.Context, connString string) ([]Slot, error) {
	conn, err := connectOrdinary(ctx, connString)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
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

// CreateSlot makes a permanent logical replication slot and returns the position it begins at. From now on the server keeps
// WAL for it, until that is confirmed by a stream, or the slot dropped.
//
// It waits for the end of the transactions that are running (CREATE_REPLICATION_SLOT in the PostgreSQL documentation),
// which can be long. If ctx ends, CreateSlot cancels the statement on the server and drops the slot if it was made, which can
// take a few seconds; if the server cannot be reached for that, it logs a warning. opts are those of Subscribe. They say with which
// output plugin (WithPlugin, overriding the default of pgoutput), whether for prepared transactions (WithTwoPhase), whether
// standbys keep copies (WithFailover), and how to connect (WithConnect); the others have no effect. See CreatePhysicalSlot
// and Conn.CreateSlot for other slots.
func CreateSlot(ctx context.Context, connString, name string, opts ...Option) (LSN, error) {
	c, cfg, err := manage(ctx, connString, name, opts...)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := cfg.checkVersion(c.Version()); err != nil {
		return 0, err
	}
	return createLogical(ctx, c, name, cfg, false)
}

// DropSlot drops a replication slot, of any kind and database. What was not confirmed is lost to its user. A slot in use is
// not dropped, nor waited for: the error is then ErrSlotActive with the PID of the walsender.
func DropSlot(ctx context.Context, connString, name string) error {
	// No DROP_REPLICATION_SLOT … WAIT: a consumer that is only reconnecting would lose its slot.
	c, _, err := manage(ctx, connString, name)
	if err != nil {
		return err
	}
	defer c.Close()
	return slots.Drop(ctx, c.Conn, c.SQL, name, false)
}

// DropSlotWait is DropSlot, but of a slot that is in use it waits until it no longer is: until ctx ends, if need be. A consumer
// that is only reconnecting loses its slot.
func DropSlotWait(ctx context.Context, connString, name string) error {
	c, _, err := manage(ctx, connString, name)
	if err != nil {
		return err
	}
	defer c.Close()
	return slots.Drop(ctx, c.Conn, c.SQL, name, true)
}

// CreatePhysicalSlot makes a permanent physical replication slot. From now on the server keeps WAL for it, from its last
// checkpoint on, until that is confirmed by a stream, or the slot dropped. Of opts WithConnect and WithLogger count. If it fails,
// or ctx ends, no slot is left, as with CreateSlot.
//
// Conn.CreateSlot makes all other kinds of slots.
func CreatePhysicalSlot(ctx context.Context, connString, name string, opts ...Option) error {
	c, err := ConnectPhysical(ctx, connString, opts...)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.CreateSlot(ctx, NewSlot{Name: name, Physical: true, ReserveWAL: true})
	return err
}

// manage connects to do something with a slot.
func manage(ctx context.Context, connString, name string, opts ...Option) (*connection, *config, error) {
	cfg := newConfig(opts)
	cfg.connString, cfg.slot = connString, name
	if name == "" {
		return nil, nil, invalid(pgsql.NotSlotName(name))
	}
	if err := cfg.validate(false); err != nil {
		return nil, nil, err
	}
	c, err := cfg.dial(ctx, name)
	return c, cfg, err
}

// createLogical makes a slot and returns the position it begins at.
func createLogical(ctx context.Context, c *connection, name string, cfg *config, temporary bool) (LSN, error) {
	slot, err := createSlot(ctx, c, cfg, NewSlot{Name: name, Plugin: cfg.plugin, Temporary: temporary, TwoPhase: cfg.isTwoPhase(), Failover: cfg.failover})
	return slot.Start, err
}

// connectOrdinary makes a connection that is not for replication: it takes no walsender, and the role needs no attribute.
func connectOrdinary(ctx context.Context, connString string) (*pgconn.PgConn, error) {
	cfg, err := dial.Parse(connString)
	if err != nil {
		return nil, invalid(err.Error())
	}
	delete(cfg.RuntimeParams, "replication") // in a connection string that serves both
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, dial.Error(err, cfg)
	}
	return conn, nil
}
