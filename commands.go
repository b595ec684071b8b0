package walchan

import (
	"context"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/slots"
)

// Conn is a replication connection for single commands, not for streaming: to a database (Connect) or to the whole cluster
// (ConnectPhysical). One command runs at a time; it is for one goroutine. A command whose context ends leaves the connection
// unusable.
type Conn struct {
	c   *connection
	cfg *config
}

// Connect makes a replication connection to the database of connString. Of opts, which are those of Subscribe, WithConnect and
// WithLogger count. Close it.
func Connect(ctx context.Context, connString string, opts ...Option) (*Conn, error) {
	return connect(ctx, connString, false, opts)
}

// ConnectPhysical is Connect for physical replication, which a role may be allowed when it is not allowed into a database
// (pg_hba.conf). Commands that need a database are refused: SQL, and the making of logical slots.
func ConnectPhysical(ctx context.Context, connString string, opts ...Option) (*Conn, error) {
	return connect(ctx, connString, true, opts)
}

func connect(ctx context.Context, connString string, physical bool, opts []Option) (*Conn, error) {
	cfg := newConfig(opts)
	cfg.connString, cfg.physical = connString, physical
	if err := cfg.validate(false); err != nil {
		return nil, err
	}
	c, err := cfg.dial(ctx, cfg.slot)
	if err != nil {
		return nil, err
	}
	if err := cfg.checkVersion(c.Version()); err != nil {
		c.Close()
		return nil, err
	}
	return &Conn{c, cfg}, nil
}

// Close ends the connection, and with it the temporary slots that were made on it.
func (c *Conn) Close() { c.c.Close() }

// System is what a server says of itself (IDENTIFY_SYSTEM).
type System struct {
	ID       string // identifies the cluster; a copy made by pg_basebackup has the same
	Timeline uint32
	Flushed  LSN    // its WAL is safe up to here
	Database string // "" on a physical connection
}

// IdentifySystem asks the server who it is and how far its WAL goes.
func (c *Conn) IdentifySystem(ctx context.Context) (System, error) {
	s, err := begin.Identify(ctx, c.c.Conn)
	if err != nil {
		return System{}, err
	}
	return System{s.ID, uint32(s.Timeline), s.Flushed, s.Database}, nil
}

// TimelineHistory returns the content of the history file of a timeline (TIMELINE_HISTORY), which is called
// fmt.Sprintf("%08X.history", timeline). Timeline 1 has none: "".
func (c *Conn) TimelineHistory(ctx context.Context, timeline uint32) (string, error) {
	return begin.TimelineHistory(ctx, c.c.Conn, int32(timeline))
}

// Show returns a setting of the server (SHOW), such as "wal_segment_size" ("16MB").
func (c *Conn) Show(ctx context.Context, name string) (string, error) {
	return begin.Show(ctx, c.c.Conn, name)
}

// CreateSlot makes a slot. What the server is too old for is ErrServerVersion, with nothing made. A logical slot waits for the
// end of the transactions that are running, see the function CreateSlot: if ctx ends meanwhile, no slot is left.
func (c *Conn) CreateSlot(ctx context.Context, slot NewSlot) (CreatedSlot, error) {
	if err := slot.validate(); err != nil {
		return CreatedSlot{}, err
	}
	if c.cfg.physical && !slot.Physical {
		return CreatedSlot{}, invalid("a physical connection makes no logical slots: use Connect")
	}
	return createSlot(ctx, c.c, c.cfg, slot)
}

// DropSlot drops a slot, as the function DropSlot does.
func (c *Conn) DropSlot(ctx context.Context, name string) error {
	if !pgsql.IsSlotName(name) {
		return invalid(pgsql.NotSlotName(name))
	}
	return slots.Drop(ctx, c.c.Conn, c.c.SQL, name, false)
}

// Exec runs any command of the replication protocol, or SQL unless the connection is physical, and returns its rows as text;
// NULL is "".
func (c *Conn) Exec(ctx context.Context, command string) ([][]string, error) {
	rows, err := c.c.Query(ctx, command)
	if err != nil {
		return nil, pgfail.Failed("command refused", err)
	}
	return rows, nil
}
